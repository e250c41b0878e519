"""The playgrounds of the chapter "Three playgrounds", in the page: below each stored picture the controls that take its place there.

Each cell that shows a playground of ddpm_core gets a box of the same controls, which book/_static/play.js makes live. Where that cannot run
(no script, no WebAssembly), and on paper, the cell's stored picture stands.
"""

import base64
import html
import json
import re

from docutils import nodes

import ddpm_core as ddpm
from book._ext import draw
from book._ext.draw import BOOK

PAGE = "book/22_playgrounds"
CALL = re.compile(r"playgrounds\.(forward_noise|sampling|bound_terms)\(")
STEPS = (5, 10, 20, 50, 100, 250, 1000)


def pictures(images) -> str:
    coded = [base64.b64encode(image.numpy().tobytes()).decode() for image in images]
    return html.escape(json.dumps(coded))


def size() -> str:
    """What the button loads, as the page "Draw one yourself" says it."""
    figure = (BOOK / "draw" / "figure.html").read_text(encoding="utf-8")
    return re.search(r'data-size="([^"]*)"', figure)[1]


def classes() -> list[str]:
    return json.loads((BOOK / "draw" / "eps.json").read_text())["classes"]


def options(pairs, chosen) -> str:
    return "".join(
        f'<option value="{value}"{" selected" if value == chosen else ""}>{html.escape(str(name))}</option>'
        for value, name in pairs
    )


def box(kind: str, inside: str, **data: str) -> str:
    said = "".join(f' data-{name}="{value}"' for name, value in data.items())
    return (
        f'<div class="draw play" data-play="{kind}" data-size="{size()}"{said} hidden><form>{inside}'
        '<p class="draw-said" role="status"></p></form></div>'
    )


def seed(value: int) -> str:
    return f'<label>Seed <input name="seed" type="number" min="0" max="999999" step="1" value="{value}" inputmode="numeric"></label>'


def press(words: str) -> str:
    return f'<div class="draw-controls"><button type="submit">{words} (loads {size()}, once)</button></div>'


def noise() -> str:
    images, labels = ddpm.load_images("fashion-mnist", split="test")
    one_each = images[[int((labels == k).nonzero()[0]) for k in range(10)]]
    names = [
        *enumerate(classes()),
        ("draw", "draw one yourself"),
        ("file", "a picture from your device"),
    ]
    square = lambda kind, words, more="": (
        f'<figure><canvas class="{kind}" width="28" height="28" {more}></canvas><figcaption>{words}</figcaption></figure>'
    )
    return box(
        "noise",
        f"""<div class="draw-settings"><label>Picture <select name="source">{options(names, 0)}</select></label>{seed(0)}</div>
<p class="play-file" hidden><label>Its middle square is used, in colour, and it stays on your device. <input name="file" type="file" accept="image/*"></label></p>
<div class="draw-pair play-three">
{square("play-pad", "the picture: draw here", 'role="img" aria-label="The picture. To draw by keyboard: arrow keys move, the space bar puts the pen down and lifts it" tabindex="-1"')}
{square("play-x", "x<sub>t</sub>, Eq. (4)", 'role="img" aria-label="The noisy picture"')}
{square("play-eps", "the noise", 'role="img" aria-label="The noise"')}
</div>
<div class="draw-controls"><button type="button" class="play-clear" hidden>Wipe</button><div class="draw-way"><label>t <input name="t" type="range" min="0" max="1000" value="100"></label><output class="draw-t">100</output></div></div>
{press("Ask the network")}
<figure class="play-guess" hidden><canvas width="28" height="28" role="img" aria-label="What the network takes the picture to be"></canvas><figcaption>what the network takes the picture to be</figcaption></figure>""",
        pictures=pictures(one_each),
    )


def sampling() -> str:
    variances = [("beta", "beta"), ("beta_tilde", "beta tilde"), ("none", "none: DDIM")]
    named = [*enumerate(classes()), (len(classes()), "any")]
    row = lambda words: (
        f'<div class="play-row" role="group" aria-label="{words}"></div>'
    )
    return box(
        "sampling",
        f"""<div class="draw-settings"><label>Steps <select name="steps">{options(zip(STEPS, STEPS), 50)}</select></label>{seed(1)}
<label>Variance <select name="variance">{options(variances, "beta")}</select></label><label>Class <select name="label">{options(named, len(classes()) - 1)}</select></label></div>
{row("x_t at eight times")}{row("the guess of x_0 at eight times")}
{press("Sample")}""",
    )


def bound() -> str:
    images, labels = ddpm.load_images("fashion-mnist", split="test")
    slider = lambda name, words, low, high, step, value: (
        f'<label>{words} <input name="{name}" type="range" min="{low}" max="{high}" step="{step}" value="{value}"><output data-of="{name}">{value}</output></label>'
    )
    return box(
        "bound",
        f"""<div class="draw-settings play-sliders">{slider("steps", "Steps", 2, 100, 1, 25)}{slider("shape", "Bend", 0.4, 3, 0.1, 1)}{slider("last", "Last time", 200, 1000, 1, 1000)}
<label>Variance <select name="variance">{options([("beta", "beta"), ("beta_tilde", "beta tilde")], "beta")}</select></label></div>
<div class="play-charts"><figure><div class="play-chart"></div><figcaption>picture (blue) and noise (grey) at the visited times</figcaption></figure>
<figure><div class="play-chart"></div><figcaption>bits per dimension of each step, four test pictures</figcaption></figure></div>
{press("Compute the bits")}""",
        pictures=pictures(images[:4]),
        labels=json.dumps(labels[:4].tolist()),
    )


BOXES = {"forward_noise": noise, "sampling": sampling, "bound_terms": bound}


def put(app, doctree, page: str) -> None:
    if app.builder.format != "html" or page != PAGE:
        return
    for cell in list(doctree.findall(nodes.container)):
        if "cell" not in cell["classes"]:
            continue
        code = next(iter(cell.findall(nodes.literal_block)), None)
        found = CALL.search(code.astext()) if code is not None else None
        outputs = [c for c in cell.children if "cell_output" in c.get("classes", ())]
        if found and outputs:
            text = BOXES[found[1]]()
            place = cell.index(outputs[-1]) + 1
            cell.insert(place, nodes.raw("", text, format="html"))


# Said before anything of the page is shown: what can run here stands there from the first, and nothing moves. See book.css.
CAN = 'if (typeof WebAssembly === "object" && typeof DecompressionStream === "function") document.documentElement.classList.add("can-draw")'


def load_on_its_page(app, page: str, template: str, context, doctree) -> None:
    if page == PAGE or page in draw.PAGES:
        app.add_js_file(None, body=CAN)
    if page == PAGE:
        for name in ("draw.js", "play.js"):
            app.add_js_file(name, loading_method="defer")


def setup(app):
    app.connect("doctree-resolved", put)
    app.connect("html-page-context", load_on_its_page)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
