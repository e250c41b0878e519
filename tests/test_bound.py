"""Eqs. (5), (13), (14) on images: bits_per_dim against the equations written out, and the estimate from a few times against all of them."""

import dataclasses
import gc
import math

import numpy as np
import pytest
import torch
from laboratory import (
    SHORT,
    Scale,
    generator,
    ideal,
    marginal,
    randn,
    randomise,
    small_unet,
)
from scipy.stats import norm
from torch.testing import assert_close

from ddpm_core import (
    BoundEstimate,
    bits,
    bits_per_dim,
    bits_per_dim_estimate,
    linear_schedule,
    load_images,
    q_sample,
    simple_loss,
    to_model_range,
)
from ddpm_core.bound import decoder_log_likelihood, term_probability, variance_mismatch
from ddpm_core.exact import EmpiricalData
from ddpm_core.reverse import reverse_variance
from ddpm_core.schedule import Schedule


def test_simple_loss_is_a_mean_over_images_and_pixels():
    s, t = linear_schedule(), torch.tensor([1, 500, 1000])
    x0, eps = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1)
    seen = []
    loss = simple_loss(lambda x, t: seen.append((x, t)) or 0.3 * x, s, x0, t, eps)
    x_t = q_sample(s, x0, t, eps)
    assert_close(
        loss,
        sum(((eps[i] - 0.3 * x_t[i]) ** 2).mean() for i in range(3)) / 3,
        rtol=1e-13,
        atol=0,
    )
    assert torch.equal(seen[0][0], x_t) and torch.equal(seen[0][1], t)


def test_a_model_that_answers_zero_has_loss_one_and_the_ideal_one_its_known_least():
    """min E (eps - eps_hat)^2 = var(eps | x_t) = alpha_bar_t s^2 / var(x_t), for x_0 ~ N(m, s^2)."""
    n, t = 40_000, 8
    x0, eps = 0.2 + 0.5 * randn(n, 1), randn(n, 1, seed=1)
    least = (SHORT.alpha_bar[t] * 0.5**2 / marginal(SHORT, 0.2, 0.5)[1][t]).item()
    for model, expected in (
        (lambda x, t: torch.zeros_like(x), 1.0),
        (lambda x, t: ideal(SHORT, 0.2, 0.5)(x, t), least),
    ):
        assert (
            abs(simple_loss(model, SHORT, x0, t, eps).item() - expected)
            < 4 * expected * (2 / n) ** 0.5
        )


# Every term of Eq. (5), against the paper's formulas in numpy


def images(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    """Images on the 8-bit grid, black and white pixels among them."""
    x0 = torch.randint(0, 256, shape, generator=generator(seed)).to(dtype) / 127.5 - 1
    x0[..., 0, 0], x0[..., 0, 1] = -1, 1
    return x0


def crooked(x, t):
    """A model that is right about nothing, and whose x0_hat often lies outside [-1, 1]."""
    return torch.sin(3 * x) + (t.to(x) / 20).view(-1, *[1] * (x.ndim - 1))


def crooked_with_variance(x, t):
    return torch.cat([crooked(x, t), 0.7 * torch.cos(2 * x) - 0.1], dim=1)


def by_hand(
    schedule: Schedule,
    x0: torch.Tensor,
    seed: int,
    variance: str,
    clip: bool,
    wrong: str = "",
) -> dict[str, np.ndarray]:
    """L_T, L_{t-1} and the two errors in float64, and, if asked, one of the known mistakes."""
    beta = schedule.beta.numpy()
    bar = np.cumprod(1 - beta)
    T, g, x = schedule.T, generator(seed), x0.double().numpy()
    bits = lambda nats: nats.reshape(len(x), -1).mean(1) / math.log(2)
    average = lambda y: y.reshape(len(x), -1).mean(1)
    terms, mse, x0_mse = (np.empty((len(x), T)) for _ in range(3))
    beta_tilde = lambda t: (1 - bar[t - 1]) / (1 - bar[t]) * beta[t]
    for t in range(T, 0, -1):
        eps = torch.randn(x0.shape, generator=g).double().numpy()
        x_t = np.sqrt(bar[t]) * x + np.sqrt(1 - bar[t]) * eps
        eps_hat = np.sin(3 * x_t) + t / 20
        x0_hat = (x_t - np.sqrt(1 - bar[t]) * eps_hat) / np.sqrt(bar[t])
        mean_of = lambda x0: (
            (
                np.sqrt(bar[t - 1]) * beta[t] * x0
                + np.sqrt(1 - beta[t]) * (1 - bar[t - 1]) * x_t
            )
            / (1 - bar[t])
        )
        mean = mean_of(x0_hat)
        if clip:
            x0_hat = x0_hat.clip(-1, 1)
            if wrong != "eps kept":
                eps_hat = (x_t - np.sqrt(bar[t]) * x0_hat) / np.sqrt(1 - bar[t])
            mean = (
                mean.clip(-1, 1)
                if wrong == "mean clipped"
                else mean
                if wrong == "clipped too late"
                else mean_of(x0_hat)
            )
        var = beta_tilde(t) if variance == "beta_tilde" and t > 1 else beta[t]
        if t == 1 and wrong != "sigma_1":
            var = beta_tilde(2)
        if variance == "learned":
            var = var * np.exp(0.7 * np.cos(2 * x_t) - 0.1)
        if t > 1:
            nats = (
                beta_tilde(t) / var
                - 1
                - np.log(beta_tilde(t) / var)
                + (mean_of(x) - mean) ** 2 / var
            ) / 2
            nats = (
                nats - (beta_tilde(t) / var - 1 - np.log(beta_tilde(t) / var)) / 2
                if wrong == "C forgotten"
                else nats
            )
        elif wrong == "density":
            nats = -norm.logpdf(x, mean, np.sqrt(var))
        else:
            a, b = (
                (x - 1 / 255 - mean) / np.sqrt(var),
                (x + 1 / 255 - mean) / np.sqrt(var),
            )
            open_ended = wrong != "no open ends"
            a, b = (
                np.where(open_ended & (x < -0.999), -np.inf, a),
                np.where(open_ended & (x > 0.999), np.inf, b),
            )
            a, b = (
                np.where(a > 0, -b, a),
                np.where(a > 0, -a, b),
            )  # the bin where the CDF is small, and exact
            nats = -(
                norm.logcdf(b) + np.log1p(-np.exp(norm.logcdf(a) - norm.logcdf(b)))
            )
        terms[:, t - 1], mse[:, t - 1], x0_mse[:, t - 1] = (
            bits(nats),
            average((eps - eps_hat) ** 2),
            average((x - x0_hat) ** 2),
        )
    prior = bits((1 - bar[T] - 1 - np.log(1 - bar[T]) + bar[T] * x**2) / 2)
    return dict(
        prior=prior, terms=terms, mse=mse, x0_mse=x0_mse, total=prior + terms.sum(1)
    )


def agree(got, expected: dict[str, np.ndarray]) -> None:
    for name, value in expected.items():
        assert_close(
            getattr(got, name).double(),
            torch.from_numpy(value),
            rtol=2e-5,
            atol=1e-6,
            msg=lambda m: f"{name}: {m}",
        )  # kept in float32


@pytest.mark.parametrize("variance", ["beta", "beta_tilde", "learned"])
@pytest.mark.parametrize("clip", [False, True])
def test_every_term_is_the_equation_written_out(variance, clip):
    x0 = images(3, 2, 3, 3, dtype=torch.float64)
    model = crooked_with_variance if variance == "learned" else crooked
    got = bits_per_dim(model, SHORT, x0, variance, clip, generator=generator(5))
    agree(got, by_hand(SHORT, x0, 5, variance, clip))
    wrongs = [
        "sigma_1",
        "density",
        "no open ends",
        *(["C forgotten"] if variance != "beta_tilde" else []),
        *(["clipped too late", "mean clipped", "eps kept"] if clip else []),
    ]
    for wrong in wrongs:
        with pytest.raises(AssertionError):
            agree(got, by_hand(SHORT, x0, 5, variance, clip, wrong))


def test_a_model_that_knows_the_image_pays_for_the_decoder_and_for_C():
    """One image is the whole data set: x0_hat = x_0. With beta_tilde nothing is left but L_0, with beta C of Eq. (8) at every t."""
    s, x0 = linear_schedule(50, 1e-3, 0.2), images(1, 1, 4, 4)
    model = EmpiricalData(x0.double()).model(s)
    for variance in ("beta_tilde", "beta"):
        got = bits_per_dim(model, s, x0.double(), variance, generator=generator())
        C = torch.stack(
            [
                variance_mismatch(s, t, reverse_variance(s, variance)[t])
                for t in range(2, 51)
            ]
        ) / math.log(2)
        assert_close(got.terms[0, 1:].double(), C, rtol=1e-6, atol=1e-9)
        std = s.beta_tilde[2].sqrt()
        L_0 = -decoder_log_likelihood(x0.double(), x0.double(), std).mean() / math.log(
            2
        )
        assert_close(got.terms[0, 0].double(), L_0, rtol=1e-6, atol=0)
        assert got.x0_mse.max() < 1e-12


def test_the_prior_of_images_is_about_a_hundred_thousandth_of_a_bit():
    """The paper: L_T = 1e-5 bits/dim. Random 8-bit images: 9.6e-6, from KL alone; Fashion-MNIST, whose pixels are mostly black, more."""
    s = linear_schedule()
    zero = lambda x, t: torch.zeros_like(x)
    noise = torch.randint(0, 256, (20, 3, 16, 16), generator=generator()) / 127.5 - 1
    prior = (
        bits_per_dim(
            zero, linear_schedule(), noise[:, :, :8, :8], generator=generator()
        )
        .prior.mean()
        .item()
    )
    assert abs(prior - 9.6e-6) < 0.5e-6
    x0 = to_model_range(load_images("fashion-mnist", "test")[0][:20])
    few = linear_schedule(
        2, 0.5, s.alpha_bar[-1].neg().item() / 0.5 + 1
    )  # two steps to the same alpha_bar_T: the prior depends on nothing else
    assert_close(few.alpha_bar[-1], s.alpha_bar[-1], rtol=1e-6, atol=0)
    prior = bits_per_dim(zero, few, x0, generator=generator()).prior.mean().item()
    assert 1e-5 < prior < 3e-5


# Figure 5 and Table 4


def test_rate_and_distortion():
    x0 = images(3, 1, 4, 4)
    b = bits_per_dim(crooked, SHORT, x0, clip_x0=True, generator=generator())
    assert b.rate.shape == b.distortion.shape == (3, SHORT.T)
    assert torch.equal(b.rate[:, -1], b.prior)  # at T only x_T has been sent
    assert_close(
        b.rate[:, 0], b.total - b.terms[:, 0], rtol=1e-5, atol=0
    )  # at 1 all but the last, lossless step
    for t in range(1, SHORT.T + 1):
        received = b.prior + sum(
            (b.terms[:, s - 1] for s in range(t + 1, SHORT.T + 1)), start=torch.zeros(3)
        )  # L_{s-1} brings x_{s-1}
        assert_close(b.rate[:, t - 1], received, rtol=1e-5, atol=1e-7)
        assert not torch.allclose(
            b.rate[:, t - 1], received + b.terms[:, t - 1], rtol=1e-3
        )  # x_t needs L_t, not L_{t-1}
    g = generator()
    for t in range(SHORT.T, 0, -1):
        x_t = q_sample(SHORT, x0, t, torch.randn(x0.shape, generator=g))
        a = SHORT.alpha_bar[t].item()
        x0_hat = (
            (x_t - (1 - a) ** 0.5 * crooked(x_t, torch.full((3,), t))) / a**0.5
        ).clamp(-1, 1)
        pixels = lambda x: (x + 1) * 127.5
        expected = (pixels(x0) - pixels(x0_hat)).square().flatten(1).mean(1).sqrt()
        assert_close(b.distortion[:, t - 1], expected, rtol=1e-4, atol=1e-3)


def test_the_distortion_of_the_ideal_predictor_is_what_is_left_of_the_datas_variance():
    """E (x_0 - E[x_0 | x_t])^2 = s^2 (1 - alpha_bar_t) / var(x_t): a regression, whatever the law of x_0. The rate grows towards t = 1."""
    x0 = images(400, 1, 2, 2)
    m, s = x0.mean().item(), x0.std().item()
    b = bits_per_dim(ideal(SHORT, m, s), SHORT, x0, "beta_tilde", generator=generator())
    left = s**2 * (1 - SHORT.alpha_bar) / marginal(SHORT, m, s)[1]
    assert ((b.x0_mse.mean(0) - left[1:]).abs() < 4 * b.x0_mse.std(0) / 20).all()
    assert_close(127.5 * b.x0_mse.sqrt(), b.distortion)
    assert (b.rate[:, :-1] > b.rate[:, 1:]).all()


# What it may not do


class Watched(torch.nn.Module):
    """A model that notes, at t = 19 and t = 2, how many bytes of tensors are alive."""

    def __init__(self):
        super().__init__()
        self.bytes, self.a = [], torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, x, t):
        if t[0] in (19, 2):
            self.bytes.append(
                sum(
                    o.numel() * o.element_size()
                    for o in gc.get_objects()
                    if type(o) is torch.Tensor
                )
            )
        return self.a * x


def test_memory_does_not_grow_with_the_steps(monkeypatch):
    x0 = images(2, 1, 16, 16)

    def growth() -> int:
        model = Watched()
        bits_per_dim(model, SHORT, x0, generator=generator())
        return model.bytes[1] - model.bytes[0]

    assert growth() == 0
    kept, right = [], bits.bound_term
    monkeypatch.setattr(
        bits,
        "bound_term",
        lambda s, x0, x_t, *rest: kept.append(x_t) or right(s, x0, x_t, *rest),
    )
    assert growth() >= 15 * x0.numel() * 4  # a trajectory that is kept is noticed


def test_eval_mode_without_gradients_and_the_mode_from_before_afterwards(untouched):
    model = Scale().train()
    result = bits_per_dim(model, SHORT, images(2, 1, 2, 2))
    estimate = bits_per_dim_estimate(model, SHORT, images(2, 1, 2, 2))
    assert (
        not any(model.modes)
        and model.training
        and not result.total.requires_grad
        and not estimate.total.requires_grad
    )
    assert model.times[:20] == [[t, t] for t in range(20, 0, -1)]


@pytest.mark.parametrize("measure", [bits_per_dim, bits_per_dim_estimate])
def test_an_image_of_its_own_generator_has_the_same_bound_in_any_batch(measure):
    model, x0 = randomise(small_unet(multipliers=(1,))), images(4, 1, 8, 8)
    s = linear_schedule(6, 0.01, 0.5)
    fields = lambda result: [
        getattr(result, f.name) for f in dataclasses.fields(result)
    ]
    together = fields(measure(model, s, x0, generator=[generator(i) for i in range(4)]))
    alone = [
        fields(measure(model, s, x0[i : i + 1], generator=[generator(i)]))
        for i in range(4)
    ]
    pair = fields(measure(model, s, x0[[3, 1]], generator=[generator(3), generator(1)]))
    for k, value in enumerate(together):
        assert_close(
            torch.cat([one[k] for one in alone]), value, rtol=1e-4, atol=1e-5
        )  # sums in another order, in float32
        assert_close(pair[k], value[[3, 1]], rtol=1e-4, atol=1e-5)
    other = fields(
        measure(model, s, x0, generator=[generator(i + 9) for i in range(4)])
    )
    assert (other[0] != together[0]).all()


@pytest.mark.parametrize("measure", [bits_per_dim, bits_per_dim_estimate])
def test_labels_reach_the_model(measure):
    def model(x, t, y=None):
        return 0 * x if y is None else 0.1 * y.view(-1, 1, 1, 1) * x

    x0, y = images(3, 1, 2, 2), torch.tensor([0, 1, 2])
    with_labels = measure(model, SHORT, x0, labels=y, generator=generator())
    by_hand = [
        measure(lambda x, t, k=k: 0.1 * k * x, SHORT, x0, generator=generator()).total[
            k
        ]
        for k in range(3)
    ]
    assert_close(with_labels.total, torch.stack(by_hand))
    assert (
        measure(model, SHORT, x0, generator=generator()).total[1:]
        != with_labels.total[1:]
    ).all()


def test_the_bar_goes_to_stderr_and_only_if_asked(capfd, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    for measure, shown in ((bits_per_dim, "20/20"), (bits_per_dim_estimate, "10/10")):
        measure(Scale(), SHORT, images(1, 1, 2, 2))
        assert capfd.readouterr() == ("", "")
        measure(Scale(), SHORT, images(1, 1, 2, 2), progress=True)
        out, err = capfd.readouterr()
        assert out == "" and shown in err


@pytest.mark.parametrize("measure", [bits_per_dim, bits_per_dim_estimate])
@pytest.mark.parametrize(
    "change, kind, phrase",
    [
        (dict(x0=np.zeros((1, 1, 2, 2))), TypeError, "x0 is a ndarray"),
        (
            dict(x0=torch.zeros(2, 1, 2, 2, dtype=torch.uint8)),
            TypeError,
            "to_model_range() takes uint8",
        ),
        (dict(x0=torch.zeros(0, 1, 2, 2)), ValueError, "at least one image"),
        (dict(x0=torch.zeros(2, 1, 2, 2)), ValueError, "off the 8-bit grid"),
        (
            dict(x0=torch.full((2, 1, 2, 2), torch.nan)),
            ValueError,
            "off the 8-bit grid",
        ),
        (dict(x0=torch.full((2, 1, 2, 2), 3.0)), ValueError, "off the 8-bit grid"),
        (dict(schedule=1000), TypeError, "schedule is a int"),
        (dict(variance="small"), ValueError, "variance = 'small'"),
        (
            dict(variance="learned"),
            ValueError,
            "wanted (2, 2, 2, 2), as UNet(learn_variance=True)",
        ),
        (dict(model=crooked_with_variance), ValueError, 'or pass variance="learned"'),
        (
            dict(model=lambda x, t: x[:1]),
            ValueError,
            "the model returned shape (1, 1, 2, 2)",
        ),
        (dict(generator=[generator()]), ValueError, "1 generators for 2 images"),
        (dict(generator=7), TypeError, "wanted a torch.Generator"),
        (dict(labels=torch.tensor([1])), ValueError, "wanted a LongTensor (2,)"),
        (dict(labels=[0, 1]), TypeError, "labels are a list"),
    ],
)
def test_what_does_not_fit_is_said(measure, change, kind, phrase):
    with pytest.raises(kind) as error:
        measure(
            **{**dict(model=crooked, schedule=SHORT, x0=images(2, 1, 2, 2)), **change}
        )
    assert phrase in str(error.value)


@pytest.mark.parametrize("evaluations", [0, 2, 5, 4.0, True, -4])
def test_evaluations_come_in_pairs(evaluations):
    with pytest.raises(ValueError, match="wanted an even number, at least 4"):
        bits_per_dim_estimate(
            crooked, SHORT, images(1, 1, 2, 2), evaluations=evaluations
        )


# The estimate


N = 4000


@pytest.fixture(scope="module")
def many():
    """N copies of one image, and the bound of each with noises of its own: independent samples of one bound."""
    x0 = images(1, 1, 2, 2).expand(N, -1, -1, -1)
    return x0, bits_per_dim(crooked, SHORT, x0, generator=generator(1)).total.double()


def unbiased_with_its_error(estimate: BoundEstimate, full: torch.Tensor) -> None:
    """Means of independent estimates and of full bounds agree; the mean of error^2 is the variance that the estimates show."""
    total, error = estimate.total.double(), estimate.error.double()
    se = (total.var() / N + full.var() / N).sqrt()
    assert abs(total.mean() - full.mean()) < 4 * se, "biased"
    gap = error**2 - (total - total.mean()) ** 2
    assert abs(gap.mean()) < 4 * gap.std() / N**0.5, (
        "the standard error is not the spread"
    )


@pytest.mark.parametrize("evaluations", [4, 10, 40])
def test_the_estimate_is_unbiased_and_its_error_is_its_spread(many, evaluations):
    x0, full = many
    estimate = bits_per_dim_estimate(
        crooked, SHORT, x0, generator=generator(2), evaluations=evaluations
    )
    unbiased_with_its_error(estimate, full)
    mean, error = estimate.mean
    assert_close(mean, estimate.total.double().mean().item())
    assert_close(
        error, (estimate.total.double().std() / N**0.5).item(), rtol=0.1, atol=0
    )


def test_any_probability_gives_the_same_mean(many, monkeypatch):
    """p(t) decides how large the error is, not what is estimated."""
    x0, full = many
    p = torch.tensor([0.0, 0.0, *range(1, 20)], dtype=torch.float64)
    monkeypatch.setattr(bits, "term_probability", lambda schedule: p / p.sum())
    unbiased_with_its_error(
        bits_per_dim_estimate(crooked, SHORT, x0, generator=generator(2)), full
    )


@pytest.mark.parametrize(
    "mistake",
    [
        "another p than was drawn from",
        "t off by one",
        "five per cent more",
        "error of one draw",
    ],
)
def test_mistakes_in_the_estimate_are_caught(many, monkeypatch, mistake):
    x0, full = many
    right, term_at = bits_per_dim_estimate, bits._term_at
    if mistake == "another p than was drawn from":
        even = torch.tensor([0.0, 0.0, *[1 / 19] * 19], dtype=torch.float64)
        search = torch.searchsorted
        monkeypatch.setattr(
            torch,
            "searchsorted",
            lambda p, u, right: search(even.cumsum(0), u, right=True),
        )
    if mistake == "t off by one":
        monkeypatch.setattr(
            bits,
            "_term_at",
            lambda m, s, x0, t, *rest: term_at(m, s, x0, (t - 1).clamp(min=1), *rest),
        )
    estimate = right(crooked, SHORT, x0, generator=generator(2))
    if mistake == "error of one draw":
        estimate = BoundEstimate(estimate.total, estimate.error * 2**0.5)
    if mistake == "five per cent more":
        estimate = BoundEstimate(estimate.total * 1.05, estimate.error)
    with pytest.raises(AssertionError):
        unbiased_with_its_error(estimate, full)


@pytest.mark.parametrize(
    "schedule", [linear_schedule(), SHORT, Schedule([0.1, 0.5]), Schedule([0.5])]
)
def test_the_probabilities_of_t(schedule):
    p = term_probability(schedule)
    assert p.shape == (schedule.T + 1,) and (p[:2] == 0).all() and (p[2:] > 0).all()
    assert schedule.T == 1 or abs(p.sum() - 1) < 1e-12


@pytest.mark.parametrize("schedule", [Schedule([0.5]), Schedule([0.1, 0.5])])
def test_very_short_chains(schedule, monkeypatch):
    """Where L_T is large, it is seen to be in the estimate."""
    x0 = images(1, 1, 2, 2).expand(N, -1, -1, -1)
    full, estimate = (
        f(crooked, schedule, x0, generator=generator(i))
        for i, f in enumerate((bits_per_dim, bits_per_dim_estimate))
    )
    assert full.rate.shape == (N, schedule.T) and torch.equal(
        full.rate[:, -1], full.prior
    )
    unbiased_with_its_error(estimate, full.total.double())
    monkeypatch.setattr(bits, "_prior", lambda s, x0: torch.zeros(len(x0)))
    with pytest.raises(AssertionError, match="biased"):
        unbiased_with_its_error(
            bits_per_dim_estimate(crooked, schedule, x0, generator=generator(1)),
            full.total.double(),
        )


def test_the_estimate_with_a_learned_variance_and_clipping():
    x0 = images(1, 1, 2, 2).expand(N, -1, -1, -1)
    full = bits_per_dim(
        crooked_with_variance, SHORT, x0, "learned", True, generator=generator(1)
    ).total.double()
    unbiased_with_its_error(
        bits_per_dim_estimate(
            crooked_with_variance, SHORT, x0, "learned", True, generator=generator(2)
        ),
        full,
    )
