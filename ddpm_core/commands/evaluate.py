"""ddpm evaluate: bits per dimension, FID and IS of a run."""

import argparse
from pathlib import Path

from .. import distributed
from ..checkpoint import claim, find_checkpoint
from ..evaluation import Samples, evaluate, table, write_json
from .pictures import add_sampling


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "checkpoint", type=Path, help="folder of a run, or of one checkpoint"
    )
    p.add_argument(
        "--data",
        default=None,
        help="as for ddpm train (default: the data it was trained on)",
    )
    p.add_argument(
        "--unseen",
        default=None,
        help="data that it has not seen (default: the test split of --data)",
    )
    p.add_argument("-n", type=int, default=2000, help="number of samples")
    add_sampling(p)
    p.add_argument(
        "--features",
        choices=["auto", "fashion", "inception", "none"],
        default="auto",
        help=(
            "network to judge the samples with; none: draw none (auto: fashion for"
            " fashion-mnist, else inception)"
        ),
    )
    p.add_argument(
        "--bound",
        type=int,
        default=0,
        metavar="IMAGES",
        help=(
            "test images, and as many training images, whose bits/dim to measure; 0:"
            " skip it"
        ),
    )
    p.add_argument(
        "--evaluations",
        type=int,
        default=None,
        help=(
            "of the network for each of them, for an estimate, such as 20 (default: T,"
            " all terms)"
        ),
    )
    p.add_argument("--batch-size", type=int, default=64, help="images at a time")
    p.add_argument("--seed", type=int, default=0, help="of all that is random")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    p.add_argument(
        "--out",
        type=Path,
        default=None,
        help=(
            "file for the results (.json; default: evaluation.json in the folder of the"
            " run)"
        ),
    )
    p.add_argument(
        "--keep-samples",
        action="store_true",
        help=(
            "keep the samples beside --out (.npz, .png); after a stop, the same command"
            " goes on from them"
        ),
    )


def run(o: argparse.Namespace) -> int:
    out = o.out or o.checkpoint / "evaluation.json"
    if out.suffix != ".json":
        raise ValueError(f"--out {out}; wanted a file name that ends in .json")
    keep = out.with_suffix(".npz") if o.keep_samples else None
    find_checkpoint(o.checkpoint)  # before a folder for the results is made
    if distributed.rank() == 0:
        claim(out)
    how = Samples(
        n=o.n,
        steps=o.steps,
        sampler=o.sampler,
        variance=o.variance,
        guidance=o.guidance,
        seed=o.seed,
    )
    try:
        result = evaluate(
            o.checkpoint,
            how,
            data=o.data,
            unseen=o.unseen,
            features=o.features,
            bound=o.bound,
            evaluations=o.evaluations,
            batch_size=o.batch_size,
            device=o.device,
            keep=keep,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; the same command goes on from the samples in {keep}"
            if keep
            else "stopped"
        ) from None
    if distributed.rank() > 0:
        return 0
    print(table(result))
    write_json({"command": o.typed, **result}, out)
    print(
        f"{out}: written"
        + (
            f"; the samples are in {keep} and {keep.with_suffix('.png')}"
            if keep
            else ""
        )
    )
    return 0
