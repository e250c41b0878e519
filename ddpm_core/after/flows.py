"""The probability flow dy/dsigma = eps_hat: from pictures to noise and back without chance, and the density that it carries.

y = x / sqrt(alpha_bar), sigma = sqrt((1 - alpha_bar) / alpha_bar). Along a path d log p / dsigma = -div eps_hat. Every flow stays in
1 <= t <= T: below t = 1 no network has been trained, and what is left there is Eq. (13).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from ..bound import decoder_log_likelihood
from ..forward import check_images, q_sample
from ..gaussian import log_density
from ..reverse import (
    Model,
    check_randomness,
    device_of,
    draw,
    evaluating,
    fresh_generator,
    reverse_process,
)
from ..schedule import Schedule, alpha_bar_at, send
from .sde import ask_at, time_of

Field = Callable[[Tensor], Tensor]


def divergence(field: Field, x: Tensor, probe: Tensor | None = None) -> Tensor:
    """div f(x) = tr df/dx exactly, or v^T (df/dx) v for a probe v, whose mean is the trace if E v v^T = I (Hutchinson).

    field  callable (B, ...) -> (B, ...), each row of its own      x  (B, ...) float
    probe  None: exact, D backward passes for D numbers a row. Like x: one pass; signs +-1 scatter least
    -> (B,), with a gradient where gradients are on. Raises ValueError for a probe of another shape or of the wrong law.
    """
    return value_and_divergence(field, x, probe)[1]


def value_and_divergence(
    field: Field, x: Tensor, probe: Tensor | None = None, any_law: bool = False
) -> tuple[Tensor, Tensor]:
    """f(x) and div f(x) from one evaluation; arguments and errors as in `divergence`. any_law: v^T (df/dx) v for whatever v."""
    if probe is not None and not any_law:
        check_probe(probe, x)
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if keep and x.requires_grad else x.detach().requires_grad_()
        value = field(x)
        if value.shape != x.shape:
            raise ValueError(
                f"the field returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}; wanted the same"
            )
        rows = value.flatten(1)

        def pull(v: Tensor, last: bool) -> Tensor:  # v^T df/dx, row by row
            if not rows.requires_grad:  # a constant field
                return torch.zeros_like(rows)
            (back,) = torch.autograd.grad(
                (rows * v).sum(),
                x,
                create_graph=keep,
                retain_graph=keep or not last,
                materialize_grads=True,
            )
            return back.flatten(1)

        if probe is not None:
            v = probe.flatten(1)
            div = (pull(v, True) * v).sum(1)
        else:
            D = rows.shape[1]
            div = torch.zeros_like(rows[:, 0])
            for i in range(D):
                unit = torch.zeros_like(rows)
                unit[:, i] = 1
                div = div + pull(unit, i == D - 1)[:, i]
    return (value, div) if keep else (value.detach(), div.detach())


def check_probe(probe: Tensor, x: Tensor) -> None:
    """Raise unless the probe has the shape of x and its entries have mean square 1, as E v v^T = I asks, within 6 standard errors."""
    if probe.shape != x.shape:
        raise ValueError(
            f"the probe has shape {tuple(probe.shape)}; wanted that of x, {tuple(x.shape)}"
        )
    square = float(probe.detach().double().square().mean())
    if not abs(square - 1) <= 6 * math.sqrt(2 / probe.numel()):
        raise ValueError(
            f"the probe's entries have mean square {square:.3g}; wanted E v v^T = I, such as signs +-1: unit-length v, "
            "for one, gives the trace over D"
        )


def signs(x: Tensor, generator: Generator | Sequence[Generator]) -> Tensor:
    """A probe like x of independent signs +-1, the law with E v v^T = I whose v^T A v scatters least."""
    coin = draw(torch.rand, x.shape, generator) < 0.5
    return send(torch.where(coin, -1.0, 1.0), x.device).to(x)


def _check_times(schedule: Schedule, t_from: float, t_to: float, steps: int) -> None:
    if not all(1 <= t <= schedule.T for t in (t_from, t_to)) or t_from == t_to:
        raise ValueError(
            f"a flow from t = {t_from} to t = {t_to}; wanted two different times in 1..{schedule.T}: below t = 1 no network is trained"
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps = {steps!r}; wanted a whole number, at least 1")


def _sigma(schedule: Schedule, t: float) -> float:
    alpha_bar = alpha_bar_at(schedule, t)
    return float(((1 - alpha_bar) / alpha_bar).sqrt())


def rk4(
    rate: Callable[[Tensor, float], Tensor], y: Tensor, s: float, h: float
) -> Tensor:
    """One step of the classical Runge-Kutta method for dy/ds = rate(y, s), from s to s + h; its error is of order h^5."""
    k1 = rate(y, s)
    k2 = rate(y + h / 2 * k1, s + h / 2)
    k3 = rate(y + h / 2 * k2, s + h / 2)
    k4 = rate(y + h * k3, s + h)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@torch.no_grad()
def _solve(
    model: Model,
    schedule: Schedule,
    x: Tensor,
    t_from: float,
    t_to: float,
    steps: int,
    density: bool,
    probe: Tensor | None = None,
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yields (t, x_t, integral of div eps_hat dsigma since t_from (B,)); without `density` the last stays 0."""
    start, end = (math.log(_sigma(schedule, t)) for t in (t_from, t_to))
    h = (end - start) / steps

    def time(s: float) -> float:
        # exactly at both ends, so that a network is asked there for a whole time
        for t, at in ((t_from, start), (t_to, end)):
            if abs(s - at) < 1e-9:
                return t
        return float(time_of(schedule, math.exp(s)))

    def signal(s: float) -> float:
        return 1 / math.sqrt(1 + math.exp(2 * s))  # sqrt(alpha_bar)

    def rate(state: Tensor, s: float) -> Tensor:  # d(y, integral) / d log sigma
        y = state[:, :-1].reshape(x.shape)

        def eps_hat(y: Tensor) -> Tensor:
            return ask_at(model, signal(s) * y, time(s))

        if density:
            value, div = value_and_divergence(eps_hat, y, probe)
        else:
            value, div = eps_hat(y), state.new_zeros(len(x))
        return math.exp(s) * torch.cat([value.flatten(1), div[:, None]], 1)

    state = torch.cat([x.flatten(1) / signal(start), x.new_zeros(len(x), 1)], 1)
    yield t_from, x, state[:, -1]
    with evaluating(model):
        for i in range(steps):
            s = start + i * h
            state = rk4(rate, state, s, h)
            x_t = signal(s + h) * state[:, :-1].reshape(x.shape)
            yield time(s + h), x_t, state[:, -1]


def flow(
    model: Model,
    schedule: Schedule,
    x: Tensor,
    t_from: float,
    t_to: float,
    steps: int = 25,
) -> Iterator[tuple[float, Tensor]]:
    """The probability flow dy/dsigma = eps_hat from t_from to t_to, in either direction: RK4 with `steps` equal steps of log sigma.

    model  callable (x, u) -> eps_hat, asked at real times u, four times a step; a Module is in eval mode meanwhile
    x      (B, ...) float, x at t_from
    Yields (t, x_t) steps + 1 times, the start included; `*_, (t, x_t) = flow(...)` is the end. Upwards it encodes, downwards it decodes.
    Raises ValueError for times outside 1..T, or the same time twice; a picture is x_1 denoised once more by Eq. (15).
    """
    _check_times(schedule, t_from, t_to, steps)
    check_images(schedule, 1, x=x)
    for t, x_t, _ in _solve(model, schedule, x, t_from, t_to, steps, density=False):
        yield t, x_t


def flow_log_density(
    model: Model,
    schedule: Schedule,
    x: Tensor,
    t: float = 1,
    steps: int = 25,
    probe: Tensor | None = None,
    prior: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """log p_t(x) of the flow that starts at p(x_T): log p_t(x) = log p(x_T) + D/2 log(alpha_bar_T / alpha_bar_t) + int div eps_hat dsigma.

    x      (B, ...) float, at time t       probe  as in `divergence`, held for the whole path
    prior  x_T (B, ...) -> (B,) log density; None: N(0, I)
    -> (B,), nats, a density of x (not of y). Raises ValueError for a t outside 1 <= t < T.
    """
    if not 1 <= t < schedule.T:
        raise ValueError(f"t = {t}; wanted 1 <= t < {schedule.T}")
    _check_times(schedule, t, schedule.T, steps)
    check_images(schedule, 1, x=x)
    path = _solve(model, schedule, x, t, schedule.T, steps, True, probe)
    *_, (_, x_T, gathered) = path
    D = x[0].numel()
    stretch = D / 2 * (schedule.alpha_bar[-1] / alpha_bar_at(schedule, t)).log()
    if prior is None:
        end = log_density(x_T, 0.0, 1.0).flatten(1).sum(1)
    else:
        end = prior(x_T)
    return end + float(stretch) + gathered


class FlowBits(NamedTuple):
    """What flow_bits_per_dim returns, each (B,); bits per dimension."""

    total: Tensor  # flow + decoder: an upper bound on -log2 p(x_0) / D
    flow: Tensor  # log q(x_1 | x_0) - log p_1(x_1)
    decoder: Tensor  # L_0 = -log p(x_0 | x_1), Eq. (13)


@torch.no_grad()
def flow_bits_per_dim(
    model: Model,
    schedule: Schedule,
    x0: Tensor,
    steps: int = 25,
    probe: Tensor | None = None,
    generator: Generator | Sequence[Generator] | None = None,
) -> FlowBits:
    """E_q(x_1 | x_0) [log q(x_1 | x_0) - log p_1(x_1) - log p(x_0 | x_1)] >= -log p(x_0): Eq. (5) with the flow for L_1 .. L_T.

    model      callable (x, u) -> eps_hat, asked at real times u, 4 steps times, each with one backward pass
    x0         (B, ...) float on the 8-bit grid in [-1, 1]
    probe      like x0, for the divergence, held for the whole path; None: one of signs is drawn for each image
    generator  of x_1's noise and of the probe; a list of one an image makes each image independent of its batch; None: a fresh seed
    L_0 is that of `bits_per_dim`: sigma_1^2 = beta_tilde_2, nothing clipped. One x_1 and one probe an image: unbiased but for RK4.
    Raises TypeError or ValueError for images off the 8-bit grid and a probe of the wrong law.
    """
    check_images(schedule, 1, x0=x0)
    check_randomness(generator, None, len(x0))
    if generator is None:
        generator = fresh_generator(device_of(model) or x0.device)
    eps = send(draw(torch.randn, x0.shape, generator), x0.device).to(x0.dtype)
    probe = signs(x0, generator) if probe is None else probe
    x_1 = q_sample(schedule, x0, 1, eps)
    with evaluating(model):
        mean, var = reverse_process(model, schedule, "beta_tilde")(x_1, 1)
    decoder = -decoder_log_likelihood(x0, mean, var.sqrt()).flatten(1).sum(1)
    sent = log_density(eps, 0.0, 1.0).flatten(1).sum(1)
    D = x0[0].numel()
    sent = sent - D / 2 * float(schedule.beta[1].log())  # log q(x_1 | x_0)
    density = flow_log_density(model, schedule, x_1, 1, steps, probe)
    scale = 1 / (D * math.log(2))
    flow_part, decoder = (sent - density) * scale, decoder * scale
    return FlowBits(flow_part + decoder, flow_part, decoder)
