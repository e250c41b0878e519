"""Train the Fashion-MNIST classifier of data/checkpoints/fashion-classifier, measure it on the test set and write its card.

    python -m experiments.train_classifier [--epochs 6] [--seed 0] [--out data/checkpoints/fashion-classifier]

One thread and seeded: the same machine gives the same weights. The test set is looked at after each epoch for the curve only; what is
kept is the last epoch, whatever it is.
"""

import argparse
import hashlib
import json
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval
from tqdm import tqdm

from ddpm_core import load_images, to_model_range
from ddpm_core.data import CLASSES
from ddpm_core.features import FORMAT, FashionClassifier, classify, fashion_features
from experiments.results import ROOT, machine


def in_training(network: FashionClassifier) -> nn.Sequential:
    """The same network with batch normalisation after each convolution and dropout before the last layer."""
    layers: list[nn.Module] = []
    for layer in network.body:
        layers += (
            [layer, nn.BatchNorm2d(layer.out_channels)]
            if isinstance(layer, nn.Conv2d)
            else [layer]
        )
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), network.head
    )


def folded(trained: nn.Sequential) -> FashionClassifier:
    """Batch normalisation in eval mode is a scale and a shift for each channel: put them into the convolution before it."""
    network, parts = FashionClassifier(), list(trained.eval())
    pairs = [
        (conv, norm)
        for conv, norm in zip(parts, parts[1:])
        if isinstance(norm, nn.BatchNorm2d)
    ]
    targets = [layer for layer in network.body if isinstance(layer, nn.Conv2d)]
    for target, (conv, norm) in zip(targets, pairs, strict=True):
        target.load_state_dict(fuse_conv_bn_eval(conv, norm).state_dict())
    network.head.load_state_dict(parts[-1].state_dict())
    return network.eval().requires_grad_(False)


def measured(logits: Tensor, labels: Tensor) -> dict:
    """Accuracy, the share of sure answers, and how far the stated probabilities are from the frequencies of being right."""
    p, answer = logits.double().softmax(1).max(1)
    right = (answer == labels).double()
    bins = (p * 10).long().clamp(max=9)
    gaps = [
        (bins == b).double().mean()
        * (p[bins == b].mean() - right[bins == b].mean()).abs()
        for b in bins.unique()
    ]
    return {
        "accuracy": float(right.mean()),
        "sure": float(
            (p > 0.9).double().mean()
        ),  # share of images with a top probability above 0.9
        "accuracy_where_sure": float(right[p > 0.9].mean()),
        "mean_top_probability": float(p.mean()),
        "calibration_error": float(
            sum(gaps)
        ),  # expected calibration error, ten bins of equal width
        "right_by_class": [
            float(right[labels == k].mean()) for k in range(logits.shape[1])
        ],
    }


def train(
    epochs: int, seed: int, batch_size: int = 128, lr: float = 4e-3
) -> tuple[FashionClassifier, list[dict]]:
    torch.manual_seed(seed)
    images, labels = load_images("fashion-mnist")
    test_images, test_labels = load_images("fashion-mnist", "test")
    network = in_training(FashionClassifier()).to(memory_format=torch.channels_last)
    steps = len(images) // batch_size
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=epochs * steps
    )
    curve = []
    for epoch in range(1, epochs + 1):
        network.train()
        losses = []
        for chosen in tqdm(
            torch.randperm(len(images))[: steps * batch_size].split(batch_size),
            desc=f"epoch {epoch}",
            unit="step",
        ):
            x = to_model_range(images[chosen])
            x = torch.where((torch.rand(len(x)) < 0.5).view(-1, 1, 1, 1), x.flip(-1), x)
            loss = F.cross_entropy(network(x), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            losses.append(loss.detach())
        result = folded(network)
        accuracy = measured(classify(result, test_images)[1], test_labels)["accuracy"]
        curve.append(
            {
                "epoch": epoch,
                "loss": round(float(torch.stack(losses).mean()), 4),
                "test_accuracy": accuracy,
            }
        )
        print(curve[-1], flush=True)
    with torch.no_grad():  # the fold changes nothing but rounding
        x = to_model_range(test_images[:100])
        torch.testing.assert_close(result(x)[1], network(x), atol=1e-4, rtol=1e-4)
    return result, curve


def write(
    folder: Path, network: FashionClassifier, card: dict, readme: str, words: dict
) -> None:
    """All of the folder, then one rename; `readme` is filled with the card and the words."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(network.state_dict(), partial / "weights.safetensors")
    (partial / "weights.safetensors").chmod(0o644)
    card = {
        **card,
        "sha256": hashlib.sha256(
            (partial / "weights.safetensors").read_bytes()
        ).hexdigest(),
    }
    (partial / "classifier.json").write_text(json.dumps(card, indent=1) + "\n")
    (partial / "README.md").write_text(readme.format(**card, **words))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


README = """# Fashion-MNIST classifier

Judges what the diffusion networks draw: 64 features and 10 logits for a 28 x 28 picture, from {parameters:,} parameters. Figures taken
from it are called "Fashion features" and are never to be compared with FID or Inception Score, which another network defines.

| | |
|---|---|
| command | `{command}` |
| seed | {seed} |
| training | {epochs} epochs of the 60,000 training images, half of them mirrored, in batches of 128; AdamW, one cycle of the learning rate up to 4e-3 |
| wall time | {minutes:.0f} minutes on {machine}, shared with other work |
| test accuracy | {accuracy:.2%} of the 10,000 test images |
| sure | {sure:.2%} of the test images have a top probability above 0.9; of these {accuracy_where_sure:.2%} are right |
| by class | {by_class} |
| calibration | mean top probability {mean_top_probability:.2%}, so {direction}; expected calibration error {calibration_error:.4f} (ten bins) |
| weights | float32, batch normalisation folded in, SHA-256 `{sha256}` |
| licence | MIT, as the data |

`ddpm_core.features.fashion_features()` loads it, and compares the hash. The curve is in `classifier.json`.

**Good at**: telling trousers, sandals, bags, sneakers and boots apart, which it hardly ever confuses.
**Bad at**: shirt, T-shirt, pullover and coat, which overlap in the data. It has seen clothing only and answers something for every picture,
with confidence even for some that show nothing: a high share of sure answers is necessary for good samples, never sufficient.
Mirrored pictures look to it like the others, so it does not notice a shoe that points to the right.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "data" / "checkpoints" / "fashion-classifier"
    )
    o = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    network, curve = train(o.epochs, o.seed)
    seconds = time.monotonic() - began
    test_images, test_labels = load_images("fashion-mnist", "test")
    result = measured(classify(network, test_images)[1], test_labels)
    order = sorted(range(10), key=lambda k: -result["right_by_class"][k])
    words = {
        "minutes": seconds / 60,
        "by_class": ", ".join(
            f"{CLASSES['fashion-mnist'][k]} {result['right_by_class'][k]:.1%}"
            for k in order
        ),
        "direction": "slightly too sure of itself"
        if result["mean_top_probability"] > result["accuracy"]
        else "slightly too modest",
    }
    card = {
        "format": FORMAT,
        "command": f"python -m experiments.train_classifier --epochs {o.epochs} --seed {o.seed}",
        "seed": o.seed,
        "epochs": o.epochs,
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": round(seconds),
        "machine": machine().replace("1 cores", "1 core"),
        **result,
        "curve": curve,
    }
    write(o.out, network, card, README, words)
    assert fashion_features(o.out).card["accuracy"] == result["accuracy"]
    print(f"{o.out}: test accuracy {result['accuracy']:.2%}")


if __name__ == "__main__":
    main()
