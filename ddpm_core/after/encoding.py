"""DDIM as a code: from a picture to the noise that DDIM draws it from, and back (Song, Meng and Ermon 2021, section 4.3)."""

import torch
from torch import Tensor

from ..forward import check_images
from ..reverse import Model, ask, evaluating
from ..sampling import respace
from ..schedule import Schedule


@torch.no_grad()
def ddim_invert(
    model: Model,
    schedule: Schedule,
    x0: Tensor,
    steps: int | None = None,
    iterations: int = 0,
) -> Tensor:
    """The x_T from which DDIM draws x_0: DDIM's step run upwards, x_{t+1} = sqrt(alpha_bar_{t+1}) x0_hat + sqrt(1 - alpha_bar_{t+1}) eps_hat.

    model  callable (x_t, t) -> eps_hat      x0  (B, ...) float      steps  None: all T; else as in sample(sampler="ddim", steps=steps)
    iterations  0: eps_hat is asked at x_t, where the step begins, so that the way back misses x_0 by an error of first order in the
                step. n: the equation of the step *down* from x_{t+1} to x_t is solved for x_{t+1} by n further rounds, with eps_hat
                asked at x_{t+1}; the error falls by a factor with each round, where the model is smooth. n + 1 times the evaluations
    -> x_T, like x0. The way back is sample(model, schedule, shape, steps=steps, sampler="ddim", x_T=x_T, clip_x0=False): clipping
    makes a step that has no inverse.
    Raises ValueError or TypeError for steps outside 1..T, negative iterations and images that are no floats.
    """
    check_images(schedule, 1, x0=x0)
    if (
        isinstance(iterations, bool)
        or not isinstance(iterations, int)
        or iterations < 0
    ):
        raise ValueError(
            f"iterations = {iterations!r}; wanted a whole number, at least 0"
        )
    times, schedule = respace(schedule, schedule.T if steps is None else steps)
    signal, noise = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
    x = x0
    with evaluating(model):
        for i in range(schedule.T):
            here, ahead = x, x
            for n in range(iterations + 1):
                at_start = n == 0 and i > 0  # the network knows no t = 0
                eps = ask(model, ahead, times[i] if at_start else times[i + 1])[0]
                ahead = (
                    float(signal[i + 1] / signal[i]) * (here - float(noise[i]) * eps)
                    + float(noise[i + 1]) * eps
                )
            x = ahead
    return x
