"""How long a chapter takes to read, and how far into the book it is: a line below its title, computed when the book is built.

A page's seconds are its words at 200 a minute, with 20 s for a displayed formula, 2 s for one in the text, 2 s for a line of code that
is not folded away and 10 s for what a cell shows; said in steps of five minutes, for it is no more than an estimate. Solutions do not count. On
the landing page {reading-time}`all` stands for all chapters together, {reading-time}`book/01_reverse_chain` for one of them.
"""

import re

from docutils import nodes

WORDS_A_SECOND, FORMULA, INLINE, CODE_LINE, OUTPUT = 200 / 60, 20, 2, 2, 10
FOLDED = {
    "tag_hide-input",
    "tag_hide-cell",
    "tag_remove-input",
    "tag_remove-cell",
    "tag_solution",
}
NOT_PROSE = (
    nodes.literal_block,
    nodes.raw,
    nodes.math,
    nodes.math_block,
    nodes.comment,
)


class Total(nodes.Inline, nodes.TextElement):
    """Where the time of all chapters is to stand."""


def seconds(doctree) -> float:
    """What a page costs its reader, by the rates above."""
    total, solution = 0.0, False
    for node in doctree.findall():
        if isinstance(
            node, nodes.raw
        ):  # solutions are opened and closed by HTML of their own
            solution = (
                "<details" in node.astext() or solution
            ) and "</details" not in node.astext()
        if solution or isinstance(node, nodes.Text) and within(node, NOT_PROSE):
            continue
        if isinstance(node, nodes.Text):
            total += (
                len(re.findall(r"[^\W_]+(?:['\u2019-]\w+)*", node.astext()))
                / WORDS_A_SECOND
            )
        elif isinstance(node, nodes.math_block):
            total += FORMULA
        elif isinstance(node, nodes.math):
            total += INLINE
        elif (
            isinstance(node, nodes.literal_block)
            and not folded(node)
            and not output(node)
        ):
            total += CODE_LINE * len(
                [line for line in node.astext().splitlines() if line.strip()]
            )
        elif (
            "cell_output" in node.get("classes", ())
            if isinstance(node, nodes.Element)
            else False
        ):
            total += OUTPUT
    return total


def above(node):
    while node.parent is not None:
        node = node.parent
        yield node


def within(node, kinds) -> bool:
    return any(isinstance(parent, kinds) for parent in above(node))


def folded(node) -> bool:
    return any(FOLDED & set(parent.get("classes", ())) for parent in above(node))


def output(node) -> bool:
    return any("cell_output" in parent.get("classes", ()) for parent in above(node))


def spoken(total: float) -> str:
    """In steps of five minutes; from 90 minutes on in half hours."""
    minutes = max(5, round(total / 300) * 5)
    if minutes < 90:
        return f"{minutes} minutes"
    halves = round(minutes / 30)
    return f"{halves // 2}" + ("\u00bd" if halves % 2 else "") + " hours"


def collect(app, doctree) -> None:
    if not hasattr(app.env, "reading_seconds"):
        app.env.reading_seconds = {}
    app.env.reading_seconds[app.env.docname] = seconds(doctree)


def numbers(env) -> dict[str, int]:
    """Page -> its number, of every numbered chapter; a chapter may have several pages."""
    return {
        page: found[""][0]
        for page, found in env.toc_secnumbers.items()
        if found.get("")
    }


def put(app, doctree, docname: str) -> None:
    chapters, took = numbers(app.env), app.env.reading_seconds
    for node in list(doctree.findall(Total)):
        of = node["of"]
        node.replace_self(
            nodes.Text(
                spoken(sum(took[p] for p in chapters) if of == "all" else took[of])
            )
        )
    title = next(iter(doctree.findall(nodes.title)), None)
    if docname not in chapters or title is None:
        return
    n, last = chapters[docname], max(chapters.values())
    line = (
        f'<p class="reading"><span>Chapter {n} of {last}</span><span class="reading-bar" style="--read:{100 * n / last:.0f}%" aria-hidden="true"></span>'
        f"<span>about {spoken(took[docname])}</span></p>"
    )
    title.parent.insert(
        title.parent.index(title) + 1, nodes.raw("", line, format="html")
    )


def role(name, rawtext, text, lineno, inliner, options=None, content=None):
    if text != "all" and not text.startswith("book/"):
        return [], [
            inliner.reporter.error(
                f'reading-time is asked for {text!r}; wanted "all" or a page such as book/01_reverse_chain',
                line=lineno,
            )
        ]
    return [Total(of=text)], []


def setup(app):
    app.add_node(Total)
    app.add_role("reading-time", role)
    app.connect("doctree-read", collect)
    app.connect("doctree-resolved", put)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
