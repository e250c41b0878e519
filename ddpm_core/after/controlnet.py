"""ControlNet: a picture says where things are, a trained network goes on knowing how they look (Zhang et al. 2023)."""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..unet import UNet, conv1x1, conv3x3


class Control(nn.Module):
    """A frozen U-Net with a copy of its way down and its middle beside it, which sees the control and adds, through zero convolutions, to the skips and to what leaves the middle.

    unet     the trained network; none of its weights changes, and a checkpoint of the
             control leaves it out: load_network(path, model=Control(unet))
    channels of the control, a picture of the size of x_t, such as a silhouette

    model(x_t, t, y, control=, strength=, **conditions) -> eps_hat. Every way out of the copy begins at zero, so at the start the answer
    is the frozen network's, to the last bit; the first gradient is not zero, since dy/dw = x where y = w x and w = 0.
    Raises ValueError for a control of another size.
    """

    unet: UNet
    copy: UNet

    def __init__(self, unet: UNet, channels: int = 1):
        super().__init__()
        self.config = dict(unet=dict(unet.config), channels=channels)
        self.classes = unet.classes
        # not a part by torch's rules: its weights are kept where it was trained
        object.__setattr__(self, "unet", unet.requires_grad_(False))
        self.copy = copy.deepcopy(unet).requires_grad_(True)
        del self.copy.up, self.copy.norm_out, self.copy.conv_out
        width = int(unet.config["width"])  # type: ignore[call-overload]
        self.look = nn.Sequential(
            conv3x3(channels, width),
            nn.SiLU(),
            zero(conv3x3(width, self._inputs(unet))),
        )
        with torch.no_grad():
            side = int(unet.config["image_size"])  # type: ignore[call-overload]
            x = unet.conv_in.weight.new_zeros(1, self._inputs(unet), side, side)
            h, skips = unet.encode(x, unet.embed(x, 1), None, unet.read(x, None, None))
        self.out = nn.ModuleList(
            zero(conv1x1(each.shape[1], each.shape[1])) for each in (*skips, h)
        )

    def _apply(self, fn: Any, recurse: bool = True) -> "Control":
        cast(Any, self.unet)._apply(fn, recurse)
        return cast(Control, cast(Any, super())._apply(fn, recurse))

    @staticmethod
    def _inputs(unet: UNet) -> int:
        return unet.conv_in.in_channels

    def forward(
        self,
        x: Tensor,
        t: int | Tensor,
        y: Tensor | None = None,
        *,
        control: Tensor,
        strength: float = 1.0,
        condition: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        wanted = (len(x), self.config["channels"], *x.shape[2:])
        if tuple(control.shape) != wanted:
            raise ValueError(
                f"control has shape {tuple(control.shape)}; wanted {wanted}"
            )
        emb = self.unet.embed(x, t, y, mask, pooled)
        h, skips = self.unet.encode(x, emb, condition, self.unet.read(x, context, mask))
        beside = x if condition is None else torch.cat([x, condition], dim=1)
        beside = beside + self.look(control.to(x))
        own = self.copy.embed(x, t, y, mask, pooled)
        text = self.copy.read(x, context, mask)
        h_c, skips_c = self.copy.encode(beside, own, None, text)
        *ways, middle = self.out
        h = h + strength * middle(h_c)
        skips = [s + strength * way(c) for s, way, c in zip(skips, ways, skips_c)]
        return self.unet.decode(h, skips, emb, self.unet.read(x, context, mask))


def control(unet: UNet, channels: int = 1) -> Control:
    """A trained U-Net with a way in for a picture that says where things are; see Control."""
    return Control(unet, channels)


def zero(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with weights and bias of exactly zero."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
