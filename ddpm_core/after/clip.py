"""CLIP: two encoders that agree on which picture belongs to which caption (Radford et al. 2021).

The loss, the encoders, and what a trained pair is good for: finding, naming, and pushing a picture towards a sentence.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..model import Model
from ..runtime.store import register
from ..schedule import Schedule, at
from ..unet import Attention, Downsample, ResBlock, TimeEmbedding, conv3x3, norm, swish
from .text import TextEncoder, Transformer


def clip_loss(pictures: Tensor, captions: Tensor, scale: Tensor | float) -> Tensor:
    """-1/2N sum_i [log softmax_j(s_ij)_i + log softmax_j(s_ji)_i], s_ij = scale f(x_i) . g(c_j). (Radford et al. 2021, figure 3)

    pictures, captions  (N, d), of unit length; row i of one belongs to row i of the other         scale  1 / tau
    -> scalar, nats: log N for encoders that know nothing, and never below log N - I(X; C) on average (van den Oord et al. 2018)
    Raises ValueError for shapes that differ.
    """
    if pictures.shape != captions.shape or pictures.ndim != 2:
        raise ValueError(
            f"pictures have shape {tuple(pictures.shape)}, captions "
            f"{tuple(captions.shape)}; wanted (N, d) both, pair by pair"
        )
    scores = scale * pictures @ captions.T  # (N, N)
    right = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


@register
class ImageEncoder(nn.Module):
    """Pictures to vectors: the way down of the U-Net, then attention and the mean over what is left. (B, 3, S, S) -> (B, out).

    t  of noisy pictures, an int or LongTensor (B,): an encoder that was trained on x_t is told t. Clean pictures are t = 1
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 4),
        blocks: int = 1,
        out: int = 128,
        groups: int = 8,
    ):
        super().__init__()
        self.config = dict(
            channels=channels,
            width=width,
            multipliers=tuple(multipliers),
            blocks=blocks,
            out=out,
            groups=groups,
        )
        self.embed_time = TimeEmbedding(width)
        self.conv_in = conv3x3(channels, width)
        self.blocks, here = nn.ModuleList(), width
        for m in multipliers:
            for _ in range(blocks):
                self.blocks.append(ResBlock(here, width * m, 4 * width, 0.0, groups))
                here = width * m
            self.blocks.append(Downsample(here))
        self.attention = Attention(here, groups)
        self.norm, self.project = norm(here, groups), nn.Linear(here, out, bias=False)

    def forward(self, x: Tensor, t: int | Tensor = 1) -> Tensor:
        t = torch.full((1,), t, device=x.device) if isinstance(t, int) else t
        emb = F.silu(self.embed_time(t))
        h = self.conv_in(x)
        for block in self.blocks:
            h = block(h, emb) if isinstance(block, ResBlock) else block(h)
        h = swish(self.norm(self.attention(h))).mean((2, 3))
        answer: Tensor = self.project(h)
        return answer


class PatchEncoder(nn.Module):
    """Pictures to vectors by another build: patches of 4 x 4 pixels as tokens of a transformer (Dosovitskiy et al. 2021)."""

    def __init__(
        self, image_size: int = 32, width: int = 128, layers: int = 5, out: int = 128
    ):
        super().__init__()
        self.config = dict(image_size=image_size, width=width, layers=layers, out=out)
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.places = nn.Parameter(torch.randn((image_size // 4) ** 2, width) / 50)
        self.transformer = Transformer(width, layers)
        self.project = nn.Linear(width, out, bias=False)

    def forward(self, x: Tensor, t: int | Tensor = 1) -> Tensor:
        tokens = rearrange(self.patches(x), "b c h w -> b (h w) c") + self.places
        answer: Tensor = self.project(self.transformer(tokens).mean(1))
        return answer


@register
class CLIP(nn.Module):
    """An image encoder, a text encoder and the logarithm of 1 / tau, which starts at 1 / 0.07 and never passes 100.

    encode_images, encode_texts  -> unit vectors (B, out)
    clip(images, tokens)         -> the loss of this batch of pairs
    """

    def __init__(
        self, image: dict[str, object], text: dict[str, object], patches: bool = False
    ):
        super().__init__()
        self.config = dict(image=image, text=text, patches=patches)
        kind: type[nn.Module] = PatchEncoder if patches else ImageEncoder
        self.image, self.text = kind(**image), TextEncoder(**text)  # type: ignore[arg-type]
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def scale(self) -> Tensor:
        """1 / tau."""
        return self.log_scale.clamp(max=math.log(100)).exp()

    def encode_images(self, images: Tensor, t: int | Tensor = 1) -> Tensor:
        return F.normalize(self.image(images, t).float(), dim=1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.text(tokens)[1].float(), dim=1)

    def forward(self, images: Tensor, tokens: Tensor, t: int | Tensor = 1) -> Tensor:
        return clip_loss(
            self.encode_images(images, t), self.encode_texts(tokens), self.scale
        )


def clip_guidance(
    model: Model,
    schedule: Schedule,
    encode: Callable[[Tensor, Tensor], Tensor],
    text: Tensor,
    s: float,
    scale: float | Tensor = 1.0,
) -> Model:
    """eps_hat - s sqrt(1 - alpha_bar_t) grad f(x_t, t) . g(c) / tau, as a model. (Nichol et al. 2021, GLIDE, "CLIP guidance")

    encode  (x_t, t) -> unit vectors (B, d), an encoder that was trained on x_t       text  (B, d) or (d,), unit vectors g(c)
    s       the strength, 0 for none                                                  scale  1 / tau
    The gradient is taken in float32. Left out is the normaliser, grad log sum_c' p(c') exp(f . g(c') / tau): it is constant only
    where the loss of CLIP is at its minimum.
    """

    def guided(x: Tensor, t: int | Tensor) -> Tensor:
        with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
            leaf = x.detach().float().requires_grad_(True)
            t = torch.full((len(x),), t, device=x.device) if isinstance(t, int) else t
            score = (encode(leaf, t) * text).sum() * scale
            (slope,) = torch.autograd.grad(score, leaf)
        weight = at((1 - schedule.alpha_bar).sqrt(), t, x)
        return model(x, t) - s * weight * slope.to(x.dtype)

    return guided
