"""Style sheets and fonts, cut down to what some page of the book uses.

The theme's sheet has rules for a hundred things that no page has (carousels, cards, two thousand icons), and its icons and the formulas'
glyphs come in fonts of which a page shows a few. A rule stays if each class and name in it stands in a page or in a script.
"""

import base64
import html
import io
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

logging.getLogger("fontTools").setLevel(logging.ERROR)  # it says what it leaves out
# What Bootstrap's script puts on for menus, the small texts beside buttons, and what folds.
AT_WORK = "show showing hide hiding fade collapse collapsed collapsing active disabled dropdown dropup dropdown-menu dropdown-item dropdown-toggle tooltip tooltip-inner tooltip-arrow bs-tooltip-top bs-tooltip-bottom bs-tooltip-start bs-tooltip-end bs-tooltip-auto modal-open".split()
CLASS, ID = (re.compile(r"\.((?:\\.|[\w-])+)"), re.compile(r"#((?:\\.|[\w-])+)"))
GLYPH = re.compile(r'"((?:\\[0-9a-fA-F]{1,6} ?|\\.|[^"\\])*)"')


def blocks(sheet: str) -> Iterator[tuple[str, str | None]]:
    """(what stands before the brace, what is in it) for each rule; (a statement, None) for @import and @charset."""
    start = i = 0
    while i < len(sheet):
        if sheet.startswith("/*", i):
            end = sheet.find("*/", i) + 2
            sheet = sheet[:i] + sheet[end:]
        elif sheet[i] in "\"'":
            i = _string(sheet, i)
        elif sheet[i] == ";":
            yield sheet[start:i].strip(), None
            i = start = i + 1
        elif sheet[i] == "{":
            end = _closing(sheet, i)
            yield sheet[start:i].strip(), sheet[i + 1 : end]
            i = start = end + 1
        else:
            i += 1


def _string(text: str, i: int) -> int:
    quote, i = text[i], i + 1
    while text[i] != quote:
        i += 2 if text[i] == "\\" else 1
    return i + 1


def _closing(text: str, i: int) -> int:
    """Of the brace at i the other one."""
    depth = 0
    while True:
        if text.startswith("/*", i):
            i = text.find("*/", i) + 2
        elif text[i] in "\"'":
            i = _string(text, i)
        else:
            depth += (text[i] == "{") - (text[i] == "}")
            if not depth:
                return i
            i += 1


def selectors(prelude: str) -> list[str]:
    """At the commas that are in no parentheses."""
    parts, depth = [""], 0
    for letter in prelude:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def wanted(selector: str, used: set[str]) -> bool:
    """May this selector match something? One of several in parentheses is enough, so what stands there is not asked."""
    bare = re.sub(r"\[[^\]]*\]", "", selector)
    while (less := re.sub(r":[\w-]+\([^()]*\)", "", bare)) != bare:
        bare = less
    named = [*CLASS.findall(bare), *ID.findall(bare)]
    return all(re.sub(r"\\(.)", r"\1", name) in used for name in named)


def pruned(sheet: str, used: set[str]) -> str:
    out = []
    for prelude, body in blocks(sheet):
        if body is None:
            out.append(f"{prelude};" if prelude else "")
        elif re.match(r"@(media|supports|layer|container)", prelude):
            inside = pruned(body, used)
            out.append(f"{prelude}{{{inside}}}" if inside else "")
        elif prelude.startswith("@"):
            out.append(f"{prelude}{{{body}}}")
        else:
            kept = [s for s in selectors(prelude) if wanted(s, used)]
            out.append(f"{','.join(kept)}{{{body.strip()}}}" if kept else "")
    return "".join(out)


def names_in(pages: Iterable[str], scripts: Iterable[str]) -> set[str]:
    """Every class and id of the pages, and every word of the scripts, which may put it on."""
    used = set(AT_WORK)
    for page in pages:
        for value in re.findall(r'\b(?:class|id)=["\']?([^"\'>]*)', page):
            used.update(html.unescape(value).split())
    for script in scripts:
        used.update(re.findall(r"[A-Za-z_][\w-]*", script))
    return used


def shown(sheet: str) -> set[int]:
    """The characters that a sheet's rules bring into the page, as `content` or by way of a variable."""
    points: set[int] = set()
    for text in GLYPH.findall(sheet):
        points.update(
            int(code, 16) for code in re.findall(r"\\([0-9a-fA-F]{1,6})", text)
        )
        plain = re.sub(r"\\[0-9a-fA-F]{1,6} ?", "", text)
        points.update(map(ord, plain))
    return points


def cut_font(source: Path, points: set[int]) -> bytes:
    """A font with these characters only, as WOFF."""
    font = TTFont(source)
    options = subset.Options(flavor="woff", notdef_outline=True, hinting=False)
    options.layout_features = ["*"]
    options.drop_tables += ["FFTM"]
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=points)
    cutter.subset(font)
    font.flavor, font.recalcTimestamp = "woff", False  # the same bytes each time
    buffer = io.BytesIO()
    font.save(buffer)
    return buffer.getvalue()


def in_line(data: bytes) -> str:
    return f"data:font/woff;base64,{base64.b64encode(data).decode()}"
