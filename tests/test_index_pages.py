"""The indexes are complete, current, and lead somewhere: every equation to a chapter, code and a check; every question to a heading."""

import re
import tomllib
from functools import cache

import pytest

from book._tools.index_pages import (
    CHECKS,
    EQUATIONS,
    TABLE,
    algorithms_part,
    bare,
    chapters,
    check_names,
    functions,
    headings,
    numbers,
    pages,
    questions_page,
    slug,
)
from book._tools.notebooks import BOOK

book = cache(chapters)


@pytest.mark.parametrize("n", EQUATIONS)
def test_every_equation_has_one_chapter_a_function_and_a_check(n):
    assert len([c.file for c in book() if n in c.formulas]) == 1, (
        "one chapter carries \\tag{n}"
    )
    assert functions().get(n), (
        "a function of ddpm_core whose docstring begins with the equation"
    )
    assert any(n in numbers(name) for c in book() for name in c.checks), (
        "a check that names it"
    )


@pytest.mark.parametrize("page", ["equations.md", "questions.md"])
def test_the_page_is_current(page):
    made, _ = pages()
    assert (BOOK / page).read_text() == made[page], "python -m book._tools.index_pages"


def test_every_answer_leads_to_a_heading():
    assert questions_page(book(), tomllib.loads(TABLE.read_text()))[1] == []


def test_every_question_is_in_the_table():
    asked = [
        key
        for part in tomllib.loads(TABLE.read_text())["part"]
        for key in part
        if key != "title"
    ]
    assert sorted(asked) == sorted(
        [f"Q{n}" for n in range(1, 38)] + [f"M{n}" for n in range(1, 11)]
    )


def test_anchors_are_those_that_myst_makes():
    from markdown_it import MarkdownIt
    from markdown_it.tree import SyntaxTreeNode
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from myst_parser.mdit_to_docutils.base import compute_unique_slug

    md = MarkdownIt().use(dollarmath_plugin)
    written = [text for c in book() for text in c.headings] + [
        r"Why *does* it help, $x_0$, `ddpm_core`? (A $\tilde\beta_t$.)"
    ]
    for text in written:
        assert slug(text) == compute_unique_slug(
            SyntaxTreeNode(md.parse(f"## {text}")).children[0], []
        ), text


def test_links_in_the_pages_lead_to_headings():
    known = {f"{c.file}#{anchor}" for c in book() for anchor in c.headings.values()} | {
        c.file for c in book()
    }
    links = [
        link
        for page in ("equations.md", "questions.md")
        for link in re.findall(r"\]\(([^)]+)\)", (BOOK / page).read_text())
    ]
    own = {
        f"#{slug(text)}"
        for page in ("equations.md", "questions.md")
        for _, text in headings((BOOK / page).read_text())
    }
    assert links and set(links) <= known | own


def test_what_the_index_reads():
    assert numbers("see Eqs. (6) and (7), Eq. (3), Eqs. (8)-(10)") == [
        "6",
        "7",
        "3",
        "8",
        "9",
        "10",
    ]
    assert numbers("f(7) and Eq. 7") == []
    assert check_names(
        'check("a", 1, 1)\nfor t in x:\n    check_mc(f"t = {t:4d},  mean", y, 0)\nprint("b")',
        CHECKS,
    ) == ["a", "t = ..., mean"]
    assert headings("# A\n```python\n# no\n```\n## B\ntext # no") == [
        (1, "A"),
        (2, "B"),
    ]
    assert bare("$$\n> x = y . \\tag{4}\n> $$") == "$$\nx = y\n$$"


def test_each_algorithm_has_a_chapter_and_a_function():
    lines, missing = algorithms_part(book())
    assert not missing
    assert [line.split(":")[0] for line in lines if line.startswith("## ")] == [
        f"## Algorithm {n}" for n in range(1, 5)
    ]
    code = " ".join(line for line in lines if line.startswith("- *Code*"))
    for name in ("train", "sample", "encode", "decode"):
        assert f"`{name}` in" in code
    without = [c for c in book() if "2" not in c.algorithms]
    assert algorithms_part(without)[1] == ["Algorithm 2 has no chapter"]
