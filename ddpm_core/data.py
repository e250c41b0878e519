"""Images in: uint8 tensors (N, C, H, W), checked, from the names that `ddpm train --data` knows too."""

import gzip
import hashlib
import os
import zlib
from pathlib import Path

import torch
from torch import Tensor

CLASSES = {
    "fashion-mnist": ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"),
    "digits": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
# Random left-right flips are right for CIFAR-10 (the paper, appendix B) and wrong where left and right mean something:
# all shoes of Fashion-MNIST point to the left, and a mirrored digit is no digit.
FLIP = {"fashion-mnist": False, "digits": False}

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def load_images(name: str, split: str = "train") -> tuple[Tensor, Tensor | None]:
    """Images uint8 (N, C, H, W) and labels LongTensor (N,), or None where the data set has none.

    name   "fashion-mnist"       28 x 28 grey, 60,000 + 10,000; embedded in data/, needs no network
           "digits"              8 x 8 grey, 1,797, from scikit-learn, which must be installed
           "cifar10"             32 x 32 colour, 50,000 + 10,000, by way of "hub:uoft-cs/cifar10"
           "hub:<data set id>"   any image data set that Hugging Face `datasets` loads (pip install datasets)
           "folder:<path>"       all images below a folder, of one size; no labels
    split  "train" or "test"; "digits" keeps its last 360 for the test, and a folder has no splits

    Raises ValueError for an unknown name or split and for images of different sizes, FileNotFoundError for missing files.
    """
    if split not in ("train", "test"):
        raise ValueError(f'split = {split!r}; wanted "train" or "test"')
    if not isinstance(name, str):
        raise TypeError(f"name is {_kind(name)}; wanted a string, such as \"fashion-mnist\" or \"folder:<path>\"")
    if name == "fashion-mnist":
        return _fashion_mnist(split)
    if name == "digits":
        return _digits(split)
    if name == "cifar10":
        return _hub("uoft-cs/cifar10", split)
    if name.startswith("hub:"):
        return _hub(name.removeprefix("hub:"), split)
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")).expanduser()), None
    raise ValueError(f'unknown data set {name!r}; wanted "fashion-mnist", "digits", "cifar10", "hub:<data set id>" or "folder:<path>"')


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
        raise ValueError("x contains NaN; wanted floats in [-1, 1]. A model that answers NaN has usually diverged: lower its learning rate")
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def check_uint8_images(images: Tensor, labels: Tensor | None = None) -> None:
    """Raise unless images are uint8 (N, C, H, W) with N >= 1 and labels, if any, LongTensor (N,)."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(f"images are {_kind(images)}; wanted a uint8 tensor (N, C, H, W): "
                        "to_uint8() takes floats in [-1, 1] there")  # fmt: skip
    if images.ndim != 4 or not images.numel():
        raise ValueError(f"images have shape {tuple(images.shape)}; wanted (N, C, H, W) with at least one image")
    if labels is not None and not isinstance(labels, Tensor):
        raise TypeError(f"labels are {_kind(labels)}; wanted a LongTensor ({len(images)},)")
    if labels is not None and (labels.dtype != torch.int64 or labels.shape != images.shape[:1]):
        raise ValueError(f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}; wanted a LongTensor ({len(images)},)")


def _kind(x: object) -> str:
    return f"a tensor of {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__module__}.{type(x).__name__}"


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
        raise FileNotFoundError(f"no Fashion-MNIST in {folder}; work in a clone of the repository, which contains it, "
                                "or set DDPM_DATA to its data/ folder")  # fmt: skip
    wanted = {line.split()[-1]: line.split()[0] for line in sums.read_text(errors="replace").splitlines() if line.strip()}
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
        raise ValueError(f"{path} ({len(packed)} bytes) is damaged: its SHA-256 is not the one in {path.parent.name}/SHA256SUMS; {remedy}")
    try:
        raw = gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}); {remedy}") from error
    dims = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims)]
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=4 + 4 * dims).reshape(shape)


def _digits(split: str) -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise FileNotFoundError('"digits" comes with scikit-learn, which is not installed; run: pip install scikit-learn') from error
    digits = load_digits()
    images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    part = slice(None, -360) if split == "train" else slice(-360, None)
    return images[part], labels[part]


def _hub(name: str, split: str) -> tuple[Tensor, Tensor | None]:
    try:
        from datasets import Image, load_dataset
    except ImportError as error:
        raise FileNotFoundError(f'"hub:{name}" needs Hugging Face datasets, which is not installed; run: pip install datasets') from error
    try:
        rows = load_dataset(name, split=split)  # without trust_remote_code: nothing from the hub is executed
    except Exception as error:
        raise FileNotFoundError(f'"hub:{name}" ({split}) could not be loaded: {error}; wanted the id of a data set on the hub and a network, '
                                'or a copy of its images as "folder:<path>"') from error  # fmt: skip
    pictures = [key for key, kind in rows.features.items() if isinstance(kind, Image)]
    if not pictures:
        raise ValueError(f'"hub:{name}" has no column of images; its columns are {sorted(rows.features)}')
    labels = next((key for key in ("label", "labels", "fine_label") if key in rows.features), None)
    images = _stack([(str(i), picture) for i, picture in enumerate(rows[pictures[0]])])
    return images, torch.tensor(rows[labels]) if labels else None


def _folder(folder: Path) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; wanted a folder with images ({', '.join(SUFFIXES)})")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder} contains no images; wanted files that end in {', '.join(SUFFIXES)}")
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                pictures.append((str(path), picture.copy()))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} cannot be read as an image ({error}); mend or remove it") from error
    return _stack(pictures)


def _stack(pictures: list) -> Tensor:
    """(name, PIL image) pairs -> uint8 (N, C, H, W): grey if all are grey, colour otherwise."""
    import numpy as np

    pictures = [(name, _eight_bit(picture)) for name, picture in pictures]
    grey = all(picture.mode in ("L", "1") for _, picture in pictures)
    size = pictures[0][1].size
    for name, picture in pictures:
        if picture.size != size:
            raise ValueError(f"{name} is {picture.size[0]} x {picture.size[1]} pixels but {pictures[0][0]} is {size[0]} x {size[1]}; "
                             "wanted images of one size: crop or resize them first")  # fmt: skip
    arrays = np.stack([np.asarray(picture.convert("L" if grey else "RGB")) for _, picture in pictures])
    tensor = torch.from_numpy(arrays)
    return tensor.unsqueeze(1) if grey else tensor.permute(0, 3, 1, 2).contiguous()


def _eight_bit(picture):
    """16-bit grey -> 8-bit grey with the same shades; PIL's own conversion turns everything above 255 to white."""
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8)) if picture.mode.startswith("I;16") else picture
