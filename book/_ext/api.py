r"""The reference pages: the docstrings of ddpm_core, tied to the chapters in both directions.

A docstring of the package is plain text, laid out by hand: a sentence or two, then arguments with their shapes in columns. Here its
sentences become paragraphs and whatever is laid out keeps its layout; equation numbers become links as everywhere in the book. Below it
stand the chapters whose code uses the function. And where a chapter names a function, `q_posterior` or `ddpm.q_posterior`, the
name is a link to its entry.
"""

import importlib
import inspect
import pkgutil
import re
from functools import lru_cache
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform

import ddpm_core

BOOK = Path(__file__).resolve().parents[1]
PAGE = "book/reference"
MANY = 6  # chapters that use a name, above which their list is folded
LAID_OUT = re.compile(
    r"\S {2,}\S|^\s*->|^ {2,}\S"
)  # columns, a result, an indented line: not a sentence's end, after which one blank stands


@lru_cache
def listed() -> set[str]:
    """The modules that the reference is about."""
    page = (BOOK.parent / f"{PAGE}.md").read_text(encoding="utf-8")
    return set(re.findall(r"automodule:: (\S+)", page))


@lru_cache
def names() -> dict[str, str]:
    """Public name -> full name, of every function and class that a module of the package defines. A name of two modules is left out."""
    found: dict[str, list[str]] = {}
    for module in pkgutil.iter_modules(ddpm_core.__path__):
        if module.name.startswith("_"):
            continue
        loaded = importlib.import_module(f"ddpm_core.{module.name}")
        if loaded.__name__ not in listed():  # inside, or moved inside
            continue
        for name, member in vars(loaded).items():
            if (
                not name.startswith("_")
                and (inspect.isfunction(member) or inspect.isclass(member))
                and member.__module__ == loaded.__name__
            ):
                found.setdefault(name, []).append(f"{loaded.__name__}.{name}")
    return {name: full[0] for name, full in found.items() if len(full) == 1}


@lru_cache
def uses() -> dict[str, list[tuple[str, str]]]:
    """Public name -> (page, title) of each chapter whose code says it, in reading order."""
    found: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(BOOK.glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        code = "\n".join(
            cell.source for cell in notebook.cells if cell.cell_type == "code"
        )
        title = next(
            line.lstrip("# ")
            for cell in notebook.cells
            if cell.cell_type == "markdown"
            for line in cell.source.splitlines()
            if line.startswith("# ")
        )
        for name in sorted(set(re.findall(r"\b[A-Za-z_]\w*\b", code)) & set(names())):
            if re.search(rf"\bddpm\.{name}\b|import [^\n]*\b{name}\b", code):
                found.setdefault(name, []).append((path.stem, title))
    return found


def write_docstring(
    app, what: str, full: str, member, options, lines: list[str]
) -> None:
    """Plain text -> reStructuredText, in place."""
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    text: list[str] = []
    for block in filter(None, blocks):
        first = next(
            (i for i, line in enumerate(block) if LAID_OUT.search(line)), len(block)
        )
        text += [prose(line) for line in block[:first]] + [""]
        if block[first:]:
            text += [
                ".. code-block:: none",
                "   :class: laid-out",
                "",
                *("   " + line for line in block[first:]),
                "",
            ]
    name = full.rsplit(".", 1)[-1]
    if what in ("function", "class") and names().get(name) == full and name in uses():
        text += chapters(uses()[name])
    lines[:] = text


def chapters(using: list[tuple[str, str]]) -> list[str]:
    """Where a name is used; of many chapters the list is folded."""
    links = ", ".join(f"`{title} <{stem}.html>`__" for stem, title in using)
    line = [f"In the chapters: {links}", ""]
    if len(using) <= MANY:
        return line
    fold = f'<details class="more"><summary>In {len(using)} chapters</summary>'
    raw = lambda what: [".. raw:: html", "", f"   {what}", ""]
    return [*raw(fold), *line, *raw("</details>")]


def prose(line: str) -> str:
    """A line of plain text, so that reStructuredText leaves it as it is; `names` are set as code."""
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(
        f"``{part[1:-1]}``" if i % 2 else re.sub(r"([\\*|_])", r"\\\1", part)
        for i, part in enumerate(parts)
    )


class LinkNames(SphinxPostTransform):
    """`q_posterior` in a chapter's text -> a link to its entry."""

    default_priority = 401

    def run(self) -> None:
        page = self.env.docname
        if page == PAGE or not page.startswith("book/"):
            return
        for literal in list(self.document.findall(nodes.literal)):
            name = re.sub(
                r"^(ddpm|ddpm_core(\.\w+)?)\.(?=\w)|\(\)$", "", literal.astext()
            )
            full = names().get(name)
            parent = literal.parent
            if full and not isinstance(
                parent, (nodes.reference, nodes.title, addnodes.pending_xref)
            ):
                link = nodes.reference(
                    "",
                    "",
                    internal=True,
                    refuri=f"{self.app.builder.get_relative_uri(page, PAGE)}#{full}",
                )
                parent.replace(literal, link)
                link += literal


def setup(app):
    app.setup_extension("sphinx.ext.autodoc")
    app.config.autodoc_member_order = "bysource"
    app.config.autodoc_inherit_docstrings = (
        False  # or Module.forward's text stands below each network
    )
    app.config.autodoc_typehints = (
        "none"  # the docstrings say shapes, which types cannot
    )
    app.config.python_maximum_signature_line_length = 60
    app.config.add_module_names = False
    app.connect("autodoc-process-docstring", write_docstring)
    app.add_post_transform(LinkNames)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
