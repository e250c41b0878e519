"""A small classifier that has seen noise: log p(y | x_t, t) for every t, which is what guidance by a classifier needs.

A classifier of clean pictures answers another question, and its slope at a noisy picture is of no use.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import data_folder
from ..runtime.store import register
from ..schedule import check_t
from ..unet import TimeEmbedding, norm

FORMAT = "ddpm_core noise-aware classifier 1"


@register
class NoisyClassifier(nn.Module):
    """p(y | x_t): four convolutions that are told t, a mean over each of parts x parts pieces of the picture, a linear layer.

    Under much noise the answer is spread over the whole picture, and *where* something is says more than *whether* it is there. So
    the layer sees each piece by itself; parts = 1 is one mean over the picture.
    (x_t (B, channels, H, W) float, t int or LongTensor (B,) in 0..T) -> logits (B, classes)
    t = 0 is a clean picture. The x_t need not lie in [-1, 1]: they carry noise.
    Raises TypeError or ValueError for pictures that are no floats or of another number of channels.
    """

    card: dict[str, Any]

    def __init__(
        self, channels: int = 1, classes: int = 10, width: int = 32, parts: int = 7
    ) -> None:
        super().__init__()
        self.config = dict(channels=channels, classes=classes, width=width, parts=parts)
        for name, value in self.config.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} = {value!r}; wanted a whole number, at least 1"
                )
        widths = [channels, width, 2 * width, 2 * width, 2 * width]
        self.embed_time = TimeEmbedding(width // 2)  # (B, 2 * width)
        self.convs = nn.ModuleList(
            nn.Conv2d(here, out, 3, stride=stride, padding=1)
            for here, out, stride in zip(widths, widths[1:], (1, 2, 2, 1))
        )
        self.norms = nn.ModuleList(norm(out, 8) for out in widths[1:])
        self.shifts = nn.ModuleList(nn.Linear(2 * width, out) for out in widths[1:])
        self.head = nn.Linear(widths[-1] * parts**2, classes)

    def forward(self, x_t: Tensor, t: int | Tensor) -> Tensor:
        channels = self.config["channels"]
        if not isinstance(x_t, Tensor) or not x_t.is_floating_point():
            raise TypeError(
                f"x_t is {getattr(x_t, 'dtype', type(x_t).__name__)}; wanted floats (B, {channels}, H, W)"
            )
        if x_t.ndim != 4 or x_t.shape[1] != channels:
            raise ValueError(
                f"x_t has shape {tuple(x_t.shape)}; wanted (B, {channels}, H, W)"
            )
        t = torch.full((1,), t) if isinstance(t, int) else t.reshape(-1)
        emb = F.silu(self.embed_time(t.to(x_t.device)))  # (B, 2 * width)
        h = x_t
        for conv, normalise, shift in zip(self.convs, self.norms, self.shifts):
            h = F.silu(normalise(conv(h)) + shift(emb)[..., None, None])
        pieces = F.adaptive_avg_pool2d(h, self.config["parts"])
        logits: Tensor = self.head(pieces.flatten(1))  # (B, classes)
        return logits


def fashion_noisy_classifier(folder: str | Path | None = None) -> NoisyClassifier:
    """The one trained on noisy Fashion-MNIST; `folder` is data/checkpoints/fashion-noisy-classifier unless told.

    The weights are compared with the SHA-256 in classifier.json, which comes back as the attribute `card`. Never unpickles.
    Raises FileNotFoundError if a file is missing, ValueError if one is damaged or foreign.
    """
    folder = (
        data_folder() / "checkpoints" / "fashion-noisy-classifier"
        if folder is None
        else Path(folder)
    )
    about, weights = folder / "classifier.json", folder / "weights.safetensors"
    remedy = "take another copy, or train it anew: python -m experiments.train_noisy_classifier"
    for file in (about, weights):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; {remedy}")
    try:
        card = json.loads(about.read_text(encoding="utf-8"))
        network = NoisyClassifier(**card["network"])
        said = card["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{about} does not describe a classifier ({error}); {remedy}"
        ) from error
    packed = weights.read_bytes()
    if said != FORMAT or hashlib.sha256(packed).hexdigest() != card.get("sha256"):
        raise ValueError(
            f"{weights} is not the file that {about.name} describes (format {said!r}, wanted {FORMAT!r}, and its SHA-256); {remedy}"
        )
    try:
        network.load_state_dict(load(packed))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{weights} does not fit: {str(error)[:300]}; {remedy}"
        ) from error
    network.card = card
    network.requires_grad_(False).eval()
    return network


def noisy_accuracy(
    network: nn.Module, noisy: Tensor, labels: Tensor, t: int, batch: int = 1000
) -> float:
    """Share of the x_t (N, C, H, W) whose most probable class is the label."""
    check_t(t, 10**9, lowest=0)
    with torch.no_grad():
        answers = [network(x, t).argmax(1) for x in noisy.split(batch)]
    return float((torch.cat(answers) == labels).double().mean())
