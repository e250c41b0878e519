"""ddpm draw: pictures from words, by the stored network."""

import argparse
from pathlib import Path

import torch

from ..checkpoint import claim
from ..data import to_uint8
from ..model import guided
from ..sampling import sample
from ..schedule import linear_schedule
from .pictures import check_png, generators, write_grid


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "caption", help="what to draw, such as 'glossy octopus on a light blue ground'"
    )
    p.add_argument("-n", "--n", type=int, default=16, help="number of images")
    p.add_argument(
        "--out", type=Path, required=True, help="picture to write, a grid (.png)"
    )
    p.add_argument("--steps", type=int, default=25, help="reverse steps, by DDIM")
    p.add_argument(
        "--guidance",
        type=float,
        default=2.0,
        help="exaggerate the words by this much; s of other papers, less one",
    )
    p.add_argument("--seed", type=int, default=0, help="image i depends on it and i")


def run(o: argparse.Namespace) -> int:
    from ..after.reading import check_known, read_captions, words_network

    if o.n < 1:
        raise ValueError(f"--n {o.n}; wanted at least 1")
    check_png(o.out)
    check_known(o.caption)
    told = read_captions([o.caption])
    net = words_network("decoder")
    claim(o.out)
    parts = []
    for first in range(0, o.n, 64):
        some = range(first, min(first + 64, o.n))
        words = {k: v.expand(len(some), *v.shape[1:]) for k, v in told.items()}
        x = sample(
            guided(net, o.guidance, **words),
            linear_schedule(),
            (len(some), 3, 32, 32),
            steps=o.steps,
            sampler="ddim",
            generator=generators(o.seed, some),
        )
        parts.append(to_uint8(x))
    write_grid(torch.cat(parts), min(8, o.n), o.out)
    print(f"{o.out}: {o.n} images of 32 x 32")
    return 0
