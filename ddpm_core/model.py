"""What a model is, and how it is asked.

A *model* is any callable (x_t, t) -> eps_hat, with t a LongTensor (B,). A network that
predicts mu_tilde or x_0 instead becomes one by `as_eps_model`; one that is told more
than x_t and t (labels, words, an embedding, a picture) by `given`, and by `guided`,
which exaggerates what it is told. So a sampler, a loss or the bound never hears of
conditions. A model with a learned variance answers with twice the channels,
[eps_hat | v], and is read by whoever asks for variance="learned".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, overload

import torch
from torch import Generator, Tensor, nn

from .forward import check_images
from .runtime import guard
from .schedule import Schedule, at

Model = Callable[..., Tensor]

PREDICTIONS = ("eps", "mu", "x0")


def ask(
    model: Model,
    x_t: Tensor,
    t: int | Tensor,
    variance: str = "beta",
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """model(x_t, t) with t as a LongTensor (B,) -> eps_hat, v; both like x_t.

    v is None unless the variance is "learned". With labels, LongTensor (B,), the model
    is asked as given(model, labels).
    Raises ValueError for an answer of another shape: wanted that of x_t, and for a
    learned variance twice its channels, [eps_hat | v]; TypeError for a model that
    cannot be called, or whose answer is no tensor.
    """
    if not callable(model):
        raise TypeError(
            f"model is a {type(model).__name__}; wanted a callable model(x_t, t) -> "
            "eps_hat, such as UNet(...)"
        )
    if isinstance(t, int):
        t = torch.full(x_t.shape[:1], t, device=x_t.device)
    answer = model(x_t, t) if labels is None else model(x_t, t, labels)
    shape = tuple(x_t.shape)
    if not isinstance(answer, Tensor):
        raise TypeError(
            f"the model returned a {type(answer).__name__}; wanted eps_hat, a tensor "
            f"of shape {shape}"
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
        f"the model returned shape {tuple(answer.shape)} for x_t of shape {shape}; "
        f"wanted {both if variance == 'learned' else 'the same shape'}{hint}"
    )


# ---- what the network predicts


def eps_of_x0(
    schedule: Schedule, x_t: Tensor, t: int | Tensor, x0_hat: Tensor
) -> Tensor:
    """Eq. (15) solved for eps: (x_t - sqrt(alpha_bar_t) x0_hat) / sqrt(1 -
    alpha_bar_t).

    Arguments and errors as in `predict_x0`.
    """
    check_images(schedule, t, x_t=x_t, x0_hat=x0_hat)
    return (x_t - at(schedule.alpha_bar.sqrt(), t, x_t) * x0_hat) / at(
        (1 - schedule.alpha_bar).sqrt(), t, x_t
    )


def eps_of_mean(
    schedule: Schedule, x_t: Tensor, t: int | Tensor, mean: Tensor
) -> Tensor:
    """Eq. (11) solved for eps: (x_t - sqrt(alpha_t) mu) sqrt(1 - alpha_bar_t) / beta_t.

    The factor is 100 at t = 1 and 50 at t = T of the paper's schedule: so much larger
    is the rounding of eps than that of the mean. Arguments as in `reverse_mean`.
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
    """A network that predicts mu_tilde or x_0, as a model (x_t, t) -> eps_hat.

    The same guess, rewritten by Eq. (11) or (15).

    network     callable (x_t, t), or with conditions behind; with a learned variance it
                answers [prediction | v], and v is passed on as it is
    prediction  "eps": the network is returned as it is. "mu": it answers mu_theta(x_t,
                t). "x0": it answers x0_hat
    -> an nn.Module around it, which can be trained, sampled, saved and loaded like the
       network itself
    Raises ValueError for an unknown prediction.
    """
    guard.one_of("prediction", prediction, PREDICTIONS)
    return network if prediction == "eps" else EpsModel(network, schedule, prediction)


class EpsModel(nn.Module):
    """What as_eps_model returns: `network` inside, eps_hat outside."""

    def __init__(self, network: Model, schedule: Schedule, prediction: str):
        super().__init__()
        self.network, self.schedule, self.prediction = network, schedule, prediction
        self.config: dict[str, Any] = getattr(network, "config", {})
        self.classes: int | None = getattr(network, "classes", None)

    def forward(
        self,
        x_t: Tensor,
        t: int | Tensor,
        y: Tensor | None = None,
        **named: Tensor | None,
    ) -> Tensor:
        answer = self.network(x_t, t, *(() if y is None else (y,)), **named)
        channels = x_t.shape[1] if answer.ndim > 1 else len(answer)
        guess, v = answer[:, :channels], answer[:, channels:]
        eps_of = eps_of_mean if self.prediction == "mu" else eps_of_x0
        eps_hat = eps_of(self.schedule, x_t, t, guess)
        return (
            torch.cat([eps_hat, v.to(eps_hat.dtype)], dim=1) if v.shape[1] else eps_hat
        )


# ---- what the network is told


class Given(nn.Module):
    """What `given` returns: the network inside, its conditions bound."""

    def __init__(
        self, network: Model, conditions: Sequence[Any], named: Mapping[str, Any]
    ):
        super().__init__()
        self.network, self.conditions, self.named = network, conditions, named

    def forward(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        answer: Tensor = self.network(x_t, t, *self.conditions, **self.named)
        return answer

    def around(self, network: Model, device: torch.device | None = None) -> Given:
        """The same conditions, moved to that device, for another network."""

        def there(value: Any) -> Any:
            move = isinstance(value, Tensor) and device is not None
            return value.to(device) if move else value

        named = {name: there(value) for name, value in self.named.items()}
        return Given(network, [there(value) for value in self.conditions], named)


def given(model: Model, *conditions: Any, **named: Any) -> Model:
    """A network with conditions as a plain model: (x_t, t) -> model(x_t, t,
    *conditions).

    conditions, named  whatever the network takes behind t. A UNet: labels y, LongTensor
                       (B,), or by name condition=, context=, mask=, pooled=; one that
                       is None is left out
    -> a model of as many images as there are labels, tokens or pictures; every sampler,
       loss and bound takes it
    Raises TypeError for a model that cannot be called; what does not fit, the network
    refuses when it is asked.

    given(unet, torch.tensor([0, 3, 7]))             three classes
    given(unet, context=tokens, mask=words)          (B, K, C) tokens of a text
    given(given(unet, context=tokens), labels)       one after the other
    """
    if not callable(model):
        raise TypeError(
            f"model is a {type(model).__name__}; wanted a callable model(x_t, t, ...), "
            "such as UNet(...)"
        )
    while conditions and conditions[-1] is None:
        conditions = conditions[:-1]
    named = {name: value for name, value in named.items() if value is not None}
    if isinstance(model, Given):
        conditions = (*model.conditions, *conditions)
        named = {**model.named, **named}
        model = model.network
    return Given(model, conditions, named) if conditions or named else model


class Guided(nn.Module):
    """What `guided` returns: two models, of which the first is exaggerated."""

    def __init__(self, informed: Model, free: Model, w: float | Tensor):
        super().__init__()
        self.informed, self.free, self.w = informed, free, w

    def forward(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        informed, free, w = self.informed(x_t, t), self.free(x_t, t), self.w
        if isinstance(w, Tensor):
            w = w.to(x_t).reshape(-1, *[1] * (x_t.ndim - 1))
        if informed.shape == x_t.shape:
            return (1 + w) * informed - w * free
        channels = x_t.shape[1]
        eps = (1 + w) * informed[:, :channels] - w * free[:, :channels]
        return torch.cat([eps, informed[:, channels:]], dim=1)


def guided(
    model: Model, w: float | Tensor, *conditions: Any, null: Any = None, **named: Any
) -> Model:
    """(1 + w) eps(x_t, t, conditions) - w eps(x_t, t, null): guidance without a
    classifier.

    Ho and Salimans 2022, their 6; the scale s = 1 + w of other papers is 1 for w = 0,
    where this is `given`. A learned v stays that of the conditions. Not
    ddpm_core.after.guided, which takes s, behind its conditions, or a gradient:
    guided(unet, 2.0, labels) is after.guided(unet, labels, None, 3.0).

    w           a number, or one for each image, (B,)
    conditions, named  as in `given`
    null        what stands for "no condition": None, the network without any; a tensor
                or a tuple of them, or a dict by name, such as the words that are not
                wanted; or another model, such as given(unet, condition=picture)
    -> a model; each of its answers costs two of the network's
    Raises TypeError for a w that is no finite number.

    guided(unet, 2.0, labels)                               towards classes
    guided(unet, 2.0, context=tokens, mask=words)           towards a text
    guided(unet, 2.0, context=tokens, null=dict(context=other))   and away from another
    """
    if not guard.is_number(w) and not (
        isinstance(w, Tensor) and w.ndim <= 1 and w.is_floating_point()
    ):
        raise TypeError(
            f"guidance = {w!r}; wanted a finite number, 0 for none, or floats (B,), "
            "one for each image"
        )
    informed = given(model, *conditions, **named)
    if not isinstance(w, Tensor) and w == 0:
        return informed
    if null is None:
        free = model
    elif isinstance(null, Mapping):
        free = given(model, **null)
    elif isinstance(null, (tuple, list)):
        free = given(model, *null)
    else:
        free = given(model, null) if isinstance(null, Tensor) else given(null)
    return Guided(informed, free, w)


def around(
    model: Model, change: Callable[[Model], Model], device: torch.device | None = None
) -> Model:
    """The model with every network in it changed, under the same conditions.

    change  a function of a network; it is asked once for each. What is told to it is
            moved to `device` on the way, once instead of at every step
    """
    done: dict[int, Model] = {}

    def walk(part: Model) -> Model:
        if isinstance(part, Given):
            return part.around(walk(part.network), device)
        if isinstance(part, Guided):
            return Guided(walk(part.informed), walk(part.free), part.w)
        if id(part) not in done:
            done[id(part)] = change(part)
        return done[id(part)]

    return walk(model)


def learns_variance(model: Model) -> bool:
    """Whether the network says, in its config, that it answers [eps_hat | v]."""
    while isinstance(model, (Given, Guided, EpsModel)):
        model = model.informed if isinstance(model, Guided) else model.network
    return bool(getattr(model, "config", {}).get("learn_variance"))


# ---- where it is, and in which mode


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """A Module and all its parts in eval mode inside; afterwards each as before."""
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


# ---- randomness


def fresh_generator(device: torch.device) -> Generator:
    """A generator with a new seed: on a CUDA device, which spares the noise its way
    from the processor; else on the processor."""
    generator = Generator(device if device.type == "cuda" else "cpu")
    generator.seed()
    return generator


def draw_from(
    kind: Callable[..., Tensor],
    shape: Sequence[int],
    generator: Generator | Sequence[Generator],
    **how: Any,
) -> Tensor:
    """kind(shape), such as torch.randn, from one generator, or image by image from a
    list of them; on the generators' device."""
    if isinstance(generator, Generator):
        return kind(shape, generator=generator, device=generator.device, **how)
    return torch.stack(
        [kind(shape[1:], generator=one, device=one.device, **how) for one in generator]
    )


draw = draw_from  # its name until 0.1.0, which evaluation.draw has, too


def check_randomness(
    generator: Generator | Sequence[Generator] | None, labels: Tensor | None, batch: int
) -> None:
    """Raise unless there is one generator (or none), or one for each image; and one
    label for each image, or none at all."""
    guard.generators(generator, batch)
    guard.labels(labels, batch)
