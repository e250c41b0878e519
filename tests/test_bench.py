"""bench/ at toy size, so that it cannot rot: it runs, and what it writes can be read and printed. Nothing is timed here."""

import json
from pathlib import Path

import torch

from bench import gpu, report, run

ROOT = Path(__file__).resolve().parents[1]


def test_the_bench_runs_and_reports(tmp_path: Path) -> None:
    """What it starts are processes of its own: a step's memory, torchrun, an import."""
    file = run.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    text = file.read_text()
    assert list(json.loads(text)["parts"]) == list(run.PARTS)
    assert report.page([json.loads(text)]).startswith("# Speed")
    for word in ("sampling step", "training step", "diffusers", "bits/dim"):
        assert word in text


def test_the_memory_of_the_bound_is_that_of_all_its_steps(monkeypatch) -> None:
    right, asked = run.ddpm.bits_per_dim, []
    monkeypatch.setattr(
        run.ddpm,
        "bits_per_dim",
        lambda model, schedule, x0: asked.append(right(model, schedule, x0)),
    )
    run.Bench(True, 1, torch.device("cpu")).alone("bound", "ours", 20)
    assert [bound.terms.shape for bound in asked] == [(2, 20)]


def test_the_page_is_what_the_stored_runs_say() -> None:
    page = ROOT / "book" / "speed.md"
    made = report.page(report.stored())
    assert page.read_text(encoding="utf-8") == made, (
        "book/speed.md is older than bench/results or data/results/steps.json: run python -m bench.report"
    )


def test_what_a_gpu_has_to_show_runs_without_one(tmp_path: Path, capsys) -> None:
    """Toy sizes, on the processor; a part that is done is not done again."""
    here = ["--quick", "--device", "cpu", "--out", str(tmp_path)]
    assert gpu.main(["paths", *here]) == 0
    said = capsys.readouterr().out
    assert "samples in float32" in said and "three steps of training" in said
    assert gpu.main(["paths", *here]) == 0
    again = capsys.readouterr().out
    assert "done before" in again and said.split("\n", 1)[1] == again.split("\n", 1)[1]


def test_a_training_step_runs_on_the_meta_device(tmp_path: Path, capsys) -> None:
    assert gpu.main(["waits", "--device", "meta", "--out", str(tmp_path)]) == 0
    assert "| training | 5 | watched on CUDA only |" in capsys.readouterr().out


def test_what_differs_on_the_device_fails(tmp_path: Path, monkeypatch) -> None:
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
