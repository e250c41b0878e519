"""ddpm decode: Algorithm 4, the pictures of such a file."""

import argparse
from pathlib import Path

from ..checkpoint import load_checkpoint
from ..codec import decode, read_header
from .pictures import check_empty, write_each


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "checkpoint",
        type=Path,
        help="folder of the run or the checkpoint that the file was encoded with",
    )
    p.add_argument("file", type=Path, help="file that ddpm encode wrote")
    p.add_argument(
        "--out",
        type=Path,
        required=True,
        help=(
            "folder for the pictures, 00000.png, 00001.png, ...; must not exist, or be"
            " empty"
        ),
    )


def run(o: argparse.Namespace) -> int:
    data = o.file.read_bytes()
    read_header(data)  # a foreign file is refused before a network is loaded
    check_empty(o.out)
    checkpoint = load_checkpoint(o.checkpoint)
    images = decode(checkpoint.model, checkpoint.schedule, data, progress=True)
    write_each(images, o.out)
    print(f"{o.out}: {len(images)} pictures of {images.shape[3]} x {images.shape[2]}")
    return 0
