"""What a page carries is made small when the book is built, and looks the same: at most 2 MB with all that it loads, not compressed.

Pictures become WebP without loss, each a file of its own (in the page they would be a third larger, and it could not be read before they
had come); those of a slider's other frames are loaded when it comes near the window: see book.js. Drawings are written shorter:
drawings.py. Style sheets, icons and the formulas' fonts keep what some page uses: sheets.py. Scripts wait until the text is there.
"""

import base64
import hashlib
import io
import re
from pathlib import Path

from PIL import Image

from book._ext import sheets
from book._ext.drawings import slim_page

SCRIPTED_ICONS = re.compile(
    r"<(?:script|link)[^>]*scripts/fontawesome\.js[^>]*>(?:</script>)?"
)
# Of no use to a page of the book: tabs and cards, code run elsewhere; and, but on the page of the search, its index.
UNUSED = re.compile(
    r"<(?:script|link)[^>]*(?:sphinx-design\.min\.css|design-tabs\.js|sphinx-thebe\.(?:css|js))[^>]*>(?:</script>)?\n?"
)
FOR_THE_SEARCH = re.compile(
    r"<script[^>]*(?:searchtools|language_data|searchindex)\.js[^>]*></script>\n?"
)
WAITED_FOR = re.compile(
    r"<script (?=src=[^>]*_static/(?!documentation_options))(?![^>]*\b(?:defer|async)\b)"
)
PICTURE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")
IMG = re.compile(
    r'(<div hidden>(?:<picture>)?(?:<source[^>]*>)?)?<img [^>]*src="data:image/png[^>]*>'
)
THEME = "pydata-sphinx-theme.css"
PRUNED = (THEME, "sphinx-book-theme.css", "mystnb", "basic.css", "pygments.css")
SMALL = 1500  # bytes of a picture that stays in its page
SCRIPTS = ("*.js", "scripts/pydata-sphinx-theme.js", "scripts/sphinx-book-theme.js")


class Pictures:
    """PNG -> WebP, in files of the site; each picture once. What was made stays in a folder beside the site for the next build."""

    def __init__(self, site: Path) -> None:
        self.folder, self.kept = site / "_static" / "pictures", site.parent / "pictures"
        self.known: dict[str, tuple[str, tuple[int, int]]] = {}

    def put(self, data: str) -> tuple[str, tuple[int, int]]:
        """base64 of a PNG -> the name of its file, or data: where it is small; and its size."""
        if data not in self.known:
            raw = base64.b64decode(data)
            with Image.open(io.BytesIO(raw)) as opened:
                size = opened.size
            made, kind = self.smallest(raw)
            if len(made) <= SMALL:
                where = f"data:image/{kind};base64,{base64.b64encode(made).decode()}"
            else:
                where = f"{hashlib.sha256(made).hexdigest()[:16]}.{kind}"
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / where).write_bytes(made)
            self.known[data] = where, size
        return self.known[data]

    def smallest(self, raw: bytes) -> tuple[bytes, str]:
        kept = self.kept / f"{hashlib.sha256(raw).hexdigest()[:24]}.webp"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(webp(raw))
        made = kept.read_bytes()
        return (made, "webp") if len(made) < len(raw) else (raw, "png")


def webp(raw: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(raw)) as picture:
        clear = picture.mode in ("RGBA", "LA") or "transparency" in picture.info
        picture.convert("RGBA" if clear else "RGB").save(
            buffer, "WEBP", lossless=True, quality=80, method=4, exact=True
        )
    return buffer.getvalue()


def with_pictures(text: str, up: str, pictures: Pictures) -> str:
    """A page with its pictures beside it. Each says its size, so that nothing moves when it comes."""

    def link(found: re.Match[str]) -> str:
        where, _ = pictures.put(found[1])
        return where if where.startswith("data:") else f"{up}_static/pictures/{where}"

    def img(found: re.Match[str]) -> str:
        element = found[0]
        _, (width, height) = pictures.put(PICTURE.findall(element)[-1])
        said = "" if " width=" in element else f' width="{width}" height="{height}"'
        later = ' loading="lazy"' if found[1] else ""
        return re.sub("<img ", f'<img decoding="async"{said}{later} ', element, count=1)

    return PICTURE.sub(link, IMG.sub(img, text))


def cut_sheets(site: Path, pages: list[str]) -> None:
    static = site / "_static"
    scripts = [
        p.read_text(encoding="utf-8") for many in SCRIPTS for p in static.glob(many)
    ]
    used = sheets.names_in(pages, scripts)
    for sheet in static.rglob("*.css"):
        if sheet.name.startswith(PRUNED):
            text = sheets.pruned(sheet.read_text(encoding="utf-8"), used)
            if sheet.name == THEME:
                text = with_icons(text, sheet.parent)
            sheet.write_text(text, encoding="utf-8")


def with_icons(text: str, folder: Path) -> str:
    """The theme's icons: those that a rule shows, in the sheet itself."""
    points = {point for point in sheets.shown(text) if point >= 0xE000}

    def face(found: re.Match[str]) -> str:
        if "brands" in found[0]:
            return ""
        file = re.search(r"url\(([^)]*\.ttf)\)", found[0])
        if not file:
            return found[0]
        data = sheets.cut_font(folder / file[1], points)
        return re.sub(
            r"src:[^}]*", f'src:url({sheets.in_line(data)}) format("woff")', found[0]
        )

    return re.sub(r"@font-face\s*\{[^}]*fontawesome[^}]*\}", face, text)


def cut_formulas(site: Path) -> None:
    """The formulas' fonts with the glyphs of this book; MathJax's own menu has them whole."""
    sheet = site / "_static" / "formulas.css"
    if not sheet.exists():
        return
    text = sheet.read_text(encoding="utf-8")
    points = sheets.shown(text)
    target = site / "_static" / "fonts" / "formulas"
    target.mkdir(parents=True, exist_ok=True)

    def cut(found: re.Match[str]) -> str:
        source = sheet.parent / found[1]
        small = source.stat().st_size < 2000  # nothing to save
        data = source.read_bytes() if small else sheets.cut_font(source, points)
        (target / source.name).write_bytes(data)
        return f"fonts/formulas/{source.name}"

    text = re.sub(r"(mathjax/output/chtml/fonts/woff-v2/[\w-]+\.woff)", cut, text)
    sheet.write_text(text, encoding="utf-8")


def text_font(site: Path) -> None:
    """The text's font lies in the style sheet itself: one that came later would move every line."""
    sheet = site / "_static" / "book.css"

    def put(found: re.Match[str]) -> str:
        data = base64.b64encode((sheet.parent / found[1]).read_bytes()).decode()
        return f"url(data:font/woff2;base64,{data})"

    text = sheet.read_text(encoding="utf-8")
    sheet.write_text(
        re.sub(r"url\((fonts/[\w-]+\.woff2)\)", put, text), encoding="utf-8"
    )


def be_light(app, error) -> None:
    if app.builder.format != "html" or error:
        return
    site = Path(app.outdir)
    # The theme carries its icons twice: as a font, and as a script of 1.5 MB that draws them.
    (site / "_static" / "scripts" / "fontawesome.js").unlink(missing_ok=True)
    pictures, texts = Pictures(site), []
    for page in sorted(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        text = UNUSED.sub("", SCRIPTED_ICONS.sub("", text))
        if page.name != "search.html":
            text = WAITED_FOR.sub("<script defer ", FOR_THE_SEARCH.sub("", text))
        up = "../" * (len(page.relative_to(site).parts) - 1)
        text = with_pictures(slim_page(text), up, pictures)
        page.write_text(text, encoding="utf-8")
        texts.append(text)
    text_font(site)
    cut_sheets(site, texts)
    cut_formulas(site)


def setup(app):
    app.connect("build-finished", be_light, priority=900)  # after formulas.css
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
