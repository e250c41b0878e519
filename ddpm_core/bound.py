"""The variational bound and what is minimised instead of it: Eqs. (3), (5), (8)-(10) and (12)-(14).

Everything is an upper bound on -log p_theta(x_0), or a part of one, to be made *small*. Nats, unless a name says bits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .forward import log_q, q_posterior, q_sample
from .gaussian import kl_divergence, log_density
from .model import (
    Model,
    ask,
    check_randomness,
    device_of,
    draw_from,
    eps_of_x0,
    evaluating,
    fresh_generator,
)
from .reverse import Reverse, log_joint, predict_x0, reverse_mean, reverse_variance
from .schedule import Schedule, at, send


def trajectory_bound(reverse: Reverse, schedule: Schedule, x: Tensor) -> Tensor:
    """Eq. (3): -log p(x_T) - sum_t log p_theta(x_{t-1} | x_t) / q(x_t | x_{t-1}); its mean under q is L >= -log p_theta(x_0).

    reverse  callable (x_t, t) -> mean, var     x  (T + 1, B, ...) float, trajectories of q, as q_trajectory draws them
    -> (B,), nats: one unbiased sample of the bound for each trajectory
    """
    return log_q(schedule, x) - log_joint(reverse, x)


def bound_terms(
    reverse: Reverse, schedule: Schedule, x0: Tensor, eps: Tensor
) -> Tensor:
    """Eq. (5): L_T, and L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)), and L_0 = -log p_theta(x_0 | x_1).

    reverse  callable (x_t, t) -> mean, var     x0  (B, ...) float      eps  (T, B, ...), standard normal: x_t by Eq. (4)
    -> (T + 1, B), nats: entry t is L_t, so entry 0 is L_0 (a density here; for pixels see Eq. (13)) and entry T is L_T.
       The sum over t is an unbiased sample of the same L as Eq. (3), with less variance.
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
    """Eq. (8) without C: || mu_tilde_t(x_t, x_0) - mu_theta ||^2 / (2 sigma_t^2), elementwise, nats.

    x0, x_t, mean  (B, ...) float, mean = mu_theta(x_t, t)      var  sigma_t^2, broadcastable      t  in 2..T
    L_{t-1} is this, summed over the image, plus `variance_mismatch`, which depends on no weight of the network.
    """
    mu_tilde, _ = q_posterior(schedule, x0, x_t, t)
    return (mu_tilde - mean) ** 2 / (2 * var)


def variance_mismatch(schedule: Schedule, t: int | Tensor, var: Tensor) -> Tensor:
    """C of Eq. (8), for each dimension: (beta_tilde_t / sigma_t^2 - 1 - log(beta_tilde_t / sigma_t^2)) / 2, nats.

    var  sigma_t^2      t  in 2..T (beta_tilde_1 = 0 would make C infinite)
    Zero if and only if sigma_t^2 = beta_tilde_t.
    """
    zero = torch.zeros_like(var)
    return kl_divergence(zero, at(schedule.beta_tilde, t, var), zero, var)


def mean_matching_x0(
    reverse: Reverse, schedule: Schedule, x0: Tensor, t: int, eps: Tensor
) -> Tensor:
    """Eq. (9): || mu_tilde_t(x_t, (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t)) - mu_theta(x_t, t) ||^2 / (2 sigma_t^2).

    Eq. (8) with x_t = x_t(x_0, eps) drawn by Eq. (4), and x_0 written as a function of x_t and eps. Elementwise, nats.
    """
    x_t = q_sample(schedule, x0, t, eps)
    mean, var = reverse(x_t, t)
    return mean_matching(schedule, predict_x0(schedule, x_t, t, eps), x_t, t, mean, var)


def mean_matching_eps(
    reverse: Reverse, schedule: Schedule, x0: Tensor, t: int, eps: Tensor
) -> Tensor:
    """Eq. (10): || (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t) - mu_theta(x_t, t) ||^2 / (2 sigma_t^2).

    Eq. (9) with Eq. (7) inserted for mu_tilde: what mu_theta must predict, given x_t only. Elementwise, nats.
    """
    x_t = q_sample(schedule, x0, t, eps)
    mean, var = reverse(x_t, t)
    return (reverse_mean(schedule, x_t, t, eps) - mean) ** 2 / (2 * var)


def eps_weight(schedule: Schedule, variance: str = "beta") -> Tensor:
    """The weight of Eq. (12), beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t)), for t = 0..T; float64, entry 0 is 0.

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
    """Eq. (12): beta_t^2 / (2 sigma_t^2 alpha_t (1 - alpha_bar_t)) || eps - eps_theta(x_t, t) ||^2, elementwise, nats.

    model  callable (x_t, t) -> eps_hat     x0, eps  (B, ...) float     t  int or LongTensor (B,) in 1..T
    """
    eps_hat, _ = ask(model, q_sample(schedule, x0, t, eps), t)
    return at(eps_weight(schedule, variance), t, x0) * (eps - eps_hat) ** 2


def decoder_log_likelihood(x0: Tensor, mean: Tensor, std: Tensor | float) -> Tensor:
    """Eq. (13): log of the integral of N(x; mean, std^2) over the bin of x0, elementwise, nats.

    The bin is [x0 - 1/255, x0 + 1/255]; the first reaches to -infinity and the last to +infinity, so that the 256 probabilities
    sum to 1 whatever the mean and the std are.

    x0  (B, ...) float on the 8-bit grid in [-1, 1]     mean  like x0     std  broadcastable onto it, > 0      ->  like x0
    Finite, with finite gradients, far in the tails, where a difference of two CDFs is 0 - 0: there
    log(Phi(b) - Phi(a)) = log Phi(b) + log(1 - exp(log Phi(a) - log Phi(b))), mirrored so that the bin lies left of the mean.
    Raises TypeError for other things than floats, ValueError if x0 is off the grid, std is not positive, the mean is NaN (looked for
    on the processor only) or has another shape than x0.
    """
    for name, tensor in dict(x0=x0, mean=mean).items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise TypeError(
                f"{name} is a {getattr(tensor, 'dtype', type(tensor).__name__)}; wanted floats: to_model_range() takes uint8 images to [-1, 1]"
            )
    if x0.shape != mean.shape:
        raise ValueError(
            f"mean has shape {tuple(mean.shape)} but x0 has {tuple(x0.shape)}; wanted the same shape"
        )
    if mean.device.type == "cpu" and mean.isnan().any():
        raise ValueError(
            "mean contains NaN; wanted numbers. A model that answers NaN has usually diverged: lower its learning rate"
        )
    std = torch.as_tensor(std, dtype=mean.dtype, device=mean.device)
    if not (std > 0).all():
        raise ValueError(
            f"std = {float(std.min())} at its smallest; wanted a standard deviation above 0"
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
    """The 8-bit level 0..255 of each value of x0 in [-1, 1]. Raises ValueError if a value is no such level, up to rounding."""
    if not x0.is_floating_point():
        raise TypeError(
            f"x0 has dtype {x0.dtype}; wanted floats: to_model_range() takes uint8 images to [-1, 1]"
        )
    level = (x0 + 1) * 127.5
    if (
        not ((level - level.round()).abs() < 1e-3).all()
        or level.min() < -1e-3
        or level.max() > 255 + 1e-3
    ):
        raise ValueError(
            "x0 has values off the 8-bit grid -1, -1 + 2/255, ..., 1 (or NaN); wanted images as to_model_range() returns them"
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
    """Eq. (5), its term at t: KL(q(x_{t-1} | x_t, x_0) || N(mean, var)) for t > 1, and L_0 by Eq. (13) for t = 1.

    x0, x_t, mean  (B, ...) float      var  sigma_t^2, broadcastable      t  int or LongTensor (B,) in 1..T
    -> like x0, elementwise, nats. Raises ValueError if x0 is off the 8-bit grid where t = 1.
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


@dataclass(frozen=True)
class BitsPerDim:
    """The bound of Eq. (5), term by term; all in bits per dimension but for the two errors and the distortion."""

    total: Tensor  # (B,) prior + terms.sum(1): an upper bound on -log2 p_theta(x_0) / D
    prior: Tensor  # (B,) L_T
    terms: Tensor  # (B, T) terms[:, t - 1] is L_{t-1}; terms[:, 0] is L_0
    mse: Tensor  # (B, T) mean squared error of eps_hat at t, in [:, t - 1]
    x0_mse: Tensor  # (B, T) mean squared error of x0_hat at t on [-1, 1], in [:, t - 1]
    # With clip_x0 both are of what the terms are made of: x0_hat clamped, and the
    # eps_hat that fits it and x_t.

    @property
    def rate(self) -> Tensor:
        """Figure 5: the bits received by the time x_t is known, L_T + L_{T-1} + ... + L_t, in [:, t - 1]; (B, T).

        Bits per dimension. L_T alone at t = T; all but L_0 at t = 1. Table 4's "reverse process time" is T - t + 1.
        """
        after = self.terms[:, 1:].double().flip(1).cumsum(1).flip(1)
        return self.prior[:, None] + torch.nn.functional.pad(after, (0, 1)).to(
            self.terms
        )

    @property
    def distortion(self) -> Tensor:
        """Figure 5: sqrt(|| x_0 - x0_hat ||^2 / D) on the scale [0, 255], x0_hat by Eq. (15) from x_t, in [:, t - 1]; (B, T).

        Image by image. The root mean squared error of a whole set is 127.5 * x0_mse.mean(0).sqrt().
        """
        return 127.5 * self.x0_mse.sqrt()


@dataclass(frozen=True)
class BoundEstimate:
    """What bits_per_dim_estimate returns; bits per dimension."""

    total: Tensor  # (B,) unbiased estimates of the bound of Eq. (5), image by image
    error: Tensor  # (B,) their standard errors; error**2 is unbiased

    @property
    def mean(self) -> tuple[float, float]:
        """The bound averaged over these images, and the standard error that estimating it has; the choice of images not included."""
        return float(self.total.double().mean()), float(
            self.error.double().square().sum().sqrt()
        ) / len(self.error)


@torch.no_grad()
def bits_per_dim(
    model: Model,
    schedule: Schedule,
    x0: Tensor,
    variance: str = "beta",
    clip_x0: bool = False,
    generator: Generator | Sequence[Generator] | None = None,
    progress: bool = False,
    labels: Tensor | None = None,
) -> BitsPerDim:
    """Eq. (5) for images, with L_0 by Eq. (13): how many bits a dimension the images cost, at most.

    model      callable (x_t, t) -> eps_hat; a Module is in eval mode meanwhile
    x0         (B, ...) float on the 8-bit grid in [-1, 1]; as many as one evaluation of the model can hold
    variance   "beta" or "beta_tilde"; L_0 uses sigma_1^2 = beta_tilde_2 for either, as the official code does. Or "learned", with
               a model that answers [eps_hat | v]: sigma_t^2 of "beta" times exp(v), see `reverse_variance`
    clip_x0    clamp x0_hat to [-1, 1] and take the mean from Eq. (7), as the official evaluation does; the sampler clips, too
    generator  of the T noises an image; a list of one generator an image makes each image independent of the rest of its batch;
               None: a fresh seed
    labels     LongTensor (B,) for a UNet with classes: the bound on -log p_theta(x_0 | label)
    One x_t an image and t is drawn: an unbiased estimate of the bound. Memory does not grow with T beyond the (B, T) results.
    Raises TypeError or ValueError for images off the 8-bit grid, an unknown variance, and a model that returns another shape.
    """
    from tqdm.auto import tqdm

    x0, labels, generator = _prepared(model, schedule, x0, variance, labels, generator)
    terms, mse, x0_mse = (
        torch.empty(len(x0), schedule.T, device=x0.device) for _ in range(3)
    )
    with evaluating(model):
        for t in tqdm(
            range(schedule.T, 0, -1),
            unit="step",
            desc="bound",
            disable=not progress,
            dynamic_ncols=True,
        ):
            eps = send(draw_from(torch.randn, x0.shape, generator), x0.device).to(
                x0.dtype
            )
            terms[:, t - 1], mse[:, t - 1], x0_mse[:, t - 1] = _term_at(
                model, schedule, x0, t, eps, variance, clip_x0, labels
            )
    prior, terms, mse, x0_mse = (
        _prior(schedule, x0),
        terms.cpu(),
        mse.cpu(),
        x0_mse.cpu(),
    )
    return BitsPerDim(prior + terms.sum(1), prior, terms, mse, x0_mse)


@torch.no_grad()
def bits_per_dim_estimate(
    model: Model,
    schedule: Schedule,
    x0: Tensor,
    variance: str = "beta",
    clip_x0: bool = False,
    generator: Generator | Sequence[Generator] | None = None,
    progress: bool = False,
    labels: Tensor | None = None,
    evaluations: int = 20,
) -> BoundEstimate:
    """bits_per_dim(...).total from `evaluations` random t an image instead of all T: unbiased, with its standard error.

    L_0 is measured twice, with two noises. The terms t = 2..T are estimated with (evaluations - 2) / 2 strata of equal probability
    under p(t); each stratum has two draws, and term / p(t) has the right mean whatever p is. The spread of the two draws gives the
    standard error. p is a guess of where the bits are: in log SNR, SNR_t = alpha_bar_t / (1 - alpha_bar_t), and there half evenly
    and half in proportion to sqrt(SNR_t), about as the error of eps_hat falls on images.

    evaluations  of the model for each image, an even number from 4 on; every image draws its own t
    Other arguments and errors as in `bits_per_dim`; ValueError for other numbers of evaluations.
    """
    from tqdm.auto import tqdm

    if (
        isinstance(evaluations, bool)
        or not isinstance(evaluations, int)
        or evaluations < 4
        or evaluations % 2
    ):
        raise ValueError(
            f"evaluations = {evaluations!r}; wanted an even number, at least 4: two for L_0, two for each stratum of t"
        )
    x0, labels, generator = _prepared(model, schedule, x0, variance, labels, generator)
    strata = (evaluations - 2) // 2 if schedule.T > 1 else 0
    p = term_probability(schedule)
    total, square = (
        _prior(schedule, x0).double(),
        torch.zeros(len(x0), dtype=torch.float64),
    )
    with evaluating(model):
        for k in tqdm(
            range(-1, strata),
            unit="stratum",
            desc="bound",
            disable=not progress,
            dynamic_ncols=True,
        ):
            twice = []
            for _ in range(2):
                if k < 0:
                    t, share = (
                        torch.ones(len(x0), dtype=torch.long),
                        torch.ones(len(x0), dtype=torch.float64),
                    )
                else:
                    u = draw_from(
                        torch.rand, (len(x0),), generator, dtype=torch.float64
                    ).cpu()
                    t = torch.searchsorted(
                        p.cumsum(0), (k + u) / strata, right=True
                    ).clamp(2, schedule.T)
                    share = strata * p[t]
                eps = draw_from(torch.randn, x0.shape, generator).to(x0)
                term, _, _ = _term_at(
                    model, schedule, x0, t.to(x0.device), eps, variance, clip_x0, labels
                )
                twice.append(term.cpu().double() / share)
            total += (twice[0] + twice[1]) / 2
            square += (twice[0] - twice[1]) ** 2 / 4
    return BoundEstimate(total.float(), square.sqrt().float())


def term_probability(schedule: Schedule) -> Tensor:
    """The p(t) of `bits_per_dim_estimate` for t = 0..T, float64; p(0) = p(1) = 0, the rest is positive with sum 1 (if T > 1)."""
    snr = schedule.alpha_bar[1:] / (1 - schedule.alpha_bar[1:])
    evenly = (snr[:-1] / snr[1:]).log()
    falling = evenly * snr[1:].sqrt()
    return torch.cat(
        [
            torch.zeros(2, dtype=torch.float64),
            (evenly / evenly.sum() + falling / falling.sum()) / 2,
        ]
    )


def _prepared(
    model: Model,
    schedule: Schedule,
    x0: Tensor,
    variance: str,
    labels: Tensor | None,
    generator: Generator | Sequence[Generator] | None,
) -> tuple[Tensor, Tensor | None, Generator | Sequence[Generator]]:
    """The images and labels where the model is, and a generator, once all of it is known to fit."""
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule is a {type(schedule).__name__}; wanted a Schedule, such as linear_schedule()"
        )
    if not isinstance(x0, Tensor):
        raise TypeError(
            f"x0 is a {type(x0).__name__}; wanted a float tensor (B, C, H, W), as to_model_range() returns it"
        )
    if x0.ndim < 2 or not x0.numel():
        raise ValueError(
            f"x0 has shape {tuple(x0.shape)}; wanted (B, C, H, W) with at least one image"
        )
    grid_level(x0)
    reverse_variance(schedule, variance)
    check_randomness(generator, labels, len(x0))
    device = device_of(model) or x0.device
    generator = fresh_generator(device) if generator is None else generator
    return x0.to(device), None if labels is None else labels.to(device), generator


def _prior(schedule: Schedule, x0: Tensor) -> Tensor:
    """L_T, bits per dimension, (B,) on the CPU."""
    L_T = kl_divergence(
        at(schedule.alpha_bar.sqrt(), schedule.T, x0) * x0,
        at(1 - schedule.alpha_bar, schedule.T, x0),
        torch.zeros_like(x0),
        torch.ones_like(x0),
    )
    return L_T.flatten(1).sum(1).cpu() / (math.log(2) * x0[0].numel())


def _term_at(
    model: Model,
    schedule: Schedule,
    x0: Tensor,
    t: int | Tensor,
    eps: Tensor,
    variance: str,
    clip_x0: bool,
    labels: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """L_{t-1} in bits per dimension, and the mean squared errors of eps_hat and x0_hat; each (B,)."""
    x_t = q_sample(schedule, x0, t, eps)
    eps_hat, v = ask(model, x_t, t, variance, labels)
    x0_hat = predict_x0(schedule, x_t, t, eps_hat)
    if clip_x0:
        x0_hat = x0_hat.clamp(-1, 1)
        eps_hat = eps_of_x0(schedule, x_t, t, x0_hat)
    mean, _ = q_posterior(schedule, x0_hat, x_t, t)
    sigma2 = at(reverse_variance(schedule, variance), t, x0)
    term = bound_term(
        schedule, x0, x_t, t, mean, sigma2 if v is None else sigma2 * v.exp()
    )
    bits = math.log(2) * x0[0].numel()
    return (
        term.flatten(1).sum(1) / bits,
        (eps - eps_hat).square().flatten(1).mean(1),
        (x0 - x0_hat).square().flatten(1).mean(1),
    )


def simple_loss(
    model: Model, schedule: Schedule, x0: Tensor, t: int | Tensor, eps: Tensor
) -> Tensor:
    """Eq. (14): L_simple = E || eps - eps_theta(sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, t) ||^2.

    model  callable (x_t, t) -> eps_hat       x0   (B, ...) float, images in [-1, 1]
    t      int or LongTensor (B,) in 1..T     eps  like x0, standard normal
    -> a scalar: the mean over images *and* pixels, so that it is 1 for a model that always answers 0. (Section 3.4)
    Raises TypeError or ValueError for a t outside 1..T, for shapes that do not fit, and for a model that returns another shape.
    """
    eps_hat, _ = ask(model, q_sample(schedule, x0, t, eps), t)
    return (eps - eps_hat).square().mean()
