"""The whole book as one PDF, its solutions open: _build/ddpm-book.pdf.

    python -m book._tools.print_pdf        (make pdf; needs Chromium or Chrome, no LaTeX and no network)

The browser prints the built pages one by one, and what it printed is put together; links from one to another stay links. Before a page
is printed, it is looked at as it will lie on paper: every formula is set, nothing is wider than the sheet; and in the end every equation of
the book has to be there.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject

from book._tools.browser import CHROMIUM, Browser
from book._tools.notebooks import ROOT, notebooks, read

BUILT = ROOT / "_build" / "html"
TARGET = ROOT / "_build" / "ddpm-book.pdf"
PAPER = 800  # pixels of an A4 sheet between its margins, at 120 an inch: 96 are what a screen has, and for paper too large
# What a sheet of paper needs that a screen does not. A formula wider than the sheet is set smaller, code and output are broken into lines.
PREPARE = """(() => {
    document.documentElement.dataset.theme = 'light';
    document.querySelectorAll('details').forEach(d => d.open = true);
    document.querySelectorAll('img[loading]').forEach(i => i.loading = 'eager');
    for (const formula of document.querySelectorAll('div.math mjx-container')) {
        const wide = () => Math.max(...[...formula.querySelectorAll('mjx-math, mjx-mtd, mjx-mtable')].map(e => e.getBoundingClientRect().right));
        for (let size = 105; size > 40 && wide() > formula.closest('div.math').getBoundingClientRect().right + 1; size -= 5)
            formula.style.setProperty('font-size', size + '%', 'important');
    }
})()"""
TOO_WIDE = """[...document.querySelectorAll('article *')].filter(e => !e.closest('mjx-assistive-mml') && !e.closest('.noprint')
    && !e.parentElement.closest('svg') // what a drawing clips away reaches beyond it
    && e.getBoundingClientRect().width && e.getBoundingClientRect().right > document.documentElement.clientWidth + 2)
    .map(e => (e.closest('div.math, table, pre, figure') ?? e).outerHTML.slice(0, 90))"""
UNSET = "[...document.querySelectorAll('article .math')].filter(e => !e.querySelector('mjx-container')).length + document.querySelectorAll('mjx-merror').length"


def equations() -> list[str]:
    """The numbers that the notebooks' equations carry."""
    cells = (
        cell.source
        for path in notebooks()
        for cell in read(path).cells
        if cell.cell_type == "markdown"
    )
    return sorted(
        {tag for source in cells for tag in re.findall(r"\\tag\{([^}]*)\}", source)}
    )


def contents() -> list[Path]:
    """The built pages in the order of the book."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [
        BUILT / f"{name}.html"
        for name in [
            toc["root"],
            *(
                page["file"]
                for part in toc["parts"]
                for chapter in part["chapters"]
                for page in (chapter, *chapter.get("sections", ()))
            ),
        ]
    ]


def print_page(browser: Browser, page: Path) -> tuple[PdfReader, list[str], list[str]]:
    """One page, printed; what is wrong with it; the names of its equations."""
    browser.open(page.as_uri(), timeout=300)
    browser.js(PREPARE)
    wrong = [
        f"too wide for the sheet: {what}"
        for what in dict.fromkeys(browser.js(TOO_WIDE))
    ]
    if unset := browser.js(UNSET):
        wrong.append(f"{unset} formulas are not set")
    if closed := browser.js("document.querySelectorAll('details:not([open])').length"):
        wrong.append(f"{closed} solutions are closed")
    names = browser.js("[...document.querySelectorAll('[id^=eq-]')].map(e => e.id)")
    return (
        PdfReader(BytesIO(browser.pdf())),
        [f"{page.name}: {what}" for what in wrong],
        names,
    )


def print_book(pages: list[Path], target: Path = TARGET) -> list[str]:
    """Print pages one after the other into one file; what is wrong with them."""
    wrong, printed, begins = [], [], {}
    book = PdfWriter()
    browser = Browser()
    try:
        browser.look(PAPER, dark=False)
        browser("Emulation.setEmulatedMedia", media="print")
        for page in pages:
            chapter, faults, names = print_page(browser, page)
            wrong, printed = wrong + faults, printed + names
            begins[page.as_uri()] = len(book.pages)
            by_place(chapter)
            book.append(
                chapter,
                outline_item=browser.js(
                    "document.querySelector('h1')?.firstChild?.textContent || document.title"
                ),
            )
            print(f"make pdf: {page.stem}, {len(chapter.pages)} pages", file=sys.stderr)
        number(book, browser)
    finally:
        browser.close()
    between(book, begins)
    wrong += [
        f"Eq. ({tag}) is missing"
        for tag in equations()
        if f"eq-{tag.lower()}" not in printed
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    book.compress_identical_objects()  # every page has brought its own copy of the fonts
    book.write(target)
    return wrong


def number(book: PdfWriter, browser: Browser) -> None:
    """The sheets of the whole book from 1 on: the browser, which would count every chapter anew, prints as many empty ones and numbers those."""
    browser.open(
        "data:text/html,"
        + quote(
            "<div style='break-after:page'>&nbsp;</div>" * (len(book.pages) - 1)
            + "&nbsp;"
        )
    )
    numbers = PdfReader(BytesIO(browser.pdf(numbered=True)))
    if len(numbers.pages) != len(book.pages):
        raise RuntimeError(f"{len(numbers.pages)} numbers for {len(book.pages)} sheets")
    for sheet, foot in zip(book.pages, numbers.pages):
        sheet.merge_page(foot)
        sheet.compress_content_streams()  # merged, they lie open, three times as large


def links(pages: Iterable[Any]) -> Iterator[DictionaryObject]:
    for page in pages:
        for annotation in page.get("/Annots") or []:
            if (link := annotation.get_object()).get("/Subtype") == "/Link":
                yield link


def by_place(chapter: PdfReader) -> None:
    """Links inside a page go to a place in it, not to a name: two pages may have used the same name."""
    for link in links(chapter.pages):
        if (
            isinstance(link.get("/Dest"), str)
            and (to := chapter.named_destinations.get(link["/Dest"])) is not None
        ):
            link[NameObject("/Dest")] = to.dest_array


def between(book: PdfWriter, begins: dict[str, int]) -> None:
    """Links to other pages of the site become links to where these begin in the file; what else is beside them on the disk, no reader has."""
    for link in links(book.pages):
        address = link.get("/A", {}).get("/URI", "").partition("#")[0]
        if address.startswith("file:"):
            del link["/A"]
        if address in begins:
            link[NameObject("/Dest")] = ArrayObject(
                [book.pages[begins[address]].indirect_reference, NameObject("/Fit")]
            )


def main() -> None:
    if not CHROMIUM:
        sys.exit(
            "make pdf prints with Chromium or Chrome, and none was found: install one (Debian: apt install chromium)"
        )
    wrong = print_book(contents())
    print(
        f"{TARGET.relative_to(ROOT)}: {len(PdfReader(TARGET).pages)} pages, {TARGET.stat().st_size / 1e6:.1f} MB"
    )
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
