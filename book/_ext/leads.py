"""Below each chapter: the functions of the package that its code uses, its equations in the index, the questions it answers. The reference and the
two indexes lead to the chapters; these lines lead back."""

import tomllib
from functools import lru_cache
from pathlib import Path

from docutils import nodes

from book._ext import api, paper_eqs

QUESTIONS = Path(__file__).resolve().parents[1] / "_tools" / "questions.toml"


@lru_cache
def answered() -> dict[str, int]:
    """Notebook -> how many of the readers' questions it answers."""
    counts: dict[str, int] = {}
    for part in tomllib.loads(QUESTIONS.read_text(encoding="utf-8"))["part"]:
        for ask in (value for key, value in part.items() if key != "title"):
            for notebook in {place.partition("#")[0] for place in ask["at"]}:
                counts[notebook] = counts.get(notebook, 0) + 1
    return counts


def put(app, doctree, page: str) -> None:
    stem = page.removeprefix("book/")
    if not page.startswith("book/") or not stem[:2].isdigit():
        return
    to = lambda target: app.builder.get_relative_uri(page, target)
    used = [
        name
        for name, chapters in api.uses().items()
        if stem in (chapter for chapter, _ in chapters)
    ]
    functions = [
        (nodes.literal("", name), f"{to(api.PAGE)}#{api.names()[name]}")
        for name in sorted(used, key=str.lower)
    ]
    numbers = sorted(
        (
            number
            for number, pages in paper_eqs.places(app.env).items()
            if page in pages and number.isdigit()
        ),
        key=int,
    )
    equations = [
        (nodes.Text(f"({number})"), f"{to('book/equations')}#equation-{number}")
        for number in numbers
    ]
    many = answered().get(stem, 0)
    questions = [
        (
            nodes.Text(
                f"{many} of the readers\u2019 questions"
                if many > 1
                else "one of the readers\u2019 questions"
            ),
            to("book/questions"),
        )
    ]
    lines = [
        ("In the package: ", functions),
        ("In the index of equations: ", equations),
        ("Answers ", questions if many else []),
    ]
    box = nodes.container(classes=["leads"])
    for words, links in lines:
        if links:
            box += line(words, links)
    if box.children:
        next(iter(doctree.findall(nodes.section))).append(box)


def line(words: str, links: list[tuple[nodes.Node, str]]) -> nodes.paragraph:
    made = nodes.paragraph("", words)
    for i, (what, where) in enumerate(links):
        made += [nodes.Text(", ")] * (i > 0)
        made += nodes.reference("", "", what, internal=True, refuri=where)
    made += nodes.Text(".")
    return made


def setup(app):
    app.connect("doctree-resolved", put)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
