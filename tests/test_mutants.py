"""The tool that plants mistakes: what it finds in a small notebook, and that it goes on where it was and touches no file."""

import hashlib
import json
import os
import re
from dataclasses import replace

import nbformat
import pytest
import sympy
import torch

from book._tools import checked, mistakes, mutants, rehearsal
from book._tools.index_pages import CHECKS, check_names
from book._tools.notebooks import BOOK, ROOT, read
from book._tools.reaches import file_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
CELLS = [
    "import torch\n\nfrom ddpm_core.checks import check\n"
    "from ddpm_core.gaussian import kl_divergence",
    "m = torch.linspace(-1, 1, 5, dtype=torch.float64)\n"
    "v = torch.linspace(0.5, 2, 5, dtype=torch.float64)\n"
    "mine = (v - 1 - v.log() + m**2) / 2",
    "theirs = kl_divergence(m, v, torch.zeros_like(m), torch.ones_like(v))",
    'check("honest", mine, theirs)',
    'check("with itself", mine, mine)\ncheck("too wide", mine, theirs, atol=1e9)',
    "left = 3\nwhile left > 0:\n    left = left - 1",
]


def notebook(folder, cells, name="90_small.ipynb"):
    path = folder / name
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbformat.write(nb, path)
    return path


def tried(path, folder, budget=1e9):
    (one,) = mutants.run([path], store=folder / "kept.json", budget=budget)
    assert not one.error, one.error
    return mutants.load(folder / "kept.json")[path.stem]


def sums(*folders):
    return {
        file: hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".pyc" and file.name != "kept.json"
    }


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(rehearsal, "LEAST", 0.5)
    monkeypatch.setenv("TQDM_DISABLE", "1")


def test_a_small_notebook(tmp_path, quick):
    path = notebook(tmp_path, CELLS)
    before = sums(ROOT / "ddpm_core", tmp_path)
    first = tried(path, tmp_path, budget=0)
    assert first.possible > 20 and not first.mistakes

    found = tried(path, tmp_path)
    assert sums(ROOT / "ddpm_core", tmp_path) == before, "a file was changed"
    seen = {check.name: check.seen is not None for check in found.checks}
    assert seen == {"honest": True, "with itself": False, "too wide": False}
    assert found.complete() and set(mutants.OUTCOMES) > {
        what for what, _ in found.mistakes.values()
    }
    line = "ratio = var_q / var_p"
    wrong = ("gaussian.kl_divergence", line, line.replace("/", "*"))
    assert found.mistakes[wrong] == ("none", ""), "var_p is 1"
    line = "mine = (v - 1 - v.log() + m**2) / 2"
    wrong = ("cell 1", line, line.replace("v.log()", "v"))
    assert found.mistakes[wrong] == ("check", 0)
    wrong = ("cell 1", line, line.replace("/ 2", "/ 3"))
    line = "left = left - 1"
    assert found.mistakes["cell 5", line, "left = left + 1"][0] == "time"
    listed = mutants.to_look_at(found)
    assert "check: with itself" in listed and "check: honest" not in listed

    # It goes on where it was: what is missing is tried, what is there is not.
    store = tmp_path / "kept.json"
    kept = dict(list(found.mistakes.items())[:-5])
    kept[wrong] = ("shown", "")
    checks = [replace(check, seen=None) for check in found.checks]
    some = replace(found, mistakes=kept, checks=checks)
    mutants.save({path.stem: some}, store)
    again = tried(path, tmp_path)
    assert again.mistakes == found.mistakes | {wrong: ("shown", "")}
    text = store.read_text()
    (one,) = mutants.run([path], store=store, budget=1e9)
    assert one.spent == 0 and json.loads(store.read_text())
    assert re.sub(r'"seconds": \d+', "", store.read_text()) == re.sub(
        r'"seconds": \d+', "", text
    )

    # A comment changes nothing; code does, and what was kept is not of it.
    notebook(tmp_path, ["# a word\n" + CELLS[0], *CELLS[1:]])
    assert tried(path, tmp_path, budget=0).mistakes == again.mistakes
    notebook(tmp_path, [*CELLS[:-1], "left = 4"])
    changed = tried(path, tmp_path, budget=0)
    assert changed.hash != found.hash and not changed.mistakes
    gone = replace(found, modules=["ddpm_core.gaussian", "ddpm_core.nothing"])
    assert mutants.digest(read(path), gone.modules) != changed.hash


def test_what_it_can_skip_changes_nothing(tmp_path, quick):
    """The cells that a mistake can reach say the same as all cells do."""
    generator = torch.Generator().manual_seed(0)
    torch.randn(50, generator=generator)
    drawn = torch.randn(3, generator=generator).tolist()
    cells = [
        *CELLS[:3],
        "generator = torch.Generator().manual_seed(0)",
        "noise = torch.randn(50, generator=generator)\nparts = [mine.sum()]",
        'parts.append(noise.sum())\ncheck("parts", sum(parts), parts[0] + parts[1])',
        "three = torch.randn(3, generator=generator)\n"
        f'check("drawn", three + 0 * theirs.sum(), {drawn}, atol=1e-6)',
        "more = torch.randn(int(theirs.sum()) + 3, generator=generator).sum()",
        'check("far", more, torch.randn(4, generator=generator).sum() + 100, atol=1e6)',
        'check("honest", mine, theirs)',
    ]
    path = notebook(tmp_path, cells)
    nb = read(path)
    answers = rehearsal.forked(lambda: both_ways(nb), 500)
    assert answers and all(sliced == whole for _, sliced, whole in answers), [
        row for row in answers if row[1] != row[2]
    ]


def both_ways(nb):
    rehearsal.listen()
    survey, holders = rehearsal.first_run(rehearsal.cells_of(nb), ROOT / "ddpm_core")
    rows = []
    # every third: each is tried twice, and all say the same
    for one in mutants.planted_in(nb, survey, ROOT, 0)[::3]:
        holder = holders[mutants.begins(survey, one)]
        said = [holder.ask(survey, one, None, whole) for whole in (False, True)]
        same = [(a["failed"], a["stop"], a["changed"]) for a in said]
        rows.append((one.name, *same))
    for holder in holders.values():
        holder.end()
    return rows


def test_what_makes_a_chapter_begin_anew():
    code = nbformat.v4.new_code_cell
    draws = lambda source: code(source, metadata={"tags": ["hide-input"]})
    imports, mine = "from ddpm_core.figures import show", code("b = a + 1")

    def digest(*cells):
        return mutants.digest(nbformat.v4.new_notebook(cells=list(cells)), [])

    kept = digest(code(imports), draws("a = 1\nc = 2"), mine, draws("plot(b, 3)"))
    text = nbformat.v4.new_markdown_cell("text")
    same = (code(imports + ", table"), text, draws("a = 1\nc = 2"), mine)
    assert digest(*same, draws("plot(b, 4)")) == kept
    for changed in (
        (draws("a = 2\nc = 2"), mine, draws("plot(b, 3)")),
        (draws("a = 1\nc = 2"), code("b = a + 2"), draws("plot(b, 3)")),
        (draws("a = 1\nc = 2"), mine, draws("assert plot(b, 3)")),
        (draws("a = 1\nc = 2"), mine, code("plot(b, 3)")),
    ):
        assert digest(code(imports), *changed) != kept


def test_modules_that_make_a_chapter_begin_anew():
    for name in (*mutants.LOOKS, *mutants.HASTE):
        assert file_of(name, ROOT).exists() and not mutants.counts(name)
    assert mutants.counts("ddpm_core.runtime.loop") and mutants.counts("ddpm_core.unet")
    assert mutants.counts("experiments.own") and not mutants.counts("torch.nn")
    modules = {name for one in mutants.load().values() for name in one.modules}
    assert modules and all(map(mutants.counts, modules)), (
        "python -m book._tools.mutants"
    )


def test_values_in_short():
    """What moves numbers about is seen, rounding is not, and what cannot be told is new."""
    x = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    bell, moved = (-(x**2)).exp(), (-((x - 0.5) ** 2)).exp()
    same = lambda a, b: rehearsal.alike(rehearsal.digest(a), rehearsal.digest(b))
    assert same(bell, bell * (1 + 1e-14)) and not same(bell, moved)
    assert not same([1.0, bell], [1.0, bell + 1e-6]) and not same(bell, bell[1:])
    assert not same({"a": 1}, {"a": 2}) and not same(lambda: 1, lambda: 2)
    f = sympy.Function("f")(sympy.Symbol("x"))  # a class without a module
    assert same(f, f) and not same(f, f + 1)
    assert not same(iter([1]), iter([1]))


def test_a_notebook_that_writes_or_fails_is_reported(tmp_path, quick):
    place = tmp_path / "made.txt"
    path = notebook(tmp_path, [*CELLS[:1], f"open({str(place)!r}, 'w').write('x')"])
    (one,) = mutants.run([path], store=tmp_path / "kept.json", budget=1)
    assert "a rehearsal changes no file" in one.error and not place.exists()


def test_mistakes_leave_checks_captions_and_guards_alone():
    source = (
        "x = a + b\n"
        "if x < 1:\n    raise ValueError(x - 1)\n"
        'check("name", a * b, b * a)\n'
        "assert a - b > 0\n"
        'print(f"{a / b}")\n'
        "ax.plot(a + 1)\n"
        "wrong = a / b\n"
        'check_seen("misprint", wrong, x)\n'
    )
    spared = mistakes.misprints([source])
    found = mistakes.of_cell(source, 3, spared)
    assert [(one.before, one.after) for one in found] == [("x = a + b", "x = a - b")]
    assert spared == {"wrong"} and found[0].place == "cell 3"
    kinds = {
        "y = a[t - 1]": {"y = a[t + 1]", "y = a[t]", "y = a[t - 2]"},
        "y = s.alpha_bar": {"y = s.alpha"},
        "y = -f(x0, x_t)": {"y = f(x0, x_t)", "y = -f(x_t, x0)"},
        "y = torch.sqrt(v)": {"y = (v)"},
        "y = v.clamp(-1, 1).log()": {"y = v.log()", "y = v.clamp(-1, 1)"},
        "y = v**2": {"y = v*2", "y = v", "y = v**3"},
        'y = r["a"] - r["b"]': {'y = r["b"] - r["b"]', 'y = r["a"] - r["a"]'},
        'y = r["a", t][0] + r["b", t]': {'y = r["b", t][0] + r["b", t]'},
        "nn.init.zeros_(w)": {"nn.init.ones_(w)"},
    }
    for line, wanted in kinds.items():
        assert {one.after for one in mistakes.of_cell(line, 0, set())} >= wanted - {
            "y = a[t + 1]",
            "y = a[t - 2]",
        }, line


def test_the_table_is_of_chapters_that_exist():
    chapters = mutants.load()
    for name, one in chapters.items():
        assert (BOOK / f"{name}.ipynb").exists(), f"{name} is gone: make mutants"
        assert len(one.mistakes) <= one.possible and one.checks
        assert {what for what, _ in one.mistakes.values()} <= set(mutants.OUTCOMES)
        for what, by in one.mistakes.values():
            assert what != "check" or one.checks[by]
        if not mutants.current(name, one):
            continue  # the page says so
        written = {
            re.sub(r"(\\\.){3}", ".*", re.escape(said))
            for _, source in rehearsal.cells_of(read(BOOK / f"{name}.ipynb"))
            for said in check_names(source, (*CHECKS, "check_seen"))
        }
        for check in one.checks:
            assert check.kind == "assert" or any(
                re.fullmatch(pattern, check.name) for pattern in written
            ), f"{name} has no check {check.name!r}"


def test_the_page_has_its_figures_from_the_table():
    text, chapters = checked.PAGE.read_text(), checked.present()
    assert text == checked.page(chapters, checked.marked(text)), (
        "python -m book._tools.mutants --page"
    )
    assert "book/checked" in (ROOT / "_toc.yml").read_text()
    name = next(iter(chapters))
    other = chapters | {name: replace(chapters[name], mistakes={})}
    assert checked.page(other, set()) != checked.page(chapters, set())
    assert checked.marked(checked.page(chapters, {name})) == {name}
