"""Write book/map.md, the map of the book as one figure and as a list, out of map.toml.

    python -m book._tools.draw_map              write the page
    python -m book._tools.draw_map --check      write nothing; fail if the page is stale or a place is missing

The figure is SVG in the page itself: its colours follow the theme, every box is a link that the keyboard reaches, in the order of the
numbers, and what touches the box in hand is set off. It is laid out for a phone; a wide screen shows it larger.
"""

import html
import sys
import tomllib
from pathlib import Path

from book._tools.index_pages import EQUATIONS, chapters, slug
from book._tools.notebooks import BOOK

TABLE, PAGE = Path(__file__).with_name("map.toml"), BOOK / "map.md"
COLUMNS, ROW, TOP = (
    (58, 180, 302),
    76,
    8,
)  # centres of the columns; from row to row; above the first
WIDTH, BOX, TALL = 360, 100, 46  # of the picture; of a box

HEAD = """# The map: what follows from what

Each numbered box is an equation of the paper, each arrow one derivation. <span class="map-q">Blue</span> is the process that is given, <span class="map-p">orange</span> the one that is learned, and
grey is what compares the two. Everything begins with the two definitions at the top; the two algorithms are all that a computer needs to know. The last four boxes are not the paper's: SDE, Flow, Likelihood and Langevin.
Choose a box to go where it is derived. {checks}`all` checks hold along the way; in the list below stands how many of them each chapter has.
"""


def places(table: dict, book: list) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """Key -> (page and anchor of the built site, title of its chapter), and what is missing."""
    found, missing = (
        {},
        [f"Eq. ({n}) is not in map.toml" for n in EQUATIONS if n not in table],
    )
    for key, node in table.items():
        file, _, heading = node.get("place", "").partition("#")
        owner = next(
            (
                c
                for c in book
                if (
                    c.file == f"{file}.ipynb" and heading in c.headings
                    if file
                    else key in c.formulas
                )
            ),
            None,
        )
        if owner is None:
            missing.append(
                f"{key}: no chapter has it"
                if not file
                else f"{key}: {file}.ipynb has no heading {heading!r}"
            )
            continue
        anchor = owner.headings[heading] if file else f"eq-{slug(key)}"
        found[key] = (f"{owner.file.removesuffix('.ipynb')}.html#{anchor}", owner.title)
    missing += [
        f"{key} follows from {parent}, which is not in map.toml"
        for key in table
        for parent, _ in parents(table[key])
        if parent not in table
    ]
    return found, missing


def parents(node: dict) -> list[tuple[str, str]]:
    """What it follows from, and which way the arrow takes: "4 right" -> ("4", "right")."""
    ways = ("bend", "side", "gap", "right")
    return [
        (
            " ".join(w for w in words.split() if w not in ways),
            next((w for w in words.split() if w in ways), ""),
        )
        for words in node["from"]
    ]


def called(key: str) -> str:
    return f"Eq. ({key})" if key.isdigit() else key


def middle(node: dict) -> tuple[float, float]:
    column, row = node["at"]
    return COLUMNS[column], TOP + row * ROW + TALL / 2


def arrow(start: dict, end: dict, way: str) -> str:
    """From one box to the other: down, or by the way that map.toml gives."""
    (x0, y0), (x1, y1), half, tip = middle(start), middle(end), BOX / 2, 3
    if way == "side":  # along the row
        return (
            f"M{x0 - half:g} {y0:g}H{x1 + half + tip:g}"
            if x1 < x0
            else f"M{x0 + half:g} {y0:g}H{x1 - half - tip:g}"
        )
    if way == "gap":  # down between two columns, and in from the right
        gap = (COLUMNS[end["at"][0]] + COLUMNS[start["at"][0]]) / 2
        return f"M{x0 - half:g} {y0 + 8:g}Q{gap:g} {y0 + 8:g} {gap:g} {y0 + 28:g}V{y1 - 24:g}Q{gap:g} {y1 - 8:g} {x1 + half + tip:g} {y1 - 8:g}"
    if way == "right":  # down outside of the last column
        edge = WIDTH - 1
        return f"M{x0 + half:g} {y0:g}Q{edge:g} {y0:g} {edge:g} {y0 + 16:g}V{y1 - 16:g}Q{edge:g} {y1:g} {x1 + half + tip:g} {y1:g}"
    top, bottom = y1 - TALL / 2 - tip, y0 + TALL / 2
    if x0 == x1:
        return f"M{x0:g} {bottom:g}V{top:g}"
    lean = (
        (26 if x1 < x0 else -26) if way == "bend" else 0
    )  # leaves and arrives beside the arrows that go straight down
    x0, x1 = x0 - lean, x1 + lean
    return (
        f"M{x0:g} {bottom:g}C{x0:g} {bottom + 22:g} {x1:g} {top - 26:g} {x1:g} {top:g}"
    )


def figure(table: dict, where: dict) -> str:
    rows = 1 + max(node["at"][1] for node in table.values())
    tall, arrows, boxes, lit = TOP + (rows - 1) * ROW + TALL + 8, [], [], []
    for key, node in table.items():
        name, after = slug(key), [called(parent) for parent, _ in parents(node)]
        for parent, way in parents(node):
            arrows.append(
                f'<path class="from-{slug(parent)} to-{name}" d="{arrow(table[parent], node, way)}"/>'
            )
        x, y = middle(node)
        spoken = f"{called(key)} {node['name']}" + (
            f", follows from {' and '.join(after)}" if after else ", a definition"
        )
        boxes.append(
            f'<a class="map-{node["says"]}" id="map-{name}" href="{where[key][0]}" aria-label="{html.escape(spoken)}">'
            f"<title>{html.escape(where[key][1])}: {html.escape(node['by'])}</title>"
            f'<rect x="{x - BOX / 2:g}" y="{y - TALL / 2:g}" width="{BOX}" height="{TALL}" rx="8"/>'
            f'<text class="map-number" x="{x:g}" y="{y - 3:g}">{f"({key})" if key.isdigit() else key}</text> '
            f'<text x="{x:g}" y="{y + 14:g}">{html.escape(node["name"])}</text></a>'
        )
        lit.append(
            f".map:has(#map-{name}:is(:hover,:focus-visible)) :is(.from-{name},.to-{name})"
        )
    return (
        f'<figure class="map"><svg viewBox="0 0 {WIDTH} {tall:g}" role="group" aria-label="Map of the equations: sixteen equations, two algorithms and four boxes beside the paper, each '
        'with arrows from what it follows from. The same stands in the list below.">'
        '<defs><marker id="map-tip" viewBox="0 0 8 8" refX="5" refY="4" markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
        f'<g class="map-arrows" aria-hidden="true">{"".join(arrows)}</g>{"".join(boxes)}</svg>'
        f"<style>{','.join(lit)}{{stroke:var(--pst-color-primary);stroke-width:2.5;opacity:1}}</style></figure>"
    )


def page(book: list | None = None, table: dict | None = None) -> tuple[str, list[str]]:
    """The page, and what is missing."""
    table, book = table or tomllib.loads(TABLE.read_text()), book or chapters()
    where, missing = places(table, book)
    if missing:
        return "", missing
    lines = [
        HEAD,
        "```{raw} html",
        figure(table, where),
        "```",
        "",
        "## The same in words",
        "",
    ]
    for key, node in table.items():
        link = where[key][0].replace(".html", ".ipynb").split("#")[0]
        lines.append(
            f"- **{called(key)}**, {node['name']}: {in_links(node['by'])}. *[{where[key][1]}]({link})*, {{checks}}`{link.removesuffix('.ipynb')}` checks"
        )
    return "\n".join(lines) + "\n", []


def in_links(text: str) -> str:
    """ "(4) inserted into (8)" -> "Eq. (4) inserted into Eq. (8)", which the built page links."""
    words = text
    for n in EQUATIONS:
        words = words.replace(f"({n})", f"Eq. ({n})")
    return words


def main() -> None:
    text, missing = page()
    if not missing and (not PAGE.exists() or PAGE.read_text() != text):
        if "--check" in sys.argv:
            missing.append("map.md is stale: python -m book._tools.draw_map")
        else:
            PAGE.write_text(text)
    print("\n".join(missing) or "map.md is complete and current")
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()
