"""Learning a score without noise, and walking along it: sliced score matching, Langevin dynamics, and the annealed walk of NCSN."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor

from ..reverse import (
    Model,
    check_randomness,
    device_of,
    draw,
    evaluating,
    fresh_generator,
    predict_x0,
)
from ..sampling import respace
from ..schedule import Schedule, send
from .flows import check_probe, value_and_divergence
from .sde import ask_at

Score = Callable[[Tensor], Tensor]


def langevin_step(x: Tensor, score: Tensor, delta: float, z: Tensor) -> Tensor:
    """x + delta/2 score + sqrt(delta) z: keeps the density whose score it is, but for an error of order delta.

    x  (B, ...) float      score  like x, grad log q at x      delta  > 0      z  like x, standard normal      ->  like x
    Raises ValueError for a delta that is not positive, and for shapes that differ.
    """
    if not delta > 0:
        raise ValueError(f"delta = {delta}; wanted a step > 0")
    if not x.shape == z.shape == score.shape:
        raise ValueError(
            f"x, score and z have shapes {tuple(x.shape)}, {tuple(score.shape)} and {tuple(z.shape)}; wanted one shape"
        )
    return x + delta / 2 * score + math.sqrt(delta) * z


def sliced_score_loss(
    score: Score, x: Tensor, v: Tensor, reduce_variance: bool = False
) -> Tensor:
    """v^T grad_s v + (v^T s)^2 / 2, or with reduce_variance v^T grad_s v + ||s||^2 / 2. (Song et al. 2019, sliced score matching: SSM, SSM-VR)

    score  callable (B, ...) -> (B, ...), each row of its own      x  (B, ...) float, data      v  like x, random
    -> (B,), with a gradient. If E v v^T = I, twice its mean over x and v is J = E || s - grad log q ||^2 less a constant. For the
    first form any v with a positive E v v^T will do, at the price of another weight; the second needs E v v^T = I.
    Raises ValueError for a v of another shape, and with reduce_variance for one of the wrong law.
    """
    if v.shape != x.shape:
        raise ValueError(
            f"v has shape {tuple(v.shape)}; wanted that of x, {tuple(x.shape)}"
        )
    if reduce_variance:
        check_probe(v, x)
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        s, curvature = value_and_divergence(score, x, v, any_law=True)
    s, v = s.flatten(1), v.flatten(1)
    square = s.square().sum(1) if reduce_variance else (s * v).sum(1).square()
    return curvature + square / 2


@torch.no_grad()
def annealed_langevin(
    model: Model,
    schedule: Schedule,
    shape: Sequence[int],
    *,
    levels: int = 100,
    each: int = 2,
    step: float = 0.6,
    clip_x0: bool = True,
    generator: Generator | Sequence[Generator] | None = None,
    x_T: Tensor | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Langevin steps at noise levels that fall, in y = x / sqrt(alpha_bar): NCSN's sampler. (Song and Ermon 2019, Algorithm 1)

    At each of `levels` times, evenly in log SNR from T to 1, `each` times:  y <- y + a/2 s_y + sqrt(a) z  with  a = step sigma^2
    and s_y = -eps_hat / sigma. The last is Tweedie's step, y - sigma eps_hat (Jolicoeur-Martineau et al. 2021).
    model, shape, clip_x0, generator, x_T  as in `sample_steps`; clip_x0 clamps x0_hat, and eps_hat follows it
    Yields (t, x_t, x0_hat) before every step, and at last (0, x_0, x_0), as `sample_steps` does: levels * each + 1 evaluations.
    Raises ValueError for levels outside 1..T, each below 1, and a step that is not positive.
    """
    shape = tuple(shape)
    times, few = respace(schedule, levels, "snr")
    if isinstance(each, bool) or not isinstance(each, int) or each < 1 or not step > 0:
        raise ValueError(
            f"each = {each!r}, step = {step!r}; wanted a whole number of steps a level, at least 1, and a step > 0"
        )
    check_randomness(generator, None, shape[0])
    device = device_of(model) or (torch.device("cpu") if x_T is None else x_T.device)
    if generator is None:
        generator = fresh_generator(device)

    def normal() -> Tensor:
        return send(draw(torch.randn, shape, generator), device)

    def guess(y: Tensor, i: int) -> tuple[Tensor, Tensor]:
        x = float(few.alpha_bar[i].sqrt()) * y
        x0_hat = predict_x0(few, x, i, ask_at(model, x, times[i]))
        return x, x0_hat.clamp(-1, 1) if clip_x0 else x0_hat

    y = (normal() if x_T is None else x_T.to(device)) / float(few.alpha_bar[-1].sqrt())
    with evaluating(model):
        for i in range(levels, 0, -1):
            var = float((1 - few.alpha_bar[i]) / few.alpha_bar[i])  # sigma^2
            for _ in range(each):
                x, x0_hat = guess(y, i)
                yield times[i], x, x0_hat
                score = (x0_hat - y) / var  # -eps_hat / sigma
                y = langevin_step(y, score, step * var, normal().to(y))
        _, x0_hat = guess(y, 1)
        yield 0, x0_hat, x0_hat
