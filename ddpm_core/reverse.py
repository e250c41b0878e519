"""p_theta, the reverse process: Eqs. (1), (11) and (15).

A *reverse* is any callable (x_t, t) -> (mean, var) that describes p_theta(x_{t-1} |
x_t) = N(mean, var I); `reverse_process` makes one from a noise predictor, and the exact
chains of exact.py are others. What is written for a reverse serves them all.
"""

from collections.abc import Callable

from torch import Tensor

from .forward import check_images, q_posterior
from .gaussian import log_density
from .model import PREDICTIONS as PREDICTIONS
from .model import EpsModel as EpsModel
from .model import Model as Model
from .model import as_eps_model as as_eps_model
from .model import ask as ask
from .model import check_randomness as check_randomness
from .model import device_of as device_of
from .model import draw as draw
from .model import eps_of_mean as eps_of_mean
from .model import eps_of_x0 as eps_of_x0
from .model import evaluating as evaluating
from .model import fresh_generator as fresh_generator
from .runtime import guard
from .schedule import Schedule, at

Reverse = Callable[[Tensor, int], tuple[Tensor, Tensor]]

VARIANCES = ("beta", "beta_tilde", "learned")


def log_joint(reverse: Reverse, x: Tensor) -> Tensor:
    """Eq. (1): log p_theta(x_{0:T}) = log p(x_T) + sum_t log p_theta(x_{t-1} | x_t),
    with p(x_T) = N(0, I).

    reverse  callable (x_t, t) -> mean, var
    x  (T + 1, B, ...) float, trajectories x_0, x_1, ..., x_T
    -> (B,), nats: a log density with respect to all T + 1 variables
    """
    total = log_density(x[-1], 0.0, 1.0)
    for t in range(1, len(x)):
        mean, var = reverse(x[t], t)
        total = total + log_density(x[t - 1], mean, var)
    return total.flatten(1).sum(1)


def predict_x0(schedule: Schedule, x_t: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
    """Eq. (15): x0_hat = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t), that is
    Eq. (4) solved for x_0. Not clipped.

    x_t  (B, ...) float
    t  int or LongTensor (B,) in 1..T
    eps  like x_t, the model's guess
    ->  like x_t
    Near t = T the division magnifies an error in eps by 1 / sqrt(alpha_bar_T), about
    158 for the paper's schedule.
    Raises TypeError or ValueError for a t outside 1..T, for integers where floats are
    wanted, for NaN, and for shapes that do not fit.
    """
    check_images(schedule, t, x_t=x_t, eps=eps)
    return (x_t - at((1 - schedule.alpha_bar).sqrt(), t, x_t) * eps) / at(
        schedule.alpha_bar.sqrt(), t, x_t
    )


def reverse_mean(
    schedule: Schedule, x_t: Tensor, t: int | Tensor, eps: Tensor
) -> Tensor:
    """Eq. (11): mu_theta(x_t, t) = (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) /
    sqrt(alpha_t).

    x_t  (B, ...) float
    t  int or LongTensor (B,) in 1..T
    eps  like x_t, the model's guess
    ->  like x_t
    The same as q_posterior's mean at x_0 = predict_x0(...); Algorithm 2, line 4, before
    the noise is added.
    Raises TypeError or ValueError for a t outside 1..T, for integers where floats are
    wanted, for NaN, and for shapes that do not fit.
    """
    check_images(schedule, t, x_t=x_t, eps=eps)
    weight = schedule.beta / (1 - schedule.alpha_bar).sqrt()
    return (x_t - at(weight, t, x_t) * eps) / at(schedule.alpha.sqrt(), t, x_t)


def reverse_variance(schedule: Schedule, variance: str = "beta") -> Tensor:
    """sigma_t^2 of p_theta for t = 0..T, float64: "beta" or "beta_tilde", the two
    choices of section 3.2.

    With "learned" (Table 2) sigma_t^2 = beta_t exp(v), elementwise, where v is the
    second half of the model's answer; returned is the factor before exp(v), the same as
    for "beta". The paper does not say how it parameterised a learned variance. This way
    log sigma_t^2 = log beta_t + v starts at the fixed choice, since the last layer of
    the network starts at zero.

    Departure: beta_tilde_1 = 0 would make L_0 infinite, so at t = 1 every choice starts
    from beta_tilde_2, as in the official code (beta_1 where T = 1). Sampling never
    meets that entry: it adds no noise at t = 1.
    """
    guard.one_of("variance", variance, VARIANCES)
    var = (schedule.beta_tilde if variance == "beta_tilde" else schedule.beta).clone()
    var[1] = schedule.beta_tilde[2] if schedule.T > 1 else schedule.beta[1]
    return var


def reverse_process(
    model: Model, schedule: Schedule, variance: str = "beta", clip_x0: bool = False
) -> Reverse:
    """p_theta(x_{t-1} | x_t) = N(mu_theta(x_t, t), sigma_t^2 I) of a noise predictor,
    as a callable (x_t, t) -> mean, var.

    model  callable (x_t, t) -> eps_hat
    variance, clip_x0  as in `sample`; without clipping the mean is Eq. (11)
    """
    sigma2 = reverse_variance(schedule, variance)

    def reverse(x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        eps_hat, v = ask(model, x_t, t, variance)
        if clip_x0:
            mean, _ = q_posterior(
                schedule, predict_x0(schedule, x_t, t, eps_hat).clamp(-1, 1), x_t, t
            )
        else:
            mean = reverse_mean(schedule, x_t, t, eps_hat)
        return mean, at(sigma2, t, x_t) if v is None else at(sigma2, t, x_t) * v.exp()

    return reverse
