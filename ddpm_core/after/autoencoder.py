"""Pictures to fewer numbers and back: the first stage of latent diffusion (Rombach et al. 2022)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..runtime.store import register
from ..unet import Downsample, ResBlock, Upsample, conv3x3, norm, swish


@register
class Autoencoder(nn.Module):
    """x -> q(z | x) = N(mean, exp(log_var)), z -> x_hat: each level but the last halves the sides, then doubles them.

    channels    of the pictures            latent  channels of z
    width, multipliers, blocks             as of a UNet
    codes       None: a Gaussian posterior (KL). A number: z is replaced by the nearest of so many vectors (VQ)

    encode(x) -> mean, log_var             both (B, latent, h, w), h = H / 2 ** (levels - 1); log_var is 0 with codes
    decode(z) -> x_hat                     (B, channels, H, W), not clipped
    """

    def __init__(
        self,
        channels: int = 3,
        latent: int = 4,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 3),
        blocks: int = 1,
        groups: int = 8,
        codes: int | None = None,
    ):
        super().__init__()
        self.config = dict(
            channels=channels,
            latent=latent,
            width=width,
            multipliers=tuple(multipliers),
            blocks=blocks,
            groups=groups,
            codes=codes,
        )
        self.stride = 2 ** (len(multipliers) - 1)
        self.none = nn.Parameter(torch.zeros(1, width))  # in place of a time
        widths = [width * m for m in multipliers]

        def several(here: int, out: int) -> list[nn.Module]:
            more = [ResBlock(out, out, width, 0.0, groups) for _ in range(blocks - 1)]
            return [ResBlock(here, out, width, 0.0, groups), *more]

        self.conv_in, here = conv3x3(channels, width), width
        self.down = nn.ModuleList()
        for n, out in enumerate(widths):
            self.down.extend(several(here, out))
            here = out
            if n < len(widths) - 1:
                self.down.append(Downsample(here))
        self.norm_z = norm(here, groups)
        self.to_z = conv3x3(here, latent if codes else 2 * latent)
        self.quantizer = VectorQuantizer(codes, latent) if codes else None
        self.from_z = conv3x3(latent, here)
        self.up = nn.ModuleList()
        for n, out in enumerate(reversed(widths)):
            self.up.extend(several(here, out))
            here = out
            if n < len(widths) - 1:
                self.up.append(Upsample(here))
        self.norm_out, self.conv_out = norm(here, groups), conv3x3(here, channels)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self._check(x)
        h = self._through(self.down, self.conv_in(x))
        z = self.to_z(swish(self.norm_z(h)))
        if self.quantizer is not None:
            return z, torch.zeros_like(z)
        mean, log_var = z.chunk(2, dim=1)
        return mean, log_var.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        if z.ndim != 4 or z.shape[1] != self.config["latent"]:
            raise ValueError(
                f"z has shape {tuple(z.shape)}; wanted (B, {self.config['latent']}, h, w)"
            )
        h = self._through(self.up, self.from_z(z))
        answer: Tensor = self.conv_out(swish(self.norm_out(h)))
        return answer

    def _through(self, parts: nn.ModuleList, h: Tensor) -> Tensor:
        for part in parts:
            h = part(h, self.none) if isinstance(part, ResBlock) else part(h)
        return h

    def _check(self, x: Tensor) -> None:
        channels = self.config["channels"]
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(
                f"pictures have shape {tuple(x.shape)}; wanted (B, {channels}, H, W)"
            )
        if x.shape[2] % self.stride or x.shape[3] % self.stride:
            raise ValueError(
                f"pictures of {x.shape[2]} x {x.shape[3]} pixels; wanted sides divisible "
                f"by {self.stride}: pad or resize them"
            )


class VectorQuantizer(nn.Module):
    """Each vector of z becomes the nearest e_k of a codebook (van den Oord et al. 2017).

    z (B, C, h, w) -> quantised, like z; the numbers k (B, h, w); loss = ||sg[z] - e||^2 + beta ||z - sg[e]||^2, sg: no gradient.
    The first term moves the codebook, the second the encoder. Backwards the rounding counts as the identity (straight through).
    """

    def __init__(self, codes: int, channels: int, beta: float = 0.25):
        super().__init__()
        self.beta = beta
        self.codebook = nn.Embedding(codes, channels)
        nn.init.uniform_(self.codebook.weight, -1, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = rearrange(z, "b c h w -> b h w c").float()
        e = self.codebook.weight.float()
        with torch.no_grad():
            far = -2 * flat @ e.T + e.square().sum(
                1
            )  # + ||z||^2, the same for all codes
            k = far.argmin(-1)
        nearest = self.codebook(k).float()
        loss = F.mse_loss(nearest, flat.detach()) + self.beta * F.mse_loss(
            flat, nearest.detach()
        )
        through = flat + (nearest - flat).detach()
        return rearrange(through, "b h w c -> b c h w").to(z.dtype), k, loss


def perplexity(k: Tensor, codes: int) -> Tensor:
    """exp of the entropy of how often each code is used: `codes` if all are used alike, 1 if only one is."""
    share = torch.bincount(k.flatten(), minlength=codes).double() / k.numel()
    used: Tensor = torch.special.entr(share).sum().exp()
    return used


def kl_to_standard(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, I)) summed over each picture's numbers: (B,), nats."""
    return (mean.square() + log_var.exp() - 1 - log_var).flatten(1).sum(1) / 2


@register
class Whitening(nn.Module):
    """Per channel: z -> (z - mean) / std, by the statistics of the training latents; `undo` goes back.

    Diffusion wants numbers of variance one: with less, the schedule's end is reached too early and its start too late.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int = 4):
        super().__init__()
        self.config = dict(channels=channels)
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    @classmethod
    def of(cls, z: Tensor) -> "Whitening":
        """From latents (N, C, h, w)."""
        self = cls(z.shape[1])
        self.mean = z.mean((0, 2, 3))[:, None, None]
        self.std = z.std((0, 2, 3))[:, None, None]
        return self

    def forward(self, z: Tensor) -> Tensor:
        return (z - self.mean) / self.std

    def undo(self, z: Tensor) -> Tensor:
        return z * self.std + self.mean
