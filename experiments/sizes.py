"""What a network costs: parameters, arithmetic, memory, seconds of one core a step.

    python -m experiments.sizes                the table, a process for each row
    python -m experiments.sizes "64, small"    one row, as JSON

Seconds are those of the processor (not of the clock: they count no waiting for others),
of one thread, the median of three steps after a first one. Memory is the peak of the
process less what it has after its imports. Networks too large for a processor are counted, not run.
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
# name -> the network, and the batch that is measured (0: it is too large to be run here)
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
    "64, as wide": (dict(image_size=64, multipliers=(1, 2, 2, 2)), 0),
    "128, as wide": (dict(image_size=128, multipliers=(1, 1, 2, 2, 4)), 0),
    "256, the paper's": (
        dict(image_size=256, multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0),
        0,
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


def measure(name: str) -> dict:
    """One row of the table; memory is right in a process that does nothing else."""
    network, batch = SIZES[name]
    row: dict = {"name": name, **count(network)}
    if not batch:
        return row
    torch.set_num_threads(1)
    torch.manual_seed(0)
    unet, device = ddpm.UNet(**network), torch.device("cpu")
    side = unet.config["image_size"]
    shape = (batch, unet.config["channels"], side, side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    how = choose_training(describe(device), steps=10)
    before = peak_bytes()
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
    seconds = []
    for _ in range(4):
        began = time.process_time()
        next(run)
        seconds.append(time.process_time() - began)
    return row | {
        "batch": batch,
        "precision": how.precision,
        "seconds_an_image": float(f"{statistics.median(seconds[1:]) / batch:.3g}"),
        "memory": peak_bytes() - before,
        "machine": machine(),
    }


def rows() -> Iterator[dict]:
    command = [sys.executable, "-m", "experiments.sizes"]
    for name in SIZES:
        done = subprocess.run(
            [*command, name], check=True, stdout=subprocess.PIPE, cwd=ROOT
        )
        yield json.loads(done.stdout)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        for line in rows():
            print(json.dumps(line), flush=True)
