"""What a network costs: parameters, arithmetic, memory, seconds of one core a step.

    python -m experiments.sizes                  the table, two processes for each row
    python -m experiments.sizes "64, small" 8    one batch, as JSON

Seconds are those of the processor (not of the clock: they count no waiting for others),
of one thread, the median of three steps after a first one. Memory is the peak of the
process less what it has after a step of a toy, for a batch and for one twice as large:
the difference is what so many pictures more take.
"""

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

import ddpm_core as ddpm
from bench.measure import peak_bytes
from ddpm_core import training
from ddpm_core.runtime.hardware import choose_training, describe
from experiments.results import ROOT, machine

SMALL = dict(width=32, blocks=1, groups=8)
# name -> the network, and the smaller of the batches that are measured
SIZES: dict[str, tuple[dict, int]] = {
    "32 grey, small": (
        dict(image_size=32, channels=1, multipliers=(1, 2, 2), attention=(8,), **SMALL),
        16,
    ),
    "32, small": (
        dict(image_size=32, multipliers=(1, 2, 2), attention=(8,), **SMALL),
        16,
    ),
    "64, small": (
        dict(image_size=64, multipliers=(1, 2, 2, 4), attention=(8,), **SMALL),
        8,
    ),
    "128, small": (
        dict(image_size=128, multipliers=(1, 1, 2, 2, 4), attention=(8,), **SMALL),
        4,
    ),
    "32, the paper's": (dict(), 4),
    "64, as wide": (dict(image_size=64, multipliers=(1, 2, 2, 2)), 2),
    "128, as wide": (dict(image_size=128, multipliers=(1, 1, 2, 2, 4)), 1),
    "256, the paper's": (
        dict(image_size=256, multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0),
        1,
    ),
}


def count(network: dict) -> dict:
    """Parameters, and the arithmetic of one image forward: a multiplication and an
    addition are two operations. On the meta device, which holds and computes nothing."""
    with torch.device("meta"):
        unet = ddpm.UNet(**network).eval()
        channels, side = unet.config["channels"], unet.config["image_size"]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(torch.empty(1, channels, side, side), torch.ones(1, dtype=torch.long))
    return {
        "parameters": sum(p.numel() for p in unet.parameters()),
        "gflop": round(counter.get_total_flops() / 1e9, 3),
    }


def steps_of(network: dict, batch: int) -> tuple[Iterator[training.TrainingState], str]:
    """Steps of training on pictures of noise, and the precision that is chosen."""
    torch.manual_seed(0)
    unet, device = ddpm.UNet(**network), torch.device("cpu")
    side = unet.config["image_size"]
    shape = (batch, unet.config["channels"], side, side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    how = choose_training(describe(device), steps=10)
    state = training.start(
        unet, device, how.precision, 2e-4, how.channels_last, how.fused
    )
    run = training.training_steps(
        state,
        ddpm.linear_schedule(),
        itertools.repeat((images, None)),
        steps=10,
        precision=how.precision,
    )
    return run, how.precision


def measure(name: str, batch: int) -> dict:
    """Seconds and memory are right in a process that does nothing else."""
    torch.set_num_threads(1)
    toy = dict(image_size=8, width=8, multipliers=(1,), attention=(8,), groups=4)
    next(steps_of(toy, 1)[0])  # what the first step of all loads is no network's
    before = peak_bytes()
    run, precision = steps_of(SIZES[name][0], batch)
    seconds = []
    for _ in range(4):
        began = time.process_time()
        next(run)
        seconds.append(time.process_time() - began)
    return {
        "precision": precision,
        "seconds_an_image": float(f"{statistics.median(seconds[1:]) / batch:.3g}"),
        "memory": peak_bytes() - before,
        "machine": machine(),
    }


def rows() -> Iterator[dict]:
    command = [sys.executable, "-m", "experiments.sizes"]
    for name, (network, batch) in SIZES.items():
        one, two = (
            json.loads(
                subprocess.run(
                    [*command, name, str(many)],
                    check=True,
                    stdout=subprocess.PIPE,
                    cwd=ROOT,
                ).stdout
            )
            for many in (batch, 2 * batch)
        )
        more = two["memory"] - one["memory"]
        row = {"name": name, **count(network), "batch": batch} | one
        yield row | {"memory_an_image": more // batch}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
    else:
        for line in rows():
            print(json.dumps(line), flush=True)
