"""Three playgrounds for a live kernel: noise on a picture of yours, sampling, and the bound of a schedule that you bend.

Each is a function from settings to a picture, and the controls for its settings. Shown in Jupyter or Colab the controls move, and the
picture is computed anew by the model itself; where nobody is at the keyboard (a page, a test, a notebook run from end to end) the same
function draws one still picture. ipywidgets, 7.7 or newer, is imported when the controls are first shown.
"""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from .bits import bits_per_dim
from .checkpoint import Checkpoint
from .data import to_model_range
from .figures import DATA, MODEL, NOISE, Figure, _png, image_grid, show
from .forward import q_sample
from .sampling import sample_steps
from .schedule import Schedule, linear_schedule

HOW = "This is a stored picture. In Jupyter or Colab, run the cell: the settings below it can then be moved."
LARGEST = 40_000_000  # pixels of a picture from a file, before it is made small
SIDE = 96  # and after


@dataclass(frozen=True)
class Control:
    """One setting: a slider where it has a lowest and a highest value, a menu where it has options, a file where it has neither."""

    label: str
    value: Any = None
    low: float | None = None
    high: float | None = None
    step: float = 1
    options: tuple[tuple[str, Any], ...] = ()


@dataclass
class Live:
    """The widgets of a playground that is shown: `box` holds them all; changing a control's `value` changes `image.value`."""

    box: Any
    controls: dict[str, Any]
    image: Any
    said: Any


class Playground:
    """A picture that follows its controls.

    draw      (**settings) -> Figure; a ValueError of it is shown to the reader in place of a new picture
    controls  name of a setting -> its Control, in the order in which they are shown
    """

    def __init__(self, draw: Callable[..., Figure], controls: Mapping[str, Control]):
        self.draw, self.controls = draw, dict(controls)

    def still(self) -> Figure:
        """The picture of the first settings, and how to move them."""
        figure = self.draw(
            **{name: control.value for name, control in self.controls.items()}
        )
        settings = ", ".join(
            f"{c.label} {_named(c)}"
            for c in self.controls.values()
            if c.value is not None
        )
        return Figure(
            figure.png,
            figure.width,
            figure.alt,
            f"{figure.caption} Settings: {settings}. {HOW}",
            figure.pixelated,
        )

    def live(self) -> Live:
        """The same with controls that move. Needs ipywidgets and, for the movement, a kernel."""
        try:
            import ipywidgets
        except ImportError as error:
            raise ImportError(
                "the controls need ipywidgets; wanted 7.7 or newer: pip install ipywidgets"
            ) from error
        first = self.draw(
            **{name: control.value for name, control in self.controls.items()}
        )
        controls = {
            name: _widget(ipywidgets, control)
            for name, control in self.controls.items()
        }
        image = ipywidgets.Image(
            value=first.png,
            format="png",
            layout={"width": f"{first.width}px", "max_width": "100%", "height": "auto"},
        )
        said = ipywidgets.HTML(html.escape(first.caption))
        if hasattr(image, "alt"):  # from ipywidgets 8 on
            image.alt = first.alt

        def redraw(_: Any = None) -> None:
            said.value = "computing \u2026"
            try:
                figure = self.draw(
                    **{name: _read(widget.value) for name, widget in controls.items()}
                )
            except ValueError as error:
                said.value = f"<b>{html.escape(str(error))}</b>"
            else:
                image.value, said.value = figure.png, html.escape(figure.caption)

        for widget in controls.values():
            widget.observe(redraw, names="value")
        return Live(
            ipywidgets.VBox([*controls.values(), image, said]), controls, image, said
        )

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.live().box if someone_is_there() else self.still())  # type: ignore[no-untyped-call,unused-ignore]


def someone_is_there() -> bool:
    """Whether the cell that runs was sent by a front end in which somebody can type; nbclient and nbval say of themselves that they cannot."""
    from IPython import get_ipython

    kernel: Any = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if hasattr(kernel, "get_parent") else None
    return bool(request and request.get("content", {}).get("allow_stdin"))


def forward_noise(images: Tensor, schedule: Schedule | None = None) -> Playground:
    """Eq. (4) on a picture of the reader's choice: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.

    images  uint8 (N, C, H, W), from which one is chosen by its number; or by a file, which is cut to a square of 96 pixels
    Raises ValueError for a file that is no picture.
    """
    s = schedule or linear_schedule()

    def draw(index: int, t: int, seed: int, file: bytes | None = None) -> Figure:
        x0 = to_model_range(
            images[index : index + 1] if file is None else picture(file)
        )
        eps = torch.randn(x0.shape, generator=Generator().manual_seed(seed))
        x_t = q_sample(s, x0, t, eps) if t else x0
        shown = torch.cat([x0, x_t.clamp(-1, 1), eps.clamp(-3, 3) / 3])
        return _enlarged(
            shown,
            columns=3,
            gap=x0.shape[-1] // 12,
            width=640,
            alt=f"Three pictures: the image, the image with the noise of t = {t}, the noise.",
            caption=f"Left the image, right the noise, between them x_t: {s.alpha_bar[t].sqrt():.3f} of the one and {(1 - s.alpha_bar[t]).sqrt():.3f} of the other.",
        )

    return Playground(
        draw,
        {
            "index": Control("image", 0, 0, len(images) - 1),
            "t": Control("t", min(100, s.T), 0, s.T),
            "seed": Control("seed", 0, 0, 99),
            "file": Control("or your own"),
        },
    )


def sampling(checkpoint: Checkpoint) -> Playground:
    """Algorithm 2 with the checkpoint's network: steps, seed, variance and class. Eight moments of the way, x_t above x0_hat."""
    c, network = checkpoint.schedule, checkpoint.model
    config: dict[str, Any] = network.config  # type: ignore[assignment]
    names = [str(name) for name in checkpoint.info.get("classes", [])]
    shape = (1, config["channels"], config["image_size"], config["image_size"])
    steps = tuple((str(n), n) for n in (5, 10, 20, 50, 100, 250, 1000) if n <= c.T)

    def draw(steps: int, seed: int, variance: str, label: int | None = None) -> Figure:
        sampler, variance = (
            ("ddim", "beta") if variance == "none" else ("ddpm", variance)
        )
        labels = None if label is None else torch.tensor([label])
        path = list(
            sample_steps(
                network,
                c,
                shape,
                steps=steps,
                sampler=sampler,
                variance=variance,
                generator=Generator().manual_seed(seed),
                labels=labels,
            )
        )
        chosen = [path[round(i * (len(path) - 1) / 7)] for i in range(8)]
        shown = torch.cat(
            [
                *(x.clamp(-2, 2) / (2 if t else 1) for t, x, _ in chosen),
                *(x0_hat for _, _, x0_hat in chosen),
            ]
        ).clamp(-1, 1)
        times = ", ".join(str(t) for t, _, _ in chosen)
        what = (
            "a picture"
            if label is None
            else f"class {names[label] if names else label}"
        )
        return _enlarged(
            shown,
            columns=8,
            gap=2,
            width=720,
            alt=f"Eight moments of {what} forming: above what the sampler holds, below the network's guess of the end.",
            caption=f"Above x_t, below the guess x0_hat, at t = {times}.",
        )

    controls = {
        "steps": Control("steps", min(50, c.T), options=steps),
        "seed": Control("seed", 1, 0, 99),
        "variance": Control(
            "variance",
            "beta",
            options=(
                ("beta", "beta"),
                ("beta_tilde", "beta_tilde"),
                ("none: DDIM", "none"),
            ),
        ),
    }
    if config["classes"]:
        options = [(names[i] if names else str(i), i) for i in range(config["classes"])]
        controls["label"] = Control(
            "class",
            config["classes"] - 1,
            options=(*options, ("any", config["classes"])),
        )
    return Playground(draw, controls)


def bound_terms(
    checkpoint: Checkpoint, images: Tensor, labels: Tensor | None = None
) -> Playground:
    """The terms of Eq. (5) for a schedule that the reader bends, in bits per dimension, of `images` uint8 (B, C, H, W), one noise each.

    Each step goes between two of the times that the network knows, so it is asked only what it was trained for: see `bend`.
    """
    x0, network = to_model_range(images), checkpoint.model

    def draw(steps: int, shape: float, last: int, variance: str) -> Figure:
        import matplotlib.pyplot as plt

        times, bent = bend(checkpoint.schedule, steps, shape, last)
        known = torch.tensor(times)
        bits = bits_per_dim(
            lambda x, i: network(x, known[i], labels),
            bent,
            x0,
            variance=variance,
            generator=Generator().manual_seed(0),
        )
        prior, terms = float(bits.prior.mean()), bits.terms.mean(0)
        fig, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.8))
        left.plot(
            range(steps + 1), bent.alpha_bar.sqrt(), ".-", color=DATA, markersize=3
        )
        left.plot(
            range(steps + 1),
            (1 - bent.alpha_bar).sqrt(),
            ".-",
            color=NOISE,
            markersize=3,
        )
        left.set(title="image (blue) and noise (grey)", xlabel="step", ylim=(0, 1.05))
        right.bar(
            range(1, steps + 1), terms.clamp(min=1e-6).tolist(), color=MODEL, width=0.9
        )
        right.bar([steps + 1], [max(prior, 1e-6)], color=NOISE, width=0.9)
        right.set(
            title="bits per dimension of each step",
            xlabel="step",
            yscale="log",
            ylim=(1e-6, None),
        )
        return show(
            fig,
            alt="Left: what is left of the image falls and the noise rises, step by step. Right: bars, the bits that each step costs, most at the first "
            "steps; the last bar, in grey, is the prior.",
            caption=f"In all {prior + float(terms.sum()):.4g} bits per dimension: {float(terms[0]):.4g} for the pixels (L_0), {float(terms[1:].sum()):.4g} for "
            f"the steps between, {prior:.3e} for what is left at the end (L_T).",
            vector=False,
        )

    return Playground(
        draw,
        {
            "steps": Control("steps", 25, 2, 100),
            "shape": Control("bend", 1.0, 0.4, 3.0, 0.1),
            "last": Control(
                "last time", checkpoint.schedule.T, 200, checkpoint.schedule.T
            ),
            "variance": Control(
                "variance",
                "beta",
                options=(("beta", "beta"), ("beta_tilde", "beta_tilde")),
            ),
        },
    )


def bend(
    schedule: Schedule, steps: int, shape: float, last: int
) -> tuple[list[int], Schedule]:
    """`steps` of the times 1..last, at 1 + (last - 1) u^shape for u evenly from 0 to 1, and the schedule that visits only these.

    shape = 1 spreads them evenly, as `respace` does; above 1 they crowd near t = 1, where the image is almost clean, below 1 near the end.
    Two that fall on one time are moved apart. -> times, with times[0] = 0, and a Schedule of that many steps
    Raises ValueError where 1..last has fewer than `steps` times.
    """
    if not 2 <= steps <= last <= schedule.T or not shape > 0:
        raise ValueError(
            f"steps = {steps}, last = {last}, shape = {shape}; wanted 2 <= steps <= last <= T = {schedule.T} and a positive shape"
        )
    wanted = 1 + (last - 1) * torch.linspace(0, 1, steps, dtype=torch.float64) ** shape
    times = wanted.round().long().tolist()
    for i in range(1, steps):
        times[i] = max(times[i], times[i - 1] + 1)
    for i in range(steps - 1, -1, -1):  # what was pushed beyond the end
        times[i] = min(times[i], last - (steps - 1 - i))
    alpha_bar = schedule.alpha_bar[[0, *times]]
    return [0, *times], Schedule(1 - alpha_bar[1:] / alpha_bar[:-1])


def picture(data: bytes) -> Tensor:
    """The bytes of a picture file -> uint8 (1, 3, 96, 96): its middle square. Raises ValueError for anything else."""
    from PIL import Image, ImageOps

    try:
        with Image.open(
            io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF", "BMP")
        ) as opened:
            if opened.width * opened.height > LARGEST:
                raise ValueError(
                    f"the picture has {opened.width} x {opened.height} pixels; wanted at most {LARGEST // 10**6} million: make it smaller first"
                )
            square = ImageOps.fit(
                ImageOps.exif_transpose(opened).convert("RGB"), (SIDE, SIDE)
            )
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"this file cannot be read as a picture ({error}); wanted PNG, JPEG, WebP, GIF or BMP"
        ) from error
    return (
        torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
        .reshape(1, SIDE, SIDE, 3)
        .permute(0, 3, 1, 2)
    )


def _enlarged(
    images: Tensor, columns: int, gap: int, width: int, alt: str, caption: str
) -> Figure:
    """Images in [-1, 1] side by side, each pixel a square of whole pixels: a widget does not keep pixels sharp by itself."""
    grid = image_grid(images, columns, gap)
    scale = max(1, round(width / grid.shape[1]))
    return Figure(
        _png(grid.repeat(scale, axis=0).repeat(scale, axis=1)),
        grid.shape[1] * scale,
        alt,
        caption,
    )


def _named(control: Control) -> str:
    return next(
        (name for name, value in control.options if value == control.value),
        str(control.value),
    )


def _widget(ipywidgets: Any, control: Control) -> Any:
    """The widget of a control. Nothing is computed while a slider is still dragged."""
    style, layout = {"description_width": "7em"}, {"width": "30em", "max_width": "100%"}
    common = {"description": control.label, "style": style, "layout": layout}
    if control.options:
        return ipywidgets.Dropdown(
            options=list(control.options), value=control.value, **common
        )
    if control.low is None:
        return ipywidgets.FileUpload(
            accept="image/*",
            multiple=False,
            description=control.label,
            layout={"width": "auto"},
        )
    kind = (
        ipywidgets.FloatSlider
        if isinstance(control.value, float)
        else ipywidgets.IntSlider
    )
    return kind(
        value=control.value,
        min=control.low,
        max=control.high,
        step=control.step,
        continuous_update=False,
        **common,
    )


def _read(value: Any) -> Any:
    """What a widget holds; of an upload, which ipywidgets 7 gives as a dict by file name and 8 as a tuple, the bytes, or None."""
    if isinstance(value, dict):
        value = tuple(value.values())
    return (
        (bytes(value[-1]["content"]) if value else None)
        if isinstance(value, tuple)
        else value
    )
