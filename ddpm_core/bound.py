"""The variational bound and its terms: Eqs. (3), (5), (8)-(10), (12) and (13).

Everything is an upper bound on -log p_theta(x_0), or a part of one, to be made *small*.
Nats, unless a name says bits.
"""

import torch
from torch import Tensor

from .forward import log_q, q_posterior, q_sample
from .gaussian import kl_divergence, log_density
from .model import Model, ask
from .reverse import Reverse, log_joint, predict_x0, reverse_mean, reverse_variance
from .runtime import guard
from .schedule import Schedule, at

__getattr__ = guard.moved(
    __name__,
    dict.fromkeys(
        ("BitsPerDim", "BoundEstimate", "bits_per_dim", "bits_per_dim_estimate"), "bits"
    )
    | {"term_probability": "bits", "simple_loss": "objectives"},
)


def trajectory_bound(reverse: Reverse, schedule: Schedule, x: Tensor) -> Tensor:
    """Eq. (3): -log p(x_T) - sum_t log p_theta(x_{t-1} | x_t) / q(x_t | x_{t-1}); its
    mean under q is L >= -log p_theta(x_0).

    reverse  callable (x_t, t) -> mean, var
    x  (T + 1, B, ...) float, trajectories of q, as q_trajectory draws them
    -> (B,), nats: one unbiased sample of the bound for each trajectory
    """
    return log_q(schedule, x) - log_joint(reverse, x)


def bound_terms(
    reverse: Reverse, schedule: Schedule, x0: Tensor, eps: Tensor
) -> Tensor:
    """Eq. (5): L_T, and L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)),
    and L_0 = -log p_theta(x_0 | x_1).

    reverse  callable (x_t, t) -> mean, var
    x0  (B, ...) float
    eps  (T, B, ...), standard normal: x_t by Eq. (4)
    -> (T + 1, B), nats: entry t is L_t, so entry 0 is L_0 (a density here; for pixels
    see Eq. (13)) and entry T is L_T.
       The sum over t is an unbiased sample of the same L as Eq. (3), with less
       variance.
    """
    L_T = kl_divergence(
        at(schedule.alpha_bar.sqrt(), schedule.T, x0) * x0,
        at(1 - schedule.alpha_bar, schedule.T, x0),
        torch.zeros_like(x0),
        torch.ones_like(x0),
    )
    terms = [L_T]
    for t in range(schedule.T, 0, -1):
        x_t = q_sample(schedule, x0, t, eps[t - 1])
        mean, var = reverse(x_t, t)
        terms.append(
            kl_divergence(*q_posterior(schedule, x0, x_t, t), mean, var)
            if t > 1
            else -log_density(x0, mean, var)
        )
    return torch.stack([term.flatten(1).sum(1) for term in reversed(terms)])


def mean_matching(
    schedule: Schedule,
    x0: Tensor,
    x_t: Tensor,
    t: int | Tensor,
    mean: Tensor,
    var: Tensor,
) -> Tensor:
    """Eq. (8) without C: || mu_tilde_t(x_t, x_0) - mu_theta ||^2 / (2 sigma_t^2),
    elementwise, nats.

    x0, x_t, mean  (B, ...) float, mean = mu_theta(x_t, t)
    var  sigma_t^2, broadcastable
    t  in 2..T
    L_{t-1} is this, summed over the image, plus `variance_mismatch`, which depends on
    no weight of the network.
    """
    mu_tilde, _ = q_posterior(schedule, x0, x_t, t)
    return (mu_tilde - mean) ** 2 / (2 * var)


def variance_mismatch(schedule: Schedule, t: int | Tensor, var: Tensor) -> Tensor:
    """C of Eq. (8), for each dimension: (beta_tilde_t / sigma_t^2 - 1 -
    log(beta_tilde_t / sigma_t^2)) / 2, nats.

    var  sigma_t^2      t  in 2..T (beta_tilde_1 = 0 would make C infinite)
    Zero if and only if sigma_t^2 = beta_tilde_t.
    """
    zero = torch.zeros_like(var)
    return kl_divergence(zero, at(schedule.beta_tilde, t, var), zero, var)


def mean_matching_x0(
    reverse: Reverse, schedule: Schedule, x0: Tensor, t: int, eps: Tensor
) -> Tensor:
    """Eq. (9): || mu_tilde_t(x_t, (x_t - sqrt(1 - alpha_bar_t) eps) /
    sqrt(alpha_bar_t)) - mu_theta(x_t, t) ||^2 / (2 sigma_t^2).

    Eq. (8) with x_t = x_t(x_0, eps) drawn by Eq. (4), and x_0 written as a function of
    x_t and eps. Elementwise, nats.
    """
    x_t = q_sample(schedule, x0, t, eps)
    mean, var = reverse(x_t, t)
    return mean_matching(schedule, predict_x0(schedule, x_t, t, eps), x_t, t, mean, var)


def mean_matching_eps(
    reverse: Reverse, schedule: Schedule, x0: Tensor, t: int, eps: Tensor
) -> Tensor:
    """Eq. (10): || (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t) -
    mu_theta(x_t, t) ||^2 / (2 sigma_t^2).

    Eq. (9) with Eq. (7) inserted for mu_tilde: what mu_theta must predict, given x_t
    only. Elementwise, nats.
    """
    x_t = q_sample(schedule, x0, t, eps)
    mean, var = reverse(x_t, t)
    return (reverse_mean(schedule, x_t, t, eps) - mean) ** 2 / (2 * var)


def eps_weight(schedule: Schedule, variance: str = "beta") -> Tensor:
    """The weight of Eq. (12), beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t)), for t
    = 0..T; float64, entry 0 is 0.

    Entry 1 uses sigma_1^2 of `reverse_variance`; Eq. (14) replaces all of it by 1.
    """
    s = schedule
    weight = s.beta**2 / (
        2 * reverse_variance(s, variance) * s.alpha * (1 - s.alpha_bar)
    )
    weight[0] = 0.0
    return weight


def eps_matching(
    model: Model,
    schedule: Schedule,
    x0: Tensor,
    t: int | Tensor,
    eps: Tensor,
    variance: str = "beta",
) -> Tensor:
    """Eq. (12): beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t)) || eps -
    eps_theta(x_t, t) ||^2, elementwise, nats.

    model  callable (x_t, t) -> eps_hat
    x0, eps  (B, ...) float
    t  int or LongTensor (B,) in 1..T
    """
    eps_hat, _ = ask(model, q_sample(schedule, x0, t, eps), t)
    return at(eps_weight(schedule, variance), t, x0) * (eps - eps_hat) ** 2


def decoder_log_likelihood(x0: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    """Eq. (13): log of the integral of N(x; mean, std^2) over the bin of x0,
    elementwise, nats.

    The bin is [x0 - 1/255, x0 + 1/255]; the first reaches to -infinity and the last to
    +infinity, so that the 256 probabilities sum to 1 whatever the mean and the std are.

    x0  (B, ...) float on the 8-bit grid in [-1, 1]
    mean  like x0
    std  broadcastable onto it, > 0
    ->  like x0
    Finite, with finite gradients, far in the tails, where a difference of two CDFs is
    0 - 0: there
    log(Phi(b) - Phi(a)) = log Phi(b) + log(1 - exp(log Phi(a) - log Phi(b))), mirrored
    so that the bin lies left of the mean.
    Raises TypeError for other things than floats, ValueError if x0 is off the grid, std
    is not positive, the mean is NaN (looked for on the processor only) or has another
    shape than x0.
    """
    for name, tensor in dict(x0=x0, mean=mean).items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise TypeError(
                f"{name} is a {getattr(tensor, 'dtype', type(tensor).__name__)}; wanted"
                " floats: to_model_range() takes uint8 images to [-1, 1]"
            )
    if x0.shape != mean.shape:
        raise ValueError(
            f"mean has shape {tuple(mean.shape)} but x0 has {tuple(x0.shape)}; wanted"
            " the same shape"
        )
    if mean.device.type == "cpu" and mean.isnan().any():
        raise ValueError(
            "mean contains NaN; wanted numbers. A model that answers NaN has usually"
            " diverged: lower its learning rate"
        )
    std = torch.as_tensor(std, dtype=mean.dtype, device=mean.device)
    if not (std > 0).all():
        raise ValueError(
            f"std = {float(std.min())} at its smallest; wanted a standard deviation"
            " above 0"
        )
    wide = (
        torch.float32 if mean.device.type == "mps" else torch.float64
    )  # MPS has no float64
    level = grid_level(x0).to(wide)
    low, high = (
        (2 * level - 1) / 255 - 1,
        (2 * level + 1) / 255 - 1,
    )  # the exact edges, shared by neighbouring bins
    a, b = (low - mean.to(wide)) / std.to(wide), (high - mean.to(wide)) / std.to(wide)
    first, last = torch.special.log_ndtr(b), torch.special.log_ndtr(-a)
    right = a + b > 0
    a, b = torch.where(right, -b, a), torch.where(right, -a, b)
    log_b = torch.special.log_ndtr(b)
    inside = log_b + torch.log(-torch.expm1(torch.special.log_ndtr(a) - log_b))
    return torch.where(level == 0, first, torch.where(level == 255, last, inside)).to(
        mean.dtype
    )


def grid_level(x0: Tensor) -> Tensor:
    """The 8-bit level 0..255 of each value of x0 in [-1, 1]. Raises ValueError if a
    value is no such level, up to rounding.
    """
    if not x0.is_floating_point():
        raise TypeError(
            f"x0 has dtype {x0.dtype}; wanted floats: to_model_range() takes uint8"
            " images to [-1, 1]"
        )
    if x0.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(
            f"x0 has dtype {x0.dtype}, which cannot hold the 256 grey levels; wanted "
            "float32, as to_model_range() returns images"
        )
    level = (x0 + 1) * 127.5
    if (
        not ((level - level.round()).abs() < 1e-3).all()
        or level.min() < -1e-3
        or level.max() > 255 + 1e-3
    ):
        raise ValueError(
            "x0 has values off the 8-bit grid -1, -1 + 2/255, ..., 1 (or NaN); wanted"
            " images as to_model_range() returns them"
        )
    return level.round()


def bound_term(
    schedule: Schedule,
    x0: Tensor,
    x_t: Tensor,
    t: int | Tensor,
    mean: Tensor,
    var: Tensor,
) -> Tensor:
    """Eq. (5), its term at t: KL(q(x_{t-1} | x_t, x_0) || N(mean, var)) for t > 1, and
    L_0 by Eq. (13) for t = 1.

    x0, x_t, mean  (B, ...) float
    var  sigma_t^2, broadcastable
    t  int or LongTensor (B,) in 1..T
    -> like x0, elementwise, nats. Raises ValueError if x0 is off the 8-bit grid where t
    = 1.
    """
    if isinstance(t, int) and t == 1:
        return -decoder_log_likelihood(x0, mean, var.sqrt())
    mu_tilde, beta_tilde = q_posterior(schedule, x0, x_t, t)
    if isinstance(t, int):
        return kl_divergence(mu_tilde, beta_tilde, mean, var)
    t = t.to(x0.device).expand(len(x0))
    first = (t == 1).view(-1, *[1] * (x0.ndim - 1))
    # beta_tilde_1 = 0 would put log 0 into a gradient, even where it is not selected
    kl = torch.where(
        first,
        0.0,
        kl_divergence(mu_tilde, torch.where(first, var, beta_tilde), mean, var),
    )
    where = (t == 1).nonzero().flatten()
    if not len(where):
        return kl
    L_0 = -decoder_log_likelihood(
        x0[where], mean[where], var.expand_as(x0)[where].sqrt()
    )
    return kl.index_copy(0, where, L_0.to(kl.dtype))
