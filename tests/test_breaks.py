"""The switches of "Break it yourself": what the page computes, against ddpm_core and against the chapters' own checks of misprints."""

import re

import pytest
import torch
from site_pages import SITE, built

import ddpm_core as ddpm
from book._ext import breaks
from book._tools.browser import CHROMIUM, Browser
from book._tools.notebooks import BOOK, notebooks, read
from ddpm_core.bound import eps_weight

TABLE = breaks.table()
in_a_browser = pytest.mark.skipif(
    not CHROMIUM, reason="no browser here: install chromium to test the pages in one"
)


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def script(browser, tmp_path_factory):
    page = tmp_path_factory.mktemp("break") / "page.html"
    source = (BOOK / "_static" / "break.js").read_text()
    page.write_text(f"<!doctype html><meta charset=utf-8><script>{source}</script>")
    browser.open(page.as_uri())
    return browser


def test_each_right_form_is_ddpm_core():
    s, t = breaks.S, breaks.T
    one = torch.ones(s.T, 1, 1, 1, dtype=torch.float64)
    eps = breaks.EPS * one
    x_t = ddpm.q_sample(s, breaks.X0 * one, t, eps)
    close = lambda name, value: torch.testing.assert_close(
        TABLE[name].right[1], value, rtol=0, atol=1e-12
    )
    close("4", breaks.with_0(x_t.flatten()))
    close("11", ddpm.reverse_mean(s, x_t, t, eps).flatten())
    close("10", ddpm.reverse_mean(s, x_t, t, eps).flatten())
    close("15", ddpm.predict_x0(s, x_t, t, eps).flatten())
    later = TABLE["12"].right[1][1:]  # sigma_1 is another there
    torch.testing.assert_close(later, eps_weight(s)[2:], rtol=0, atol=1e-12)
    known = s.alpha_bar[1:].sqrt()[:, None, None, None] * one
    mean = ddpm.q_posterior(s, one, known, t)[0].flatten()
    close("7", mean[1:])


@in_a_browser
@pytest.mark.parametrize("number", TABLE)
def test_the_page_computes_what_ddpm_core_does(script, number):
    """As it is printed the check holds; with each misprint it fails, by the same number at every t."""
    equation = TABLE[number]
    right = script.js(f"Break.check({number}, '')")
    assert right["off"] <= right["allowed"] == breaks.ALLOWED
    close = lambda mine, theirs: torch.testing.assert_close(
        torch.tensor(mine, dtype=torch.float64), theirs, rtol=1e-11, atol=1e-12
    )
    close(right["mine"], equation.right[1])
    close(right["theirs"], equation.right[1])
    for name, (_, _, values) in equation.wrong.items():
        got = script.js(f"Break.check({number}, {name!r})")
        close(got["mine"], values)
        assert got["off"] > 1e6 * got["allowed"], name
        assert got["off"] == pytest.approx(equation.off(name), rel=1e-9)
    assert set(equation.wrong) == set(
        re.findall(r"(\w+): ", script.js(f"Break.EQUATIONS[{number}].run.toString()"))
    ) & set(equation.wrong)


@in_a_browser
def test_erf(script):
    x = torch.linspace(-7, 7, 1001, dtype=torch.float64)
    mine = script.js(f"{x.tolist()}.map(Break.erf)")
    torch.testing.assert_close(
        torch.tensor(mine, dtype=torch.float64), torch.erf(x), rtol=1e-14, atol=1e-15
    )


def test_the_chapters_have_the_same_numbers():
    """Where a chapter's own check has the same setting, it prints the same number."""
    printed = {
        number
        for path in notebooks()
        for cell in read(path).cells
        for output in cell.get("outputs", ())
        for number in re.findall(
            r"\d[\d.]*(?:e-?\d+)?",
            output.get("text", "") or output.get("data", {}).get("text/plain", ""),
        )
    }
    at = lambda name, t: abs(
        float(TABLE["7"].wrong[name][2][t - 2] - TABLE["7"].right[1][t - 2])
    )
    mine = [TABLE["2"].off("root"), *map(TABLE["13"].off, TABLE["13"].wrong)]
    mine += [at(name, t) for name in TABLE["7"].wrong for t in (2, 300)]
    same = [value for value in mine if f"{value:.4g}" in printed]
    if len(same) < 10:
        pytest.skip("the chapters' checks have other settings now")
    assert len(same) == len(mine) == 13, mine


@built
@in_a_browser
def test_a_reader_breaks_an_equation_by_keyboard(browser):
    browser.look(360, dark=False)
    browser.open((SITE / "book" / "equations.html").as_uri())
    assert browser.js("document.querySelectorAll('.break.live').length") == len(TABLE)
    seal = "document.querySelector('[data-equation=\"7\"] .break-out .seal').className"
    curve = "document.querySelector('[data-equation=\"7\"] svg path:nth-of-type(2)').getAttribute('d')"
    assert browser.js(seal) == "seal held"
    before = browser.js(curve)
    browser.js("document.querySelector('[data-equation=\"7\"] input').focus()")
    browser.press("ArrowRight")
    assert browser.js(seal) == "seal broken" and browser.js(curve) != before
    browser.press("ArrowLeft")
    assert browser.js(seal) == "seal held"
    assert not browser.complaints


@built
@in_a_browser
def test_without_script_the_misprints_are_listed(browser):
    browser("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser("Page.navigate", url=(SITE / "book" / "equations.html").as_uri())
        while browser.js("document.readyState") != "complete":
            pass
        shown = browser.js(
            "[...document.querySelectorAll('.break li')].filter(li => li.offsetHeight && li.querySelector('.seal.broken')).length"
        )
        assert shown == sum(len(equation.wrong) for equation in TABLE.values())
    finally:
        browser("Emulation.setScriptExecutionDisabled", value=False)
