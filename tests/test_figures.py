import base64
import contextlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core import _page
from ddpm_core._page import _inked, plain, symbols
from ddpm_core.figures import (
    Figure,
    FrameSlider,
    frame,
    image_grid,
    show,
    show_images,
    table,
)

NASTY = """a "quoted" <b>bold</b> & 'single' </figure><script>alert(1)</script>"""


class Page(HTMLParser):
    """Well-formed HTML as a list of (tag, attributes); every tag closed in its order, every attribute once."""

    VOID = {"img", "input", "br", "source"}

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
        *["div", "img"] * 3,
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
    shown = [decoded(a["src"]) for tag, a in page.tags if tag == "img"]
    expected = some if colour else np.repeat(some[..., None], 3, axis=-1)
    assert np.abs(np.stack(shown).astype(int) - expected).max() <= 2 * colour
    hidden = [
        "hidden" in a
        for tag, a in page.tags
        if tag == "div" and len(a) == ("hidden" in a)
    ]
    assert hidden == [True, False, True]
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
    page = Page(FrameSlider(frames(1), ["a"], alt="a")._repr_html_())
    assert page.one("img")["src"] and page.one("input")["max"] == "0"


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


@pytest.fixture
def plt():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def panels(plt, pictures=False):
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3), sharey=True, layout="constrained")
    axes[0].plot(np.linspace(0, 1, 5000), "k--")
    axes[0].set_title("a title that is longer than a phone is wide: $x_{t - 1}$")
    axes[1].fill_between([0, 1], [0, 1], color="#0072b2", alpha=0.3)
    if pictures:
        axes[1].imshow(np.eye(3))
    return fig


def test_pixels_of_a_drawing_where_a_widget_wants_them(plt):
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.plot([0, 1])
    page = Page(show(fig, alt="a line", vector=False)._repr_html_())
    img = page.one("img")
    assert img["alt"] == "a line" and "width:300px" in img["style"]
    assert "figcaption" not in page.text
    assert decoded(img["src"]).shape == (400, 600, 3)
    assert plt.get_fignums() == []


@pytest.mark.parametrize("rows, columns, per", [(2, 4, 2), (1, 6, 3), (3, 2, 1)])
def test_many_columns_are_grouped_on_a_phone(plt, rows, columns, per):
    """Four columns become two and two, each group with the names of its rows: letters keep their size."""
    from ddpm_core import _page

    fig, axes = plt.subplots(rows, columns, figsize=(7.2, 4), squeeze=False)
    for r, line in enumerate(axes):
        line[0].set_ylabel(f"row {r}", fontsize=9)
    assert _page.stack(fig)
    groups = columns // per
    assert fig.get_figwidth() == pytest.approx(_page.PHONE)
    places = [
        (
            axes[r, c].get_subplotspec().rowspan.start,
            axes[r, c].get_subplotspec().colspan.start,
        )
        for c in range(columns)
        for r in range(rows)
    ]
    if per == 1:
        assert sorted(places) == [(k, 0) for k in range(rows * columns)]
        assert axes[0, 1].get_subplotspec().rowspan.start == 1, "as they are read"
    else:
        wanted = [
            (c // per * rows + r, c % per) for c in range(columns) for r in range(rows)
        ]
        assert places == wanted
        for group in range(groups):
            label = axes[rows - 1, group * per].yaxis.label
            assert (label.get_text(), label.get_fontsize()) == (f"row {rows - 1}", 9)


def test_too_many_columns_stay_as_they_are(plt):
    from ddpm_core import _page

    fig, _ = plt.subplots(1, 10, figsize=(7.2, 1))
    assert not _page.stack(fig)


def test_a_drawing_is_vector_in_the_colours_of_the_page_and_laid_out_twice(plt):
    source = show(panels(plt), alt=NASTY, caption="c")._repr_html_()
    page = Page(source)
    drawn = [a for tag, a in page.tags if tag == "svg"]
    assert [a["class"] for a in drawn] == ["wide", "narrow"]
    assert all(a["role"] == "img" and a["aria-label"] == NASTY for a in drawn)
    sizes = [[float(v) for v in a["viewbox"].split()[2:]] for a in drawn]
    assert sizes[0] == [518.4, 216] and sizes[1][0] == pytest.approx(244.8)
    assert sizes[1][1] > sizes[0][1], "below each other"
    inks = set(re.findall(r"(?:fill|stroke):([^;\"]*)", source))
    assert {"currentColor", "var(--book-data,#0072b2)"} <= inks
    assert not {"#000000", "#ffffff", "#444444"} & inks
    assert len(source) < 60_000, "5000 points on a line are two"
    defined = re.findall(r'id="([^"]*)"', source)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', source))
    assert len(defined) == len(set(defined)) and used <= set(defined)
    assert plt.get_fignums() == []


def test_a_small_drawing_needs_no_second_and_two_of_a_page_do_not_meddle(plt):
    one, two = (
        show(plt.figure(figsize=(3, 2)), alt=alt)._repr_html_() for alt in ("a", "b")
    )
    assert one.count("<svg") == 1
    ids = [set(re.findall(r'id="([^"]*)"', source)) for source in (one, two)]
    assert not ids[0] & ids[1]


def test_a_drawing_is_the_same_bytes_again(plt):
    assert len({show(panels(plt), alt="a")._repr_html_() for _ in range(2)}) == 1


def test_the_path_keeps_its_course(plt):
    """A curve whose corners are left out passes within a tenth of a point of each of them."""
    x = np.linspace(0, 9, 3000)
    fig, ax = plt.subplots(figsize=(3, 2))
    ax.fill_between(x, np.sin(x), -1, color="red")
    source = show(fig, alt="a")._repr_html_()
    path = max(re.findall(r' d="(M[-\d. LMz]+)"', source), key=len)
    corners = np.array([c.split() for c in re.findall(r"[ML]([^MLz]+)", path)], float)
    assert 20 < len(corners) < 400
    top = corners[np.argsort(corners[:, 0])]
    top = top[top[:, 1] < top[:, 1].max() - 1]  # the curve, not the floor
    low, high = corners[:, 0].min(), corners[:, 0].max()
    height = np.interp((top[:, 0] - low) / (high - low) * 9, x, np.sin(x))
    slope, shift = np.polyfit(height, top[:, 1], 1)
    assert np.abs(slope * height + shift - top[:, 1]).max() < 0.3


def test_frames_of_drawings_are_vector_and_of_pictures_sharp_pixels(plt):
    curves = FrameSlider([frame(panels(plt)) for _ in range(3)], "abc", alt="a")
    source = curves._repr_html_()
    page = Page(source)
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == 7  # what is common
    assert len(source) < 60_000, "axes and letters of all frames are written once"
    assert "base64" not in source
    defined = re.findall(r'id="([^"]*)"', source)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', source))
    assert len(defined) == len(set(defined)) and used <= set(defined)
    pixels = FrameSlider([frame(panels(plt, True)) for _ in range(2)], "ab", alt="a")
    page = Page(pixels._repr_html_())
    shown = [a for tag, a in page.tags if tag in ("img", "source")]
    assert [a["width"] for a in shown] == ["680", "1440"] * 2, "two pixels a pixel"
    assert "width:720px" in page.one("figure")["style"]
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("mu_tilde_t", "<i>μ\u0303</i><sub>t</sub>"),
        ("x_{t-1}, x_0", "<i>x</i><sub>t\u22121</sub>, <i>x</i><sub>0</sub>"),
        ("x0_hat", "<i>x\u0302</i><sub>0</sub>"),
        ("x_0_hat", "<i>x\u0302</i><sub>0</sub>"),
        ("sqrt(alpha_bar_t)", "\u221a(<i>α\u0304</i><sub>t</sub>)"),
        ("eps_theta", "<i>ε</i><sub>θ</sub>"),
        ("sigma = 0.5", "<i>σ</i> = 0.5"),
        ("L_simple", "<i>L</i><sub>simple</sub>"),
        ("ddpm.beta and eps-simple", "ddpm.beta and eps-simple"),
        ("eps(x)", "eps(x)"),
        ("a <b> & c", "a &lt;b&gt; &amp; c"),
        ("load_images, q_sample, x_shape", "load_images, q_sample, x_shape"),
        ("sigma^2, 65^3 points", "<i>σ</i><sup>2</sup>, 65<sup>3</sup> points"),
        (
            "mu_tilde_t^2, v^{-1}",
            "<i>μ\u0303</i><sub>t</sub><sup>2</sup>, v<sup>\u22121</sup>",
        ),
        ("-2.5e-07", "\u22122.5\u2009\u00b7\u200910<sup>\u22127</sup>"),
        ("3.4e-01 and 1.0e+06", "0.34 and 1.0\u2009\u00b7\u200910<sup>6</sup>"),
        ("β\u0303_t, beta tilde", "<i>β\u0303</i><sub>t</sub>, <i>β\u0303</i>"),
        (
            "x_bar_t, sqrt 2, 1e-12",
            "<i>x\u0304</i><sub>t</sub>, √2, 10<sup>\u221212</sup>",
        ),
        (
            "x = -0.9, -inf, Eqs. (8)-(10), t-1",
            "x = \u22120.9, \u2212\u221e, Eqs. (8)-(10), t-1",
        ),
        ("run 3e-04x, v1.2e-05", "run 3e-04x, v1.2e-05"),
    ],
)
def test_symbols(text, wanted):
    assert symbols(text) == wanted


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("mu_tilde_t, x_0", "μ\u0303\u209c, x\u2080"),
        ("sigma^2 & eps_theta", "σ\u00b2 & ε_θ"),
    ],
)
def test_symbols_where_no_html_can_stand(text, wanted):
    assert plain(text) == wanted


def test_a_pale_colour_is_a_strong_one_that_the_page_shines_through():
    """The same on white: 255 (1 - share) + strong share."""
    style = dict(part.split(":") for part in _inked("fill: #deebf7").split(";"))
    share = float(style["fill-opacity"])
    strong = [int(style["fill"][k : k + 2], 16) for k in (1, 3, 5)]
    on_white = [255 * (1 - share) + part * share for part in strong]
    assert on_white == pytest.approx([0xDE, 0xEB, 0xF7], abs=1.5)
    assert _inked("fill: #009e73") == "fill:#009e73"
    assert "opacity" not in _inked("stroke: #deebf7")


def test_a_table_stacks_only_where_its_words_do_not_fit_a_phone():
    few = table([[-60.0, -1773.283, -1773.283, float("-inf")]], "abcd")
    many = table([["a" * 12, 1, 2, 3, 1000000, 1000000, 1000000]], "abcdefg")
    assert "stacked" not in few._repr_html_() and "stacked" in many._repr_html_()


def test_a_table_is_set_and_is_columns_of_text():
    made = table(
        [["beta_tilde", 3.14159, 1200], ["none <", None, 7], ["small", 2.5e-7, -1]],
        ["variance", "bits", "steps"],
        caption="What it costs",
    )
    assert repr(made).splitlines() == [
        "What it costs",
        "variance         bits  steps",
        "beta_tilde      3.142  1,200",
        "none <              \u2013      7",
        "small       2.500e-07     -1",
    ]
    page = Page(made._repr_html_())
    cells = [a for tag, a in page.tags if tag == "td"]
    assert [a["data-label"] for a in cells[:3]] == ["variance", "bits", "steps"]
    assert "text-align:right" in cells[1]["style"] and "style" not in cells[0]
    assert "none &lt;" in made._repr_html_() and page.one("table")["class"] == "results"
    with pytest.raises(ValueError, match="2 cells under a head of 3"):
        table([[1, 2]], ["a", "b", "c"])


@pytest.mark.parametrize(
    "value, wanted",
    [
        (0.0, "0.0000"),
        (0.05, "0.05000"),
        (12.3456, "12.35"),
        (9999.5, "10000"),
        (-1.5, "\u22121.500"),
        (torch.tensor(0.25), "0.2500"),
        (np.float32(2), "2.000"),
        (float("nan"), "nan"),
        (1e9, "1.000e+09"),
    ],
)
def test_cells(value, wanted):
    assert table([[value]], ["a"]).rows == ((wanted,),)


def test_the_same_figure_is_the_same_bytes():
    """Stored outputs are compared with fresh ones: no date, no address, no counter in them."""
    one, two = (FrameSlider(frames(), "abc", alt="a")._repr_html_() for _ in range(2))
    assert one == two


@pytest.mark.parametrize("panels", [1, 3])
def test_a_layout_made_once_is_the_one_that_is_saved(plt, monkeypatch, panels):
    def drawn():
        fig, axes = plt.subplots(1, panels, figsize=(7.2, 2.4), layout="constrained")
        for ax in np.atleast_1d(axes):
            ax.plot([1, 2], [1, 1000])
            ax.set(title="a title", xlabel="$x_t$", ylabel="of some length")
        made = _page.drawings(fig)
        plt.close(fig)
        return made

    once = drawn()
    monkeypatch.setattr(_page, "_laid_out", lambda fig: contextlib.nullcontext())
    assert drawn() == once
    assert len(once) == 2
