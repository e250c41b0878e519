"""Every page as a reader sees and uses it: on a phone and on a desk, by day and by night, by mouse, finger and keyboard, without a network."""

from pathlib import Path

import pytest
from site_pages import PAGES, SITE, built, name

from book._tools import fits
from book._tools.browser import CHROMIUM, Browser, weight

pytestmark = [
    built,
    pytest.mark.skipif(
        not CHROMIUM,
        reason="no browser here: install chromium to test the pages in one",
    ),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=name)
HEAVIEST = 2_000_000  # bytes of a page with all that it loads before anybody presses a button, not compressed
AXE = (
    Path(__file__).parent / "axe-core" / "axe.min.js"
).read_text()  # 4.14.1 of npm, MPL-2.0: for these tests only, no part of the book

# What sticks out to the right although nothing around it scrolls, innermost first.
STICKS_OUT = """(() => {
    const wide = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= wide) return [];
    const scrolls = e => { for (; e && e !== document.body; e = e.parentElement)
        if (getComputedStyle(e).overflowX !== 'visible' || getComputedStyle(e).position === 'fixed') return true; return false };
    return ['page of ' + document.documentElement.scrollWidth + ' px'].concat([...document.body.querySelectorAll('*')]
        .filter(e => e.getBoundingClientRect().right > wide + 1 && !scrolls(e.parentElement))
        .map(e => e.tagName + '.' + e.className).reverse().slice(0, 5));
})()"""
# Mathematics that no one can see: cut off in a box that does not scroll, or begun to the left of where one can scroll to.
CUT_OFF = """[...document.querySelectorAll('mjx-container')].filter(m => {
    for (let e = m.parentElement; e && e.tagName !== 'ARTICLE'; e = e.parentElement) {
        const overflow = getComputedStyle(e).overflowX;
        if (overflow === 'hidden' && e.scrollWidth > e.clientWidth + 1) return true;
        if (overflow !== 'visible' && m.getBoundingClientRect().left < e.getBoundingClientRect().left - e.scrollLeft - 1) return true;
    }
    return false }).map(m => m.parentElement.outerHTML.slice(0, 80))"""
UNSET = """[...document.querySelectorAll('article .math')].filter(e => !e.querySelector('mjx-container'))
    .concat([...document.querySelectorAll('mjx-merror, [data-mjx-error]')]).map(e => e.textContent.slice(0, 80))"""
# A formula that a screen reader cannot speak: MathJax writes the same again as MathML, which is not seen but read.
UNSPOKEN = "[...document.querySelectorAll('mjx-container')].filter(m => !m.querySelector('mjx-assistive-mml math')).length"
LIGHTNESS = "(getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b)) / 765"
# A picture that shines through or is drawn in black on black: at night each lies on a plate of its own.
BARE = """[...document.querySelectorAll('.cell_output img, figure.picture img')].filter(i =>
    getComputedStyle(i).backgroundColor.match(/[\\d.]+/g).slice(0, 3).some(v => v < 200) || !parseFloat(getComputedStyle(i).borderRadius)).length"""
# The inside of a formula is MathJax's, and thousands of elements a page: what a reader gets of it is UNSPOKEN's matter, and here each is a word.
# Of the code the first two blocks do: all have the same colours.
SHORTEN = """document.querySelectorAll('mjx-container').forEach(m => m.replaceWith('formula'));
    [...document.querySelectorAll('.highlight pre')].slice(2).forEach(pre => pre.textContent = 'code')"""
FAULTS = """axe.run(document, {preload: false, resultTypes: ['violations'], %s}).then(found => found.violations
    .filter(v => ['serious', 'critical'].includes(v.impact))
    .map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(' | ')))"""
IN_FULL, COLOURS = (
    FAULTS % "",
    FAULTS % "runOnly: ['color-contrast', 'link-in-text-block']",
)


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@each_page
def test_page(browser, page):
    def whole(width):
        assert not browser.js(STICKS_OUT), f"the page scrolls sideways at {width} px"
        assert not browser.js(CUT_OFF), f"formulas cut off at {width} px"

    found = fits.look(browser, page, whole)
    for width in fits.WIDTHS:
        for what in ("formulas", "code", "tables", "moved"):
            cut = found.get(f"{what} {width}", [])
            assert not cut, f"{what} at {width} px: {cut}"
    assert not found["small"], f"too small: {found['small']}"
    assert found["bytes"] <= HEAVIEST, weight(browser.requested)
    assert not browser.js(UNSET), "formulas that are not set"
    assert not browser.js(UNSPOKEN), "formulas without MathML for a screen reader"
    assert browser.js("innerWidth") == fits.WIDTHS[0]
    browser.js(AXE + ";0")
    browser.js(SHORTEN)
    for dark, faults in ((False, IN_FULL), (True, COLOURS)):
        browser.look(fits.WIDTHS[0], dark)
        browser.js(fits.DRAWN)
        assert (browser.js(LIGHTNESS) < 0.5) == dark, "as the reader's system is"
        assert not browser.js(faults), "by night" if dark else "by day"
    assert not browser.js(BARE), "pictures that are hard to see at night"
    for figure in range(browser.js(COUNT)):
        answers(browser, figure)
    assert not browser.complaints


# those that play; the one with two sliders has a test of its own
COUNT = "(window.figures = [...document.querySelectorAll('figure:has([role=img]):not(.two-sliders) input[type=range]')]).length"
LOOK = """(f => [f.querySelector('[role=img]').style.backgroundPositionY, [...f.querySelectorAll('[role=img] > div')].findIndex(d => !d.hidden),
    f.querySelector('output').textContent].join(' '))(figures[%d].closest('figure'))"""
PLACE = """(() => { %s.scrollIntoView({block: 'center', behavior: 'instant'}); const r = %s.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] })()"""


def answers(browser, i: int) -> None:
    """The i-th interactive figure of the page moves by mouse, finger and keyboard, and its play button plays and stops."""
    look, slider = LOOK % i, f"figures[{i}]"
    x, y, width, height = browser.js(PLACE % (slider, slider))
    end = lambda part: (x + 10 + part * (width - 20), y + height / 2)
    seen = [browser.js(look)]
    far = 0.02 if browser.js(f"+{slider}.value > {slider}.max / 2") else 0.98
    browser.click(*end(far))
    seen.append(browser.js(look))
    assert seen[1] != seen[0], f"figure {i} does not answer to the mouse"
    browser.tap(*end(1 - far))
    seen.append(browser.js(look))
    assert seen[2] != seen[1], f"figure {i} does not answer to a finger"
    browser.js(f"{slider}.focus()")
    browser.press("ArrowRight" if far > 0.5 else "ArrowLeft")
    seen.append(browser.js(look))
    assert seen[3] != seen[2], f"figure {i} does not answer to the keyboard"
    button = f"{slider}.closest('figure').querySelector('button')"
    x, y, width, height = browser.js(PLACE % (button, button))
    browser.js(f"{slider}.value = {slider}.min")
    browser.click(x + width / 2, y + height / 2)
    assert browser.js(f"{button}.getAttribute('aria-label')") == "pause", (
        f"figure {i} does not play"
    )
    browser.js(
        f"new Promise(done => {{ const end = Date.now() + 5000, i = setInterval(() => (+{slider}.value > 0 || Date.now() > end) && (clearInterval(i), done()), 20) }})"
    )
    assert browser.js(f"+{slider}.value > 0"), f"figure {i} does not move when it plays"
    browser.click(x + width / 2, y + height / 2)
    assert browser.js(f"{button}.getAttribute('aria-label')") == "play", (
        f"figure {i} does not stop"
    )


def test_two_sliders(browser):
    """Each moves what is shown, by keyboard, and says what it shows."""
    browser.look(fits.WIDTHS[0], dark=False)
    browser.open((SITE / "book" / "32_dalle2.html").as_uri())
    look = """(s => s.style.backgroundPosition + s.getAttribute('aria-label'))
        (document.querySelector('.two-sliders .seen'))"""
    seen = [browser.js(look)]
    for way in ("across", "down"):
        browser.js(f"document.querySelector('.two-sliders .{way}').focus()")
        browser.press("ArrowRight")
        seen.append(browser.js(look))
    assert len(set(seen)) == 3


def test_some_pages_have_formulas_and_figures(browser):
    """The tests of formulas and figures above would pass on a site that has none."""
    browser.open(next(p for p in PAGES if r"\tag{" in p.read_text()).as_uri())
    assert browser.js("document.querySelectorAll('mjx-container').length") > 0
    chapters = [
        p for p in PAGES if p.name[0].isdigit() and "playgrounds" not in p.name
    ]  # those want a kernel, and show stills
    assert chapters and not [
        name(p) for p in chapters if 'type="range"' not in p.read_text()
    ], "a chapter without an interactive figure"


def test_keyboard(browser):
    """The first stop is the link past the navigation; every stop can be seen; the formulas of a line are no stops."""
    page = SITE / "book" / "02_forward.html"
    browser.look(1280, dark=False)
    browser.open(page.as_uri())
    browser.js("new Promise(done => setTimeout(done, 100))")
    browser.press("Tab")
    assert (
        browser.js(
            "document.activeElement.closest('.skip-link') && document.activeElement.getAttribute('href')"
        )
        == "#main-content"
    )
    browser.press("Enter")
    assert browser.js("location.hash") == "#main-content"
    stops = []
    for _ in range(25):
        browser.press("Tab")
        stops.append(
            browser.js("""(e => [e.tagName + '.' + e.className, e.matches('mjx-container:not([display])'), getComputedStyle(e).outlineStyle !== 'none'
            && parseFloat(getComputedStyle(e).outlineWidth) >= 2, !!e.closest('main')])(document.activeElement)""")
        )
    assert not [stop for stop in stops if stop[1]], "formulas within a line"
    assert not [stop for stop in stops if not stop[2]], "stops without a visible ring"
    assert all(stop[3] for stop in stops), "past the navigation means in the text"


HITS = """new Promise(done => { const end = Date.now() + 10000, look = () => {
    const summary = document.querySelector('#search-results .search-summary'), hits = [...document.querySelectorAll('#search-results li a')].map(a => a.href);
    (hits.length && /\\d/.test(summary?.textContent ?? '')) || Date.now() > end ? done(hits) : setTimeout(look, 50) }; look() })"""


@pytest.mark.parametrize(
    "query, wanted",
    [
        ("Eq. (7)", "book/05_posterior.html#eq-7"),
        ("equation 7", "book/05_posterior.html#eq-7"),
        ("Eq. (16)", "book/12_other_bound.html#eq-16"),
        ("(13)", "book/09_decoder.html#eq-13"),
        ("식 (7)", "book/05_posterior.html#eq-7"),
        ("q_posterior", "book/reference.html#ddpm_core.forward.q_posterior"),
        ("variational bound", "book/notation.html"),
        ("변분 하한", "book/notation.html"),
        ("사후분포", "book/notation.html"),
        ("reparameterisation", "book/02_forward.html"),
        ("posterior", "book/05_posterior.html"),
    ],
)
def test_search(browser, query, wanted):
    """The page is among the first three that the site's own search finds, by equation number and by term, in English and in Korean."""
    browser.open((SITE / "search.html").as_uri() + f"?q={query.replace(' ', '+')}")
    hits = [url.split("/html/")[1].split("?")[0] for url in browser.js(HITS)]
    assert any(hit == wanted or hit.split("#")[0] == wanted for hit in hits[:3]), hits[
        :6
    ]


def test_a_term_finds_chapters_before_functions(browser):
    browser.open((SITE / "search.html").as_uri() + "?q=posterior")
    hits = [url.split("/html/")[1].split("?")[0] for url in browser.js(HITS)]
    first = next(i for i, hit in enumerate(hits) if hit.startswith("book/reference"))
    assert sum(hit.split("/")[1][:2].isdigit() for hit in hits[:first]) >= 3, hits[:8]


def test_the_landing_page_plays_by_itself_and_not_for_who_wants_less_motion(browser):
    shown = "+document.querySelector('.opening input').value"
    browser.look(1280, dark=False)  # less motion
    browser.open((SITE / "index.html").as_uri())
    still = browser.js(f"new Promise(done => setTimeout(() => done({shown}), 1200))")
    assert still == browser.js("+document.querySelector('.opening input').max")
    browser("Emulation.setEmulatedMedia", features=[])
    browser.open((SITE / "index.html").as_uri())
    at = browser.js(
        f"new Promise(done => {{ const end = Date.now() + 8000, i = setInterval(() => ({shown} > 3 || Date.now() > end) && (clearInterval(i), done({shown})), 50) }})"
    )
    assert at > 3
    assert "minutes" in browser.js("document.querySelector('.begin a').textContent")


def test_a_solution_is_one_box(browser):
    browser.open((SITE / "book" / "05_posterior.html").as_uri())
    assert browser.js("document.querySelectorAll('details .tag_solution').length") >= 3
    assert not browser.js(
        "document.querySelectorAll('.tag_solution details.above-input').length"
    )


def test_a_broken_page_is_seen(browser, tmp_path):
    """Each thing that test_page looks for, broken on purpose."""
    page = tmp_path / "broken.html"
    page.write_text("""<!doctype html><body style="background:#fff"><meta name=viewport content="width=device-width"><script>missing()</script><img src="https://example.org/a.png">
        <script src="nowhere.js"></script><article><div style="width:2000px">wide</div><span class=math>\\(x\\)</span><p style="color:#bbb">pale</p>
        <div class=cell_output><img alt="a dark picture"></div><figure><div role=img></div><input type=range aria-label=t><output></output><button>go</button></figure>
        <div style="overflow:hidden;width:9px"><mjx-container style="display:block;width:99px">x</mjx-container></div>
        <div style="overflow-x:auto;width:99px;display:flex;flex-direction:row-reverse"><mjx-container style="flex:none;width:200px">x</mjx-container></div></article>""")
    browser.look(360, dark=True)
    browser.open(page.as_uri())
    said = " ".join(browser.complaints)
    assert (
        "missing is not defined" in said
        and "example.org" in said
        and "nowhere.js" in said
    )
    assert (
        browser.js(STICKS_OUT)[1:]
        and len(browser.js(CUT_OFF)) == 2
        and browser.js(UNSET)
        and browser.js(UNSPOKEN) == 2
    )
    assert browser.js(LIGHTNESS) > 0.5, "a page that stays bright at night"
    assert browser.js(BARE) == 1
    browser.js(AXE + ";0")
    assert {fault.split(":")[0] for fault in browser.js(IN_FULL)} >= {
        "image-alt",
        "role-img-alt",
        "color-contrast",
    }
    assert {fault.split(":")[0] for fault in browser.js(COLOURS)} == {"color-contrast"}
    assert browser.js(COUNT) == 1
    with pytest.raises(AssertionError, match="does not answer to the mouse"):
        answers(browser, 0)
