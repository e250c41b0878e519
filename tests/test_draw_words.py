"""The box that draws from words: its networks as ONNX against torch, its script against ddpm_core, and the page itself in a browser."""

import json
import re

import numpy as np
import onnxruntime
import pytest
import torch
from site_pages import SITE, built
from test_draw import PRESS, browser, in_a_browser, in_page  # noqa: F401

import ddpm_core as ddpm
from book._tools import export_words
from book._tools.export_words import STORED, TARGET, Told, caption, current, eight_bits
from book._tools.notebooks import BOOK, ROOT
from ddpm_core.after.reading import (
    check_known,
    known_words,
    read_captions,
    words_network,
    words_tokenizer,
)
from ddpm_core.captions import load_drawings

CAPTIONS = ["noto lemon", "glossy octopus on a light blue ground", "ink bicycle"]


@pytest.fixture(scope="module")
def told():
    return Told()


def session(name: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(TARGET / f"{name}.onnx"), options, providers=["CPUExecutionProvider"]
    )


def read_by_onnx(text: str) -> dict[str, np.ndarray]:
    tokens = words_tokenizer()([text])
    tokens = tokens[:, tokens[0] != 0].int().numpy()
    names = ["context", "pooled", "no_context", "no_pooled"]
    return dict(zip(names, session("text").run(names, {"tokens": tokens})))


# ---- the files


def test_the_networks_in_the_page_are_the_published_ones():
    assert current(), "the weights have changed: python -m book._tools.export_words"


def test_stale_networks_are_noticed(monkeypatch):
    other = export_words.sums_of() | {"clip": "0" * 64}
    monkeypatch.setattr(export_words, "sums_of", lambda: other)
    assert not current()


def test_eight_bits():
    """A row of zeros stays, and no entry moves by more than half of its row's scale."""
    w = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    w[2] = 0
    whole, scale = eight_bits(w)
    assert whole.dtype == torch.int8 and scale.shape == (5, 1, 1, 1)
    assert ((whole * scale - w).abs() <= scale / 2 + 1e-7).all()
    assert (
        whole.flatten(1).abs().amax(1) == torch.tensor([127, 127, 0, 127, 127])
    ).all()


@pytest.mark.parametrize("text", CAPTIONS)
def test_the_reader_against_torch(told, text):
    """With matrices rounded alike only the order of sums differs, 1e-5 of entries of about one. The rounding itself turns the
    caption's vector by less than five degrees."""
    got, words = read_by_onnx(text), told.read([text])
    K = got["context"].shape[1]
    inside = told.decoder.conditions(1, **words)
    torch.testing.assert_close(
        torch.from_numpy(got["context"]), words["context"][:, :K], atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        torch.from_numpy(got["pooled"]), inside["pooled"], atol=1e-4, rtol=1e-4
    )
    full = read_captions([text])["pooled"]
    cos = float((full * words["pooled"]).sum())
    assert np.cos(np.radians(5)) < cos < 1 - 1e-7


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_the_decoder_against_torch(told, t):
    """With words and without: rounded alike, 1e-4 where eps is about 4. Against all bits a few hundredths of its size."""
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(t))
    network = session("decoder")
    for text in (None, *CAPTIONS[:2]):
        given = read_by_onnx(text or "x")
        names = ("no_context", "no_pooled") if text is None else ("context", "pooled")
        context, pooled = (given[n] for n in names)
        (got,) = network.run(
            None,
            {
                "x": x.numpy(),
                "t": np.array([t], np.float32),
                "context": context,
                "pooled": pooled,
            },
        )
        words = {} if text is None else told.read([text])
        with torch.no_grad():
            alike = told.decoder(x, t, **words)
            full = words_network("decoder")(
                x, t, **({} if text is None else read_captions([text]))
            )
        torch.testing.assert_close(torch.from_numpy(got), alike, atol=1e-4, rtol=1e-4)
        away = (alike - full).norm() / full.norm()
        assert 1e-5 < away < 0.05


def test_what_the_page_knows():
    """No withheld word, no word of people alone; every thing of the field passes the same question at the command line."""
    about = json.loads((TARGET / "words.json").read_text())
    assert frozenset(about["words"].split()) == known_words()
    for thing in about["things"]:
        check_known(caption("noto", thing, "light blue"))
    _, held = load_drawings("emoji", "word", things=True, styles=["noto"])
    _, seen = load_drawings("emoji", "train", things=True)
    read = {w for f in seen for k in (f.name, *f.keywords) for w in k.lower().split()}
    withheld = {w for f in held for w in f.name.lower().split()} - read
    new = [w for w in withheld if re.fullmatch(r"\w+", w)]
    assert new and not set(new) & known_words()
    with pytest.raises(ValueError, match="has never read"):
        check_known(new[0])


# ---- the script, in a browser


@pytest.fixture
def page(browser, tmp_path):  # noqa: F811
    """An empty page with both scripts."""
    scripts = [(BOOK / "_static" / n).read_text() for n in ("draw.js", "words.js")]
    (tmp_path / "page.html").write_text(
        "<!doctype html>" + "".join(f"<script>{s}</script>" for s in scripts)
    )
    browser.open((tmp_path / "page.html").as_uri())
    return browser


@in_a_browser
def test_the_tokenizer_of_the_page(page):
    """Every name and keyword, English and Korean, and what nobody draws: the same numbers."""
    _, facts = load_drawings("emoji", "all", styles=["noto"])
    texts = sorted({t for f in facts for t in (f.name, f.ko, *f.keywords)})[:4000]
    texts += [
        "  Two   spaces",
        "caf\u00e9 \u2019 x_1",
        "\U0001f600 123!?",
        "\u00b2\u2155",
    ]
    read = words_tokenizer()
    texts = [t for t in texts if t.strip()]
    wanted = [[n for n in row if n] for row in read(texts, cut=True).tolist()]
    merges = json.dumps(read.merges)
    got = page.js(f"{json.dumps(texts)}.map(Words.tokenizer({merges}))")
    short = [g for g, w in zip(got, wanted) if len(g) <= read.length]
    assert len(short) > 1000
    for text, mine, theirs in zip(texts, got, wanted):
        if len(mine) <= read.length:
            assert mine == theirs, text


@in_a_browser
@pytest.mark.parametrize(
    "text, said",
    [
        ("lemon", ""),
        ("Red Apple", ""),
        ("", "Nothing to draw"),
        ("!?", "Nothing to draw"),
        ("lemmon", "never read \u201clemmon\u201d. Alike are: lemon"),
        ("xqzzk", "never read \u201cxqzzk\u201d. The field offers"),
    ],
)
def test_what_hinders(page, text, said):
    known = json.dumps(sorted(known_words()))
    got = page.js(f"Words.wrong({json.dumps(text)}, new Set({known}), [1, 2], 24)")
    assert (got == "") if not said else said in got


@in_a_browser
def test_too_many_words(page):
    got = page.js("Words.wrong('red', new Set(['red']), Array(30).fill(5), 24)")
    assert "28 pieces" in got and "at most 22" in got


@in_a_browser
def test_guidance_of_the_page(page):
    """nothing + s (words - nothing), and one question alone for s = 1."""
    js = """(async () => { let asked = 0;
        const ask = async (x, t, told) => (asked++, x.map(v => v * told + t));
        const out = []; for (const s of [1, 3]) out.push([...await Words.guided(ask, 5, 2, s)(Float32Array.of(1, -1), 7)]);
        return [out, asked] })()"""
    (one, three), asked = page.js(js)
    assert one == [12, 2] and three == [2 + 3 * 3 + 7, -2 - 3 * 3 + 7] and asked == 3


@in_a_browser
def test_captions_of_the_page(page):
    for given in (
        ("noto", " lemon ", "light blue"),
        ("", "lemon", ""),
        ("ink", "red apple", ""),
    ):
        mine = page.js(f"Words.caption(...{json.dumps(given)})")
        assert mine == caption(given[0], given[1].strip(), given[2])


# ---- the site


@built
def test_the_button_says_what_it_loads():
    names = ("ort.wasm-core.min.js", "runtime.js", "text.js", "decoder.js")
    loaded = sum((SITE / "_static/draw" / name).stat().st_size for name in names)
    said = re.search(
        r"Draw \(loads ([\d.]+) MB, once\)", (SITE / "book/words.html").read_text()
    )
    assert abs(float(said[1]) - loaded / 1e6) < 0.11


@built
@in_a_browser
def test_the_networks_in_the_page_against_torch(browser, told):  # noqa: F811
    """The stored run's own setting, ten steps: the same static, the built page's networks and runtime. One grey level is 8e-3."""
    asked = STORED | {"steps": 10}
    browser.open((SITE / "book/words.html").as_uri())
    tokens = words_tokenizer()(
        [caption(asked["artist"], asked["thing"], asked["ground"])]
    )
    tokens = [n for n in tokens[0].tolist() if n]
    ran = in_page(
        browser,
        f"await (await Words.load()).model({tokens}, {asked['scale']})",
        ddpm.linear_schedule().beta[1:],
        3072,
        10,
        "ddim",
        seed=asked["seed"],
    )
    frames = export_words.run(told, asked)
    for (t, x, x0), (t_too, x_too, x0_too) in zip(ran["frames"], frames, strict=True):
        assert t == t_too
        torch.testing.assert_close(
            torch.tensor([x, x0], dtype=torch.float32).reshape(2, 1, 3, 32, 32),
            torch.stack([x_too, x0_too]),
            atol=8e-3,
            rtol=0,
        )
    assert not browser.complaints


TYPE = """(words => { const thing = document.querySelector('.words [name=thing]');
    thing.value = words; thing.dispatchEvent(new Event('input', {bubbles: true})) })"""
PRESSED = PRESS.replace(
    "/seconds|could not/", "/seconds|could not|never read/"
).replace("'.draw [name=steps]'", "'.words [name=steps]'")


@built
@in_a_browser
@pytest.mark.parametrize("width", [360, 1440])
def test_a_reader_draws_from_words(browser, width):  # noqa: F811
    browser.look(width, dark=width == 360)
    browser.open((SITE / "book/words.html").as_uri())
    assert browser.js(
        "!document.querySelector('.draw-live').hidden && !document.querySelector('.draw-cannot') && !document.querySelector('.draw-stored').open"
    )
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    browser.js(f"{TYPE}('lemmon')")
    said = browser.js(PRESSED)
    assert "never read" in said and "lemon" in said
    assert browser.js("document.activeElement.name") == "thing"
    browser.js(f"{TYPE}('lemon')")
    assert "noto lemon on a light blue ground, seed 1, s = 5, 10 steps" in browser.js(
        PRESSED
    )
    corner = browser.js(
        "[...document.querySelector('.draw-x').getContext('2d').getImageData(0, 0, 1, 1).data]"
    )
    assert corner[2] > corner[0] + 30, (
        f"the ground is light blue; the corner is {corner}"
    )
    moved = browser.js(
        "(() => { const t = document.querySelector('.draw-time'); t.value = 0; t.dispatchEvent(new Event('input')); return [t.max, document.querySelector('.draw-t').textContent] })()"
    )
    assert moved == ["10", "1000"]
    assert browser.js("document.querySelectorAll('.draw-shelf canvas').length") == 1
    assert not browser.complaints


@built
@in_a_browser
def test_without_script_the_stored_run_is_shown(browser):  # noqa: F811
    browser("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser("Page.navigate", url=(SITE / "book/words.html").as_uri())
        while browser.js("document.readyState") != "complete":
            pass
        assert browser.js(
            "[...document.querySelectorAll('.draw-live, .draw-cannot, .draw-stored [role=img]')].map(e => e.offsetHeight > 0)"
        ) == [False, True, True]
    finally:
        browser("Emulation.setScriptExecutionDisabled", value=False)


def test_the_page_says_what_eight_bits_cost():
    """The two shares in book/words.md are those that were measured, by the weights that are in the page."""
    stored = json.loads((ROOT / "data/results/words/box.json").read_text())
    sums = export_words.sums_of()
    assert {n: stored["about"]["weights"][n] for n in sums} == sums
    said = re.search(
        r"(0\.\d\d) of (\d+) pictures with 8 bits, and (0\.\d\d) with 16",
        (BOOK / "words.md").read_text(),
    )
    eight, sixteen = stored["8 bits, s = 5"], stored["16 bits, s = 5"]
    assert said.groups() == (
        f"{eight['top5']:.2f}",
        str(eight["n"]),
        f"{sixteen['top5']:.2f}",
    )
    apart = stored["difference, s = 5"]["grey levels, median"]
    assert round(apart) == 6 and "about six of 255" in (BOOK / "words.md").read_text()
