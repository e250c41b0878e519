import pytest
import torch
from laboratory import SHORT, ideal, marginal, randn
from torch.testing import assert_close

from ddpm_core import linear_schedule, predict_x0, q_posterior, q_sample, reverse_mean

S = linear_schedule()
T_EACH = torch.tensor([1, 2, 500, 999, 1000])


def test_predict_x0_undoes_q_sample():
    """Float64, and up to 1 / sqrt(alpha_bar_T) = 158 times its rounding."""
    x0, eps = randn(5, 3, 4, 4), randn(5, 3, 4, 4, seed=1)
    assert_close(
        predict_x0(S, q_sample(S, x0, T_EACH, eps), T_EACH, eps),
        x0,
        rtol=1e-12,
        atol=1e-12,
    )


def test_predict_x0_is_not_clipped():
    assert (
        predict_x0(S, torch.full((1, 1, 1, 1), 3.0), 10, torch.zeros(1, 1, 1, 1)).item()
        > 2
    )


def test_reverse_mean_is_the_posterior_at_the_predicted_x0():
    """Eq. (11) is Eq. (7) at Eq. (15)."""
    x, eps = randn(5, 1, 4, 4), randn(5, 1, 4, 4, seed=1)
    mean, _ = q_posterior(S, predict_x0(S, x, T_EACH, eps), x, T_EACH)
    assert_close(reverse_mean(S, x, T_EACH, eps), mean, rtol=1e-11, atol=1e-11)


def test_reverse_mean_is_eq_11_to_the_letter():
    x, eps = randn(3, 1, 2, 2), randn(3, 1, 2, 2, seed=1)
    for t in (1, 400, 1000):
        beta, a = S.beta[t].item(), S.alpha_bar[t].item()
        assert_close(
            reverse_mean(S, x, t, eps),
            (x - beta / (1 - a) ** 0.5 * eps) / (1 - beta) ** 0.5,
            rtol=1e-13,
            atol=1e-14,
        )


@pytest.mark.parametrize("m, s", [(0.0, 1.0), (0.5, 0.2), (-0.3, 2.0)])
def test_with_the_ideal_predictor_x0_hat_is_the_conditional_mean_and_the_reverse_mean_too(
    m, s
):
    """For Gaussian data E[x_0 | x_t] and E[x_{t-1} | x_t] are regressions, written here from covariances alone."""
    mean, var = marginal(SHORT, m, s)
    eps_hat = ideal(SHORT, m, s)
    for t in range(1, SHORT.T + 1):
        x = randn(6, 1, seed=t)
        eps = eps_hat(x, torch.full((6,), t))
        expected = m + SHORT.alpha_bar[t].sqrt() * s**2 / var[t] * (x - mean[t])
        assert_close(predict_x0(SHORT, x, t, eps), expected, rtol=1e-11, atol=1e-12)
        expected = mean[t - 1] + SHORT.alpha[t].sqrt() * var[t - 1] / var[t] * (
            x - mean[t]
        )
        assert_close(reverse_mean(SHORT, x, t, eps), expected, rtol=1e-11, atol=1e-12)


def test_the_ideal_noise_is_the_score():
    """eps* = -sqrt(1 - alpha_bar_t) grad log q(x_t), by autograd on the density of torch.distributions."""
    mean, var = marginal(SHORT, 0.4, 0.7)
    x = randn(5, 1).requires_grad_()
    log_q = torch.distributions.Normal(mean[9], var[9].sqrt()).log_prob(x).sum()
    (score,) = torch.autograd.grad(log_q, x)
    assert_close(
        ideal(SHORT, 0.4, 0.7)(x, torch.full((5,), 9)),
        -(1 - SHORT.alpha_bar[9]).sqrt() * score,
        rtol=1e-12,
        atol=1e-13,
    )


def test_images_on_another_device_than_the_schedule():
    x = torch.empty(3, 1, 4, 4, device="meta")
    for t in (5, torch.tensor([1, 2, 3])):
        assert (
            predict_x0(S, x, t, x).device == reverse_mean(S, x, t, x).device == x.device
        )
