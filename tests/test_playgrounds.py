"""The playgrounds without a browser: the function behind each, its controls moved, in a kernel with and without somebody at the keyboard."""

import io
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from PIL import Image

import ddpm_core as ddpm
from book._tools.notebooks import ROOT
from ddpm_core.checkpoint import Checkpoint
from ddpm_core.playgrounds import (
    Playground,
    _read,
    bend,
    bound_terms,
    forward_noise,
    picture,
    sampling,
)

S = ddpm.linear_schedule()
IMAGES = torch.randint(
    0, 256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
)


def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    net = ddpm.UNet(
        8,
        1,
        width=8,
        multipliers=(1, 2),
        blocks=1,
        attention=(),
        dropout=0.0,
        classes=3,
        groups=4,
    ).eval()
    with torch.no_grad():
        for w in net.parameters():
            w.add_(0.1 * torch.randn_like(w))  # or it would answer 0 to everything
    return Checkpoint(net, S, 0, {"classes": ["hat", "shoe", "sock"]})


PLAYGROUNDS = {
    "forward_noise": lambda: forward_noise(IMAGES),
    "sampling": lambda: sampling(checkpoint()),
    "bound_terms": lambda: bound_terms(checkpoint(), IMAGES[:2], torch.tensor([0, 2])),
}
MOVES = [
    ("forward_noise", "index", 3),
    ("forward_noise", "t", 700),
    ("forward_noise", "seed", 5),
    ("sampling", "steps", 20),
    ("sampling", "seed", 2),
    ("sampling", "variance", "beta_tilde"),
    ("sampling", "variance", "none"),
    ("sampling", "label", 0),
    ("bound_terms", "steps", 7),
    ("bound_terms", "shape", 2.0),
    ("bound_terms", "last", 300),
    ("bound_terms", "variance", "beta_tilde"),
]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


@cache
def live(name: str):
    return PLAYGROUNDS[name]().live()


@pytest.mark.parametrize("name, control, value", MOVES)
def test_moving_a_control_changes_the_picture(name, control, value):
    """And moving it back brings the first picture back."""
    playground, moved = live(name), live(name).controls[control]
    before, first = playground.image.value, moved.value
    moved.value = value
    assert (
        playground.image.value != before
        and playground.said.value
        and pixels(playground.image.value).std() > 1
    )
    moved.value = first
    assert playground.image.value == before


def test_every_control_has_been_moved():
    assert {(name, control) for name, control, _ in MOVES} | {
        ("forward_noise", "file")
    } == {
        (name, control)
        for name, make in PLAYGROUNDS.items()
        for control in make().controls
    }


def test_the_noisy_picture_is_eq_4():
    figure = forward_noise(IMAGES).draw(index=2, t=300, seed=4)
    x0, eps = (
        ddpm.to_model_range(IMAGES[2:3]),
        torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(4)),
    )
    x_t = ddpm.to_uint8(ddpm.q_sample(S, x0, 300, eps).clamp(-1, 1))
    drawn = pixels(figure.png)
    scale = drawn.shape[0] // 8
    gap, small = 8 // 12, drawn[scale // 2 :: scale, scale // 2 :: scale]
    assert np.array_equal(
        small[:, 8 + gap : 16 + gap], x_t[0, 0].numpy()
    ) and np.array_equal(small[:, :8], IMAGES[2, 0].numpy())


def test_the_drawn_picture_is_algorithm_2():
    """The last moment of the way, upper row, is what sample() returns for these settings."""
    made = checkpoint()
    drawn = pixels(
        sampling(made).draw(steps=10, seed=3, variance="beta_tilde", label=1).png
    )
    x = ddpm.sample(
        made.model,
        S,
        (1, 1, 8, 8),
        steps=10,
        variance="beta_tilde",
        generator=torch.Generator().manual_seed(3),
        labels=torch.tensor([1]),
    )
    scale = drawn.shape[0] // 18  # two rows of 8 and a gap of 2
    assert np.array_equal(
        drawn[scale // 2 :: scale, scale // 2 :: scale][:8, 70:78],
        ddpm.to_uint8(x)[0, 0].numpy(),
    )


def test_the_bits_are_the_bound():
    """Unbent and with all its steps it is bits_per_dim itself, to the digits of the caption; the model minds each t and each label."""

    def model(x, t, y):
        return x * ((t % 7 + y) / 9).reshape(-1, 1, 1, 1)

    made, x0, y = (
        Checkpoint(model, ddpm.linear_schedule(30, 1e-3, 0.3), 0),
        ddpm.to_model_range(IMAGES[:2]),
        torch.tensor([0, 2]),
    )
    bits = ddpm.bits_per_dim(
        model, made.schedule, x0, generator=torch.Generator().manual_seed(0), labels=y
    )
    caption = (
        bound_terms(made, IMAGES[:2], y)
        .draw(steps=30, shape=1.0, last=30, variance="beta")
        .caption
    )
    assert (
        f"{float(bits.total.mean()):.4g} bits" in caption
        and f"{float(bits.prior.mean()):.3e} for what is left" in caption
    )


def test_bend():
    for shape in (0.4, 1.0, 3.0):
        for steps, last in ((2, 1000), (25, 1000), (100, 200), (200, 200)):
            times, bent = bend(S, steps, shape, last)
            assert (
                len(times) == steps + 1
                and times[:2] == [0, 1]
                and times[-1] == last
                and all(a < b for a, b in zip(times, times[1:]))
            )
            torch.testing.assert_close(
                bent.alpha_bar, S.alpha_bar[times], rtol=1e-9, atol=1e-15
            )
    for steps in (2, 25, 50, 100):
        assert bend(S, steps, 1.0, 1000)[0] == ddpm.respace(S, steps)[0]
    assert bend(S, 25, 2.0, 1000)[0][12] < 300 < 500 < bend(S, 25, 0.5, 1000)[0][12]
    for wrong in ((1, 1.0, 1000), (30, 1.0, 20), (10, 0.0, 1000), (10, 1.0, 1001)):
        with pytest.raises(ValueError, match="wanted 2 <= steps <= last <= T = 1000"):
            bend(S, *wrong)


def file(kind: str = "PNG", size=(40, 20), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(
        mode,
        size,
        200 if mode == "L" else (200, 30, 30) if mode == "RGB" else (200, 30, 30, 255),
    ).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "given",
    [
        ("PNG", (40, 20), "RGB"),
        ("JPEG", (300, 900), "L"),
        ("PNG", (7, 7), "RGBA"),
        ("GIF", (96, 96), "L"),
    ],
)
def test_a_picture_of_your_own(given):
    x = picture(file(*given))
    assert (
        x.shape == (1, 3, 96, 96)
        and x.dtype == torch.uint8
        and x[0, 0].float().std() < 1
    )
    assert abs(int(x[0, 0, 48, 48]) - 200) < 4
    figure = forward_noise(IMAGES).draw(index=0, t=10, seed=0, file=file(*given))
    assert pixels(figure.png).ndim == 3


def test_what_is_no_picture_is_told(monkeypatch):
    for wrong in (b"", b"GIF89a", b"<svg/>", file()[:60]):
        with pytest.raises(
            ValueError, match="cannot be read as a picture .*wanted PNG"
        ):
            picture(wrong)
    monkeypatch.setattr("ddpm_core.playgrounds.LARGEST", 799)
    with pytest.raises(ValueError, match="40 x 20 pixels; wanted at most"):
        picture(file())


def test_an_upload_by_either_ipywidgets():
    data = file()
    assert _read({"a.png": {"metadata": {}, "content": data}}) == data  # 7
    assert _read(({"name": "a.png", "content": memoryview(data)},)) == data  # 8
    assert _read(()) is None and _read({}) is None and _read(7) == 7


def upload(widget, data: bytes) -> None:
    """As the browser does it, in the words of ipywidgets 7 or 8."""
    about = {
        "name": "a.png",
        "type": "image/png",
        "size": len(data),
        "last_modified": datetime.now(UTC),
    }
    widget.set_trait(
        "value",
        {"a.png": {"metadata": about, "content": data}}
        if isinstance(widget.value, dict)
        else ({**about, "content": memoryview(data)},),
    )


def test_a_bad_file_is_told_and_the_picture_stays():
    playground = forward_noise(IMAGES).live()
    before = playground.image.value
    upload(playground.controls["file"], b"<b>")
    assert (
        playground.image.value == before
        and "cannot be read as a picture" in playground.said.value
    )
    upload(playground.controls["file"], file())
    assert playground.image.value != before and "cannot" not in playground.said.value


def test_the_still_picture_says_its_settings_and_how_to_move_them():
    still = PLAYGROUNDS["sampling"]().still()
    caption = still.caption
    assert still.png == live("sampling").image.value, (
        "the stored picture is the one that the controls begin with"
    )
    assert (
        "steps 50, seed 1, variance beta, class sock" in caption
        and "run the cell" in caption
    )


IN_A_KERNEL = """
import torch
from ddpm_core.playgrounds import forward_noise
playground = forward_noise(torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8))
live = playground.live()
before = live.image.value
live.controls["t"].value = 900
print("moved" if live.image.value != before else "stuck")
playground"""


def shown(allow_stdin: bool) -> tuple[str, set[str]]:
    """What IN_A_KERNEL prints, and the kinds of what it shows, where somebody can type or not."""
    manager, client = start_new_kernel(cwd=str(ROOT / "book"))
    try:
        outputs = []
        reply = client.execute_interactive(
            IN_A_KERNEL,
            allow_stdin=allow_stdin,
            timeout=120,
            output_hook=outputs.append,
        )
        assert reply["content"]["status"] == "ok", reply["content"]
        printed = "".join(
            o["content"]["text"] for o in outputs if o["msg_type"] == "stream"
        )
        return printed, {
            kind
            for o in outputs
            if o["msg_type"] == "display_data"
            for kind in o["content"]["data"]
        }
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_in_a_kernel_where_somebody_is():
    printed, kinds = shown(allow_stdin=True)
    assert "moved" in printed and "application/vnd.jupyter.widget-view+json" in kinds


def test_in_a_kernel_where_nobody_is():
    printed, kinds = shown(allow_stdin=False)
    assert "moved" in printed and kinds == {"text/html", "text/plain"}


def test_the_package_does_without_ipywidgets(monkeypatch):
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import ddpm_core, ddpm_core.playgrounds, sys; print({'ipywidgets', 'IPython', 'matplotlib'} & set(sys.modules))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.strip() == "set()"
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match="pip install ipywidgets"):
        Playground(lambda: forward_noise(IMAGES).draw(index=0, t=1, seed=0), {}).live()
