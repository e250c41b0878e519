"""Images in: uint8 tensors (N, C, H, W), checked, by the names of `ddpm train`.

How a file becomes pixels: runtime/pictures.py. What memory cannot hold: streams.py.
"""

import gzip
import hashlib
import os
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from . import distributed
from .runtime.pictures import SUFFIXES as SUFFIXES  # old import paths go on working
from .runtime.pictures import (
    WHITE,
    Found,
    Ground,
    check_ground,
    check_memory,
    check_size,
    find_images,
    fit,
    folder_labels,
    read_image,
    stack,
)
from .runtime.pictures import is_grey as is_grey
from .runtime.pictures import list_images as list_images
from .runtime.pictures import to_tensor as to_tensor
from .runtime.pictures import too_large as too_large

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

CLASSES = {
    "fashion-mnist": (
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "boot",
    ),
    "digits": tuple("0123456789"),
    "cifar10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
}


class Source(NamedTuple):
    """Where a data set of the paper is found, and how it is brought to size."""

    # its id on the hub, in parquet files; None: no complete copy is known there
    hub: str | None
    split: str  # all that the paper trained on
    images: int
    # shorter side resized to this, centre cut out; None: they have their size already
    size: int | None
    labels: bool  # whether the labels found there are labels
    recipe: str = ""  # how to bring a folder of them


LSUN = (
    "get it with download.py of github.com/fyu/lsun and write the images of its "
    "database into a folder"
)
# CIFAR-10: section 4. CelebA-HQ and LSUN at 256 x 256: section 4 and appendix B;
# celeb_a_hq/256 has 30,000 images, all for training (datasets.py of the official code),
# and LSUN's training sets hold as many as its publication says.
PAPER = {
    "cifar10": Source("uoft-cs/cifar10", "train", 50_000, None, True),
    "celebahq-256": Source(
        "eurecom-ds/celeba-hq-256",
        "train",
        30_000,
        256,
        False,
        "bring its 30,000 images as files",
    ),
    "lsun-church-256": Source(
        "tglcourse/lsun_church_train",
        "train+test",
        126_227,
        256,
        False,
        f"{LSUN}: category church_outdoor",
    ),
    "lsun-bedroom-256": Source(
        None,
        "train",
        3_033_042,
        256,
        False,
        f'{LSUN}: category bedroom; a tenth of them is "hub:pcuenq/lsun-bedrooms"',
    ),
    "lsun-cat-256": Source(
        None, "train", 1_657_266, 256, False, f"{LSUN}: category cat"
    ),
}
# "We used random horizontal flips during training for CIFAR10 ... We also used random
# horizontal flips for all other datasets except LSUN Bedroom." (Appendix B.) They are
# wrong where left and right mean something: all shoes of Fashion-MNIST point to the
# left, and a mirrored digit is no digit. Other data sets are flipped unless told
# otherwise.
FLIP = {
    "fashion-mnist": False,
    "digits": False,
    "cifar10": True,
    "celebahq-256": True,
    "lsun-church-256": True,
    "lsun-bedroom-256": False,
    "lsun-cat-256": True,
}


class Labelled(NamedTuple):
    """A data set in memory."""

    images: Tensor  # uint8 (N, C, H, W)
    labels: Tensor | None  # LongTensor (N,)
    classes: tuple[str, ...] | None  # their names, in order; None: they have none


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
    _check_name(name, split)
    _check_side(size)
    ground = check_ground(ground)
    if name in ("fashion-mnist", "digits"):
        images, numbers = (_fashion_mnist if name[0] == "f" else _digits)(split)
        return Labelled(images, *((numbers, CLASSES[name]) if labels else (None, None)))
    where, path, splits, size, labelled = find_source(name, split, size)
    reading = _Reading(size, skip_unreadable, labels and labelled, grey, ground)
    if where == "folder":
        return _folder(Path(path).expanduser(), reading)
    return _hub(path, splits, reading)


def class_names(name: str, split: str = "train") -> tuple[str, ...] | None:
    """What the labels of a data set are called, in order; None if it has no such names.

    name, split, errors: see load_images. No more is fetched than it takes.
    """
    _check_name(name, split)
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


class _Reading(NamedTuple):
    """How load_images was told to read."""

    size: int | None
    skip_unreadable: bool
    labels: bool
    grey: bool | None
    ground: Ground


def find_source(
    name: str, split: str, size: int | None
) -> tuple[str, str, str, int | None, bool]:
    """A name -> "hub" or "folder", its id or path, split, size, if it has labels."""
    _check_name(name, split)
    _check_side(size)
    kind, _, path = name.partition(":")
    if kind in ("hub", "folder") and path:
        return kind, path, split, size, True
    if kind not in PAPER:
        names = ", ".join(f'"{known}"' for known in ("fashion-mnist", "digits", *PAPER))
        raise ValueError(
            f'unknown data set {name!r}; wanted {names}, "hub:<data set id>" or '
            '"folder:<path>"'
        )
    source = PAPER[kind]
    if path:
        return "folder", path, split, size or source.size, False
    if source.hub is None:
        raise FileNotFoundError(
            f'no complete copy of "{kind}" is known on the hub; {source.recipe}. Then '
            f'name it "{kind}:<path>"'
        )
    return (
        "hub",
        source.hub,
        source.split if split == "train" else split,
        size or source.size,
        source.labels,
    )


def _check_name(name: str, split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f'split = {split!r}; wanted "train" or "test"')
    if not isinstance(name, str):
        raise TypeError(
            f'name is {_kind(name)}; wanted a string, such as "fashion-mnist" or '
            '"folder:<path>"'
        )


def _check_side(size: int | None) -> None:
    if size is not None and (
        isinstance(size, bool) or not isinstance(size, int) or size < 1
    ):
        raise ValueError(
            f"size = {size!r}; wanted None, or the side of the images in pixels"
        )


def to_model_range(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [-1, 1]: x / 127.5 - 1. (Section 3.3)

    Raises TypeError unless uint8.
    """
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"images are {_kind(images)}; wanted a uint8 tensor, 0 to 255")
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 [0, 255], rounded and clamped.

    The exact inverse of to_model_range on the 8-bit grid.
    Raises TypeError unless float, ValueError for NaN.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x is {_kind(x)}; wanted a tensor of floats in [-1, 1]")
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
            f"images are {_kind(images)}; wanted a uint8 tensor (N, C, H, W): "
            "to_uint8() takes floats in [-1, 1] there"
        )
    if images.ndim != 4 or not images.numel():
        raise ValueError(
            f"images have shape {tuple(images.shape)}; wanted (N, C, H, W) with at "
            "least one image"
        )
    if labels is not None and not isinstance(labels, Tensor):
        raise TypeError(
            f"labels are {_kind(labels)}; wanted a LongTensor ({len(images)},)"
        )
    if labels is not None and (
        labels.dtype != torch.int64 or labels.shape != images.shape[:1]
    ):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}; wanted "
            f"a LongTensor ({len(images)},)"
        )


def _kind(x: object) -> str:
    return (
        f"a tensor of {x.dtype}"
        if isinstance(x, Tensor)
        else f"a {type(x).__module__}.{type(x).__name__}"
    )


def data_folder() -> Path:
    """Where data/ is: $DDPM_DATA, or beside the package, or in the working folder."""
    if told := os.environ.get("DDPM_DATA"):
        return Path(told)
    beside = Path(__file__).resolve().parent.parent / "data"
    return beside if beside.is_dir() else Path("data")


def _fashion_mnist(split: str) -> tuple[Tensor, Tensor]:
    folder = data_folder() / "fashion-mnist"
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise FileNotFoundError(
            f"no Fashion-MNIST in {folder}; work in a clone of the repository, which "
            "contains it, "
            "or set DDPM_DATA to its data/ folder"
        )
    wanted = {
        line.split()[-1]: line.split()[0]
        for line in sums.read_text(errors="replace").splitlines()
        if line.strip()
    }
    stem = {"train": "train", "test": "t10k"}[split]
    images = _read_idx(folder / f"{stem}-images-idx3-ubyte.gz", wanted)
    labels = _read_idx(folder / f"{stem}-labels-idx1-ubyte.gz", wanted)
    return images.unsqueeze(1), labels.long()


def _read_idx(path: Path, wanted: dict[str, str]) -> Tensor:
    """One IDX file: a big-endian header, then the bytes.

    The header: two zeros, type 8 = uint8, number of dimensions, sizes.
    """
    remedy = (
        f"restore it with: git checkout -- {path.parent.name}/{path.name} (in the "
        "repository's data/ folder)"
    )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {remedy}")
    packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != wanted.get(path.name):
        raise ValueError(
            f"{path} ({len(packed)} bytes) is damaged: its SHA-256 is not the one in "
            f"{path.parent.name}/SHA256SUMS; {remedy}"
        )
    try:
        raw = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}); {remedy}") from error
    dims = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    return torch.frombuffer(
        bytearray(raw), dtype=torch.uint8, offset=4 + 4 * dims
    ).reshape(shape)


def _digits(split: str) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FileNotFoundError(
            '"digits" comes with scikit-learn, which is not installed; run: pip '
            "install scikit-learn"
        ) from error
    digits = load_digits()
    images = (
        torch.from_numpy(digits.images)
        .mul(255 / 16)
        .round()
        .to(torch.uint8)
        .unsqueeze(1)
    )
    labels = torch.from_numpy(digits.target).long()
    part = slice(None, -360) if split == "train" else slice(-360, None)
    return images[part], labels[part]


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


def _hub(name: str, split: str, reading: _Reading) -> Labelled:
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


def _folder(folder: Path, reading: _Reading) -> Labelled:
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
    sources: Iterable[tuple[str, Any]], images: int, name: str, reading: _Reading
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
