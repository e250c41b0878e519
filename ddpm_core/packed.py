"""Convolutions on a processor whose weights lie ready for its matrix units. Sampling asks the same network hundreds of times: it pays.

A convolution of torch lays its weights out anew at every call, and what is added to its result is one more pass over it. oneDNN, the
library underneath, takes weights laid out once and adds in the same pass. torch reaches that from compiled code only, by two operators
whose names begin with an underscore; where they are missing, or something hangs on a convolution, it stays what it is.
"""

from typing import cast

import torch
from torch import Tensor, nn


class PackedConv2d(nn.Module):
    """conv(x), or conv(x) + plus in one pass for plus (B, out, H, W), or (1, out, 1, 1), the same everywhere. For use, not for training."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.how = (list(cast(tuple[int, int], conv.padding)), list(conv.stride), list(conv.dilation), conv.groups)
        self.weight = torch._C._nn.mkldnn_reorder_conv2d_weight(conv.weight.detach().to_mkldnn(), *self.how)
        self.bias = cast(Tensor, conv.bias)

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        convolve, bias = torch.ops.mkldnn._convolution_pointwise, self.bias
        if plus is not None and plus.shape[2:] == x.shape[2:]:
            both: Tensor = convolve.binary(x, plus, self.weight, bias, *self.how, "add", 1.0, None, [], None)
            return both
        if plus is not None and len(plus) == 1:
            bias, plus = bias + plus.flatten(), None
        answer: Tensor = convolve(x, self.weight, bias, *self.how, "none", [], "")
        return answer if plus is None else answer.add_(plus)


def pack(network: nn.Module) -> None:
    """Packs the bfloat16 convolutions of a network on a processor, in place, where torch and the processor can; one with hooks or of
    another class stays. Not in float32: it gains a few hundredths there, and with AVX2 alone a batch of one takes nine times as long.
    """
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise") or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return
    for name, part in network.named_children():
        if type(part) is nn.Conv2d and part.weight.dtype == torch.bfloat16 and _plain(part):
            setattr(network, name, PackedConv2d(part))
        else:
            pack(part)


def _plain(conv: nn.Conv2d) -> bool:
    return conv.bias is not None and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple) and not (conv._forward_hooks or conv._forward_pre_hooks)
