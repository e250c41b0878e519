"""The whole book as one PDF, its solutions open: _build/ddpm-book.pdf.

    python book/_tools/print_pdf.py        (make pdf; needs Chromium or Chrome, no LaTeX and no network)

The book is built as one page, which the browser then prints. Before it prints, the page is looked at as it will lie on paper: every
formula is set, every equation of the book is there, and nothing is wider than the sheet.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from browser import CHROMIUM, Browser
from notebooks import ROOT, notebooks, read

BUILT = ROOT / "_build" / "singlehtml" / "index.html"
TARGET = ROOT / "_build" / "ddpm-book.pdf"
PAPER = 640  # pixels of an A4 sheet between its margins, at 96 a inch
# What a sheet of paper needs that a screen does not. A formula wider than the sheet is set smaller, code and output are broken into lines.
PREPARE = """(() => {
    document.documentElement.dataset.theme = 'light';
    document.querySelectorAll('details').forEach(d => d.open = true);
    document.querySelectorAll('div.math').forEach(box => { for (let size = 100; box.scrollWidth > box.clientWidth + 1 && size > 40; size -= 5)
        box.querySelectorAll('mjx-container').forEach(m => m.style.setProperty('font-size', size + '%', 'important')) });
})()"""
TOO_WIDE = """[...document.querySelectorAll('article *')].filter(e => !e.closest('mjx-assistive-mml') && !e.closest('.noprint')
    && e.getBoundingClientRect().width && e.getBoundingClientRect().right > document.documentElement.clientWidth + 2)
    .map(e => (e.closest('div.math, table, pre, figure') ?? e).outerHTML.slice(0, 90))"""
UNSET = "[...document.querySelectorAll('article .math')].filter(e => !e.querySelector('mjx-container')).length + document.querySelectorAll('mjx-merror').length"


def equations() -> list[str]:
    """The numbers that the notebooks' equations carry."""
    cells = (cell.source for path in notebooks() for cell in read(path).cells if cell.cell_type == "markdown")
    return sorted({tag for source in cells for tag in re.findall(r"\\tag\{([^}]*)\}", source)})


def print_book(page: Path = BUILT, target: Path = TARGET) -> list[str]:
    """Print a page; what is wrong with it."""
    browser = Browser()
    try:
        browser.look(PAPER, dark=False)
        browser("Emulation.setEmulatedMedia", media="print")
        browser.open(page.as_uri(), timeout=900)
        browser.js(PREPARE)
        wrong = [f"too wide for the sheet: {what}" for what in dict.fromkeys(browser.js(TOO_WIDE))]
        if unset := browser.js(UNSET):
            wrong.append(f"{unset} formulas are not set")
        printed = browser.js("[...document.querySelectorAll('[id^=eq-]')].map(e => e.id)")
        wrong += [f"Eq. ({tag}) is missing" for tag in equations() if not any(re.fullmatch(rf"eq-{tag.lower()}", name) for name in printed)]
        if closed := browser.js("document.querySelectorAll('details:not([open])').length"):
            wrong.append(f"{closed} solutions are closed")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(browser.pdf())
    finally:
        browser.close()
    return wrong


def pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf))


def main() -> None:
    if not CHROMIUM:
        sys.exit("make pdf prints with Chromium or Chrome, and none was found: install one (Debian: apt install chromium)")
    shutil.rmtree(BUILT.parent, ignore_errors=True)
    subprocess.run([Path(sys.executable).with_name("jupyter-book"), "build", ".", "--builder", "singlehtml", "-q"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    wrong = print_book()
    pdf = TARGET.read_bytes()
    print(f"{TARGET.relative_to(ROOT)}: {pages(pdf)} pages, {len(pdf) / 1e6:.1f} MB")
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
