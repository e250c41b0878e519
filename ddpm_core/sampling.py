"""Algorithm 2: from noise to a picture, one reverse step at a time; and DDIM and
DPM-Solver++, with fewer steps and no new noise.

A step is a function (schedule, x, x0_hat, eps_hat, i, more) -> the next x; SAMPLERS has
them by name, and there is one loop over them. `sample_steps` is the loop, a generator
of (t, x_t, x0_hat); `sample` runs it to the end; `Sampling` says how.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Generator, Tensor

from . import fast
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
    learns_variance,
)
from .reverse import VARIANCES, predict_x0
from .runtime import guard
from .schedule import Schedule, at, check_end, check_schedule, send, visiting
from .unet import UNet

# ---- the steps


@dataclass(frozen=True)
class More:
    """What a step may need beside x, x0_hat and eps_hat."""

    noise: Callable[[], Tensor]  # standard normal, like x, new at every call
    sigma2: Tensor  # (T + 1,) float64, sigma_t^2 of the variance that was asked for
    v: Tensor | None = None  # of a learned variance: sigma_t^2 is sigma2 exp(v)
    eta: float = 0.0
    before: Tensor | None = None  # x0_hat of the step before; None in the first


Step = Callable[[Schedule, Tensor, Tensor, Tensor, int, More], Tensor]


def ancestral(
    schedule: Schedule, x: Tensor, x0_hat: Tensor, eps_hat: Tensor, i: int, more: More
) -> Tensor:
    """Algorithm 2, line 4: x_{i-1} = mu + sigma_i z, mu of Eq. (7) at x0_hat.

    Where x0_hat is that of Eq. (15), mu is Eq. (11). No noise at i = 1.
    """
    mean, _ = q_posterior(schedule, x0_hat, x, i)
    if i == 1:  # the last step keeps the mean: z = 0
        return mean
    z = more.noise() if more.v is None else (more.v / 2).exp() * more.noise()
    return mean + at(more.sigma2.sqrt(), i, x) * z


def ddim(
    schedule: Schedule, x: Tensor, x0_hat: Tensor, eps_hat: Tensor, i: int, more: More
) -> Tensor:
    """sqrt(alpha_bar_{i-1}) x0_hat + sqrt(1 - alpha_bar_{i-1} - s^2) eps_hat + s z.

    s^2 = eta^2 beta_tilde_i: none for eta = 0, Algorithm 2's step with beta_tilde for
    eta = 1 (Song et al. 2021, their 12 and 16). No noise at i = 1.
    """
    s2 = more.eta**2 * schedule.beta_tilde
    before = torch.cat([schedule.alpha_bar[:1], schedule.alpha_bar[:-1]])
    onward = (1 - before - s2).clamp(min=0).sqrt()
    x = at(before.sqrt(), i, x) * x0_hat + at(onward, i, x) * eps_hat
    return x + at(s2.sqrt(), i, x) * more.noise() if more.eta and i > 1 else x


def dpm(
    schedule: Schedule, x: Tensor, x0_hat: Tensor, eps_hat: Tensor, i: int, more: More
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, their Algorithm 2): DDIM's ODE, second order.

    With r = noise_{i-1} / noise_i it is r x + (signal_{i-1} - signal_i r) ahead, where
    `ahead` is x0_hat, carried on by its last change, as far as the coming step in
    log(signal / noise) is long beside the last one; in the first and the last step it
    is x0_hat itself.
    """
    signal, noise = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
    ahead = x0_hat
    if more.before is not None and i > 1:
        change = x0_hat - more.before
        ahead = x0_hat + at(_extrapolation(signal, noise), i, x) * change
    weight = signal[:-1] - signal[1:] * noise[:-1] / noise[1:]
    ratio = at(noise, i - 1, x) / at(noise, i, x)
    return ratio * x + at(weight, i - 1, x) * ahead


def _extrapolation(signal: Tensor, noise: Tensor) -> Tensor:
    """How much of its last change x0_hat is carried ahead in the step from i to i - 1:
    half the ratio of the two steps in log(signal / noise), the coming one over the
    last. Entries 0, 1 and T are not used."""
    half_log_snr = (signal / noise).log()
    step = half_log_snr[:-1] - half_log_snr[1:]  # step[i - 1] leads from i to i - 1
    return torch.cat([step.new_zeros(1), step[:-1] / step[1:] / 2, step.new_zeros(1)])


SAMPLERS: dict[str, Step] = {"ddpm": ancestral, "ddim": ddim, "dpm": dpm}


# ---- how


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are drawn: what `sample`, `sample_steps`, `evaluate` and the command
    line share. Each field is also a keyword of `sample`.

    steps      None: all T of them. Fewer: times spread from T to 1, with the betas that
               lead from one to the next, see `respace`
    spacing    of fewer steps: "time", evenly; "snr", evenly in log SNR; None: "snr" for
               "dpm", else "time"
    sampler    "ddpm": Algorithm 2, `ancestral`. "ddim" and "dpm": fewer steps and no
               new noise, see there. Or a step of your own, such as one of these with
               something around it
    variance   of the noise that "ddpm" adds, "beta" or "beta_tilde": the two choices of
               section 3.2; or "learned": beta_t exp(v) with a model that answers
               [eps_hat | v] (see reverse_variance). None: "learned" for a network
               that says it has learned it, else "beta"
    clip_x0    Departure: Algorithm 2 as printed does not clip. The official code clamps
               x0_hat to [-1, 1] and takes the mean from Eq. (7); with clip_x0=False
               that mean is Eq. (11) to the letter. Whatever changes x0_hat, eps_hat is
               taken anew from it and x_t (`eps_of_x0`): a step gets two that fit
    threshold  x0_hat -> x0_hat, instead of the clamp; None: the clamp, if clip_x0
    guidance   w of (1 + w) eps(x_t, t, y) - w eps(x_t, t), see `guided`; 0: none
    eta        of "ddim", from 0, no noise, to 1, the noise of beta_tilde
    precision  of the arithmetic inside a UNet: "float32" (on a CPU, from ten million
               parameters on, by a copy of its weights that is laid out channels last);
               "bfloat16" or "float16", by a copy (a step in bfloat16 is about a
               hundredth of eps_hat off); "auto": the fastest on the device, see
               hardware.choose_sampling. x_t and the steps stay in the precision of x_T,
               and so does every other model
    compile    a UNet by torch.compile, on CUDA into CUDA graphs: a minute or more at
               first, earned back by thousands of steps

    Raises ValueError or TypeError for settings that cannot be (steps: where T is
    known).
    """

    steps: int | None = None
    spacing: str | None = None
    sampler: str | Step = "ddpm"
    variance: str | None = None
    clip_x0: bool = True
    threshold: Callable[[Tensor], Tensor] | None = None
    guidance: float = 0.0
    eta: float = 0.0
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.spacing is not None:
            guard.one_of("spacing", self.spacing, ("time", "snr"))
        if not callable(self.sampler):
            guard.one_of("sampler", self.sampler, SAMPLERS)
        if self.variance is not None:
            guard.one_of("variance", self.variance, VARIANCES)
        if self.threshold is not None and not callable(self.threshold):
            raise TypeError(
                f"threshold = {self.threshold!r}; wanted a function x0_hat -> x0_hat, "
                "or None"
            )
        if not guard.is_number(self.guidance):
            raise TypeError(
                f"guidance = {self.guidance!r}; wanted a finite number, 0 for none"
            )
        own = callable(self.sampler)
        if (
            not guard.is_number(self.eta)
            or not 0 <= self.eta <= 1
            or (self.eta and self.sampler != "ddim" and not own)
        ):
            raise ValueError(
                f"eta = {self.eta!r} for sampler {self.sampler!r}; wanted a number "
                'from 0 (no noise) to 1 (that of beta_tilde) for "ddim", 0 for the '
                "others"
            )

    @property
    def step(self) -> Step:
        """The step that `sampler` names."""
        return SAMPLERS[self.sampler] if isinstance(self.sampler, str) else self.sampler

    def times(self, schedule: Schedule) -> tuple[list[int], Schedule]:
        """The times that are visited, and the schedule of these: see `respace`."""
        steps = schedule.T if self.steps is None else self.steps
        wanted = f"None, or a whole number from 1 to T = {schedule.T}"
        guard.whole("steps", steps, wanted, 1, schedule.T)
        own = "snr" if self.sampler == "dpm" else "time"
        return respace(schedule, steps, self.spacing or own)


def told(how: Sampling | None, settings: dict[str, Any]) -> Sampling:
    """The settings given by name, in place of those of `how`."""
    if how is not None:
        guard.instance("how", how, Sampling, "a Sampling, such as Sampling(steps=50)")
    known = [field.name for field in fields(Sampling)]
    if unknown := [name for name in settings if name not in known]:
        raise TypeError(
            f"{unknown[0]} = {settings[unknown[0]]!r} is no setting of a sampler; "
            f"wanted some of {', '.join(known)}"
        )
    return replace(how or Sampling(), **settings)


# ---- the loop


def sample(
    model: Model,
    schedule: Schedule,
    shape: Sequence[int],
    how: Sampling | None = None,
    *,
    generator: Generator | Sequence[Generator] | None = None,
    x_T: Tensor | None = None,
    labels: Tensor | None = None,
    progress: bool = False,
    **settings: Any,
) -> Tensor:
    """Algorithm 2: draw x_T ~ N(0, I), take every reverse step, return x_0.

    -> float `shape`, about in [-1, 1]. For images: to_uint8(sample(...)).
    Arguments and errors as in `sample_steps`; progress=True shows a bar with the time
    left, and says in one line on what and in which precision.
    """
    from tqdm.auto import tqdm

    how = told(how, settings)
    shape = _check(schedule, shape, how, generator, x_T, labels)
    trajectory = sample_steps(
        model, schedule, shape, how, generator=generator, x_T=x_T, labels=labels
    )
    bar = tqdm(
        trajectory,
        total=(how.steps or schedule.T) + 1,
        unit="step",
        desc="sampling",
        disable=not progress,
        dynamic_ncols=True,
    )
    if not bar.disable and isinstance(model, UNet):
        device = _device(model, x_T, generator)
        precision = fast.precision_of(model, device, how.precision)
        compiled = ", compiled" if how.compile else ""
        bar.write(f"sampling: on {device} in {precision}{compiled}", file=sys.stderr)
    x: Tensor
    for _, x, _ in bar:
        pass
    return x


@torch.no_grad()
def sample_steps(
    model: Model,
    schedule: Schedule,
    shape: Sequence[int],
    how: Sampling | None = None,
    *,
    generator: Generator | Sequence[Generator] | None = None,
    x_T: Tensor | None = None,
    labels: Tensor | None = None,
    **settings: Any,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Algorithm 2, step by step: yields (t, x_t, x0_hat) from T to 1, then (0, x_0,
    x_0).

    model      callable (x_t, t) -> eps_hat; a Module is in eval mode meanwhile. One
               that is told something: given(unet, context=...), guided(unet, 2.0, ...)
    shape      (B, C, H, W)
    how        Sampling(...); or its fields by keyword, sample(..., steps=50,
               sampler="dpm"): steps, sampler, variance, clip_x0, guidance, eta, ...
    generator  of x_T and of the noise; a list of one generator an image gives each
               image its own noise, whatever the rest of its batch; None: a fresh seed
               every time. A CPU generator gives the same noise on every device.
               The network sums in another order in another batch: the same picture
               then differs by that rounding, below a grey level in float32, by some
               grey levels here and there in bfloat16 (precision="auto" may choose it)
    x_T        the noise to start from, instead of drawing it
    labels     LongTensor (B,) for a UNet with classes: given(model, labels), or with
               guidance guided(model, guidance, labels)

    Raises ValueError or TypeError for arguments that do not fit; warns where pure noise
    is not where this schedule ends.
    """
    how = told(how, settings)
    shape = _check(schedule, shape, how, generator, x_T, labels)
    if x_T is None:
        check_end(schedule)
    device = _device(model, x_T, generator)
    if generator is None:
        generator = fresh_generator(device)
    variance = how.variance or ("learned" if learns_variance(model) else "beta")
    w = how.guidance
    model = guided(model, w, labels) if w else given(model, labels)
    predict = around(
        model,
        lambda one: fast.sampling(one, device, how.precision, how.compile),
        device,
    )
    times, schedule = how.times(schedule)
    changed = how.threshold or (_clamp if how.clip_x0 else None)

    def noise() -> Tensor:
        return send(draw_from(torch.randn, shape, generator), device)

    more = More(
        noise=lambda: noise().to(x),
        sigma2=schedule.beta_tilde if variance == "beta_tilde" else schedule.beta,
        eta=how.eta,
    )
    x = noise() if x_T is None else x_T.to(device)
    with evaluating(model):
        # i counts the steps taken here, times[i] is the paper's t
        for i in range(schedule.T, 0, -1):
            eps_hat, v = ask(predict, x, times[i], variance)
            x0_hat = predict_x0(schedule, x, i, eps_hat)
            if changed is not None:
                x0_hat = changed(x0_hat)
                eps_hat = eps_of_x0(schedule, x, i, x0_hat)
            yield times[i], x, x0_hat
            x = how.step(schedule, x, x0_hat, eps_hat, i, replace(more, v=v))
            more = replace(more, before=x0_hat)
        yield 0, x, x


def _clamp(x0_hat: Tensor) -> Tensor:
    return x0_hat.clamp(-1, 1)


def respace(
    schedule: Schedule, steps: int, spacing: str = "time"
) -> tuple[list[int], Schedule]:
    """`steps` of the times 1..T, including T and (from two on) 1, and the schedule that
    visits only these.

    Its alpha_bar are the old ones at those times, so beta' = 1 - alpha_bar_t /
    alpha_bar_{t'}: by Eq. (4) the marginals stay.
    spacing  "time": spread evenly over t; "snr": over log SNR, SNR = alpha_bar_t / (1 -
             alpha_bar_t), closely near both ends
    -> times, with times[0] = 0 and times[steps] = T, and a Schedule of that many steps
    Raises ValueError for steps outside 1..T and for an unknown spacing.
    """
    wanted = f"a whole number from 1 to T = {schedule.T}"
    guard.whole("steps", steps, wanted, 1, schedule.T)
    guard.one_of("spacing", spacing, ("time", "snr"))
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
    visited = [0, *times.tolist()]
    return visited, visiting(schedule, visited)


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
    how: Sampling,
    generator: Generator | Sequence[Generator] | None,
    x_T: Tensor | None,
    labels: Tensor | None,
) -> tuple[int, ...]:
    """Raise for arguments that do not fit; returns the shape as a tuple."""
    check_schedule(schedule)
    shape = tuple(shape) if isinstance(shape, Sequence) else shape
    if (
        not isinstance(shape, tuple)
        or not shape
        or not all(guard.is_whole(n) and n >= 1 for n in shape)
    ):
        raise ValueError(
            f"shape = {shape}; wanted whole numbers, at least 1, such as "
            "(16, 1, 28, 28)"
        )
    how.times(schedule)
    if x_T is not None and (
        not isinstance(x_T, Tensor)
        or not x_T.is_floating_point()
        or tuple(x_T.shape) != shape
    ):
        known = (
            f"shape {tuple(x_T.shape)} and dtype {x_T.dtype}"
            if isinstance(x_T, Tensor)
            else f"type {type(x_T).__name__}"
        )
        raise ValueError(f"x_T has {known}; wanted floats of shape {shape}")
    check_randomness(generator, labels, shape[0])
    if how.guidance and labels is None:
        raise ValueError(
            f"guidance = {how.guidance} needs labels to be guided to; pass labels="
        )
    return shape
