"""The lines that a check prints, as seals: what was checked, and a bar that shows how much of what is allowed was used.

In a terminal, in Jupyter and for nbval a check stays a line of text (ddpm_core/checks.py). Here, on the way to the page, each such line
of an output becomes a seal; from MANY in a row on they are folded into one with their count. {checks}`all` stands for the number of
checks in all chapters, {checks}`02_forward` for those of one, on the landing page and the map.

The bar is logarithmic: a tick is what is allowed, and the bar's whole length, to the left of it, sixteen powers of ten below. Of an
estimate, which differs by chance, the bar is linear: the tick stands at the allowed number of standard errors.
"""

import math
import re
from pathlib import Path

import nbformat
from docutils import nodes

from ddpm_core._page import symbols

BOOK = Path(__file__).resolve().parents[1]
MANY = 5
LINE = re.compile(
    r"(ok  |FAIL) (.+?) ?: ((?:largest difference|misprint noticed|identically zero|not zero but|\S+, expected).*)"
)
DIFFERENCE = re.compile(r"largest difference (\S+), allowed (\S+)")
MISPRINT = re.compile(r"misprint noticed: off by (\S+), allowed (\S+)")
ESTIMATE = re.compile(r"(\S+), expected (\S+), (\S+) standard errors are (\S+)")
TICK = 75  # per cent of the bar's room


def seal(line: str) -> str:
    """One line of a check -> HTML. A line that says something else stays as it is, after its name."""
    verdict, name, said = re.fullmatch(LINE, line).groups()
    kind, bar, words = ("held" if verdict == "ok  " else "broken"), "", symbols(said)
    if found := DIFFERENCE.fullmatch(said):
        off, allowed = map(float, found.groups())
        words = f"off by {number(off)}, allowed {number(allowed)}"
        bar = powers(off, allowed)
    elif found := MISPRINT.fullmatch(said):
        off, allowed = map(float, found.groups())
        kind = "noticed"
        words = f"noticed: off by {number(off)}, allowed {number(allowed)}"
        bar = powers(off, allowed)
    elif found := ESTIMATE.fullmatch(said):
        got, wanted, errors, room = map(float, found.groups())
        words = f"{number(got)}, expected {number(wanted)} \u00b1 {number(room)}"
        bar = track(TICK * abs(got - wanted) / room if room else 100)
    return (
        f'<li class="seal {kind}"><span class="seal-name">{symbols(name)}</span>'
        f'<span class="seal-said">{bar}<span>{words}</span></span></li>'
    )


def powers(off: float, allowed: float) -> str:
    """Sixteen powers of ten end at the tick."""
    if not off or not allowed or not math.isfinite(off):
        return track(100 if off else 0)
    return track(TICK * (1 + (math.log10(off) - math.log10(allowed)) / 16))


def track(part: float) -> str:
    return (
        f'<span class="seal-bar" aria-hidden="true" style="--part:{min(max(part, 0), 100):.0f}%;'
        f'--tick:{TICK}%"></span>'
    )


def number(x: float) -> str:
    """6.7e-16 -> 6.7 x 10^-16, as HTML; 0 is "nothing"."""
    if x == 0:
        return "0"
    if not math.isfinite(x):
        return "\u221e"
    if not 1e-4 <= abs(x) < 1e6:
        digits, power = f"{x:.1e}".split("e")
        digits = (
            ""
            if digits in ("1.0", "-1.0")
            else f"{digits.rstrip('0').rstrip('.')}\u2009\u00b7\u2009"
        )
        sign = "\u2212" if x < 0 and not digits else ""
        return f"{sign}{digits}10<sup>{int(power)}</sup>".replace("-", "\u2212")
    text = f"{x:.4g}"
    return (f"{x:,.0f}" if "e" in text else text).replace("-", "\u2212")


def seals(lines: list[str]) -> str:
    items = "".join(map(seal, lines))
    if len(lines) < MANY:
        return f'<ul class="seals">{items}</ul>'
    broken = len([line for line in lines if line.startswith("FAIL")])
    missed = sum("misprint noticed" in line for line in lines)
    words = (
        f"{len(lines)} checks hold"
        if not broken
        else f"{broken} of {len(lines)} checks fail"
    )
    words += f", {missed} of them by noticing a misprint" if missed else ""
    return (
        f'<details class="seals {"broken" if broken else "held"}"{" open" if broken else ""}>'
        f'<summary>{words}</summary><ul class="seals">{items}</ul></details>'
    )


def put(app, doctree, page: str) -> None:
    if app.builder.format != "html":
        return
    for block in list(doctree.findall(nodes.literal_block)):
        if within_output(block) and LINE.search(block.astext()):
            block.replace_self(pieces(block))


def within_output(block) -> bool:
    while (block := block.parent) is not None:
        if "cell_output" in getattr(block, "attributes", {}).get("classes", ()):
            return True
    return False


def pieces(block) -> list[nodes.Node]:
    """An output -> its runs of checks as seals, and what stands between them as text."""
    made, run, said = [], [], []

    def close() -> None:
        if run:
            made.append(nodes.raw("", seals(run), format="html"))
            run.clear()
        if "".join(said).strip():
            text = "\n".join(said).strip("\n")
            made.append(nodes.literal_block(text, text, **block.attributes))
        said.clear()

    for line in block.astext().splitlines():
        is_check = bool(LINE.fullmatch(line))
        if (is_check and said) or (not is_check and run and line.strip()):
            close()
        if is_check or line.strip() or said:
            (run if is_check else said).append(line)
    close()
    return made


def count(chapter: str = "") -> int:
    """The checks that the stored outputs of a chapter, or of all, show to hold."""
    return sum(
        bool(LINE.fullmatch(line))
        for path in BOOK.glob(f"{chapter}.ipynb" if chapter else "[0-9]*.ipynb")
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", ())
        for line in output.get("text", "").splitlines()
    )


def role(name, rawtext, text, lineno, inliner, options=None, content=None):
    chapter = "" if text == "all" else text
    if chapter and not (BOOK / f"{chapter}.ipynb").exists():
        error = f'checks are asked for {text!r}; wanted "all" or a chapter such as 02_forward'
        return [], [inliner.reporter.error(error, line=lineno)]
    return [nodes.Text(str(count(chapter)))], []


def setup(app):
    app.add_role("checks", role)
    app.connect("doctree-resolved", put)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
