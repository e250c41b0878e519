import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core.figures import Figure, FrameSlider, frame, image_grid, show, show_images

NASTY = """a "quoted" <b>bold</b> & 'single' </figure><script>alert(1)</script>"""


class Page(HTMLParser):
    """Well-formed HTML as a list of (tag, attributes); every tag closed in its order, every attribute once."""

    VOID = {"img", "input", "br"}

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text = [], [], {}
        self.feed(source)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), attrs
        assert all(re.fullmatch(r"[a-z-]+", name) for name, _ in attrs), attrs
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data

    def one(self, tag: str, **wanted: str) -> dict:
        (found,) = [
            a for name, a in self.tags if name == tag and wanted.items() <= a.items()
        ]
        return found


def decoded(uri: str) -> np.ndarray:
    (data,) = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", uri)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def frames(n: int = 3, colour: bool = False) -> np.ndarray:
    return (
        np.random.default_rng(0).integers(
            0, 4, (n, 4, 6, 3) if colour else (n, 4, 6), dtype=np.uint8
        )
        * 60
    )


@pytest.mark.parametrize("colour", [False, True])
def test_slider_is_well_formed_and_carries_all_frames_and_labels(colour):
    some = frames(colour=colour)
    slider = FrameSlider(
        some,
        [1000, 'say "500"', "<0>"],
        name="t & more",
        alt=NASTY,
        caption=NASTY,
        scale=3,
        start=1,
    )
    page = Page(slider._repr_html_())
    assert [tag for tag, _ in page.tags] == [
        "figure",
        "div",
        "div",
        "button",
        "label",
        "input",
        "output",
        "figcaption",
    ]
    assert json.loads(page.one("figure")["data-labels"]) == ["1000", 'say "500"', "<0>"]
    assert page.one("div", role="img")["aria-label"] == NASTY
    assert (
        page.text["figcaption"] == NASTY
        and page.text["output"] == 'say "500"'
        and "t & more" in page.text["label"]
    )
    slide = page.one("input")
    assert (slide["min"], slide["max"], slide["value"], slide["aria-valuetext"]) == (
        "0",
        "2",
        "1",
        'say "500"',
    )
    sprite = decoded(page.one("div", role="img")["style"])
    expected = (
        some.reshape(12, 6, 3)
        if colour
        else np.repeat(some.reshape(12, 6, 1), 3, axis=2)
    )
    assert np.abs(sprite.astype(int) - expected).max() <= (2 if colour else 0)
    assert (
        "0 50% / 100% 300% no-repeat" in page.one("div", role="img")["style"]
        and "aspect-ratio:6/4" in page.one("div", role="img")["style"]
    )
    assert "width:18px" in page.one("figure")["style"]


def test_scripts_of_the_slider_are_balanced_and_need_nothing_from_outside():
    source = FrameSlider(frames(), "abc", alt="a")._repr_html_()
    page = Page(source)
    for script in (page.one("input")["oninput"], page.one("button")["onclick"]):
        for pair in ("()", "{}", "[]"):
            assert script.count(pair[0]) == script.count(pair[1])
        assert "getElementById" not in script and script.count("'") % 2 == 0
    assert "http" not in source and not [
        tag for tag, _ in page.tags if tag in ("script", "link", "style")
    ]
    assert not [
        a for _, a in page.tags if "id" in a
    ]  # two sliders on a page, or one shown twice, do not meddle


def test_one_frame_is_a_slider_too():
    assert (
        "0 0% / 100% 100%"
        in Page(FrameSlider(frames(1), ["a"], alt="a")._repr_html_()).one(
            "div", role="img"
        )["style"]
    )


def test_plain_text_says_what_there_is():
    assert (
        repr(FrameSlider(frames(), "abc", alt="noise to image"))
        == "FrameSlider: noise to image (t = a to c, 3 frames of 6 x 4)"
    )
    assert repr(Figure(b"", 1, "a plot")) == "Figure: a plot"


@pytest.mark.parametrize(
    "some, labels, start",
    [
        (frames(), "ab", 0),
        (frames(), "abc", 3),
        (frames(), "abc", -1),
        (frames().astype(float), "abc", 0),
        (frames()[0], "abcd", 0),
    ],
)
def test_slider_refuses_what_does_not_fit(some, labels, start):
    with pytest.raises(ValueError, match=r"wanted uint8 \(N, H, W\)"):
        FrameSlider(some, labels, alt="a", start=start)


def test_image_grid_is_filled_row_by_row_with_white_gaps():
    images = torch.arange(1, 6, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 2, 3)
    w = 255
    assert image_grid(images, columns=3).tolist() == [
        [1, 1, 1, w, 2, 2, 2, w, 3, 3, 3],
        [1, 1, 1, w, 2, 2, 2, w, 3, 3, 3],
        [w] * 11,
        [4, 4, 4, w, 5, 5, 5, w, w, w, w],
        [4, 4, 4, w, 5, 5, 5, w, w, w, w],
    ]
    assert image_grid(images, columns=5, gap=0).shape == (2, 15)


def test_image_grid_keeps_channels_and_scales_floats():
    x = (
        torch.tensor([-1.0, 0.0, 1.0])
        .view(1, 3, 1, 1)
        .expand(2, 3, 2, 2)
        .requires_grad_()
    )
    grid = image_grid(x, columns=1)
    assert (
        grid.shape == (5, 2, 3)
        and grid.dtype == np.uint8
        and grid[0, 0].tolist() == [0, 128, 255]
    )


def test_show_images_shows_each_pixel():
    figure = show_images(
        torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1) * 60,
        alt=NASTY,
        caption="c",
        columns=2,
        scale=5,
    )
    page = Page(figure._repr_html_())
    img = page.one("img")
    assert (
        img["alt"] == NASTY
        and "width:15px" in img["style"]
        and "pixelated" in img["style"]
        and page.text["figcaption"] == "c"
    )
    assert decoded(img["src"])[::2, ::2, 0].tolist() == [[0, 60], [120, 180]]


def test_show_and_frame_take_and_close_a_figure():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1])
    page = Page(show(fig, alt="a line")._repr_html_())
    assert (
        page.one("img")["alt"] == "a line"
        and "width:300px" in page.one("img")["style"]
        and "figcaption" not in page.text
    )
    assert decoded(page.one("img")["src"]).shape == (400, 600, 3)
    pixels = frame(plt.figure(figsize=(3, 2)))
    assert pixels.shape == (200, 300, 3) and pixels.dtype == np.uint8
    assert plt.get_fignums() == []


def test_the_same_figure_is_the_same_bytes():
    """Stored outputs are compared with fresh ones: no date, no address, no counter in them."""
    one, two = (FrameSlider(frames(), "abc", alt="a")._repr_html_() for _ in range(2))
    assert one == two
