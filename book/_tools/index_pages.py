"""Write book/equations.md and book/questions.md out of the notebooks, the package and questions.toml.

    python -m book._tools.index_pages              write the two pages
    python -m book._tools.index_pages --check      write nothing; list what is missing or stale, and fail if anything is

An equation's chapter is the notebook that carries its \\tag{n}; its functions are those of ddpm_core whose docstring begins with
"Eq. (n)" or "Eqs. ..."; its checks are the calls of check, check_zero, check_mc and check_seen that name it, in any chapter. All
checks of a chapter are listed at the end. Where a question is answered stands in questions.toml, as notebook and heading.
"""

import argparse
import ast
import re
import sys
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from book._tools.notebooks import BOOK, ROOT, read

EQUATIONS = [str(n) for n in range(1, 17)]
CHECKS = (
    "check",
    "check_zero",
    "check_mc",
)  # and check_seen, which a misprint must not pass
BROKEN = (
    "2",
    "4",
    "7",
    "10",
    "11",
    "12",
    "13",
    "15",
)  # with a misprint to try, see book/_ext/breaks.py
TABLE = Path(__file__).with_name("questions.toml")
NUMBER = r"\((\d+)\)"
NAMED = re.compile(rf"\bEqs?\. ?{NUMBER}(?:(?:,? and |, | to | ?[-\u2013] ?){NUMBER})*")
TAGGED = re.compile(
    r"\$\$(?:(?!\$\$).)*?\\tag\{([A-Z]?\d+)\}(?:(?!\$\$).)*?\$\$", re.DOTALL
)
ALGORITHM = re.compile(
    r'<div class="algorithm">\n\n\*\*Algorithm (\d)\*\*, (.*?)\n\n.*?\n\n</div>',
    re.DOTALL,
)
PAPERS = {  # the letter before the number of an equation that is another paper's
    "C": "Chen et al. 2018, Neural Ordinary Differential Equations",
    "N": "Song and Ermon 2019, Generative Modeling by Estimating Gradients",
    "E": "Song et al. 2021, Score-Based Generative Modeling through SDEs",
    "S": "Song, Meng and Ermon 2021, Denoising Diffusion Implicit Models",
    "D": "Dhariwal and Nichol 2021, Diffusion Models Beat GANs on Image Synthesis",
    "R": "the chapter on latents, after Vahdat et al. 2021",
    "Z": "the chapter on control, after Zhang et al. 2023",
}


@dataclass
class Chapter:
    """What the index needs of one notebook."""

    file: str  # "02_forward.ipynb"
    title: str = ""
    headings: dict[str, str] = field(
        default_factory=dict
    )  # text as written -> the anchor that MyST gives it
    formulas: dict[str, str] = field(
        default_factory=dict
    )  # number -> the display, without its number
    algorithms: dict[str, tuple[str, str]] = field(
        default_factory=dict
    )  # number -> what it does, the box as it is written
    checks: list[str] = field(default_factory=list)  # names, in order
    misprints: list[str] = field(default_factory=list)  # names of check_seen, in order


def chapters(book: Path = BOOK) -> list[Chapter]:
    return [chapter(path) for path in sorted(book.glob("[0-9][0-9]_*.ipynb"))]


def chapter(path: Path) -> Chapter:
    found = Chapter(path.name)
    for cell in read(path).cells:
        if cell.cell_type == "code":
            found.checks += [
                name
                for name in check_names(cell.source, CHECKS)
                if name not in found.checks
            ]
            found.checks += [
                name for name in computed_names(cell) if name not in found.checks
            ]
            found.misprints += [
                name
                for name in check_names(cell.source, ("check_seen",))
                if name not in found.misprints
            ]
        elif cell.cell_type == "markdown":
            for level, text in headings(cell.source):
                found.title = found.title or text
                if level > 1:
                    found.headings[text] = slug(text, found.headings.values())
            for display in TAGGED.finditer(cell.source):
                found.formulas[display[1]] = bare(display[0])
            for box in ALGORITHM.finditer(cell.source):
                found.algorithms[box[1]] = box[2], box[0]
    return found


def headings(markdown: str) -> list[tuple[int, str]]:
    """Level and text of the headings of a Markdown cell, code blocks left out."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return [
        (len(marks), title.strip())
        for marks, title in re.findall(r"^(#+) (.+)$", text, flags=re.MULTILINE)
    ]


def slug(heading: str, taken=()) -> str:
    """The anchor that MyST makes of a heading: its words in small letters, formulas and marks left out."""
    words = re.sub(r"\$[^$]*\$", "", heading).replace("`", "").replace("*", "")
    plain = re.sub(r"[^\w\u4e00-\u9fff\- ]", "", words.lower().replace(" ", "-"))
    name, i = plain, 1
    while name in taken:
        name, i = f"{name}-{i}", i + 1
    return name


def bare(display: str) -> str:
    """A tagged display of a quotation -> the same display without quotation marks and number, and without its full stop."""
    text = re.sub(r"^> ?", "", display, flags=re.MULTILINE).strip()
    return re.sub(r"\s*[.,]?\s*\\tag\{\w+\}", "", text)


def check_names(source: str, kinds: tuple[str, ...]) -> list[str]:
    """The first argument of each call of these checks in a code cell; of an f-string its text, with ... for what is computed."""
    return [name for _, kind, name in _checks(source) if kind in kinds]


@cache
def _checks(source: str) -> tuple[tuple[int, str, str], ...]:
    """Line, kind and name of the calls in a code cell that begin with a name, as checks do."""
    source = "\n".join(
        "" if line.startswith(("%", "!")) else line for line in source.splitlines()
    )
    found = []
    for node in ast.walk(ast.parse(source)):
        kind = getattr(getattr(node, "func", None), "id", "")
        if kind in (*CHECKS, "check_seen") and node.args:
            parts = (
                node.args[0].values
                if isinstance(node.args[0], ast.JoinedStr)
                else [node.args[0]]
            )
            name = "".join(
                part.value if isinstance(part, ast.Constant) else "..."
                for part in parts
            )
            found.append((node.lineno, kind, " ".join(name.split())))
    return tuple(sorted(found))


def computed_names(cell) -> list[str]:
    """Checks of a cell whose printed names say an equation that their source does not: f"{name}, each draw" with name = "Eq. (9)"."""
    said = {
        n
        for name in check_names(cell.source, (*CHECKS, "check_seen"))
        for n in numbers(name)
    }
    printed = "".join(output.get("text", "") for output in cell.get("outputs", []))
    names = re.findall(
        r"^ok   (.+?) *: (?:largest|identically|misprint|[-\d.])",
        printed,
        flags=re.MULTILINE,
    )
    return [" ".join(name.split()) for name in names if set(numbers(name)) - said]


def numbers(text: str) -> list[str]:
    """The equations that a text names: "Eqs. (6) and (7)" -> 6, 7; "Eqs. (8)-(12)" -> 8 to 12."""
    found: list[str] = []
    for phrase in NAMED.finditer(text):
        spans = re.findall(rf"( to | ?[-\u2013] ?)?{NUMBER}", phrase[0])
        for through, number in spans:
            first = int(found[-1]) + 1 if through.strip() and found else int(number)
            found += [str(n) for n in range(first, int(number) + 1)]
    return list(dict.fromkeys(found))


def functions(
    package: Path = ROOT / "ddpm_core", named: re.Pattern[str] = NAMED
) -> dict[str, list[tuple[str, str]]]:
    """Number -> (function, file), for every public function or class whose docstring begins with that equation, or as `named` says."""
    found: dict[str, list[tuple[str, str]]] = {}
    told = lambda start: numbers(start[0]) if named is NAMED else [start[1]]
    for path in sorted(package.glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(
                node, (ast.FunctionDef, ast.ClassDef)
            ) and not node.name.startswith("_"):
                start = named.match(ast.get_docstring(node) or "")
                for number in told(start) if start else []:
                    found.setdefault(number, []).append((node.name, path.name))
    return found


def equations_page(book: list[Chapter], package: dict) -> tuple[str, list[str]]:
    """The page, and what is missing."""
    lines = [
        "# Where is each equation?",
        "",
        "For each numbered equation of the paper: the chapter that derives it, the function of `ddpm_core` that *is* it, and the checks that would fail",
        "if either were wrong. The page is written by a program from the chapters and the code, so it is never out of date.",
        "",
        "The four algorithms follow them. Eight of the equations have misprints to try. Below these stand switches: put a misprint in, and see what its check says.",
        "",
    ]
    missing = []
    for n in EQUATIONS:
        owner = next((c for c in book if n in c.formulas), None)
        code = package.get(n, [])
        naming = [(c, name) for c in book for name in c.checks if n in numbers(name)]
        missing += [
            f"Eq. ({n}) has no {what}"
            for what, there in (
                ("chapter", owner),
                ("function", code),
                ("check", naming),
            )
            if not there
        ]
        lines += [f"## Equation {n}", ""]
        if not owner:
            lines += ["This equation has no chapter yet.", ""]
            continue
        rest = len([name for name in owner.checks if not numbers(name)])
        lines += [
            owner.formulas[n],
            "",
            *(
                ['<div class="break" data-equation="' + n + '"></div>', ""]
                if n in BROKEN
                else []
            ),
            f"- *Derived in* [{owner.title}]({owner.file}), as Eq. ({n}).",
            f"- *Code*: {', '.join(f'`{name}` in `ddpm_core/{file}`' for name, file in code)}.",
            f"- *Checks that name it*: {listed(name if c is owner else f'{name} ({c.title})' for c, name in naming)}.",
            *(
                [
                    f"- *{rest} further checks of its chapter*: listed [below](#{slug(owner.title)})."
                ]
                if rest
                else []
            ),
            "",
        ]
    algorithms, more = algorithms_part(book)
    lines, missing = lines + algorithms, missing + more
    others = [(tag, c) for c in book for tag in c.formulas if not tag.isdigit()]
    for letter in sorted({tag[0] for tag, _ in others}):
        lines += [f"## Equations of {PAPERS.get(letter, 'another paper')}", ""]
        for tag, c in sorted(others, key=lambda one: int(one[0][1:])):
            if tag[0] == letter:
                place = f"*Derived in* [{c.title}]({c.file}), as ({tag})."
                lines += [c.formulas[tag], "", place, ""]
    lines += [
        "## All checks, chapter by chapter",
        "",
        "An ellipsis stands for what is computed, such as a time $t$.",
        "",
    ]
    for c in book:
        if c.checks:
            lines += [
                f"### {c.title}",
                "",
                f"[To the chapter]({c.file})",
                "",
                f"- *Must hold*: {listed(c.checks)}.",
            ]
            lines += (
                [f"- *Misprints, which must be noticed*: {listed(c.misprints)}.", ""]
                if c.misprints
                else [""]
            )
    return "\n".join(lines), missing


def algorithms_part(book: list[Chapter]) -> tuple[list[str], list[str]]:
    """The four algorithms: where each is built, and the functions that are it."""
    code, lines, missing = functions(named=re.compile(r"Algorithm (\d)\b")), [], []
    for n in "1234":
        owner = next((c for c in book if n in c.algorithms), None)
        if not owner or n not in code:
            missing.append(f"Algorithm {n} has no {'function' if owner else 'chapter'}")
            continue
        what, box = owner.algorithms[n]
        lines += [f"## Algorithm {n}: {what}", "", box, ""]
        lines += [f"- *Built in* [{owner.title}]({owner.file})."]
        names = ", ".join(f"`{name}` in `ddpm_core/{file}`" for name, file in code[n])
        lines += [f"- *Code*: {names}.", ""]
    return lines, missing


def listed(names) -> str:
    """Names one after the other, as text: nothing in them is Markdown, and no number in them a link."""
    return "; ".join(f"`{name.replace('`', '')}`" for name in names)


def questions_page(book: list[Chapter], table: dict) -> tuple[str, list[str]]:
    """The page, and what is missing: answers that name a notebook or a heading that is not there."""
    where = {c.file.removesuffix(".ipynb"): c for c in book}
    lines = [
        "# Where is my question answered?",
        "",
        "Questions that readers of the paper wrote down and could not answer, and sentences from their notes that turned out to be wrong. Each link leads to the",
        "place where the book takes it up.",
        "",
    ]
    missing = []
    for part in table["part"]:
        lines += [f"## {part['title']}", ""]
        for name, ask in (
            (key, value) for key, value in part.items() if key != "title"
        ):
            links = []
            for place in ask["at"]:
                file, _, heading = place.partition("#")
                if file not in where:
                    missing.append(f"{name}: there is no book/{file}.ipynb")
                elif heading not in where[file].headings:
                    missing.append(f"{name}: {file}.ipynb has no heading {heading!r}")
                else:
                    links.append(
                        f"[{heading}]({file}.ipynb#{where[file].headings[heading]})"
                    )
            lines += [
                f"**{name}.** {ask['ask']}",
                "",
                f"{'; '.join(links) or '*In a later part of the book.*'}",
                "",
            ]
    return "\n".join(lines), missing


def pages(book: Path = BOOK) -> tuple[dict[str, str], list[str]]:
    """File name -> text, and everything that is missing."""
    found = chapters(book)
    equations, no_equation = equations_page(found, functions())
    questions, no_answer = questions_page(found, tomllib.loads(TABLE.read_text()))
    return {
        "equations.md": equations,
        "questions.md": questions,
    }, no_equation + no_answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    made, missing = pages()
    for name, text in made.items():
        path = BOOK / name
        if not path.exists() or path.read_text() != text:
            if given.check:
                missing.append(f"{name} is stale: python -m book._tools.index_pages")
            else:
                path.write_text(text)
    print(
        "\n".join(missing) or "equations.md and questions.md are complete and current"
    )
    sys.exit(bool(missing))


if __name__ == "__main__":
    main()
