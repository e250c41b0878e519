"""Run every notebook as Colab would: its versions of the packages, its set-up cell, a fresh clone of what is committed.

    python3.13 -m book._tools.colab            make _build/colab and run all notebooks in it (also: make colab)
    python3.13 -m book._tools.colab 07 15      only those whose names begin so

Colab has Python 3.13; with another Python the packages are Colab's all the same, and the first line says which Python it was. An
environment costs a download of some gigabytes (torch with its CUDA libraries, as on Colab) and is kept in _build/colab; a run takes
about as long as the notebooks of `make test`. The packages that Colab does not get from COLAB come in whichever version fits these.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "_build" / "colab"
COLAB = [
    "torch==2.11.0",
    "ipywidgets==7.7.1",
    "ipython==7.34.0",
    "einops==0.8.2",
]  # as Colab had them in August 2026
ALSO = [
    "numpy",
    "matplotlib",
    "safetensors",
    "tqdm",
    "pillow",
    "sympy",
    "scipy",
    "ipykernel",
    "nbclient",
    "nbformat",
    "setuptools",
]
WANTED = "\n".join([sys.version, *COLAB, *ALSO])
# Colab's kernel has this module loaded before the first cell runs, which is how the set-up cell knows where it is.
STARTUP = 'import sys, types\nsys.modules["google.colab"] = types.ModuleType("google.colab")\n'


def environment() -> Path:
    """The Python of an environment with Colab's packages, made anew when this Python or the list has changed."""
    stamp, python = HOME / "installed", HOME / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != WANTED:
        shutil.rmtree(HOME, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", HOME], check=True)
        subprocess.run(
            [
                python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                *COLAB,
                *ALSO,
            ],
            check=True,
        )
        stamp.write_text(WANTED)
    return python


def run(prefixes: list[str]) -> int:
    """In that environment: each notebook in a folder of its own beside a clone, as in Colab's /content. The number that failed."""
    import nbformat
    import torch
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError

    print(
        f"colab: Python {sys.version.split()[0]} (Colab has 3.13), torch {torch.__version__}, {', '.join(COLAB[1:])}",
        flush=True,
    )
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        content, profile = (
            Path(folder) / "content",
            Path(folder) / "ipython" / "profile_default" / "startup",
        )
        content.mkdir()
        profile.mkdir(parents=True)
        (profile / "00-colab.py").write_text(STARTUP)
        os.environ.update(
            IPYTHONDIR=str(profile.parents[1]),
            TQDM_DISABLE="1",
            MPLBACKEND="module://matplotlib_inline.backend_inline",
        )
        subprocess.run(
            [
                "git",
                "clone",
                "--quiet",
                "--depth=1",
                ROOT.as_uri(),
                str(content / "ddpm-book"),
            ],
            check=True,
        )
        notebooks = sorted((content / "ddpm-book" / "book").glob("*.ipynb"))
        for path in (
            p for p in notebooks if not prefixes or p.name.startswith(tuple(prefixes))
        ):
            nb, start = nbformat.read(path, as_version=4), time.perf_counter()
            assert "/content/" in nb.cells[0].source, (
                f"{path.name} does not begin with the set-up cell"
            )
            nb.cells[0].source = nb.cells[0].source.replace("/content", str(content))
            try:
                NotebookClient(
                    nb,
                    timeout=600,
                    kernel_name="python3",
                    resources={"metadata": {"path": str(content)}},
                ).execute()
                said = "ok"
            except (CellExecutionError, CellTimeoutError) as error:
                said, failed = f"FAILED\n{error}", failed + 1
            print(
                f"colab: {path.name}: {said}, {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    return failed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        sys.exit(run(sys.argv[2:]) > 0)
    sys.exit(
        subprocess.run([environment(), __file__, "--inside", *sys.argv[1:]]).returncode
    )
