"""Algorithm 2: from noise to a picture, one reverse step at a time; and DDIM and DPM-Solver++, with fewer steps and no new noise.

`sample_steps` is the algorithm, a generator of (t, x_t, x0_hat); `sample` runs it to the end.
"""

import math
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from .fast import precision_of, sampling
from .forward import q_posterior
from .model import (
    Model,
    around,
    ask,
    check_randomness,
    device_of,
    draw_from,
    eps_of_x0,
    evaluating,
    fresh_generator,
    given,
    guided,
)
from .reverse import VARIANCES, predict_x0
from .schedule import Schedule, at, send
from .unet import UNet

SAMPLERS = ("ddpm", "ddim", "dpm")


def sample(
    model: Model,
    schedule: Schedule,
    shape: Sequence[int],
    *,
    steps: int | None = None,
    sampler: str = "ddpm",
    variance: str = "beta",
    clip_x0: bool = True,
    eta: float = 0.0,
    generator: Generator | Sequence[Generator] | None = None,
    x_T: Tensor | None = None,
    labels: Tensor | None = None,
    guidance: float = 0.0,
    precision: str = "auto",
    compile: bool = False,
    progress: bool = False,
) -> Tensor:
    """Algorithm 2: draw x_T ~ N(0, I), take every reverse step, return x_0: float `shape`, about in [-1, 1].

    Arguments and errors as in `sample_steps`; progress=True shows a bar with the time left, and says in one line on what and in which
    precision. For images: to_uint8(sample(...)).
    """
    from tqdm.auto import tqdm

    shape = _check(
        schedule, shape, steps, sampler, variance, eta, generator, x_T, labels, guidance
    )
    trajectory = sample_steps(
        model,
        schedule,
        shape,
        steps=steps,
        sampler=sampler,
        variance=variance,
        clip_x0=clip_x0,
        eta=eta,
        generator=generator,
        x_T=x_T,
        labels=labels,
        guidance=guidance,
        precision=precision,
        compile=compile,
    )
    bar = tqdm(
        trajectory,
        total=(schedule.T if steps is None else steps) + 1,
        unit="step",
        desc="sampling",
        disable=not progress,
        dynamic_ncols=True,
    )
    if not bar.disable and isinstance(model, UNet):
        device = _device(model, x_T, generator)
        bar.write(
            f"sampling: on {device} in {precision_of(model, device, precision)}{', compiled' if compile else ''}",
            file=sys.stderr,
        )
    x: Tensor
    for _, x, _ in bar:
        pass
    return x


@torch.no_grad()
def sample_steps(
    model: Model,
    schedule: Schedule,
    shape: Sequence[int],
    *,
    steps: int | None = None,
    sampler: str = "ddpm",
    variance: str = "beta",
    clip_x0: bool = True,
    eta: float = 0.0,
    generator: Generator | Sequence[Generator] | None = None,
    x_T: Tensor | None = None,
    labels: Tensor | None = None,
    guidance: float = 0.0,
    precision: str = "auto",
    compile: bool = False,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Algorithm 2, step by step: yields (t, x_t, x0_hat) from t = T down to t = 1, and at last (0, x_0, x_0).

    model      callable (x_t, t) -> eps_hat; a Module is in eval mode meanwhile
    shape      (B, C, H, W)
    steps      None: all T of them. Fewer: times spread from T to 1, evenly ("dpm": evenly in log SNR), with the betas that lead from
               one to the next, see `respace`
    sampler    "ddpm": Algorithm 2. "ddim": x_{t-1} = sqrt(alpha_bar_{t-1}) x0_hat + sqrt(1 - alpha_bar_{t-1}) eps_hat, no noise
               (Song et al. 2021, their 12 with sigma = 0). Where x0_hat is clamped, eps_hat is taken anew from it and x_t (`eps_of_x0`):
               the two always fit x_t together, as Eq. (15) says. "dpm": the same ODE by DPM-Solver++(2M), which extrapolates from the last two
               x0_hat; its error falls with the square of the steps (Lu et al. 2022, Algorithm 2)
    variance   of the noise that "ddpm" adds, "beta" or "beta_tilde": the two choices of section 3.2; or "learned": beta_t exp(v)
               with a model that answers [eps_hat | v] (see reverse_variance)
    clip_x0    Departure: Algorithm 2 as printed does not clip. The official code clamps x0_hat to [-1, 1] and takes the mean from
               Eq. (7); with clip_x0=False that mean is Eq. (11) to the letter
    eta        of "ddim": how much noise. 0: none. 1: the variance beta_tilde, and with it Algorithm 2's step for that variance. Between:
               sigma_t^2 = eta^2 beta_tilde_t, of which the direction to x_t keeps the rest, sqrt(1 - alpha_bar_{t-1} - sigma_t^2)
               (Song et al. 2021, their 12 and 16)
    generator  of x_T and of the noise; a list of one generator an image makes each image independent of the rest of its batch;
               None: a fresh seed every time. A CPU generator gives the same noise on every device
    x_T        the noise to start from, instead of drawing it
    labels     LongTensor (B,) for a UNet with classes; guidance > 0 exaggerates them,
               (1 + guidance) eps(x_t, t, y) - guidance eps(x_t, t)  (Ho and Salimans 2022, their 6); a learned v stays as it is with the labels
    precision  of the arithmetic inside a UNet: "float32" (on a CPU, from ten million parameters on, by a copy of its weights that is laid
               out channels last); "bfloat16" or "float16", by a copy (a step in bfloat16 is about a hundredth of eps_hat off); "auto":
               the fastest on the device, see hardware.choose_sampling. x_t and the steps stay in the precision of x_T, and so does
               every other model
    compile    a UNet by torch.compile, on CUDA into CUDA graphs: a minute or more at first, earned back by thousands of steps

    Raises ValueError or TypeError for arguments that do not fit.
    """
    shape = _check(
        schedule, shape, steps, sampler, variance, eta, generator, x_T, labels, guidance
    )
    device = _device(model, x_T, generator)
    if generator is None:
        generator = fresh_generator(device)
    told = given(model, labels) if not guidance else guided(model, guidance, labels)
    predict = around(
        told, lambda each: sampling(each, device, precision, compile), device
    )
    times, schedule = respace(
        schedule,
        schedule.T if steps is None else steps,
        "snr" if sampler == "dpm" else "time",
    )
    var = schedule.beta_tilde if variance == "beta_tilde" else schedule.beta

    signal, noise = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
    x, before = (
        _normal(shape, generator, device) if x_T is None else x_T.to(device),
        None,
    )
    with evaluating(model):
        for i in range(
            schedule.T, 0, -1
        ):  # i counts the steps taken here, times[i] is the paper's t
            eps, v = ask(predict, x, times[i], variance)
            x0_hat = predict_x0(schedule, x, i, eps)
            if clip_x0:
                x0_hat = x0_hat.clamp(-1, 1)
            yield times[i], x, x0_hat
            if sampler == "ddim":
                if clip_x0:  # with another x0_hat belongs another eps_hat
                    eps = eps_of_x0(schedule, x, i, x0_hat)
                added = eta**2 * schedule.beta_tilde
                before_ = torch.cat([schedule.alpha_bar[:1], schedule.alpha_bar[:-1]])
                direction = (1 - before_ - added).clamp(min=0).sqrt()
                x = at(signal, i - 1, x) * x0_hat + at(direction, i, x) * eps
                if eta and i > 1:
                    z = _normal(shape, generator, device).to(x)
                    x = x + at(added.sqrt(), i, x) * z
            elif sampler == "dpm":
                ahead = (
                    x0_hat
                    if before is None or i == 1
                    else x0_hat
                    + at(_extrapolation(signal, noise), i, x) * (x0_hat - before)
                )
                x = (
                    at(noise, i - 1, x) / at(noise, i, x) * x
                    + at(signal[:-1] - signal[1:] * noise[:-1] / noise[1:], i - 1, x)
                    * ahead
                )
                before = x0_hat
            else:
                x, _ = q_posterior(schedule, x0_hat, x, i)
                if i > 1:  # the last step keeps the mean: z = 0 at t = 1
                    z = _normal(shape, generator, device).to(x)
                    x = x + at(var.sqrt(), i, x) * (
                        z if v is None else (v / 2).exp() * z
                    )
        yield 0, x, x


def _extrapolation(signal: Tensor, noise: Tensor) -> Tensor:
    """How much of its last change x0_hat is carried ahead in the step from i to i - 1 of DPM-Solver++(2M): half the ratio of the two
    steps in log(signal / noise), the coming one over the last. Entries 0, 1 and T are not used."""
    half_log_snr = (signal / noise).log()
    step = half_log_snr[:-1] - half_log_snr[1:]  # step[i - 1] leads from i to i - 1
    return torch.cat([step.new_zeros(1), step[:-1] / step[1:] / 2, step.new_zeros(1)])


def respace(
    schedule: Schedule, steps: int, spacing: str = "time"
) -> tuple[list[int], Schedule]:
    """`steps` of the times 1..T, including T and (from two on) 1, and the schedule that visits only these.

    Its alpha_bar are the old ones at those times, so beta' = 1 - alpha_bar_t / alpha_bar_{t'}: by Eq. (4) the marginals stay.
    spacing  "time": spread evenly over t; "snr": over log SNR, SNR = alpha_bar_t / (1 - alpha_bar_t), closely near both ends
    -> times, with times[0] = 0 and times[steps] = T, and a Schedule of that many steps
    Raises ValueError for steps outside 1..T and for an unknown spacing.
    """
    if (
        isinstance(steps, bool)
        or not isinstance(steps, int)
        or not 1 <= steps <= schedule.T
    ):
        raise ValueError(
            f"steps = {steps!r}; wanted a whole number from 1 to T = {schedule.T}"
        )
    if spacing not in ("time", "snr"):
        raise ValueError(f'spacing = {spacing!r}; wanted "time" or "snr"')
    if steps == schedule.T:
        return list(range(schedule.T + 1)), schedule
    if spacing == "time" or steps == 1:
        times = (
            torch.linspace(schedule.T, 1, steps, dtype=torch.float64)
            .round()
            .long()
            .flip(0)
        )
    else:
        minus_log_snr = ((1 - schedule.alpha_bar) / schedule.alpha_bar)[
            1:
        ].log()  # grows with t
        times = 1 + torch.searchsorted(
            minus_log_snr,
            torch.linspace(
                minus_log_snr[0], minus_log_snr[-1], steps, dtype=torch.float64
            ),
        )
        index = torch.arange(
            steps
        )  # no time twice: the next free one after it, or before it where there is none
        times = ((times - index).cummax(0).values + index).minimum(
            schedule.T - steps + 1 + index
        )
    alpha_bar = schedule.alpha_bar[[0, *times.tolist()]]
    return [0, *times.tolist()], Schedule(1 - alpha_bar[1:] / alpha_bar[:-1])


def _normal(
    shape: tuple[int, ...],
    generator: Generator | Sequence[Generator],
    device: torch.device,
) -> Tensor:
    return send(draw_from(torch.randn, shape, generator), device)


def _device(
    model: Model, x_T: Tensor | None, generator: Generator | Sequence[Generator] | None
) -> torch.device:
    """Where the model is; if it does not say, where the noise is."""
    if (device := device_of(model)) is not None:
        return device
    if x_T is not None:
        return x_T.device
    return generator.device if isinstance(generator, Generator) else torch.device("cpu")


def _check(
    schedule: Schedule,
    shape: Sequence[int],
    steps: int | None,
    sampler: str,
    variance: str,
    eta: float,
    generator: Generator | Sequence[Generator] | None,
    x_T: Tensor | None,
    labels: Tensor | None,
    guidance: float,
) -> tuple[int, ...]:
    """Raise for arguments of `sample_steps` that do not fit; returns the shape as a tuple."""
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule is a {type(schedule).__name__}; wanted a Schedule, such as linear_schedule()"
        )
    shape = tuple(shape) if isinstance(shape, Sequence) else shape
    if (
        not isinstance(shape, tuple)
        or not shape
        or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape)
    ):
        raise ValueError(
            f"shape = {shape}; wanted whole numbers, at least 1, such as (16, 1, 28, 28)"
        )
    if steps is not None and (
        isinstance(steps, bool)
        or not isinstance(steps, int)
        or not 1 <= steps <= schedule.T
    ):
        raise ValueError(
            f"steps = {steps!r}; wanted None, or a whole number from 1 to T = {schedule.T}"
        )
    if sampler not in SAMPLERS:
        raise ValueError(f'sampler = {sampler!r}; wanted "ddpm", "ddim" or "dpm"')
    if variance not in VARIANCES:
        raise ValueError(
            f'variance = {variance!r}; wanted "beta", "beta_tilde" or "learned"'
        )
    if (
        isinstance(eta, bool)
        or not isinstance(eta, (int, float))
        or not 0 <= eta <= 1
        or (eta and sampler != "ddim")
    ):
        raise ValueError(
            f"eta = {eta!r} for sampler {sampler!r}; wanted a number from 0 (no noise) "
            'to 1 (that of beta_tilde) for "ddim", 0 for the others'
        )
    if x_T is not None and (
        not isinstance(x_T, Tensor)
        or not x_T.is_floating_point()
        or tuple(x_T.shape) != shape
    ):
        given = (
            f"shape {tuple(x_T.shape)} and dtype {x_T.dtype}"
            if isinstance(x_T, Tensor)
            else f"type {type(x_T).__name__}"
        )
        raise ValueError(f"x_T has {given}; wanted floats of shape {shape}")
    check_randomness(generator, labels, shape[0])
    if (
        isinstance(guidance, bool)
        or not isinstance(guidance, (int, float))
        or not math.isfinite(guidance)
    ):
        raise TypeError(f"guidance = {guidance!r}; wanted a finite number, 0 for none")
    if guidance and labels is None:
        raise ValueError(
            f"guidance = {guidance} needs labels to be guided to; pass labels="
        )
    return shape
