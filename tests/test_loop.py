"""A descent on any loss: several networks, no t, resumed to the bit, errors that cost no more than Ctrl-C."""

import math

import pytest
import torch
from laboratory import generator
from torch import Tensor, nn

from ddpm_core.runtime.log import read_log
from ddpm_core.runtime.loop import descend
from ddpm_core.runtime.store import load_network, register

PLAIN = dict(device="cpu", precision="float32", progress=False, warmup=0)


@register
class Pair(nn.Module):
    """Two encoders whose answers are to meet, as in CLIP: two networks, one loss."""

    def __init__(self, width: int = 4, dropout: float = 0.0):
        super().__init__()
        self.config = dict(width=width, dropout=dropout)
        self.image = nn.Sequential(nn.Linear(6, width), nn.Dropout(dropout))
        self.text = nn.Linear(3, width)


IMAGES = torch.randn(40, 6, generator=generator(1))
DATA = (IMAGES, IMAGES[:, :3] + 0.1 * IMAGES[:, 3:])  # what the texts say of them


def pair(dropout: float = 0.0) -> Pair:
    torch.manual_seed(0)
    return Pair(4, dropout)


def contrast(network: Pair, batch: tuple[Tensor, Tensor]) -> Tensor:
    image, text = batch
    return nn.functional.cross_entropy(
        network.image(image) @ network.text(text).T, torch.arange(len(image))
    )


def distance(network: Pair, batch: tuple[Tensor, Tensor]) -> Tensor:
    image, text = batch
    return (network.image(image) - network.text(text)).square().mean(1)


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    chosen = torch.arange(8 * step, 8 * step + 8) % 40
    return DATA[0][chosen], DATA[1][chosen]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(p, q)
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_two_encoders_learn_to_tell_pairs_apart_and_come_back_from_the_folder(tmp_path):
    network = pair()
    average = descend(
        network, contrast, batch_of, steps=60, lr=0.05, ema=0.5, out=tmp_path, **PLAIN
    )
    first = math.log(8)  # of eight pairs that look alike
    assert contrast(average, batch_of(0)) < 0.6 * first
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [50]
    kept = load_network(tmp_path)
    assert equal(kept.network, average) and kept.step == 60
    assert isinstance(kept.network, Pair) and not kept.network.training


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_resumed_descent_is_the_descent(tmp_path, weight_decay):
    args = dict(
        lr=1e-2, ema=0.9, decay=4, log_every=4, weight_decay=weight_decay, **PLAIN
    )
    whole = descend(
        pair(0.5), contrast, batch_of, steps=9, out=tmp_path / "whole", **args
    )
    stopped = pair(0.5)
    calls = []

    def interrupted(step):
        if step == 5 and not calls:
            calls.append(step)
            raise KeyError("the disk of the data is gone")
        return batch_of(step)

    with pytest.raises(KeyError):
        descend(stopped, contrast, interrupted, steps=9, out=tmp_path / "parts", **args)
    assert load_network(tmp_path / "parts").step == 5
    other = pair(0.5)
    nn.init.normal_(other.text.weight)
    torch.manual_seed(7)  # nor does it matter what else the process draws
    parts = descend(
        other,
        contrast,
        interrupted,
        steps=9,
        out=tmp_path / "parts",
        resume=True,
        **args,
    )
    assert equal(whole, parts)
