"""The same network, quicker: applied from outside, so that unet.py is plain torch.

`training(network)` and `sampling(model, ...)` return what a loop asks instead of the
network: the same weights under other layers, each with the answer of the layer whose
name it bears up to rounding. In order: GroupNorm, Dropout and attention; `remade`,
which saves memory in training; convolutions packed for sampling; the two functions.
How much quicker each part is was measured once, on one processor, and no file keeps
it; what all of them give together is in bench/results.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .runtime.hardware import choose_sampling, describe
from .unet import Attention, ResBlock, UNet, swish

LARGE = (
    2**18
)  # entries of a tensor from which on it pays to take a detour for time or memory; in float32 they fit a core's cache


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm, by another way where torch's is slow: bfloat16 on a processor, channels last, few channels a group.

    There torch reads each group's 4 to 12 channels pixel by pixel. Sums over the pixels of all channels at once, and only then over the
    channels of a group, take a third of the time. E[x^2] - E[x]^2 in float32 loses nothing that eight bits of x still had.
    """

    def forward(self, x: Tensor) -> Tensor:
        (_, C, H, W), G, train = x.shape, self.num_groups, torch.is_grad_enabled()
        slow = (
            x.device.type == "cpu"
            and x.dtype == torch.bfloat16
            and x.is_contiguous(memory_format=torch.channels_last)
        )
        if (
            not slow
            or C >= 16 * G
            or x.numel() < LARGE
            or (H * W >= 1024 and not train)
            or torch.compiler.is_compiling()
        ):
            return super().forward(x)
        answer: Tensor = cast(Any, _NormBySums).apply(
            x, self.weight, self.bias, G, self.eps
        )  # of which some versions of torch know the type
        return answer


class _NormBySums(torch.autograd.Function):
    """GroupNorm by sums, some images at a time, so that they stay in the cache from one line to the next."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, G: int, eps: float
    ) -> Tensor:
        B, C, H, W = x.shape
        if H * W >= 1024:  # there torch's own way is slow only for the gradient
            answer, mean, rstd = torch.native_group_norm(
                x, weight.float(), bias.float(), B, C, H * W, G, eps
            )
            mean, rstd = mean.view(B, G, 1), rstd.view(B, G, 1)
        else:
            answer, mean, rstd = (
                torch.empty_like(x),
                torch.empty(B, G, 1),
                torch.empty(B, G, 1),
            )
            for some, out, (pixels,) in _pieces(answer, x):
                m = pixels.sum(1).view(-1, G, C // G).mean(2, keepdim=True) / (
                    H * W
                )  # (b, G, 1)
                square = (pixels * pixels).sum(1).view(-1, G, C // G).mean(
                    2, keepdim=True
                ) / (H * W)
                r = (square - m**2 + eps).rsqrt()
                scale = r * weight.view(G, -1)  # (b, G, C/G)
                shift = bias.view(G, -1) - m * scale
                out.copy_(
                    torch.addcmul(
                        shift.view(-1, 1, C), pixels, scale.view(-1, 1, C), out=pixels
                    )
                )
                mean[some], rstd[some] = m, r
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.groups, ctx.eps = G, eps
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        """rstd (w d - <w d> - x' <w d x'>) with x' = (x - mean) rstd, d the gradient of the answer, <> the mean over a group."""
        (x, weight, bias, mean, rstd), (d,), G = (
            ctx.saved_tensors,
            gradients,
            ctx.groups,
        )
        if (
            torch.is_grad_enabled()
        ):  # somebody wants a second derivative: all of it torch's way
            inputs = [
                each
                for each, needed in zip((x, weight, bias), ctx.needs_input_grad)
                if needed
            ]
            found = iter(
                torch.autograd.grad(
                    F.group_norm(x, G, weight.to(x.dtype), bias.to(x.dtype), ctx.eps),
                    inputs,
                    d,
                    create_graph=True,
                )
            )
            return tuple(
                next(found) if needed else None for needed in ctx.needs_input_grad
            )
        answer, C, w = torch.empty_like(x), x.shape[1], weight.float().view(G, -1)
        by_weight, by_bias = torch.zeros_like(w), torch.zeros_like(w)
        for some, out, (pixels, slope) in _pieces(answer, x, d):
            m, r = mean[some], rstd[some]  # (b, G, 1)
            sums = slope.sum(1).view(-1, G, C // G)
            products = (
                (pixels * slope).sum(1).view(-1, G, C // G) - m * sums
            ) * r  # of d and x'
            by_weight += products.sum(0)
            by_bias += sums.sum(0)
            of_d, of_product = (
                (w * each).mean(2, keepdim=True) / pixels.shape[1]
                for each in (sums, products)
            )
            scale = -of_product * r**2
            shift = -of_d * r - m * scale
            scale, shift = (
                each.expand(-1, G, C // G).reshape(-1, 1, C) for each in (scale, shift)
            )
            torch.addcmul(shift, pixels, scale, out=pixels)
            out.copy_(pixels.addcmul_(slope, (w * r).view(-1, 1, C)))
        return (
            answer,
            by_weight.view(C).to(weight.dtype),
            by_bias.view(C).to(bias.dtype),
            None,
            None,
        )


def _pieces(
    out: Tensor, *images: Tensor
) -> Iterator[tuple[slice, Tensor, list[Tensor]]]:
    """Which images, their part of `out`, and they in float32, (b, H * W, C) each; the memory is the same for every piece."""
    B, C, H, W = out.shape
    step = max(1, LARGE // (C * H * W))
    memory = [torch.empty(step, H * W, C) for _ in images]
    pixels = [rearrange(each, "b c h w -> b (h w) c") for each in (out, *images)]
    for start in range(0, B, step):
        some = slice(start, min(start + step, B))
        yield (
            some,
            pixels[0][some],
            [
                place[: some.stop - start].copy_(each[some])
                for place, each in zip(memory, pixels[1:])
            ],
        )


class Dropout(nn.Dropout):
    """nn.Dropout; on a processor with 16 random bits an entry, because a Bernoulli number for each took a tenth of a training step.

    So p is rounded to 1/65536; what is kept is divided by the rounded probability, which keeps the mean.
    """

    def draw(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """What drops entries of tensors like x: the same ones each time on a processor, others each time elsewhere; none in eval mode."""
        if not self.training or self.p == 0:
            return (
                lambda x: x
            )  # not torch's dropout, which would look at `training` again when the gradient is taken
        if x.device.type != "cpu" or self.p == 1:
            return super().forward
        kept = round((1 - self.p) * 65536)
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(
            -(2**63), None
        )  # all 64 bits; four entries a word
        mask = (
            (words.view(torch.int16)[: x.numel()] < kept - 32768)
            .to(x.dtype)
            .mul_(65536 / kept)
        )
        mask = mask.as_strided(
            x.shape, torch.empty_like(x).stride()
        )  # laid out like x, or the product takes three times as long
        return lambda x: x * mask

    def forward(self, x: Tensor) -> Tensor:
        return self.draw(x)(x)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(C)) v for (B, heads, tokens, C): torch's kernel, but for few tokens in bfloat16 it takes six times as long for
    the gradient as these products do, even in float32. With them a small network trains 1.05 to 1.07 times as fast.

    seen  bool, broadcast onto (B, heads, tokens of q, tokens of k): where False, the softmax gives nothing; None: all is seen
    """
    if (
        q.device.type != "cpu"
        or q.dtype != torch.bfloat16
        or q.shape[-2] > 64
        or not torch.is_grad_enabled()
        or torch.compiler.is_compiling()
    ):
        return F.scaled_dot_product_attention(q, k, v, seen)
    with torch.autocast("cpu", enabled=False):
        scores = q.float() @ k.float().mT / math.sqrt(q.shape[-1])
        if seen is not None:
            scores = scores.masked_fill(~seen, -math.inf)
        weights = scores.softmax(-1)  # (B, heads, tokens, tokens)
        return (weights @ v.float()).to(q.dtype)


def remade(
    make: Callable[[Tensor], Tensor], x: Tensor, then: Callable[[Tensor], Tensor]
) -> Tensor:
    """then(make(x)); on a processor the gradient keeps x alone and makes make(x) again, which takes a fifth off the memory of training.

    `make` has to be cheap and to answer the same every time. Small tensors are kept: they are not worth the calls.
    """
    made = make(x)
    if (
        x.device.type != "cpu"
        or x.numel() < LARGE
        or not torch.is_grad_enabled()
        or torch.compiler.is_compiling()
    ):
        answer: Tensor = then(made)
        return answer
    place, source = made.data_ptr(), x.detach()

    def keep(tensor: Tensor) -> Tensor | None:
        return None if tensor.data_ptr() == place else tensor

    def give(kept: Tensor | None) -> Tensor:
        with (
            torch.enable_grad()
        ):  # as the first time; `source` asks for no gradient, so nothing is recorded
            return make(source) if kept is None else kept

    with torch.autograd.graph.saved_tensors_hooks(keep, give):
        answer = then(made)
    return answer


# Convolutions for sampling, which asks the same network hundreds of times. A convolution of torch lays its weights out anew at every
# call, and what is added to its result is one more pass over it. oneDNN, the library underneath, takes weights laid out once and adds in
# the same pass. torch reaches that from compiled code only, by operators whose names begin with an underscore.


class PackedConv2d(nn.Module):
    """conv(x), or conv(x) + plus in one pass for plus (B, out, H, W), or (1, out, 1, 1), the same everywhere. For use, not for training.

    Its weights are laid out for the shape of the last x. That matters: laid out for pictures of another side, or for none, they send oneDNN to
    loops that took tens of times as long (192 channels at 8 by 8, a batch of one, float32).
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.how = (
            list(cast(tuple[int, int], conv.padding)),
            list(conv.stride),
            list(conv.dilation),
            conv.groups,
        )
        self.weight = conv.weight.detach().to_mkldnn()
        self.shape: torch.Size | None = None  # for which the weights are laid out
        self.bias = cast(Tensor, conv.bias)

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        convolve, bias = torch.ops.mkldnn._convolution_pointwise, self.bias
        if x.shape != self.shape:  # from one layout to the next: no number changes
            lay_out = cast(Any, torch._C._nn).mkldnn_reorder_conv2d_weight
            self.weight = lay_out(self.weight, *self.how, list(x.shape))
            self.shape = x.shape
        if plus is not None and plus.shape[2:] == x.shape[2:]:
            both: Tensor = convolve.binary(
                x, plus, self.weight, bias, *self.how, "add", 1.0, None, [], None
            )
            return both
        if plus is not None and len(plus) == 1:
            bias, plus = bias + plus.flatten(), None
        answer: Tensor = convolve(x, self.weight, bias, *self.how, "none", [], "")
        return answer if plus is None else answer.add_(plus)


def pack(network: nn.Module) -> None:
    """Packs the convolutions of a network on a processor, in place; one with hooks or
    of another class stays, and whatever `packable` does not name.
    """
    kinds = packable()
    for name, part in network.named_children():
        if type(part) is nn.Conv2d and part.weight.dtype in kinds and _plain(part):
            setattr(network, name, PackedConv2d(part))
        else:
            pack(part)


def packable() -> set[torch.dtype]:
    """Of which convolutions packing pays here: of bfloat16 where the processor has it,
    of float32 from AVX2 on (measured: see `sampling`).
    """
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return set()
    kinds = {torch.bfloat16} if torch.ops.mkldnn._is_mkldnn_bf16_supported() else set()
    if "avx2" in describe(torch.device("cpu")).features:
        kinds.add(torch.float32)
    return kinds


def _plain(conv: nn.Conv2d) -> bool:
    return (
        conv.bias is not None
        and conv.padding_mode == "zeros"
        and isinstance(conv.padding, tuple)
        and not (conv._forward_hooks or conv._forward_pre_hooks)
    )


def added(conv: nn.Module, x: Tensor, plus: Tensor) -> Tensor:
    """conv(x) + plus, in one pass where the convolution is packed for it."""
    h: Tensor
    if isinstance(conv, PackedConv2d):
        h = conv(x, plus)
    else:
        h = conv(x)
        h += plus  # in place: what a convolution returns, no gradient needs
    return h


class _ResBlock(ResBlock):
    """The block, less memory in training, fewer passes over packed convolutions."""

    dropout: Dropout

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        time, shortcut = rearrange(self.embed(emb), "b c -> b c 1 1"), self.shortcut(x)
        h = remade(swish, self.norm_1(x), lambda h: added(self.conv_1, h, time))
        drop = self.dropout.draw(h)
        return remade(
            lambda h: drop(swish(h)),
            self.norm_2(h),
            lambda h: added(self.conv_2, h, shortcut),
        )


class _Attention(Attention):
    attend = staticmethod(attend)


QUICKER: dict[type[nn.Module], type[nn.Module]] = {
    nn.GroupNorm: GroupNorm,
    nn.Dropout: Dropout,
    ResBlock: _ResBlock,
    Attention: _Attention,
}


BLOCKS = (UNet, ResBlock, Attention)


def twin(network: nn.Module) -> nn.Module:
    """The network, its U-Nets and their blocks on quicker layers, the weights the same.

    Whatever is in a UNet, a ResBlock or an Attention is replaced layer by layer, as
    QUICKER says. A layer of a class of your own, or with a `forward` of its own, stays.
    """
    made: dict[int, nn.Module] = {}

    def walk(part: nn.Module, inside: bool) -> nn.Module:
        inside = inside or isinstance(part, BLOCKS)
        if id(part) not in made:
            kind = QUICKER.get(type(part), type(part)) if inside else type(part)
            made[id(part)] = other = kind.__new__(kind)
            other.__dict__.update(part.__dict__)  # weights, hooks and mode as they are
            parts = part._modules.items()
            children = {
                # what torch.compile has made quicker already stays as it is
                name: each
                if each is None or hasattr(each, "_orig_mod")
                else walk(each, inside)
                for name, each in parts
            }
            other.__dict__["_modules"] = children
        return made[id(part)]

    known = any(isinstance(part, BLOCKS) for part in network.modules())
    return walk(network, False) if known else network


def training(network: nn.Module) -> nn.Module:
    """What a training loop asks instead of the network, whose weights it trains.

    On a processor a twin with quicker layers, elsewhere the network itself. Its mode is
    that of the network now: call network.train() first.
    """
    parameter = next(network.parameters(), None)
    if parameter is None or parameter.device.type != "cpu":
        return network
    return twin(network)


def precision_of(model: Callable[..., Tensor], device: torch.device, asked: str) -> str:
    """What the network computes in when it samples: what is asked for, or for "auto"
    the fastest of a float32 UNet, else its own ("auto").

    Raises ValueError for a precision that cannot be had.
    """
    if isinstance(model, UNet) and model.conv_in.weight.dtype == torch.float32:
        size = sum(p.numel() for p in model.parameters())
        return choose_sampling(device, size, asked)
    if asked not in ("auto", "float32"):
        raise ValueError(
            f'precision = {asked!r} for a {type(model).__name__}; wanted "auto", which '
            "leaves a model of your own as it is, or a UNet with float32 weights"
        )
    return "auto"


def sampling(
    model: Callable[..., Tensor],
    device: torch.device,
    precision: str = "auto",
    compile: bool = False,
) -> Callable[..., Tensor]:
    """What a sampler asks instead of the model, with one t for all images.

    A UNet in that precision, by a copy of its weights, channels last, on a processor
    packed; any other model as it is. In float32 a copy pays on processors with AVX2 for
    networks of a million parameters and more: measured for 1.6 to 14.5 million, 1.00 to
    1.18 times as fast with AVX2, 1.05 to 1.33 times with AVX512.
    Raises ValueError for a precision or a compilation that cannot be had.
    """
    precision = precision_of(model, device, precision)
    if not isinstance(model, UNet):
        if compile:
            raise ValueError(
                f"compile = {compile!r} for a {type(model).__name__}; wanted a UNet: "
                "give torch.compile(model) for a model of your own"
            )
        return model
    own, processor = model.conv_in.weight.dtype, device.type == "cpu"
    pays = (
        processor
        and sum(p.numel() for p in model.parameters()) >= 1_000_000
        and torch.float32 in packable()
    )
    if not compile and (precision == "auto" or precision == "float32" and not pays):
        # A float32 network gains nothing here, and is itself asked.
        return twin(model).eval() if processor and own == torch.bfloat16 else model
    dtype = own if precision == "auto" else getattr(torch, precision)
    network = copy.deepcopy(model).eval()
    cast(Any, network.to(dtype)).to(
        memory_format=torch.channels_last
    )  # some of torch's stubs leave it out
    if processor and not compile:
        pack(network)
    run: Any = twin(network) if processor else network
    if compile:
        # On CUDA into graphs, which write their next answer over this one: see copy.
        run = torch.compile(
            run, mode="reduce-overhead" if device.type == "cuda" else None
        )

    def predict(x: Tensor, t: Tensor, *told: Tensor, **named: Tensor) -> Tensor:
        laid_out = x.to(dtype, memory_format=torch.channels_last)
        answer: Tensor = run(laid_out, t[:1], *told, **named)  # one t: one embedding
        return answer.to(x.dtype, memory_format=torch.contiguous_format, copy=True)

    return predict
