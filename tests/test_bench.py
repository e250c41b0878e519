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
