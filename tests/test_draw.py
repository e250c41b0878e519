"""The sampler in the page: the network as ONNX against torch, the page's loop against ddpm_core, and the page itself in a browser."""

import gzip
import hashlib
import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from site_pages import SITE, built

import ddpm_core as ddpm
import ddpm_core.sampling
from book._tools import export_onnx, vendor_runtime
from book._tools.browser import CHROMIUM, Browser
from book._tools.export_onnx import CHECKPOINT, TARGET, current, graph, normals, rounded
from book._tools.notebooks import BOOK

in_a_browser = pytest.mark.skipif(
    not CHROMIUM, reason="no browser here: install chromium to test the pages in one"
)
ABOUT = json.loads((TARGET / "eps.json").read_text())


@pytest.fixture(scope="module")
def checkpoint():
    return ddpm.load_checkpoint(CHECKPOINT)


def run(
    model: onnx.ModelProto | bytes, x: torch.Tensor, t: int, y: int
) -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model if isinstance(model, bytes) else model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    (eps,) = session.run(
        None,
        {"x": x.numpy(), "t": np.array([t], np.float32), "y": np.array([y], np.int32)},
    )
    return torch.from_numpy(eps)


# ---- the file


def test_the_network_in_the_page_is_the_published_one():
    assert current(), "the weights have changed: python -m book._tools.export_onnx"


def test_a_stale_network_is_noticed(monkeypatch, tmp_path):
    other = tmp_path / "weights.safetensors"
    other.write_bytes((CHECKPOINT / "weights.safetensors").read_bytes()[:-1] + b"\1")
    monkeypatch.setattr(export_onnx, "CHECKPOINT", tmp_path)
    assert not current()


@pytest.mark.parametrize("t, y", [(1, 0), (10, 9), (500, 10), (1000, 3)])
def test_onnx_against_torch(checkpoint, t, y):
    """With matrices rounded alike only the order of sums differs: 1e-5 where eps is about 5. The rounding itself, 2^-11 of each of 1.1
    million weights, moves eps by less than a thousandth of its size: far below the noise level that a network of this size gets wrong."""
    x = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(t))
    got = run((TARGET / "eps.onnx").read_bytes(), x, t, y)
    with torch.no_grad():
        alike, full = (
            rounded(checkpoint.model)(x, t, torch.tensor([y])),
            checkpoint.model(x, t, torch.tensor([y])),
        )
    torch.testing.assert_close(got, alike, atol=1e-5, rtol=1e-5)
    assert (got - full).abs().max() < 1e-3 * full.abs().max() and not torch.equal(
        alike, full
    )


def test_any_network_of_the_family():
    """Other widths, levels and places of attention, weights all drawn anew: what starts at almost zero would hide an error."""
    torch.manual_seed(3)
    model = ddpm.UNet(
        16,
        3,
        width=8,
        multipliers=(1, 2),
        blocks=2,
        attention=(16, 8),
        dropout=0.3,
        classes=4,
        groups=4,
    ).eval()
    with torch.no_grad():
        for w in model.parameters():
            w.copy_((0.3 * torch.randn_like(w)).half())
        x = torch.randn(1, 3, 16, 16)
        torch.testing.assert_close(
            run(graph(model, ""), x, 77, 2),
            model(x, 77, torch.tensor([2])),
            atol=1e-4,
            rtol=1e-4,
        )
    with pytest.raises(ValueError, match="wants classes"):
        graph(ddpm.UNet(8, 1, width=8, multipliers=(1,), attention=(), groups=4), "")


def test_the_runtime_is_the_published_package():
    found = {
        "ort.wasm-core.min.js": (TARGET / "onnxruntime-web/ort.wasm-core.min.js")
        .read_bytes()
        .rstrip()
        + b"\n//# sourceMappingURL=ort.wasm-core.min.js.map",
        "ort-wasm-simd.wasm": gzip.decompress(
            (TARGET / "onnxruntime-web/ort-wasm-simd.wasm.gz").read_bytes()
        ),
    }
    assert {
        name: hashlib.sha256(data).hexdigest() for name, data in found.items()
    } == vendor_runtime.SHA256


# ---- the site


@built
def test_the_button_says_what_it_loads():
    loaded = sum(
        (SITE / "_static/draw" / name).stat().st_size
        for name in ("ort.wasm-core.min.js", "runtime.js", "network.js")
    )
    said = re.search(
        r"Draw \(loads ([\d.]+) MB, once\)", (SITE / "book/draw.html").read_text()
    )
    assert abs(float(said[1]) - loaded / 1e6) < 0.11


@built
def test_nothing_of_it_is_loaded_before():
    """Only the pages that draw have the sampler's script, and no page has a network."""
    having = [page for page in SITE.rglob("*.html") if "draw.js" in page.read_text()]
    assert sorted(page.name for page in having) == [
        "22_playgrounds.html",
        "draw.html",
        "words.html",
    ]
    assert not [
        page
        for page in SITE.rglob("*.html")
        if re.search(
            r"src=[^>]*(runtime|network|text|decoder|ort\.wasm\S*)\.js",
            page.read_text(),
        )
    ]


# ---- the loop, in a browser


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """An empty page with draw.js."""
    (tmp_path / "page.html").write_text(
        f"<!doctype html><script>{(BOOK / '_static/draw.js').read_text()}</script>"
    )
    browser.open((tmp_path / "page.html").as_uri())
    return browser


RUN = """(async () => {
    const drawn = [], given = Draw.normals(SEED), noise = n => { const z = given(n); drawn.push([...z]); return z };
    const frames = []; for await (const f of Draw.sampleSteps(MODEL, BETA, SIZE, { steps: STEPS, sampler: 'SAMPLER', variance: 'VARIANCE', noise })) frames.push([f.t, [...f.x], [...f.x0]]);
    return { drawn, frames: frames.length > 200 ? frames.filter((_, i) => i % 50 === 0 || i === frames.length - 1) : frames, n: frames.length } })()"""


def variance_of(sampler: str) -> str:
    return "beta_tilde" if sampler == "narrow" else "beta"


def in_page(
    browser, model: str, beta, size: int, steps: int, sampler: str, seed: int = 1
) -> dict:
    words = {
        "SEED": seed,
        "MODEL": model,
        "BETA": json.dumps([float(b) for b in beta]),
        "SIZE": size,
        "STEPS": steps,
        "SAMPLER": "ddim" if sampler == "ddim" else "ddpm",
        "VARIANCE": variance_of(sampler),
    }
    return browser.js(re.sub("|".join(words), lambda found: str(words[found[0]]), RUN))


def in_torch(
    model, schedule, shape, ran: dict, steps: int, sampler: str, monkeypatch, **more
) -> list:
    """sample_steps with the noise that the page has drawn."""
    drawn = iter(ran["drawn"])
    monkeypatch.setattr(
        ddpm_core.sampling,
        "draw_from",
        lambda *_: torch.tensor(next(drawn)).reshape(shape),
    )
    frames = list(
        ddpm.sample_steps(
            model,
            schedule,
            shape,
            steps=steps,
            sampler="ddim" if sampler == "ddim" else "ddpm",
            variance=variance_of(sampler),
            **more,
        )
    )
    assert next(drawn, None) is None, "the page has drawn noise that ddpm_core does not"
    return frames


@in_a_browser
def test_every_number_of_steps_visits_the_same_times(page):
    schedule = ddpm.linear_schedule()
    mine = page.js(
        f"Array.from({{length: 1000}}, (_, i) => Draw.respace({json.dumps(schedule.beta[1:].tolist())}, i + 1))"
    )
    for steps, got in enumerate(mine, start=1):
        times, spaced = ddpm.respace(schedule, steps)
        assert got["times"] == times, steps
        torch.testing.assert_close(
            torch.tensor(got["alphaBar"], dtype=torch.float64),
            spaced.alpha_bar,
            rtol=1e-12,
            atol=1e-15,
        )  # 1 - (1 - 4e-5) is good to 1e-16


@in_a_browser
@pytest.mark.parametrize("steps", [1, 7, 1000])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "narrow"])
def test_the_loop_against_ddpm_core(page, sampler, steps, monkeypatch):
    """A stand-in for the network, bounded and smooth. Float32 is rounded after other operations: 1e-7 a step, a thousand steps."""
    schedule = ddpm.linear_schedule()
    ran = in_page(
        page,
        "async (x, t) => x.map((v, k) => 0.95 * v + 0.05 * Math.sin(v + t / 300 + k))",
        schedule.beta[1:],
        12,
        steps,
        sampler,
    )
    place = torch.arange(12.0).reshape(1, 1, 3, 4)
    theirs = in_torch(
        lambda x, t: (
            0.95 * x + 0.05 * torch.sin(x + t.reshape(-1, 1, 1, 1) / 300 + place)
        ),
        schedule,
        (1, 1, 3, 4),
        ran,
        steps,
        sampler,
        monkeypatch,
    )
    assert ran["n"] == len(theirs) == steps + 1
    theirs = {t: (x, x0) for t, x, x0 in theirs}
    for t, x, x0 in ran["frames"]:
        torch.testing.assert_close(
            torch.tensor([x, x0], dtype=torch.float32).reshape(2, 1, 1, 3, 4),
            torch.stack(theirs[t]),
            atol=1e-4,
            rtol=0,
        )
    inside = torch.tensor([x0 for _, _, x0 in ran["frames"]]).abs() < 1
    assert steps == 1 or inside.float().mean() > 0.2, (
        "all clipped: nothing was compared"
    )


@in_a_browser
def test_the_static_of_a_seed(page):
    """The page's random numbers are those that export_onnx.py knows, and normal: 4 standard errors of mean, variance and kurtosis."""
    for seed in (0, 1, 999_999):
        mine, theirs = (
            torch.tensor(page.js(f"[...Draw.normals({seed})(784)]")),
            normals(seed, 784),
        )
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)
    many = torch.tensor(page.js("[...Draw.normals(5)(40000)]"), dtype=torch.float64)
    for power, mean, var in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((many**power).mean() - mean) < 4 * (var / 40_000) ** 0.5
    assert abs((many[:-1] * many[1:]).mean()) < 4 / 200


@built
@in_a_browser
@pytest.mark.parametrize("sampler, steps", [("ddim", 20), ("ddpm", 20)])
def test_the_network_in_the_page_against_torch(
    browser, checkpoint, sampler, steps, monkeypatch
):
    """The same static, the same steps, the built page's network and runtime: x_0 as torch has it with the rounded matrices. At t = T an
    error of 1e-6 in eps is one of 2e-4 in x0_hat before it is clipped; one grey level is 8e-3."""
    browser.open((SITE / "book/draw.html").as_uri())
    model = f"(await Draw.load()).model({ABOUT['stored']['label']})"
    ran = in_page(browser, model, checkpoint.schedule.beta[1:], 784, steps, sampler)
    network = rounded(
        checkpoint.model
    )  # asked by a function, so in float32 on every machine
    theirs = in_torch(
        lambda x, t, y: network(x, t, y),
        checkpoint.schedule,
        (1, 1, 28, 28),
        ran,
        steps,
        sampler,
        monkeypatch,
        labels=torch.tensor([ABOUT["stored"]["label"]]),
    )
    for (t, x, x0), (t_too, x_too, x0_too) in zip(ran["frames"], theirs, strict=True):
        assert t == t_too
        torch.testing.assert_close(
            torch.tensor([x, x0], dtype=torch.float32).reshape(2, 1, 1, 28, 28),
            torch.stack([x_too, x0_too]),
            atol=2e-3,
            rtol=0,
        )
    assert not browser.complaints


PRESS = """(async () => {
    const said = document.querySelector('.draw-said'), button = document.querySelector('.draw button');
    document.querySelector('.draw [name=steps]').value = '10'; button.click();
    while (!/seconds|could not/.test(said.textContent)) await new Promise(done => setTimeout(done, 20));
    return said.textContent })()"""


@built
@in_a_browser
def test_a_reader_presses_draw(browser):
    browser.look(360, dark=False)
    browser.open((SITE / "book/draw.html").as_uri())
    assert browser.js(
        "!document.querySelector('.draw-live').hidden && !document.querySelector('.draw-cannot') && !document.querySelector('.draw-stored').open"
    )
    assert "boot, seed 1, 10 steps of DDIM" in browser.js(PRESS)
    look = "document.querySelector('.draw-x').toDataURL()"
    end = browser.js(look)
    moved = browser.js(
        "(() => { const t = document.querySelector('.draw-time'); t.value = 0; t.dispatchEvent(new Event('input')); return [t.max, document.querySelector('.draw-t').textContent] })()"
    )
    assert moved == ["10", "1000"] and browser.js(look) != end
    assert browser.js("document.querySelectorAll('.draw-shelf canvas').length") == 1
    bright = browser.js(
        "(c => [...c.getContext('2d').getImageData(0, 0, 28, 28).data].filter((v, i) => i % 4 === 0 && v > 100).length)(document.querySelector('.draw-shelf canvas'))"
    )
    assert 100 < bright < 500, "a boot covers a part of its picture"
    assert not browser.complaints


@built
@in_a_browser
def test_draw_pressed_twice_draws_two_pictures(browser):
    browser.look(360, dark=False)
    browser.open((SITE / "book/draw.html").as_uri())
    assert "seed 1, 10 steps" in browser.js(PRESS)
    browser.js("document.querySelector('.draw-said').textContent = ''")
    assert "seed 2, 10 steps" in browser.js(PRESS)
    drawn = browser.js(
        "[...document.querySelectorAll('.draw-shelf canvas')].map(c => c.toDataURL())"
    )
    assert len(drawn) == len(set(drawn)) == 2


@built
@in_a_browser
@pytest.mark.parametrize(
    "without", ["delete window.WebAssembly", "delete window.DecompressionStream"]
)
def test_a_browser_that_cannot_shows_the_stored_run(browser, without):
    added = browser("Page.addScriptToEvaluateOnNewDocument", source=without)
    try:
        browser.open((SITE / "book/draw.html").as_uri())
        assert browser.js(
            "document.querySelector('.draw-live').hidden && document.querySelector('.draw-stored').open && document.querySelector('.draw-cannot').offsetHeight > 0"
        )
    finally:
        browser(
            "Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"]
        )


@built
@in_a_browser
def test_a_network_that_does_not_come_shows_the_stored_run(browser):
    browser("Network.setBlockedURLs", urls=["*network.js"])
    try:
        browser.open((SITE / "book/draw.html").as_uri())
        assert "network.js could not be loaded" in browser.js(PRESS)
        assert browser.js(
            "document.querySelector('.draw-stored').open && document.querySelector('.draw button').textContent === 'Draw'"
        )
    finally:
        browser("Network.setBlockedURLs", urls=[])
    assert "seconds" in browser.js(PRESS), "a second press tries again"


@built
@in_a_browser
def test_without_script(browser):
    browser("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser("Page.navigate", url=(SITE / "book/draw.html").as_uri())
        while browser.js("document.readyState") != "complete":
            pass
        assert browser.js(
            "[...document.querySelectorAll('.draw-live, .draw-cannot, .draw-stored [role=img]')].map(e => e.offsetHeight > 0)"
        ) == [False, True, True]
    finally:
        browser("Emulation.setScriptExecutionDisabled", value=False)
