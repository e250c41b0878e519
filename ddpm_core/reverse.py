"""p_theta, the reverse process: Eqs. (1), (11) and (15).

A *reverse* is any callable (x_t, t) -> (mean, var) that describes p_theta(x_{t-1} | x_t) = N(mean, var I); `reverse_process` makes
one from a noise predictor, and the exact chains of exact.py are others. What is written for a reverse serves them all.

A *model* answers with eps_hat. A network that predicts mu_tilde or x_0 instead becomes a model by `as_eps_model`. A model with a
learned variance answers with twice the channels, [eps_hat | v], and is read by whoever asks for variance="learned".
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Generator, Tensor, nn

from .forward import check_images, q_posterior
from .gaussian import log_density
from .schedule import Schedule, at

Reverse = Callable[[Tensor, int], tuple[Tensor, Tensor]]
Model = Callable[..., Tensor]

PREDICTIONS = ("eps", "mu", "x0")
VARIANCES = ("beta", "beta_tilde", "learned")


def log_joint(reverse: Reverse, x: Tensor) -> Tensor:
    """Eq. (1): log p_theta(x_{0:T}) = log p(x_T) + sum_t log p_theta(x_{t-1} | x_t), with p(x_T) = N(0, I).

    reverse  callable (x_t, t) -> mean, var        x  (T + 1, B, ...) float, trajectories x_0, x_1, ..., x_T
    -> (B,), nats: a log density with respect to all T + 1 variables
    """
    total = log_density(x[-1], 0.0, 1.0)
    for t in range(1, len(x)):
        mean, var = reverse(x[t], t)
        total = total + log_density(x[t - 1], mean, var)
    return total.flatten(1).sum(1)


def predict_x0(schedule: Schedule, x_t: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
    """Eq. (15): x0_hat = (x_t - sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_bar_t), that is Eq. (4) solved for x_0. Not clipped.

    x_t  (B, ...) float      t  int or LongTensor (B,) in 1..T      eps  like x_t, the model's guess      ->  like x_t
    Near t = T the division magnifies an error in eps by 1 / sqrt(alpha_bar_T), about 158 for the paper's schedule.
    Raises TypeError or ValueError for a t outside 1..T, for integers where floats are wanted, for NaN, and for shapes that do not fit.
    """
    check_images(schedule, t, x_t=x_t, eps=eps)
    return (x_t - at((1 - schedule.alpha_bar).sqrt(), t, x_t) * eps) / at(
        schedule.alpha_bar.sqrt(), t, x_t
    )


def reverse_mean(
    schedule: Schedule, x_t: Tensor, t: int | Tensor, eps: Tensor
) -> Tensor:
    """Eq. (11): mu_theta(x_t, t) = (x_t - beta_t / sqrt(1 - alpha_bar_t) eps) / sqrt(alpha_t).

    x_t  (B, ...) float      t  int or LongTensor (B,) in 1..T      eps  like x_t, the model's guess      ->  like x_t
    The same as q_posterior's mean at x_0 = predict_x0(...); Algorithm 2, line 4, before the noise is added.
    Raises TypeError or ValueError for a t outside 1..T, for integers where floats are wanted, for NaN, and for shapes that do not fit.
    """
    check_images(schedule, t, x_t=x_t, eps=eps)
    weight = schedule.beta / (1 - schedule.alpha_bar).sqrt()
    return (x_t - at(weight, t, x_t) * eps) / at(schedule.alpha.sqrt(), t, x_t)


def reverse_variance(schedule: Schedule, variance: str = "beta") -> Tensor:
    """sigma_t^2 of p_theta for t = 0..T, float64: "beta" or "beta_tilde", the two choices of section 3.2.

    With "learned" (Table 2) sigma_t^2 = beta_t exp(v), elementwise, where v is the second half of the model's answer; returned is
    the factor before exp(v), the same as for "beta". The paper does not say how it parameterised a learned variance. This way
    log sigma_t^2 = log beta_t + v starts at the fixed choice, since the last layer of the network starts at zero.

    Departure: beta_tilde_1 = 0 would make L_0 infinite, so at t = 1 every choice starts from beta_tilde_2, as in the official code
    (beta_1 where T = 1). Sampling never meets that entry: it adds no noise at t = 1.
    """
    if variance not in VARIANCES:
        raise ValueError(
            f'variance = {variance!r}; wanted "beta", "beta_tilde" or "learned"'
        )
    var = (schedule.beta_tilde if variance == "beta_tilde" else schedule.beta).clone()
    var[1] = schedule.beta_tilde[2] if schedule.T > 1 else schedule.beta[1]
    return var


def ask(
    model: Model,
    x_t: Tensor,
    t: int | Tensor,
    variance: str = "beta",
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """model(x_t, t) with t as a LongTensor (B,) -> eps_hat, and v if the variance is "learned", else None; both like x_t.

    With labels, LongTensor (B,), it is model(x_t, t, labels).
    Raises ValueError for an answer of another shape: wanted that of x_t, and for a learned variance twice its channels, [eps_hat | v];
    TypeError for a model that cannot be called, or whose answer is no tensor.
    """
    if not callable(model):
        raise TypeError(
            f"model is a {type(model).__name__}; wanted a callable model(x_t, t) -> eps_hat, such as UNet(...)"
        )
    t = torch.full(x_t.shape[:1], t, device=x_t.device) if isinstance(t, int) else t
    answer, shape = (
        model(x_t, t) if labels is None else model(x_t, t, labels),
        tuple(x_t.shape),
    )
    if not isinstance(answer, Tensor):
        raise TypeError(
            f"the model returned a {type(answer).__name__}; wanted eps_hat, a tensor of shape {shape}"
        )
    both = (shape[0], 2 * shape[1], *shape[2:]) if len(shape) > 1 else shape
    if variance != "learned" and answer.shape == shape:
        return answer, None
    if variance == "learned" and answer.shape == both:
        eps_hat, v = answer.chunk(2, dim=1)
        return eps_hat, v.to(x_t.dtype)
    hint = ""
    if answer.shape == both != shape:
        hint = (
            ', or pass variance="learned" for a network that also predicts its variance'
        )
    elif answer.shape == shape:
        hint = ', as UNet(learn_variance=True) gives it, or variance="beta"'
    raise ValueError(
        f"the model returned shape {tuple(answer.shape)} for x_t of shape {shape}; wanted "
        f"{both if variance == 'learned' else 'the same shape'}{hint}"
    )


def eps_of_x0(
    schedule: Schedule, x_t: Tensor, t: int | Tensor, x0_hat: Tensor
) -> Tensor:
    """Eq. (15) solved for eps: (x_t - sqrt(alpha_bar_t) x0_hat) / sqrt(1 - alpha_bar_t). Arguments and errors as `predict_x0`."""
    check_images(schedule, t, x_t=x_t, x0_hat=x0_hat)
    return (x_t - at(schedule.alpha_bar.sqrt(), t, x_t) * x0_hat) / at(
        (1 - schedule.alpha_bar).sqrt(), t, x_t
    )


def eps_of_mean(
    schedule: Schedule, x_t: Tensor, t: int | Tensor, mean: Tensor
) -> Tensor:
    """Eq. (11) solved for eps: (x_t - sqrt(alpha_t) mu_theta) sqrt(1 - alpha_bar_t) / beta_t. Arguments and errors as `reverse_mean`.

    The factor is 100 at t = 1 and 50 at t = T of the paper's schedule: so much larger is the rounding of eps than that of the mean.
    """
    check_images(schedule, t, x_t=x_t, mean=mean)
    weight = (1 - schedule.alpha_bar).sqrt() / schedule.beta
    return (x_t - at(schedule.alpha.sqrt(), t, x_t) * mean) * at(weight, t, x_t)


@overload
def as_eps_model(
    network: nn.Module, schedule: Schedule, prediction: str = "eps"
) -> nn.Module: ...
@overload
def as_eps_model(
    network: Model, schedule: Schedule, prediction: str = "eps"
) -> Model: ...
def as_eps_model(network: Model, schedule: Schedule, prediction: str = "eps") -> Model:
    """A network that predicts mu_tilde or x_0, as a model (x_t, t) -> eps_hat: the same guess, rewritten by Eq. (11) or (15).

    network     callable (x_t, t) or (x_t, t, y); with a learned variance it answers [prediction | v], and v is passed on as it is
    prediction  "eps": the network is returned as it is. "mu": it answers mu_theta(x_t, t). "x0": it answers x0_hat
    -> an nn.Module around it, which can be trained, sampled, saved and loaded like the network itself
    Raises ValueError for an unknown prediction.
    """
    if prediction not in PREDICTIONS:
        raise ValueError(f'prediction = {prediction!r}; wanted "eps", "mu" or "x0"')
    return network if prediction == "eps" else EpsModel(network, schedule, prediction)


class EpsModel(nn.Module):
    """What as_eps_model returns: `network` inside, eps_hat outside."""

    def __init__(self, network: Model, schedule: Schedule, prediction: str):
        super().__init__()
        self.network, self.schedule, self.prediction = network, schedule, prediction
        self.config: dict[str, Any] = getattr(network, "config", {})
        self.classes: int | None = getattr(network, "classes", None)

    def forward(self, x_t: Tensor, t: int | Tensor, y: Tensor | None = None) -> Tensor:
        answer = self.network(x_t, t) if y is None else self.network(x_t, t, y)
        channels = x_t.shape[1] if answer.ndim > 1 else len(answer)
        guess, v = answer[:, :channels], answer[:, channels:]
        eps_of = eps_of_mean if self.prediction == "mu" else eps_of_x0
        eps_hat = eps_of(self.schedule, x_t, t, guess)
        return (
            torch.cat([eps_hat, v.to(eps_hat.dtype)], dim=1) if v.shape[1] else eps_hat
        )


def reverse_process(
    model: Model, schedule: Schedule, variance: str = "beta", clip_x0: bool = False
) -> Reverse:
    """p_theta(x_{t-1} | x_t) = N(mu_theta(x_t, t), sigma_t^2 I) of a noise predictor, as a callable (x_t, t) -> mean, var.

    model  callable (x_t, t) -> eps_hat     variance, clip_x0  as in `sample`; without clipping the mean is Eq. (11)
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


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """A Module and all its parts in eval mode inside; afterwards each part in its own mode from before."""
    modes = (
        [(part, part.training) for part in model.modules()]
        if isinstance(model, nn.Module)
        else []
    )
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def device_of(model: Model) -> torch.device | None:
    """Where the model's parameters are; None if it has none."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return None if parameter is None else parameter.device


def fresh_generator(device: torch.device) -> Generator:
    """A generator with a new seed: on a CUDA device, which spares the noise its way from the processor; else on the processor."""
    generator = Generator(device if device.type == "cuda" else "cpu")
    generator.seed()
    return generator


def draw(
    kind: Callable[..., Tensor],
    shape: Sequence[int],
    generator: Generator | Sequence[Generator],
    **how: Any,
) -> Tensor:
    """kind(shape), such as torch.randn, from one generator, or image by image from a list of them; on the generators' device."""
    if isinstance(generator, Generator):
        return kind(shape, generator=generator, device=generator.device, **how)
    return torch.stack(
        [kind(shape[1:], generator=one, device=one.device, **how) for one in generator]
    )


def check_randomness(
    generator: Generator | Sequence[Generator] | None, labels: Tensor | None, batch: int
) -> None:
    """Raise unless there is one generator (or none), or one for each image; and one label for each image, or none at all."""
    if generator is not None and not isinstance(generator, Generator):
        if not isinstance(generator, (list, tuple)) or not all(
            isinstance(one, Generator) for one in generator
        ):
            raise TypeError(
                f"generator = {generator!r}; wanted a torch.Generator, such as torch.Generator().manual_seed(0), or a list of them"
            )
        if len(generator) != batch:
            raise ValueError(
                f"{len(generator)} generators for {batch} images; wanted one, or one for each image"
            )
    if labels is not None and not isinstance(labels, Tensor):
        raise TypeError(
            f"labels are a {type(labels).__name__}; wanted a LongTensor ({batch},), such as torch.tensor([0, 1])"
        )
    if labels is not None and (labels.dtype != torch.int64 or labels.shape != (batch,)):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}; wanted a LongTensor ({batch},)"
        )
