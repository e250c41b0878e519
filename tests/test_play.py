"""The playgrounds without a kernel: what the page computes against ddpm_core, and a reader who moves them."""

import json

import pytest
import torch
from site_pages import SITE, built

import ddpm_core as ddpm
import ddpm_core.bits
from book._tools.browser import CHROMIUM, Browser
from book._tools.export_onnx import CHECKPOINT, rounded
from book._tools.notebooks import BOOK
from ddpm_core import playgrounds
from ddpm_core.bound import decoder_log_likelihood

pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="no browser here: install chromium to test the pages in one"
)
S = ddpm.linear_schedule()
PAGE = SITE / "book" / "22_playgrounds.html"


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """An empty page with both scripts."""
    scripts = "".join(
        f"<script>{(BOOK / '_static' / name).read_text()}</script>"
        for name in ("draw.js", "play.js")
    )
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8>{scripts}")
    browser.open((tmp_path / "page.html").as_uri())
    return browser


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_eq_4_and_eq_15(page):
    """One schedule, x_t and the way back, for the page's own noise."""
    bar = double(page.js("Play.bars(Play.linear())"))
    torch.testing.assert_close(bar, S.alpha_bar, rtol=1e-12, atol=1e-15)
    x0, eps = (
        torch.linspace(-1, 1, 12).double(),
        double(page.js("[...Draw.normals(4)(12)]")),
    )
    for t in (1, 300, 1000):
        given = f"{x0.tolist()}, Play.bars(Play.linear())[{t}], {eps.tolist()}"
        x_t = double(page.js(f"Play.noised({given})"))
        wanted = ddpm.q_sample(S, x0.reshape(1, 1, 3, 4), t, eps.reshape(1, 1, 3, 4))
        torch.testing.assert_close(x_t, wanted.flatten(), rtol=1e-12, atol=1e-12)
        back = double(
            page.js(f"Play.seen({given.replace(str(x0.tolist()), str(x_t.tolist()))})")
        )
        torch.testing.assert_close(back, x0, rtol=0, atol=1e-12)


def test_bend(page):
    wanted = [
        (steps, shape / 10, last)
        for steps in (2, 3, 7, 25, 50, 99, 100)
        for shape in range(4, 31)
        for last in (200, 333, 1000)
    ]
    mine = page.js(f"{json.dumps(wanted)}.map(one => Play.bend(...one))")
    for given, times in zip(wanted, mine):
        assert times == playgrounds.bend(S, *given)[0], given


def test_eq_13(page):
    """In the middle, in both tails far outside, and in the two bins without an end."""
    level = torch.arange(256).double() / 127.5 - 1
    for mean, std in ((0.3, 0.4), (-1.0, 0.01), (0.9, 0.003), (5.0, 0.1)):
        mine = double(
            page.js(f"{level.tolist()}.map(x => Play.logPixel(x, {mean}, {std}))")
        )
        theirs = decoder_log_likelihood(level, torch.full_like(level, mean), std)
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


RUN = """(async () => {
    const drawn = [], given = Draw.normals(3), noise = n => { const z = given(n); drawn.push([...z]); return z };
    const terms = []; for await (const { i, bits } of Play.boundTerms(MODELS, X0.map(x => Float32Array.from(x)), BAR, TIMES, { variance: 'VARIANCE', noise })) terms.push([i, bits]);
    return { drawn, terms } })()"""


def bound(page, models: str, x0, times, variance: str) -> dict:
    words = dict(
        MODELS=models,
        X0=x0.flatten(1).tolist(),
        BAR=S.alpha_bar.tolist(),
        TIMES=times,
        VARIANCE=variance,
    )
    script = RUN
    for word, value in words.items():
        script = script.replace(word, str(value))
    return page.js(script)


def bits(model, bent, x0, ran, variance, monkeypatch, **more):
    """bits_per_dim with the noise that the page has drawn."""
    drawn = iter(ran["drawn"])
    monkeypatch.setattr(
        ddpm_core.bits,
        "draw_from",
        lambda *_: torch.tensor(next(drawn)).reshape(x0.shape),
    )
    found = ddpm.bits_per_dim(model, bent, x0, variance=variance, **more)
    assert next(drawn, None) is None
    return [float(found.prior.mean()), *found.terms.mean(0).flip(0).tolist()]


@pytest.mark.parametrize("variance", ["beta", "beta_tilde"])
@pytest.mark.parametrize(
    "steps, shape, last", [(2, 1.0, 1000), (9, 2.0, 700), (25, 0.5, 300)]
)
def test_the_terms_against_ddpm_core(page, steps, shape, last, variance, monkeypatch):
    """A stand-in for the network. The package computes in float32 here, the page in double precision."""
    times, bent = playgrounds.bend(S, steps, shape, last)
    levels = torch.randint(
        0, 256, (2, 1, 3, 4), generator=torch.Generator().manual_seed(0)
    )
    x0 = ddpm.to_model_range(levels.to(torch.uint8))
    script = (
        "async (x, t) => x.map((v, k) => 0.9 * v + 0.05 * Math.sin(v + t / 300 + k))"
    )
    ran = bound(page, f"[{script}, {script}]", x0, times, variance)
    place, known = torch.arange(12.0).reshape(1, 1, 3, 4), torch.tensor(times)

    def model(x, i):
        t = known[i].reshape(-1, 1, 1, 1)
        return 0.9 * x + 0.05 * torch.sin(x + t / 300 + place)

    theirs = bits(model, bent, x0, ran, variance, monkeypatch)
    assert [i for i, _ in ran["terms"]] == list(range(steps + 1, 0, -1))
    torch.testing.assert_close(
        double([value for _, value in ran["terms"]]),
        double(theirs),
        rtol=3e-4,
        atol=1e-7,
    )


@built
def test_the_bits_of_the_network_in_the_page(browser, monkeypatch):
    browser.open(PAGE.as_uri())
    checkpoint = ddpm.load_checkpoint(CHECKPOINT)
    images, labels = ddpm.load_images("fashion-mnist", split="test")
    times, bent = playgrounds.bend(checkpoint.schedule, 4, 1.5, 1000)
    x0, labels, known = ddpm.to_model_range(images[:2]), labels[:2], torch.tensor(times)
    models = f"{labels.tolist()}.map((await Draw.load()).model)"
    ran = bound(browser, models, x0, times, "beta")
    network = rounded(checkpoint.model)
    theirs = bits(
        lambda x, i: network(x, known[i], labels), bent, x0, ran, "beta", monkeypatch
    )
    torch.testing.assert_close(
        double([value for _, value in ran["terms"]]),
        double(theirs),
        rtol=1e-3,
        atol=1e-6,
    )


# ---- a reader

SAID = """new Promise(done => { const end = Date.now() + 90000, i = setInterval(() => {
    const said = document.querySelector('[data-play=KIND] .draw-said').textContent;
    if (/PATTERN/.test(said) || Date.now() > end) { clearInterval(i); done(said) } }, 20) })"""


def press(browser, kind: str, pattern: str) -> str:
    browser.js(
        f"document.querySelector('[data-play={kind}] button[type=submit]').click()"
    )
    return browser.js(SAID.replace("KIND", kind).replace("PATTERN", pattern))


def chosen(kind: str, name: str, value) -> str:
    return (
        f"(c => {{ c.value = {json.dumps(value)}; c.dispatchEvent(new Event('input', {{bubbles: true}})); return 1 }})"
        f"(document.querySelector('[data-play={kind}] [name={name}]'))"
    )


def seen(browser, kind: str, what: str) -> str:
    return browser.js(
        f"document.querySelector('[data-play={kind}] {what}').toDataURL()"
    )


@built
def test_noise_on_a_drawing_by_keyboard_and_by_finger(browser):
    browser.look(360, dark=False)
    browser.open(PAGE.as_uri())
    before = seen(browser, "noise", ".play-x")
    browser.js(chosen("noise", "t", 600))
    assert seen(browser, "noise", ".play-x") != before
    bar = float(S.alpha_bar[600])
    said = browser.js(
        "document.querySelector('[data-play=noise] .draw-said').textContent"
    )
    assert (
        f"{bar**0.5:.3f} of the picture and {(1 - bar) ** 0.5:.3f} of the noise" in said
    )
    browser.js(chosen("noise", "source", "draw"))
    empty = seen(browser, "noise", ".play-pad")
    browser.js("document.querySelector('.play-pad').focus()")
    for key in (" ", "ArrowRight", "ArrowRight", "ArrowLeft"):
        browser.js(
            f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: {key!r}, bubbles: true}}))"
        )
    by_keyboard = seen(browser, "noise", ".play-pad")
    assert by_keyboard != empty
    x, y, width, height = browser.js(
        "(() => { const p = document.querySelector('.play-pad'); p.scrollIntoView({block: 'center'}); const r = p.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] })()"
    )
    browser.click(x + width * 0.2, y + height * 0.2)
    assert seen(browser, "noise", ".play-pad") != by_keyboard
    assert "off by" in press(browser, "noise", "off by|could not")
    assert browser.js("document.querySelector('.play-guess').offsetHeight > 0")
    browser.js(
        "document.querySelector('.play-clear').click(); document.querySelector('.play-pad').blur()"
    )
    assert seen(browser, "noise", ".play-pad") == empty
    assert not browser.complaints


@built
def test_a_file_of_the_readers_never_leaves_the_page(browser, tmp_path):
    from PIL import Image

    Image.new("RGB", (300, 200), (200, 30, 30)).save(tmp_path / "red.png")
    (tmp_path / "none.png").write_text("no picture")
    browser.look(1280, dark=False)
    browser.open(PAGE.as_uri())
    browser.js(chosen("noise", "source", "file"))
    node = browser("DOM.getDocument")["root"]["nodeId"]
    field = browser("DOM.querySelector", nodeId=node, selector="[name=file]")["nodeId"]
    asked = len(browser.requested)
    browser("DOM.setFileInputFiles", nodeId=field, files=[str(tmp_path / "none.png")])
    assert "cannot be read as a picture" in browser.js(
        SAID.replace("KIND", "noise").replace("PATTERN", "cannot")
    )
    browser("DOM.setFileInputFiles", nodeId=field, files=[str(tmp_path / "red.png")])
    size = "new Promise(done => { const i = setInterval(() => { const c = document.querySelector('.play-pad'); if (c.width === 96) { clearInterval(i); done([...c.getContext('2d').getImageData(48, 48, 1, 1).data]) } }, 20) })"
    red, green, blue, _ = browser.js(size)
    assert abs(red - 200) < 3 and abs(green - 30) < 3 and abs(blue - 30) < 3
    assert browser.js(
        "document.querySelector('[data-play=noise] button[type=submit]').disabled"
    ), "the network knows no colours"
    assert [
        u for u in browser.requested[asked:] if not u.startswith(("blob:", "data:"))
    ] == []


@built
def test_sampling_and_the_bound(browser):
    browser.look(360, dark=True)
    browser.open(PAGE.as_uri())
    browser.js(chosen("sampling", "steps", "5"))
    last = ".play-row + .play-row canvas:last-child"
    before = seen(browser, "sampling", last)
    assert "boot, seed 1" in press(browser, "sampling", "seconds|could not")
    first = seen(browser, "sampling", last)
    assert first != before
    for name, value in (("variance", "beta_tilde"), ("seed", 5), ("label", "0")):
        browser.js(chosen("sampling", name, value))
        browser.js(
            "document.querySelector('[data-play=sampling] .draw-said').textContent = ''"
        )
        press(browser, "sampling", "seconds|could not")
        assert seen(browser, "sampling", last) != first, name
    curve = "document.querySelector('[data-play=bound] path:nth-of-type(2)').getAttribute('d')"
    straight = browser.js(curve)
    browser.js(chosen("bound", "steps", 3))
    browser.js(chosen("bound", "shape", 2))
    assert browser.js(curve) != straight
    said = press(browser, "bound", "In all|could not")
    total, first, between = (
        float(said.split(word)[0].split()[-1])
        for word in (" bits per", " for the pixels", " for the steps")
    )
    assert total == pytest.approx(first + between, rel=2e-3) and 1 < first < total
    assert browser.js("document.querySelectorAll('[data-play=bound] rect').length") == 4
    assert not browser.complaints


@built
def test_a_run_is_stopped_by_a_second_press(browser):
    browser.open(PAGE.as_uri())
    browser.js(chosen("bound", "steps", 100))
    press(browser, "bound", "Step 9\\d")
    assert press(browser, "bound", "Stopped") == "Stopped."
    button = "document.querySelector('[data-play=bound] button').textContent"
    assert browser.js(button) == "Compute the bits"


SHOWN = "[...document.querySelectorAll('.play')].map(p => [p.offsetHeight > 0, p.previousElementSibling.offsetHeight > 0])"


@built
def test_what_cannot_run_shows_its_stored_picture(browser):
    browser("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser("Page.navigate", url=PAGE.as_uri())
        while browser.js("document.readyState") != "complete":
            pass
        assert browser.js(SHOWN) == [[False, True]] * 3
    finally:
        browser("Emulation.setScriptExecutionDisabled", value=False)
    browser("Network.setBlockedURLs", urls=["*network.js"])
    try:
        browser.open(PAGE.as_uri())
        assert browser.js(SHOWN) == [[True, False]] * 3
        assert "network.js could not be loaded" in press(browser, "bound", "could not")
        assert browser.js(SHOWN)[2] == [True, True]
    finally:
        browser("Network.setBlockedURLs", urls=[])
