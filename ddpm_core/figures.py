"""The figure grammar, a slider over frames that needs no kernel, and alternative text that travels with each figure.

Data is blue, noise grey, the model orange, what is exact black and dashed; time runs from left to right.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # matplotlib is imported when the first figure is drawn
    from matplotlib.figure import Figure as Drawing
    from torch import Tensor

DATA, NOISE, MODEL, EXACT = "#0072b2", "#8c8c8c", "#d55e00", "#000000"


class Figure:
    """A picture with its alternative text and caption, shown alike in Jupyter, Colab and the built book."""

    def __init__(
        self,
        png: bytes,
        width: int,
        alt: str,
        caption: str = "",
        pixelated: bool = False,
    ):
        self.png, self.width, self.alt, self.caption, self.pixelated = (
            png,
            width,
            alt,
            caption,
            pixelated,
        )

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"

    def _repr_html_(self) -> str:
        style = f"width:{self.width}px;max-width:100%;height:auto" + (
            ";image-rendering:pixelated" if self.pixelated else ""
        )
        return (
            f'<figure class="picture" style="margin:1em 0">'
            f'<img alt="{html.escape(self.alt)}" style="{style}" src="data:image/png;base64,{_base64(self.png)}">'
            f"{_caption(self.caption)}</figure>"
        )


def show(fig: Drawing, alt: str, caption: str = "") -> Figure:
    """A matplotlib figure with alternative text `alt` and a caption that states what the figure shows. Closes the figure."""
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    width = round(
        fig.get_figwidth() * 100
    )  # drawn at twice the size it is shown at, for sharp screens
    plt.close(fig)
    return Figure(buffer.getvalue(), width, alt, caption)


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
    rows = -(-n // columns)
    grid = np.full(
        (rows * (h + gap) - gap, columns * (w + gap) - gap, c), 255, dtype=np.uint8
    )
    for i, image in enumerate(array):
        y, x = (i // columns) * (h + gap), (i % columns) * (w + gap)
        grid[y : y + h, x : x + w] = image.transpose(1, 2, 0)
    return grid[..., 0] if c == 1 else grid


def frame(fig: Drawing) -> np.ndarray:
    """A matplotlib figure as one frame of a FrameSlider, uint8 (H, W, 3). Closes the figure."""
    import matplotlib.pyplot as plt

    fig.set_dpi(100)
    fig.canvas.draw()
    pixels = np.asarray(fig.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]  # of the Agg canvas, which draws all figures here
    plt.close(fig)
    return pixels


class FrameSlider:
    """Frames under a slider with a play button: plain HTML, so that it moves in the built page, in Jupyter and in Colab.

    frames    N arrays, uint8 (H, W) or (H, W, 3), all of one size      labels   N strings, shown beside the slider
    name      what the slider changes, such as "t"                      alt      what one sees, for those who do not
    scale     page pixels a pixel                                       start    the frame shown first
    interval  milliseconds a frame while it plays
    """

    def __init__(
        self,
        frames: Sequence[np.ndarray],
        labels: Sequence[object],
        *,
        name: str = "t",
        alt: str,
        caption: str = "",
        scale: float = 1,
        start: int = 0,
        interval: int = 120,
    ) -> None:
        self.frames, self.labels = (
            np.stack([np.asarray(f) for f in frames]),
            [str(label) for label in labels],
        )
        if (
            self.frames.dtype != np.uint8
            or self.frames.ndim not in (3, 4)
            or len(self.frames) != len(self.labels)
            or not 0 <= start < len(self.labels)
        ):
            raise ValueError(
                f"frames of shape {self.frames.shape} and dtype {self.frames.dtype} with {len(self.labels)} labels, start = {start}; "
                "wanted uint8 (N, H, W) or (N, H, W, 3), N labels and 0 <= start < N"
            )
        self.name, self.alt, self.caption, self.scale, self.start, self.interval = (
            name,
            alt,
            caption,
            scale,
            start,
            interval,
        )

    def __repr__(self) -> str:
        n, h, w = self.frames.shape[:3]
        return f"FrameSlider: {self.alt} ({self.name} = {self.labels[0]} to {self.labels[-1]}, {n} frames of {w} x {h})"

    def _repr_html_(self) -> str:
        n, h, w = self.frames.shape[:3]
        last, name = max(n - 1, 1), html.escape(self.name)
        sprite = _base64(
            _png(self.frames.reshape(n * h, *self.frames.shape[2:]), colours=64)
        )
        move = (
            "const f=this.closest('figure'),i=+this.value,label=JSON.parse(f.dataset.labels)[i];"
            f"f.querySelector('[role=img]').style.backgroundPositionY=i*100/{last}+'%';"
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
        return (
            f'<figure class="frames" data-labels="{html.escape(json.dumps(self.labels))}" onkeydown="event.stopPropagation()" '
            f'style="margin:1em 0;width:{round(w * self.scale)}px;max-width:100%">'
            f'<div role="img" aria-label="{html.escape(self.alt)}" style="width:100%;aspect-ratio:{w}/{h};image-rendering:{"pixelated" if self.scale > 1 else "auto"};'
            f'background:url(data:image/png;base64,{sprite}) 0 {self.start * 100 / last:g}% / 100% {n * 100}% no-repeat"></div>'
            '<div style="display:flex;gap:.6em;align-items:center;margin-top:.4em">'
            f'<button type="button" aria-label="play" style="min-width:2.4em;min-height:2.4em" onclick="{html.escape(play)}">\u25b6\ufe0e</button>'
            f'<label style="display:flex;gap:.5em;align-items:center;flex:1">{name}'
            f'<input type="range" min="0" max="{n - 1}" value="{self.start}" autocomplete="off" aria-valuetext="{html.escape(self.labels[self.start])}" '
            f'style="flex:1;min-width:5em" oninput="{html.escape(move)}"></label>'
            f'<output style="font-variant-numeric:tabular-nums;min-width:4.5em">{html.escape(self.labels[self.start])}</output></div>'
            f"{_caption(self.caption)}</figure>"
        )


def _png(array: np.ndarray, colours: int | None = None) -> bytes:
    from PIL import Image

    picture = Image.fromarray(array)
    if colours and picture.mode == "RGB":
        picture = picture.quantize(
            colours, dither=Image.Dither.NONE
        )  # drawings have few colours: a quarter of the size
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _caption(caption: str) -> str:
    return f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
