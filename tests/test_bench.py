"""bench/ at toy size, so that it cannot rot: it runs, and what it writes can be read and printed. Nothing is timed here."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_bench_runs_and_reports(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "bench" / "run.py"), "--quick", "--threads", "1", "--out", str(tmp_path)],
                          capture_output=True, text=True, timeout=280)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = tmp_path.glob("*.json")
    text = file.read_text()
    assert json.loads(text) and all(word in text for word in ("sampling step", "training step", "diffusers", "bits/dim"))
