"""Known pixels, known greys, known small pictures: a model that was trained without any condition fills in the rest.

`inpaint_steps` replaces what is known in x_t by what Eq. (4) makes of it, at every step (Song et al. 2021, score SDE, appendix I), and
goes back and forth to let the two parts agree (Lugmayr et al. 2022, RePaint). Replacement alone is not conditional sampling.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from ..forward import q_posterior, q_step
from ..reverse import (
    Model,
    ask,
    check_randomness,
    device_of,
    draw,
    evaluating,
    fresh_generator,
    predict_x0,
)
from ..sampling import respace
from ..schedule import Schedule, at
from .bases import Basis
from .cascade import noised


def resampling_times(steps: int, resample: int, jump: int) -> list[int]:
    """The times that RePaint visits, from `steps` to 0: at t = 1, 1 + jump, ... it goes `resample` - 1 times up by `jump` and down again.

    (Lugmayr et al. 2022, the schedule of their code.) resample = 1 goes straight down.
    Raises ValueError for numbers below 1 and for a jump longer than the way.
    """
    for name, value in (("steps", steps), ("resample", resample), ("jump", jump)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} = {value!r}; wanted a whole number, at least 1")
    if resample > 1 and jump >= steps:
        raise ValueError(
            f"jump = {jump} with {steps} steps; wanted a jump of at most {steps - 1}"
        )
    # never up from t = 0: the step into it adds no noise, so that repeating it would only shrink
    left = {t: resample - 1 for t in range(1, steps - jump + 1, jump)}
    times = [steps]
    while times[-1] > 0:
        times.append(times[-1] - 1)
        if left.get(times[-1], 0):
            left[times[-1]] -= 1
            times += range(times[-1] + 1, times[-1] + jump + 1)
    return times


@torch.no_grad()
def inpaint_steps(
    model: Model,
    schedule: Schedule,
    known: Tensor,
    mask: Tensor,
    basis: Basis | None = None,
    resample: int = 1,
    jump: int = 1,
    *,
    steps: int | None = None,
    variance: str = "beta_tilde",
    clip_x0: bool = True,
    generator: Generator | Sequence[Generator] | None = None,
    x_T: Tensor | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Algorithm 2 with part of x_0 known: yields (t, x_t, x0_hat) at every visit, and at last (0, x_0, x_0).

    Each step down draws x_{t-1} by Algorithm 2 and then sets what is known to sqrt(alpha_bar_{t-1}) known + sqrt(1 - alpha_bar_{t-1}) z;
    each step up is Eq. (2). At t = 0 what is known is itself.
    model      callable (x_t, t) -> eps_hat, trained on whole pictures; guided ones, too
    known      (B, C, H, W) float: pixels, or with a basis its coefficients, basis.split(x); values outside the mask do not count
    mask       bool, broadcastable onto known, True where it is known
    basis      None for pixels; grey_basis(...) to colour greys, haar_basis() to enlarge: the mask then marks coefficients
    resample, jump  see resampling_times; about resample * steps evaluations
    steps      None: all T; fewer: see respace      variance  "beta" or "beta_tilde" of the noise that is added
    clip_x0, generator, x_T  as in sample_steps
    Raises ValueError for a mask that marks all or nothing, and for shapes that do not fit; TypeError for a mask that is not bool.
    """
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(
            f"mask is {getattr(mask, 'dtype', type(mask).__name__)}; wanted bool, True where the picture is known"
        )
    if not isinstance(known, Tensor) or not known.is_floating_point():
        raise TypeError(
            f"known is {getattr(known, 'dtype', type(known).__name__)}; wanted floats: to_model_range() makes them"
        )
    try:
        mask = mask.expand(known.shape).to(known.device)
    except RuntimeError as error:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} for known of shape {tuple(known.shape)}; wanted one that broadcasts onto it"
        ) from error
    if mask.all() or not mask.any():
        raise ValueError(
            f"the mask marks {'everything' if mask.any() else 'nothing'} as known; wanted some of each: with everything known "
            "there is nothing to draw, and with nothing known this is sample()"
        )
    if known[mask].isnan().any():
        raise ValueError("known contains NaN inside the mask; wanted numbers")
    if variance not in ("beta", "beta_tilde"):
        raise ValueError(f'variance = {variance!r}; wanted "beta" or "beta_tilde"')
    known = torch.where(mask, known, 0.0)
    shape = tuple((known if basis is None else basis.join(known)).shape)
    check_randomness(generator, None, shape[0])
    device = device_of(model) or known.device
    known, mask = known.to(device), mask.to(device)
    if generator is None:
        generator = fresh_generator(device)
    times, schedule = respace(schedule, schedule.T if steps is None else steps)
    var = schedule.beta_tilde if variance == "beta_tilde" else schedule.beta
    visits = resampling_times(schedule.T, resample, jump)

    def normal(like: Sequence[int]) -> Tensor:
        return draw(torch.randn, like, generator).to(device, known.dtype)

    def with_known(x: Tensor, i: int) -> Tensor:
        part = x if basis is None else basis.split(x)
        told = noised(schedule, known, i, normal(known.shape)) if i else known
        part = torch.where(mask, told, part)
        return part if basis is None else basis.join(part)

    x = normal(shape) if x_T is None else x_T.to(device)
    if tuple(x.shape) != shape:
        raise ValueError(f"x_T has shape {tuple(x.shape)}; wanted {shape}")
    with evaluating(model):
        for i, after in zip(visits, visits[1:]):
            if after > i:
                x = q_step(schedule, x, after, normal(shape))
                continue
            x0_hat = predict_x0(schedule, x, i, ask(model, x, times[i])[0])
            x0_hat = x0_hat.clamp(-1, 1) if clip_x0 else x0_hat
            yield times[i], x, x0_hat
            x, _ = q_posterior(schedule, x0_hat, x, i)
            if i > 1:
                x = x + at(var.sqrt(), i, x) * normal(shape)
            x = with_known(x, i - 1)
        yield 0, x, x
