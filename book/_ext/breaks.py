r"""Misprints, for "Break it yourself": what each says, and how far off it is, computed here in double precision.

A chapter or page that says

    <div class="break" data-equation="7">In the page: Eq. (7) with its misprints.</div>

gets, in the page, a switch for each misprint of that equation (book/_static/break.js). What stands in the page before the script runs, on
paper, and where there is no script, is the list that is written here: each misprint's formula and a red seal. tests/test_breaks.py holds the
script's numbers to these, and these to those of the chapters.
"""

import math
import re
from dataclasses import dataclass

import torch
from docutils import nodes

import ddpm_core as ddpm
from book._ext import formulas, seals
from ddpm_core.bound import decoder_log_likelihood

ALLOWED = 1e-12
X0, EPS = 0.8, -1.3  # one pixel and one noise, as in break.js
HERE = re.compile(r'<div class="break" data-equation="(\d+)">.*?</div>', re.DOTALL)
S = ddpm.linear_schedule()
T = torch.arange(1, S.T + 1)
BETA, ALPHA, BAR = S.beta[1:], S.alpha[1:], S.alpha_bar[1:]
PREV = S.alpha_bar[:-1]
X_T = BAR.sqrt() * X0 + (1 - BAR).sqrt() * EPS


@dataclass(frozen=True)
class Equation:
    """shows: what the curve is, what it is held against; wrong: name -> (words, formula, values)."""

    shows: str
    right: tuple[str, torch.Tensor]
    wrong: dict[str, tuple[str, str, torch.Tensor]]

    def off(self, name: str = "") -> float:
        mine = self.wrong[name][2] if name else self.right[1]
        return float((mine - self.right[1]).abs().max())


def variances(factor) -> torch.Tensor:
    """Of x_0, x_1, ..., by one step after the other."""
    v = [1.0]
    for beta in BETA.tolist():
        v.append(factor(beta) ** 2 * v[-1] + beta)
    return torch.tensor(v, dtype=torch.float64)


def probabilities(left, right, std: float = 0.4, mean: float = 0.3) -> torch.Tensor:
    below = lambda x: torch.special.erfc((mean - x) / std / math.sqrt(2)) / 2
    return below(right) - below(left)


def table() -> dict[str, Equation]:
    one, here = torch.ones(S.T - 1, dtype=torch.float64), BAR[1:].sqrt()
    beta, prev, alpha, bar = BETA[1:], PREV[1:], ALPHA[1:], BAR[1:]
    eps = torch.full_like(BAR, EPS)
    true = ddpm.q_posterior(
        S, X0 * torch.ones(S.T, 1, 1, 1).double(), X_T[:, None, None, None], T
    )[0].flatten()
    step = BETA / (1 - BAR).sqrt() * EPS
    level = torch.linspace(-1, 1, 256, dtype=torch.float64)
    half, endless = 1 / 255, torch.tensor([math.inf], dtype=torch.float64)
    left = torch.cat([-endless, level[1:] - half])
    right = torch.cat([level[:-1] + half, endless])
    weight = BETA / (2 * ALPHA * (1 - BAR))  # eps_weight, with sigma_1^2 = beta_1
    noisy = r"\sqrt{\bar\alpha_t}\,x_0"
    return {
        "2": Equation(
            "The variance after t steps, if it was one before",
            (r"x_t=\sqrt{1-\beta_t}\,x_{t-1}+\sqrt{\beta_t}\,\epsilon", torch.ones(S.T + 1).double()),
            {
                "root": ("the root lost", r"x_t=(1-\beta_t)\,x_{t-1}+\sqrt{\beta_t}\,\epsilon", variances(lambda b: 1 - b)),
                "none": ("no factor at all", r"x_t=x_{t-1}+\sqrt{\beta_t}\,\epsilon", variances(lambda b: 1.0)),
            },
        ),
        "4": Equation(
            "One pixel, 0.8, with one noise, \u22121.3, after t steps; held against Eq. (2) taken t times",
            (rf"x_t={noisy}+\sqrt{{1-\bar\alpha_t}}\,\epsilon", with_0(X_T)),
            {
                "variance": ("the variance for its root", rf"x_t={noisy}+(1-\bar\alpha_t)\,\epsilon", with_0(BAR.sqrt() * X0 + (1 - BAR) * EPS)),
                "alpha": ("\u03b1 for \u03b1\u0304", r"x_t=\sqrt{\alpha_t}\,x_0+\sqrt{1-\alpha_t}\,\epsilon", with_0(ALPHA.sqrt() * X0 + (1 - ALPHA).sqrt() * EPS)),
                "under": ("\u03b5 under the root", rf"x_t={noisy}+\sqrt{{(1-\bar\alpha_t)\,|\epsilon|}}", with_0(BAR.sqrt() * X0 + ((1 - BAR) * eps.abs()).sqrt())),
            },
        ),
        "7": Equation(
            "The mean one step before t, for a white pixel without noise, of which it is known",
            (r"\tilde\mu_t=\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t\,x_0+\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})\,x_t}{1-\bar\alpha_t}", prev.sqrt()),
            {
                "denominator": ("the denominator lost", r"\sqrt{\bar\alpha_{t-1}}\,\beta_t\,x_0+\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})\,x_t", prev.sqrt() * (1 - bar)),
                "index": ("t for t \u2212 1", r"\frac{\sqrt{\bar\alpha_t}\,\beta_t\,x_0+\sqrt{\alpha_t}\,(1-\bar\alpha_t)\,x_t}{1-\bar\alpha_t}", (bar.sqrt() * beta * one + alpha.sqrt() * (1 - bar) * here) / (1 - bar)),
                "alpha": ("\u03b1\u0304 for \u03b1", r"\frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t\,x_0+\sqrt{\bar\alpha_t}\,(1-\bar\alpha_{t-1})\,x_t}{1-\bar\alpha_t}", (prev.sqrt() * beta * one + bar.sqrt() * (1 - prev) * here) / (1 - bar)),
                "exchanged": ("the weights exchanged", r"\frac{\sqrt{\alpha_t}\,(1-\bar\alpha_{t-1})\,x_0+\sqrt{\bar\alpha_{t-1}}\,\beta_t\,x_t}{1-\bar\alpha_t}", (alpha.sqrt() * (1 - prev) * one + prev.sqrt() * beta * here) / (1 - bar)),
            },
        ),
        "10": Equation(
            "What the mean has to be, for one pixel and one noise; held against Eq. (7)",
            (r"\frac1{\sqrt{\alpha_t}}\Big(x_t-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon\Big)", true),
            {
                "under": ("\u03b5 under the root", r"\frac1{\sqrt{\alpha_t}}\Big(x_t-\frac{\beta_t}{\sqrt{(1-\bar\alpha_t)\,|\epsilon|}}\Big)", (X_T - BETA / ((1 - BAR) * eps.abs()).sqrt()) / ALPHA.sqrt()),
                "root": ("the root lost", r"\frac1{\sqrt{\alpha_t}}\Big(x_t-\frac{\beta_t}{1-\bar\alpha_t}\,\epsilon\Big)", (X_T - BETA / (1 - BAR) * EPS) / ALPHA.sqrt()),
            },
        ),
        "11": Equation(
            "The mean of a step back, for one pixel and a network that knows the noise; held against Eq. (7)",
            (r"\frac1{\sqrt{\alpha_t}}\Big(x_t-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon_\theta\Big)", true),
            {
                "front": ("\u03b1\u0304 in front", r"\frac1{\sqrt{\bar\alpha_t}}\Big(x_t-\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon_\theta\Big)", (X_T - step) / BAR.sqrt()),
                "sign": ("plus for minus", r"\frac1{\sqrt{\alpha_t}}\Big(x_t+\frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon_\theta\Big)", (X_T + step) / ALPHA.sqrt()),
                "alpha": ("\u03b1 under the root", r"\frac1{\sqrt{\alpha_t}}\Big(x_t-\frac{\beta_t}{\sqrt{1-\alpha_t}}\,\epsilon_\theta\Big)", (X_T - BETA / (1 - ALPHA).sqrt() * EPS) / ALPHA.sqrt()),
                "beta": ("a root over \u03b2", r"\frac1{\sqrt{\alpha_t}}\Big(x_t-\frac{\sqrt{\beta_t}}{\sqrt{1-\bar\alpha_t}}\,\epsilon_\theta\Big)", (X_T - BETA.sqrt() / (1 - BAR).sqrt() * EPS) / ALPHA.sqrt()),
            },
        ),
        "12": Equation(
            "The weight of step t; held against Eq. (8), with a network that is wrong by one",
            (r"\frac{\beta_t^2}{2\sigma_t^2\,\alpha_t\,(1-\bar\alpha_t)}", weight),
            {
                "alpha": ("\u03b1 lost", r"\frac{\beta_t^2}{2\sigma_t^2\,(1-\bar\alpha_t)}", BETA / (2 * (1 - BAR))),
                "root": ("a root too many", r"\frac{\beta_t^2}{2\sigma_t^2\,\alpha_t\,\sqrt{1-\bar\alpha_t}}", BETA / (2 * ALPHA * (1 - BAR).sqrt())),
                "square": ("the square lost", r"\frac{\beta_t}{2\sigma_t^2\,\alpha_t\,(1-\bar\alpha_t)}", 1 / (2 * ALPHA * (1 - BAR))),
            },
        ),
        "13": Equation(
            "The probability of each grey level, for mean 0.3 and standard deviation 0.4; held against an integral",
            (r"\int_{\delta_-(x)}^{\delta_+(x)}\mathcal N(x;\mu,\sigma^2)\,dx", decoder_log_likelihood(level, torch.full_like(level, 0.3), 0.4).exp()),
            {
                "ends": ("the outermost bins end", r"\int_{x-1/255}^{x+1/255}\text{ also at }x=\pm1", probabilities(level - half, level + half)),
                "shifted": ("bins from x to x + 2/255", r"\int_{x}^{x+2/255}\mathcal N(x;\mu,\sigma^2)\,dx", probabilities(left + half, right + half)),
                "twice": ("bins of twice the width", r"\int_{x-2/255}^{x+2/255}\mathcal N(x;\mu,\sigma^2)\,dx", probabilities(left - half, right + half)),
                "variance": ("the variance for its root", r"\int\mathcal N(x;\mu,\sigma^4)\,dx", probabilities(left, right, 0.4**2)),
            },
        ),
        "15": Equation(
            "The pixel that is found again; it was 0.8",
            (r"x_0=\frac{x_t-\sqrt{1-\bar\alpha_t}\,\epsilon}{\sqrt{\bar\alpha_t}}", torch.full_like(BAR, X0)),
            {
                "undivided": ("the division forgotten", r"x_t-\sqrt{1-\bar\alpha_t}\,\epsilon", X_T - (1 - BAR).sqrt() * EPS),
                "alpha": ("\u03b1 for \u03b1\u0304", r"\frac{x_t-\sqrt{1-\alpha_t}\,\epsilon}{\sqrt{\alpha_t}}", (X_T - (1 - ALPHA).sqrt() * EPS) / ALPHA.sqrt()),
                "variance": ("the variance for its root", r"\frac{x_t-(1-\bar\alpha_t)\,\epsilon}{\sqrt{\bar\alpha_t}}", (X_T - (1 - BAR) * EPS) / BAR.sqrt()),
            },
        ),
    }  # fmt: skip


def with_0(values: torch.Tensor) -> torch.Tensor:
    """At t = 0 the pixel itself, where alpha = alpha_bar = 1 and there is no noise."""
    return torch.cat([torch.tensor([X0], dtype=torch.float64), values])


def set_formula(tex: str) -> str:
    return (
        f'<span class="math notranslate nohighlight" data-tex="{formulas.html.escape(tex)}">'
        f"{formulas.formula(tex, False)}</span>"
    )


def widget(number: str, equation: Equation) -> str:
    """The list that stands before the script runs; see break.js for what it makes of it."""
    items = "".join(
        f'<li data-misprint="{name}"><span class="break-name">{words}</span> {set_formula(tex)} '
        + seals.seal(
            f"FAIL Eq. ({number}): largest difference {equation.off(name):.4g}, allowed {ALLOWED:.0e}"
        )
        .replace("<li ", "<span ")
        .replace("</li>", "</span>")
        + "</li>"
        for name, (words, tex, _) in equation.wrong.items()
    )
    return (
        f'<div class="break" data-equation="{number}" data-shows="{equation.shows}">'
        f'<p class="break-still">Misprints of Eq. ({number}), and what its check says to each. With script you can put them in yourself.</p>'
        f'<span class="break-right">{set_formula(equation.right[0])}</span><ul>{items}</ul></div>'
    )


def put(app, doctree, page: str) -> None:
    if app.builder.format != "html":
        return
    known = None
    for node in list(doctree.findall(nodes.raw)):
        if HERE.search(node.astext()):
            known = known or table()
            text = HERE.sub(lambda m: widget(m[1], known[m[1]]), node.astext())
            node.replace_self(nodes.raw("", text, format="html"))


def load_where_used(app, page: str, template: str, context, doctree) -> None:
    if 'class="break"' in (context.get("body") or ""):
        app.add_js_file("break.js", loading_method="defer")


def setup(app):
    app.connect("doctree-resolved", put)
    app.connect("html-page-context", load_where_used)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
