"""Storing outputs (book/_tools/execute.py): the same bytes each time, once for each source, and never half."""

import shutil

import nbformat
import pytest

from book._tools import execute, notebooks, reaches
from book._tools.notebooks import ROOT


@pytest.fixture
def chapter(tmp_path):
    """A function that writes a small chapter with this code in it and returns its path."""

    def chapter(*sources, tags=()):
        cells = [
            nbformat.v4.new_code_cell(s, metadata={"tags": list(tags)} if tags else {})
            for s in sources
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "01_one.ipynb")
        return tmp_path / "01_one.ipynb"

    return chapter


def test_runs_once_and_the_same_bytes_each_time(chapter):
    path = chapter("x = 1.5", "print(2 * x)")
    assert execute.run(path).split() == ["ran", "01_one.ipynb"]
    first = path.read_bytes()
    assert (
        execute.run(path).split() == ["current", "01_one.ipynb"]
        and path.read_bytes() == first
    )
    assert (
        execute.run(path, force=True).split()[0] == "ran" and path.read_bytes() == first
    )
    nb = notebooks.read(path)
    assert [c.execution_count for c in nb.cells] == [1, 2, 3] and notebooks.is_setup(
        nb.cells[0]
    )
    assert nb.cells[2].outputs[0].text == "3.0\n" and nb.metadata[
        execute.STAMP
    ] == execute.digest(nb)


def test_a_failing_cell_leaves_the_notebook_as_it_was(chapter):
    path = chapter("print('so far')", "1 / 0")
    before = path.read_bytes()
    said = execute.run(path)
    assert (
        "FAILED" in said and "ZeroDivisionError" in said and path.read_bytes() == before
    )


def test_a_solution_is_folded_away(chapter):
    nb = notebooks.read(chapter("1 + 1", tags=["solution"]))
    execute.tidy(nb)
    execute.tidy(nb)  # twice is once
    meta = nb.cells[0].metadata
    assert (
        meta["tags"] == ["solution", "hide-cell"]
        and meta["mystnb"]["code_prompt_show"] == "Show the solution"
    )
    assert meta["jupyter"] == {"source_hidden": True, "outputs_hidden": True}


def test_the_digest_follows_the_code_and_nothing_else(chapter):
    nb = notebooks.read(chapter("x = 1"))
    before = execute.digest(nb)
    notebooks.put_setup_cell(nb, "https://example.org/a/b")
    nb.cells.append(nbformat.v4.new_markdown_cell("words"))
    assert execute.digest(nb) == before
    nb.cells[1].source = "x = 2"
    assert execute.digest(nb) != before


@pytest.fixture
def package(tmp_path):
    """A copy of the package that a test may change, and a function that tells which
    notebooks a change of one of its modules makes stale."""
    shutil.copytree(
        ROOT / "ddpm_core",
        tmp_path / "ddpm_core",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    books = {p.stem: notebooks.read(p) for p in notebooks.notebooks()}
    digests = lambda: {n: reaches.digest(nb, [], tmp_path) for n, nb in books.items()}

    def stale(module, old, new):
        file, before = tmp_path / "ddpm_core" / module, digests()
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        after = digests()
        return {name for name in books if before[name] != after[name]}

    return stale


def code(path):
    nb = notebooks.read(path)
    return "\n".join(c.source for c in nb.cells if c.cell_type == "code")


def test_a_change_makes_those_chapters_stale_that_reach_it(package):
    said = {p.stem: code(p) for p in notebooks.notebooks()}
    change = "\n\n\ndef ", "\n\n\nADDED = 1\n\n\ndef "
    codec = package("codec.py", *change)
    assert codec == {n for n in said if "import codec" in said[n]} and codec
    schedule = package("schedule.py", *change)
    assert len(schedule) > 10
    assert {n for n in said if "chedule(" in said[n]} <= schedule
    assert schedule <= package("runtime/guard.py", *change)  # which it imports
    assert package("cli.py", *change) == set()


def test_words_and_layout_of_a_module_make_nothing_stale(package):
    assert not package("schedule.py", '"""', '"""Other words. ')
    comment = "\n\n# a comment\n\n\n\ndef "
    assert not package("schedule.py", "\n\n\ndef ", comment)


def test_names_lead_to_the_module_that_defines_them():
    def found(source):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
        return {name.removeprefix("ddpm_core.") for name in reaches.reached(nb)}

    for how in (
        "import ddpm_core as ddpm\nddpm.linear_schedule()",
        "import ddpm_core\nddpm_core.linear_schedule()",
        "from ddpm_core import linear_schedule",
        "import ddpm_core.schedule",
        "from ddpm_core import schedule",
    ):
        assert "schedule" in found(how) and "codec" not in found(how), how
    assert "codec" in found("from ddpm_core import codec")
    assert "after.sde" in found("from ddpm_core.after import sde")
    assert not found("import ddpm_core as ddpm\nprint(ddpm.__version__)")
    assert not found("%matplotlib inline\nimport math\nmath.sqrt(2)")


OPENS = """
import json, ddpm_core as ddpm
from pathlib import Path
from PIL import Image
from ddpm_core.features import fashion_features
root = Path({root!r})
json.loads((root / "data/results/steps.json").read_text())
with open(root / "data/results/bound.json") as f: f.read()
Image.open(root / "data/results/steps.png").load()
ddpm.load_images("fashion-mnist", "test")
ddpm.load_checkpoint(root / "data/checkpoints/fashion-mnist")
fashion_features()
Path({there!r}).write_text("not of the book")
"""


def test_the_files_that_a_notebook_opened_are_recorded(chapter, tmp_path):
    path = chapter(OPENS.format(root=str(ROOT), there=str(tmp_path / "x")), "1 + 1")
    assert execute.run(path).startswith("ran")
    nb = notebooks.read(path)
    assert set(nb.metadata[execute.READS]) == {
        "data/checkpoints/fashion-classifier/classifier.json",
        "data/checkpoints/fashion-classifier/weights.safetensors",
        "data/checkpoints/fashion-mnist/checkpoint.json",
        "data/checkpoints/fashion-mnist/weights.safetensors",
        "data/fashion-mnist/SHA256SUMS",
        "data/results/bound.json",
        "data/results/steps.json",
        "data/results/steps.png",
    }
    assert nb.cells[2].outputs[0].data["text/plain"] == "2"
    nb.metadata[execute.READS] = nb.metadata[execute.READS][1:]
    assert execute.digest(nb) != nb.metadata[execute.STAMP]


def test_a_file_that_changes_or_goes_makes_its_readers_stale(tmp_path):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    digests = set()
    for text in ("1", "22", None):
        file = tmp_path / "a.json"
        file.unlink() if text is None else file.write_text(text)
        digests.add(reaches.digest(nb, ["a.json"], tmp_path))
    assert len(digests) == 3
