"""Does each page fit? In a browser, at three widths: what is cut, what moves while the
page loads, how heavy it is, and how soon one can read.

    python -m book._tools.fits [page.html ...]      a table of counts

tests/test_browser.py holds the pages to it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from book._tools.browser import Browser
from book._tools.notebooks import ROOT

SITE = ROOT / "_build" / "html"
WIDTHS = (360, 768, 1440)
JUMP = 16  # pixels, a fiftieth of the window: a shift of at most 0.02
# Before a page loads: note when its first formula stands, by the clock and, in the browser's
# trace, by the processor time of the page's own thread.
WATCH = """performance.mark('begun'); (function look() { const f = document.querySelector('article mjx-math, article math');
    f && f.getBoundingClientRect().width ? (window.firstFormula = performance.now() / 1000, performance.mark('first formula')) : requestAnimationFrame(look) })()"""
# Where the parts of the text begin, and those that are in the window when a page opens.
PLACES = """[...document.querySelectorAll('article :is(h1, h2, h3, p, li, dt, pre, table, figure, img, div.math)')].map(e => [e, e.getBoundingClientRect()])
    .filter(([e, r]) => r.width && r.height)
    .map(([e, r]) => [e.tagName + ' ' + e.textContent.trim().slice(0, 40), Math.round(r.left), Math.round(r.top)])"""
IN_WINDOW = PLACES + ".filter(([_, x, y]) => y > -40 && y < innerHeight)"
DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
SETTLED = "document.fonts.ready.then(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50)))))"
# Also those that a page loads later, when they come near the window.
ALL_PICTURES = """Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.complete || new Promise(done => { i.onload = i.onerror = done }) }))"""
# Shown (solutions are open) and wider than the box it is in.
FORMULAS = """[...document.querySelectorAll('article .math')].filter(m => {
    const f = m.querySelector('mjx-math, math'); if (!f || !f.getBoundingClientRect().width) return false;
    const ends = Math.max(f.getBoundingClientRect().right, ...[...f.querySelectorAll('mjx-itable, mjx-mrow')].map(e => e.getBoundingClientRect().right));
    let box = m.closest('td, th, li, dd, blockquote, p, div.math, article');
    for (let e = m; e && e.tagName !== 'ARTICLE'; e = e.parentElement)
        if (getComputedStyle(e).overflowX !== 'visible' && getComputedStyle(e).display !== 'inline') { box = e; break }
    if (box.tagName === 'TABLE') return false; // a table that scrolls is counted as a table
    return ends > box.getBoundingClientRect().right + 1.5 }).map(m => m.dataset.tex?.slice(0, 70) ?? m.outerHTML.slice(0, 70))"""
CODE = """[...document.querySelectorAll('article div.highlight pre')].filter(p => p.clientWidth && p.scrollWidth > p.clientWidth + 1)
    .map(p => p.textContent.split('\\n').reduce((a, b) => b.length > a.length ? b : a, '').slice(0, 100))"""
# Wider than its box, and nothing shows that it scrolls.
TABLES = """[...document.querySelectorAll('article table')].filter(t => t.clientWidth && t.scrollWidth > t.clientWidth + 1
    && !getComputedStyle(t).backgroundAttachment.includes('local')).map(t => t.textContent.trim().slice(0, 60))"""
# Letters of drawings and of figures' texts, in pixels on the screen.
SMALL = """[...document.querySelectorAll('article figure svg, article figure [role=img] svg')].filter(s => s.clientWidth && s.viewBox?.baseVal?.width)
    .filter(s => { const k = s.getBoundingClientRect().width / s.viewBox.baseVal.width;
        const sizes = [...s.querySelectorAll('g[transform*="scale(0."]')].map(g => 100 * +/scale\\((0\\.\\d+)/.exec(g.getAttribute('transform'))[1])
            .concat([...s.querySelectorAll('text')].map(t => parseFloat(getComputedStyle(t).fontSize)));
        return sizes.some(size => size * k < 11 * 0.8) }).map(s => s.getAttribute('aria-label')?.slice(0, 60) ?? s.closest('[role=img]')?.getAttribute('aria-label')?.slice(0, 60) ?? '')"""
# Text that is far below the window where it is narrowest is in none of the windows.
NEAR = "[...document.querySelectorAll('article section > *')].filter(e => e.getBoundingClientRect().top > 5000).forEach(e => e.remove())"
OPENED = "document.querySelectorAll('details').forEach(d => d.open = %s)"
# What a drawing shows is looked at once; after that only its place in the page matters.
EMPTY = (
    "document.querySelectorAll('article figure svg').forEach(s => s.replaceChildren())"
)
LOOKS = {"formulas": FORMULAS, "code": CODE, "tables": TABLES}


def bare(browser: Browser, page: Path) -> dict[int, list]:
    """At each width, where a page's text stands while of its files only itself and its
    style sheets have come, as for somebody whose line is slow."""
    browser("Network.setBlockedURLs", urls=["*.js", "*.woff2", "*.woff", "*.ttf"])
    try:
        browser.look(WIDTHS[0], dark=False)
        browser.open(page.as_uri())
        browser.js(NEAR)
        places = {}
        for width in WIDTHS:
            browser.look(width, dark=False)
            places[width] = browser.js(IN_WINDOW)
        return places
    finally:
        browser("Network.setBlockedURLs", urls=[])


def moved(before: list, after: list) -> list[str]:
    """What stands elsewhere afterwards. What a script replaces by something is gone."""
    left: dict[str, list] = {}
    for what, *place in after:
        left.setdefault(what, []).append(place)
    found = []
    for what, *place in before:
        now = left[what].pop(0) if left.get(what) else place
        if max(abs(a - b) for a, b in zip(place, now)) > JUMP:
            found.append(f"{what}: {place} -> {now}")
    return found


def look(
    browser: Browser, page: Path, also: Callable[[int], None] = lambda width: None
) -> dict:
    """What is wrong with a page: "formulas 360" and so on, lists; "moved 360", what does
    not stay where it stood before scripts and fonts have come (Chromium's own measure of
    shifts is 0 whatever happens while it plays a phone); "bytes". `also` may look at more,
    at each width. Leaves the page open at the smallest, its solutions open, its drawings empty.
    """
    at_first = bare(browser, page)
    browser.look(WIDTHS[0], dark=False)
    browser.open(page.as_uri())
    browser.js(SETTLED)
    found: dict = {}
    for width in WIDTHS:  # setting a page anew takes the longest of all this
        if width != WIDTHS[0]:
            browser.js(OPENED % "false")
            browser.look(width, dark=False)
            browser.js(DRAWN)
        found[f"moved {width}"] = moved(at_first[width], browser.js(PLACES))
        browser.js(OPENED % "true")
        if width == WIDTHS[0]:
            browser.js(ALL_PICTURES)
            browser.js(SETTLED)
            found["small"] = browser.js(SMALL)
            browser.js(EMPTY)
        browser.js(DRAWN)
        for name, expression in LOOKS.items():
            if name == "code" and width == WIDTHS[0]:
                continue  # 79 letters do not fit there: code scrolls
            found[f"{name} {width}"] = browser.js(expression)
        also(width)
    found["bytes"] = raw_bytes(browser.requested)
    browser.look(WIDTHS[0], dark=False)
    browser.js(DRAWN)
    return found


def first_formula(browser: Browser, page: Path) -> tuple[float, float]:
    """Seconds until the first formula of a page can be read, on a phone's screen and a
    processor held to a quarter of its speed: by the clock, and those that the page's own
    thread has computed, which do not depend on what else the machine does."""
    browser.look(360, dark=False)
    browser("Emulation.setCPUThrottlingRate", rate=4)
    script = browser("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    trace = browser.traced(["blink.user_timing"], lambda: browser.open(page.as_uri()))
    browser("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    browser("Emulation.setCPUThrottlingRate", rate=1)
    at = {event["name"]: event.get("tts") for event in trace}
    computed = (at["first formula"] - at["begun"]) / 1e6
    return browser.js("firstFormula"), computed


def raw_bytes(requested: list[str]) -> int:
    """What a page weighs with all that it loads, before anything is compressed."""
    paths = {
        unquote(urlsplit(url).path) for url in requested if url.startswith("file:")
    }
    return sum(Path(path).stat().st_size for path in paths)


def main() -> None:
    pages = [SITE / name for name in sys.argv[1:]] or sorted(
        p
        for p in SITE.rglob("*.html")
        if "_static" not in p.parts and p.name != "genindex.html"
    )
    browser = Browser()
    total: dict = {}
    try:
        for page in pages:
            found = look(browser, page)
            counts = {k: len(v) for k, v in found.items() if isinstance(v, list)}
            for k, v in counts.items():
                total[k] = total.get(k, 0) + v
            said = ", ".join(f"{k} {v}" for k, v in counts.items() if v)
            print(
                f"{page.relative_to(SITE)}: {found['bytes'] / 1e6:.2f} MB; cut: {said or 'nothing'}",
                flush=True,
            )
            if len(sys.argv) > 1:
                for k, v in found.items():
                    if isinstance(v, list):
                        for what in v:
                            print("   ", k, what)
    finally:
        browser.close()
    print("in all:", ", ".join(f"{k} {v}" for k, v in total.items()))


if __name__ == "__main__":
    main()
