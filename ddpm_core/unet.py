"""eps_theta: the U-Net of the paper (appendix B), in one file, read from the parts to
the whole.

Shapes stand at the line's end: B images, C channels, H x W pixels, E = 4 * width
entries of the time embedding.
"""

import math
from collections.abc import Iterable
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .schedule import check_t

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class UNet(nn.Module):
    """eps_theta(x_t, t): takes a noisy image and its time, returns a guess of the noise
    in it.

    image_size   side of the (square) images; it must be divisible by 2 ** (levels - 1)
    channels     of the images: 3 for colour, 1 for grey
    width        channels of the first level; a multiple of `groups`
    multipliers  level i has width * multipliers[i] channels at image_size / 2 ** i
                 pixels
    blocks       residual blocks a level on the way down; one more on the way up
    attention    sides (in pixels) of the levels that get self-attention; there is
                 always one in the middle
    dropout      probability inside the residual blocks
    classes      number of labels for a conditional model, or None. The label `classes`
                 itself means "no label"
    groups       of every GroupNorm. The paper's 32 wants a width of 64 or more: with 32
                 channels each is a group of its own, whose norm takes away again what
                 the time embedding has added to it, and that level does not see t. Use
                 8 there
    learn_variance  answer with 2 * channels, [prediction | v]: v is the log of what
                    multiplies beta_t, see reverse_variance
    condition    channels that are laid beside x_t, such as a picture to be enlarged.
                 Their weights start at zero: the network starts as the one without them
    context      entries of a token, such as a word's, which every attention then reads
                 beside the pixels (Nichol et al. 2021, GLIDE), or None
    pooled       entries of one vector for all of it, added to the time's, or None

    model(x_t, t) with x_t (B, channels, H, W) float and t an int or LongTensor (B,) in
    1..T returns a tensor like x_t. Between whole times t may be a float or a tensor of
    floats. The defaults are the paper's CIFAR-10 network. What else it may be told:
    y          labels, LongTensor (B,)
    condition  (B, condition, H, W) float
    context    (B, K, context) float, K tokens
    mask       (B, K) bool, False for tokens that are no words; None: all are
    pooled     (B, pooled) float
    A row of the mask without a single True, like context=None, means "no words": one
    learned token, and one learned vector for `pooled`, stand for that.
    Raises ValueError for sizes that cannot be halved often enough, for attention at a
    side that no level has and for x_t, t or conditions that do not fit; TypeError for
    sizes that are no whole numbers.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 128,
        multipliers: tuple[int, ...] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: tuple[int, ...] = (16,),
        dropout: float = 0.1,
        classes: int | None = None,
        groups: int = 32,
        learn_variance: bool = False,
        condition: int = 0,
        context: int | None = None,
        pooled: int | None = None,
    ):
        super().__init__()
        _check_whole(
            image_size=image_size,
            channels=channels,
            width=width,
            multipliers=multipliers,
            blocks=blocks,
            attention=attention,
            groups=groups,
            condition=condition,
            context=context or 0,
            pooled=pooled or 0,
        )
        multipliers, attention = tuple(multipliers), tuple(attention)
        self.config = dict(
            image_size=image_size,
            channels=channels,
            width=width,
            multipliers=multipliers,
            blocks=blocks,
            attention=attention,
            dropout=dropout,
            classes=classes,
            groups=groups,
            learn_variance=learn_variance,
        )
        more = dict(condition=condition, context=context, pooled=pooled)
        self.config |= {name: size for name, size in more.items() if size}
        self.classes, self.stride = classes, 2 ** (len(multipliers) - 1)
        _check_sizes(
            image_size,
            channels,
            width,
            multipliers,
            blocks,
            attention,
            dropout,
            classes,
            groups,
            condition,
            context,
            pooled,
        )
        sides = [image_size // 2**i for i in range(len(multipliers))]
        widths = [width * m for m in multipliers]

        self.embed_time = TimeEmbedding(width)
        self.embed_label = nn.Embedding(classes + 1, 4 * width) if classes else None
        self.embed_pooled = linear(pooled, 4 * width) if pooled else None
        self.no_pooled = nn.Parameter(torch.zeros(1, pooled)) if pooled else None
        self.no_words = (
            nn.Parameter(torch.randn(1, 1, context) / 50) if context else None
        )
        self.conv_in = conv3x3(channels + condition, width)
        nn.init.zeros_(self.conv_in.weight[:, channels:])  # what is beside x_t

        here, skips = width, [width]
        self.down = nn.ModuleList()
        for side, out in zip(sides, widths):
            level = Level()
            for _ in range(blocks):
                level.blocks.append(ResBlock(here, out, 4 * width, dropout, groups))
                level.attention.append(
                    Attention(out, groups, context)
                    if side in attention
                    else nn.Identity()
                )
                here = out
                skips.append(here)
            if side != sides[-1]:
                level.resample = Downsample(here)
                skips.append(here)
            self.down.append(level)

        self.middle = nn.ModuleList(
            [
                ResBlock(here, here, 4 * width, dropout, groups),
                Attention(here, groups, context),
                ResBlock(here, here, 4 * width, dropout, groups),
            ]
        )

        self.up = nn.ModuleList()
        for side, out in zip(reversed(sides), reversed(widths)):
            level = Level()
            for _ in range(blocks + 1):
                level.blocks.append(
                    ResBlock(here + skips.pop(), out, 4 * width, dropout, groups)
                )
                level.attention.append(
                    Attention(out, groups, context)
                    if side in attention
                    else nn.Identity()
                )
                here = out
            if side != sides[0]:
                level.resample = Upsample(here)
            self.up.append(level)

        self.norm_out = norm(here, groups)
        self.conv_out = conv3x3(
            here, 2 * channels if learn_variance else channels, scale=0.0
        )

    def forward(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        *,
        condition: Tensor | None = None,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        self._check_input(x, t, y)
        self._check_conditions(x, condition, context, mask, pooled)
        asked, own = x.dtype, self.conv_in.weight.dtype
        if asked != own and not torch.is_autocast_enabled(x.device.type):
            x = x.to(own)  # computed as the weights are, answered as it was asked
        emb = self.embed(x, t, y, mask, pooled)
        text = self.read(x, context, mask)
        h, skips = self.encode(x, emb, condition, text)
        answer = self.decode(h, skips, emb, text)
        return answer if x.dtype == asked else answer.to(asked)

    def embed(
        self,
        x: Tensor,
        t: float | Tensor,
        y: Tensor | None = None,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        """What every block is told: the time, the label, the whole of the words."""
        t = (
            t.to(x.device).reshape(-1)
            if isinstance(t, Tensor)
            else torch.full((1,), t, device=x.device)
        )
        emb = self.embed_time(t)  # (B, E), or (1, E) for one t for all images
        if self.embed_label is not None:
            none = torch.full(t.shape, self.classes or 0, device=x.device)
            emb = emb + self.embed_label(none if y is None else y.to(x.device))
        if self.embed_pooled is not None and self.no_pooled is not None:
            told = self.no_pooled if pooled is None else pooled.to(self.no_pooled)
            if pooled is not None and mask is not None:
                told = torch.where(mask.any(1, keepdim=True), told, self.no_pooled)
            emb = emb + self.embed_pooled(told)
        return F.silu(emb)  # (B, E)

    def read(
        self, x: Tensor, context: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor] | None:
        """The tokens that attention sees, the learned one for "no words" first, and
        which of them each image sees.
        """
        if self.no_words is None:
            return None
        nothing = self.no_words.expand(len(x), -1, -1)  # (B, 1, context)
        if context is None:
            return nothing, torch.ones(len(x), 1, dtype=torch.bool, device=x.device)
        if mask is None:
            mask = torch.ones(context.shape[:2], dtype=torch.bool, device=x.device)
        tokens = torch.cat([nothing, context.to(nothing)], dim=1)  # (B, 1 + K, context)
        return tokens, torch.cat([~mask.any(1, keepdim=True), mask], dim=1)

    def encode(
        self,
        x: Tensor,
        emb: Tensor,
        condition: Tensor | None = None,
        text: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """The way down and the middle, and what the way up will look at again."""
        h = x if condition is None else torch.cat([x, condition.to(x)], dim=1)
        h = self.conv_in(h)  # (B, width, H, W)
        skips = [h]
        for level in cast(Iterable[Level], self.down):
            for block, attention in zip(level.blocks, level.attention):
                h = look(attention, block(h, emb), text)
                skips.append(h)
            if level.resample is not None:
                h = level.resample(h)  # (B, C, H/2, W/2)
                skips.append(h)
        first, attention, second = self.middle
        return second(look(attention, first(h, emb), text), emb), skips

    def decode(
        self,
        h: Tensor,
        skips: list[Tensor],
        emb: Tensor,
        text: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The way up; takes the skips off the end of the list."""
        for level in cast(Iterable[Level], self.up):
            for block, attention in zip(level.blocks, level.attention):
                h = block(
                    torch.cat([h, skips.pop()], dim=1), emb
                )  # skip: (B, C', H, W)
                h = look(attention, h, text)
            if level.resample is not None:
                h = level.resample(h)  # (B, C, 2H, 2W)
        answer: Tensor = self.conv_out(swish(self.norm_out(h)))
        return answer  # (B, channels, H, W), twice the channels with learn_variance

    def _check_conditions(
        self,
        x: Tensor,
        condition: Tensor | None,
        context: Tensor | None,
        mask: Tensor | None,
        pooled: Tensor | None,
    ) -> None:
        c, B = dict(condition=0, context=0, pooled=0) | self.config, len(x)
        wanted = {
            "condition": (condition, c["condition"], (B, c["condition"], *x.shape[2:])),
            "context": (context, c["context"], (B, None, c["context"])),
            "pooled": (pooled, c["pooled"], (B, c["pooled"])),
        }
        for name, (given, size, shape) in wanted.items():
            form = str(shape).replace("None", "K")
            if given is None:
                if name == "condition" and size:
                    raise ValueError(
                        f"this UNet has condition = {size} channels beside x_t and was "
                        f"given none; wanted condition=, floats of shape {form}"
                    )
                continue
            if not size:
                raise ValueError(
                    f"{name}= was given to a UNet without; build it with"
                    f" UNet({name}=...)"
                )
            if not isinstance(given, Tensor) or not given.is_floating_point():
                kind = getattr(given, "dtype", type(given).__name__)
                raise TypeError(f"{name} is {kind}; wanted floats of shape {form}")
            if len(given.shape) != len(shape) or any(
                n is not None and n != m for n, m in zip(shape, given.shape)
            ):
                raise ValueError(
                    f"{name} has shape {tuple(given.shape)}; wanted {form}"
                )
        if mask is not None and (
            context is None
            or mask.dtype != torch.bool
            or mask.shape != context.shape[:2]
        ):
            raise ValueError(
                f"mask has shape {tuple(mask.shape)} and dtype {mask.dtype}; wanted "
                f"bool (B, K) beside context= of shape (B, K, {c['context']})"
            )

    def _check_input(self, x: Tensor, t: float | Tensor, y: Tensor | None) -> None:
        channels = self.config["channels"]
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(
                f"x_t is {getattr(x, 'dtype', type(x).__name__)}; wanted a float tensor"
                f" (B, {channels}, H, W)"
            )
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(
                f"x_t has shape {tuple(x.shape)}; wanted (B, {channels}, H, W)"
            )
        if (
            x.device.type == "cpu" and x.isnan().any()
        ):  # elsewhere the question would make the host wait
            raise ValueError("x_t contains NaN; wanted numbers")
        if x.shape[2] % self.stride or x.shape[3] % self.stride:
            raise ValueError(
                f"images of {x.shape[2]} x {x.shape[3]} pixels cannot be halved"
                f" {len(self.down) - 1} times; wanted sides divisible by {self.stride}:"
                " pad them, or use fewer multipliers"
            )
        check_t(t, 2**31, real=True)
        if isinstance(t, Tensor) and t.ndim == 1 and len(t) not in (1, len(x)):
            raise ValueError(
                f"t has {len(t)} entries for a batch of {len(x)}; wanted one t for each"
                " image, or an int"
            )
        if y is not None:
            if self.classes is None:
                raise ValueError(
                    "labels were given to a model without classes; build it with"
                    " UNet(classes=...)"
                )
            if not isinstance(y, Tensor):
                raise TypeError(
                    f"labels are a {type(y).__name__}; wanted a LongTensor ({len(x)},)"
                )
            if y.shape != (len(x),) or y.dtype != torch.int64:
                raise ValueError(
                    f"labels have shape {tuple(y.shape)} and dtype {y.dtype}; wanted a"
                    f" LongTensor ({len(x)},)"
                )
            if (
                y.device.type == "cpu"
                and len(y)
                and not (0 <= int(y.min()) and int(y.max()) <= self.classes)
            ):
                raise ValueError(
                    f"labels run from {int(y.min())} to {int(y.max())}; "
                    f"wanted 0..{self.classes - 1}, or {self.classes} for no label"
                )


class Level(nn.Module):
    """The blocks of one resolution, each with its attention (or none), and the way to
    the next resolution (or none).
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.attention = nn.ModuleList(), nn.ModuleList()
        self.resample: nn.Module | None = None


class TimeEmbedding(nn.Module):
    """t -> (sin, cos) at `width` / 2 frequencies from 1 down to 1/10000 -> Linear,
    swish, Linear: (B,) -> (B, E).
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.linear_1, self.linear_2 = (
            linear(width, 4 * width),
            linear(4 * width, 4 * width),
        )

    def forward(self, t: Tensor) -> Tensor:
        half = self.width // 2
        frequency = torch.exp(
            torch.arange(half, device=t.device) * (-math.log(10000) / (half - 1))
        )
        # The only t - 1 in the package: published weights were trained on times 0..T-1.
        angle = rearrange(t - 1, "b -> b 1") * frequency  # (B, half)
        emb = torch.cat([angle.sin(), angle.cos()], dim=1).to(
            self.linear_1.weight.dtype
        )  # (B, width)
        answer: Tensor = self.linear_2(F.silu(self.linear_1(emb)))
        return answer


class ResBlock(nn.Module):
    """norm - swish - conv, plus the time; norm - swish - dropout - conv; plus the
    input: (B, C, H, W) -> (B, out, H, W).
    """

    def __init__(
        self, channels: int, out: int, embedding: int, dropout: float, groups: int = 32
    ):
        super().__init__()
        self.norm_1, self.conv_1 = norm(channels, groups), conv3x3(channels, out)
        self.embed = linear(embedding, out)
        self.norm_2, self.conv_2 = norm(out, groups), conv3x3(out, out, scale=0.0)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if channels == out else conv1x1(channels, out)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv_1(swish(self.norm_1(x)))  # (B, out, H, W)
        # In place: what a convolution has returned, no gradient needs.
        h += rearrange(self.embed(emb), "b c -> b c 1 1")
        h = self.conv_2(self.dropout(swish(self.norm_2(h))))
        h += self.shortcut(x)
        answer: Tensor = h
        return answer


class Attention(nn.Module):
    """Self-attention over the pixels, one head: softmax(q k^T / sqrt(C)) v, added to
    the input. (B, C, H, W) -> the same.

    With `context` the K tokens of a text join the pixels as keys and values: one
    softmax over both, so each pixel shares its attention out between other pixels and
    words (Nichol et al. 2021, GLIDE).
    """

    def __init__(self, channels: int, groups: int = 32, context: int | None = None):
        super().__init__()
        self.norm = norm(channels, groups)
        self.q, self.k, self.v = (linear(channels, channels) for _ in range(3))
        self.out = linear(channels, channels, scale=0.0)
        self.context = linear(context, 2 * channels) if context else None

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor] | None = None) -> Tensor:
        # One token a pixel, one head: named, or torch takes a slower way; copied once
        # here, not once for each of q, k and v.
        tokens = rearrange(self.norm(x), "b c h w -> b 1 (h w) c").contiguous()
        q, k, v = self.q(tokens), self.k(tokens), self.v(tokens)  # (B, 1, HW, C)
        seen = None
        if self.context is not None and text is not None:
            words = rearrange(
                self.context(text[0]), "b k (two c) -> two b 1 k c", two=2
            )
            k, v = torch.cat([words[0], k], dim=2), torch.cat([words[1], v], dim=2)
            seen = F.pad(text[1], (0, tokens.shape[2]), value=True)[:, None, None]
        h = self.attend(q, k, v, seen)  # (B, 1, HW, C)
        answer: Tensor = x + rearrange(
            self.out(h), "b 1 (h w) c -> b c h w", h=x.shape[2]
        )
        return answer

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        """softmax(q k^T / sqrt(C)) v over the tokens that are seen; None: all are."""
        return F.scaled_dot_product_attention(q, k, v, seen)


def look(attention: nn.Module, h: Tensor, text: tuple[Tensor, Tensor] | None) -> Tensor:
    """The attention of a block, or nothing where there is none."""
    answer: Tensor = attention(h, text) if isinstance(attention, Attention) else h
    return answer


class Downsample(nn.Module):
    """A 3 x 3 convolution with stride 2. Padded at the bottom and right only, as the
    published weights expect.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3x3(channels, channels, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))  # (B, C, H/2, W/2)
        return answer


class Upsample(nn.Module):
    """Every pixel becomes 2 x 2 pixels, then a 3 x 3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.conv(
            F.interpolate(x, scale_factor=2.0, mode="nearest")
        )  # (B, C, 2H, 2W)
        return answer


def swish(x: Tensor) -> Tensor:
    """x sigmoid(x); in place where no gradient asks for x again."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


def norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


def conv3x3(
    channels: int, out: int, scale: float = 1.0, stride: int = 1, padding: int = 1
) -> nn.Conv2d:
    return initialise(nn.Conv2d(channels, out, 3, stride, padding), scale)


def conv1x1(channels: int, out: int) -> nn.Conv2d:
    return initialise(nn.Conv2d(channels, out, 1), 1.0)


def linear(channels: int, out: int, scale: float = 1.0) -> nn.Linear:
    return initialise(nn.Linear(channels, out), scale)


def initialise(layer: Layer, scale: float) -> Layer:
    """Xavier uniform with variance `scale`; scale 0 stands for 1e-10, "almost zero":
    the layer starts as if it were not there.
    """
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale or 1e-10))
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


def _check_whole(**sizes: object) -> None:
    for name, size in sizes.items():
        many = name in ("multipliers", "attention")
        if many != isinstance(size, (tuple, list)) or any(
            isinstance(n, bool) or not isinstance(n, int)
            for n in (cast(Iterable[object], size) if many else (size,))
        ):
            raise TypeError(
                f"{name} = {size!r}; wanted"
                f" {'whole numbers, such as (1, 2, 2)' if many else 'a whole number'}"
            )


def _check_sizes(
    image_size: int,
    channels: int,
    width: int,
    multipliers: tuple[int, ...],
    blocks: int,
    attention: tuple[int, ...],
    dropout: float,
    classes: int | None,
    groups: int,
    condition: int,
    context: int | None,
    pooled: int | None,
) -> None:
    levels = len(multipliers)
    if min(more := (condition, context or 0, pooled or 0)) < 0:
        raise ValueError(
            f"condition, context, pooled = {more}; wanted sizes of at least 0"
        )
    if levels < 1 or blocks < 1 or channels < 1 or min(multipliers) < 1:
        raise ValueError(
            f"multipliers = {multipliers}, blocks = {blocks}, channels = {channels};"
            " wanted at least one, each at least 1"
        )
    if groups < 1 or width < groups or width % groups:
        raise ValueError(
            f"width = {width}; wanted a multiple of {groups}, because GroupNorm has"
            f" groups = {groups}"
        )
    if image_size < 1 or image_size % 2 ** (levels - 1):
        halvings = (image_size & -image_size).bit_length() - 1 if image_size > 0 else 0
        raise ValueError(
            f"image_size = {image_size} cannot be halved {levels - 1} times, as"
            f" {levels} multipliers ask; wanted at most {halvings + 1} multipliers,"
            f" such as {(1, 2, 2, 2, 2)[: halvings + 1]}, or padded images"
        )
    sides = [image_size // 2**i for i in range(levels)]
    if missing := [a for a in attention if a not in sides]:
        raise ValueError(
            f"attention at side {missing} but the levels have sides {sides}; wanted"
            " some of these, or () for none"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout = {dropout}; wanted a probability, 0 <= dropout < 1")
    if classes is not None and classes < 1:
        raise ValueError(f"classes = {classes}; wanted None or the number of labels")


def cifar10_unet() -> UNet:
    """The paper's CIFAR-10 network: 35,746,307 parameters. (Appendix B)"""
    return UNet()
