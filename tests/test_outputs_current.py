"""The stored outputs are those of the present source. nbval alone would not see a changed picture or a cell that never ran."""

import re

import nbformat
import pytest
import yaml

from book._tools.execute import READS, STAMP, digest
from book._tools.notebooks import (
    BOOK,
    ROOT,
    address,
    is_setup,
    notebooks,
    read,
    setup_source,
)

NOTEBOOKS = notebooks()
MACHINE = re.compile(
    r"(?<![\w.:/<])/(?:home|root|Users|tmp|work|private|opt|usr|mnt|content)/\w|[A-Z]:\\\\?Users|site-packages"
)


def code_cells(nb):
    return [c for c in nb.cells if c.cell_type == "code"]


def texts(nb):
    """Every text in the outputs, without the pictures in it."""
    for cell in code_cells(nb):
        for output in cell.outputs:
            values = [output.get("text", "")] + [
                v
                for kind, v in output.get("data", {}).items()
                if not kind.startswith("image/")
            ]
            for value in values:
                yield re.sub(r"base64,[A-Za-z0-9+/=\s]+", "", str(value))


def test_every_notebook_is_in_the_contents_and_the_other_way_round():
    contents = (ROOT / "_toc.yml").read_text()
    files = {
        entry["file"]
        for part in yaml.safe_load(contents)["parts"]
        for chapter in part["chapters"]
        for entry in (chapter, *chapter.get("sections", ()))
    }
    assert {f"book/{p.stem}" for p in NOTEBOOKS} == {
        f for f in files if (ROOT / f"{f}.ipynb").exists()
    }
    assert all(
        (ROOT / f"{f}.ipynb").exists() or (ROOT / f"{f}.md").exists() for f in files
    )
    assert NOTEBOOKS, "no notebook at all"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_of_this_source(path):
    nb = read(path)
    nbformat.validate(nb)
    assert nb.metadata.get(STAMP) == digest(nb), (
        "code, package, data or weights changed since: make execute"
    )
    assert [c.execution_count for c in code_cells(nb)] == list(
        range(1, len(code_cells(nb)) + 1)
    ), "make execute"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_the_list_of_files_is_complete(path):
    """Every file of results that the code names, and the card of every checkpoint."""
    nb = read(path)
    reads = nb.metadata.get(READS, [])
    code = "\n".join(c.source for c in code_cells(nb) if not is_setup(c))
    said = " ".join(re.findall(r'"([^"\n]+)"', code))
    paths = re.findall(r"[\w./-]+", said)
    for file in (ROOT / "data" / "results").iterdir():
        written = {
            file.name,
            f"data/results/{file.name}",
            f"../data/results/{file.name}",
        }
        if file.is_file() and written & set(paths):
            assert file.relative_to(ROOT).as_posix() in reads, "make execute"
    # A network whose folder is written out, or, of the last part, asked for by its name.
    for card in (ROOT / "data" / "checkpoints").rglob("checkpoint.json"):
        name = card.parent.name
        if any(path.endswith(f"checkpoints/{name}") for path in paths) or (
            f'net("{name}")' in code and card.parent.parent.name == "words"
        ):
            assert card.relative_to(ROOT).as_posix() in reads, "make execute"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_fit_to_print(path):
    nb = read(path)
    outputs = [o for c in code_cells(nb) for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [
        o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"
    ], "a warning, or a progress bar"
    assert not [t for t in texts(nb) if MACHINE.search(t)], (
        "a path of the machine it ran on"
    )
    assert "widgets" not in nb.metadata and not [
        o for o in outputs if any("widget" in k for k in o.get("data", {}))
    ], "needs a kernel"
    assert path.stat().st_size < 3_000_000, (
        "a page of more than 3 MB is slow on a phone"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_set_up_cell(path):
    nb = read(path)
    cells = nb.cells
    assert is_setup(cells[0]) and not any(map(is_setup, cells[1:])), "make execute"
    assert cells[0].source == setup_source(nb, address()), (
        "python -m book._tools.set_address"
    )
    assert (
        len(cells[0].source.splitlines()) <= 11
        and not cells[0].outputs
        and "remove-cell" in cells[0].metadata.tags
    )


def test_machine_paths_are_seen():
    assert all(
        map(
            MACHINE.search,
            ["in /home/ann/x", "'/tmp/a'", "C:\\Users\\ann", "lib/site-packages/torch"],
        )
    )
    assert not any(
        map(
            MACHINE.search,
            ["and/or", "<br>/home", "https://a.org/home/x", "x_t / work"],
        )
    )
    assert BOOK.is_dir()
