"""bench/ at toy size, so that it cannot rot: it runs, and what it writes can be read and printed. Nothing is timed here."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_bench_runs_and_reports(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench.run",
            "--quick",
            "--threads",
            "1",
            "--out",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = tmp_path.glob("*.json")
    text = file.read_text()
    assert json.loads(text) and all(
        word in text
        for word in ("sampling step", "training step", "diffusers", "bits/dim")
    )


def test_the_page_is_what_the_stored_runs_say() -> None:
    page = ROOT / "book" / "speed.md"
    script = "from bench import report; print(report.page(report.stored()), end='')"
    made = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert page.read_text(encoding="utf-8") == made, (
        "book/speed.md is older than bench/results or data/results/steps.json: run python -m bench.report"
    )


def test_what_a_gpu_has_to_show_runs_without_one(tmp_path: Path, capsys) -> None:
    """Toy sizes, on the processor; a part that is done is not done again."""
    from bench import gpu

    here = ["--quick", "--device", "cpu", "--out", str(tmp_path)]
    assert gpu.main(["paths", *here]) == 0
    said = capsys.readouterr().out
    assert "samples in float32" in said and "three steps of training" in said
    assert gpu.main(["paths", *here]) == 0
    again = capsys.readouterr().out
    assert "done before" in again and said.split("\n", 1)[1] == again.split("\n", 1)[1]


def test_a_training_step_runs_on_the_meta_device(tmp_path: Path, capsys) -> None:
    from bench import gpu

    assert gpu.main(["waits", "--device", "meta", "--out", str(tmp_path)]) == 0
    assert "| training | 5 | watched on CUDA only |" in capsys.readouterr().out


def test_what_differs_on_the_device_fails(tmp_path: Path, monkeypatch) -> None:
    from bench import gpu

    right = gpu.network
    monkeypatch.setattr(
        gpu, "network", lambda config, device="cpu": wrong(right(config, device))
    )
    here = ["--quick", "--device", "cpu", "--out", str(tmp_path)]
    assert gpu.main(["paths", *here]) == 1


def wrong(network, made=[]):  # noqa: B006
    """Every second network is another one."""
    made.append(network)
    if len(made) % 2:
        for parameter in network.parameters():
            parameter.data.add_(0.1)
    return network
