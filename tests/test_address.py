"""The book's address stands in one place; notebooks and site follow it."""

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest

from book._tools import notebooks
from book._tools.set_address import set_address

URL = "https://example.org/someone/book"


@pytest.fixture
def tree(tmp_path):
    """A small tree with one notebook that has run."""
    (tmp_path / "book").mkdir()
    shutil.copy(notebooks.ROOT / "pyproject.toml", tmp_path)
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# One"),
            nbformat.v4.new_code_cell("1 + 1", execution_count=2),
        ]
    )
    notebooks.put_setup_cell(nb, "")
    nb.cells[0].execution_count = 1
    notebooks.write(tmp_path / "book" / "01_one.ipynb", nb)
    set_address("", tmp_path)
    return tmp_path


def test_set_and_unset(tree):
    path = tree / "book" / "01_one.ipynb"
    before = path.read_bytes(), (tree / "pyproject.toml").read_bytes()
    set_address(URL, tree)
    set_address(URL, tree)  # twice is once
    cells = notebooks.read(path).cells
    assert notebooks.address(tree) == URL
    assert (
        len(cells) == 3
        and f'"{URL}"' in cells[0].source
        and cells[0].execution_count == 1
    )
    set_address("", tree)
    assert notebooks.address(tree) == "" and before == (
        path.read_bytes(),
        (tree / "pyproject.toml").read_bytes(),
    )


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """Run the set-up cell as Colab would, with a folder of ours as its /content."""
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    return lambda url: exec(
        notebooks.SETUP.format(url=url, installs="nothing").replace(
            "/content", str(tmp_path / "content")
        ),
        {},
    )


def test_on_colab_without_an_address_it_says_what_to_do(colab):
    with pytest.raises(
        AssertionError, match="does not know its address.*run this cell again"
    ):
        colab("")


def test_on_colab_it_fetches_the_book_once(colab, tmp_path):
    origin = tmp_path / "origin"
    (origin / "book").mkdir(parents=True)
    (origin / "book" / "here.txt").write_text("here")
    git = [
        "git",
        "-C",
        str(origin),
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.org",
    ]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True)
    colab(origin.as_uri())
    assert Path("here.txt").read_text() == "here" and sys.path[0] == str(
        tmp_path / "content" / "ddpm-book"
    )
    colab(origin.as_uri())  # a second run of the cell finds the book there
    assert Path(os.getcwd()).name == "book"


def test_elsewhere_it_does_nothing():
    before = os.getcwd(), sys.path[:]
    exec(notebooks.SETUP.format(url=URL, installs="nothing"), {})
    assert before == (os.getcwd(), sys.path)


def test_a_notebook_that_wants_what_colab_has_not_installs_it_there_and_only_there(
    colab, monkeypatch, tmp_path
):
    nb = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                "import ddpm_core as ddpm\nfrom ddpm_core import codec"
            )
        ]
    )
    plain = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("from ddpm_core import codec"),
            nbformat.v4.new_code_cell("1"),
        ]
    )
    assert "pip" not in notebooks.setup_source(plain, URL)
    ran = []
    monkeypatch.setattr(
        subprocess, "run", lambda command, **kwargs: ran.append(command)
    )
    source = notebooks.setup_source(nb, URL).replace("/content", str(tmp_path))
    (tmp_path / "ddpm-book" / "book").mkdir(parents=True)
    exec(source, {})
    assert ran == [[sys.executable, "-m", "pip", "install", "--quiet", "constriction"]]
    monkeypatch.delitem(sys.modules, "google.colab")
    exec(source, {})
    assert len(ran) == 1
