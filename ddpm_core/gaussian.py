"""Densities and divergences of Gaussians with a diagonal covariance, in nats,
elementwise: sum over an image's entries yourself.
"""

import math

import torch
from torch import Tensor


def log_density(x: Tensor, mean: Tensor | float, var: Tensor | float) -> Tensor:
    """log N(x; mean, var) = -(x - mean)^2 / (2 var) - log(2 pi var) / 2, elementwise
    and broadcast; var > 0.
    """
    var = torch.as_tensor(var, dtype=x.dtype, device=x.device)
    return -((x - mean) ** 2) / (2 * var) - torch.log(2 * math.pi * var) / 2


def kl_divergence(
    mean_q: Tensor, var_q: Tensor, mean_p: Tensor, var_p: Tensor
) -> Tensor:
    """KL(N(mean_q, var_q) || N(mean_p, var_p)) = (var_q / var_p - 1 - log(var_q /
    var_p) + (mean_q - mean_p)^2 / var_p) / 2.

    Elementwise and broadcast, in nats; both variances > 0. Never negative, and zero
    only if both Gaussians are the same.
    """
    ratio = var_q / var_p
    return (ratio - 1 - torch.log(ratio) + (mean_q - mean_p) ** 2 / var_p) / 2
