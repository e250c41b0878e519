"""Does each page fit? In a browser, at three widths: what is cut, what moves while the page loads, how heavy it is, when one can read.

python -m book._tools.fits [page.html ...]      a table of counts; tests/test_fits.py holds the pages to it
"""

import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from book._tools.browser import Browser
from book._tools.notebooks import ROOT

SITE = ROOT / "_build" / "html"
WIDTHS = (360, 768, 1440)
# Before a page loads: note each shift of its layout, and when its first formula stands.
WATCH = """window.shifts = []; new PerformanceObserver(list => { for (const e of list.getEntries()) if (!e.hadRecentInput)
        shifts.push([e.value, ...(e.sources || []).map(s => (s.node?.outerHTML ?? ('#' + s.node?.textContent.trim() + '<' + s.node?.parentElement?.className)).slice(0, 80) + ' ' + [s.previousRect.y, s.currentRect.y].map(Math.round))]) })
        .observe({type: 'layout-shift', buffered: true});
    (function look() { const f = document.querySelector('article mjx-math, article math');
        f && f.getBoundingClientRect().width ? window.firstFormula = performance.now() / 1000 : requestAnimationFrame(look) })()"""
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
LOOKS = {"formulas": FORMULAS, "code": CODE, "tables": TABLES}


def look(browser: Browser, page: Path, throttle: float = 4) -> dict:
    """What is wrong with a page: "formulas 360" and so on, lists; "shift", "seconds" to the first formula, "bytes"."""
    found: dict = {}
    for width in WIDTHS:
        browser.look(width, dark=False)
        browser("Emulation.setCPUThrottlingRate", rate=throttle if width == 360 else 1)
        script = browser("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        browser.open(page.as_uri())
        browser.js(SETTLED)
        if width == 360:
            found["seconds"] = browser.js("window.firstFormula ?? null")
        shifts = browser.js("shifts")
        found["shift"] = max(found.get("shift", 0), sum(s[0] for s in shifts))
        found["moved"] = found.get("moved", []) + [s for s in shifts if s[0] > 0.01]
        browser(
            "Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"]
        )
        browser("Emulation.setCPUThrottlingRate", rate=1)
        browser.js("document.querySelectorAll('details').forEach(d => d.open = true)")
        browser.js(ALL_PICTURES)
        browser.js(SETTLED)
        weighs = raw_bytes(browser.requested)
        found["bytes"] = max(found.get("bytes", 0), weighs)
        if width == 360:
            found["small"] = browser.js(SMALL)
        for name, expression in LOOKS.items():
            if name == "code" and width == 360:
                continue  # 79 letters do not fit there: code scrolls
            found[f"{name} {width}"] = browser.js(expression)
    return found


def first_formula(browser: Browser, page: Path) -> float:
    """Seconds until the first formula of a page can be read, on a phone's screen and a processor at a quarter of its speed."""
    browser.look(360, dark=False)
    browser("Emulation.setCPUThrottlingRate", rate=4)
    script = browser("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
    browser.open(page.as_uri())
    browser.js(SETTLED)
    browser("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    browser("Emulation.setCPUThrottlingRate", rate=1)
    return browser.js("window.firstFormula ?? 99")


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
            counts = {
                k: len(v)
                for k, v in found.items()
                if isinstance(v, list) and k != "moved"
            }
            for k, v in counts.items():
                total[k] = total.get(k, 0) + v
            said = ", ".join(f"{k} {v}" for k, v in counts.items() if v)
            print(
                f"{page.relative_to(SITE)}: shift {found['shift']:.3f}, first formula {found['seconds'] or 0:.2f} s, "
                f"{found['bytes'] / 1e6:.2f} MB; cut: {said or 'nothing'}",
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
