"""What figures and tables need to look right in a page: symbols out of plain text, and drawings as SVG in the page's own colours.

Used by figures.py and by the book's Sphinx extensions; nothing here is for users.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

PHONE = 3.4  # inches of the drawing that a phone shows, at 100 pixels an inch
SALT = "@@"
MANY = 2500  # dots, above which a drawing keeps them as pixels
_LETTERS = dict(
    alpha="α", beta="β", gamma="γ", delta="δ", epsilon="ε", eps="ε", zeta="ζ", eta="η",
    theta="θ", kappa="κ", lambda_="λ", mu="μ", pi="π", sigma="σ", tau="τ", phi="φ", Sigma="Σ",
)  # fmt: skip
_ACCENTS = dict(bar="\u0304", tilde="\u0303", hat="\u0302")
_SUBSCRIPT = r"\{[^{}]+\}|theta|simple|max|DSM|[A-Za-z0-9](?:[-+]1)?|\d+"
_GREEK = re.compile(
    rf"(?<![\w.\\$])({'|'.join(_LETTERS).replace('lambda_', 'lambda')})"
    rf"(?:[_ ](bar|tilde|hat))?(?:_({_SUBSCRIPT})(?!\w))?(?![\w(]|-[a-z]|\.\w)"
)
_SET = re.compile(rf"([α-ωΑ-Ω][\u0300-\u036f]?)_({_SUBSCRIPT})(?!\w)")
_ACCENTED = re.compile(
    rf"(?<![\w.\\$])([A-Za-z])_(bar|tilde)(?:_({_SUBSCRIPT}))?(?!\w|\.\w)"
)
_LATIN = re.compile(
    rf"(?<![\w.\\$])([A-Za-z])(?:_?(0)_(hat)|_({_SUBSCRIPT})(?:_(hat))?)(?!\w|\.\w)"
)


_POWER = re.compile(r"(?<=[\w)>])\^(-?\d+|[A-Za-z](?!\w)|\{[^{}]+\})")
_SMALL = re.compile(r"(?<![\w.])(\u2212?\d(?:\.\d+)?)e([-+]\d{1,3})(?!\w)")


def symbols(text: str) -> str:
    """Plain text -> HTML, its names of symbols set as the symbols: mu_tilde_t, x_{t-1}, x0_hat, sqrt(alpha_bar_t); powers, sigma^2, raised,
    and 2.5e-07 as 2.5 times a power of ten. The rest is escaped."""

    def set_symbol(letter: str, accent: str | None, below: str | None) -> str:
        index = below.strip("{}") if below else ""
        index = _LETTERS.get(index, index).replace("-", "\u2212")
        upright = letter + (_ACCENTS[accent] if accent else "")
        return f"<i>{upright}</i>" + (f"<sub>{index}</sub>" if index else "")

    out = html.escape(text, quote=False).replace("sqrt(", "\u221a(")
    out = re.sub(r"\bsqrt (?=\d)", "\u221a", out)
    out = re.sub(r"(?<![\w)\]}>;-])-(?=\d|inf\b)", "\u2212", out)
    out = re.sub(r"(?<=\u2212)inf\b", "\u221e", out)
    out = _GREEK.sub(
        lambda m: set_symbol(
            _LETTERS["lambda_" if m[1] == "lambda" else m[1]], m[2], m[3]
        ),
        out,
    )
    out = _SET.sub(lambda m: set_symbol(m[1], None, m[2]), out)
    out = _ACCENTED.sub(lambda m: set_symbol(m[1], m[2], m[3]), out)
    out = _LATIN.sub(lambda m: set_symbol(m[1], m[3] or m[5], m[2] or m[4]), out)
    out = _SMALL.sub(_ten, out)
    return _POWER.sub(
        lambda m: f"<sup>{m[1].strip('{}')}</sup>".replace("-", "\u2212"), out
    )


def _ten(found: re.Match[str]) -> str:
    """3.4e-01 -> 0.34, 2.5e-07 -> 2.5 x 10^-7: as a hand would write it, with the digits that are there."""
    digits, power = found[1], int(found[2])
    if -4 <= power < 0:
        after = len(digits.partition(".")[2]) - power
        value = float(found[0].replace("\u2212", "-"))
        return f"{value:.{after}f}".replace("-", "\u2212")
    times = "" if digits == "1" else f"{digits}\u2009\u00b7\u2009"
    return f"{times}10<sup>{power}</sup>".replace("-", "\u2212")


def too_wide(columns: Iterable[Sequence[str]]) -> bool:
    """Is a table wider than a phone even when each cell breaks between its words? 7 pixels a letter, 12 between columns, 320 in all."""
    words = [max(len(w) for cell in c for w in cell.split() or [""]) for c in columns]
    return 7 * sum(words) + 12 * len(words) > 320


def plain(text: str) -> str:
    """The same as letters alone, where no HTML can stand: mu_tilde_t as its letter and a small t."""
    small = dict(
        zip(
            "0123456789+-=()aeoxt\u2212",
            "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u208a\u208b\u208c\u208d\u208e\u2090\u2091\u2092\u2093\u209c\u208b",
        )
    )
    raised = dict(
        zip(
            "0123456789-\u2212",
            "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207b",
        )
    )

    def set_small(found: re.Match[str]) -> str:
        letters = small if found[1] == "sub" else raised
        if set(found[2]) <= set(letters):
            return "".join(letters[letter] for letter in found[2])
        return f"{'_' if found[1] == 'sub' else '^'}{found[2]}"

    out = re.sub(r"<(sub|sup)>(.*?)</\1>", set_small, symbols(text))
    return html.unescape(re.sub(r"</?i>", "", out))


def vector(fig: Drawing, alt: str) -> tuple[str, ...]:
    """A matplotlib figure as SVG, twice where it is wider than a phone: as it is, and 340 pixels wide, its panels below each other."""
    drawn = drawings(fig)
    label = f'role="img" aria-label="{html.escape(alt)}" '
    salt = named_after(alt)
    return defined_once(
        tuple(one.replace("LABEL ", label).replace(SALT, salt) for one in drawn)
    )


def drawings(fig: Drawing) -> tuple[str, ...]:
    """The same with LABEL and SALT where the alternative text and a name of the drawing's own are to stand."""
    has_many_dots_as_pixels(fig)
    wide = _svg(fig, "wide")
    return (wide, _svg(fig, "narrow")) if stack(fig) else (wide,)


def named_after(text: str) -> str:
    return "f" + hashlib.sha256(text.encode()).hexdigest()[:6]


def defined_once(drawn: tuple[str, ...]) -> tuple[str, ...]:
    """Drawings that stand together share their glyphs and marks: what a former one defines, the later ones only use. Not what they
    are clipped by, which must be in the drawing that is shown."""
    known: set[str] = set()

    def once(found: re.Match[str]) -> str:
        new = found[1] not in known
        known.add(found[1])
        return found[0] if new else ""

    slim = []
    for k, svg in enumerate(drawn):
        svg = re.sub(r'<path id="([^"]*)"[^>]*/>\n?', once, svg)
        for clip in set(re.findall(r'<clipPath id="([^"]*)"', svg)):
            svg = svg.replace(f'id="{clip}"', f'id="{clip}-{k}"')
            svg = svg.replace(f"url(#{clip})", f"url(#{clip}-{k})")
        slim.append(re.sub(r"<defs>\s*</defs>\n?", "", svg))
    return tuple(slim)


def shared(drawn: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Drawings of one figure -> what they have in common, as a drawing that shows nothing, and each without it: axes, ticks and letters of
    many frames are written once. What is clipped stays in its frame."""
    defined: dict[str, str] = {}

    def keep(found: re.Match[str]) -> str:
        defined.setdefault(found[1], found[0].strip())
        return ""

    bare = []
    for k, svg in enumerate(drawn):
        svg = re.sub(r'<path id="([^"]*)"[^>]*/>\n?', keep, svg)
        for clip in set(re.findall(r'<clipPath id="([^"]*)"', svg)):
            svg = svg.replace(f'id="{clip}"', f'id="{clip}-{k}"')
            svg = svg.replace(f"url(#{clip})", f"url(#{clip}-{k})")
        bare.append(re.sub(r"<defs>\s*</defs>\n?", "", svg).split("\n"))
    blocks = [_blocks(lines) for lines in bare]
    counted: dict[str, int] = {}
    for one in blocks:
        for text in {text for _, text in one.values()}:
            counted[text] = counted.get(text, 0) + 1
    names: dict[str, str] = {}
    slim = []
    for lines, one in zip(bare, blocks):
        out, i = [], 0
        while i < len(lines):
            end, text = one.get(i, (i, ""))
            if text and counted[text] > 1:
                name = names.setdefault(text, f"{SALT}s{len(names)}")
                out.append(f'<use href="#{name}"/>')
                i = end + 1
            else:
                out.append(lines[i])
                i += 1
        slim.append("\n".join(out))
    groups = [f'<g id="{name}">\n{text}\n</g>' for text, name in names.items()]
    inside = "\n".join([*defined.values(), *groups])
    hidden = "position:absolute;width:0;height:0"
    return (
        f'<svg aria-hidden="true" style="{hidden}"><defs>\n{inside}\n</defs></svg>',
        tuple(slim),
    )


def _blocks(lines: list[str], least: int = 120) -> dict[int, tuple[int, str]]:
    """The groups of a drawing that may be shared: number of the first line -> number of the last, text."""
    found, begun = {}, []
    for i, line in enumerate(lines):
        if line.startswith("<g"):
            begun.append(i)
        elif line.startswith("</g"):
            first = begun.pop()
            text = "\n".join(lines[first : i + 1])
            if len(text) >= least and "url(#" not in text and " id=" not in text:
                found[first] = (i, text)
    return found


def stack(fig: Drawing) -> bool:
    """Lay a figure out anew for a phone: panels below each other, of four columns two side by side, of more three; long titles broken.
    False where it fits already, or cannot."""
    from matplotlib.gridspec import GridSpec

    width, height = fig.get_size_inches()
    if width <= PHONE * 1.15:
        return False
    panels = [ax for ax in fig.axes if ax.get_subplotspec() is not None]
    grids = {id(ax.get_subplotspec().get_gridspec()) for ax in panels}  # type: ignore[union-attr]
    rows, columns = 1, 1
    if panels:
        rows, columns = panels[0].get_subplotspec().get_gridspec().get_geometry()  # type: ignore[union-attr]
    if len(grids) > 1 or columns > 9 or (columns > 1 and len(panels) != rows * columns):
        return False
    per = 1 if columns <= 3 else 2 if columns == 4 else 3  # side by side
    groups = -(-columns // per)
    tall = (height / rows) / (width / columns)
    each = PHONE / per * min(max(tall, 0.78), 1.0 if per == 1 else 1.4)
    if columns > 1:
        grid = GridSpec(rows * groups, per, figure=fig)
        named = {ax.get_subplotspec().rowspan.start: ax for ax in panels[::-1]}  # type: ignore[union-attr]
        for ax in panels:
            spec = ax.get_subplotspec()
            assert spec is not None
            row, column = spec.rowspan.start, spec.colspan.start
            if per == 1:
                ax.set_subplotspec(grid[row * columns + column])
            else:
                group, place = divmod(column, per)
                ax.set_subplotspec(grid[group * rows + row, place])
                if column and not place and not ax.get_ylabel():  # its row's name
                    first = named[row].yaxis.label
                    ax.set_ylabel(first.get_text(), fontsize=first.get_fontsize())
            shared = ax.get_shared_y_axes().get_siblings(ax)
            if len(shared) > 1 and ax.axison:
                ax.tick_params(labelleft=True)
            shared = ax.get_shared_x_axes().get_siblings(ax)
            if len(shared) > 1 and ax.axison:
                ax.tick_params(labelbottom=True)
    fig.set_size_inches(PHONE, each * rows * groups)
    for ax in fig.axes:
        _break_titles(ax)
    for line in (fig._suptitle,):  # type: ignore[attr-defined]
        if line is not None:
            line.set_text(_broken(line.get_text(), 38))
    return True


def _break_titles(ax: Axes) -> None:
    for place in ("left", "center", "right"):
        if title := ax.get_title(loc=place):
            ax.set_title(_broken(title, 36), loc=place)
    ax.set_xlabel(_broken(ax.get_xlabel(), 40))
    ax.set_ylabel(_broken(ax.get_ylabel(), 26))


def _broken(text: str, width: int) -> str:
    """Lines of at most `width` characters; a formula between dollars is not broken."""
    kept = re.sub(r"\$[^$]*\$", lambda m: m[0].replace(" ", "\0"), text)
    lines = [textwrap.fill(line, width) for line in kept.split("\n")]
    return "\n".join(lines).replace("\0", " ")


def has_pictures(fig: Drawing) -> bool:
    return any(ax.images for ax in fig.axes)


def dots(fig: Drawing) -> int:
    """How many marks a figure has that are drawn one by one."""
    from matplotlib.collections import PathCollection

    count = 0
    for ax in fig.axes:
        for drawn in ax.collections:
            if isinstance(drawn, PathCollection):
                count += int(np.shape(drawn.get_offsets())[0])
        for line in ax.lines:
            if line.get_marker() not in ("None", "", " ", None):
                count += int(np.size(line.get_xdata()))
    return count


def has_many_dots_as_pixels(fig: Drawing) -> None:
    from matplotlib.collections import PathCollection, QuadMesh

    for ax in fig.axes:
        for drawn in ax.collections:
            if isinstance(drawn, QuadMesh) or (
                isinstance(drawn, PathCollection)
                and np.shape(drawn.get_offsets())[0] > MANY
            ):
                drawn.set_rasterized(True)
        for line in ax.lines:
            if line.get_marker() not in ("None", "", " ", None) and (
                np.size(line.get_xdata()) > MANY
            ):
                line.set_rasterized(True)


def _svg(fig: Drawing, kind: str) -> str:
    import matplotlib

    buffer = io.StringIO()
    with (
        matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": SALT}),
        _laid_out(fig),
    ):
        fig.savefig(
            buffer,
            format="svg",
            dpi=200,
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    source = buffer.getvalue()
    source = source[source.index("<svg") :]
    source = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", source, flags=re.DOTALL)
    source = re.sub(r"<style.*?</style>", "", source, flags=re.DOTALL)  # for all pages
    source = re.sub(r' d="([^"]*)"', lambda m: f' d="{_path(m[1])}"', source)
    source = re.sub(
        r'(?<=[ (])((?:x|y|width|height)="|translate\()(-?[\d.]+)([ ,]-?[\d.]+)?',
        _rounded,
        source,
    )
    source = re.sub(r'style="([^"]*)"', lambda m: f'style="{_inked(m[1])}"', source)
    # Glyphs are named alike in all drawings, and a page has several.
    source = re.sub(r'(id="|href="#|url\(#)([\w-]+)(?=["\)])', rf"\1{SALT}-\2", source)
    source = re.sub(rf"{SALT}-DejaVuSans-?(\w?)\w*-", rf"{SALT}g\1", source)
    source = source.replace("xlink:href", "href")
    source = re.sub(r"<g(?: [^>]*)?/>", "", source)  # `shared` counts <g> and </g>
    source = re.sub(
        r'(<use href="#@@-m[^>]*) style="fill:currentColor;stroke:currentColor[^"]*"',
        r"\1",
        source,
    )
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', source))
    source = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", source)
    box = re.search(r'viewBox="([^"]*)"', source)
    assert box is not None
    width = round(float(box[1].split()[2]) / 0.72)
    hidden = ";display:none" if kind == "narrow" else ""  # book.css knows better
    head = (
        f'<svg class="{kind}" LABEL viewBox="{box[1]}" '
        f'xmlns="http://www.w3.org/2000/svg" '
        f'fill="currentColor" style="width:{width}px;max-width:100%;height:auto;'
        f'stroke-linejoin:round;stroke-linecap:butt{hidden}">'
    )
    source = re.sub(r"<svg[^>]*>", lambda _: head, source, count=1)
    return re.sub(r"\s*\n\s*", "\n", source).strip()


def _rounded(found: re.Match[str]) -> str:
    second = found[3] and found[3][0] + _short(float(found[3][1:]))
    return found[1] + _short(float(found[2])) + (second or "")


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _path(d: str) -> str:
    """The same path to a hundredth of a point, without corners that lie closer to the last than anyone can see."""
    words = d.split()
    if set(re.sub(r"[-\d.\se]", "", d)) - set("MLz"):  # has curves: a glyph, a circle
        return " ".join(_short(float(w)) if w[-1].isdigit() else w for w in words)
    out: list[str] = []
    run: list[tuple[float, float]] = []  # the corners of one line, as yet unwritten
    i = 0
    while i < len(words):
        if words[i] == "z":
            out += [*_straightened(run), "z"]
            run = []
            i += 1
            continue
        if words[i] == "M":
            out += _straightened(run)
            run = []
        run.append((float(words[i + 1]), float(words[i + 2])))
        i += 3
    return "".join([*out, *_straightened(run)])


@contextmanager
def _laid_out(fig: Drawing) -> Iterator[None]:
    """While a figure is saved, its layout stands. savefig draws a figure with a layout engine twice, the first time for the layout alone,
    which is made before anything is drawn: that drawing is cut short here, and the second has no engine. This takes a fifth less time."""
    import matplotlib

    class Done(Exception):
        pass

    engine = fig.get_layout_engine()
    if engine is None:
        yield
        return

    def only(figure: Drawing) -> None:
        type(engine).execute(engine, figure)
        raise Done

    engine.execute = only  # type: ignore[method-assign, assignment]
    try:
        with suppress(Done):
            fig.savefig(io.StringIO(), format="svg", dpi=200, transparent=True)
    finally:
        del engine.execute
    with matplotlib.rc_context({"figure.constrained_layout.use": False}):
        fig.set_layout_engine(None)
    try:
        yield
    finally:
        fig.set_layout_engine(engine)


def _straightened(run: list[tuple[float, float]], within: float = 0.08) -> list[str]:
    """The corners of a line without those that lie on the way from the last one kept to the next."""
    if not run:
        return []
    kept, between = [run[0]], [run[0]]
    for k, (x, y) in enumerate(run[1:], start=1):
        x0, y0 = kept[-1]
        length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
        straight = len(between) < 100 and all(
            abs((x - x0) * (v - y0) - (y - y0) * (u - x0)) <= within * length
            and (u - x0) * (x - x0) + (v - y0) * (y - y0) >= 0
            and max(abs(u - x0), abs(v - y0)) <= length + within
            for u, v in between
        )
        if not straight:
            kept.append(run[k - 1])
            between = []
        between.append((x, y))
    if run[-1] != kept[-1]:
        kept.append(run[-1])
    first, *rest = (f"{_short(x)} {_short(y)}" for x, y in kept)
    return [f"M{first}", *(f"L{corner}" for corner in rest)]


def _inked(style: str) -> str:
    """Black becomes the colour of the text, white that of the page, light greys a trace of the text; data and model have a lighter form at
    night. A pale colour is a strong one that the page shines through, so that at night it is dark."""

    def pale(*parts: int) -> str:
        share = 1 - min(parts) / 255
        strong = "".join(f"{round((p - min(parts)) / share):02x}" for p in parts)
        return f"fill:#{strong};fill-opacity:{share:.2g}"

    def ink(found: re.Match[str]) -> str:
        name, colour = found[1], found[2].lower()
        if colour in ("#0072b2", "#d55e00", "#8c8c8c"):
            word = {"#0072b2": "data", "#d55e00": "model", "#8c8c8c": "noise"}[colour]
            return f"{name}:var(--book-{word},{colour})"
        r, g, b = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
        if max(r, g, b) - min(r, g, b) > 4:
            if name == "fill" and min(r, g, b) > 0x8C and "opacity" not in style:
                return pale(r, g, b)
            return f"{name}:{colour}"
        if r <= 0x60:
            return f"{name}:currentColor"
        if r >= 0xFE:
            return f"{name}:var(--book-page,var(--jp-layout-color0,#fff))"
        if r <= 0x80 or r >= 0xA0:  # of words, a little more
            trace = round((255 - r) / 2.55) + (15 if r <= 0x80 else 0)
            return f"{name}:{colour};{name}:color-mix(in srgb,currentColor {trace}%,transparent)"
        return f"{name}:{colour}"

    style = re.sub(r"(fill|stroke): (#[0-9a-fA-F]{6})", ink, style)
    style = re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.3g}", style)
    return re.sub(r"; |: ", lambda m: m[0][0], style)
