"""The chain with infinitely many steps: VP-SDE, noise levels between whole times, and one step of the reversed family.

Between whole times log alpha_bar is linear (`alpha_bar_at`), so that Eq. (2) is the SDE dx = -b x du / 2 + sqrt(b) dw looked at at
u = 1, 2, ..., T, exactly. In y = x / sqrt(alpha_bar) and sigma^2 = (1 - alpha_bar) / alpha_bar the same process only gains noise.
"""

import math

import torch
from torch import Tensor

from ..forward import check_images
from ..reverse import Model, ask
from ..schedule import Schedule, alpha_bar_at


def time_of(schedule: Schedule, sigma: float | Tensor) -> Tensor:
    """The real time u with sigma(u) = sqrt((1 - alpha_bar(u)) / alpha_bar(u)), the inverse of `alpha_bar_at`.

    sigma  number or tensor, 0 <= sigma <= sigma(T)      ->  float64, like sigma, in 0..T
    Raises ValueError for a sigma that the schedule does not reach.
    """
    sigma = torch.as_tensor(sigma, dtype=torch.float64).cpu()
    level = sigma.square().log1p()  # -log alpha_bar(u), which grows with u
    table = -schedule.alpha_bar.log()
    if not bool(((sigma >= 0) & (level <= table[-1] * (1 + 1e-12))).all()):
        raise ValueError(
            f"sigma runs from {float(sigma.min()):g} to {float(sigma.max()):g}; this schedule has 0 to "
            f"{float(table[-1].expm1().sqrt()):g}"
        )
    above = torch.searchsorted(table, level).clamp(1, schedule.T)
    part = (level - table[above - 1]) / (table[above] - table[above - 1])
    return (above - 1 + part).clamp(0, schedule.T)


def ask_at(model: Model, x: Tensor, u: float) -> Tensor:
    """eps_hat at a real time u: whole times go to the model as a LongTensor (B,), others as float64 (B,)."""
    u = float(u)
    if u.is_integer():
        return ask(model, x, int(u))[0]
    return ask(model, x, torch.full(x.shape[:1], u, dtype=torch.float64))[0]


def reverse_sde_step(
    model: Model,
    schedule: Schedule,
    x: Tensor,
    u: float,
    du: float,
    lam: float,
    z: Tensor,
) -> Tensor:
    """One Euler-Maruyama step from u down to u - du of dx = [-b x / 2 - (1 + lam^2) b s / 2] du + lam sqrt(b) dw, run backwards.

    x_{u - du} = x + B x / 2 + (1 + lam^2) B s / 2 + lam sqrt(B) z,  B = integral of b over the step = log alpha_bar(u - du) / alpha_bar(u)

    model  callable (x, u) -> eps_hat, u real; s = -eps_hat / sqrt(1 - alpha_bar(u))      x, z  (B, ...) float
    lam    >= 0: 1 is Anderson's reversal of the forward process, 0 the probability flow; every lam has the same marginals
    -> like x. The error of a step is of order B^2, of the walk of order B.
    Raises ValueError for times outside 0 <= u - du < u <= T, and a negative lam.
    """
    if not 0 <= u - du < u <= schedule.T:
        raise ValueError(
            f"a step from u = {u} by du = {du}; wanted 0 <= u - du < u <= {schedule.T}: backwards in time, du > 0"
        )
    if not (lam >= 0 and math.isfinite(lam)):
        raise ValueError(
            f"lam = {lam}; wanted a number >= 0: 1 for Anderson's reversal, 0 for the flow"
        )
    check_images(schedule, 1, x=x, z=z)
    now, then = alpha_bar_at(schedule, u), alpha_bar_at(schedule, u - du)
    B = float((then / now).log())
    score = -ask_at(model, x, u) / float((1 - now).sqrt())
    return x + B / 2 * (x + (1 + lam**2) * score) + lam * math.sqrt(B) * z
