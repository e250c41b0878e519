"""The objectives of Table 2: against the equations written out in float64, on Gaussian data where the optimum is known, and trained."""

import math
import textwrap

import pytest
import torch
from laboratory import (
    SHORT,
    assert_moments,
    generator,
    ideal,
    randn,
    randomise,
    small_unet,
)
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

import ddpm_core
from ddpm_core import (
    as_eps_model,
    bits_per_dim,
    bound_loss,
    choose_objective,
    eps_error,
    load_checkpoint,
    mu_error,
    objectives,
    predict_x0,
    q_posterior,
    q_sample,
    reverse_mean,
    sample,
    sample_steps,
    save_checkpoint,
    simple_loss,
    train,
    x0_error,
)
from ddpm_core.bound import bound_terms, eps_weight
from ddpm_core.cli import main
from ddpm_core.exact import exact_chain, gaussian
from ddpm_core.reverse import reverse_process, reverse_variance
from ddpm_core.schedule import Schedule, linear_schedule

S = linear_schedule()
T_EACH = torch.tensor([1, 2, 20, 400, 1000])


def grid(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """Images on the 8-bit grid."""
    return torch.randint(0, 256, shape, generator=generator(seed)).to(dtype) / 127.5 - 1


def crooked(x, t):
    """A model that is right about nothing, and differs from pixel to pixel and from t to t."""
    return torch.sin(3 * x) + (t.to(x) / 1000).view(-1, *[1] * (x.ndim - 1))


def crooked_with_variance(x, t):
    return torch.cat([crooked(x, t), 0.7 * torch.cos(2 * x) - 0.1], dim=1)


def naive(
    schedule: Schedule,
    x0: float,
    t: int,
    eps: float,
    answer,
    kind: str,
    variance: str = "beta",
) -> float:
    """One number of one image, from the paper's formulas in Python floats alone; answer(x_t, t) -> eps_hat, v."""
    beta = schedule.beta.tolist()
    bar = [1.0]
    for b in beta[1:]:
        bar.append(bar[-1] * (1 - b))
    beta_tilde = lambda t: (1 - bar[t - 1]) / (1 - bar[t]) * beta[t]
    x_t = bar[t] ** 0.5 * x0 + (1 - bar[t]) ** 0.5 * eps
    eps_hat, v = answer(x_t, t)
    x0_hat = (x_t - (1 - bar[t]) ** 0.5 * eps_hat) / bar[t] ** 0.5
    mean_of = lambda x0: (
        (
            bar[t - 1] ** 0.5 * beta[t] * x0
            + (1 - beta[t]) ** 0.5 * (1 - bar[t - 1]) * x_t
        )
        / (1 - bar[t])
    )
    if kind == "x0":
        return (x0 - x0_hat) ** 2
    if kind == "mu":
        return (mean_of(x0) - mean_of(x0_hat)) ** 2
    var = (
        beta_tilde(2)
        if t == 1
        else beta_tilde(t)
        if variance == "beta_tilde"
        else beta[t]
    )
    if variance == "learned":
        var *= math.exp(v)
    mean, T = mean_of(x0_hat), len(beta) - 1
    if t > 1:
        ratio = beta_tilde(t) / var
        return T * (ratio - 1 - math.log(ratio) + (mean_of(x0) - mean) ** 2 / var) / 2
    upper = math.inf if x0 > 0.999 else (x0 + 1 / 255 - mean) / var**0.5
    lower = -math.inf if x0 < -0.999 else (x0 - 1 / 255 - mean) / var**0.5
    if lower > 0:
        upper, lower = (
            -lower,
            -upper,
        )  # the bin left of the mean, where the CDF is small and exact
    return -T * (
        norm.logcdf(upper)
        + math.log1p(-math.exp(norm.logcdf(lower) - norm.logcdf(upper)))
    )


def answer(x: float, t: int) -> tuple[float, float]:
    return math.sin(3 * x) + t / 1000, 0.7 * math.cos(2 * x) - 0.1


CASES = [
    ("mu", "simple", "beta"),
    ("x0", "simple", "beta"),
    ("eps", "bound", "beta"),
    ("eps", "bound", "beta_tilde"),
    ("eps", "bound", "learned"),
]


@pytest.mark.parametrize("prediction, objective, variance", CASES)
def test_is_the_equation_written_out(prediction, objective, variance):
    x0, eps = grid(5, 2, 2, 2), randn(5, 2, 2, 2, seed=1)
    x0[:2, 0, 0] = torch.tensor([-1.0, 1.0])
    loss = choose_objective(prediction, objective, variance)(
        crooked_with_variance if variance == "learned" else crooked, S, x0, T_EACH, eps
    )
    kind = "bound" if objective == "bound" else prediction
    for i, t in enumerate(T_EACH.tolist()):
        numbers = [
            naive(S, a, t, e, answer, kind, variance)
            for a, e in zip(x0[i].flatten().tolist(), eps[i].flatten().tolist())
        ]
        assert_close(loss[i].item(), sum(numbers) / len(numbers), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("prediction, objective, variance", CASES)
def test_one_t_for_all_and_t_an_image_are_the_same(prediction, objective, variance):
    x0, eps, model = (
        grid(3, 1, 2, 2),
        randn(3, 1, 2, 2, seed=1),
        crooked_with_variance if variance == "learned" else crooked,
    )
    loss = choose_objective(prediction, objective, variance)
    for t in (1, 2, 1000):
        assert_close(
            loss(model, S, x0, t, eps),
            loss(model, S, x0, torch.full((3,), t), eps),
            rtol=1e-12,
            atol=1e-15,
        )


def test_the_default_is_eq_14():
    """One loss an image, as every objective is promised; `simple_loss` is their mean."""
    assert choose_objective() is eps_error
    x0, eps, t = randn(3, 1, 2, 2), randn(3, 1, 2, 2, seed=1), torch.tensor([1, 9, 20])
    each = eps_error(lambda x, t: 0.3 * x, SHORT, x0, t, eps)
    x_t = q_sample(SHORT, x0, t, eps)
    by_hand = ((eps - 0.3 * x_t) ** 2).reshape(3, 4).mean(1)
    assert_close(each, by_hand, rtol=1e-12, atol=0)
    assert simple_loss(lambda x, t: 0.3 * x, SHORT, x0, t, eps) == each.mean()


def test_the_bound_of_a_noise_predictor_is_eq_12_where_sigma_is_the_posteriors():
    """C of Eq. (8) is 0 for beta_tilde, so L_{t-1} is the weight of Eq. (12) times the squared error of eps."""
    x0, eps, t = (
        randn(4, 1, 3, 3),
        randn(4, 1, 3, 3, seed=1),
        torch.tensor([2, 30, 500, 1000]),
    )
    error = (crooked(q_sample(S, x0, t, eps), t) - eps).square().flatten(1).mean(1)
    assert_close(
        bound_loss(crooked, S, x0, t, eps, "beta_tilde"),
        1000 * eps_weight(S, "beta_tilde")[t] * error,
        rtol=1e-9,
        atol=0,
    )
    C = bound_loss(
        lambda x, t: eps, S, x0, t, eps
    )  # a perfect guess costs C, and only that
    assert_close(
        bound_loss(crooked, S, x0, t, eps) - C,
        1000 * eps_weight(S)[t] * error,
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("variance", ["beta", "beta_tilde", "learned"])
def test_the_sum_over_t_is_bits_per_dim(variance):
    x0, model = (
        grid(3, 1, 4, 4),
        crooked_with_variance if variance == "learned" else crooked,
    )
    bound = bits_per_dim(model, SHORT, x0, variance=variance, generator=generator(7))
    g = generator(7)
    terms = []
    for t in range(SHORT.T, 0, -1):
        eps = torch.randn(x0.shape, generator=g).double()
        terms.insert(0, bound_loss(model, SHORT, x0, t, eps, variance))
    average = torch.stack(terms, 1).mean(1) / math.log(2)
    assert_close(
        (average + bound.prior).double(), bound.total.double(), rtol=1e-5, atol=0
    )  # the terms are kept in float32


def test_a_learned_variance_is_torchs_divergence():
    x0, eps = randn(6, 2, 3, 3), randn(6, 2, 3, 3, seed=1)
    for t in (2, 10, 20):
        x_t = q_sample(SHORT, x0, t, eps)
        eps_hat, v = crooked_with_variance(x_t, torch.full((6,), t)).chunk(2, dim=1)
        mean, var = q_posterior(SHORT, x0, x_t, t)
        p = Normal(
            reverse_mean(SHORT, x_t, t, eps_hat), (SHORT.beta[t] * v.exp()).sqrt()
        )
        expected = 20 * kl_divergence(Normal(mean, var.sqrt()), p).flatten(1).mean(1)
        assert_close(
            bound_loss(crooked_with_variance, SHORT, x0, t, eps, "learned"),
            expected,
            rtol=1e-11,
            atol=0,
        )
        got, var = reverse_process(crooked_with_variance, SHORT, "learned")(x_t, t)
        assert_close(got, p.mean, rtol=1e-12, atol=1e-12)
        assert_close(var, p.variance, rtol=1e-12, atol=0)


def test_v_of_zero_is_the_fixed_variance():
    x0, eps, t = (
        grid(4, 1, 2, 2),
        randn(4, 1, 2, 2, seed=1),
        torch.tensor([1, 2, 10, 20]),
    )
    with_zero = lambda x, t: torch.cat([crooked(x, t), torch.zeros_like(x)], dim=1)
    assert torch.equal(
        bound_loss(with_zero, SHORT, x0, t, eps, "learned"),
        bound_loss(crooked, SHORT, x0, t, eps, "beta"),
    )
    x0 = grid(2, 1, 8, 8, dtype=torch.float32)
    fixed = bits_per_dim(
        small_unet_of(), SHORT, x0, generator=generator()
    ).total  # its last layer starts at zero, as v does
    assert_close(
        bits_per_dim(
            small_unet_of(learn_variance=True),
            SHORT,
            x0,
            "learned",
            generator=generator(),
        ).total,
        fixed,
        rtol=1e-4,
        atol=0,
    )


def test_the_best_v_is_known_and_the_gradient_leads_there():
    """KL is least in sigma^2 at beta_tilde + (mu_tilde - mu_theta)^2, pixel by pixel."""
    x0, eps, t = (
        randn(5, 1, 2, 2),
        randn(5, 1, 2, 2, seed=1),
        torch.tensor([2, 3, 8, 15, 20]),
    )
    x_t = q_sample(SHORT, x0, t, eps)
    mean, var = q_posterior(SHORT, x0, x_t, t)
    best = var + (mean - reverse_mean(SHORT, x_t, t, crooked(x_t, t))) ** 2
    v = (best / SHORT.beta[t].view(-1, 1, 1, 1)).log().requires_grad_()
    loss = lambda v: bound_loss(
        lambda x, t: torch.cat([crooked(x, t), v], 1), SHORT, x0, t, eps, "learned"
    )
    (grad,) = torch.autograd.grad(loss(v).sum(), v)
    assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-12)
    assert (loss(v) < loss(v + 0.1)).all() and (loss(v) < loss(v - 0.1)).all()


# The three predictions on Gaussian data, where each has a formula of its own


def optimal_networks(m: float, s: float) -> dict:
    """The best network for each prediction, each from its own formula of exact.py."""
    data, chain = (
        gaussian(randn(1) * 0 + m, randn(1, 1) * 0 + s**2),
        exact_chain(SHORT, m, s),
    )
    one = lambda t: int(t[0]) if isinstance(t, torch.Tensor) else t
    return {
        "eps": lambda x, t: data.eps(SHORT, x, one(t)),
        "mu": lambda x, t: chain(x, one(t))[0],
        "x0": lambda x, t: data.posterior_mean(SHORT, x, one(t)),
    }


@pytest.mark.parametrize("m, s", [(0.0, 1.0), (0.4, 0.3)])
def test_at_the_optimum_the_three_predictions_are_one_model(m, s):
    models = {
        kind: as_eps_model(network, SHORT, kind)
        for kind, network in optimal_networks(m, s).items()
    }
    chain, x0 = exact_chain(SHORT, m, s), m + s * randn(6, 1)
    for t in range(1, SHORT.T + 1):
        x_t, every = q_sample(SHORT, x0, t, randn(6, 1, seed=t)), torch.full((6,), t)
        for model in models.values():
            eps_hat = model(x_t, every)
            assert_close(eps_hat, ideal(SHORT, m, s)(x_t, every), rtol=0, atol=1e-10)
            assert_close(
                reverse_mean(SHORT, x_t, t, eps_hat),
                chain(x_t, t)[0],
                rtol=0,
                atol=1e-11,
            )
    for variance in ("beta", "beta_tilde"):
        eps = randn(SHORT.T, 6, 1, seed=1)
        by_hand = bound_terms(
            reverse_process(models["eps"], SHORT, variance), SHORT, x0, eps
        )
        for model in models.values():
            for t in range(2, SHORT.T + 1):
                assert_close(
                    bound_loss(model, SHORT, x0, t, eps[t - 1], variance),
                    SHORT.T * by_hand[t - 1],
                    rtol=1e-9,
                    atol=1e-10,
                )


def test_the_optimum_is_the_least_of_each_error():
    """E of the squared error over x_0 and eps is least for the formulas of exact.py: moving the answer by 0.05 costs 0.05^2 more."""
    x0, eps = 0.4 + 0.3 * randn(40_000, 1), randn(40_000, 1, seed=1)
    networks = optimal_networks(0.4, 0.3)
    for kind, loss in (("mu", mu_error), ("x0", x0_error)):
        for t in (1, 7, 20):
            least = loss(as_eps_model(networks[kind], SHORT, kind), SHORT, x0, t, eps)
            for step in (0.05, -0.05):
                moved = loss(
                    as_eps_model(lambda x, t: networks[kind](x, t) + step, SHORT, kind),
                    SHORT,
                    x0,
                    t,
                    eps,
                )
                more = (moved - least).double()
                assert abs(more.mean() - 0.05**2) < 4 * more.std() / 200


@pytest.mark.parametrize("kind", ["mu", "x0"])
@pytest.mark.parametrize(
    "dtype, atol", [(torch.float64, 1e-10), (torch.float32, 1e-4)]
)  # rounding, 100 to 160 times magnified
def test_what_a_network_answers_is_what_is_compared(kind, dtype, atol):
    """mu_theta and x0_hat come out of the model as the network gave them; with a perfect network each error is 0."""
    x0, eps = randn(5, 1, 2, 2, dtype=dtype), randn(5, 1, 2, 2, seed=1, dtype=dtype)
    x_t = q_sample(S, x0, T_EACH, eps)
    model = as_eps_model(lambda x, t: torch.sin(x), S, kind)
    back = (reverse_mean if kind == "mu" else predict_x0)(
        S, x_t, T_EACH, model(x_t, T_EACH)
    )
    assert back.dtype == dtype
    assert_close(back, torch.sin(x_t), rtol=0, atol=atol)
    truth = q_posterior(S, x0, x_t, T_EACH)[0] if kind == "mu" else x0
    perfect = as_eps_model(lambda x, t: truth, S, kind)
    assert_close(
        (mu_error if kind == "mu" else x0_error)(perfect, S, x0, T_EACH, eps),
        torch.zeros(5, dtype=dtype),
        rtol=0,
        atol=atol**2 * 10,
    )


def test_a_learned_variance_passes_through_unchanged():
    model = as_eps_model(crooked_with_variance, S, "x0")
    x, t = randn(3, 2, 2, 2), torch.tensor([1, 5, 1000])
    assert torch.equal(
        model(x, t)[:, 2:], crooked_with_variance(x, t)[:, 2:]
    ) and model(x, t).shape == (3, 4, 2, 2)


def test_eps_is_the_network_itself():
    network = small_unet()
    assert as_eps_model(network, S) is network


def test_labels_reach_the_network_inside():
    network = randomise(small_unet(classes=3, width=64))
    model = as_eps_model(network, SHORT, "x0")
    x, y = randn(2, 1, 8, 8, dtype=torch.float32), torch.tensor([0, 2])
    assert model.classes == 3 and model.config == network.config
    x0_hat = predict_x0(SHORT, x, 9, model(x, 9, y))
    assert_close(x0_hat, network(x, 9, y), rtol=0, atol=1e-4)
    assert (x0_hat - network(x, 9)).abs().max() > 1e-3
    assert torch.isfinite(
        sample(
            model,
            SHORT,
            (2, 1, 8, 8),
            steps=3,
            labels=y,
            guidance=1.0,
            generator=generator(),
        )
    ).all()


# Sampling with a learned variance


def test_samples_with_a_learned_variance_have_the_moments_of_the_true_one():
    """For Gaussian data the true reverse variance is known; written as v it gives back q(x_t) at every t, up to p(x_T) - q(x_T)."""
    m, s = 0.5, 0.2
    chain = exact_chain(SHORT, m, s)
    v = (chain.var / SHORT.beta).log()
    model = lambda x, t: torch.cat(
        [ideal(SHORT, m, s)(x, t), v[t].view(-1, 1).expand_as(x)], dim=1
    )
    mean, var = SHORT.alpha_bar.sqrt() * m, SHORT.alpha_bar * s**2 + 1 - SHORT.alpha_bar
    x_T = mean[-1] + var[-1].sqrt() * randn(20_000, 1)
    for t, x, _ in sample_steps(
        model,
        SHORT,
        (20_000, 1),
        variance="learned",
        clip_x0=False,
        generator=generator(),
        x_T=x_T,
    ):
        if t > 0:
            assert_moments(x, mean[t].item(), var[t].item())


def test_a_learned_variance_in_guidance_is_that_of_the_labels():
    def model(x, t, y=None):
        return torch.cat(
            [0.1 * x, torch.full_like(x, -60.0 if y is not None else -120.0)], dim=1
        )  # extrapolated: exp(60)

    x_T = torch.ones(2, 1, 2, 2)
    kwargs = dict(
        variance="learned",
        clip_x0=False,
        x_T=x_T,
        labels=torch.tensor([0, 1]),
        guidance=2.0,
    )
    a, b = (
        sample(model, SHORT, (2, 1, 2, 2), generator=generator(i), **kwargs)
        for i in (1, 2)
    )
    assert_close(a, b, rtol=0, atol=1e-6)


# Training, checkpoints and the command line


def small_unet_of(**kwargs):
    torch.manual_seed(0)
    return ddpm_core.UNet(8, 1, 8, (1,), 1, (), 0.0, groups=4, **kwargs)


TABLE_2 = [(p, "simple", "beta") for p in ("eps", "mu", "x0")] + [
    (p, "bound", v) for p in ("eps", "mu", "x0") for v in ("beta", "learned")
]


@pytest.mark.parametrize("prediction, objective, variance", TABLE_2)
def test_gradients_are_finite_in_float32_at_both_ends(prediction, objective, variance):
    network = randomise(small_unet_of(learn_variance=variance == "learned"))
    model, x0 = (
        as_eps_model(network, S, prediction),
        grid(6, 1, 8, 8, dtype=torch.float32),
    )
    x0[0], x0[1] = 1, -1
    for t in (
        torch.ones(6, dtype=torch.long),
        torch.full((6,), 1000),
        torch.tensor([1, 1, 2, 500, 999, 1000]),
    ):
        network.zero_grad()
        loss = choose_objective(prediction, objective, variance)(
            model, S, x0, t, randn(6, 1, 8, 8, dtype=torch.float32)
        ).mean()
        loss.backward()
        grads = [p.grad for p in network.parameters()]
        assert (
            torch.isfinite(loss)
            and all(torch.isfinite(g).all() for g in grads)
            and sum(g.abs().sum() for g in grads) > 0
        )


@pytest.mark.parametrize("prediction, objective, variance", TABLE_2)
def test_training_lowers_it(prediction, objective, variance):
    """One image, a fixed noise: twenty steps must lower the objective that was asked for."""
    image = torch.full((1, 1, 8, 8), 30, dtype=torch.uint8)
    image[..., 2:6, 2:6] = 220
    x0, eps = (
        (image.float() / 127.5 - 1).expand(20, -1, -1, -1),
        randn(20, 1, 8, 8, dtype=torch.float32),
    )
    model = as_eps_model(
        small_unet_of(learn_variance=variance == "learned"), SHORT, prediction
    )
    loss = choose_objective(prediction, objective, variance)
    measure = lambda model: (
        loss(model, SHORT, x0, torch.arange(1, 21), eps).mean().item()
    )
    before = measure(model)
    ema = train(
        model,
        SHORT,
        image.expand(16, -1, -1, -1),
        steps=20,
        batch_size=8,
        lr=1e-2,
        ema=0.0,
        flip=False,
        warmup=0,
        device="cpu",
        precision="float32",
        progress=False,
        objective=loss,
    )
    assert measure(ema) < 0.8 * before


def test_objective_none_is_simple_loss_to_the_bit():
    a, b = (
        train(
            small_unet_of(),
            SHORT,
            (grid(8, 1, 8, 8) * 127.5 + 127.5).to(torch.uint8),
            steps=3,
            batch_size=4,
            device="cpu",
            precision="float32",
            progress=False,
            objective=objective,
        )
        for objective in (None, simple_loss)
    )
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_the_example_of_the_module_runs():
    code = textwrap.dedent(
        objectives.__doc__[objectives.__doc__.index("    import ddpm_core") :]
    )
    assert len(code.splitlines()) <= 12
    names = {
        "unet": small_unet_of(),
        "schedule": SHORT,
        "images": torch.zeros(4, 1, 8, 8, dtype=torch.uint8),
    }
    exec(code.replace("steps=1000", "steps=2, batch_size=4, progress=False"), names)
    x0, eps, t = grid(3, 1, 2, 2), randn(3, 1, 2, 2, seed=1), torch.tensor([1, 10, 20])
    error = (crooked(q_sample(SHORT, x0, t, eps), t) - eps).square().flatten(1).mean(1)
    snr = (SHORT.alpha_bar / (1 - SHORT.alpha_bar))[t]
    assert_close(
        names["min_snr"](crooked, SHORT, x0, t, eps),
        torch.where(snr > 5, 5 / snr, 1.0) * error,
    )


@pytest.mark.parametrize(
    "prediction, learned", [("mu", False), ("x0", True), ("eps", True)]
)
def test_a_checkpoint_remembers_what_its_network_predicts(
    tmp_path, prediction, learned
):
    network = randomise(small_unet_of(learn_variance=learned))
    model = as_eps_model(network, SHORT, prediction).eval()
    save_checkpoint(tmp_path / "c", model, SHORT)
    back = load_checkpoint(tmp_path / "c").model
    x = randn(2, 1, 8, 8, dtype=torch.float32)
    assert torch.equal(back(x, 5), model(x, 5)) and not back.training
    variance = "learned" if learned else "beta"
    assert torch.equal(
        *(
            sample(m, SHORT, (2, 1, 8, 8), variance=variance, generator=generator())
            for m in (back, model)
        )
    )
    again = as_eps_model(small_unet_of(learn_variance=learned), SHORT, prediction)
    assert load_checkpoint(tmp_path / "c", model=again).model is again and torch.equal(
        again(x, 5), model(x, 5)
    )
    if prediction != "eps":
        with pytest.raises(
            ValueError,
            match=f'predicts {prediction}, the model given predicts eps; wanted the same: as_eps_model.*"{prediction}"',
        ):
            load_checkpoint(tmp_path / "c", model=small_unet_of(learn_variance=learned))


def test_resuming_is_exact_for_another_prediction_and_a_learned_variance(tmp_path):
    images = (grid(8, 1, 8, 8) * 127.5 + 127.5).round().to(torch.uint8)
    args = dict(
        batch_size=4,
        lr=1e-2,
        ema=0.9,
        device="cpu",
        precision="float32",
        progress=False,
        objective=choose_objective("mu", "bound", "learned"),
    )
    model = lambda: as_eps_model(small_unet_of(learn_variance=True), SHORT, "mu")
    whole = train(model(), SHORT, images, steps=6, **args)
    train(model(), SHORT, images, steps=3, out=tmp_path / "run", **args)
    parts = train(
        model(), SHORT, images, steps=6, out=tmp_path / "run", resume=True, **args
    )
    assert all(
        torch.equal(p, q) for p, q in zip(whole.parameters(), parts.parameters())
    )
    with pytest.raises(ValueError, match="predicts mu, the model given predicts x0"):
        train(
            as_eps_model(small_unet_of(learn_variance=True), SHORT, "x0"),
            SHORT,
            images,
            steps=7,
            out=tmp_path / "run",
            resume=True,
            **args,
        )


@pytest.mark.parametrize(
    "prediction, objective, variance",
    [("mu", "bound", "learned"), ("x0", "simple", "beta")],
)
def test_the_command_line_trains_and_samples_without_being_told_again(
    tmp_path, prediction, objective, variance
):
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for i in range(4):
        Image.fromarray(torch.full((8, 8), 40 * i, dtype=torch.uint8).numpy()).save(
            tmp_path / "pictures" / f"{i}.png"
        )
    run, options = (
        str(tmp_path / "run"),
        ["--predict", prediction, "--objective", objective, "--variance", variance],
    )
    assert (
        main(
            [
                "train",
                "--data",
                f"folder:{tmp_path}/pictures",
                "--out",
                run,
                "--multipliers",
                "1",
                "--width",
                "8",
                "--attention",
                "--T",
                "5",
                "--batch-size",
                "4",
                "--steps",
                "3",
                "--device",
                "cpu",
                "--precision",
                "float32",
                *options,
            ]
        )
        == 0
    )
    checkpoint = load_checkpoint(run)
    assert checkpoint.model.prediction == prediction and checkpoint.model.config[
        "learn_variance"
    ] == (variance == "learned")
    assert checkpoint.info["objective"] == objective
    for i, more in enumerate(([], ["--variance", variance])):
        assert (
            main(
                [
                    "sample",
                    run,
                    "-n",
                    "2",
                    "--out",
                    f"{tmp_path}/{i}.png",
                    "--device",
                    "cpu",
                    *more,
                ]
            )
            == 0
        )
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


@pytest.mark.parametrize(
    "call, phrase",
    [
        (
            lambda: as_eps_model(crooked, S, "v"),
            'prediction = \'v\'; wanted "eps", "mu" or "x0"',
        ),
        (lambda: choose_objective("v"), "prediction = 'v'"),
        (
            lambda: choose_objective("mu", "L2"),
            'objective = \'L2\'; wanted "simple" or "bound"',
        ),
        (
            lambda: choose_objective("mu", "simple", "learned"),
            'wanted objective "bound" with variance "learned"',
        ),
        (
            lambda: bound_loss(
                crooked, S, grid(2, 1, 2, 2), 5, randn(2, 1, 2, 2), "mine"
            ),
            "variance = 'mine'; wanted",
        ),
        (
            lambda: bound_loss(
                crooked, S, grid(2, 1, 2, 2), 5, randn(2, 1, 2, 2), "learned"
            ),
            "wanted (2, 2, 2, 2), as UNet(learn_variance=True)",
        ),
        (
            lambda: x0_error(
                crooked_with_variance, S, grid(2, 1, 2, 2), 5, randn(2, 1, 2, 2)
            ),
            'or pass variance="learned"',
        ),
        (
            lambda: bound_loss(crooked, S, randn(2, 1, 2, 2), 1, randn(2, 1, 2, 2)),
            "off the 8-bit grid",
        ),
        (
            lambda: mu_error(crooked, S, grid(2, 1, 2, 2), 1001, randn(2, 1, 2, 2)),
            "t = 1001",
        ),
        (
            lambda: mu_error(crooked, S, grid(2, 1, 2, 2), 5, randn(2, 1, 2, 3)),
            "wanted the same shape",
        ),
        (
            lambda: sample(crooked, SHORT, (2, 1, 2, 2), variance="learned"),
            "wanted (2, 2, 2, 2)",
        ),
    ],
)
def test_what_does_not_fit_is_said(call, phrase):
    with pytest.raises(ValueError) as error:
        call()
    assert phrase in str(error.value)


# Known mistakes, each run through the checks above


right = bound_loss


def without_T(model, schedule, x0, t, eps, variance="beta"):
    return right(model, schedule, x0, t, eps, variance) / schedule.T


def posterior_variance_always(model, schedule, x0, t, eps, variance="beta"):
    fixed = "learned" if variance == "learned" else "beta_tilde"
    return (
        right(model, schedule, x0, t, eps, fixed)
        if variance != "learned"
        else right(
            lambda x, t: torch.cat(
                [model(x, t)[:, : x.shape[1]], 2 * model(x, t)[:, x.shape[1] :]], 1
            ),
            schedule,
            x0,
            t,
            eps,
            fixed,
        )
    )


def no_decoder(model, schedule, x0, t, eps, variance="beta"):
    """L_0 as if it were one more divergence: t = 1 answered with t = 2."""
    return right(model, schedule, x0, torch.as_tensor(t).clamp(min=2), eps, variance)


@pytest.mark.parametrize(
    "wrong, caught_for",
    [
        (without_T, {"beta", "beta_tilde", "learned"}),
        (posterior_variance_always, {"beta", "learned"}),
        (no_decoder, {"beta", "beta_tilde", "learned"}),
    ],
)
def test_misprints_are_caught(monkeypatch, wrong, caught_for):
    monkeypatch.setattr(objectives, "bound_loss", wrong)
    monkeypatch.setitem(globals(), "bound_loss", wrong)
    for variance in sorted(caught_for):
        with pytest.raises(AssertionError):
            test_is_the_equation_written_out("eps", "bound", variance)
        with pytest.raises(AssertionError):
            test_the_sum_over_t_is_bits_per_dim(variance)


def test_reverse_variance_starts_from_beta_where_it_is_learned():
    assert torch.equal(reverse_variance(S, "learned"), reverse_variance(S, "beta"))
