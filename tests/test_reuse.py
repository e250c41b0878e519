"""The page "Reuse ddpm_core": each of its snippets is run as it stands, in a folder with a few pictures."""

import multiprocessing
import os
import re
import traceback
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "reuse.md").read_text(encoding="utf-8")
SNIPPETS = [
    (heading.strip(), code)
    for part in PAGE.split("\n## ")[1:]
    for heading, _, body in [part.partition("\n")]
    for code in re.findall(r"```python\n(.*?)```", body, flags=re.DOTALL)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve colour pictures; the runs of one snippet are read by another, so all share it."""
    folder, rng = tmp_path_factory.mktemp("reader"), np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(
            folder / "pictures" / f"{i}.png"
        )
    (folder / "data").symlink_to(ROOT / "data")
    return folder


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) >= 10


@pytest.mark.parametrize(
    ("heading", "code"),
    SNIPPETS,
    ids=[f"{i}-{heading}" for i, (heading, _) in enumerate(SNIPPETS)],
)
def test_snippet_runs(heading: str, code: str, folder: Path) -> None:
    environment = {
        "DDPM_DATA": str(ROOT / "data"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "TQDM_DISABLE": "1",
    }
    # A new process for each, all of one that has nothing but imported the package.
    new = multiprocessing.get_context("forkserver")
    new.set_forkserver_preload(["ddpm_core"])
    heard, tell = new.Pipe(duplex=False)
    process = new.Process(target=alone, args=(code, folder, environment, tell))
    process.start()
    tell.close()
    process.join(240)
    process.kill()
    said = "it ended without a word"
    with suppress(EOFError):
        said = heard.recv() if heard.poll() else said
    assert process.exitcode == 0, f"{heading}: {process.exitcode}\n{said}"


def alone(code: str, folder: Path, environment: dict[str, str], tell) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    try:
        exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})
    except BaseException:
        tell.send(traceback.format_exc()[-2000:])
        raise
