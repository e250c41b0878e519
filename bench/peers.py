"""The libraries that ours is compared with, doing the same work as their users have it done.

Sampling and training are generators, as ours are: every `next` is one step.
"""

import importlib
import re
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm_core.processor import PackedConv2d

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "_build" / "peers"
T = 1000


# What is missing ----------------------------------------------------------------------------------------------------------------


def install() -> None:
    """Fetch what the extra `bench` names and nothing has installed, without what that depends on, into a folder of its own.

    Not into .venv: denoising-diffusion-pytorch wants torchvision, and one built for another torch than the one that is there
    fails on import, which takes diffusers, and with it the tests, down as well.
    """
    sys.path.append(str(PLACE))
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]["bench"]
    for requirement in wanted:
        module = re.match(r"[\w.-]+", requirement)[0].replace("-", "_")
        if find_spec(module) is None:
            print(f"bench: fetching {requirement}", file=sys.stderr)
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--target",
                str(PLACE),
                requirement,
            ]
            if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
                print(
                    f"bench: {requirement} cannot be had; its columns will say so",
                    file=sys.stderr,
                )
    importlib.invalidate_caches()


def denoising_diffusion_pytorch() -> Any:
    """The module with its Unet and GaussianDiffusion, or None. Its trainer's imports are stood in for; nothing here uses them."""
    if str(PLACE) not in sys.path:
        sys.path.append(str(PLACE))
    if find_spec("denoising_diffusion_pytorch") is None:
        return None
    absent = (
        "torchvision",
        "accelerate",
        "ema_pytorch",
        "pytorch_fid",
        "pytorch_fid.fid_score",
        "pytorch_fid.inception",
    )
    absent = [name for name in absent if name not in sys.modules]
    for name in absent:
        sys.modules[name] = _Anything(name)
    try:
        return importlib.import_module(
            "denoising_diffusion_pytorch.denoising_diffusion_pytorch"
        )
    except ImportError as error:
        print(
            f"bench: denoising-diffusion-pytorch cannot be imported ({error})",
            file=sys.stderr,
        )
        return None
    finally:
        for name in absent:
            del sys.modules[name]


class _Anything(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


# The networks --------------------------------------------------------------------------------------------------------------------


def diffusers_unet(config: dict[str, Any]) -> nn.Module:
    """UNet2DModel with the settings of the published CIFAR-10 weights and the sizes of our `config`: the same network."""
    from diffusers import UNet2DModel
    from diffusers.utils import logging

    logging.set_verbosity_error()
    sides = [config["image_size"] // 2**i for i in range(len(config["multipliers"]))]
    kinds = [
        "Attn{}Block2D" if side in config["attention"] else "{}Block2D"
        for side in sides
    ]
    return UNet2DModel(
        sample_size=config["image_size"],
        in_channels=config["channels"],
        out_channels=config["channels"],
        layers_per_block=config["blocks"],
        block_out_channels=[config["width"] * m for m in config["multipliers"]],
        down_block_types=[kind.format("Down") for kind in kinds],
        up_block_types=[kind.format("Up") for kind in reversed(kinds)],
        norm_num_groups=config["groups"],
        dropout=config["dropout"],
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        act_fn="silu",
    )


def ddp_diffusion(config: dict[str, Any]) -> nn.Module | None:
    """denoising-diffusion-pytorch: its own network of that width and these multipliers (other blocks, linear attention), predicting noise."""
    module = denoising_diffusion_pytorch()
    if module is None:
        return None
    unet = module.Unet(
        dim=config["width"],
        dim_mults=config["multipliers"],
        channels=config["channels"],
        dropout=config["dropout"],
    )
    return module.GaussianDiffusion(
        unet,
        image_size=config["image_size"],
        timesteps=T,
        objective="pred_noise",
        beta_schedule="linear",
    )


def layout_of(step: Callable[[], Any]) -> dict[str, str]:
    """What a step does its convolutions in: {"weights", "arithmetic", "layout"}. Read from the first convolution while it runs."""
    seen: dict[str, str] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, (nn.Conv2d, PackedConv2d)) and not seen:
            channels_last = (
                output.is_contiguous(memory_format=torch.channels_last)
                and not output.is_contiguous()
            )
            seen.update(
                weights=_name(module.weight),
                arithmetic=_name(output),
                layout="channels last" if channels_last else "channels first",
            )

    handle = nn.modules.module.register_module_forward_hook(look)
    try:
        step()
    finally:
        handle.remove()
    return seen


def given(network: nn.Module, layout: dict[str, str]) -> nn.Module:
    """A peer's network with that dtype and memory layout, by what its user would write."""
    device = next(network.parameters()).device.type
    if layout["layout"] == "channels last":
        network.to(memory_format=torch.channels_last)
    if layout["weights"] != "float32":
        network.to(getattr(torch, layout["weights"]))
    elif layout["arithmetic"] != "float32":
        network.forward = torch.autocast(device, getattr(torch, layout["arithmetic"]))(
            network.forward
        )
    return network


def _name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


# Their loops ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def diffusers_sampling(unet: nn.Module, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """DDPMPipeline.__call__, with the scheduler of the published CIFAR-10 weights."""
    from diffusers import DDPMScheduler

    scheduler, weight = (
        DDPMScheduler(variance_type="fixed_large", clip_sample=True),
        next(unet.parameters()),
    )
    unet.eval()
    image = torch.randn(shape, device=weight.device, dtype=weight.dtype)
    scheduler.set_timesteps(T)
    for t in scheduler.timesteps:
        image = scheduler.step(unet(image, t).sample, t, image).prev_sample
        yield image


def diffusers_training(unet: nn.Module, images: Tensor) -> Iterator[float]:
    """examples/unconditional_image_generation/train_unconditional.py with --use_ema, without accelerate and the reading of files.

    images  uint8 (B, C, H, W), the batch of every step; they are scaled and mirrored here, which there a loader's workers do
    """
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    device = next(unet.parameters()).device
    ema = EMAModel(
        unet.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4
    )
    noise_scheduler = DDPMScheduler(
        num_train_timesteps=T, beta_schedule="linear", prediction_type="epsilon"
    )
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )
    lr_scheduler = get_scheduler(
        "cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=100_000
    )
    unet.train()
    while True:
        clean = images.float() / 127.5 - 1
        clean = torch.where(
            torch.rand(len(clean), 1, 1, 1, device=device) < 0.5, clean.flip(3), clean
        )
        noise = torch.randn(clean.shape, dtype=clean.dtype, device=device)
        timesteps = torch.randint(0, T, (len(clean),), device=device, dtype=torch.int64)
        noisy = noise_scheduler.add_noise(clean, noise, timesteps)
        loss = F.mse_loss(unet(noisy, timesteps).sample.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        ema.step(unet.parameters())
        yield loss.detach().item()


@torch.no_grad()
def ddp_sampling(diffusion: nn.Module, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """GaussianDiffusion.p_sample_loop."""
    diffusion.eval()
    image = torch.randn(shape, device=next(diffusion.parameters()).device)
    for t in reversed(range(T)):
        image, _ = diffusion.p_sample(image, t, None)
        yield image


def ddp_training(diffusion: nn.Module, images: Tensor) -> Iterator[float]:
    """Trainer.train, without accelerate and the reading of files: Adam, gradients clipped, the average taken every tenth step."""
    weights = list(diffusion.parameters())
    average = [p.detach().clone() for p in weights]
    optimizer = torch.optim.Adam(weights, lr=1e-4, betas=(0.9, 0.99))
    diffusion.train()
    step = 0
    while True:
        clean = images.float() / 255
        clean = torch.where(
            torch.rand(len(clean), 1, 1, 1, device=clean.device) < 0.5,
            clean.flip(3),
            clean,
        )
        loss = diffusion(clean)
        total = loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 10 == 0:
            for kept, p in zip(average, weights):
                kept.lerp_(p.detach(), 1 - 0.995)
        yield total


def ddim_pipeline(unet: nn.Module, batch: int, steps: int) -> Any:
    """A callable that draws the images: DDIMPipeline, its bar switched off, as a tensor rather than as PIL images."""
    from diffusers import DDIMPipeline, DDIMScheduler

    pipeline = DDIMPipeline(
        unet.eval(),
        DDIMScheduler(num_train_timesteps=T, beta_schedule="linear", clip_sample=True),
    )
    pipeline.set_progress_bar_config(disable=True)
    return lambda: (
        pipeline(batch_size=batch, num_inference_steps=steps, output_type="pt").images
    )
