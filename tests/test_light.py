"""What makes the pages light (book/_ext/light.py, drawings.py, sheets.py) changes nothing that is seen."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from site_pages import PAGES, SITE, built, name

from book._ext import drawings, light, sheets
from book._tools.browser import CHROMIUM, Browser

in_a_browser = pytest.mark.skipif(
    not CHROMIUM, reason="no browser here: install chromium to test the pages in one"
)


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


# ---- pictures


def png(mode: str, side: int = 40) -> bytes:
    shape = {"L": (side, side), "RGB": (side, side, 3), "RGBA": (side, side, 4)}
    array = np.random.default_rng(0).integers(0, 255, shape[mode[:4]], dtype=np.uint8)
    picture, buffer = Image.fromarray(array), io.BytesIO()
    (picture.quantize(16) if side == 81 else picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "mode, side", [("L", 40), ("RGB", 40), ("RGBA", 40), ("RGB", 81)]
)
def test_a_picture_keeps_every_pixel(mode, side, tmp_path):
    raw = png(mode, side)
    text = f'<img alt="a" src="data:image/png;base64,{base64.b64encode(raw).decode()}">'
    pictures = light.Pictures(tmp_path / "html")
    page = light.with_pictures(text, "../", pictures)
    file = re.search(r'src="\.\./(_static/pictures/[\w.]+)"', page)[1]
    assert f'width="{side}" height="{side}"' in page and "lazy" not in page
    made, given = Image.open(tmp_path / "html" / file), Image.open(io.BytesIO(raw))
    assert np.array_equal(made.convert("RGBA"), given.convert("RGBA"))
    again = light.Pictures(tmp_path / "html")  # from what the former build has made
    assert light.with_pictures(text, "../", again) == page


def test_hidden_frames_come_later_and_a_small_picture_stays_in_its_page(tmp_path):
    big, small = (base64.b64encode(png("RGB", side)).decode() for side in (40, 4))
    one = '<img alt="a" width="9" height="9" src="data:image/png;base64,{}">'
    text = f"<div>{one}</div><div hidden>{one}</div>".format(big, big)
    page = light.with_pictures(
        text + one.format(small), "", light.Pictures(tmp_path / "html")
    )
    imgs = re.findall(r"<div( hidden)?><img ([^>]*)>", page)
    assert [bool(hidden) for hidden, _ in imgs] == [False, True]
    assert ["lazy" in attributes for _, attributes in imgs] == [False, True]
    assert (
        len(re.findall("data:image", page)) == 1
        and len(set(re.findall(r"pictures/\w+", page))) == 1
    )


@built
def test_no_page_carries_a_large_picture_in_itself():
    inside = {
        name(page): size
        for page in PAGES
        for size in map(
            len, re.findall(r"data:image/\w+;base64,[^\"')]*", page.read_text())
        )
        if size > light.SMALL * 4 / 3 + 40
    }
    assert not inside


# ---- drawings


@pytest.mark.parametrize(
    "given, digits, wanted",
    [
        ("M10 10L20 10L20 15L0 0z", 1, "M10 10h10v5l-20-15z"),
        ("M0.5 0.25L1.5 1.25L2.5 3.75", 2, "M.5.25l1 1 1 2.5"),
        ("M 0 3 C 0.79 3 1.55 2.68 2.12 2.12 z", 2, "M0 3c.79 0 1.55-.32 2.12-.88z"),
        ("M5 5L5.01 5L9 9", 1, "M5 5h0l4 4"),
        ("M0 0A1 1 0 0 0 2 2", 1, "M0 0A1 1 0 0 0 2 2"),
    ],
)
def test_a_path_from_place_to_place(given, digits, wanted):
    assert drawings.path(given, digits) == wanted


def test_rounding_does_not_add_up():
    """A thousand steps of a third of a tenth: the end is where it was."""
    d = "M0 0" + "".join(f"L{k * 0.1333:.4f} {k * 0.0333:.4f}" for k in range(1, 1001))
    made = drawings.path(d, 1)
    x = y = 0.0
    for letter, numbers in re.findall(r"([Mlhv])([^a-zM]*)", made):
        steps = [float(n) for n in re.findall(r"-?(?:\d*\.\d+|\d+)", numbers)]
        pairs = {"h": [(v, 0) for v in steps], "v": [(0, v) for v in steps]}
        for dx, dy in pairs.get(letter, list(zip(steps[::2], steps[1::2]))):
            x, y = x + dx, y + dy
    assert abs(x - 133.3) < 0.06 and abs(y - 33.3) < 0.06
    assert len(made) < len(d) / 2


FIGURE = """<figure class="picture vector"><svg class="wide" role="img" aria-label="a" viewBox="0 0 300 200" xmlns="http://www.w3.org/2000/svg" fill="currentColor" style="width:600px">
<defs>
<path id="fabcdef-m1" d="M 0 3 C 0.795609 3 1.55874 2.683901 2.12132 2.12132 C 2.683901 1.55874 3 0.795609 3 0 z"/>
<clipPath id="fabcdef-p1-0"><path d="M0 0L300 0L300 200L0 200z"/></clipPath>
</defs>
<g>
<g>
<path d="M0 0L300 0L300 200L0 200z" style="fill:none"/>
</g>
<g clip-path="url(#fabcdef-p1-0)">
<path d="M10.12 20.34L30.56 40.78L50.9 20.12L70.44 60.66" style="fill:none;stroke:#0072b2;stroke-width:2"/>
<use href="#fabcdef-m1" x="100.11" y="50.22" style="fill:#d55e00;fill-opacity:0.6"/>
<use href="#fabcdef-m1" x="103.33" y="52.44" style="fill:#d55e00;fill-opacity:0.6"/>
<use href="#fabcdef-m1" x="106.55" y="54.66" style="fill:#d55e00;fill-opacity:0.6"/>
</g>
<g/>
<path d="M200 20L280 20L280 100" style="fill:none;stroke:#0072b2;stroke-width:2"/>
<path d="M200 120L280 120L280 190" style="fill:none;stroke:#0072b2;stroke-width:2"/>
<path d="M210 130L270 130L270 180" style="fill:none;stroke:#0072b2;stroke-width:2"/>
</g>
</svg></figure>"""
PAGE = "<!doctype html><html><head><style>body{{margin:0}}</style></head><body>{}</body></html>"


def shot(browser, tmp_path, text: str) -> np.ndarray:
    (tmp_path / "page.html").write_text(text)
    browser.look(700, dark=False)
    browser.open((tmp_path / "page.html").as_uri())
    return np.asarray(
        Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    ).astype(int)


@in_a_browser
def test_a_slim_drawing_looks_the_same(browser, tmp_path):
    """To the twentieth of a point: a pixel on the edge of a line changes by a part of its colour, and none in the middle of one."""
    before = shot(browser, tmp_path, PAGE.format(FIGURE))
    slim = drawings.slim_page(PAGE.format(FIGURE))
    after = shot(browser, tmp_path, slim)
    assert len(slim) < 0.75 * len(PAGE.format(FIGURE))
    assert (before != 255).any(2).sum() > 1000
    assert np.abs(before - after).max() < 90 and np.abs(before - after).mean() < 0.05
    shifted = shot(browser, tmp_path, slim.replace("M200 20", "M203 20"))
    assert np.abs(before - shifted).max() > 90, "one line moved is not seen"


def test_what_dots_share_stands_once_and_their_opacity_is_their_own():
    slim = drawings.slim(FIGURE)
    assert slim.count("fill-opacity:0.6") == 1 and slim.count("<use ") == 3
    own = drawings.slim(FIGURE.replace("fill-opacity", "opacity"))
    assert own.count("opacity:0.6") == 3
    broken = FIGURE.replace("<defs>", "</g><defs>")
    assert drawings.slim(broken).count("</g>") > drawings.slim(broken).count("<g")


# ---- style sheets and fonts

SHEET = """/* a { } */ @charset "utf-8"; .a, .gone > b { color: red } .gone{x:y}
.x:not(.gone) { top: 0 } .gone:not(.x) { top: 1px } :is(.gone, .x) p { left: 0 } .a\\/b { right: 0 } [class="gone"] { a: b }
@media (min-width: 9px) { .gone { a: b } .x::before { content: "}" } } @media print { .gone { a: b } } @keyframes k { from { top: 0 } } #here .x { z: 1 }"""


def test_what_no_page_uses_goes():
    used = {"a", "x", "a/b", "here"}
    made = sheets.pruned(SHEET, used)
    assert made == (
        '@charset "utf-8";.a{color: red}.x:not(.gone){top: 0}:is(.gone, .x) p{left: 0}.a\\/b{right: 0}[class="gone"]{a: b}'
        '@media (min-width: 9px){.x::before{content: "}"}}@keyframes k{ from { top: 0 } }#here .x{z: 1}'
    )
    names = sheets.names_in(
        ['<p class="one two" id=three>'], ['e.classList.add("four-5")']
    )
    assert {"one", "two", "three", "four-5", "dropdown-menu"} <= names


UNSTYLED = """(() => { const rules = JSON.stringify([...document.styleSheets].map(s => [...s.cssRules].map(r => r.cssText)).flat()).length;
    return [rules, GIVEN.filter(s => { try { return document.querySelector(s) } catch { return false } })] })()"""


@built
@in_a_browser
@pytest.mark.parametrize(
    "page", ["index.html", "book/02_forward.html", "book/reference.html", "search.html"]
)
def test_every_rule_of_the_theme_that_a_page_uses_is_still_there(browser, page):
    """Of the theme's own sheets each selector that matches something in the page is in the sheet that the page loads."""
    import pydata_sphinx_theme
    import sphinx_book_theme

    browser.look(1280, dark=False)
    browser.open((SITE / page).as_uri())
    for package, sheet in (
        (pydata_sphinx_theme, "pydata-sphinx-theme.css"),
        (sphinx_book_theme, "sphinx-book-theme.css"),
    ):
        whole = next(
            (SITE / ".." / "..").resolve().joinpath(package.__path__[0]).rglob(sheet)
        ).read_text()
        kept = set(flat((SITE / "_static" / "styles" / sheet).read_text()))
        lost = [s for s in dict.fromkeys(flat(whole)) if s not in kept]
        assert len(lost) > 30
        matched = f"{lost!r}.filter(s => {{ try {{ return document.querySelector(s) }} catch {{ return false }} }})"
        assert not browser.js(matched)
        there = f"{sorted(kept)!r}.filter(s => {{ try {{ return document.querySelector(s) }} catch {{ return false }} }}).length"
        assert browser.js(there) > 20


def flat(sheet: str) -> list[str]:
    """Every selector of a sheet."""
    found: list[str] = []
    for prelude, body in sheets.blocks(sheet):
        if body is not None and re.match("@(media|supports)", prelude):
            found += flat(body)
        elif body is not None and not prelude.startswith("@"):
            found += sheets.selectors(prelude)
    return found


def test_a_cut_font_draws_the_same_letters(tmp_path):
    from fontTools.ttLib import TTFont

    from book._ext.formulas import mathjax

    source = mathjax() / "output/chtml/fonts/woff-v2/MathJax_Main-Regular.woff"
    data = sheets.cut_font(source, {0x41, 0x2212})
    made, whole = TTFont(io.BytesIO(data)), TTFont(source)
    assert set(made.getBestCmap()) == {0x41, 0x2212} and len(data) < 3000
    one, other = (font["hmtx"][font.getBestCmap()[0x41]] for font in (made, whole))
    assert one == other and data == sheets.cut_font(source, {0x41, 0x2212})
    assert sheets.shown('.a::before{content:"\\2212 b"}') == {0x2212, ord("b")}


@built
def test_every_icon_and_glyph_has_its_letter():
    """Each character that a rule of the formulas shows is in a cut font if it was in one of MathJax's; each icon of a page in the icons' own."""
    from fontTools.ttLib import TTFont

    letters = lambda fonts: set().union(*(TTFont(f).getBestCmap() or () for f in fonts))
    shown = sheets.shown((SITE / "_static" / "formulas.css").read_text())
    whole = letters((SITE / "_static/mathjax/output/chtml/fonts/woff-v2").glob("*"))
    cut = letters((SITE / "_static/fonts/formulas").glob("*"))
    assert len(shown & whole) > 100 and shown & whole <= cut
    theme = (SITE / "_static/styles/pydata-sphinx-theme.css").read_text()
    font = re.findall(r"data:font/woff;base64,([^)]*)", theme)[0]
    drawn = letters([io.BytesIO(base64.b64decode(font))])
    used = {
        c for p in PAGES for c in re.findall(r"fa-solid (fa-[\w-]+)", p.read_text())
    }
    for icon in used:
        rule = re.search(rf"\.{icon}(?:::?before)?\{{[^}}]*\"\\(f\w+)\"", theme)
        assert rule and int(rule[1], 16) in drawn, icon
    assert len(used) > 8


@built
@in_a_browser
def test_the_cut_fonts_are_fonts(browser):
    browser.open((SITE / "book" / "equations.html").as_uri())
    loaded = browser.js(
        "document.fonts.ready.then(() => [...document.fonts].filter(f => f.status === 'loaded').map(f => f.family.replace(/['\"]/g, '')))"
    )
    assert {"MJXTEX", "MJXTEX-I", "Source Serif 4"} <= set(loaded)
    assert not browser.complaints
