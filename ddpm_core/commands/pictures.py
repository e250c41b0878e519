"""What commands that write pictures share."""

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..checkpoint import beside
from ..distributed import mix
from ..figures import image_grid


def add_sampling(p: argparse.ArgumentParser) -> None:
    """How pictures are drawn, as Sampling is told it."""
    p.add_argument(
        "--steps", type=int, default=None, help="reverse steps (default: all T)"
    )
    p.add_argument(
        "--sampler",
        choices=["ddpm", "ddim", "dpm"],
        default="ddpm",
        help="Algorithm 2, DDIM, or DPM-Solver++ for few steps",
    )
    p.add_argument(
        "--variance",
        choices=["beta", "beta_tilde", "learned"],
        default=None,
        help="(default: learned if it was, else beta)",
    )
    p.add_argument(
        "--guidance", type=float, default=0.0, help="exaggerate the labels by this much"
    )


def check_empty(folder: Path) -> None:
    """Raises ValueError for a place where pictures would lie among, or over, others."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"--out {folder} is there and not an empty folder; wanted a new one, so "
            "that nothing is overwritten"
        )


def check_png(out: Path, otherwise: str = "") -> None:
    """Raises ValueError for a file whose name does not end in .png."""
    if out.suffix.lower() != ".png":
        raise ValueError(
            f"--out {out}; wanted a file name that ends in .png{otherwise}"
        )


def generators(seed: int, chosen: range) -> list[torch.Generator]:
    """Of each image i a stream of its own, from the seed and i alone."""
    return [torch.Generator().manual_seed(mix(seed, "image", i)) for i in chosen]


def write_grid(images: Tensor, columns: int, out: Path) -> None:
    """All uint8 images (N, C, H, W) in one picture: whole, or not at all."""
    with beside(out) as partial:
        Image.fromarray(image_grid(images, columns)).save(partial, "PNG")


def write_each(images: Tensor, folder: Path) -> None:
    """folder/00000.png, 00001.png, ..., of uint8 images (N, C, H, W)."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        write_grid(image[None], 1, folder / f"{i:05d}.png")
