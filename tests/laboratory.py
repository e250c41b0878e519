"""What several tests share: the exact predictor for Gaussian data, small networks with known content, four standard errors."""

import pytest
import torch
from torch import Tensor, nn

from ddpm_core import Schedule, UNet

# ATEN_CPU_CAPABILITY may forbid torch instructions that the processor has; its own attention in bfloat16 then fails.
bfloat16_attention = pytest.mark.skipif(
    getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    and "AVX512" not in torch.backends.cpu.get_cpu_capability(),
    reason="torch's attention in bfloat16 fails where ATEN_CPU_CAPABILITY forbids AVX512 on a processor with AMX",
)

SHORT = Schedule(
    torch.linspace(0.01, 0.3, 20, dtype=torch.float64)
)  # 20 steps that do reach noise: alpha_bar_20 = 0.03


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


def marginal(schedule: Schedule, m: float, s: float) -> tuple[Tensor, Tensor]:
    """Mean and variance (T + 1,) of x_t for x_0 ~ N(m, s^2): Eq. (4) integrated over x_0."""
    return (
        schedule.alpha_bar.sqrt() * m,
        schedule.alpha_bar * s**2 + 1 - schedule.alpha_bar,
    )


def ideal(schedule: Schedule, m: float, s: float):
    """E[eps | x_t] for x_0 ~ N(m, s^2), the best predictor there is."""
    mean, var = marginal(schedule, m, s)

    def model(x: Tensor, t: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.ndim - 1))
        std = (1 - schedule.alpha_bar[t]).sqrt()
        return ((std / var[t]).view(shape) * (x - mean[t].view(shape))).to(x.dtype)

    return model


def assert_moments(x: Tensor, mean: float, var: float) -> None:
    """The sample mean and variance of independent Gaussian entries lie within 4 of their own standard errors."""
    x = x.double().flatten()
    n = len(x)
    assert abs(x.mean() - mean) <= 4 * (var / n) ** 0.5, (
        f"mean {x.mean():.5f}, wanted {mean:.5f} +- {4 * (var / n) ** 0.5:.5f}"
    )
    assert abs(x.var() - var) <= 4 * var * (2 / n) ** 0.5, (
        f"variance {x.var():.5f}, wanted {var:.5f} +- {4 * var * (2 / n) ** 0.5:.5f}"
    )


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter random values: layers that start at zero would hide what goes through them."""
    g = generator(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(
                torch.randn(p.shape, generator=g)
                * (0.1 if p.ndim < 2 else p[0].numel() ** -0.5)
            )
        for layer in model.modules():
            if isinstance(layer, nn.GroupNorm):
                layer.weight += 1
    return model


def small_unet(
    size: int = 8,
    channels: int = 1,
    multipliers=(1,),
    attention=(),
    dropout: float = 0.0,
    classes=None,
    blocks: int = 1,
    width: int = 32,
) -> UNet:
    torch.manual_seed(0)
    return UNet(size, channels, width, multipliers, blocks, attention, dropout, classes)


class Scale(nn.Module):
    """The smallest network: eps_hat = a x_t. It notes the times and modes it is called with, and the devices it meets."""

    def __init__(self, a: float = 0.5, classes: int | None = None):
        super().__init__()
        self.a, self.classes = nn.Parameter(torch.tensor(a)), classes
        self.times, self.modes, self.devices = [], [], set()

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.devices |= {
            x.device.type,
            t.device.type,
            (x if y is None else y).device.type,
        }
        self.times.append(t.tolist() if not t.is_meta else None)
        self.modes.append(self.training)
        return self.a * x
