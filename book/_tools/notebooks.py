"""What the tools share: where the notebooks are, how they are written, and the set-up cell that each begins with."""

import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"

SETUP = """\
# Does nothing but on Colab. There it fetches the book's code, data and weights (a shallow clone) and installs {installs}.
import os, subprocess, sys
_url, _home = "{url}", "/content/ddpm-book"
if "google.colab" in sys.modules:
    if not os.path.isdir(_home):
        assert _url, "This copy of the book does not know its address: put its repository at " + _home + " and run this cell again."
        subprocess.run(["git", "clone", "--quiet", "--depth=1", _url, _home], check=True)
    os.chdir(_home + "/book"); sys.path.insert(0, _home)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", _home{packages}], check=True)
    import torch
    print("GPU: " + torch.cuda.get_device_name() if torch.cuda.is_available() else "No GPU: for long trainings choose one, Runtime > Change runtime type.")"""
NOT_ON_COLAB = {
    "from ddpm_core import codec": "constriction"
}  # what a notebook says -> the package that it needs and Colab has not
SETUP_TAGS = [
    "bootstrap",
    "remove-cell",
]  # how the tools know the cell; not shown in the built page


def notebooks() -> list[Path]:
    return sorted(BOOK.glob("*.ipynb"))


def address(root: Path = ROOT) -> str:
    """The repository's address, from the one place where it is written: [project.urls] in pyproject.toml. "" while it is not set."""
    return (
        tomllib.loads((root / "pyproject.toml").read_text())["project"]
        .get("urls", {})
        .get("Repository", "")
    )


def read(path: Path):
    return nbformat.read(path, as_version=4)


def write(path: Path, nb) -> None:
    """The same bytes for the same notebook, whoever writes it; untouched if nothing changed."""
    text = nbformat.writes(nb).rstrip("\n") + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def is_setup(cell) -> bool:
    return "bootstrap" in cell.metadata.get("tags", [])


def setup_source(nb, url: str) -> str:
    """The set-up cell of this notebook, with this address in it."""
    code = "\n".join(
        cell.source
        for cell in nb.cells
        if cell.cell_type == "code" and not is_setup(cell)
    )
    packages = [package for said, package in NOT_ON_COLAB.items() if said in code]
    return SETUP.format(
        url=url,
        installs=" and ".join(["it, so that `ddpm` is a command", *packages]),
        packages="".join(f', "{package}"' for package in packages),
    )


def put_setup_cell(nb, url: str) -> None:
    """The first cell is the set-up cell, with this address in it; there is no other."""
    old = next((c for c in nb.cells if is_setup(c)), None)
    cell = nbformat.v4.new_code_cell(
        setup_source(nb, url), id="bootstrap", metadata={"tags": SETUP_TAGS}
    )
    cell.execution_count = (
        old.execution_count if old else None
    )  # its run leaves no output, so a new address asks for no new run
    nb.cells = [cell] + [c for c in nb.cells if not is_setup(c)]
