"""The data sets that are there without a network: Fashion-MNIST, and scikit-learn's
digits.
"""

import gzip
import hashlib
import os
import zlib
from pathlib import Path

import torch
from torch import Tensor


def data_folder() -> Path:
    """Where data/ is: $DDPM_DATA, or beside the package, or in the working folder."""
    if told := os.environ.get("DDPM_DATA"):
        return Path(told)
    beside = Path(__file__).resolve().parent.parent / "data"
    return beside if beside.is_dir() else Path("data")


def fashion_mnist(split: str) -> tuple[Tensor, Tensor]:
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


def digits(split: str) -> tuple[Tensor, Tensor]:
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
