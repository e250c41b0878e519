"""The line below each chapter's title: its number, and a time that follows from what a reader reads."""

import re

import pytest
import yaml
from docutils import nodes
from site_pages import SITE, built

from book._ext.reading import seconds, spoken
from book._tools.notebooks import ROOT, notebooks, read


def page(*inside: nodes.Node) -> nodes.document:
    from docutils.utils import new_document

    document = new_document("")
    document += inside
    return document


def cell(code: str, *tags: str, output: bool = False) -> nodes.container:
    outside = nodes.container(classes=["cell", *tags])
    outside += nodes.container(
        "", nodes.literal_block(code, code), classes=["cell_input"]
    )
    if output:
        outside += nodes.container(
            "", nodes.literal_block("ok", "ok"), classes=["cell_output"]
        )
    return outside


def test_what_costs_time():
    words = nodes.paragraph("", "a reader's word " * 50)  # 150 words
    assert seconds(page(words)) == pytest.approx(150 * 60 / 200)
    assert (
        seconds(
            page(
                nodes.math_block("x", "x"),
                nodes.paragraph("", "", nodes.math("y", "y")),
            )
        )
        == 22
    )
    assert seconds(page(cell("a = 1\n\nb = 2", output=True))) == 2 * 2 + 10
    for tag in ("tag_hide-input", "tag_solution", "tag_remove-cell"):
        assert seconds(page(cell("a = 1\nb = 2", tag))) == 0
    solution = [
        nodes.raw("", "<details><summary>Solution</summary>", format="html"),
        words.deepcopy(),
        nodes.math_block("x", "x"),
        nodes.raw("", "</details>", format="html"),
    ]
    assert seconds(page(*solution)) == 0 and seconds(
        page(*solution, words)
    ) == pytest.approx(45)


def test_how_it_is_said():
    assert [spoken(60 * m) for m in (1, 13, 22, 88, 91, 99, 106, 450)] == [
        "5 minutes",
        "15 minutes",
        "20 minutes",
        "1\u00bd hours",
        "1\u00bd hours",
        "1\u00bd hours",
        "2 hours",
        "7\u00bd hours",
    ]


def test_every_chapter_says_what_a_gpu_is_good_for():
    def opening(path):
        return next(c.source for c in read(path).cells if c.cell_type == "markdown")

    silent = [p.name for p in notebooks() if not re.search(r"GPU\*\*", opening(p))]
    assert not silent


@built
def test_every_chapter_has_its_line():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    numbered = [
        [chapter, *chapter.get("sections", ())]
        for part in parts
        if part.get("numbered")
        for chapter in part["chapters"]
    ]
    chapters = [
        (n, page["file"]) for n, of in enumerate(numbered, start=1) for page in of
    ]
    last, minutes = len(numbered), 0
    for n, chapter in chapters:
        html = (SITE / f"{chapter}.html").read_text()
        said = re.search(
            r'</h1>\s*<p class="reading"><span>Chapter (\d+) of (\d+)</span>.*?--read:(\d+)%.*?<span>about (\d+) minutes</span></p>',
            html,
            re.DOTALL,
        )
        assert said, chapter
        assert (
            (int(said[1]), int(said[2])) == (n, last)
            and int(said[3]) == round(100 * n / last)
            and 5 <= int(said[4]) <= 90
        )
        assert re.search(rf'<h1><span class="section-number">{n}\.(\d+\.)? ', html), (
            "the theme numbers it alike"
        )
        minutes += int(said[4])
    others = [
        path for path in SITE.rglob("*.html") if 'class="reading"' in path.read_text()
    ]
    assert len(others) == len(chapters)
    total = re.search(
        r"The chapters take about ([\d]+)(\u00bd?) hours",
        (SITE / "index.html").read_text(),
    )
    assert (
        abs(float(total[1]) + (0.5 if total[2] else 0) - minutes / 60)
        <= 0.25 + 2.5 * len(chapters) / 60
    )
