"""Each layer that a processor computes in another way answers as the usual one does, with the same gradients."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from laboratory import bfloat16_attention, randn, randomise
from torch import nn
from torch.testing import assert_close

from ddpm_core import UNet, fast, linear_schedule, load_checkpoint, train, unet
from ddpm_core.fast import (
    LARGE,
    Dropout,
    GroupNorm,
    PackedConv2d,
    attend,
    pack,
    packable,
    remade,
    twin,
)
from ddpm_core.runtime.hardware import Hardware
from ddpm_core.unet import ResBlock

LAST = torch.channels_last


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def far(value, exact):
    return ((value.double() - exact).square().mean() / exact.square().mean()).sqrt()


def normed(layer, norm, x, d):
    """What `norm` makes of a layer and x, and the gradients by x, weight and bias."""
    x = x.detach().requires_grad_()
    answer = norm(layer, x)
    return answer.detach(), *torch.autograd.grad(
        answer, (x, layer.weight, layer.bias), d.to(answer.dtype)
    )


def group_norm(channels, dtype=torch.float32):
    torch.manual_seed(0)
    layer = GroupNorm(32, channels, eps=1e-6)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    return layer.to(dtype)


@pytest.mark.parametrize("layout", [LAST, torch.contiguous_format])
@pytest.mark.parametrize(
    "batch, channels, side", [(8, 256, 16), (7, 128, 24), (9, 480, 13), (3, 128, 32)]
)
def test_group_norm_by_sums_is_group_norm(batch, channels, side, layout):
    """Against float64, and no further off than torch's own way. Seven images of 128 x 24 x 24 come in pieces of three, three and one."""
    layer, x = (
        group_norm(channels),
        (3 * drawn(batch, channels, side, side) + 5).to(memory_format=LAST),
    )
    d = drawn(batch, channels, side, side, seed=1).to(
        memory_format=layout
    )  # gradients arrive laid out as they like
    assert x.numel() >= LARGE, "or it would be torch's way"
    ours, theirs = (
        normed(layer, GroupNorm.forward, x, d),
        normed(layer, nn.GroupNorm.forward, x, d),
    )
    exact = normed(copy.deepcopy(layer).double(), nn.GroupNorm.forward, x.double(), d)
    assert not torch.equal(ours[1], theirs[1]), "this test compares torch with itself"
    assert ours[0].is_contiguous(memory_format=LAST) and [
        each.dtype for each in ours
    ] == 2 * [torch.bfloat16] + 2 * [torch.float32]
    for one, other, true in zip(ours, theirs, exact, strict=True):
        assert far(one, true) < 1.1 * far(other, true) + 1e-5 and far(one, true) < 2**-8


def test_group_norm_by_sums_without_gradients():
    layer, x = (
        group_norm(256, torch.bfloat16),
        (3 * drawn(8, 256, 16, 16) + 5).to(memory_format=LAST),
    )
    with torch.no_grad():
        ours, theirs = layer(x), nn.GroupNorm.forward(layer, x)
    exact = nn.GroupNorm.forward(copy.deepcopy(layer).double(), x.double())
    assert (
        not torch.equal(ours, theirs)
        and ours.is_contiguous(memory_format=LAST)
        and ours.dtype == torch.bfloat16
    )
    assert far(ours, exact) < 1.1 * far(theirs, exact) < 2**-7


def test_group_norm_by_sums_in_part_and_twice():
    """Frozen weights get no gradient, a second derivative is torch's."""
    layer, x = (
        group_norm(128),
        drawn(4, 128, 24, 24).to(memory_format=LAST).requires_grad_(),
    )
    layer.weight.requires_grad_(False)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(layer(x).sum(), layer.weight)
    seconds = []
    for norm in (GroupNorm.forward, nn.GroupNorm.forward):
        (first,) = torch.autograd.grad(
            norm(layer, x).square().sum(), x, create_graph=True
        )
        seconds += torch.autograd.grad(first.square().sum(), x)
    assert far(seconds[0], seconds[1].double()) < 2**-6 and seconds[1].abs().max() > 0


@pytest.mark.parametrize("p", [0.1, 0.5, 1e-4])
def test_dropout_keeps_the_mean_and_drops_with_its_probability(p):
    drop, n = (
        Dropout(p),
        400_003,
    )  # not a multiple of the four entries a random word makes
    torch.manual_seed(0)
    y = drop(torch.full((n,), 2.0))
    dropped = (y == 0).double()
    assert abs(dropped.mean() - p) < 4 * (p * (1 - p) / n) ** 0.5 + 1 / 65536
    assert_close(
        y[y > 0], torch.full_like(y[y > 0], 2 / (1 - round(p * 65536) / 65536))
    )
    for lag in (1, 2, 3, 4):  # the entries of a word, and neighbouring words
        together = (dropped[lag:] * dropped[:-lag]).mean()
        assert (
            abs(together - p * p)
            < 4 * (p * p * (1 - p * p) / n) ** 0.5 + 2 * p / 65536 + 1e-9
        ), lag
    torch.manual_seed(0)
    assert torch.equal(drop(torch.full((n,), 2.0)), y)


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(2, 8, 9, 9).to(memory_format=LAST),
        torch.ones(2, 1, 1, 1).expand(2, 8, 9, 9),
        torch.ones(9, 9, 8, 2).mT[1:, ::2],
    ],
)
def test_dropout_draws_for_every_entry_however_they_are_laid_out(x):
    torch.manual_seed(0)
    y = Dropout(0.5)(x)
    assert set(y.unique().tolist()) == {0, 2} and y.shape == x.shape
    assert all((y.select(dim, 0) != y.select(dim, 1)).any() for dim in range(4))


def test_dropout_has_the_gradient_of_its_mask():
    x = torch.ones(1000, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach()) and 0 < (y == 0).sum() < 1000
    assert torch.equal(Dropout(0.0)(x), x) and torch.equal(Dropout(1.0)(x), 0 * x)


@bfloat16_attention
@pytest.mark.parametrize("tokens, kernel", [(49, False), (64, False), (65, True)])
def test_attention_to_few_tokens_is_attention(monkeypatch, tokens, kernel):
    q, k, v, d = (2 * drawn(4, 1, tokens, 32, seed=seed) for seed in range(4))

    def derivatives(attend, *inputs):
        inputs = [each.detach().requires_grad_() for each in inputs]
        answer = attend(*inputs)
        return answer.detach(), *torch.autograd.grad(answer, inputs, d.to(answer.dtype))

    exact, theirs = (
        derivatives(F.scaled_dot_product_attention, q.double(), k.double(), v.double()),
        derivatives(F.scaled_dot_product_attention, q, k, v),
    )
    calls, torchs = [], F.scaled_dot_product_attention
    monkeypatch.setattr(
        F,
        "scaled_dot_product_attention",
        lambda *inputs: calls.append(None) or torchs(*inputs),
    )
    with torch.autocast("cpu", torch.bfloat16):
        ours = derivatives(attend, q, k, v)
    assert bool(calls) == kernel
    for one, other, true in zip(ours, theirs, exact, strict=True):
        assert one.dtype == torch.bfloat16 and far(one, true) < 1.1 * far(other, true)
    with torch.no_grad():
        attend(q, k, v)
    assert calls


def quicker(block):
    """The twin of a single block, as a network has it."""
    network = UNet(8, 1, 8, (1,), 1, (), groups=4)
    network.middle[0] = block
    return twin(network).middle[0]


def test_what_is_made_again_for_the_gradient_is_the_same(monkeypatch):
    calls = []

    def counted(make, x, then):
        return remade(lambda x: calls.append(None) or make(x), x, then)

    def derivatives():
        torch.manual_seed(1)
        loss = block(x, emb).square().sum()
        seen.append(len(calls))
        first = torch.autograd.grad(loss, [x, *block.parameters()], create_graph=True)
        seen.append(len(calls))
        return [
            *first,
            *torch.autograd.grad(
                sum(g.square().sum() for g in first),
                [x, *block.parameters()],
                allow_unused=True,
            ),
        ]

    torch.manual_seed(0)
    block = ResBlock(8, 16, 32, 0.5, groups=4).double().train()
    block.conv_2 = torch.nn.Conv2d(
        16, 16, 3, padding=1
    ).double()  # as ours begins at almost zero, and with it the gradients before it
    block = quicker(block)
    x, emb, seen = (
        torch.randn(2, 8, 6, 6, dtype=torch.float64, requires_grad=True),
        torch.randn(2, 32, dtype=torch.float64),
        [],
    )
    monkeypatch.setattr(fast, "LARGE", 0)
    monkeypatch.setattr(fast, "remade", counted)
    ours = derivatives()
    assert seen == [
        2,
        4,
    ]  # each of two convolutions: once on the way there, once on the way back
    monkeypatch.setattr(fast, "remade", lambda make, x, then: then(make(x)))
    for a, b in zip(ours, derivatives(), strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_what_is_made_again_is_made_in_the_mode_of_the_first_time(monkeypatch):
    monkeypatch.setattr(fast, "LARGE", 0)
    block, x, emb = (
        quicker(randomise(ResBlock(8, 8, 16, 0.5, groups=4)).double().eval()),
        randn(1, 8, 4, 4),
        randn(1, 16),
    )

    def gradient(mode):
        x.grad = None
        loss = block.eval()(x, emb).square().sum()
        block.train(mode)
        loss.backward()
        return block.conv_2.weight.grad.clone(), block.zero_grad()

    assert torch.equal(gradient(True)[0], gradient(False)[0])


BFLOAT16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="this processor does not multiply bfloat16",
)


@BFLOAT16
@pytest.mark.parametrize("kernel, stride, padding", [(3, 1, 1), (1, 1, 0), (3, 2, 0)])
@pytest.mark.parametrize("batch, side", [(1, 8), (3, 9), (2, 16)])
def test_a_packed_convolution_is_the_convolution(kernel, stride, padding, batch, side):
    conv = nn.Conv2d(24, 40, kernel, stride, padding).bfloat16().to(memory_format=LAST)
    x = drawn(batch, 24, side, side).to(memory_format=LAST)
    packed = PackedConv2d(conv)
    with torch.no_grad():
        answer, exact = packed(x), copy.deepcopy(conv).double()(x.double())
    assert answer.is_contiguous(memory_format=LAST) and answer.dtype == torch.bfloat16
    assert_close(
        answer.double(), exact, rtol=2**-8, atol=1e-5
    )  # half a unit in the last of eight bits, and the sum in float32


@BFLOAT16
@pytest.mark.parametrize("shape", [(2, 40, 8, 8), (1, 40, 1, 1), (2, 40, 1, 1)])
def test_plus_is_added_and_stays_what_it_was(shape):
    """It is the input of the block, which waits among the skips."""
    conv, x, plus = (
        nn.Conv2d(24, 40, 3, padding=1).bfloat16().to(memory_format=LAST),
        drawn(2, 24, 8, 8).to(memory_format=LAST),
        drawn(*shape, seed=1),
    )
    before = plus.clone()
    with torch.no_grad():
        answer, exact = (
            PackedConv2d(conv)(x, plus),
            copy.deepcopy(conv).double()(x.double()) + plus.double(),
        )
    assert torch.equal(plus, before)
    assert_close(
        answer.double(), exact, rtol=2**-7, atol=2**-8
    )  # rounded once or twice, at values about 1


KINDS = [pytest.param(torch.bfloat16, marks=BFLOAT16), torch.float32]


@pytest.mark.parametrize("dtype", KINDS)
def test_only_plain_convolutions_of_a_kind_that_pays_are_packed(dtype, monkeypatch):
    class Mine(nn.Conv2d):
        pass

    hooked = nn.Conv2d(8, 8, 3)
    hooked.register_forward_hook(lambda *_: None)
    others = [
        Mine(8, 8, 3),
        hooked,
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, bias=False),
    ]
    network = nn.Sequential(
        nn.Conv2d(8, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 1)), *others
    )
    network = network.to(dtype)
    monkeypatch.setattr(fast, "packable", lambda: {torch.float64})
    pack(network)
    assert not any(isinstance(part, PackedConv2d) for part in network.modules())
    monkeypatch.setattr(fast, "packable", lambda: {dtype})
    pack(network)
    assert isinstance(network[0], PackedConv2d)
    assert isinstance(network[1][0], PackedConv2d) and list(network[2:]) == others


@pytest.mark.parametrize(
    "features, float32",
    [({"avx2"}, True), ({"avx2", "avx512", "amx"}, True), ((), False)],
)
def test_float32_is_packed_where_it_pays(features, float32, monkeypatch):
    found = Hardware("cpu", features=frozenset(features))
    monkeypatch.setattr(fast, "describe", lambda device: found)
    assert (torch.float32 in packable()) == float32


def laid_out(conv, *shape):
    """The bytes' order that oneDNN itself chooses for that shape."""
    weight, how = conv.weight.detach().to_mkldnn(), PackedConv2d(conv).how
    return torch._C._nn.mkldnn_reorder_conv2d_weight(weight, *how, list(shape))


@pytest.mark.parametrize("dtype", KINDS)
def test_weights_are_laid_out_for_the_shape_that_comes(dtype):
    """And go from one layout to the next as they are."""
    conv = nn.Conv2d(192, 96, 3, padding=1).to(dtype).to(memory_format=LAST)
    packed, shapes = (
        PackedConv2d(conv),
        [(1, 192, 8, 8), (4, 192, 8, 8), (4, 192, 9, 7)],
    )
    for shape in [*shapes, shapes[0]]:
        x = drawn(*shape).to(dtype).to(memory_format=LAST)
        with torch.no_grad():
            answer = packed(x)
            kept = packed.weight
            assert torch.equal(answer, packed(x)) and packed.weight is kept
            wanted = PackedConv2d(conv)
            wanted.weight, wanted.shape = laid_out(conv, *shape), x.shape
            assert torch.equal(answer, wanted(x))
        assert torch.equal(kept.to_dense(), conv.weight) and packed.shape == x.shape


@pytest.mark.parametrize("batch, side", [(1, 8), (3, 9)])
def test_a_packed_convolution_in_float32_is_the_convolution(batch, side):
    conv = nn.Conv2d(24, 40, 3, padding=1).to(memory_format=LAST)
    x, plus = (
        drawn(batch, c, side, side, seed=c).float().to(memory_format=LAST)
        for c in (24, 40)
    )
    with torch.no_grad():
        exact = copy.deepcopy(conv).double()(x.double())
        assert_close(PackedConv2d(conv)(x).double(), exact, rtol=1e-5, atol=1e-5)
        answer = PackedConv2d(conv)(x, plus).double()
        assert_close(answer, exact + plus.double(), rtol=1e-5, atol=1e-5)


@BFLOAT16
@pytest.mark.parametrize("labels", [None, (3, 8)])
def test_a_packed_network_answers_as_near_to_the_exact_one_as_a_plain_one_in_bfloat16(
    labels,
):
    model = load_checkpoint("data/checkpoints/fashion-mnist").model.eval()
    plain = copy.deepcopy(model).bfloat16().to(memory_format=LAST)
    packed = copy.deepcopy(plain)
    pack(packed)
    packed = twin(packed)
    assert (
        isinstance(model, UNet)
        and sum(isinstance(part, PackedConv2d) for part in packed.modules())
        == sum(isinstance(part, nn.Conv2d) for part in plain.modules())
        > 20
    )
    x, y = drawn(2, 1, 28, 28).float(), None if labels is None else torch.tensor(labels)
    with torch.no_grad():
        exact = model(x, 400, y)
        far, farther = (
            (network(x.bfloat16().to(memory_format=LAST), 400, y) - exact)
            .pow(2)
            .mean()
            .sqrt()
            for network in (packed, plain)
        )
    assert far < 1.5 * farther < 0.05 * exact.pow(2).mean().sqrt()


def book_network():
    """The published network's layout, with dropout, in training."""
    model = load_checkpoint("data/checkpoints/fashion-mnist").model.train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.2
    return model


def test_unet_is_plain_torch():
    """What is imported there, and of which classes a network is."""
    network = UNet(8, 1, 8, (1, 1), 1, (8,), groups=4, classes=3)
    assert {type(part).__module__.split(".nn")[0] for part in network.modules()} == {
        "ddpm_core.unet",
        "torch",
    }
    source = Path(unet.__file__).read_text()
    assert "fast" not in source and "processor" not in source


def test_a_twin_has_the_same_weights_names_modes_and_hooks_under_other_layers():
    network, seen = book_network(), []
    network.middle.eval()
    network.conv_in.register_forward_hook(lambda *_: seen.append("hook"))
    other = twin(network)
    assert type(other) is UNet and other is not network
    pairs = dict(network.named_modules()), dict(other.named_modules())
    assert list(pairs[0]) == list(pairs[1])
    for name, part in pairs[0].items():
        assert type(pairs[1][name]) is fast.QUICKER.get(type(part), type(part)), name
        assert pairs[1][name].training == part.training, name
    for (a, p), (b, q) in zip(
        network.named_parameters(), other.named_parameters(), strict=True
    ):
        assert a == b and p is q
    with torch.no_grad():
        other(drawn(1, 1, 28, 28).float(), 3)
    assert seen == ["hook"]
    assert {type(part) for part in network.modules()}.isdisjoint(
        fast.QUICKER.values()
    ), "the network itself has changed"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_twin_answers_and_learns_as_the_network(dtype):
    """Without dropout, whose masks are other ones of the same kind; sums may be taken in another order."""
    network = randomise(book_network()).to(dtype).eval()
    x, t, y = drawn(3, 1, 28, 28).to(dtype), 400, torch.tensor([1, 2, 3])
    found = []
    for asked in (network, twin(network)):
        network.zero_grad()
        answer = asked(x, t, y)
        answer.square().mean().backward()
        found.append([answer.detach(), *(p.grad.clone() for p in network.parameters())])
    for a, b in zip(*found, strict=True):
        near = 1e-4 if dtype == torch.float32 else 1e-11
        assert_close(a, b, rtol=near, atol=near * float(a.abs().max()))


def test_twins_are_made_of_known_networks_only():
    """... wherever they are inside, and of nothing else."""

    class Outer(nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.norm, self.inside = nn.GroupNorm(1, 4), inside

    mine = Outer(nn.Sequential(nn.Conv2d(1, 4, 1), nn.Dropout(0.1)))
    assert twin(mine) is mine
    network = UNet(8, 1, 8, (1,), 1, (), groups=4)
    other = twin(Outer(network))
    assert type(other) is Outer and type(other.norm) is nn.GroupNorm
    assert type(other.inside.norm_out) is GroupNorm
    block = nn.Sequential(ResBlock(8, 8, 16, 0.1, groups=4))
    assert type(twin(block)[0].norm_1) is GroupNorm

    class Own(ResBlock):
        def forward(self, x, emb):
            return x

    network.middle[0] = Own(8, 8, 32, 0.1, groups=4)
    assert type(twin(network).middle[0]) is Own


def test_training_asks_the_twin_and_leaves_the_network_plain(monkeypatch):
    """To the bit, so that runs of before go on: what training made of these layers."""
    asked = []
    forward = fast._ResBlock.forward
    monkeypatch.setattr(
        fast._ResBlock,
        "forward",
        lambda self, x, emb: asked.append(self.training) or forward(self, x, emb),
    )
    torch.manual_seed(0)
    model = UNet(8, 1, 8, (1,), 1, (), dropout=0.3, groups=4)
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    how = dict(steps=2, batch_size=4, device="cpu", precision="float32", progress=False)
    average = train(model, linear_schedule(), images, **how)
    assert asked == 2 * 5 * [True]  # five blocks
    for network in (model, average):
        assert type(network.middle[0]) is ResBlock
        assert type(network.norm_out) is nn.GroupNorm


def test_the_old_name_is_the_same_module():
    from ddpm_core import processor
    from ddpm_core.processor import attend as old

    assert processor is fast and old is attend
