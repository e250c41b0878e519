"""What test_loop.py runs in two processes, started by torchrun: a descent, and one whose data end on one rank."""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from ddpm_core.runtime import distributed
from ddpm_core.runtime.loop import descend


class Two(nn.Module):
    """Two networks, neither of which is called through the other's forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 4), nn.Linear(3, 4)


def loss(network: Two, batch: tuple) -> torch.Tensor:
    image, text, _ = batch
    return (network.image(image) - network.text(text)).square().mean(1)


def draw(batch: tuple) -> tuple:
    """The same noise, whoever draws it: for the whole batch."""
    image, text, whole = batch
    mine = distributed.shard(8)
    noise = torch.randn(8, 6)[mine.start : mine.stop]
    return image + noise, text, whole


def batch_of(step: int) -> tuple:
    g = torch.Generator().manual_seed(step)
    image, text = torch.randn(8, 6, generator=g), torch.randn(8, 3, generator=g)
    mine = distributed.shard(8)
    return image[mine.start : mine.stop], text[mine.start : mine.stop], "whole"


def failing(step: int) -> tuple:
    if step == 3 and distributed.rank() == 1:
        raise OSError("the disk of rank 1 is gone")
    return batch_of(step)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    args = dict(
        lr=1e-2, warmup=0, device="cpu", precision="float32", progress=False, draw=draw
    )
    size, rank = distributed.size(), distributed.rank()
    for accumulate in (1, 2):
        network = Two()
        descend(network, loss, batch_of, steps=5, accumulate=accumulate, **args)
        save_file(network.state_dict(), out / f"{size}-{rank}-{accumulate}.safetensors")
    if size > 1:
        descend(Two(), loss, failing, steps=9, save_every=100, out=out / "run", **args)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
