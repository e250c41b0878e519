import pytest
import torch
from laboratory import SHORT, assert_moments, randn
from torch.distributions import Normal
from torch.testing import assert_close

from ddpm_core import linear_schedule, q_posterior, q_sample, q_step

S = linear_schedule()


def test_q_step_is_eq_2_with_its_square_roots():
    x, eps = randn(4, 1, 2, 2), randn(4, 1, 2, 2, seed=1)
    for t in (1, 7, 20):
        beta = SHORT.beta[t].item()
        assert_close(
            q_step(SHORT, x, t, eps),
            (1 - beta) ** 0.5 * x + beta**0.5 * eps,
            rtol=1e-14,
            atol=0,
        )


def test_q_sample_is_eq_4():
    x, eps = randn(4, 3, 2, 2), randn(4, 3, 2, 2, seed=1)
    for t in (1, 500, 1000):
        a = S.alpha_bar[t].item()
        assert_close(
            q_sample(S, x, t, eps),
            a**0.5 * x + (1 - a) ** 0.5 * eps,
            rtol=1e-14,
            atol=0,
        )


def test_t_steps_of_eq_2_have_the_moments_of_eq_4_exactly():
    """x_t of the chain is linear in x_0 and eps_1..eps_t: its coefficients are the derivatives, by autograd."""
    x0 = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    eps = torch.zeros(SHORT.T + 1, dtype=torch.float64, requires_grad=True)
    x = x0
    for t in range(1, SHORT.T + 1):
        x = q_step(SHORT, x, t, eps[t : t + 1])
        of_x0, of_eps = torch.autograd.grad(x, (x0, eps), retain_graph=True)
        assert_close(of_x0[0], SHORT.alpha_bar[t].sqrt(), rtol=1e-13, atol=0)
        assert_close(
            of_eps.square().sum(), 1 - SHORT.alpha_bar[t], rtol=1e-13, atol=0
        )  # variances of independent noises add


def test_simulated_chains_agree_with_the_closed_form():
    x0 = torch.full((20_000, 1), 0.7, dtype=torch.float64)
    x = x0
    for t in range(1, SHORT.T + 1):
        x = q_step(SHORT, x, t, randn(20_000, 1, seed=t))
    a = SHORT.alpha_bar[-1].item()
    assert_moments(x, a**0.5 * 0.7, 1 - a)
    assert_moments(
        q_sample(SHORT, x0, SHORT.T, randn(20_000, 1, seed=99)), a**0.5 * 0.7, 1 - a
    )


def test_at_the_end_nothing_but_noise_is_left():
    x = q_sample(S, torch.ones(20_000, 1), 1000, randn(20_000, 1, dtype=torch.float32))
    assert_moments(x, S.alpha_bar[-1].sqrt().item(), 1.0)


@pytest.mark.parametrize("t", [1, 2, 10, 20])
def test_posterior_is_bayes_rule_on_a_grid(t):
    """q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0); both factors from torch.distributions."""
    x0, x_t = 0.4, -0.8
    mean, var = q_posterior(
        SHORT,
        torch.tensor([x0], dtype=torch.float64),
        torch.tensor([x_t], dtype=torch.float64),
        t,
    )
    if t == 1:  # the prior q(x_0 | x_0) is a point, and so is the posterior
        assert_close(mean.item(), x0, rtol=1e-14, atol=0)
        assert var == 0
        return
    a = SHORT.alpha_bar[t - 1]
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    weight = Normal(a.sqrt() * x0, (1 - a).sqrt()).log_prob(grid)
    weight += Normal(SHORT.alpha[t].sqrt() * grid, SHORT.beta[t].sqrt()).log_prob(
        torch.tensor(x_t, dtype=torch.float64)
    )
    weight = weight.softmax(0)
    expected = (weight * grid).sum()
    assert_close(mean[0], expected, rtol=1e-9, atol=1e-12)
    assert_close(
        var.squeeze(), (weight * (grid - expected) ** 2).sum(), rtol=1e-9, atol=0
    )


def test_posterior_is_the_conditional_of_simulated_pairs():
    """Given x_0, (x_{t-1}, x_t) is jointly Gaussian: regress one on the other."""
    n, t = 40_000, 12
    x0 = torch.full((n, 1), -0.5, dtype=torch.float64)
    before = q_sample(SHORT, x0, t - 1, randn(n, 1, seed=1))
    mean, var = q_posterior(SHORT, x0, q_step(SHORT, before, t, randn(n, 1, seed=2)), t)
    assert_moments(before - mean, 0.0, var.item())


def test_beta_tilde_1_is_zero_so_the_last_posterior_is_x_0_itself():
    x0, x1 = randn(5, 1, 2, 2), randn(5, 1, 2, 2, seed=1)
    mean, var = q_posterior(S, x0, x1, 1)
    assert_close(
        mean, x0, rtol=1e-11, atol=0
    )  # beta_1 / (1 - alpha_bar_1) is 1 up to rounding, magnified by 1 / beta_1
    assert var == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda x, t: q_step(S, x, t, x / 2),
        lambda x, t: q_sample(S, x, t, x / 2),
        lambda x, t: q_posterior(S, x, x / 2, t)[0],
        lambda x, t: q_posterior(S, x, x / 2, t)[1].expand_as(x),
    ],
    ids=["q_step", "q_sample", "posterior mean", "posterior var"],
)
def test_one_t_for_each_image(call):
    x, t = randn(4, 2, 3, 3), torch.tensor([1, 1000, 500, 2])
    together = call(x, t)
    for i, one in enumerate(t.tolist()):
        assert_close(together[i : i + 1], call(x[i : i + 1], one), rtol=0, atol=0)
    assert_close(call(x, torch.tensor(7)), call(x, 7), rtol=0, atol=0)
    assert_close(call(x, torch.tensor([7])), call(x, 7), rtol=0, atol=0)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
def test_dtype_and_gradient_are_those_of_the_image(dtype):
    x = randn(2, 1, 4, 4).to(dtype).requires_grad_()
    out = q_sample(S, x, torch.tensor([1, 1000]), torch.zeros_like(x))
    assert out.dtype == dtype
    out.sum().backward()
    assert_close(
        x.grad[:, 0, 0, 0], S.alpha_bar[[1, 1000]].sqrt().to(dtype), rtol=0, atol=0
    )


def test_images_on_another_device_than_the_schedule():
    x = torch.empty(3, 1, 4, 4, device="meta")
    for t in (5, torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3], device="meta")):
        assert q_step(S, x, t, x).device == q_sample(S, x, t, x).device == x.device
        mean, var = q_posterior(S, x, x, t)
        assert mean.device == var.device == x.device
