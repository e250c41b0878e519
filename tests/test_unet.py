import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from laboratory import randn, randomise, small_unet
from torch import nn
from torch.testing import assert_close

from ddpm_core import UNet, cifar10_unet
from ddpm_core.unet import Attention, Downsample, ResBlock, TimeEmbedding, Upsample


@pytest.fixture(scope="module")
def paper():
    with torch.device("meta"):
        return cifar10_unet()


def test_the_papers_network_has_35746307_parameters(paper):
    assert sum(p.numel() for p in paper.parameters()) == 35_746_307
    assert (
        len(list(paper.parameters())) == len(paper.state_dict()) == 328
    )  # as many tensors as the published file; no buffers
    assert paper.config == dict(
        image_size=32,
        channels=3,
        width=128,
        multipliers=(1, 2, 2, 2),
        blocks=2,
        attention=(16,),
        dropout=0.1,
        classes=None,
        groups=32,
        learn_variance=False,
    )


@pytest.mark.parametrize("groups, sees_t", [(32, False), (8, True)])
def test_one_channel_a_group_hides_t_from_a_level(groups, sees_t):
    block = ResBlock(32, 32, 128, 0.0, groups)
    block = randomise(block).double()
    x, emb = randn(2, 32, 8, 8, seed=1), randn(2, 128, seed=2)
    assert (not torch.allclose(block(x, emb), block(x, 3 * emb), atol=1e-3)) == sees_t


def test_the_papers_256_network_by_arguments_alone():
    with torch.device("meta"):
        model = UNet(256, 3, 128, (1, 1, 2, 2, 4, 4), 2, (16,))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 114


def test_where_the_papers_network_attends(paper):
    """At 16 x 16 after each block, 2 down and 3 up, and once in the middle."""
    count = lambda levels: [
        sum(isinstance(a, Attention) for a in level.attention) for level in levels
    ]
    assert count(paper.down) == [0, 2, 0, 0] and count(paper.up) == [0, 0, 3, 0]
    assert [type(m) for m in paper.middle] == [ResBlock, Attention, ResBlock]
    assert [len(level.blocks) for level in paper.down] == [2] * 4 and [
        len(level.blocks) for level in paper.up
    ] == [3] * 4


def test_every_group_norm_has_32_groups_and_eps_1e_6(paper):
    norms = [m for m in paper.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 2 * (8 + 2 + 12) + 6 + 1
    assert {(m.num_groups, m.eps) for m in norms} == {(32, 1e-6)}


@pytest.mark.parametrize(
    "size, multipliers, attention",
    [
        (28, (1, 2, 2), (7,)),
        (28, (1, 2), (14, 28)),
        (8, (1,), ()),
        (16, (1, 1, 2, 2), (2, 8)),
    ],
)
def test_sizes(size, multipliers, attention):
    model = small_unet(size, 1, multipliers, attention)
    x = torch.zeros(2, 1, size, size)
    assert model(x, torch.tensor([1, 1000])).shape == x.shape
    assert (
        model.conv_in.out_channels == 32
        and model.conv_out.in_channels == 32 * multipliers[0]
    )
    assert model.middle[0].conv_1.in_channels == 32 * multipliers[-1]


def test_sides_that_differ_from_image_size_and_from_each_other():
    assert small_unet(8, 1, (1, 2), (4,))(torch.zeros(1, 1, 12, 20), 1).shape == (
        1,
        1,
        12,
        20,
    )


def test_t_as_int_scalar_or_one_for_each():
    model, x = randomise(small_unet()).double().eval(), randn(2, 1, 8, 8)
    for t in (
        7,
        torch.tensor(7),
        torch.tensor([7]),
        torch.tensor([7, 7]),
        torch.tensor([7, 7], dtype=torch.int32),
    ):
        assert_close(
            model(x, t), model(x, torch.tensor([7, 7])), rtol=1e-12, atol=1e-14
        )  # one row is multiplied in another order than two


def test_time_embedding_is_sin_then_cos_of_t_minus_1():
    """Frequencies exp(-i ln 10000 / (half - 1)); the paper's t = 1 is the network's 0."""
    layer = TimeEmbedding(64)
    seen = []
    layer.linear_1.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    t = np.array([1, 2, 500, 1000])
    layer(torch.from_numpy(t))
    frequency = 10000.0 ** (-np.arange(32) / 31)
    angle = (t - 1)[:, None] * frequency
    assert_close(
        seen[0].double(),
        torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], 1)),
        rtol=0,
        atol=2e-4,
    )  # 999 float32 roundings
    assert seen[0][0].tolist() == [0.0] * 32 + [1.0] * 32


def test_time_embedding_runs_through_linear_swish_linear():
    layer = randomise(TimeEmbedding(32)).double()
    seen = []
    layer.linear_1.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    out = layer(torch.tensor([3, 7]))
    a, b = layer.linear_1, layer.linear_2
    h = seen[0] @ a.weight.T + a.bias
    assert_close(
        out, (h * torch.sigmoid(h)) @ b.weight.T + b.bias, rtol=1e-12, atol=1e-12
    )
    assert out.shape == (2, 128)


def test_downsampling_pads_below_and_to_the_right_only():
    layer = Downsample(1)
    with torch.no_grad():
        layer.conv.weight.copy_(torch.arange(9.0).view(1, 1, 3, 3))
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = (
        1  # the first window begins at the corner: it meets weight 0 at (0, 0), not weight 4 in the centre
    )
    assert layer(x)[0, 0].tolist() == [[0, 0], [0, 0]]
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 3, 3] = 1  # the last window ends one pixel beyond
    assert layer(x)[0, 0].tolist() == [[0, 0], [0, 4]]


def test_upsampling_repeats_pixels():
    layer = Upsample(1)
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.weight[0, 0, 1, 1] = 1
    assert layer(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))[0, 0].tolist() == [
        [1, 1, 2, 2],
        [1, 1, 2, 2],
        [3, 3, 4, 4],
        [3, 3, 4, 4],
    ]


def attend(x, layer):
    """softmax_j(q_i . k_j / sqrt(C)) v_j for one image, one pixel i at a time."""
    B, C, H, W = x.shape
    tokens = (
        F.group_norm(x, 32, layer.norm.weight, layer.norm.bias, 1e-6)
        .flatten(2)
        .transpose(1, 2)
    )  # (B, HW, C)
    q, k, v = (tokens @ one.weight.T + one.bias for one in (layer.q, layer.k, layer.v))
    out = torch.empty_like(tokens)
    for b in range(B):
        for i in range(H * W):
            weight = torch.exp((k[b] * q[b, i]).sum(1) / math.sqrt(C))
            out[b, i] = ((weight / weight.sum())[:, None] * v[b]).sum(0)
    return x + (out @ layer.out.weight.T + layer.out.bias).transpose(1, 2).reshape(
        B, C, H, W
    )


def test_attention_is_one_head_with_the_softmax_over_the_keys():
    layer, x = randomise(Attention(64)).double(), randn(2, 64, 3, 5)
    assert_close(layer(x), attend(x, layer), rtol=1e-10, atol=1e-10)


def residual(x, emb, block):
    conv = lambda x, layer: F.conv2d(
        x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2
    )
    norm = lambda x, layer: F.group_norm(x, 32, layer.weight, layer.bias, 1e-6)
    swish = lambda x: x * torch.sigmoid(x)
    h = (
        conv(swish(norm(x, block.norm_1)), block.conv_1)
        + (swish(emb) @ block.embed.weight.T + block.embed.bias)[:, :, None, None]
    )
    h = conv(swish(norm(h, block.norm_2)), block.conv_2)
    return h + (conv(x, block.shortcut) if h.shape[1] != x.shape[1] else x)


def test_the_whole_network_against_its_description():
    """Written again in full, for two levels: skips joined as [h, skip], last in first out; one more block on the way up."""
    m = randomise(small_unet(8, 2, (1, 2), (4,), classes=3)).double().eval()
    x, t, y = randn(3, 2, 8, 8), torch.tensor([1, 2, 1000]), torch.tensor([0, 2, 3])
    emb = m.embed_time(t) + m.embed_label.weight[y]
    conv = lambda x, layer: F.conv2d(x, layer.weight, layer.bias, padding=1)

    h0 = conv(x, m.conv_in)
    h1 = residual(h0, emb, m.down[0].blocks[0])
    down = m.down[0].resample.conv
    h2 = F.conv2d(F.pad(h1, (0, 1, 0, 1)), down.weight, down.bias, stride=2)
    h3 = attend(residual(h2, emb, m.down[1].blocks[0]), m.down[1].attention[0])
    h = residual(attend(residual(h3, emb, m.middle[0]), m.middle[1]), emb, m.middle[2])
    for i, skip in enumerate((h3, h2)):
        h = attend(
            residual(torch.cat([h, skip], 1), emb, m.up[0].blocks[i]),
            m.up[0].attention[i],
        )
    h = conv(h.repeat_interleave(2, 2).repeat_interleave(2, 3), m.up[0].resample.conv)
    for i, skip in enumerate((h1, h0)):
        h = residual(torch.cat([h, skip], 1), emb, m.up[1].blocks[i])
    h = F.group_norm(h, 32, m.norm_out.weight, m.norm_out.bias, 1e-6)
    assert_close(
        m(x, t, y), conv(h * torch.sigmoid(h), m.conv_out), rtol=1e-9, atol=1e-10
    )


def test_dropout_is_between_the_second_swish_and_its_convolution():
    block, seen = randomise(ResBlock(32, 32, 16, 0.5)).double(), {}
    block.norm_2.register_forward_hook(lambda m, a, out: seen.update(norm=out))
    block.conv_2.register_forward_pre_hook(lambda m, a: seen.update(conv=a[0]))
    block(randn(1, 32, 4, 4), randn(1, 16))
    kept = seen["conv"] != 0
    assert_close(seen["conv"][kept], 2 * F.silu(seen["norm"])[kept], rtol=0, atol=0)
    assert 0.3 < kept.double().mean() < 0.7


def test_dropout_acts_in_training_only():
    model, x = (
        randomise(small_unet(dropout=0.5)),
        randn(2, 1, 8, 8, dtype=torch.float32),
    )
    assert torch.equal(model.eval()(x, 3), model.eval()(x, 3))
    assert not torch.equal(model.train()(x, 3), model.train()(x, 3))


def test_it_starts_as_almost_zero_with_blocks_that_are_almost_the_identity():
    model, x = small_unet(8, 3, (1, 2), (4,)), randn(4, 3, 8, 8, dtype=torch.float32)
    assert 0 < model(x, 500).abs().max() < 1e-3
    h, emb = randn(2, 32, 4, 4, dtype=torch.float32), randn(2, 128, dtype=torch.float32)
    assert_close(model.down[0].blocks[0](h, emb), h, rtol=0, atol=1e-3)
    assert_close(Attention(32)(h), h, rtol=0, atol=1e-3)


def test_initialisation_is_xavier_uniform_with_zero_biases():
    model = UNet(8, 3, 64, (1,), 1, ())
    for layer in (
        model.embed_time.linear_2,
        model.down[0].blocks[0].conv_1,
        model.down[0].blocks[0].embed,
    ):
        fan = [layer.weight[0].numel(), layer.weight.numel() // layer.weight.shape[1]]
        bound = math.sqrt(6 / sum(fan))
        assert (
            0.98 * bound < layer.weight.abs().max() <= bound
            and layer.bias.abs().max() == 0
        )
        assert abs(layer.weight.mean()) < 4 * bound / math.sqrt(
            3 * layer.weight.numel()
        )
    for layer in (
        model.conv_out,
        model.down[0].blocks[0].conv_2,
        model.middle[1].out,
        model.up[0].blocks[1].conv_2,
    ):
        assert 0 < layer.weight.abs().max() < 1e-5


@pytest.mark.parametrize("classes", [None, 3])
def test_every_parameter_gets_a_gradient(classes):
    model = randomise(
        small_unet(8, 1, (1, 2), (4,), classes=classes, width=64)
    ).double()
    y = None if classes is None else torch.arange(4)
    model(
        randn(4, 1, 8, 8), torch.tensor([1, 10, 100, 1000]), *([] if y is None else [y])
    ).square().sum().backward()
    for name, p in model.named_parameters():
        if name.endswith(".k.bias"):
            assert p.grad.abs().max() < 1e-10, (
                name
            )  # a constant added to all keys leaves the softmax as it is
        else:
            assert p.grad is not None and p.grad.abs().max() > 1e-4, (
                name
            )  # and not by rounding
            assert (
                classes is None
                or "embed_label" not in name
                or (p.grad[:3].abs().amax(1) > 1e-6).all()
            )


def test_an_image_does_not_see_the_others_of_its_batch():
    model = randomise(small_unet(8, 1, (1, 2), (4,), classes=2)).double().eval()
    x, t, y = (
        randn(3, 1, 8, 8).requires_grad_(),
        torch.tensor([5, 50, 500]),
        torch.tensor([0, 1, 2]),
    )
    out = model(x, t, y)
    (grad,) = torch.autograd.grad(out[1].sum(), x)
    assert grad[1].abs().max() > 0 and grad[[0, 2]].abs().max() == 0
    for i in range(3):
        assert_close(
            out[i : i + 1],
            model(x[i : i + 1], t[i : i + 1], y[i : i + 1]),
            rtol=1e-10,
            atol=1e-10,
        )
    order = [2, 0, 1]
    assert_close(
        model(x[order], t[order], y[order]), out[order], rtol=1e-10, atol=1e-10
    )


def test_every_pixel_sees_every_pixel_where_there_is_attention():
    model = randomise(small_unet(16, 1, (1, 1), ())).double().eval()
    x = randn(1, 1, 16, 16).requires_grad_()
    (grad,) = torch.autograd.grad(model(x, 1)[0, 0, 0, 0], x)
    assert (grad != 0).all()


def test_no_label_is_the_null_class_and_labels_matter():
    model, x = (
        randomise(small_unet(classes=3, width=64)).double().eval(),
        randn(2, 1, 8, 8),
    )
    null = model(x, 5, torch.tensor([3, 3]))
    assert_close(model(x, 5), null, rtol=1e-12, atol=1e-14)
    for y in range(3):
        assert (model(x, 5, torch.tensor([y, y])) - null).abs().max() > 1e-4
    assert model.embed_label.num_embeddings == 4


def test_time_matters_and_nothing_is_drawn_from_the_global_generator(untouched):
    torch_state = torch.get_rng_state()
    model, x = (
        randomise(small_unet(width=64)).eval(),
        randn(1, 1, 8, 8, dtype=torch.float32),
    )
    torch.set_rng_state(torch_state)
    outs = [model(x, t) for t in (1, 2, 3, 1000)]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(outs) for b in outs[:i])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    model, x = (
        randomise(small_unet(8, 1, (1, 2), (4,))).eval(),
        randn(2, 1, 8, 8, dtype=torch.float32),
    )
    expected = model(x, 5)
    got = model.to(dtype)(x.to(dtype), 5)
    assert got.dtype == dtype
    assert_close(
        got.float(), expected, rtol=0, atol=1e-4 if dtype == torch.float64 else 0.15
    )


def test_on_another_device_with_times_and_labels_from_the_cpu(paper):
    x = torch.empty(2, 3, 32, 32, device="meta")
    for t in (5, torch.tensor(5), torch.tensor([1, 2])):
        assert paper(x, t).shape == x.shape
    with torch.device("meta"):
        model = UNet(8, 1, 32, (1,), 1, (), classes=3)
    assert (
        model(
            torch.empty(2, 1, 8, 8, device="meta"),
            torch.tensor([1, 2]),
            torch.tensor([0, 3]),
        ).device.type
        == "meta"
    )


def test_it_can_be_rebuilt_from_its_config():
    a, b = randomise(small_unet(8, 2, (1, 2), (4,), 0.2, 5)), None
    b = UNet(**a.config)
    b.load_state_dict(a.state_dict())
    x = randn(1, 2, 8, 8, dtype=torch.float32)
    assert torch.equal(a.eval()(x, 3), b.eval()(x, 3))
