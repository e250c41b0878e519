"""ddpm sample: Algorithm 2, from a run to a picture or many."""

import argparse
from pathlib import Path
from typing import Any

import torch

from .. import distributed
from ..checkpoint import claim, load_checkpoint
from ..data import to_uint8
from ..hardware import choose_device
from ..sampling import Sampling, sample
from .pictures import (
    add_sampling,
    check_empty,
    check_png,
    generators,
    write_each,
    write_grid,
)


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "checkpoint", type=Path, help="folder of a run, or of one checkpoint"
    )
    p.add_argument("-n", type=int, default=64, help="number of images")
    p.add_argument(
        "--out",
        type=Path,
        required=True,
        help="picture to write, all images in a grid (.png); with --each a folder",
    )
    p.add_argument(
        "--each",
        action="store_true",
        help="a picture for each image, 00000.png, 00001.png, ..., in --out",
    )
    p.add_argument(
        "--columns",
        type=int,
        default=None,
        help=(
            "images in a row of the grid (default: as many as there are classes, "
            "up to 16; 8 without classes)"
        ),
    )
    add_sampling(p)
    p.add_argument(
        "--no-clip", action="store_true", help="do not clamp x0_hat to [-1, 1]"
    )
    p.add_argument(
        "--labels",
        nargs="+",
        default=None,
        help="class names or numbers, dealt out in turn (default: all classes)",
    )
    p.add_argument(
        "--batch-size",
        type=int,
        default=64,
        help=(
            "images at a time; changes them by rounding only, which is seen in "
            "bfloat16 (--precision float32: by a grey level at most)"
        ),
    )
    p.add_argument(
        "--seed",
        type=int,
        default=0,
        help="image i depends on the seed, i and its label only, not on -n",
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    p.add_argument(
        "--precision",
        default="auto",
        help="auto (the fastest on the device), float32, bfloat16, float16",
    )
    p.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the network: minutes at first, earned back by many images",
    )


def run(o: argparse.Namespace) -> int:
    counts = {"-n": o.n, "--columns": o.columns, "--batch-size": o.batch_size}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}; wanted at least 1")
    if o.each:
        check_empty(o.out)
    else:
        check_png(o.out, ", or --each")
    checkpoint = load_checkpoint(o.checkpoint, device=choose_device(o.device))
    model: Any = checkpoint.model
    channels, side = model.config["channels"], model.config["image_size"]
    if distributed.rank() == 0:
        claim(o.out / "00000.png" if o.each else o.out)
    labels = _labels(o.labels, checkpoint.info.get("classes"), model.classes, o.n)
    how = Sampling(
        steps=o.steps,
        sampler=o.sampler,
        variance=o.variance,
        clip_x0=not o.no_clip,
        guidance=o.guidance,
        precision=o.precision,
        compile=o.compile,
    )
    mine = distributed.shard(o.n)
    images = [torch.empty(0, channels, side, side, dtype=torch.uint8)]
    for first in range(mine.start, mine.stop, o.batch_size):
        chosen = range(first, min(first + o.batch_size, mine.stop))
        x = sample(
            model,
            checkpoint.schedule,
            (len(chosen), channels, side, side),
            how=how,
            generator=generators(o.seed, chosen),
            labels=None if labels is None else labels[first : chosen[-1] + 1],
            progress=distributed.rank() == 0,
        )
        images.append(to_uint8(x).cpu())
    drawn = distributed.gather(torch.cat(images))
    if distributed.rank() > 0:
        return 0
    if o.each:
        write_each(drawn, o.out)
    else:
        many = model.classes if (model.classes or 17) <= 16 else 8
        write_grid(drawn, min(o.columns or many, o.n), o.out)
    print(f"{o.out}: {o.n} images of {side} x {side}")
    return 0


def _labels(
    asked: list[str] | None, names: list[str] | None, classes: int | None, n: int
) -> torch.Tensor | None:
    """Labels for n images: those asked for, or all classes, in turn; None for a network
    without classes. That of image i is the same whatever n is."""
    if classes is None:
        if asked:
            raise ValueError(
                "--labels was given, but the network was trained without labels"
            )
        return None
    if asked is None:
        return torch.arange(n) % classes
    exact = {name: i for i, name in enumerate(names or [])}
    numbers = {str(i): i for i in range(classes)}  # a name goes before a number
    numbers = numbers | {name.lower(): i for name, i in exact.items()} | exact
    chosen = [numbers.get(a, numbers.get(a.lower())) for a in asked]
    if unknown := [a for a, number in zip(asked, chosen) if number is None]:
        raise ValueError(
            f"unknown label {unknown[0]!r}; wanted 0 to {classes - 1}"
            + (f" or {', '.join(names)}" if names else "")
        )
    return torch.tensor([chosen[i % len(chosen)] for i in range(n)])
