import torch
from torch.testing import assert_close

from ddpm_core import linear_schedule, q_sample, simple_loss
from laboratory import SHORT, ideal, marginal, randn


def test_simple_loss_is_a_mean_over_images_and_pixels():
    s, t = linear_schedule(), torch.tensor([1, 500, 1000])
    x0, eps = randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1)
    seen = []
    loss = simple_loss(lambda x, t: seen.append((x, t)) or 0.3 * x, s, x0, t, eps)
    x_t = q_sample(s, x0, t, eps)
    assert_close(loss, sum(((eps[i] - 0.3 * x_t[i]) ** 2).mean() for i in range(3)) / 3, rtol=1e-13, atol=0)
    assert torch.equal(seen[0][0], x_t) and torch.equal(seen[0][1], t)


def test_a_model_that_answers_zero_has_loss_one_and_the_ideal_one_its_known_least():
    """min E (eps - eps_hat)^2 = var(eps | x_t) = alpha_bar_t s^2 / var(x_t), for x_0 ~ N(m, s^2)."""
    n, t = 40_000, 8
    x0, eps = 0.2 + 0.5 * randn(n, 1), randn(n, 1, seed=1)
    least = (SHORT.alpha_bar[t] * 0.5**2 / marginal(SHORT, 0.2, 0.5)[1][t]).item()
    for model, expected in ((lambda x, t: torch.zeros_like(x), 1.0), (lambda x, t: ideal(SHORT, 0.2, 0.5)(x, t), least)):
        assert abs(simple_loss(model, SHORT, x0, t, eps).item() - expected) < 4 * expected * (2 / n) ** 0.5
