"""What a narrow screen needs and Sphinx does not write: where a long name breaks, and what a table's cells are called when it stacks.

- A name in the text breaks behind a dot, an underscore or a bracket, not in the middle of a word; a short one not at all.
- A table of three columns or more whose rows are longer than a phone's line gets the class `stacked`, and each cell its column's name:
  on a phone book.css makes a block of each row.
"""

import html
import re

LINE = 42  # letters that a phone shows side by side in a table of several columns
SHORT = 18  # letters of a name that is never broken
CODE = re.compile(r'<code class="docutils literal notranslate">(.*?)</code>', re.DOTALL)
NAME = re.compile(r'<span class="pre">([^<]*)</span>')
HINGE = re.compile(r"(?<=[\w)\]])([./=(\[,]+|_+)(?=[\w\"'*-])")
TABLE = re.compile(r'<table class="table([^"]*)"(.*?)</table>', re.DOTALL)
ROW = re.compile(r"<tr[^>]*>(.*?)</tr>", re.DOTALL)
CELL = re.compile(r"<t([hd])([^>]*)>(.*?)</t\1>", re.DOTALL)
SEEN = re.compile(r"<mjx-math.*?</mjx-math>|<[^>]*>", re.DOTALL)


def whole(found: re.Match[str]) -> str:
    """A few words of code that stay in one line."""
    if len(words(found[1])) > SHORT:
        return found[0]
    return found[0].replace("notranslate", "notranslate kept", 1)


def hinged(found: re.Match[str]) -> str:
    name = found[1]
    if len(html.unescape(name)) <= SHORT:
        return f'<span class="pre kept">{name}</span>'
    broken = HINGE.sub(r"\1<wbr>", name)
    return f'<span class="pre">{broken}</span>'


def words(cell: str) -> str:
    """What a cell says, a formula by the letters of its MathML."""
    return " ".join(html.unescape(SEEN.sub("", cell)).split())


def labelled(found: re.Match[str]) -> str:
    kinds, inside = found[1], found[2]
    rows = [[cell[3] for cell in CELL.finditer(row[1])] for row in ROW.finditer(inside)]
    if "<thead>" not in inside or len(rows[0]) < 3 or "colspan" in inside:
        return found[0]
    columns = [[words(cell) for cell in column] for column in zip(*rows)]
    if sum(max(map(len, column)) for column in columns) <= LINE:
        return found[0]
    heads = [html.escape(column[0]) for column in columns]

    def row(line: re.Match[str]) -> str:
        names = iter(heads)
        return CELL.sub(lambda cell: named(cell, next(names)), line[0])

    return f'<table class="table{kinds} stacked"{ROW.sub(row, inside)}</table>'


def named(cell: re.Match[str], name: str) -> str:
    """A cell with its column's name; an empty one has nothing to be named."""
    said = f' data-label="{name}"' if words(cell[3]) or "<img" in cell[3] else ""
    return f"<t{cell[1]}{cell[2]}{said}>{cell[3]}</t{cell[1]}>"


def fit(app, pagename, templatename, context, doctree) -> None:
    if body := context.get("body"):
        context["body"] = TABLE.sub(labelled, NAME.sub(hinged, CODE.sub(whole, body)))


def setup(app):
    app.connect("html-page-context", fit)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
