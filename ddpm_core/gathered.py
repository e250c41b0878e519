"""Pictures gathered from the hub or from a folder: read one by one, checked, stacked.

How a file becomes pixels: runtime/pictures.py.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import distributed
from .runtime.pictures import (
    Found,
    Ground,
    check_memory,
    check_size,
    find_images,
    fit,
    folder_labels,
    read_image,
    stack,
)

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


class Labelled(NamedTuple):
    """A data set in memory."""

    images: Tensor  # uint8 (N, C, H, W)
    labels: Tensor | None  # LongTensor (N,)
    classes: tuple[str, ...] | None  # their names, in order; None: they have none


class Reading(NamedTuple):
    """How load_images was told to read."""

    size: int | None
    skip_unreadable: bool
    labels: bool
    grey: bool | None
    ground: Ground


def open_hub(
    name: str, split: str, streaming: bool = False
) -> tuple[Any, str, str | None]:
    """Rows of a data set, and its columns of images and of labels (or None).

    It is on the hub, or in a folder of parquet files.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise FileNotFoundError(
            f'"hub:{name}" needs Hugging Face datasets, which is not installed; run: '
            "pip install datasets"
        ) from error
    try:
        rows = load_dataset(
            name, split=split, streaming=streaming
        )  # without trust_remote_code: nothing from the hub is executed
    except Exception as error:
        raise FileNotFoundError(
            f'"hub:{name}" ({split}) could not be loaded: {error}; wanted the id of a '
            "data set on the hub and a network, "
            'or a copy of its images as "folder:<path>"'
        ) from error
    return rows, *find_columns(rows, f'"hub:{name}"')


def find_columns(rows: Any, name: str) -> tuple[str, str | None]:
    """The column of images and that of labels, if any.

    Images are left as bytes, so that what is passed over is not decoded.
    """
    from datasets import Image

    pictures = [
        key for key, kind in (rows.features or {}).items() if isinstance(kind, Image)
    ]
    if not pictures:
        raise ValueError(
            f"{name} has no column of images; its columns are "
            f"{sorted(rows.features or {})}"
        )
    return pictures[0], next(
        (key for key in ("label", "labels", "fine_label") if key in rows.features), None
    )


def names_of(rows: Any, label: str | None) -> tuple[str, ...] | None:
    """The names of the classes in a column of labels, if it says them."""
    names = getattr(rows.features[label], "names", None) if label else None
    return tuple(names) if names else None


def from_hub(name: str, split: str, reading: Reading) -> Labelled:
    rows, column, label = open_hub(name, split)
    from datasets import Image

    label = label if reading.labels else None
    names = names_of(rows, label)
    rows = rows.select_columns([column, *([label] if label else [])]).cast_column(
        column, Image(decode=False)
    )
    kept, images = _read(
        ((f"{name}, row {i}", row[column]) for i, row in enumerate(rows)),
        len(rows),
        f"hub:{name}",
        reading,
    )
    if label is None:
        return Labelled(images, None, None)
    column_of_labels = list(rows[label])
    found = [column_of_labels[i] for i in kept]
    return Labelled(images, *_numbered(name, found, names, label))


def _numbered(
    name: str, found: list[Any], names: tuple[str, ...] | None, label: str
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Labels as numbers from 0 on, and their names; words are numbered in order."""
    if all(y is None or y == -1 for y in found):
        return None, None  # -1 and nothing: what a data set says for "not labelled"
    if all(isinstance(y, str) for y in found):
        names = tuple(sorted(set(found)))
        found = [names.index(y) for y in found]
    for i, y in enumerate(found):
        if isinstance(y, bool) or not isinstance(y, int) or y < 0:
            raise ValueError(
                f"{name} has {label} = {y!r} (image {i} of those read); wanted numbers "
                "from 0 on, or words, for all images: labels=False (--unconditional) "
                "leaves them out"
            )
    return torch.tensor(found), names


def look_into(folder: Path) -> Found:
    """The pictures below a folder; a warning tells what was skipped, and why."""
    found = find_images(folder)
    if (note := found.note()) and distributed.rank() == 0:
        n = len(found.paths)
        warnings.warn(
            f"{folder}: {n} picture{'s' * (n > 1)}; skipped: {note}", stacklevel=4
        )
    return found


def from_folder(folder: Path, reading: Reading) -> Labelled:
    found = look_into(folder)
    labels = folder_labels(found) if reading.labels else None
    kept, images = _read(
        ((str(path), path) for path in found.paths),
        len(found.paths),
        f"folder:{folder}",
        reading,
    )
    if labels is None:
        return Labelled(images, None, None)
    names, numbers = labels
    return Labelled(images, torch.tensor([numbers[i] for i in kept]), names)


def _read(
    sources: Iterable[tuple[str, Any]], images: int, name: str, reading: Reading
) -> tuple[list[int], Tensor]:
    """Named pictures -> the numbers of those that could be read, and their pixels."""
    kept: list[int] = []
    pictures: list[Picture] = []
    for i, (called, source) in enumerate(sources):
        try:
            picture = read_image(source, called, reading.ground)
        except ValueError as error:
            if not reading.skip_unreadable:
                raise
            warnings.warn(f"left out: {error}", stacklevel=5)
            continue
        if not pictures:
            first = called
            check_memory(images, picture, reading.size, name, reading.grey)
        if reading.size is not None:
            picture = fit(picture, reading.size)
        if pictures:
            check_size(picture, called, pictures[0].size, first)
        kept.append(i)
        pictures.append(picture)
    if not pictures:
        raise FileNotFoundError(
            f"{name} contains no image that can be read; wanted at least one"
        )
    return kept, stack(pictures, reading.grey)
