"""Images that memory cannot hold: batch after batch, shuffled, resumed in the middle.

A folder is shuffled as a whole, in the same order in which `train` takes images that
are in memory; so any batch can be had by its number, and a resumed run goes on exactly,
on any number of ranks. A stream from the hub is read from its beginning and shuffled
within a buffer; to go on, it is read again up to the place where it stopped (without
decoding), on the same number of ranks. Each picture becomes the same pixels as in
memory (load_images).
"""

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from . import distributed
from .data import PAPER, find_columns, find_source, look_into, names_of, open_hub
from .distributed import mix, shard
from .runtime.pictures import (
    WHITE,
    Found,
    Ground,
    check_ground,
    check_size,
    find_images,
    fit,
    folder_labels,
    is_grey,
    read_image,
    to_tensor,
    too_large,
)

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Batch = tuple[Tensor, Tensor | None]  # uint8 (B, C, H, W), LongTensor (B,)


@dataclass
class Stream:
    """Batches without end, for `train` in the place of images, or for a loop.

    Under torchrun: this rank's parts of the batches.
    """

    batches: Callable[
        [int, list[list[int]] | None], Iterator[Batch]
    ]  # (steps done, where each rank was then) -> those that follow
    shape: tuple[int, int, int]  # of an image: C, H, W
    classes: int | None = None  # number of labels, None if there are none
    names: list[str] | None = None  # of the labels
    place: list[int] = field(
        default_factory=lambda: [0, 0]
    )  # pass over the data and row in it that follow the newest batch

    def __iter__(self) -> Iterator[Batch]:
        return self.batches(0, None)


def load_stream(
    name: str,
    batch_size: int,
    *,
    split: str = "train",
    size: int | None = None,
    labels: bool = True,
    grey: bool | None = None,
    ground: Ground = WHITE,
    skip_unreadable: bool = False,
    seed: int = 0,
    buffer: int = 1000,
    workers: int | None = None,
) -> Stream:
    """The images of a data set, of any number, in batches, with labels if it has any.

    name        "folder:<path>", "hub:<data set id>", or one of the paper's: "cifar10",
                "celebahq-256", ... (see load_images, also for what has labels)
    batch_size  of the whole batch; under torchrun each rank gets its part of it
    size        resize the shorter side to this, and cut out the square in the centre
    labels      False: leave them out
    grey        True or False; None: as the first image is, and a later one in colour
                among grey ones is refused
    ground      what transparent pixels let through, see load_images
    skip_unreadable  take the next image in the place of one that cannot be read, with a
                warning that names it, instead of raising
    seed        of the order
    buffer      rows among which a stream from the hub is shuffled
    workers     processes that read a folder's files; None: none on a CPU, which trains
                meanwhile, up to 8 beside a GPU

    Raises ValueError for what is not there or cannot be read, and for images of
    different sizes; FileNotFoundError for missing files.
    """
    where, path, splits, size, labelled = find_source(name, split, size)
    if where == "folder":
        return stream_folder(
            path,
            batch_size,
            size=size,
            labels=labels and labelled,
            grey=grey,
            ground=ground,
            skip_unreadable=skip_unreadable,
            seed=seed,
            workers=workers,
        )
    rows, _, _ = open_hub(path, splits, streaming=True)
    return stream_rows(
        rows,
        batch_size,
        size=size,
        labels=labels and labelled,
        grey=grey,
        ground=ground,
        skip_unreadable=skip_unreadable,
        seed=seed,
        buffer=buffer,
        name=path,
    )


def must_stream(name: str, size: int | None) -> bool:
    """Whether memory cannot hold a folder, or one of the paper's data sets."""
    where, path, _, size, _ = (
        find_source(name, "train", size)
        if name.partition(":")[0] in ("folder", *PAPER)
        else ("", "", "", None, False)
    )
    if where == "folder":
        paths = find_images(Path(path).expanduser()).paths
        with suppress(ValueError):  # unreadable: somebody else's business
            return too_large(
                len(paths),
                (size, size) if size else read_image(paths[0], str(paths[0])).size,
            )
    return where == "hub" and too_large(PAPER[name].images, (size or 32, size or 32))


def order(
    n: int,
    batch_size: int,
    seed: int,
    start: int = 0,
    part: range | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Numbers of the images in batches start, start + 1, ...

    Pass after pass over all n, each in an order of its own, nothing left out.

    part  of every batch that is wanted; None: all of it
    """

    @lru_cache(maxsize=2)
    def permutation(epoch: int) -> Tensor:
        return torch.randperm(
            n, generator=torch.Generator().manual_seed(mix(seed, "epoch", epoch))
        ).to(device)

    part = part or range(batch_size)
    while True:
        first, last = start * batch_size + part.start, start * batch_size + part.stop
        yield torch.cat(
            [
                permutation(e)[max(first - e * n, 0) : last - e * n]
                for e in range(first // n, (last - 1) // n + 1)
            ]
        )
        start += 1


def stream_folder(
    folder: str | Path,
    batch_size: int,
    *,
    size: int | None = None,
    labels: bool = True,
    grey: bool | None = None,
    ground: Ground = WHITE,
    skip_unreadable: bool = False,
    seed: int = 0,
    workers: int | None = None,
) -> Stream:
    """All images below a folder, read when their turn comes, labelled by their folders.

    Arguments and errors as in `load_stream`.
    """
    part, found = _part(batch_size), look_into(Path(folder).expanduser())
    classes = folder_labels(found) if labels else None
    files = _Files(found, size, grey, ground, skip_unreadable)
    names, of_path = classes or ((), [])
    if workers is None:
        together = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        workers = (
            min(8, (os.cpu_count() or 1) // together)
            if torch.cuda.is_available()
            else 0
        )

    def batches(step: int, places: list[list[int]] | None) -> Iterator[Batch]:
        chosen = (
            numbers.tolist()
            for numbers in order(len(found.paths), batch_size, seed, step, part)
        )
        # A generator of its own: the loader would draw a seed from the caller's.
        loader = DataLoader(
            files,
            batch_sampler=chosen,
            collate_fn=_collate,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_signals,
            generator=torch.Generator(),
        )
        for batch in loader:
            if isinstance(batch, str):
                raise ValueError(batch)
            images, numbers = batch
            yield images, torch.tensor(of_path)[numbers] if names else None

    return Stream(batches, files.look.shape, len(names) or None, list(names) or None)


Item = tuple[Tensor, int] | str


class _Files(Dataset[Item]):
    """Image files as tensors, with their numbers.

    A file that cannot be used is its error message, which travels from a worker process
    unharmed.
    """

    def __init__(
        self,
        found: Found,
        size: int | None,
        grey: bool | None,
        ground: Ground,
        skip: bool,
    ):
        self.paths, self.skip, self.warned = found.paths, skip, set[Path]()
        self.ground = check_ground(ground)
        k, picture = next(self._readable(0))
        self.look = Look.of(picture, str(self.paths[k]), size, grey)

    def __getitem__(self, i: int) -> Item:
        try:
            k, picture = next(self._readable(i))
            return self.look.tensor(picture, str(self.paths[k])), k
        except ValueError as error:
            return str(error)

    def _readable(self, i: int) -> "Iterator[tuple[int, Picture]]":
        """The images from number i on, round and round."""
        for k in range(i, i + len(self.paths)):
            k %= len(self.paths)
            path = self.paths[k]
            try:
                picture = read_image(path, str(path), self.ground)
            except ValueError as error:
                if not self.skip:
                    raise
                if path not in self.warned:
                    warnings.warn(f"left out: {error}", stacklevel=2)
                    self.warned.add(path)
                continue
            yield k, picture
        raise ValueError(
            f"none of {len(self.paths)} images can be read, the first of them "
            f"{self.paths[0]}; wanted at least one"
        )


def _collate(items: list[Item]) -> tuple[Tensor, Tensor] | str:
    """Pictures and their numbers, or the first error message among them."""
    images, numbers = [], []
    for item in items:
        if isinstance(item, str):
            return item
        images.append(item[0])
        numbers.append(item[1])
    return torch.stack(images), torch.tensor(numbers)


def _ignore_signals(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal.

    The training ends its step first, for which it may want one more batch.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def stream_rows(
    rows: Any,
    batch_size: int,
    *,
    size: int | None = None,
    labels: bool = True,
    grey: bool | None = None,
    ground: Ground = WHITE,
    skip_unreadable: bool = False,
    seed: int = 0,
    buffer: int = 1000,
    name: str = "rows",
) -> Stream:
    """The images of a `datasets` data set, such as load_dataset(..., streaming=True).

    Arguments and errors as in `load_stream`. A column of labels without names of
    classes is left out, with a warning: of plain numbers nobody knows how many there
    are.
    """
    from datasets import Image, IterableDataset
    from datasets.distributed import split_dataset_by_node

    part = _part(batch_size)
    column, label = find_columns(rows, name)
    ground = check_ground(ground)
    label = label if labels else None
    names = list(names_of(rows, label) or ()) or None
    if label and names is None:
        warnings.warn(
            f"{name}: the labels in its column {label} have no names and are left out; "
            "load_images reads them all and counts them",
            stacklevel=3,
        )
        label = None
    rows = rows.select_columns([column, *([label] if label else [])])
    if not isinstance(rows, IterableDataset):
        rows = rows.to_iterable_dataset()
    rows = rows.cast_column(column, Image(decode=False))
    shuffled = rows.shuffle(seed=mix(seed, "rows") % 2**32, buffer_size=buffer)
    mine = split_dataset_by_node(shuffled, distributed.rank(), distributed.size())

    def pictures(rows: Any, start: int) -> "Iterator[tuple[int, str, Picture, int]]":
        """Number, name, image and label of the rows from number `start` on."""
        for number, row in enumerate(islice(rows, start, None), start):
            called = (
                f"{name}, {row[column].get('path') or 'image'} (row {number} of this "
                "pass)"
            )
            try:
                picture = read_image(row[column], called, ground)
            except ValueError as error:
                if not skip_unreadable:
                    raise
                warnings.warn(f"left out: {error}", stacklevel=2)
                continue
            y = row[label] if label else 0
            if y is None or y < 0:  # how a data set says "not labelled"
                raise ValueError(
                    f"{called} has {label} = {y!r}; wanted numbers from 0 on for all "
                    "images: labels=False (--unconditional) leaves them out"
                )
            yield number, called, picture, y

    example = next(pictures(rows, 0), None)  # the same on all ranks
    if example is None:
        raise ValueError(f"{name} has no image that can be read; wanted at least one")
    look = Look.of(example[2], example[1], size, grey)

    def batches(step: int, places: list[list[int]] | None) -> Iterator[Batch]:
        passed, row, places, ranks = 0, 0, places or [], distributed.size()
        if step and len(places) == ranks:
            passed, row = places[distributed.rank()]
        elif step:
            passed = 1 + max((passed for passed, _ in places), default=0)
            if distributed.rank() == 0:
                warnings.warn(
                    f"{name} goes on with a new pass over its images, not where it "
                    "stopped: the checkpoint has the places of "
                    f"{len(places)} processes, and now there are {ranks}",
                    stacklevel=2,
                )
        taken: list[Tensor] = []
        numbers: list[int] = []
        while True:
            mine.set_epoch(passed)
            empty = row == 0
            for number, called, picture, y in pictures(mine, row):
                empty = False
                taken.append(look.tensor(picture, called))
                numbers.append(y)
                if len(taken) == len(part):
                    stream.place = [passed, number + 1]
                    yield torch.stack(taken), torch.tensor(numbers) if label else None
                    taken, numbers = [], []
            if empty:
                raise ValueError(
                    f"{name} has no image for rank {distributed.rank()} of "
                    f"{distributed.size()}; wanted at least one for each"
                )
            passed, row = passed + 1, 0

    stream = Stream(batches, look.shape, len(names or ()) or None, names)
    return stream


@dataclass(frozen=True)
class Look:
    """What all images of a stream have in common, taken from the first of them."""

    first: str  # its name
    size: int | None  # to resize to
    sides: tuple[int, int]  # width and height
    grey: bool
    converted: bool  # whether the user said so, and the other kind becomes this one

    @staticmethod
    def of(
        picture: "Picture", name: str, size: int | None, grey: bool | None
    ) -> "Look":
        return Look(
            name,
            size,
            (size, size) if size else picture.size,
            is_grey(picture) if grey is None else grey,
            grey is not None,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1 if self.grey else 3, self.sides[1], self.sides[0]

    def tensor(self, picture: "Picture", name: str) -> Tensor:
        """An image as uint8 (C, H, W)."""
        if self.size is not None:
            picture = fit(picture, self.size)
        check_size(picture, name, self.sides, self.first)
        if self.grey and not self.converted and not is_grey(picture):
            raise ValueError(
                f"{name} is in colour but {self.first} is grey; wanted one kind: "
                "grey=False (--no-grey) makes all of them colour, grey=True "
                "(--grey) grey"
            )
        return to_tensor(picture, self.grey)


def _part(batch_size: int) -> range:
    """This rank's part of a batch."""
    ranks = distributed.size()
    if (
        isinstance(batch_size, bool)
        or not isinstance(batch_size, int)
        or batch_size < 1
        or batch_size % ranks
    ):
        raise ValueError(
            f"batch_size = {batch_size!r}; wanted a whole number, at least 1"
            + (f" and a multiple of {ranks} processes" if ranks > 1 else "")
        )
    return shard(batch_size)
