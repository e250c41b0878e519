"""Images in: uint8 tensors (N, C, H, W), checked, from the names that `ddpm train --data` knows too. What is too large: streams.py."""

import gzip
import hashlib
import io
import os
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

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

    hub: (
        str | None
    )  # its id on the Hugging Face hub, in parquet files; None: no complete copy is known there
    split: str  # all that the paper trained on
    images: int
    size: (
        int | None
    )  # shorter side resized to this, centre cut out; None: they have their size already
    labels: bool  # whether the labels found there are labels
    recipe: str = ""  # how to bring a folder of them


LSUN = "get it with download.py of github.com/fyu/lsun and write the images of its database into a folder"
# CIFAR-10: section 4. CelebA-HQ and LSUN at 256 x 256: section 4 and appendix B; celeb_a_hq/256 has 30,000 images, all for training
# (datasets.py of the official code), and LSUN's training sets hold as many as its publication says.
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
# "We used random horizontal flips during training for CIFAR10 ... We also used random horizontal flips for all other datasets except
# LSUN Bedroom." (Appendix B.) They are wrong where left and right mean something: all shoes of Fashion-MNIST point to the left, and a
# mirrored digit is no digit. Other data sets are flipped unless told otherwise.
FLIP = {
    "fashion-mnist": False,
    "digits": False,
    "cifar10": True,
    "celebahq-256": True,
    "lsun-church-256": True,
    "lsun-bedroom-256": False,
    "lsun-cat-256": True,
}

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def load_images(
    name: str,
    split: str = "train",
    *,
    size: int | None = None,
    skip_unreadable: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Images uint8 (N, C, H, W) and labels LongTensor (N,), or None where the data set has none.

    name   "fashion-mnist"       28 x 28 grey, 60,000 + 10,000; embedded in data/, needs no network
           "digits"              8 x 8 grey, 1,797, from scikit-learn, which must be installed
           "cifar10"             32 x 32 colour, 50,000 + 10,000, by way of "hub:uoft-cs/cifar10"
           "celebahq-256", "lsun-church-256", "lsun-bedroom-256", "lsun-cat-256"
                                 the paper's other data sets, 256 x 256 colour, without labels; from the hub where it has all of them,
                                 or from a folder of yours: "lsun-cat-256:<path>"
           "hub:<data set id>"   any image data set that Hugging Face `datasets` loads (pip install datasets)
           "folder:<path>"       all images below a folder, of one size; no labels
    split  "train" or "test"; "digits" keeps its last 360 for the test, and a folder has no splits
    size   resize the shorter side of images from the hub or a folder to this, and cut out the square in the centre
    skip_unreadable  leave out images that cannot be read, with a warning that names them, instead of raising

    Raises ValueError for an unknown name or split, for images of different sizes, for one that cannot be read (which it names) and
    for more than fits into memory; FileNotFoundError for missing files.
    """
    if split not in ("train", "test"):
        raise ValueError(f'split = {split!r}; wanted "train" or "test"')
    if not isinstance(name, str):
        raise TypeError(
            f'name is {_kind(name)}; wanted a string, such as "fashion-mnist" or "folder:<path>"'
        )
    _check_side(size)
    if name == "fashion-mnist":
        return _fashion_mnist(split)
    if name == "digits":
        return _digits(split)
    where, path, splits, size, labels = find_source(name, split, size)
    if where == "folder":
        return _folder(Path(path).expanduser(), size, skip_unreadable), None
    return _hub(path, splits, size, labels, skip_unreadable)


def find_source(
    name: str, split: str, size: int | None
) -> tuple[str, str, str, int | None, bool]:
    """A name of a data set from the hub or a folder -> "hub" or "folder", its id or path, its split, size, and whether it has labels."""
    _check_side(size)
    kind, _, path = name.partition(":")
    if kind in ("hub", "folder") and path:
        return kind, path, split, size, True
    if kind not in PAPER:
        names = ", ".join(f'"{known}"' for known in ("fashion-mnist", "digits", *PAPER))
        raise ValueError(
            f'unknown data set {name!r}; wanted {names}, "hub:<data set id>" or "folder:<path>"'
        )
    source = PAPER[kind]
    if path:
        return "folder", path, split, size or source.size, False
    if source.hub is None:
        raise FileNotFoundError(
            f'no complete copy of "{kind}" is known on the hub; {source.recipe}. Then name it "{kind}:<path>"'
        )
    return (
        "hub",
        source.hub,
        source.split if split == "train" else split,
        size or source.size,
        source.labels,
    )


def _check_side(size: int | None) -> None:
    if size is not None and (
        isinstance(size, bool) or not isinstance(size, int) or size < 1
    ):
        raise ValueError(
            f"size = {size!r}; wanted None, or the side of the images in pixels"
        )


def to_model_range(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [-1, 1]: x / 127.5 - 1, the scaling of the paper's section 3.3. Raises TypeError unless uint8."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"images are {_kind(images)}; wanted a uint8 tensor, 0 to 255")
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """float [-1, 1] -> uint8 [0, 255], rounded and clamped; the exact inverse of to_model_range on the 8-bit grid.

    Raises TypeError unless float, ValueError for NaN.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x is {_kind(x)}; wanted a tensor of floats in [-1, 1]")
    if x.isnan().any():
        raise ValueError(
            "x contains NaN; wanted floats in [-1, 1]. A model that answers NaN has usually diverged: lower its learning rate"
        )
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def check_uint8_images(images: Tensor, labels: Tensor | None = None) -> None:
    """Raise unless images are uint8 (N, C, H, W) with N >= 1 and labels, if any, LongTensor (N,)."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(
            f"images are {_kind(images)}; wanted a uint8 tensor (N, C, H, W): "
            "to_uint8() takes floats in [-1, 1] there"
        )
    if images.ndim != 4 or not images.numel():
        raise ValueError(
            f"images have shape {tuple(images.shape)}; wanted (N, C, H, W) with at least one image"
        )
    if labels is not None and not isinstance(labels, Tensor):
        raise TypeError(
            f"labels are {_kind(labels)}; wanted a LongTensor ({len(images)},)"
        )
    if labels is not None and (
        labels.dtype != torch.int64 or labels.shape != images.shape[:1]
    ):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}; wanted a LongTensor ({len(images)},)"
        )


def _kind(x: object) -> str:
    return (
        f"a tensor of {x.dtype}"
        if isinstance(x, Tensor)
        else f"a {type(x).__module__}.{type(x).__name__}"
    )


def data_folder() -> Path:
    """Where data/ is: $DDPM_DATA, or beside the package, as in a clone of the repository, or in the working folder."""
    if told := os.environ.get("DDPM_DATA"):
        return Path(told)
    beside = Path(__file__).resolve().parent.parent / "data"
    return beside if beside.is_dir() else Path("data")


def _fashion_mnist(split: str) -> tuple[Tensor, Tensor]:
    folder = data_folder() / "fashion-mnist"
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise FileNotFoundError(
            f"no Fashion-MNIST in {folder}; work in a clone of the repository, which contains it, "
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
    """One IDX file: a big-endian header (two zeros, type 8 = uint8, number of dimensions, sizes), then the bytes."""
    remedy = f"restore it with: git checkout -- {path.parent.name}/{path.name} (in the repository's data/ folder)"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {remedy}")
    packed = path.read_bytes()
    if hashlib.sha256(packed).hexdigest() != wanted.get(path.name):
        raise ValueError(
            f"{path} ({len(packed)} bytes) is damaged: its SHA-256 is not the one in {path.parent.name}/SHA256SUMS; {remedy}"
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
            '"digits" comes with scikit-learn, which is not installed; run: pip install scikit-learn'
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
    """Rows of a data set on the hub, or in a folder of parquet files; the names of its columns of images and of labels (or None)."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise FileNotFoundError(
            f'"hub:{name}" needs Hugging Face datasets, which is not installed; run: pip install datasets'
        ) from error
    try:
        rows = load_dataset(
            name, split=split, streaming=streaming
        )  # without trust_remote_code: nothing from the hub is executed
    except Exception as error:
        raise FileNotFoundError(
            f'"hub:{name}" ({split}) could not be loaded: {error}; wanted the id of a data set on the hub and a network, '
            'or a copy of its images as "folder:<path>"'
        ) from error
    return rows, *find_columns(rows, f'"hub:{name}"')


def find_columns(rows: Any, name: str) -> tuple[str, str | None]:
    """The column of images and that of labels, if any. Images are left as bytes, so that what is passed over is not decoded."""
    from datasets import Image

    pictures = [
        key for key, kind in (rows.features or {}).items() if isinstance(kind, Image)
    ]
    if not pictures:
        raise ValueError(
            f"{name} has no column of images; its columns are {sorted(rows.features or {})}"
        )
    return pictures[0], next(
        (key for key in ("label", "labels", "fine_label") if key in rows.features), None
    )


def _hub(
    name: str, split: str, size: int | None, labelled: bool, skip_unreadable: bool
) -> tuple[Tensor, Tensor | None]:
    rows, column, label = open_hub(name, split)
    from datasets import Image

    label = label if labelled else None
    rows = rows.select_columns([column, *([label] if label else [])]).cast_column(
        column, Image(decode=False)
    )
    kept: list[int] = []
    pictures: list[tuple[str, Picture]] = []
    for i, row in enumerate(rows):
        try:
            picture = read_image(row[column], f"{name}, row {i}")
        except ValueError as error:
            if not skip_unreadable:
                raise
            warnings.warn(f"left out: {error}", stacklevel=3)
            continue
        if not pictures:
            _check_memory(len(rows), picture, size, f"hub:{name}")
        kept.append(row[label] if label else 0)
        pictures.append(
            (f"{name}, row {i}", picture if size is None else fit(picture, size))
        )
    return _stack(pictures), torch.tensor(kept) if label else None


def list_images(folder: Path) -> list[Path]:
    """All image files below a folder, in the order of their names."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder; wanted a folder with images ({', '.join(SUFFIXES)})"
        )
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(
            f"{folder} contains no images; wanted files that end in {', '.join(SUFFIXES)}"
        )
    return paths


def _folder(folder: Path, size: int | None, skip_unreadable: bool) -> Tensor:
    pictures: list[tuple[str, Picture]] = []
    for path in (paths := list_images(folder)):
        try:
            picture = read_image(path, str(path))
        except ValueError as error:
            if not skip_unreadable:
                raise
            warnings.warn(f"left out: {error}", stacklevel=3)
            continue
        if not pictures:
            _check_memory(len(paths), picture, size, f"folder:{folder}")
        pictures.append((str(path), picture if size is None else fit(picture, size)))
    if not pictures:
        raise FileNotFoundError(
            f"{folder} contains no image that can be read; wanted at least one"
        )
    return _stack(pictures)


def read_image(source: "Path | dict[str, Any]", name: str) -> "Picture":
    """The image in a file, or in the row {"bytes": ..., "path": ...} of a data set, upright. Raises ValueError, which names it."""
    from PIL import Image, ImageOps

    try:
        file: Any = (
            source
            if isinstance(source, Path)
            else io.BytesIO(source["bytes"])
            if source["bytes"] is not None
            else source["path"]
        )
        with Image.open(file) as picture:
            return _eight_bit(ImageOps.exif_transpose(picture))
    except Exception as error:  # a damaged file may raise anything: OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise ValueError(
            f"{name} cannot be read as an image ({error}); mend or remove it, or skip_unreadable=True (--skip-unreadable)"
        ) from error


def is_grey(picture: "Picture") -> bool:
    return picture.mode in ("L", "1")


def fit(picture: "Picture", size: int) -> "Picture":
    """The square in the centre, resized to `size` (Lanczos): as LSUN was prepared for the official code, by StyleGAN2's tool."""
    from PIL import Image

    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.convert("L" if is_grey(picture) else "RGB").crop(
        (left, top, left + side, top + side)
    )
    return square.resize((size, size), Image.Resampling.LANCZOS)


def to_tensor(picture: "Picture", grey: bool) -> Tensor:
    """-> uint8 (1, H, W) or (3, H, W)"""
    import numpy as np

    pixels = torch.from_numpy(np.array(picture.convert("L" if grey else "RGB")))
    return pixels.unsqueeze(0) if grey else pixels.permute(2, 0, 1).contiguous()


def check_size(
    picture: "Picture", name: str, size: tuple[int, int], first: str
) -> None:
    """Raise unless the image has the size (width, height) of the first one."""
    if picture.size != size:
        raise ValueError(
            f"{name} is {picture.size[0]} x {picture.size[1]} pixels but {first} is {size[0]} x {size[1]}; "
            "wanted images of one size: crop or resize them first, or pass size= (--size 64)"
        )


def _stack(pictures: "list[tuple[str, Picture]]") -> Tensor:
    """(name, PIL image) pairs -> uint8 (N, C, H, W): grey if all are grey, colour otherwise."""
    grey = all(is_grey(picture) for _, picture in pictures)
    first, example = pictures[0]
    for name, picture in pictures:
        check_size(picture, name, example.size, first)
    return torch.stack([to_tensor(picture, grey) for _, picture in pictures])


def _eight_bit(picture: "Picture") -> "Picture":
    """16-bit grey -> 8-bit grey with the same shades; PIL's own conversion turns everything above 255 to white."""
    import numpy as np
    from PIL import Image

    return (
        Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
        if picture.mode.startswith("I;16")
        else picture
    )


def too_large(images: int, size: tuple[int, int], channels: int = 3) -> bool:
    """Whether so many images would take more than half of this machine's memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system says
        memory = 16 * 2**30
    return images * size[0] * size[1] * channels > memory / 2


def _check_memory(images: int, picture: "Picture", size: int | None, name: str) -> None:
    sides = (size, size) if size else picture.size
    if too_large(images, sides, 1 if is_grey(picture) else 3):
        raise ValueError(
            f"{images:,} images of {sides[0]} x {sides[1]} pixels do not fit into this machine's memory; "
            f'wanted load_stream("{name}", ...) (--stream), or smaller ones: size= (--size)'
        )
