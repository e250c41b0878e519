"""Guidance: a noise predictor bent towards a condition. What comes back is a plain model (x_t, t) -> eps_hat, so that every sampler,
the bound and the flow take it unchanged.

By Bayes' rule the score of q(x_t | y) is that of q(x_t) plus the gradient of log q(y | x_t); eps_hat = -sqrt(1 - alpha_bar_t) score
turns the sum into `guided`. Where the gradient comes from: a classifier that knows noise (`classifier_gradient`), or something that
was measured of the picture (`observation_gradient`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..reverse import Model, ask, predict_x0
from ..schedule import Schedule, alpha_bar_at, at

Gradient = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> grad log p(y | x_t)
Spread = float | str | Callable[[int], float]


def guided(model: Model, *how: Any) -> Model:
    """A model bent towards a condition, in one of two forms.

    guided(model, schedule, gradient)   eps_hat - sqrt(1 - alpha_bar_t) g(x_t, t), with g like grad log p(y | x_t) at x_t itself
                                        (Dhariwal and Nichol 2021, Algorithm 2). A scale belongs into the gradient
    guided(model, told, null, s)        eps_null + s (eps_told - eps_null) (Ho and Salimans 2022, Eq. (6), whose w is s - 1).
                                        told, null: what the network is told with and without the condition, as further arguments:
                                        a dict by name, such as dict(context=..., mask=...), a tensor (labels), or None for nothing.
                                        s = 0 leaves the condition out, s = 1 obeys it, s > 1 exaggerates

    Not ddpm_core.guided(model, w, *conditions), which takes the w of Ho and Salimans, as `sample(guidance=)` does: s = 1 + w, so that
    ddpm_core.guided(model, 2.0, labels) is guided(model, labels, None, 3.0) here. Each refuses the other's arguments.
    -> callable (x_t, t) -> eps_hat, like x_t
    Raises TypeError for anything else, ValueError for an s that is not finite, and, when it is asked, ValueError for a gradient or an
    answer of another shape than x_t.
    """
    if not callable(model):
        raise TypeError(
            f"model is a {type(model).__name__}; wanted a callable model(x_t, t, ...) -> eps_hat, such as UNet(...)"
        )
    if len(how) == 2 and isinstance(how[0], Schedule) and callable(how[1]):
        return _by_gradient(model, *how)
    if len(how) == 3 and isinstance(how[2], (int, float)):
        if not math.isfinite(how[2]):
            raise ValueError(f"s = {how[2]}; wanted a finite number")
        return _without_classifier(model, *how)
    raise TypeError(
        f"guided(model, {', '.join(type(part).__name__ for part in how)}); wanted guided(model, schedule, gradient) "
        "or guided(model, told, null, s) with a number s = 1 + w; guided(model, w, ...) is ddpm_core.guided"
    )


def _by_gradient(model: Model, schedule: Schedule, gradient: Gradient) -> Model:
    def bent(x_t: Tensor, t: int | Tensor) -> Tensor:
        t = torch.full(x_t.shape[:1], t, device=x_t.device) if isinstance(t, int) else t
        eps, _ = ask(model, x_t, t)
        g = gradient(x_t, t)
        if not isinstance(g, Tensor) or g.shape != x_t.shape:
            raise ValueError(
                f"the gradient has shape {tuple(getattr(g, 'shape', ()))} for x_t of shape {tuple(x_t.shape)}; wanted the same shape"
            )
        if t.is_floating_point():  # between whole times, for the flow
            noise = (1 - alpha_bar_at(schedule, t)).sqrt().to(x_t)
            return eps - noise.reshape(-1, *[1] * (x_t.ndim - 1)) * g
        return eps - at((1 - schedule.alpha_bar).sqrt(), t, x_t) * g

    return bent


def _without_classifier(model: Model, told: Any, null: Any, s: float) -> Model:
    def answer(x_t: Tensor, t: int | Tensor, what: Any) -> Tensor:
        if isinstance(what, Mapping):
            return ask(lambda x, t: model(x, t, **what), x_t, t)[0]
        return ask(model, x_t, t, labels=what)[0]

    def bent(x_t: Tensor, t: int | Tensor) -> Tensor:
        if s == 1:
            return answer(x_t, t, told)
        eps = answer(x_t, t, null)
        return eps + s * (answer(x_t, t, told) - eps) if s else eps

    return bent


def classifier_gradient(
    classifier: Callable[[Tensor, Tensor], Tensor], labels: Tensor, scale: float = 1.0
) -> Gradient:
    """scale * grad_{x_t} log p(y | x_t), for `guided`.

    classifier  (x_t, t) -> logits (B, K), such as after.classifier.NoisyClassifier; it must have seen noise
    labels      LongTensor (B,) in 0..K-1      scale  gamma: 1 is Bayes' rule with this classifier, more exaggerates
    -> callable (x_t (B, ...), t (B,)) -> like x_t
    Raises ValueError, when it is asked, for logits of another shape and labels that have no logit.
    """
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}; wanted a LongTensor (B,)"
        )

    def gradient(x_t: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            logits = classifier(x, t)
            if (
                not isinstance(logits, Tensor)
                or logits.ndim != 2
                or len(logits) != len(x_t)
            ):
                raise ValueError(
                    f"the classifier answered shape {tuple(getattr(logits, 'shape', ()))} for {len(x_t)} pictures; "
                    f"wanted logits ({len(x_t)}, classes)"
                )
            if len(labels) != len(x_t) or not (
                0 <= int(labels.min()) and int(labels.max()) < logits.shape[1]
            ):
                raise ValueError(
                    f"{len(labels)} labels from {int(labels.min())} to {int(labels.max())} for {len(x_t)} pictures and "
                    f"{logits.shape[1]} classes; wanted one for each picture, 0..{logits.shape[1] - 1}"
                )
            if not logits.requires_grad:
                raise ValueError(
                    "the classifier's answer does not depend on x_t, or was computed without gradients; wanted one that torch can "
                    "derive: no torch.no_grad() and no .detach() within it"
                )
            chosen = logits.log_softmax(1).gather(1, labels.to(x_t.device)[:, None])
            (slope,) = torch.autograd.grad(chosen.sum(), x)
        return scale * slope

    return gradient


def gaussian_spread(schedule: Schedule, var: float = 1.0) -> Callable[[int], float]:
    """r_t^2 = Var[x_0 | x_t] of Gaussian data with variance `var`: (1 - alpha_bar_t) var / (alpha_bar_t var + 1 - alpha_bar_t).

    For `observation_gradient`. With var = 1 it is 1 - alpha_bar_t (Song et al. 2023, Pseudoinverse-guided diffusion, PiGDM).
    Raises ValueError for a var that is not positive.
    """
    if not 0 < var < math.inf:
        raise ValueError(f"var = {var}; wanted the data's variance, above 0")
    noise = 1 - schedule.alpha_bar
    table = noise * var / (schedule.alpha_bar * var + noise)
    return lambda t: float(table[t])


def observation_gradient(
    model: Model, schedule: Schedule, A: Tensor, y: Tensor, var_y: float, spread: Spread
) -> Gradient:
    """grad_{x_t} log p(y | x_t) for y = A x_0 + noise: J^T A^T (A C_t A^T + var_y I)^-1 (y - A x0_hat), J = d x0_hat / d x_t.

    Here p(x_0 | x_t) = N(x0_hat, C_t), and C_t is held fixed in the derivative. For Gaussian data that is exact.
    A       (M, D) float, M measurements of the D numbers of a picture      y  (B, M) float      var_y  >= 0, of the noise in y
    spread  C_t. "exact": (1 - alpha_bar_t) / sqrt(alpha_bar_t) J, Tweedie's second formula; D gradients a picture, for small D.
            A function t -> r_t^2: C_t = r_t^2 I (PiGDM), see gaussian_spread. A number: the same for all t; 0 is DPS
            (Chung et al. 2023), which needs var_y > 0
    -> callable (x_t (B, ...), t) -> like x_t, one t for the whole batch
    Raises ValueError for an A or y that does not fit, and where A C_t A^T + var_y I would be zero.
    """
    if A.ndim != 2 or y.ndim != 2 or y.shape[1] != A.shape[0]:
        raise ValueError(
            f"A has shape {tuple(A.shape)} and y {tuple(y.shape)}; wanted A (M, D) and y (B, M)"
        )
    if isinstance(spread, str) and spread != "exact":
        raise ValueError(
            f'spread = {spread!r}; wanted "exact", a function t -> r_t^2, or a number'
        )
    if isinstance(spread, (int, float)) and not 0 <= spread < math.inf:
        raise ValueError(f"spread = {spread}; wanted a variance r_t^2, at least 0")
    if not var_y >= 0 or (var_y == 0 and spread == 0):
        raise ValueError(
            f"var_y = {var_y} with spread = {spread}; wanted a variance above 0 where nothing else is uncertain"
        )

    def gradient(x_t: Tensor, t: int | Tensor) -> Tensor:
        time = int(t.flatten()[0]) if isinstance(t, Tensor) else t
        B, D = len(x_t), x_t[0].numel()
        if A.shape[1] != D or len(y) != B:
            raise ValueError(
                f"A is {tuple(A.shape)} and y {tuple(y.shape)} for {B} pictures of {D} numbers; wanted A (M, {D}) and y ({B}, M)"
            )
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            x0_hat = predict_x0(schedule, x, time, ask(model, x, time)[0])
            flat = x0_hat.flatten(1)
            miss = y.to(flat) - flat @ A.T.to(flat)  # (B, M)
            eye = torch.eye(len(A)).to(flat)
            if spread == "exact":
                rows = [
                    torch.autograd.grad(flat[:, d].sum(), x, retain_graph=True)[0]
                    for d in range(D)
                ]
                J = torch.stack([row.flatten(1) for row in rows], dim=1)  # (B, D, D)
                a = schedule.alpha_bar[time]
                C = ((1 - a) / a.sqrt()).to(flat) * J
                cov = A.to(flat) @ C @ A.T.to(flat) + var_y * eye  # (B, M, M)
            else:
                r2 = spread(time) if callable(spread) else float(spread)
                cov = (r2 * A @ A.T).to(flat) + var_y * eye
            weighed = torch.linalg.solve(cov.detach(), miss.detach()[..., None])[..., 0]
            along = (flat * (weighed @ A.to(flat))).sum()  # its gradient is J^T A^T ...
            (slope,) = torch.autograd.grad(along, x)
        return slope

    return gradient
