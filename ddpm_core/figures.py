"""The figure grammar, tables, a slider over frames that needs no kernel, and alternative text that travels with each figure.

Data is blue, noise grey, the model orange, what is exact black and dashed; time runs from left to right. Curves are SVG in the page's
own colours, so that night and print are right; pictures stay pixels. A figure wider than a phone is laid out a second time for one.

show         a matplotlib figure                    show_images  a grid of pictures
table        rows of numbers and words              frame, FrameSlider  what moves

In captions, and in a table's head and words, mu_tilde_t, x_{t-1} or x0_hat are set as symbols.
"""

from __future__ import annotations

import base64
import html
import io
import json
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _page

if TYPE_CHECKING:  # matplotlib is imported when the first figure is drawn
    from matplotlib.figure import Figure as Drawing
    from torch import Tensor

DATA, NOISE, MODEL, EXACT = "#0072b2", "#8c8c8c", "#d55e00", "#000000"


class Figure:
    """A picture with its alternative text and caption, shown alike in Jupyter, Colab and the built book.

    png  its pixels; or svg, one or two drawings, the second for a phone
    """

    def __init__(
        self,
        png: bytes,
        width: int,
        alt: str,
        caption: str = "",
        pixelated: bool = False,
        svg: tuple[str, ...] = (),
    ):
        self.png, self.width, self.alt = png, width, alt
        self.caption, self.pixelated, self.svg = caption, pixelated, svg

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"

    def _repr_html_(self) -> str:
        if self.svg:
            kinds = "picture vector" + (" two" if len(self.svg) > 1 else "")
            return (
                f'<figure class="{kinds}" style="margin:1em 0">'
                f"{''.join(self.svg)}{_caption(self.caption)}</figure>"
            )
        style = f"width:{self.width}px;max-width:100%;height:auto" + (
            ";image-rendering:pixelated" if self.pixelated else ""
        )
        kinds = "picture pixels" if self.pixelated else "picture"
        return (
            f'<figure class="{kinds}" style="margin:1em 0">'
            f'<img alt="{html.escape(self.alt)}" style="{style}" '
            f'src="data:image/png;base64,{_base64(self.png)}">'
            f"{_caption(self.caption)}</figure>"
        )


def show(fig: Drawing, alt: str, caption: str = "", *, vector: bool = True) -> Figure:
    """A matplotlib figure with alternative text `alt` and a caption that states what the figure shows. Closes the figure.

    vector  False: as pixels, where a file or a widget wants them
    """
    import matplotlib.pyplot as plt

    width = round(fig.get_figwidth() * 100)
    if vector:
        figure = Figure(b"", width, alt, caption, svg=_page.vector(fig, alt))
    else:  # drawn at twice the size it is shown at, for sharp screens
        buffer = io.BytesIO()
        fig.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
        figure = Figure(buffer.getvalue(), width, alt, caption)
    plt.close(fig)
    return figure


def show_images(
    images: Tensor, alt: str, caption: str = "", columns: int = 8, scale: int = 2
) -> Figure:
    """Images, uint8 (N, C, H, W) or float in [-1, 1], as a grid with its pixels visible."""
    grid = image_grid(images, columns)
    return Figure(_png(grid), grid.shape[1] * scale, alt, caption, pixelated=True)


def image_grid(images: Tensor, columns: int = 8, gap: int = 1) -> np.ndarray:
    """Images, uint8 (N, C, H, W) or float in [-1, 1] -> one uint8 array (H', W') or (H', W', 3), filled row by row."""
    from .data import to_uint8

    images = images if not images.is_floating_point() else to_uint8(images)
    array = images.detach().cpu().numpy()
    n, c, h, w = array.shape
    columns = min(columns, n)  # no white where a picture is missing
    rows = -(-n // columns)
    grid = np.full(
        (rows * (h + gap) - gap, columns * (w + gap) - gap, c), 255, dtype=np.uint8
    )
    for i, image in enumerate(array):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        grid[y : y + h, x : x + w] = image.transpose(1, 2, 0)
    return grid[..., 0] if c == 1 else grid


@dataclass(frozen=True)
class Frame:
    """A drawing as a frame of a FrameSlider: as SVG, and a second time for a phone where it is wide; or, of pictures and of clouds of
    dots, in pixels, uint8 (H, W, 4), at twice the size it is shown at."""

    width: int
    svg: tuple[str, ...] = ()
    pixels: tuple[np.ndarray, ...] = ()


def frame(fig: Drawing) -> Frame:
    """A matplotlib figure as one frame of a FrameSlider. Closes the figure."""
    import matplotlib.pyplot as plt

    width = round(fig.get_figwidth() * 100)
    heavy = _page.has_pictures(fig) or _page.dots(fig) > 250
    if heavy:
        if not _page.has_pictures(fig):  # which must not be turned over at night
            for patch in (fig.patch, *(ax.patch for ax in fig.axes)):
                patch.set_alpha(0)
        wide = _pixels(fig)
        made = Frame(
            width, pixels=(wide, _pixels(fig)) if _page.stack(fig) else (wide,)
        )
    else:
        made = Frame(width, svg=_page.drawings(fig))
    plt.close(fig)
    return made


def _pixels(fig: Drawing) -> np.ndarray:
    fig.set_dpi(200)
    fig.canvas.draw()
    drawn: Any = fig.canvas  # Agg's, which draws all figures here
    return np.asarray(drawn.buffer_rgba()).copy()


class FrameSlider:
    """Frames under a slider with a play button: plain HTML, so that it moves in the built page, in Jupyter and in Colab.

    frames    N arrays, uint8 (H, W) or (H, W, 3), all of one size; or N of `frame`
    labels    N strings, shown beside the slider
    name      what the slider changes, such as "t"                      alt      what one sees, for those who do not
    scale     page pixels a pixel                                       start    the frame shown first, and printed
    interval  milliseconds a frame while it plays
    """

    def __init__(
        self,
        frames: Sequence[np.ndarray | Frame],
        labels: Sequence[object],
        *,
        name: str = "t",
        alt: str,
        caption: str = "",
        scale: float = 1,
        start: int = 0,
        interval: int = 120,
    ) -> None:
        self.labels = [str(label) for label in labels]
        self.drawn = [f for f in frames if isinstance(f, Frame)]
        if self.drawn:
            size = (len(frames), 0, self.drawn[0].width)
            fits = len(self.drawn) == len(frames) == len(self.labels)
            self.frames = np.zeros(size, np.uint8)
        else:
            self.frames = np.stack([np.asarray(f) for f in frames])
            fits = (
                self.frames.dtype == np.uint8
                and self.frames.ndim in (3, 4)
                and len(self.frames) == len(self.labels)
            )
        if not fits or not 0 <= start < len(self.labels):
            raise ValueError(
                f"frames of shape {self.frames.shape} and dtype {self.frames.dtype} with {len(self.labels)} labels, start = {start}; "
                "wanted uint8 (N, H, W) or (N, H, W, 3) or N of `frame`, N labels and 0 <= start < N"
            )
        self.name, self.alt, self.caption = name, alt, caption
        self.scale, self.start, self.interval = scale, start, interval

    def __repr__(self) -> str:
        n, h, w = self.frames.shape[:3]
        size = f"{n} drawings" if self.drawn else f"{n} frames of {w} x {h}"
        return f"FrameSlider: {self.alt} ({self.name} = {self.labels[0]} to {self.labels[-1]}, {size})"

    def _repr_html_(self) -> str:
        n, name = len(self.labels), _page.symbols(self.name)
        shown = html.escape(self.labels[self.start])
        width = round(self.frames.shape[2] * (1 if self.drawn else self.scale))
        room = min(max(map(len, self.labels)), 16) + 1  # the slider stays where it is
        # Each frame is a picture of its own: one long strip of them is more than a phone's memory takes.
        move = (
            "const f=this.closest('figure'),i=+this.value,label=JSON.parse(f.dataset.labels)[i];"
            "f.querySelectorAll('[role=img]>div').forEach((p,k)=>p.hidden=k!==i);"
            "f.querySelector('output').textContent=label;this.setAttribute('aria-valuetext',label)"
        )
        play = (
            "const b=this,s=b.closest('figure').querySelector('input'),"
            "stop=()=>{clearInterval(b.timer);b.timer=0;b.textContent='\u25b6\ufe0e';b.setAttribute('aria-label','play')};"
            "if(b.timer)return stop();if(+s.value>=+s.max)s.value=-1;"
            "b.textContent='\u275a\u275a';b.setAttribute('aria-label','pause');"
            "b.timer=setInterval(()=>{if(+s.value>=+s.max||!b.isConnected)return stop();s.stepUp();s.dispatchEvent(new Event('input'))},"
            f"{self.interval})"
        )
        self._common = ""
        pictures = "".join(
            f"<div{'' if i == self.start else ' hidden'}>{picture}</div>"
            for i, picture in enumerate(self._pictures())
        )
        kinds = "frames drawn" if self.drawn else "frames"
        return (
            f'<figure class="{kinds}" data-labels="{html.escape(json.dumps(self.labels))}" onkeydown="event.stopPropagation()" '
            f'style="margin:1em 0;width:{width}px;max-width:100%">'
            f'<div role="img" aria-label="{html.escape(self.alt)}">{self._common}{pictures}</div>'
            '<div style="display:flex;gap:.6em;align-items:center;margin-top:.4em">'
            f'<button type="button" aria-label="play" style="min-width:2.4em;min-height:2.4em" onclick="{html.escape(play)}">\u25b6\ufe0e</button>'
            f'<label style="display:flex;gap:.5em;align-items:center;flex:1">{name}'
            f'<input type="range" min="0" max="{n - 1}" value="{self.start}" autocomplete="off" aria-valuetext="{shown}" '
            f'style="flex:1;min-width:5em" oninput="{html.escape(move)}"></label>'
            f'<output style="font-variant-numeric:tabular-nums;min-width:{room}ch">{shown}</output></div>'
            f"{_caption(self.caption)}</figure>"
        )

    def _pictures(self) -> list[str]:
        said = [f"{self.name} = {label}" for label in self.labels]
        if not self.drawn:
            sharp = "pixelated" if self.scale > 1 else "auto"
            return [_picture(f, alt, sharp) for f, alt in zip(self.frames, said)]
        salt = _page.named_after(self.alt)
        common, slim = _page.shared(tuple(svg for f in self.drawn for svg in f.svg))
        rest = iter(slim)
        if slim:
            self._common = common.replace(_page.SALT, salt)
        out = []
        for f, alt in zip(self.drawn, said):
            svg = "".join(next(rest) for _ in f.svg)
            svg = svg.replace("LABEL ", "").replace(_page.SALT, salt)
            two = ' class="two"' if len(f.svg) > 1 else ""
            out.append(
                f"<span{two}>{svg}</span>"
                if svg
                else _picture(f.pixels[0], alt, *f.pixels[1:])
            )
        return out


def _picture(wide: np.ndarray, alt: str, narrow: Any = None) -> str:
    """Pixels as an element; of two, the browser takes the second on a phone."""
    sharp = narrow if isinstance(narrow, str) else "auto"
    h, w = wide.shape[:2]
    clear = wide.shape[-1] == 4 and bool((wide[..., 3] < 255).any())
    img = (
        f'<img alt="{html.escape(alt)}" width="{w}" height="{h}"{" class=clear" if clear else ""} '
        f'style="display:block;width:100%;height:auto;image-rendering:{sharp}" '
        f'src="data:image/png;base64,{_base64(_png(wide, colours=64))}">'
    )
    if not isinstance(narrow, np.ndarray):
        return img
    h, w = narrow.shape[:2]
    data = f"data:image/png;base64,{_base64(_png(narrow, colours=64))}"
    return (
        f'<picture><source media="(max-width:560px)" width="{w}" height="{h}" '
        f'srcset="{data}">{img}</picture>'
    )


@dataclass(frozen=True)
class Table:
    """Rows as a table in a page, and in columns of plain text elsewhere: see `table`."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[bool, ...]  # of each column: numbers, set to the right
    caption: str = ""

    def __repr__(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.head))]
        text = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, self.right)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([*([self.caption] if self.caption else []), *text])

    def _repr_html_(self) -> str:
        side = [' style="text-align:right"' if right else "" for right in self.right]
        head = "".join(
            f'<th scope="col"{s}>{_page.symbols(word)}</th>'
            for word, s in zip(self.head, side)
        )
        body = "".join(
            "<tr>"
            + "".join(
                f'<td data-label="{html.escape(_page.plain(word))}"{s}>{_page.symbols(cell)}</td>'
                for cell, word, s in zip(row, self.head, side)
            )
            + "</tr>"
            for row in self.rows
        )
        above = f"<caption>{_page.symbols(self.caption)}</caption>"
        stacked = " stacked" if _page.too_wide(zip(self.head, *self.rows)) else ""
        return (
            f'<table class="results{stacked}">{above if self.caption else ""}'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def table(
    rows: Sequence[Sequence[object]],
    head: Sequence[str],
    *,
    digits: int = 4,
    caption: str = "",
) -> Table:
    """Rows of numbers and words as a table: set in a page, in columns of plain text in a terminal and for nbval.

    rows    each as long as head; a float gets `digits` significant digits, an int all of its own, None a dash, words stay
    Raises ValueError for rows of another length.
    """
    head = [str(word) for word in head]
    if wrong := [row for row in rows if len(row) != len(head)]:
        raise ValueError(
            f"a row of {len(wrong[0])} cells under a head of {len(head)}; wanted as many cells as the head has words"
        )
    number = [
        all(isinstance(row[k], numbers.Real) or row[k] is None for row in rows)
        for k in range(len(head))
    ]
    cells = tuple(tuple(_cell(value, digits) for value in row) for row in rows)
    return Table(tuple(head), cells, tuple(number), caption)


def _cell(value: object, digits: int) -> str:
    if value is None:
        return "\u2013"
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()  # a tensor or an array of one number
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return str(value)
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    x = float(value)
    if x == 0 or 1e-4 <= abs(x) < 10 ** max(digits, 4):
        whole = len(str(int(abs(x)))) if abs(x) >= 1 else 0
        small = 0 if abs(x) >= 1 or x == 0 else -int(np.floor(np.log10(abs(x)))) - 1
        return f"{x:.{max(digits - whole + small, 0)}f}".replace("-", "\u2212")
    return f"{x:.{digits - 1}e}"


def _png(array: np.ndarray, colours: int | None = None) -> bytes:
    from PIL import Image

    picture = Image.fromarray(array)
    if colours and picture.mode == "RGBA":
        picture = picture.quantize(colours, method=Image.Quantize.FASTOCTREE)
    elif colours and picture.mode == "RGB":
        picture = picture.quantize(
            colours, dither=Image.Dither.NONE
        )  # drawings have few colours: a quarter of the size
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _caption(caption: str) -> str:
    return f"<figcaption>{_page.symbols(caption)}</figcaption>" if caption else ""
