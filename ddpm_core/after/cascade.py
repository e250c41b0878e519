"""Cascades: a small picture drawn first, then a large one that is told the small one, spoilt on purpose (Ho et al. 2022).

The enlarger is a `UNet(condition=C + 1)`: beside x_t lie the small picture z_s, enlarged by repeating pixels, and a plane that says
how much noise it carries. `enlarging` trains it, `enlarger` makes a plain model (x_t, t) -> eps_hat of it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..forward import q_sample
from ..reverse import Model
from ..schedule import Schedule, at, check_t
from ..unet import UNet


def noised(schedule: Schedule, x0: Tensor, s: int | Tensor, eps: Tensor) -> Tensor:
    """Eq. (4) with s = 0 allowed: z_s = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s) eps, and z_0 = x_0.

    x0, eps  (B, ...) float      s  int or LongTensor (B,) in 0..T      ->  like x0
    """
    check_t(s, schedule.T, lowest=0)
    if eps.shape != x0.shape:
        raise ValueError(
            f"eps has shape {tuple(eps.shape)} but x0 has {tuple(x0.shape)}; wanted the same shape"
        )
    return (
        at(schedule.alpha_bar.sqrt(), s, x0) * x0
        + at((1 - schedule.alpha_bar).sqrt(), s, x0) * eps
    )


def shrink(x: Tensor, factor: int = 2) -> Tensor:
    """The mean of each factor x factor block: (B, C, H, W) -> (B, C, H / factor, W / factor)."""
    if factor < 1 or x.shape[-2] % factor or x.shape[-1] % factor:
        raise ValueError(
            f"pictures of {x.shape[-2]} x {x.shape[-1]} pixels do not fall into blocks of {factor} x {factor}"
        )
    return F.avg_pool2d(x, factor)


def noise_condition(
    schedule: Schedule, z: Tensor, s: int | Tensor, eps: Tensor, size: int
) -> Tensor:
    """What the enlarger sees beside x_t: z_s with its pixels repeated, and the plane sqrt(1 - alpha_bar_s).

    z, eps  (B, C, h, w) float, the small picture in [-1, 1] and standard normal noise
    s       int or LongTensor (B,) in 0..T, how far z is spoilt; 0: not at all      size  H = W, a multiple of h = w
    -> (B, C + 1, size, size). Noise conditioning augmentation (Ho et al. 2022, "Cascaded diffusion models")
    Raises ValueError for a level outside 0..T and for a size that is no multiple.
    """
    if z.ndim != 4 or z.shape[2] != z.shape[3] or size % z.shape[2]:
        raise ValueError(
            f"z has shape {tuple(z.shape)} and is to be laid beside {size} x {size} pixels; wanted a square whose side divides {size}"
        )
    spoilt = F.interpolate(noised(schedule, z, s, eps), size=size, mode="nearest")
    level = at((1 - schedule.alpha_bar).sqrt(), s, z)
    plane = torch.ones_like(spoilt[:, :1]) * level
    return torch.cat([spoilt, plane], dim=1)


class Enlarger(nn.Module):
    """A UNet with a condition, as `train` takes it: what lies beside x_t comes as further channels behind it."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet, self.classes = unet, unet.classes
        self.config = unet.config

    def forward(
        self, joined: Tensor, t: int | Tensor, y: Tensor | None = None
    ) -> Tensor:
        channels = self.config["channels"]
        beside = joined[:, channels:]
        answer: Tensor = self.unet(joined[:, :channels], t, y, condition=beside)
        return answer


def with_condition(unet: UNet, condition: int) -> UNet:
    """The same network with `condition` further input channels, whose weights are zero: it answers as before.

    unet  a network without a condition      condition  at least 1      ->  a new UNet
    """
    if unet.config.get("condition"):
        raise ValueError(
            f"this UNet has a condition of {unet.config['condition']} channels already; wanted one without"
        )
    if isinstance(condition, bool) or not isinstance(condition, int) or condition < 1:
        raise ValueError(
            f"condition = {condition!r}; wanted a whole number, at least 1"
        )
    config: dict[str, Any] = {**unet.config, "condition": condition}
    wider = UNet(**config).to(unet.conv_in.weight.dtype)
    weights = unet.state_dict()
    first = wider.conv_in.weight.detach().clone().zero_()
    first[:, : unet.config["channels"]] = weights["conv_in.weight"]
    wider.load_state_dict({**weights, "conv_in.weight": first})
    return wider.train(unet.training)


def enlarging(
    model: Model, schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    """Eq. (14) with the spoilt small picture beside x_t: an objective for `train(Enlarger(unet), ...)`. -> (B,)

    The level s is drawn anew for each picture, T u^2 with u uniform: all of 0..T, the small ones more often.
    Random numbers beyond t and eps come from torch's own state, which `train` seeds for each step.
    """
    z = shrink(x0)
    u = torch.rand(len(x0), device=x0.device)
    s = (u.square() * (schedule.T + 1)).long().clamp(max=schedule.T)
    beside = noise_condition(schedule, z, s, torch.randn_like(z), x0.shape[-1])
    eps_hat = model(torch.cat([q_sample(schedule, x0, t, eps), beside], dim=1), t)
    return (eps - eps_hat).square().flatten(1).mean(1)


def enlarger(unet: UNet, condition: Tensor, labels: Tensor | None = None) -> Model:
    """A model (x_t, t) -> eps_hat that is told `condition` (B, C, H, W), as noise_condition makes it, at every step.

    Every sampler takes it. Raises what the UNet raises for a condition that does not fit.
    """

    def model(x_t: Tensor, t: int | Tensor) -> Tensor:
        answer: Tensor = unet(x_t, t, labels, condition=condition)
        return answer

    return model


def dynamic_threshold(
    x0_hat: Tensor, quantile: float = 0.995, largest: float | None = None
) -> Tensor:
    """clip(x0_hat, -s, s) / s, s = max(1, the quantile of |x0_hat| in each image). (Saharia et al. 2022, Imagen, section 2.3)

    x0_hat    (B, ...) float      quantile  above 0, up to 1; the paper's text says only "a certain percentile"
    largest   an upper limit of s, or None      ->  like x0_hat, within [-1, 1]; applied twice it changes nothing more
    Where the quantile is at most 1, this is clamping. A hook on x0_hat of `sample`: threshold=dynamic_threshold. Not for latents,
    whose range nobody knows. On a white ground, half of whose numbers are exactly 1, a few larger ones make all white grey.
    Raises ValueError for a quantile outside (0, 1].
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile = {quantile}; wanted more than 0, at most 1")
    size = x0_hat.detach().abs().flatten(1).float()
    s = torch.quantile(size, quantile, dim=1).clamp(min=1, max=largest)
    s = s.view(-1, *[1] * (x0_hat.ndim - 1)).to(x0_hat)
    return x0_hat.clamp(-s, s) / s
