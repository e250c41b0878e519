"""ddpm encode: Algorithm 3, pictures to a file that the network has made short."""

import argparse
from pathlib import Path
from typing import Any

from ..checkpoint import beside, claim, find_checkpoint, load_checkpoint
from ..codec import encode, read_header
from ..data import load_images


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "checkpoint",
        type=Path,
        help=(
            "folder of a run, or of one checkpoint; to decode the file one needs the"
            " same"
        ),
    )
    p.add_argument(
        "--data",
        required=True,
        help="the pictures, as for ddpm train: folder:<path>, fashion-mnist, ...",
    )
    p.add_argument(
        "--split",
        choices=["train", "test"],
        default="test",
        help="of a data set that has two; a folder has none",
    )
    p.add_argument(
        "-n",
        type=int,
        default=None,
        help="number of pictures, the first ones (default: all)",
    )
    p.add_argument("--out", type=Path, required=True, help="file to write")
    p.add_argument(
        "--t",
        type=int,
        default=None,
        help=(
            "where the steps stop: 1, ..., T, in even ratios (default: about 40, with"
            " --lossy 1)"
        ),
    )
    p.add_argument(
        "--lossy",
        action="store_true",
        help=(
            "send no more than x_t: the receiver shows the network's guess of the"
            " picture, Eq. (15)"
        ),
    )
    p.add_argument("--steps", type=int, default=24, help="from T to 1")
    p.add_argument(
        "--bits",
        type=int,
        default=16,
        help="one more shortens the file, and doubles the work of encoding",
    )
    p.add_argument(
        "--seed", type=int, default=0, help="of the noise that both sides make"
    )


def run(o: argparse.Namespace) -> int:
    find_checkpoint(o.checkpoint)  # before a folder for the file is made
    claim(o.out)
    checkpoint = load_checkpoint(o.checkpoint)
    config: Any = getattr(checkpoint.model, "config", {})
    reading: dict[str, Any] = dict(checkpoint.info.get("reading", {}))
    if o.data.startswith(("folder:", "hub:")):
        reading["size"] = config.get("image_size")
    images, _ = load_images(o.data, o.split, labels=False, **reading)
    if o.n is not None and not 1 <= o.n <= len(images):
        raise ValueError(
            f"-n {o.n}; wanted from 1 to the {len(images)} pictures of {o.data}"
        )
    data = encode(
        checkpoint.model,
        checkpoint.schedule,
        images[: o.n],
        t=o.t,
        lossless=not o.lossy,
        steps=o.steps,
        bits=o.bits,
        seed=o.seed,
        progress=True,
    )
    with beside(o.out) as partial:
        partial.write_bytes(data)
    about = read_header(data)
    print(
        f"{o.out}: {about.shape[0]} pictures in {len(data)} bytes,"
        f" {'lossless' if about.lossless else 'lossy'} at t = {about.t}; now: ddpm"
        f" decode {o.checkpoint} {o.out} --out pictures"
    )
    return 0
