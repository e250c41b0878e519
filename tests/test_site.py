"""The built site stands by itself: nothing from another host, every link leads somewhere, every picture says what it shows."""

import re
from functools import cache
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from site_pages import PAGES, SITE, built, name

from book._tools.notebooks import address, notebooks, read

pytestmark = built
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "frame": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
    "use": "href",
    "image": "href",
}
LINK_LOADS = {
    "stylesheet",
    "icon",
    "preload",
    "prefetch",
    "modulepreload",
    "manifest",
    "preconnect",
    "dns-prefetch",
}
FAR = re.compile(r"^(?:https?:)?//")


class Page(HTMLParser):
    """What a page loads, links to, is linked at, and shows."""

    def __init__(self, text: str):
        super().__init__()
        self.loads, self.links, self.ids, self.pictures, self.style = (
            [],
            [],
            set(),
            [],
            "",
        )
        self._in_style = self._named = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self._in_style = tag == "style"
        self.style += attrs.get("style") or ""
        if "id" in attrs:
            self.ids.add(attrs["id"])
        if tag == "a" and "href" in attrs:
            self.links.append(attrs["href"])
        if tag in LOADS and attrs.get(LOADS[tag]):
            self.loads.append(attrs[LOADS[tag]])
        if tag == "link" and LINK_LOADS & set(attrs.get("rel", "").split()):
            self.loads.append(attrs.get("href") or "")
        if tag in ("button", "figcaption", "a"):
            self._named = False
        if tag == "img" and not (self._named and attrs.get("alt") == ""):
            self.pictures.append(attrs.get("alt") or "")
        if attrs.get("role") == "img":
            self._named = True  # the name of all that is inside
            self.pictures.append(attrs.get("aria-label") or "")

    def handle_data(self, data):
        if self._in_style:
            self.style += data

    def handle_endtag(self, tag):
        self._in_style = False


@cache  # by the one process that comes to these tests, not by all that collect them
def parsed(page):
    return Page(page.read_text())


each_page = pytest.mark.parametrize("page", PAGES, ids=name)


def test_the_site_is_whole():
    assert {"index.html", "search.html", "book/references.html"} <= set(
        map(name, PAGES)
    )
    assert not list(SITE.rglob("*.html.tmp"))


@each_page
def test_loads_nothing_from_another_host(page):
    loads = parsed(page).loads
    assert not [url for url in loads if FAR.match(url)]
    assert not re.findall(
        r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)", parsed(page).style
    )
    missing = [
        url
        for url in loads
        if not url.startswith("data:")
        and not (page.parent / unquote(urlsplit(url).path)).resolve().exists()
    ]
    assert not missing


def test_style_sheets_load_nothing_from_another_host():
    sheets = list(SITE.rglob("*.css"))
    assert sheets
    far = {
        s.name: re.findall(
            r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)", s.read_text()
        )
        for s in sheets
    }
    assert not {k: v for k, v in far.items() if v}


@each_page
def test_no_page_needs_widget_scripts(page):
    assert not re.search(
        r"require(\.min)?\.js|embed-amd|html-manager|vnd\.jupyter\.widget",
        page.read_text(),
    )


@each_page
def test_links_lead_somewhere(page):
    dead = []
    for link in parsed(page).links:
        url = urlsplit(link)
        if url.scheme or url.netloc:
            continue
        target = (page.parent / unquote(url.path)).resolve() if url.path else page
        if not target.exists() or (
            target in PAGES
            and url.fragment
            and unquote(url.fragment) not in parsed(target).ids
        ):
            dead.append(link)
    assert not dead


@each_page
def test_pictures_say_what_they_show(page):
    assert not [
        alt
        for alt in parsed(page).pictures
        if len(alt) < 4 or re.search(r"\.(png|svg|jpe?g|webp|gif)$", alt)
    ]


def test_equation_numbers_are_unique():
    tags = [
        tag
        for page in PAGES
        for tag in re.findall(r"\\tag\{([^}]*)\}", page.read_text())
    ]
    assert tags and sorted(tags) == sorted(set(tags))


def test_equation_references_are_links():
    linked = [
        link
        for page in PAGES
        for link in parsed(page).links
        if re.search(r"#eq-\w+$", link)
    ]
    assert linked, "no Eq. (...) became a link: does book/_ext/paper_eqs.py run?"


def test_buttons_follow_the_address():
    far = [
        link
        for page in PAGES
        for link in parsed(page).links
        if "colab.research" in link or "/issues/new" in link
    ]
    assert bool(far) == bool(address())


def test_set_up_cells_are_not_shown():
    home = "This copy of the book does not know"  # of the set-up cell alone
    assert all(home in nb.cells[0].source for nb in map(read, notebooks()))
    assert not [name(page) for page in PAGES if home in page.read_text()]
