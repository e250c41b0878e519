"""Batches of any kind: found again, cut into parts, brought to a device.

A batch is a tensor, or a tuple, list or dict of them; whatever else is in it stays.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from . import distributed


@dataclass
class Batches:
    """Batches that can be found again: for `descend` in the place of an iterable.

    begin  (steps done, what the checkpoint says, {} if there is none) -> those after
    place  where the newest batch ended, for what the checkpoint is to say; of each rank
    """

    begin: Callable[[int, dict[str, Any]], Iterator[Any]]
    place: Callable[[], list[int]] | None = None

    @staticmethod
    def of(batches: "Callable[[int], Any] | Iterable[Any] | Batches") -> "Batches":
        """From a function step -> batch, or from an iterable, gone through endlessly."""
        if isinstance(batches, Batches):
            return batches
        if callable(batches):
            return Batches(lambda step, before: map(batches, count(step)))
        return Batches(lambda step, before: again(batches, step))


def again(batches: Iterable[Any], step: int = 0) -> Iterator[Any]:
    """An iterable from its beginning, again and again."""
    if step and distributed.rank() == 0:
        warnings.warn(
            "a loader cannot be asked for the batches after those that the run has "
            "seen, so it starts from its beginning; tensors and folders go on exactly "
            "(load_stream), as does a function step -> batch",
            stacklevel=3,
        )
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "the loader gave no batch; wanted an iterable of batches that can be "
                "gone through repeatedly"
            )


def split(batch: Any, parts: int) -> list[tuple[Any, float]]:
    """A batch cut along its first dimension, and each part's share of its entries."""
    if parts == 1:
        return [(batch, 1.0)]
    n = size_of(batch)
    if n < parts:
        raise ValueError(
            f"accumulate = {parts} parts of a batch of {n}; wanted at most as many "
            "parts as entries"
        )
    edges = [n * k // parts for k in range(parts + 1)]
    return [
        (over(lambda x: x[a:b], batch), (b - a) / n) for a, b in zip(edges, edges[1:])
    ]


def over(function: Callable[[Tensor], Any], batch: Any) -> Any:
    """The same batch with function(tensor) for each tensor in it."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, dict):
        return {name: over(function, part) for name, part in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)([over(function, part) for part in batch])
    return batch


def size_of(batch: Any) -> int:
    """The number of entries of the first tensor in a batch; 0 if there is none."""
    sizes: list[int] = []
    over(lambda x: sizes.append(len(x) if x.ndim else 0), batch)
    return sizes[0] if sizes else 0


def to_device(batch: Any, device: torch.device) -> Any:
    """The same batch with its tensors on the device."""
    return over(lambda x: x.to(device, non_blocking=True), batch)
