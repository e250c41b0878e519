"""q, the forward process: Eqs. (2), (4), (6) and (7). Nothing here is learned."""

import torch
from torch import Tensor

from .gaussian import log_density
from .runtime import guard
from .schedule import Schedule, at, check_schedule, check_t


def q_step(schedule: Schedule, x_prev: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
    """Eq. (2): x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps, one step of the
    forward chain.

    x_prev  (B, ...) float, x_{t-1}           t    int or LongTensor (B,) in 1..T
    eps     like x_prev, standard normal      ->   x_t, like x_prev
    Raises TypeError or ValueError for a t outside 1..T, for integers where floats are
    wanted, for NaN, and for shapes that do not fit.
    """
    check_images(schedule, t, x_prev=x_prev, eps=eps)
    return (
        at((1 - schedule.beta).sqrt(), t, x_prev) * x_prev
        + at(schedule.beta.sqrt(), t, x_prev) * eps
    )


def q_sample(schedule: Schedule, x0: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
    """Eq. (4): x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, all t steps at
    once.

    x0   (B, ...) float, images in [-1, 1]    t    int or LongTensor (B,) in 1..T
    eps  like x0, standard normal             ->   x_t, like x0
    Raises TypeError or ValueError for a t outside 1..T, for integers where floats are
    wanted, for NaN, and for shapes that do not fit.
    """
    check_images(schedule, t, x0=x0, eps=eps)
    return (
        at(schedule.alpha_bar.sqrt(), t, x0) * x0
        + at((1 - schedule.alpha_bar).sqrt(), t, x0) * eps
    )


def q_trajectory(schedule: Schedule, x0: Tensor, eps: Tensor) -> Tensor:
    """Eq. (2), T times: one sample of the whole chain x_0, x_1, ..., x_T ~ q(x_{1:T} |
    x_0).

    x0  (B, ...) float, images in [-1, 1]
    eps  (T, B, ...), standard normal
    ->  (T + 1, B, ...), with x_0 first
    """
    x = [x0]
    for t in range(1, schedule.T + 1):
        x.append(q_step(schedule, x[-1], t, eps[t - 1]))
    return torch.stack(x)


def log_q(schedule: Schedule, x: Tensor) -> Tensor:
    """Eq. (2) as a density: log q(x_{1:T} | x_0) = sum_t log N(x_t; sqrt(1 - beta_t)
    x_{t-1}, beta_t I).

    x  (T + 1, B, ...) float, trajectories x_0, x_1, ..., x_T       ->  (B,), nats
    """
    total = torch.zeros_like(x[0])
    for t in range(1, len(x)):
        mean = at((1 - schedule.beta).sqrt(), t, x[t]) * x[t - 1]
        total = total + log_density(x[t], mean, at(schedule.beta, t, x[t]))
    return total.flatten(1).sum(1)


def q_posterior(
    schedule: Schedule, x0: Tensor, x_t: Tensor, t: int | Tensor
) -> tuple[Tensor, Tensor]:
    """Eqs. (6) and (7): q(x_{t-1} | x_t, x_0) = N(mean, var I).

    mean = sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t) x_0 + sqrt(alpha_t) (1 -
    alpha_bar_{t-1}) / (1 - alpha_bar_t) x_t
    var  = (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t) beta_t, which is 0 at t = 1: given
         x_0, x_0 is known

    x0, x_t  (B, ...) float
    t  int or LongTensor (B,) in 1..T
    ->  mean, like x0; var, broadcastable onto it
    Raises TypeError or ValueError for a t outside 1..T, for integers where floats are
    wanted, for NaN, and for shapes that do not fit.
    """
    check_images(schedule, t, x0=x0, x_t=x_t)
    s = schedule
    before = torch.cat(
        [s.alpha_bar[:1], s.alpha_bar[:-1]]
    )  # alpha_bar_{t-1} at index t
    of_x0 = before.sqrt() * s.beta / (1 - s.alpha_bar)
    of_x_t = s.alpha.sqrt() * (1 - before) / (1 - s.alpha_bar)
    return at(of_x0, t, x0) * x0 + at(of_x_t, t, x0) * x_t, at(s.beta_tilde, t, x0)


def check_images(schedule: Schedule, t: int | Tensor, **tensors: Tensor) -> None:
    """Raise unless all tensors are float, of one shape, without NaN, and t fits them
    and the schedule.

    NaN is looked for on the processor only: asking a GPU would make every step wait for
    it.
    """
    check_schedule(schedule)
    check_t(t, schedule.T)
    guard.floats(**tensors)
    guard.same_shape(**tensors)
    guard.numbers(**tensors)
    x = next(iter(tensors.values()))
    batch = x.shape[0] if x.ndim else 1
    if isinstance(t, Tensor) and t.ndim == 1 and len(t) not in (1, batch):
        raise ValueError(
            f"t has {len(t)} entries for a batch of {batch}; wanted one t for each "
            "image, or an int"
        )
