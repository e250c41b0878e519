r"""The paper's own equation numbers, and links to them, from text that plain Jupyter and Colab show just as well.

An author writes, once in the whole book, a display equation with its number

    $$
    x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon \tag{4}
    $$

and anywhere, in any chapter, "Eq. (4)", "Eqs. (4) and (7)", "Eqs. (4), (6) and (7)", "Eqs. (8)-(12)". Each number becomes a link. A number that
no equation carries, or that two carry, is a warning, which the strict build turns into an error.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

log = logging.getLogger(__name__)

TAG = re.compile(r"\\tag\{([^}]*)\}")
CALLED = {  # what the field calls them, for the search
    "7": ("posterior", "forward posterior"),
    "13": ("discrete decoder", "discretized likelihood"),
    "14": ("simple loss", "L_simple", "simplified objective"),
    "15": ("predicted x_0",),
}
NUMBER = r"\(([A-Z]?\d+[a-z]?)\)"
REFERENCE = re.compile(
    rf"\bEqs?\.\s+{NUMBER}(?:(?:,? and |, | to |\s*[-\u2013]\s*){NUMBER})*"
)
NOT_TEXT = (
    nodes.literal,
    nodes.literal_block,
    nodes.math,
    nodes.math_block,
    nodes.raw,
    nodes.comment,
)
NOT_LINKED = (
    nodes.reference,
    nodes.title,
)  # a link inside of a link, or in the table of contents: the number is checked, not linked


def places(env) -> dict[str, list[str]]:
    """Number -> the pages that carry it, one entry for each equation."""
    if not hasattr(env, "paper_eqs"):
        env.paper_eqs = {}
    return env.paper_eqs


def anchor(number: str) -> str:
    return f"eq-{number.lower()}"


def collect(app, doctree) -> None:
    """On reading a page: remember the numbers it carries, and hand each such equation to MathJax as it stands."""
    for equation in list(doctree.findall(nodes.math_block)):
        source = equation.astext()
        for number in TAG.findall(source):
            places(app.env).setdefault(number, []).append(app.env.docname)
            if anchor(number) not in doctree.ids:
                equation["ids"].append(anchor(number))
                doctree.ids[anchor(number)] = equation
                searched = addnodes.index(
                    entries=[
                        ("single", words, anchor(number), "main", None)
                        for words in names(number)
                    ]
                )
                equation.parent.insert(equation.parent.index(equation), searched)
        if TAG.search(source) and not equation.get("nowrap"):
            # Sphinx would wrap an equation of several lines in `split`, where MathJax refuses \tag. An empty line ends TeX's display.
            body = "\n".join(line for line in source.splitlines() if line.strip())
            equation["nowrap"] = True
            equation.children = [nodes.Text(rf"\[{body}\]")]


def keep_together(app, doctree) -> None:
    """A heading does not break between "Eq." and its number."""
    for title in doctree.findall(nodes.title):
        for text in list(title.findall(nodes.Text)):
            kept = re.sub(r"\b(Eqs?\.) (?=\()", "\\1\u00a0", str(text))
            if kept != str(text):
                text.parent.replace(text, nodes.Text(kept))


def names(number: str) -> list[str]:
    """What a reader types to find an equation. As entries of Sphinx's index they lead the search straight to it."""
    return [
        f"Eq. ({number})",
        f"Eq. {number}",
        f"equation ({number})",
        f"equation {number}",
        f"({number})",
        f"\uc2dd ({number})",
        f"\uc2dd {number}",
        *CALLED.get(number, ()),
    ]


def forget(app, env, docname) -> None:
    for number, pages in list(places(env).items()):
        env.paper_eqs[number] = [page for page in pages if page != docname]


def check_unique(app, env) -> None:
    for number, pages in sorted(places(env).items()):
        if len(pages) > 1:
            log.warning(
                "equation (%s) is tagged %d times: in %s",
                number,
                len(pages),
                ", ".join(pages),
                type="paper_eqs",
                subtype="twice",
            )


class LinkEquations(SphinxPostTransform):
    default_priority = 400

    def run(self) -> None:
        for line in list(self.document.findall(nodes.TextElement)):
            join_texts(line)
        for text in list(self.document.findall(nodes.Text)):
            around = list(ancestors(text))
            if not any(isinstance(node, NOT_TEXT) for node in around):
                linked = self.link(str(text), text.parent)
                if linked and not any(isinstance(node, NOT_LINKED) for node in around):
                    text.parent.replace(text, linked)

    def link(self, text: str, where) -> list[nodes.Node]:
        """'see Eqs. (4) and (7)' -> 'see ', <Eqs. (4)>, ' and ', <(7)>; nothing for a text without a reference."""
        out, done = [], 0
        for phrase in REFERENCE.finditer(text):
            start = (
                phrase.start()
            )  # the word before the first number belongs to its link
            for found in re.finditer(NUMBER, phrase.group()):
                end = phrase.start() + found.end()
                number = found.group(1)
                if places(self.env).get(number):
                    out += [
                        nodes.Text(text[done:start]),
                        self.reference(text[start:end], number),
                    ]
                    done = end
                else:
                    log.warning(
                        "no equation is tagged (%s)",
                        number,
                        location=where,
                        type="paper_eqs",
                        subtype="missing",
                    )
                following = re.search(NUMBER, phrase.group()[found.end() :])
                start = end + following.start() if following else end
        return (
            [node for node in [*out, nodes.Text(text[done:])] if node.astext()]
            if out
            else []
        )

    def reference(self, words: str, number: str) -> nodes.reference:
        page = places(self.env)[number][0]
        here = page == self.env.docname
        uri = "" if here else self.app.builder.get_relative_uri(self.env.docname, page)
        return nodes.reference(
            "",
            words,
            internal=True,
            refuri=f"{uri}#{anchor(number)}",
            classes=["equation-link"],
        )


def join_texts(line) -> None:
    """A line break in the source splits a text into several nodes; "Eq." at one's end and "(4)" at the next one's start belong together."""
    children = []
    for child in line.children:
        if (
            isinstance(child, nodes.Text)
            and children
            and isinstance(children[-1], nodes.Text)
        ):
            child = nodes.Text(children.pop() + child)
        children.append(child)
    if len(children) < len(line.children):
        line.children = []
        line.extend(children)


def ancestors(node):
    while node.parent is not None:
        node = node.parent
        yield node


def setup(app):
    app.connect("doctree-read", keep_together, priority=400)  # before titles are kept
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", forget)
    app.connect("env-check-consistency", check_unique)
    app.add_post_transform(LinkEquations)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
