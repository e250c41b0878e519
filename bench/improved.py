"""Bits per dimension as improved-diffusion computes them, written out: what `bits_per_dim` is compared with.

Structure and order of operations are those of `GaussianDiffusion.calc_bpd_loop` (Nichol and Dhariwal 2021), for a fixed variance.
Time runs from 0 to T - 1 here, as it does there.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class Coefficients:
    """Float64 arrays, made once."""

    def __init__(self, beta: np.ndarray):
        self.T = len(beta)
        alpha_bar = np.cumprod(1 - beta)
        before = np.append(1.0, alpha_bar[:-1])
        posterior_variance = beta * (1 - before) / (1 - alpha_bar)
        self.sqrt_alpha_bar, self.sqrt_one_minus = (
            np.sqrt(alpha_bar),
            np.sqrt(1 - alpha_bar),
        )
        self.log_one_minus = np.log(1 - alpha_bar)
        self.sqrt_recip, self.sqrt_recip_minus_1 = (
            np.sqrt(1 / alpha_bar),
            np.sqrt(1 / alpha_bar - 1),
        )
        self.posterior_log_variance = np.log(
            np.append(posterior_variance[1], posterior_variance[1:])
        )
        self.of_x0 = beta * np.sqrt(before) / (1 - alpha_bar)
        self.of_x_t = (1 - before) * np.sqrt(1 - beta) / (1 - alpha_bar)
        self.model_log_variance = np.log(np.append(posterior_variance[1], beta[1:]))


def extract(array: np.ndarray, t: Tensor, x: Tensor) -> Tensor:
    return (
        torch.from_numpy(array)
        .to(t.device)[t]
        .float()
        .view(-1, *[1] * (x.ndim - 1))
        .expand(x.shape)
    )


def bits_per_dim(
    model: Callable[..., Tensor],
    c: Coefficients,
    x0: Tensor,
    draw: Callable[[Tensor], Tensor] = torch.randn_like,
) -> dict[str, Tensor]:
    """The whole bound, x0_hat clipped as there. model takes the paper's t, 1..T; draw(x0) gives the noise of each t, from T down."""
    vb, x0_mse, mse = [], [], []
    for i in reversed(range(c.T)):
        t = torch.tensor([i] * len(x0), device=x0.device)
        noise = draw(x0)
        x_t = (
            extract(c.sqrt_alpha_bar, t, x0) * x0
            + extract(c.sqrt_one_minus, t, x0) * noise
        )
        with torch.no_grad():
            output, x0_hat = _terms(model, c, x0, x_t, t)
        vb.append(output)
        x0_mse.append(_mean((x0_hat - x0) ** 2))
        eps = (extract(c.sqrt_recip, t, x_t) * x_t - x0_hat) / extract(
            c.sqrt_recip_minus_1, t, x_t
        )
        mse.append(_mean((eps - noise) ** 2))
    t = torch.tensor([c.T - 1] * len(x0), device=x0.device)
    prior = _mean(
        _kl(
            extract(c.sqrt_alpha_bar, t, x0) * x0,
            extract(c.log_one_minus, t, x0),
            torch.zeros(()),
            torch.zeros(()),
        )
    ) / math.log(2)
    terms = torch.stack(vb, dim=1)
    return dict(
        total=terms.sum(1) + prior,
        prior=prior,
        terms=terms,
        mse=torch.stack(mse, dim=1),
        x0_mse=torch.stack(x0_mse, dim=1),
    )


def _terms(
    model: Callable[..., Tensor], c: Coefficients, x0: Tensor, x_t: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    true_mean = extract(c.of_x0, t, x_t) * x0 + extract(c.of_x_t, t, x_t) * x_t
    true_log_variance = extract(c.posterior_log_variance, t, x_t)
    eps = model(x_t, t + 1)
    log_variance = extract(c.model_log_variance, t, x_t)
    x0_hat = (
        extract(c.sqrt_recip, t, x_t) * x_t
        - extract(c.sqrt_recip_minus_1, t, x_t) * eps
    ).clamp(-1, 1)
    mean = extract(c.of_x0, t, x_t) * x0_hat + extract(c.of_x_t, t, x_t) * x_t
    kl = _mean(_kl(true_mean, true_log_variance, mean, log_variance)) / math.log(2)
    decoder = -_mean(
        _discretized_log_likelihood(x0, mean, 0.5 * log_variance)
    ) / math.log(2)
    return torch.where(t == 0, decoder, kl), x0_hat


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=list(range(1, x.ndim)))


def _kl(
    mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor
) -> Tensor:
    return 0.5 * (
        -1.0
        + log_variance_2
        - log_variance_1
        + torch.exp(log_variance_1 - log_variance_2)
        + (mean_1 - mean_2) ** 2 * torch.exp(-log_variance_2)
    )


def _cdf(x: Tensor) -> Tensor:
    return 0.5 * (
        1.0 + torch.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * torch.pow(x, 3)))
    )


def _discretized_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    centred, inverse_std = x - mean, torch.exp(-log_std)
    upper, lower = (
        _cdf(inverse_std * (centred + 1.0 / 255.0)),
        _cdf(inverse_std * (centred - 1.0 / 255.0)),
    )
    log_upper, log_one_minus_lower = (
        torch.log(upper.clamp(min=1e-12)),
        torch.log((1.0 - lower).clamp(min=1e-12)),
    )
    inside = torch.log((upper - lower).clamp(min=1e-12))
    return torch.where(
        x < -0.999, log_upper, torch.where(x > 0.999, log_one_minus_lower, inside)
    )
