"""The flow and its likelihood, the divergence, the reversed SDEs, Langevin dynamics and sliced score matching, against closed forms."""

import math

import pytest
import torch
from laboratory import SHORT, generator, randn

import ddpm_core as ddpm
from ddpm_core import after
from ddpm_core.after import (
    alpha_bar_at,
    annealed_langevin,
    divergence,
    flow,
    flow_bits_per_dim,
    flow_log_density,
    langevin_step,
    reverse_sde_step,
    sliced_score_loss,
    time_of,
)
from ddpm_core.exact import GaussianMixture, gaussian

SCHEDULE = ddpm.linear_schedule()
LAB = gaussian(torch.zeros(1), 0.25 * torch.eye(1))
WORLD = GaussianMixture(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    torch.tensor([[-1.2, -0.4], [0.9, 0.9], [0.8, -1.0]], dtype=torch.float64),
    torch.tensor(
        [[[0.05, 0.03], [0.03, 0.06]], [[0.1, 0], [0, 0.02]], [[0.02, -0.01], [-0.01, 0.04]]],
        dtype=torch.float64,
    ),
)  # fmt: skip
VAR = SCHEDULE.alpha_bar * 0.25 + 1 - SCHEDULE.alpha_bar  # of x_t in LAB


def all_signs(D: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * D).view(-1, D)


def test_every_name_of_the_table_is_there():
    for name in after.__all__:
        assert getattr(after, name) is not None, name
    with pytest.raises(AttributeError, match="it has "):
        _ = after.nothing


# continuous time


def test_alpha_bar_between_whole_times():
    whole = torch.arange(SCHEDULE.T + 1)
    assert torch.equal(alpha_bar_at(SCHEDULE, whole), SCHEDULE.alpha_bar)
    t, r = 700, 0.3
    wanted = SCHEDULE.alpha_bar[t - 1] * SCHEDULE.alpha[t] ** r
    torch.testing.assert_close(alpha_bar_at(SCHEDULE, t - 1 + r), wanted)


def test_time_of_is_the_inverse():
    u = torch.linspace(0, SCHEDULE.T, 4001, dtype=torch.float64)
    a = alpha_bar_at(SCHEDULE, u)
    back = time_of(SCHEDULE, ((1 - a) / a).sqrt())
    assert (back - u).abs().max() < 1e-9


def test_a_reverse_step_of_lambda_one_is_algorithm_2_to_second_order():
    off = []
    for beta in (1e-2, 1e-3):
        two = ddpm.Schedule([1 - 0.5 / (1 - beta), beta])
        x = randn(50, 2)
        step = reverse_sde_step(WORLD.model(two), two, x, 2, 1, 1.0, 0 * x)
        off.append(
            (step - ddpm.reverse_mean(two, x, 2, WORLD.eps(two, x, 2))).abs().max()
        )
    assert 90 < off[0] / off[1] < 110


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0, 2.0])
def test_every_lambda_ends_with_the_variance_of_the_data(lam):
    """The recursion of the variance, exact in Lab G: a step is x -> gain x + lam sqrt(B) z."""
    errors = []
    for parts in (1, 2):
        var, one = VAR[-1], torch.ones(1, 1, dtype=torch.float64)
        times = torch.arange(SCHEDULE.T * parts, parts, -1) / parts
        for u in times.tolist():
            du = 1 / parts
            gain = reverse_sde_step(
                LAB.model(SCHEDULE), SCHEDULE, one, u, du, lam, 0 * one
            )
            with_noise = reverse_sde_step(
                LAB.model(SCHEDULE), SCHEDULE, one, u, du, lam, one
            )
            var = gain**2 * var + (with_noise - gain) ** 2
        errors.append(abs(float(var - VAR[1])))
    assert errors[0] < 0.01 and errors[1] < 0.6 * errors[0]


# the flow


def test_flow_against_the_closed_form_and_its_order():
    x = torch.linspace(-1, 1, 5).double()[:, None]
    off = []
    for steps in (100, 200):
        *_, (t, x_T) = flow(LAB.model(SCHEDULE), SCHEDULE, x, 1, 1000, steps)
        off.append((x_T - x * (VAR[-1] / VAR[1]).sqrt()).abs().max())
    assert t == 1000 and off[1] < 1e-6 and 12 < off[0] / off[1] < 20


def test_flow_there_and_back():
    x = WORLD.sample(20, generator())
    x = ddpm.q_sample(SCHEDULE, x, 1, randn(20, 2, seed=1))
    *_, (_, x_T) = flow(WORLD.model(SCHEDULE), SCHEDULE, x, 1, 1000, 200)
    *_, (t, back) = flow(WORLD.model(SCHEDULE), SCHEDULE, x_T, 1000, 1, 200)
    assert t == 1 and (back - x).abs().max() < 1e-4


def test_flow_against_scipy():
    from scipy.integrate import solve_ivp

    x = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    sigma = ((1 - SCHEDULE.alpha_bar) / SCHEDULE.alpha_bar).sqrt()

    def rate(log_sigma, y):
        s = math.exp(log_sigma)
        u = float(time_of(SCHEDULE, min(s, float(sigma[-1]))))
        return s * WORLD.eps(SCHEDULE, torch.tensor(y)[None] / math.hypot(1, s), u)[0]

    peer = solve_ivp(
        rate,
        (math.log(sigma[1]), math.log(sigma[-1])),
        (x / SCHEDULE.alpha_bar[1].sqrt())[0].numpy(),
        rtol=1e-9,
        atol=1e-9,
    )
    y_T = torch.tensor(peer.y[:, -1]) * SCHEDULE.alpha_bar[-1].sqrt()
    *_, (_, x_T) = flow(WORLD.model(SCHEDULE), SCHEDULE, x, 1, 1000, 300)
    torch.testing.assert_close(x_T[0], y_T, atol=2e-5, rtol=0)


@pytest.mark.parametrize("world", [LAB, WORLD], ids=["Lab G", "Lab M"])
def test_density_with_the_true_prior_is_the_density(world):
    D = world.means.shape[1]
    x = 0.7 * randn(6, D)
    true = world.log_density(SCHEDULE, x, 1)
    how = dict(steps=400, prior=lambda x: world.log_density(SCHEDULE, x, SCHEDULE.T))
    near = x if world is LAB else ddpm.q_sample(SCHEDULE, world.sample(6, generator()), 1, randn(6, 2))  # fmt: skip
    true = world.log_density(SCHEDULE, near, 1)
    mine = flow_log_density(world.model(SCHEDULE), SCHEDULE, near, **how)
    torch.testing.assert_close(mine, true, atol=2e-5, rtol=0)


def test_all_sign_probes_average_to_the_exact_trace():
    A, x = randn(3, 3), randn(1, 3, seed=1)
    field = lambda x: torch.sin(x @ A.T)
    exact = divergence(field, x)
    probes = all_signs(3)
    mean = divergence(field, x.expand(8, 3), probes).mean()
    torch.testing.assert_close(mean, exact[0])
    by_hand = (torch.cos(x @ A.T)[0] * A.diagonal()).sum()
    torch.testing.assert_close(exact[0], by_hand)


def test_divergence_has_a_gradient_where_gradients_are_on():
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    x = randn(4, 2)
    divergence(lambda x: w * x**2, x).sum().backward()
    torch.testing.assert_close(w.grad, (2 * x).sum())
    with torch.no_grad():
        assert not divergence(lambda x: w * x**2, x).requires_grad


def test_flow_bits_of_a_perfect_model_on_one_pixel():
    """One pixel that is grey level 100 always: the flow costs nothing, L_0 what its Gaussian of variance beta_tilde_2 spills."""
    level = 100 / 127.5 - 1
    x0 = torch.full((400, 1), level, dtype=torch.float64)
    sure = GaussianMixture(
        torch.ones(1).double(), x0[:1], torch.full((1, 1, 1), 1e-8).double()
    )
    bits = flow_bits_per_dim(
        sure.model(SCHEDULE), SCHEDULE, x0, steps=60, generator=generator()
    )
    mean, error = bits.flow.mean(), bits.flow.std() / 20
    assert abs(mean) < 4 * error + 2e-3, (mean, error)
    inside = math.erf(1 / 255 / math.sqrt(2 * SCHEDULE.beta_tilde[2]))
    assert abs(bits.decoder.mean() + math.log2(inside)) < 1e-3
    torch.testing.assert_close(bits.total, bits.flow + bits.decoder)
    assert bits.total.std() < 0.02  # x_1's own noise cancels


def test_flow_bits_know_the_entropy_of_two_levels():
    levels = torch.tensor([60, 200]).double() / 127.5 - 1
    world = GaussianMixture(
        torch.tensor([0.5, 0.5]).double(),
        levels[:, None],
        torch.full((2, 1, 1), 1e-8).double(),
    )
    x0 = levels[torch.arange(200) % 2][:, None]
    bits = flow_bits_per_dim(
        world.model(SCHEDULE), SCHEDULE, x0, steps=200, generator=generator()
    )
    # the flow starts at N(0, 1), not at q(x_T): a difference of 1e-3, as after q(x_T) itself
    assert abs(bits.flow.mean() - 1) < 4 * bits.flow.std() / 200**0.5 + 5e-3


# Langevin


def test_langevin_rests_near_its_density():
    x, d, v = torch.zeros(20_000, 1, dtype=torch.float64), 0.05, 0.25
    g = generator()
    for _ in range(150):
        z = torch.randn(x.shape, generator=g, dtype=torch.float64)
        x = langevin_step(x, -x / v, d, z)
    wanted = v / (1 - d / (4 * v))
    assert abs(x.var() - wanted) < 4 * wanted * math.sqrt(2 / len(x))


def test_annealing_keeps_the_shares_that_one_level_loses():
    far = GaussianMixture(
        torch.tensor([0.9, 0.1]).double(),
        torch.tensor([[-0.8], [0.8]]).double(),
        torch.full((2, 1, 1), 0.01).double(),
    )
    *_, (_, x, _) = annealed_langevin(
        far.model(SCHEDULE),
        SCHEDULE,
        (2000, 1),
        levels=100,
        each=3,
        x_T=randn(2000, 1),
        generator=generator(),
        clip_x0=False,
    )
    share = (x > 0).double().mean()
    assert abs(share - 0.1) < 4 * math.sqrt(0.09 / 2000) + 0.01
    times = [t for t, _, _ in annealed_langevin(far.model(SCHEDULE), SCHEDULE, (1, 1), levels=10, each=2, x_T=randn(1, 1))]  # fmt: skip
    assert len(times) == 21 and times[0] == 1000 and times[-2:] == [1, 0]


# sliced score matching


@pytest.mark.parametrize("reduce_variance", [False, True])
def test_sliced_loss_is_score_matching(reduce_variance):
    """Twice its mean over all signs and over the data is J less E || grad log q ||^2; both by hand for a linear s."""
    D = 3
    S, C = randn(D, D), randn(D, D, seed=1)
    cov = C @ C.T + torch.eye(D)
    # x with exactly this covariance: the columns of a root, both signs
    root = torch.linalg.cholesky(cov) * math.sqrt(D)
    x = torch.cat([root.T, -root.T])
    pairs = [(a, v) for a in x for v in all_signs(D)]
    xs, vs = (torch.stack(part) for part in zip(*pairs))
    mean = sliced_score_loss(lambda x: x @ S.T, xs, vs, reduce_variance).mean()
    wanted = S.trace() + (S @ cov @ S.T).trace() / 2
    torch.testing.assert_close(mean, wanted)


def test_sliced_loss_has_a_gradient():
    w = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    x = randn(5, 2)
    sliced_score_loss(lambda x: w * x, x, torch.ones_like(x), True).mean().backward()
    torch.testing.assert_close(w.grad, 2 + w.detach() * x.square().sum(1).mean())


# conditions


def test_condition_is_bayes_rule_on_a_grid():
    A, y, var = torch.tensor([[1.0, 0.5]]).double(), torch.tensor([0.4]).double(), 0.1
    given = WORLD.condition(A, y, var)
    side = torch.linspace(-3, 3, 601, dtype=torch.float64)
    points = torch.cartesian_prod(side, side)
    log = WORLD.log_density(SCHEDULE, points, 0) - (y - points @ A[0]) ** 2 / (2 * var)
    p = torch.softmax(log, 0)
    torch.testing.assert_close(given.weights @ given.means, p @ points)
    mine = given.log_density(SCHEDULE, points, 0)
    torch.testing.assert_close((mine + math.log(0.01**2)).exp(), p, atol=1e-9, rtol=0)


def test_posterior_cov_is_tweedies_second_order():
    x_t, t = randn(4, 2), 300
    a = SCHEDULE.alpha_bar[t]
    for x, cov in zip(x_t, WORLD.posterior_cov(SCHEDULE, x_t, t)):
        J = torch.autograd.functional.jacobian(
            lambda x: WORLD.posterior_mean(SCHEDULE, x[None], t)[0], x
        )
        torch.testing.assert_close(cov, (1 - a) / a.sqrt() * J)


# bad input

X = randn(2, 2)
M = WORLD.model(SCHEDULE)


def tail(path):
    return list(path)


@pytest.mark.parametrize(
    "call, error, says",
    [
        (lambda: alpha_bar_at(SCHEDULE, 1000.5), ValueError, "wanted real times in 0..1000"),
        (lambda: alpha_bar_at(SCHEDULE, math.nan), ValueError, "wanted real times"),
        (lambda: alpha_bar_at(SCHEDULE, "now"), TypeError, "u is a str"),
        (lambda: time_of(SCHEDULE, 200.0), ValueError, "this schedule has 0 to 157"),
        (lambda: time_of(SCHEDULE, -1.0), ValueError, "sigma runs from -1"),
        (lambda: reverse_sde_step(M, SCHEDULE, X, 5, -1, 1, X), ValueError, "backwards in time, du > 0"),
        (lambda: reverse_sde_step(M, SCHEDULE, X, 5, 6, 1, X), ValueError, "u = 5 by du = 6"),
        (lambda: reverse_sde_step(M, SCHEDULE, X, 5, 1, -1, X), ValueError, "lam = -1"),
        (lambda: tail(flow(M, SCHEDULE, X, 0.5, 9)), ValueError, "below t = 1 no network is trained"),
        (lambda: tail(flow(M, SCHEDULE, X, 9, 9)), ValueError, "two different times"),
        (lambda: tail(flow(M, SCHEDULE, X, 1, 9, 0)), ValueError, "steps = 0"),
        (lambda: flow_log_density(M, SCHEDULE, X, 1000), ValueError, "wanted 1 <= t < 1000"),
        (lambda: flow_log_density(M, SCHEDULE, X, probe=torch.ones(2, 3)), ValueError, "the probe has shape (2, 3)"),
        (lambda: divergence(lambda x: x[:, :1], X), ValueError, "the field returned shape (2, 1)"),
        (lambda: divergence(lambda x: x, randn(9, 90), randn(9, 90) / 90**0.5), ValueError, "unit-length v"),
        (lambda: sliced_score_loss(lambda x: x, randn(9, 90), randn(9, 90) / 90**0.5, True), ValueError, "E v v^T = I"),
        (lambda: sliced_score_loss(lambda x: x, X, X[:1]), ValueError, "v has shape (1, 2)"),
        (lambda: langevin_step(X, X, 0.0, X), ValueError, "delta = 0.0"),
        (lambda: langevin_step(X, X[:1], 0.1, X), ValueError, "wanted one shape"),
        (lambda: tail(annealed_langevin(M, SCHEDULE, (2, 2), each=0)), ValueError, "each = 0"),
        (lambda: flow_bits_per_dim(M, SCHEDULE, X), ValueError, "grid"),
        (lambda: WORLD.condition(torch.ones(1, 3), torch.ones(1)), ValueError, "wanted (M, 2)"),
        (lambda: WORLD.condition(torch.ones(1, 2), torch.ones(1), -1.0), ValueError, "var = -1.0"),
        (lambda: WORLD.condition(torch.ones(2, 2), torch.ones(2)), ValueError, "cannot be inverted"),
    ],
)  # fmt: skip
def test_bad_input(call, error, says):
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value)


def test_no_name_is_loaded_before_it_is_asked_for():
    import subprocess
    import sys

    code = "import sys, ddpm_core.after; print([m for m in sys.modules if m.startswith('ddpm_core.after.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_short_schedule_too():
    x = ddpm.q_sample(SHORT, LAB.sample(3, generator()), 1, randn(3, 1))
    *_, (t, _) = flow(LAB.model(SHORT), SHORT, x, 1, SHORT.T, 5)
    assert t == SHORT.T
