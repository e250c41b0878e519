"""DALL-E 2: a prior that draws a picture's embedding from words, a decoder that draws the picture (Ramesh et al. 2022)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runtime.store import register
from ..unet import TimeEmbedding, UNet, linear
from .text import Transformer


@register
class Prior(nn.Module):
    """p(z_i | caption): predicts the clean embedding from a noisy one, as a transformer over words, z_t, t, the noisy z and a query.

    model(x_t, t, context=, mask=, pooled=) -> x0_hat, like x_t (B, out): use as_eps_model(given(...), schedule, "x0").
    context (B, K, words), mask (B, K) bool, pooled (B, out): the tokens, which count, and z_t, the caption's embedding.
    A row without words, like context=None, means "no caption"; then z_t is replaced, too.

    Embeddings of unit length are scaled by sqrt(out), so that an entry has variance one and noise does not drown it.
    """

    def __init__(
        self, words: int = 128, out: int = 128, width: int = 192, layers: int = 4
    ):
        super().__init__()
        self.config = dict(words=words, out=out, width=width, layers=layers)
        self.scale = math.sqrt(out)
        self.from_words, self.from_whole = (
            nn.Linear(words, width),
            nn.Linear(out, width),
        )
        self.from_z, self.embed_time = nn.Linear(out, width), TimeEmbedding(width)
        self.from_time = nn.Linear(4 * width, width)
        self.no_words = nn.Parameter(torch.zeros(1, 1, width))
        self.no_whole = nn.Parameter(torch.zeros(1, width))
        self.query = nn.Parameter(torch.randn(1, 1, width) / 50)
        self.places = nn.Parameter(torch.randn(4, width) / 50)
        self.transformer = Transformer(width, layers, heads=6)
        self.project = nn.Linear(width, out)

    def forward(
        self,
        x: Tensor,
        t: int | Tensor,
        y: None = None,
        *,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        B = len(x)
        t = torch.full((B,), t, device=x.device) if isinstance(t, int) else t.expand(B)
        nothing = self.no_words.expand(B, 1, -1)
        if context is None or pooled is None:
            words, whole = nothing, self.no_whole.expand(B, -1)
            seen = torch.ones(B, 1, dtype=torch.bool, device=x.device)
        else:
            if mask is None:
                mask = torch.ones(context.shape[:2], dtype=torch.bool, device=x.device)
            some = mask.any(1, keepdim=True)
            words = torch.cat([nothing, self.from_words(context)], dim=1)
            seen = torch.cat([~some, mask], dim=1)
            whole = self.from_whole(pooled * self.scale)
            whole = torch.where(some, whole, self.no_whole.to(whole.dtype))
        time = self.from_time(F.silu(self.embed_time(t)))
        rest = torch.stack(
            [whole, time, self.from_z(x), self.query[:, 0].expand(B, -1)], dim=1
        )
        tokens = torch.cat([words, rest + self.places], dim=1)
        seen = F.pad(seen, (0, 4), value=True)
        answer: Tensor = self.project(self.transformer(tokens, seen)[:, -1])
        return answer


@register
class Decoder(nn.Module):
    """A U-Net that is told words and an embedding z_i: added to the time, and as four tokens before the words (Ramesh et al. 2022, "Decoder").

    model(x_t, t, context=, mask=, pooled=, z=) -> eps_hat. context (B, K, words), mask (B, K) bool and pooled (B, out) are a caption's;
    z (B, out) is a picture's embedding, of unit length. Without z, or where a row of z is all zero, "no picture" has learned
    vectors; without words, see UNet. So one network is GLIDE (words), DALL-E 2's decoder (z, or both) and unconditional (neither).
    """

    TOKENS = 4

    def __init__(self, unet: dict[str, object], out: int = 128):
        super().__init__()
        self.unet = UNet(**(unet | {"pooled": 2 * out}))  # type: ignore[arg-type]
        self.config = dict(unet=dict(unet), out=out)
        self.classes = None
        words = int(self.unet.config["context"])  # type: ignore[call-overload]
        self.to_tokens = linear(out, self.TOKENS * words)
        self.no_z = nn.Parameter(torch.zeros(1, out))
        self.no_whole = nn.Parameter(torch.zeros(1, out))

    def forward(
        self,
        x: Tensor,
        t: int | Tensor,
        y: None = None,
        *,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
        z: Tensor | None = None,
    ) -> Tensor:
        told = self.conditions(len(x), context, mask, pooled, z)
        answer: Tensor = self.unet(x, t, **told)
        return answer

    def conditions(
        self,
        B: int,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        pooled: Tensor | None = None,
        z: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """What the U-Net inside is given: context=, mask= and pooled= of both together."""
        words = int(self.unet.config["context"])  # type: ignore[call-overload]
        like = self.no_z
        if context is None:
            context, mask = like.new_zeros(B, 1, words), like.new_zeros(B, 1).bool()
        if mask is None:
            mask = torch.ones(context.shape[:2], dtype=torch.bool, device=like.device)
        some = mask.any(1, keepdim=True)
        whole = (
            self.no_whole
            if pooled is None
            else torch.where(some, pooled, self.no_whole)
        )
        z = like.new_zeros(B, like.shape[1]) if z is None else z.to(like)
        drawn = z.ne(0).any(1, keepdim=True)  # (B, 1): rows with a picture
        size = math.sqrt(like.shape[1])
        tokens = self.to_tokens(z * size).view(B, self.TOKENS, words)
        told = torch.where(drawn, z * size, self.no_z)
        return {
            "context": torch.cat([tokens, context.to(tokens)], dim=1),
            "mask": torch.cat([drawn.expand(-1, self.TOKENS), mask], dim=1),
            "pooled": torch.cat([told, (whole * size).expand(B, -1)], dim=1),
        }


def slerp(a: Tensor, b: Tensor, share: float | Tensor) -> Tensor:
    """[sin((1 - s) angle) a + sin(s angle) b] / sin(angle): along the great circle from a to b. (Ramesh et al. 2022, "Interpolations")

    a, b  (B, d), of one length; s from 0 to 1      ->  (B, d), of that length. The straight line between them would be shorter.
    Where a and b point the same way the angle is 0, and a is returned.
    """
    cos = F.cosine_similarity(a, b, dim=-1).clamp(-1, 1)[..., None]
    angle = cos.arccos()
    sin = angle.sin()
    share = torch.as_tensor(share, dtype=a.dtype, device=a.device)
    on_the_way = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / sin
    return torch.where(sin.abs() < 1e-6, a, on_the_way)
