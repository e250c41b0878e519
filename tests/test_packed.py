"""Packed convolutions answer what the plain ones do, and leave alone what they must."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ddpm_core import UNet, load_checkpoint
from ddpm_core.packed import PackedConv2d, pack

pytestmark = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor does not multiply bfloat16")
LAST = torch.channels_last


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize("kernel, stride, padding", [(3, 1, 1), (1, 1, 0), (3, 2, 0)])
@pytest.mark.parametrize("batch, side", [(1, 8), (3, 9), (2, 16)])
def test_a_packed_convolution_is_the_convolution(kernel, stride, padding, batch, side):
    conv = nn.Conv2d(24, 40, kernel, stride, padding).bfloat16().to(memory_format=LAST)
    x = drawn(batch, 24, side, side).to(memory_format=LAST)
    packed = PackedConv2d(conv)
    with torch.no_grad():
        answer, exact = packed(x), copy.deepcopy(conv).double()(x.double())
    assert answer.is_contiguous(memory_format=LAST) and answer.dtype == torch.bfloat16
    assert_close(answer.double(), exact, rtol=2**-8, atol=1e-5)  # half a unit in the last of eight bits, and the sum in float32


@pytest.mark.parametrize("shape", [(2, 40, 8, 8), (1, 40, 1, 1), (2, 40, 1, 1)])
def test_plus_is_added_and_stays_what_it_was(shape):
    """It is the input of the block, which waits among the skips."""
    conv, x, plus = nn.Conv2d(24, 40, 3, padding=1).bfloat16().to(memory_format=LAST), drawn(2, 24, 8, 8).to(memory_format=LAST), drawn(*shape, seed=1)
    before = plus.clone()
    with torch.no_grad():
        answer, exact = PackedConv2d(conv)(x, plus), copy.deepcopy(conv).double()(x.double()) + plus.double()
    assert torch.equal(plus, before)
    assert_close(answer.double(), exact, rtol=2**-7, atol=2**-8)  # rounded once or twice, at values about 1


def test_only_plain_bfloat16_convolutions_are_packed():
    class Mine(nn.Conv2d):
        pass

    hooked = nn.Conv2d(8, 8, 3)
    hooked.register_forward_hook(lambda *_: None)
    others = [Mine(8, 8, 3), hooked, nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), nn.Conv2d(8, 8, 3, padding="same"), nn.Conv2d(8, 8, 3, bias=False)]
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 1)), *others)
    pack(network)
    assert not any(isinstance(part, PackedConv2d) for part in network.modules())  # float32
    pack(network.bfloat16())
    assert isinstance(network[0], PackedConv2d) and isinstance(network[1][0], PackedConv2d) and list(network[2:]) == others


@pytest.mark.parametrize("labels", [None, (3, 8)])
def test_a_packed_network_answers_as_near_to_the_exact_one_as_a_plain_one_in_bfloat16(labels):
    model = load_checkpoint("data/checkpoints/fashion-mnist").model.eval()
    plain = copy.deepcopy(model).bfloat16().to(memory_format=LAST)
    packed = copy.deepcopy(plain)
    pack(packed)
    assert isinstance(model, UNet) and sum(isinstance(part, PackedConv2d) for part in packed.modules()) == sum(isinstance(part, nn.Conv2d) for part in plain.modules()) > 20
    x, y = drawn(2, 1, 28, 28).float(), None if labels is None else torch.tensor(labels)
    with torch.no_grad():
        exact = model(x, 400, y)
        far, farther = ((network(x.bfloat16().to(memory_format=LAST), 400, y) - exact).pow(2).mean().sqrt() for network in (packed, plain))
    assert far < 1.5 * farther < 0.05 * exact.pow(2).mean().sqrt()
