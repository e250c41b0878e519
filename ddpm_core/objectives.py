"""What training minimises: the choices of Table 2.

An objective is a function (model, schedule, x0, t, eps) -> (B,), one loss an image;
`train(..., objective=...)` takes its mean. The default is `eps_error`, whose mean is
Eq. (14), `simple_loss`. What the *network* predicts is another choice, independent of
it: `as_eps_model(network, schedule, "mu")` or "x0" makes a model of the network, and
every objective takes models. Table 2 pairs each prediction with its own squared error,
or with the bound; `choose_objective` knows the pairs.

Another objective is a dozen lines. This is Eq. (14) with the weight min(SNR, 5) / SNR
of Hang et al. (2023), which takes the accent off small t, where SNR = alpha_bar_t / (1
- alpha_bar_t) is large:

    import ddpm_core as ddpm
    from ddpm_core.schedule import at

    def min_snr(model, schedule, x0, t, eps):
        snr = schedule.alpha_bar / (1 - schedule.alpha_bar)
        weight = at(snr.clamp(max=5) / snr, t, x0)
        eps_hat = model(ddpm.q_sample(schedule, x0, t, eps), t)
        return (weight * (eps - eps_hat) ** 2).flatten(1).mean(1)

    ddpm.train(unet, schedule, images, steps=1000, objective=min_snr)
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from .bound import bound_term
from .forward import q_posterior, q_sample
from .model import PREDICTIONS, Model, ask
from .reverse import predict_x0, reverse_mean, reverse_variance
from .runtime import guard
from .schedule import Schedule, at

Objective = Callable[[Model, Schedule, Tensor, Tensor, Tensor], Tensor]


def eps_error(
    model: Model, schedule: Schedule, x0: Tensor, t: int | Tensor, eps: Tensor
) -> Tensor:
    """|| eps - eps_theta(sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps, t) ||^2 /
    D, image by image.

    Its mean is Eq. (14). Arguments, result and errors as in `mu_error`.
    """
    eps_hat, _ = ask(model, q_sample(schedule, x0, t, eps), t)
    return (eps - eps_hat).square().flatten(1).mean(1)


def mu_error(
    model: Model, schedule: Schedule, x0: Tensor, t: int | Tensor, eps: Tensor
) -> Tensor:
    """|| mu_tilde_t(x_t, x_0) - mu_theta(x_t, t) ||^2 / D: Eq. (8) without its weight.
    (Table 2)

    model   callable (x_t, t) -> eps_hat
    x0   (B, ...) float, images in [-1, 1], D numbers each
    t       int or LongTensor (B,) in 1..T     eps  like x0, standard normal
                                               ->  (B,)
    Raises TypeError or ValueError for a t outside 1..T, for shapes that do not fit, and
    for a model that returns another shape.
    """
    x_t = q_sample(schedule, x0, t, eps)
    mu_tilde, _ = q_posterior(schedule, x0, x_t, t)
    eps_hat, _ = ask(model, x_t, t)
    return (
        (mu_tilde - reverse_mean(schedule, x_t, t, eps_hat)).square().flatten(1).mean(1)
    )


def x0_error(
    model: Model, schedule: Schedule, x0: Tensor, t: int | Tensor, eps: Tensor
) -> Tensor:
    """|| x_0 - x0_hat ||^2 / D, with x0_hat of Eq. (15): the images themselves
    predicted. (Section 3.2)

    Arguments, result and errors as in `mu_error`.
    """
    x_t = q_sample(schedule, x0, t, eps)
    eps_hat, _ = ask(model, x_t, t)
    return (x0 - predict_x0(schedule, x_t, t, eps_hat)).square().flatten(1).mean(1)


def bound_loss(
    model: Model,
    schedule: Schedule,
    x0: Tensor,
    t: int | Tensor,
    eps: Tensor,
    variance: str = "beta",
) -> Tensor:
    """T L_{t-1} / D: the bound L of Eq. (5), estimated from its one term at t; nats per
    dimension, nothing clipped.

    Averaged over t = 1..T it is L without L_T, which no weight of the network changes;
    L_0 is that of Eq. (13), so x0 must lie on the 8-bit grid where t = 1. In bits:
    (this / log 2, averaged over t) + L_T = bits_per_dim(...).total.

    variance  "beta", "beta_tilde", or "learned": the model answers [eps_hat | v],
              sigma_t^2 = beta_t exp(v), see `reverse_variance`
    Other arguments, result and errors as in `mu_error`; ValueError for x0 off the grid
    or an unknown variance.
    """
    sigma2 = reverse_variance(schedule, variance)
    x_t = q_sample(schedule, x0, t, eps)
    eps_hat, v = ask(model, x_t, t, variance)
    var = at(sigma2, t, x0) if v is None else at(sigma2, t, x0) * v.exp()
    term = bound_term(
        schedule, x0, x_t, t, reverse_mean(schedule, x_t, t, eps_hat), var
    )
    return schedule.T * term.flatten(1).mean(1)


def simple_loss(
    model: Model, schedule: Schedule, x0: Tensor, t: int | Tensor, eps: Tensor
) -> Tensor:
    """Eq. (14): L_simple = E || eps - eps_theta(sqrt(alpha_bar_t) x_0 + sqrt(1 -
    alpha_bar_t) eps, t) ||^2.

    model  callable (x_t, t) -> eps_hat       x0   (B, ...) float, images in [-1, 1]
    t      int or LongTensor (B,) in 1..T     eps  like x0, standard normal
    -> a scalar: the mean over images *and* pixels, so that it is 1 for a model that
    always answers 0. (Section 3.4)
    Raises TypeError or ValueError for a t outside 1..T, for shapes that do not fit, and
    for a model that returns another shape.
    """
    return eps_error(model, schedule, x0, t, eps).mean()


def choose_objective(
    prediction: str = "eps", objective: str = "simple", variance: str = "beta"
) -> Objective:
    """The objective of Table 2 with these names, for `train(as_eps_model(network,
    schedule, prediction), ..., objective=...)`.

    prediction  what the network predicts: "eps", "mu" or "x0"
    objective   "simple": the squared error of that, unweighted; Eq. (14) for eps.
                "bound": L
    variance    of the bound: "beta", "beta_tilde" or "learned". A squared error would
                not train a variance
    Raises ValueError for unknown names, and for a learned variance without the bound.
    """
    guard.one_of("prediction", prediction, PREDICTIONS)
    if objective == "bound":
        return partial(bound_loss, variance=variance)
    if objective != "simple":
        raise ValueError(f'objective = {objective!r}; wanted "simple" or "bound"')
    if variance == "learned":
        raise ValueError(
            'a squared error does not train a variance; wanted objective "bound" with'
            ' variance "learned"'
        )
    return {"eps": eps_error, "mu": mu_error, "x0": x0_error}[prediction]
