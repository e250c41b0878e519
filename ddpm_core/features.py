"""What pictures look like to a classifier: the features and logits that
`frechet_distance` and `inception_score` are taken from.

Two networks, each a callable from images to (features, logits). The Fashion-MNIST
classifier of data/checkpoints/fashion-classifier, small, trained here, always at hand:
its figures are called "Fashion features". And the Inception network of published
scores, through torch-fidelity, where its weights can be had: only its figures are
called FID and Inception Score. The two kinds are never compared.
"""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from .data import check_uint8_images, data_folder, to_model_range

FORMAT = "ddpm_core Fashion-MNIST classifier 1"
INCEPTION = (  # the file's SHA-256 begins with the eight digits of its name
    "weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_ADDRESS = (
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
)

Classifier = Callable[
    [Tensor], tuple[Tensor, Tensor]
]  # images (N, C, H, W) -> features (N, D), logits (N, K)


class FashionClassifier(nn.Module):
    """Six convolutions, a mean over the picture, one linear layer: images (N, 1, 28,
    28) -> features (N, 64), logits (N, 10).

    Images are uint8, or float in [-1, 1]. It was trained with batch normalisation,
    which is folded into the convolutions by now: the answer for an image depends on
    that image alone, never on its batch, and there is no training mode to forget.
    Raises TypeError or ValueError for images of another type, shape or range.
    """

    card: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),  # (N, 32, 28, 28)
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),  # (N, 32, 14, 14)
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),  # (N, 64, 14, 14)
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.ReLU(),  # (N, 64, 7, 7)
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),  # (N, 128, 7, 7)
            nn.Conv2d(128, 64, 3, padding=1),
            nn.ReLU(),  # (N, 64, 7, 7)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(_fashion_input(images)).mean((2, 3))  # (N, 64)
        return features, self.head(features)  # (N, 10)


def fashion_features(folder: str | Path | None = None) -> FashionClassifier:
    """The trained Fashion-MNIST classifier; `folder` is
    data/checkpoints/fashion-classifier unless told.

    The weights are compared with the SHA-256 in classifier.json, whose other entries
    (test accuracy, calibration, command) come back as the attribute `card`. Never
    unpickles.
    Raises FileNotFoundError if a file is missing, ValueError if one is truncated,
    changed or foreign.
    """
    folder = (
        data_folder() / "checkpoints" / "fashion-classifier"
        if folder is None
        else Path(folder)
    )
    about, weights = folder / "classifier.json", folder / "weights.safetensors"
    remedy = (
        "take another copy, or train it anew: python -m experiments.train_classifier"
    )
    for file in (about, weights):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing; work in a clone of the repository, which contains"
                " it, or set DDPM_DATA to its data/ folder"
            )
    try:
        card = json.loads(about.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{about} is not JSON ({error}); {remedy}") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        found = card.get("format") if isinstance(card, dict) else type(card).__name__
        raise ValueError(f"{about} says format {found!r}; wanted {FORMAT!r}: {remedy}")
    packed = weights.read_bytes()
    if hashlib.sha256(packed).hexdigest() != card.get("sha256"):
        raise ValueError(
            f"{weights} ({len(packed)} bytes) is damaged: its SHA-256 is not the one in"
            f" {about.name}; {remedy}"
        )
    network = FashionClassifier()
    try:
        network.load_state_dict(load(packed))
    except (
        SafetensorError,
        RuntimeError,
    ) as error:  # no safetensors; tensors of other names or shapes
        raise ValueError(
            f"{weights} does not hold the classifier's weights:"
            f" {' '.join(str(error).split())[:300]}; {remedy}"
        ) from error
    network.card = card
    cast(Any, network).to(
        memory_format=torch.channels_last
    )  # an argument that some of torch's stubs forget; twice as fast on a CPU
    network.requires_grad_(False).eval()
    return network


def inception_features(device: str | torch.device = "cpu") -> Classifier:
    """The Inception network of published FIDs and Inception Scores: images uint8 (N, 1
    or 3, H, W) -> features (N, 2048), logits (N, 1008).

    FID takes the features; the Inception Score takes the logits, without the last
    layer's bias as in the original code. Grey images are repeated in three colours.
    Needs torch-fidelity, and its weights (95 MB) in the cache of torch.hub, where they
    are put if there is a network. The file is a pickle: it is compared with its SHA-256
    and read as plain tensors (weights_only).
    Raises FileNotFoundError that says what is missing and how to bring it, ValueError
    for a damaged file.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (
            FeatureExtractorInceptionV3,
        )
    except ImportError as error:
        raise FileNotFoundError(
            "Inception features need torch-fidelity, which is not installed; run: pip"
            " install torch-fidelity, and without a network also bring"
            f" {INCEPTION_ADDRESS} to {file}"
        ) from error
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(
                INCEPTION_ADDRESS, str(file), hash_prefix=_promised(file)
            )
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"{file} is missing and could not be fetched ({error}); where there is"
                f" a network, download {INCEPTION_ADDRESS} and put it there, or measure"
                " with --features fashion"
            ) from error
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if not found.startswith(_promised(file)):
        raise ValueError(
            f"{file} ({file.stat().st_size} bytes) is damaged: its SHA-256 begins with"
            f" {found[:8]}, not as its name ends; remove it"
        )
    try:
        torch.load(
            file, map_location="cpu", weights_only=True
        )  # before torch-fidelity reads it, which with an older torch would unpickle
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{file} holds more than tensors, or none ({str(error).splitlines()[0]});"
            " remove it"
        ) from error
    network = FeatureExtractorInceptionV3(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(file),
    )
    network = network.to(device).eval()

    def features(images: Tensor) -> tuple[Tensor, Tensor]:
        check_uint8_images(images)
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images have {images.shape[1]} channels; wanted 1 or 3")
        pooled, logits = network(images.to(device).expand(-1, 3, -1, -1))
        return pooled, logits

    return features


@torch.no_grad()
def classify(
    classifier: Classifier,
    images: Tensor,
    *,
    batch_size: int = 500,
    progress: bool = False,
    desc: str = "features",
) -> tuple[Tensor, Tensor]:
    """features (N, D) and logits (N, K) of images (N, C, H, W), batch by batch; on the
    CPU.
    """
    from tqdm.auto import tqdm

    bar = tqdm(
        torch.split(images, batch_size),
        unit="batch",
        desc=desc,
        disable=not progress,
        dynamic_ncols=True,
    )
    features, logits = zip(*(classifier(batch) for batch in bar), strict=True)
    return torch.cat(features).cpu(), torch.cat(logits).cpu()


def _promised(file: Path) -> str:
    """The eight digits that torch.hub puts into a file's name: the first of its
    SHA-256.
    """
    return file.stem.rsplit("-", 1)[1]


def _fashion_input(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or not (
        images.dtype == torch.uint8 or images.is_floating_point()
    ):
        raise TypeError(
            "images are"
            f" {f'a tensor of {images.dtype}' if isinstance(images, Tensor) else type(images).__name__};"
            " wanted a tensor of uint8, or of floats in [-1, 1]"
        )
    if images.ndim != 4 or images.shape[1:] != (1, 28, 28):
        raise ValueError(
            f"images have shape {tuple(images.shape)}; wanted (N, 1, 28, 28), as those"
            " of Fashion-MNIST"
        )
    if images.dtype == torch.uint8:
        return to_model_range(images)
    if not images.numel() or not images.abs().max() <= 1 + 1e-4:
        raise ValueError(
            "images have values outside [-1, 1], or NaN, or there are none; wanted"
            " floats in [-1, 1]: to_uint8() clamps to it"
        )
    return images.float()
