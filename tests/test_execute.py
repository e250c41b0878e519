"""Storing outputs (book/_tools/execute.py): the same bytes each time, once for each source, and never half."""

import nbformat
import pytest

from book._tools import execute, notebooks


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
