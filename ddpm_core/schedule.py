"""The noise schedule: beta, alpha, alpha_bar and beta_tilde, in the paper's time t =
1..T.

Every tensor has T + 1 entries, so that `alpha_bar[t]` is the paper's alpha_bar_t and
`alpha_bar[0] = 1` is "no noise yet". They are float64: a float32 cumulative product
over 1000 steps is off in its fourth digit exactly where 1 - alpha_bar is small. Square
roots and ratios are written where they are used; `at` casts them, once, to the dtype of
the image they meet.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .runtime import guard


@dataclass(frozen=True, eq=False, repr=False)
class Schedule:
    """The forward process's variances beta_1..beta_T and what Eqs. (2), (4) and (7)
    derive from them.

    beta        (T,) or (T + 1,) with beta[0] = 0; every other entry strictly between 0
                and 1
    alpha       1 - beta
    alpha_bar   prod_{s <= t} alpha_s, so that q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0,
                (1 - alpha_bar_t) I), Eq. (4)
    beta_tilde  (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t, the variance of Eq.
                (7); beta_tilde[1] = 0

    All of shape (T + 1,), float64, without gradient. Raises TypeError or ValueError for
    anything that is no schedule.
    """

    beta: Tensor
    alpha: Tensor = field(init=False)
    alpha_bar: Tensor = field(init=False)
    beta_tilde: Tensor = field(init=False)

    def __post_init__(self) -> None:
        beta = _betas(self.beta)
        alpha_bar = torch.cumprod(1 - beta, dim=0)
        if alpha_bar[-1] == 0:
            raise ValueError(
                f"these {beta.numel() - 1} steps leave alpha_bar_T = 0 in float64, by "
                "which Eq. (15) divides; wanted fewer or smaller beta"
            )
        before = torch.cat([beta.new_ones(1), alpha_bar[:-1]])  # alpha_bar_{t-1}
        beta_tilde = (1 - before) / (1 - alpha_bar) * beta
        beta_tilde[0] = 0.0  # 0/0 above: there is no step into t = 0
        derived = dict(
            beta=beta, alpha=1 - beta, alpha_bar=alpha_bar, beta_tilde=beta_tilde
        )
        for name, tensor in derived.items():
            object.__setattr__(self, name, tensor)  # the only time: it is frozen

    @property
    def T(self) -> int:
        """The number of steps."""
        return self.beta.numel() - 1

    def __repr__(self) -> str:
        return (
            f"Schedule(T={self.T}, beta_1={self.beta[1]:.3g},"
            f" beta_T={self.beta[-1]:.3g}, alpha_bar_T={self.alpha_bar[-1]:.3g})"
        )


def linear_schedule(
    T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02
) -> Schedule:
    """The paper's schedule: beta_t grows linearly from beta_1 to beta_T. (Section 4)

    Raises ValueError for a T below 1, and TypeError or ValueError for betas that are no
    numbers between 0 and 1.
    """
    _check_steps(T)
    _check_ends(beta_1, beta_T)
    return Schedule(torch.linspace(beta_1, beta_T, T, dtype=torch.float64))


def cosine_schedule(T: int = 1000) -> Schedule:
    """alpha_bar_t = f(t)/f(0), f(t) = cos^2((t/T + 0.008)/1.008 * pi/2), beta_t at most
    0.999. (Nichol and Dhariwal 2021, their 17)

    Raises ValueError for a T below 1.
    """
    _check_steps(T)
    f = (
        torch.cos(
            (torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2
        )
        ** 2
    )
    return Schedule((1 - f[1:] / f[:-1]).clamp(max=0.999))


def visiting(schedule: Schedule, times: Sequence[int]) -> Schedule:
    """The schedule that visits only these times: times[0] = 0 < times[1] < ... <= T.

    Its alpha_bar are the old ones there, so beta' = 1 - alpha_bar_t / alpha_bar_{t'}:
    by Eq. (4) the marginals stay.
    """
    alpha_bar = schedule.alpha_bar[list(times)]
    return Schedule(1 - alpha_bar[1:] / alpha_bar[:-1])


SIGNAL_LEFT = 0.03  # bits per dimension of L_T from which on x_T is no noise


def check_end(schedule: Schedule) -> None:
    """Warn if q(x_T | x_0) is not N(0, I), from which sampling starts.

    Measured by L_T of Eq. (5) for x_0^2 = 1, -log2(1 - alpha_bar_T) / 2 bits for each
    dimension: 0.00003 for the paper's schedule, 0.3 for its betas with T = 100.
    """
    left = float(schedule.alpha_bar[-1])
    bits = float(-torch.log2(1 - schedule.alpha_bar[-1]) / 2)
    if bits > SIGNAL_LEFT:
        T = schedule.T
        first, last = min(0.1 / T, 0.99), min(20 / T, 0.99)
        scaled = f"linear_schedule({T}, {first:.3g}, {last:.3g}) or "
        warnings.warn(
            f"after T = {T} steps alpha_bar_T = {left:.3g} of the picture is left: "
            f"L_T is about {bits:.3g} bits per dimension, but sampling starts from "
            "pure noise, and pictures come out wrong. Wanted larger betas, "
            f"{scaled if T >= 40 else ''}cosine_schedule({T}), or more steps; or x_T=",
            stacklevel=2,
        )


def _betas(given: object) -> Tensor:
    """(T + 1,) float64 with a 0 first, from whatever was given as beta."""
    try:
        beta = torch.as_tensor(given, dtype=torch.float64).detach().to("cpu", copy=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"beta is a {type(given).__name__} that makes no tensor ({error}); wanted "
            "numbers, beta_1 to beta_T"
        ) from error
    if beta.ndim != 1 or beta.numel() == 0:
        raise ValueError(
            f"beta has shape {tuple(beta.shape)}; wanted one dimension with T entries, "
            "beta_1 to beta_T"
        )
    if beta[0] != 0:
        beta = torch.cat([beta.new_zeros(1), beta])
    # In float64: 1 - 1e-17 is 1, which is no step.
    inside = (1 - beta[1:] < 1) & (beta[1:] < 1)
    if beta.numel() == 1 or not inside.all():
        raise ValueError(
            "every beta_t must lie strictly between 0 and 1 (a variance that keeps "
            f"some of the image); got {beta[1:].tolist()[:8]}"
        )
    return beta


def _check_steps(T: int) -> None:
    guard.whole("T", T, "a whole number of steps, at least 1 (the paper: 1000)", 1)


def _check_ends(beta_1: float, beta_T: float) -> None:
    given = f"beta_1 = {beta_1!r}, beta_T = {beta_T!r}"
    if not all(isinstance(beta, (int, float)) for beta in (beta_1, beta_T)):
        raise TypeError(f"{given}; wanted two numbers (the paper: 1e-4 and 0.02)")
    if not (0 < beta_1 < 1 and 0 < beta_T < 1):
        raise ValueError(
            f"{given}; wanted both strictly between 0 and 1 (the paper: 1e-4 and 0.02)"
        )


def check_schedule(schedule: object) -> None:
    """Raise TypeError unless it is a Schedule."""
    guard.instance(
        "schedule", schedule, Schedule, "a Schedule, such as linear_schedule()"
    )


def check_t(t: float | Tensor, T: int, lowest: int = 1, real: bool = False) -> None:
    """Raise unless t is an int, or a LongTensor (B,), within lowest..T; with real=True
    floats may lie between.
    """
    if real and isinstance(t, float):
        t = torch.tensor(t)
    if isinstance(t, bool) or not isinstance(t, (int, Tensor)):
        raise TypeError(
            f"t is a {type(t).__name__}; wanted an int or a LongTensor (B,) in"
            f" {lowest}..{T}"
        )
    if isinstance(t, int):
        if not lowest <= t <= T:
            raise ValueError(f"t = {t}; wanted the paper's time, {lowest}..{T}")
        return
    whole = t.dtype in (torch.int64, torch.int32)
    if not (whole or real and t.is_floating_point()) or t.ndim > 1:
        raise TypeError(
            f"t has dtype {t.dtype} and shape {tuple(t.shape)}; wanted an int or a"
            f" LongTensor (B,) in {lowest}..{T}"
        )
    if t.device.type == "cpu":
        if t.numel() and not (lowest <= t.min().item() and t.max().item() <= T):
            raise ValueError(
                f"t runs from {t.min().item()} to {t.max().item()}; wanted the paper's"
                f" time, {lowest}..{T}"
            )
    elif (
        t.device.type == "cuda"
    ):  # the same check without making the host wait for the device
        torch._assert_async(((t >= lowest) & (t <= T)).all())


def at(coefficient: Tensor, t: int | Tensor, x: Tensor) -> Tensor:
    """coefficient[t], shaped and cast to broadcast onto the image batch x: (B, 1, 1,
    1), or a scalar for an int t.

    The one place where the float64 of the schedule meets the dtype and the device of an
    image.
    """
    if isinstance(t, int):
        return send(coefficient[t].to(dtype=x.dtype), x.device)
    table = send(coefficient.to(dtype=x.dtype), x.device)
    return table[t.to(x.device).flatten()].reshape(-1, *[1] * (x.ndim - 1))


def send(x: Tensor, device: torch.device) -> Tensor:
    """x from the processor on that device; the host goes on without waiting for it.

    CUDA copies memory that is not pinned into a buffer of its own before the call
    returns, so x may be gone by the time it arrives. MPS reads x itself: there the call
    waits.
    """
    return x.to(device, non_blocking=device.type not in ("cpu", "mps"))


def alpha_bar_at(schedule: Schedule, u: float | Tensor) -> Tensor:
    """alpha_bar(u) for real u in 0..T: alpha_bar(t - 1 + r) = alpha_bar_{t-1}
    alpha_t^r, so log alpha_bar is linear between.

    u  number or tensor of any shape
    ->  float64, like u; the schedule's own entries where u is whole
    Its decay b(u) = -d log alpha_bar / du = -log(1 - beta_t) on (t - 1, t] makes the
    VP-SDE dx = -b x du / 2 + sqrt(b) dw have Eq. (2) as its exact transition over whole
    times (Song et al. 2021, Eq. (11), with this b for beta(t)).
    Raises TypeError or ValueError for a u that is no number in 0..T.
    """
    if isinstance(u, bool) or not isinstance(u, (int, float, Tensor)):
        raise TypeError(
            f"u is a {type(u).__name__}; wanted a number or a tensor in 0..{schedule.T}"
        )
    u = torch.as_tensor(u, dtype=torch.float64).cpu()
    if not bool(((u >= 0) & (u <= schedule.T)).all()):  # NaN is in no range, either
        raise ValueError(
            f"u runs from {float(u.min()):g} to {float(u.max()):g}; wanted real times"
            f" in 0..{schedule.T}"
        )
    below = u.floor().long().clamp(max=schedule.T - 1)
    part = u - below
    return schedule.alpha_bar[below] * schedule.alpha[below + 1] ** part
