"""What a check prints, on its way to the page; and the boxes of the algorithms."""

from types import SimpleNamespace

import pytest
import torch
from docutils import nodes
from docutils.utils import new_document
from site_pages import SITE, built

from book._ext import seals
from book._tools.notebooks import notebooks, read
from ddpm_core.checks import check, check_mc, check_seen, check_zero


@pytest.fixture
def printed(capsys):
    """The lines of checks that hold, as ddpm_core prints them."""
    check("Eq. (7), mean", 1.0, 1.0 + 1e-13)
    check("exact", 1, 1, atol=1e-6)
    check_seen("x: the misprint x_t", 1.0, 2.0, atol=1e-9)
    check_mc("mean", torch.tensor([0.9, 1.1, 1.0]), 1.0)
    pytest.importorskip("sympy")
    check_zero("identity", 0)
    return capsys.readouterr().out.splitlines()


def part(html: str) -> float:
    return float(html.split("--part:")[1].split("%")[0])


def test_each_kind_of_line_is_a_seal(printed):
    close, exact, misprint, mean, identity = map(seals.seal, printed)
    assert "seal held" in close and "Eq. (7), mean" in close
    assert "off by 10<sup>\u221213</sup>, allowed 10<sup>\u221212</sup>" in close
    assert part(close) == round(seals.TICK * 15 / 16)
    assert part(exact) == 0 and "off by 0, allowed 10<sup>\u22126</sup>" in exact
    assert "seal noticed" in misprint and part(misprint) == 100
    assert "x: the misprint <i>x</i><sub>t</sub>" in misprint
    assert part(mean) == 0 and "1, expected 1 \u00b1 0.2309" in mean
    assert "identically zero" in identity and "seal-bar" not in identity


@pytest.mark.parametrize(
    "x, wanted",
    [
        (49438.2, "49,438"),
        (-0.0123456, "\u22120.01235"),
        (2e-7, "2\u2009\u00b7\u200910<sup>\u22127</sup>"),
    ],
)
def test_numbers_as_a_hand_would_write_them(x, wanted):
    assert seals.number(x) == wanted


def test_a_check_that_fails_is_red():
    with pytest.raises(AssertionError) as said:
        check("Eq. (4)", 1.0, 1.1)
    broken = seals.seal(str(said.value))
    assert "seal broken" in broken and part(broken) > seals.TICK


def test_the_bar_passes_its_tick_exactly_when_the_check_fails():
    for off in (9e-13, 1e-12, 1.1e-12):
        line = f"ok   name: largest difference {off:.1e}, allowed 1e-12"
        bar = float(seals.powers(off, 1e-12).split("--part:")[1].split("%")[0])
        assert (bar > seals.TICK) is False or off > 1e-12, line
    assert part(seals.powers(1e-9, 1e-12)) > seals.TICK
    assert part(seals.powers(1e-9, 0)) == 100 and part(seals.powers(0, 0)) == 0
    assert part(seals.seal("ok   a: 1.3, expected 1, 4 standard errors are 0.2")) == 100


def output(text: str) -> nodes.document:
    made, box = new_document(""), nodes.container(classes=["cell_output"])
    box += nodes.literal_block(text, text)
    made += box
    return made


APP = SimpleNamespace(builder=SimpleNamespace(format="html"))


def put(text: str) -> list[str]:
    document = output(text)
    seals.put(APP, document, "page")
    return [node.astext() for node in document[0].children]


def test_a_misprint_that_is_off_by_no_number(capsys):
    check_seen("divided by nothing", float("nan"), 1.0)
    (line,) = capsys.readouterr().out.splitlines()
    assert "off by \u221e" in seals.seal(line) and part(seals.seal(line)) == 100


def test_what_stands_between_the_checks_stays_text(printed):
    first, said, last = put("\n".join([*printed[:2], "", "a = 3", printed[2]]))
    assert first.count("<li") == 2 and said == "a = 3" and last.count("<li") == 1
    assert put("nothing to check: 3") == ["nothing to check: 3"]


def test_many_in_a_row_are_folded_with_their_count(printed):
    (folded,) = put("\n".join(printed))
    assert folded.startswith('<details class="seals held"><summary>5 checks hold, 1 of')
    (few,) = put("\n".join(printed[:4]))
    assert "<details" not in few
    (broken,) = put("\n".join([*printed, printed[0].replace("ok  ", "FAIL")]))
    assert (
        "1 of 6 checks fail" in broken and "<details" in broken and " open>" in broken
    )


def test_a_block_of_code_is_left_alone():
    document = new_document("")
    document += nodes.literal_block("", "ok   a: identically zero")
    seals.put(APP, document, "page")
    assert isinstance(document[0], nodes.literal_block)


@built
def test_every_check_of_a_chapter_is_a_seal_of_its_page():
    found = 0
    for path in notebooks():
        lines = [
            line
            for cell in read(path).cells
            for one in cell.get("outputs", ())
            for line in one.get("text", "").splitlines()
            if line.startswith("ok   ")
        ]
        page = (SITE / "book" / f"{path.stem}.html").read_text()
        assert page.count('<li class="seal ') == len(lines), path.name
        found += len(lines)
    assert found == seals.count() > 400


@built
def test_the_four_algorithms_are_boxes():
    pages = [(SITE / "book" / f"{path.stem}.html") for path in notebooks()]
    boxes = [
        box.split("</div>")[0]
        for page in pages
        for box in page.read_text().split('<div class="algorithm">')[1:]
    ]
    lines = {
        n: [b.count("<li>") for b in boxes if f"Algorithm {n}<" in b] for n in "1234"
    }
    assert lines == {"1": [6], "2": [6], "3": [5], "4": [5]}
