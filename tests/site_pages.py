"""The built site, for the tests of its text (test_site.py) and in a browser (test_browser.py)."""

import os

import pytest

from book._tools.notebooks import ROOT

SITE = ROOT / "_build" / "html"
# genindex is empty and linked from nowhere; the rest are the theme's own files.
PAGES = sorted(
    p
    for p in SITE.rglob("*.html")
    if p.relative_to(SITE).parts[0] != "_static" and p.name != "genindex.html"
)

if not PAGES and os.environ.get("BOOK_SITE") == "required":
    pytest.fail("the book is not built, and `make test` builds it first", pytrace=False)
built = pytest.mark.skipif(
    not PAGES, reason="the book is not built (make book, or make test)"
)


def name(page) -> str:
    return page.relative_to(SITE).as_posix()
