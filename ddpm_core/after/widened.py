"""A trained network that is told more: input channels are added, its way down goes on learning (Rombach et al. 2022, inpainting)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..unet import UNet
from .cascade import with_condition

LEARNED = ("conv_in.", "down.", "middle.")


class Widened(UNet):
    """A U-Net with `condition` further input channels; only its first convolution, its way down and its middle learn.

    unet       the trained network, without a condition; it is copied
    condition  channels beside x_t, such as what is known of a picture

    model(x_t, t, condition=, **conditions) -> eps_hat: x_t and eps_hat (B, C, H, W), condition (B, condition, H, W). The first
    convolution is W * [x_t, c] = W_x * x_t + W_c * c, with W_c = 0 at first.

    The weights of the new channels start at zero, so at first it answers as before, to the last bit. The way up, and what reads the
    time and the words, stay frozen. A checkpoint leaves them out: load_network(path, model=Widened(unet, condition)).
    Raises ValueError for a network that has a condition already, and for a number of channels that is not whole and at least 1.
    """

    def __init__(self, unet: UNet, condition: int):
        wider = with_condition(unet, condition)
        super().__init__(**wider.config)  # type: ignore[arg-type]
        super().load_state_dict(wider.state_dict())
        self.to(unet.conv_in.weight).train(unet.training)
        for name, weight in self.named_parameters():
            weight.requires_grad_(name.startswith(LEARNED))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The weights that learn."""
        every = super().state_dict(*args, **kwargs)
        return {name: w for name, w in every.items() if name.startswith(LEARNED)}

    def load_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        strict: bool = True,
        assign: bool = False,
    ) -> Any:
        """The weights that learn; the others stay. Raises RuntimeError for other names."""
        frozen = {
            name: w
            for name, w in super().state_dict().items()
            if not name.startswith(LEARNED)
        }
        return super().load_state_dict({**frozen, **state_dict}, strict, assign)
