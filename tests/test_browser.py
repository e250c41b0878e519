"""Every page as a reader sees it: on a phone and on a desk, by day and by night, without a network."""

import pytest
from browser import CHROMIUM, Browser
from site_pages import PAGES, built, name

pytestmark = [built, pytest.mark.skipif(not CHROMIUM, reason="no browser here: install chromium to test the pages in one")]
each_page = pytest.mark.parametrize("page", PAGES, ids=name)

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
LIGHTNESS = "(getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b)) / 765"


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@each_page
@pytest.mark.parametrize("width", [360, 1280])
def test_page(browser, page, width):
    browser.look(width, dark=False)
    browser.open(page.as_uri())
    assert browser.js("innerWidth") == width
    assert not browser.js(UNSET), "formulas that are not set"
    for dark in (False, True):
        browser.look(width, dark)
        browser.js("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert (browser.js(LIGHTNESS) < 0.5) == dark, "light or dark as the reader's system is"
        assert not browser.js(STICKS_OUT), "the page scrolls sideways"
        assert not browser.js(CUT_OFF), "formulas cut off"
    assert not browser.complaints


def test_some_page_has_formulas(browser):
    """The test of formulas above would pass on a site that has none."""
    browser.open(next(p for p in PAGES if r"\tag{" in p.read_text()).as_uri())
    assert browser.js("document.querySelectorAll('mjx-container').length") > 0


def test_a_frame_slider_moves(browser):
    page = next((p for p in PAGES if 'type="range"' in p.read_text()), None)
    assert page, "no interactive figure in the book"
    browser.open(page.as_uri())
    before, after, shown = browser.js("""(() => {
        const figure = document.querySelector('figure input[type=range]').closest('figure'), input = figure.querySelector('input');
        const look = () => figure.querySelector('[role=img]').style.backgroundPositionY, before = look();
        input.value = +input.value === +input.max ? input.min : input.max;
        input.dispatchEvent(new Event('input'));
        return [before, look(), figure.querySelector('output').textContent] })()""")
    assert before != after and shown


def test_a_broken_page_is_seen(browser, tmp_path):
    """Each thing that test_page looks for, broken on purpose."""
    page = tmp_path / "broken.html"
    page.write_text("""<!doctype html><body style="background:#fff"><meta name=viewport content="width=device-width"><script>missing()</script><img src="https://example.org/a.png">
        <script src="nowhere.js"></script><article><div style="width:2000px">wide</div><span class=math>\\(x\\)</span>
        <div style="overflow:hidden;width:9px"><mjx-container style="display:block;width:99px">x</mjx-container></div>
        <div style="overflow-x:auto;width:99px;display:flex;flex-direction:row-reverse"><mjx-container style="flex:none;width:200px">x</mjx-container></div></article>""")
    browser.look(360, dark=True)
    browser.open(page.as_uri())
    said = " ".join(browser.complaints)
    assert "missing is not defined" in said and "example.org" in said and "nowhere.js" in said
    assert browser.js(STICKS_OUT)[1:] and len(browser.js(CUT_OFF)) == 2 and browser.js(UNSET)
    assert browser.js(LIGHTNESS) > 0.5, "a page that stays bright at night"
