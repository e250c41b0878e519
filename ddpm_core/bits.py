"""The bound in bits per dimension: all of its terms, or an unbiased estimate from few.

`bits_per_dim` asks the model at every t, `bits_per_dim_estimate` at some. Every number
is an upper bound on -log2 p_theta(x_0) / D, or a part of one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .bound import bound_term, grid_level
from .forward import q_posterior, q_sample
from .gaussian import kl_divergence
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
from .reverse import predict_x0, reverse_variance
from .runtime import guard
from .schedule import Schedule, at, check_schedule, send


@dataclass(frozen=True)
class BitsPerDim:
    """The bound of Eq. (5), term by term; all in bits per dimension but for the two
    errors and the distortion.
    """

    total: Tensor  # (B,) prior + terms.sum(1): an upper bound on -log2 p_theta(x_0) / D
    prior: Tensor  # (B,) L_T
    terms: Tensor  # (B, T) terms[:, t - 1] is L_{t-1}; terms[:, 0] is L_0
    mse: Tensor  # (B, T) mean squared error of eps_hat at t, in [:, t - 1]
    x0_mse: Tensor  # (B, T) mean squared error of x0_hat at t on [-1, 1], in [:, t - 1]
    # With clip_x0 both are of what the terms are made of: x0_hat clamped, and the
    # eps_hat that fits it and x_t.

    @property
    def rate(self) -> Tensor:
        """Figure 5: the bits received by the time x_t is known, L_T + L_{T-1} + ... +
        L_t, in [:, t - 1]; (B, T).

        Bits per dimension. L_T alone at t = T; all but L_0 at t = 1. Table 4's "reverse
        process time" is T - t + 1.
        """
        after = self.terms[:, 1:].double().flip(1).cumsum(1).flip(1)
        return self.prior[:, None] + torch.nn.functional.pad(after, (0, 1)).to(
            self.terms
        )

    @property
    def distortion(self) -> Tensor:
        """Figure 5: sqrt(|| x_0 - x0_hat ||^2 / D) on the scale [0, 255], x0_hat by Eq.
        (15) from x_t, in [:, t - 1]; (B, T).

        Image by image. The root mean squared error of a whole set is 127.5 *
        x0_mse.mean(0).sqrt().
        """
        return 127.5 * self.x0_mse.sqrt()


@dataclass(frozen=True)
class BoundEstimate:
    """What bits_per_dim_estimate returns; bits per dimension."""

    total: Tensor  # (B,) unbiased estimates of the bound of Eq. (5), image by image
    error: Tensor  # (B,) their standard errors; error**2 is unbiased

    @property
    def mean(self) -> tuple[float, float]:
        """The bound averaged over these images, and the standard error that estimating
        it has; the choice of images not included.
        """
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
    """Eq. (5) for images, with L_0 by Eq. (13): how many bits a dimension the images
    cost, at most.

    model      callable (x_t, t) -> eps_hat; a Module is in eval mode meanwhile
    x0         (B, ...) float on the 8-bit grid in [-1, 1]; as many as one evaluation of
               the model can hold
    variance   "beta" or "beta_tilde"; L_0 uses sigma_1^2 = beta_tilde_2 for either, as
               the official code does. Or "learned", with a model that answers [eps_hat
               | v]: sigma_t^2 of "beta" times exp(v), see `reverse_variance`
    clip_x0    clamp x0_hat to [-1, 1] and take the mean from Eq. (7), as the official
               evaluation does; the sampler clips, too
    generator  of the T noises an image; a list of one generator an image makes each
               image independent of the rest of its batch; None: a fresh seed
    labels     LongTensor (B,) for a UNet with classes: the bound on -log p_theta(x_0 |
               label)
    One x_t an image and t is drawn: an unbiased estimate of the bound. Memory does not
    grow with T beyond the (B, T) results.
    Raises TypeError or ValueError for images off the 8-bit grid, an unknown variance,
    and a model that returns another shape.
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
    """bits_per_dim(...).total from `evaluations` random t an image instead of all T:
    unbiased, with its standard error.

    L_0 is measured twice, with two noises. The terms t = 2..T are estimated with
    (evaluations - 2) / 2 strata of equal probability under p(t); each stratum has two
    draws, and term / p(t) has the right mean whatever p is. The spread of the two draws
    gives the standard error. p is a guess of where the bits are: in log SNR, SNR_t =
    alpha_bar_t / (1 - alpha_bar_t), and there half evenly and half in proportion to
    sqrt(SNR_t), about as the error of eps_hat falls on images.

    evaluations  of the model for each image, an even number from 4 on; every image
                 draws its own t
    Other arguments and errors as in `bits_per_dim`; ValueError for other numbers of
    evaluations.
    """
    from tqdm.auto import tqdm

    if not guard.is_whole(evaluations) or evaluations < 4 or evaluations % 2:
        raise ValueError(
            f"evaluations = {evaluations!r}; wanted an even number, at least 4: two for"
            " L_0, two for each stratum of t"
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
    """The p(t) of `bits_per_dim_estimate` for t = 0..T, float64; p(0) = p(1) = 0, the
    rest is positive with sum 1 (if T > 1).
    """
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
    """The images and labels where the model is, and a generator, once all of it is
    known to fit.
    """
    check_schedule(schedule)
    if not isinstance(x0, Tensor):
        raise TypeError(
            f"x0 is a {type(x0).__name__}; wanted a float tensor (B, C, H, W), as"
            " to_model_range() returns it"
        )
    if x0.ndim < 2 or not x0.numel():
        raise ValueError(
            f"x0 has shape {tuple(x0.shape)}; wanted (B, C, H, W) with at least one"
            " image"
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
    """L_{t-1} in bits per dimension, and the mean squared errors of eps_hat and x0_hat;
    each (B,).
    """
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
