"""Images in: uint8 tensors (N, C, H, W), checked, by the names of `ddpm train`.

sources.py has the names, embedded.py what lies in data/, gathered.py what comes from the
hub or a folder. What memory cannot hold: streams.py.
"""

from pathlib import Path

import torch
from torch import Tensor

from .embedded import data_folder as data_folder
from .embedded import digits, fashion_mnist
from .gathered import Labelled as Labelled
from .gathered import Reading, from_folder, from_hub
from .gathered import find_columns as find_columns
from .gathered import look_into as look_into
from .gathered import names_of as names_of
from .gathered import open_hub as open_hub
from .runtime.guard import kind_of
from .runtime.pictures import SUFFIXES as SUFFIXES  # old import paths go on working
from .runtime.pictures import WHITE, Ground, check_ground, find_images, folder_labels
from .runtime.pictures import check_size as check_size
from .runtime.pictures import fit as fit
from .runtime.pictures import is_grey as is_grey
from .runtime.pictures import list_images as list_images
from .runtime.pictures import read_image as read_image
from .runtime.pictures import to_tensor as to_tensor
from .runtime.pictures import too_large as too_large
from .sources import CLASSES as CLASSES
from .sources import FLIP as FLIP
from .sources import LSUN as LSUN
from .sources import PAPER as PAPER
from .sources import Source as Source
from .sources import check_name, check_side
from .sources import find_source as find_source


def load_images(
    name: str,
    split: str = "train",
    *,
    size: int | None = None,
    skip_unreadable: bool = False,
    labels: bool = True,
    grey: bool | None = None,
    ground: Ground = WHITE,
) -> tuple[Tensor, Tensor | None]:
    """Images uint8 (N, C, H, W); labels LongTensor (N,), or None if there are none.

    name   "fashion-mnist"  28 x 28 grey, 60,000 + 10,000; embedded in data/
           "digits"         8 x 8 grey, 1,797; needs scikit-learn
           "cifar10"        32 x 32 colour, 50,000 + 10,000, as "hub:uoft-cs/cifar10"
           "celebahq-256", "lsun-church-256", "lsun-bedroom-256", "lsun-cat-256"
                            the paper's other data sets, 256 x 256 colour, no labels;
                            from the hub where it has all of them, or from a folder of
                            yours: "lsun-cat-256:<path>"
           "hub:<id>"       any image data set that Hugging Face `datasets` loads
                            (pip install datasets)
           "folder:<path>"  all images below a folder, of one size. One folder a class
                            (and no picture beside them) makes labels, in the order of
                            their names. Hidden files and the system's litter are left
                            out
    split  "train" or "test"; "digits" keeps its last 360 for the test, and a folder has
           no splits
    size   resize the shorter side of images from the hub or a folder to this, and cut
           out the square in the centre
    skip_unreadable  leave out images that cannot be read, with a warning that names
                     them
    labels False: leave them out
    grey   True or False: make all images of the hub or a folder grey, or colour; None:
           grey if all of them are
    ground what transparent pixels of those let through: "white", "#ff8800", 0 to 255,
           or three of these. How else a file is read: runtime/pictures.py

    class_names tells what the labels are called. Warns of what was skipped in a folder.
    Raises ValueError for an unknown name or split, for images of different sizes, for
    one that cannot be read (which it names) and for more than fits into memory;
    FileNotFoundError for missing files.
    """
    images, numbers, _ = load_labelled(
        name,
        split,
        size=size,
        skip_unreadable=skip_unreadable,
        labels=labels,
        grey=grey,
        ground=ground,
    )
    return images, numbers


def load_labelled(
    name: str,
    split: str = "train",
    *,
    size: int | None = None,
    skip_unreadable: bool = False,
    labels: bool = True,
    grey: bool | None = None,
    ground: Ground = WHITE,
) -> Labelled:
    """The images of load_images, with the names of their classes beside the labels."""
    check_name(name, split)
    check_side(size)
    ground = check_ground(ground)
    if name in ("fashion-mnist", "digits"):
        images, numbers = (fashion_mnist if name[0] == "f" else digits)(split)
        return Labelled(images, *((numbers, CLASSES[name]) if labels else (None, None)))
    where, path, splits, size, labelled = find_source(name, split, size)
    reading = Reading(size, skip_unreadable, labels and labelled, grey, ground)
    if where == "folder":
        return from_folder(Path(path).expanduser(), reading)
    return from_hub(path, splits, reading)


def class_names(name: str, split: str = "train") -> tuple[str, ...] | None:
    """What the labels of a data set are called, in order; None if it has no such names.

    name, split, errors: see load_images. No more is fetched than it takes.
    """
    check_name(name, split)
    if name in CLASSES:
        return CLASSES[name]
    where, path, splits, _, labelled = find_source(name, split, None)
    if not labelled:
        return None
    if where == "folder":
        found = folder_labels(find_images(Path(path).expanduser()))
        return found[0] if found else None
    rows, _, label = open_hub(path, splits, streaming=True)
    return names_of(rows, label)


def to_model_range(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [-1, 1]: x / 127.5 - 1. (Section 3.3)

    Raises TypeError unless uint8.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(
            f"images are {kind_of(images)}; wanted a uint8 tensor, 0 to 255"
        )
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 [0, 255], rounded and clamped.

    The exact inverse of to_model_range on the 8-bit grid.
    Raises TypeError unless float, ValueError for NaN.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x is {kind_of(x)}; wanted a tensor of floats in [-1, 1]")
    if x.isnan().any():
        raise ValueError(
            "x contains NaN; wanted floats in [-1, 1]. A model that answers NaN has "
            "usually diverged: lower its learning rate"
        )
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def check_uint8_images(images: Tensor, labels: Tensor | None = None) -> None:
    """Raise unless images are uint8 (N, C, H, W), N >= 1; labels LongTensor (N,)."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(
            f"images are {kind_of(images)}; wanted a uint8 tensor (N, C, H, W): "
            "to_uint8() takes floats in [-1, 1] there"
        )
    if images.ndim != 4 or not images.numel():
        raise ValueError(
            f"images have shape {tuple(images.shape)}; wanted (N, C, H, W) with at "
            "least one image"
        )
    if labels is not None and not isinstance(labels, Tensor):
        raise TypeError(
            f"labels are {kind_of(labels)}; wanted a LongTensor ({len(images)},)"
        )
    if labels is not None and (
        labels.dtype != torch.int64 or labels.shape != images.shape[:1]
    ):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}; wanted "
            f"a LongTensor ({len(images)},)"
        )
