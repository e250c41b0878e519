"""Train the classifier of noisy Fashion-MNIST pictures that guidance needs, and write its card.

    python -m experiments.train_noisy_classifier [--epochs 3] [--seed 0]       about two minutes of one core

Every picture gets a t of its own from 0..T, evenly, and the noise of Eq. (4). The accuracy on the test set is measured at a few t.
"""

import argparse
import hashlib
import json
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import ddpm_core as ddpm
from ddpm_core.after.cascade import noised
from ddpm_core.after.classifier import (
    FORMAT,
    NoisyClassifier,
    fashion_noisy_classifier,
    noisy_accuracy,
)
from ddpm_core.features import fashion_features
from experiments.results import ROOT, machine

README = """# Classifier of noisy Fashion-MNIST pictures

Answers p(y | x_t) for t = 0..1000 of the paper's schedule; {parameters:,} parameters. It guides and never judges.

| | |
|---|---|
| command | `{command}` |
| seed | {seed} |
| training | {epochs} epochs of the 60,000 training images, t evenly from 0..1000; AdamW, one cycle of the learning rate up to 3e-3 |
| wall time | {seconds} s on {machine}, shared with other work |
| accuracy on 10,000 noisy test images | {accuracies} |
| weights | float16, SHA-256 `{sha256}` |
| licence | MIT, as the data |
"""


def train(epochs: int, seed: int, batch_size: int = 128) -> NoisyClassifier:
    torch.manual_seed(seed)
    schedule = ddpm.linear_schedule()
    images, labels = ddpm.load_images("fashion-mnist")
    network, steps = NoisyClassifier(), len(images) // batch_size
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=epochs * steps
    )
    for epoch in range(epochs):
        losses = []
        for chosen in torch.randperm(len(images))[: steps * batch_size].split(
            batch_size
        ):
            x = ddpm.to_model_range(images[chosen])
            t = torch.randint(0, schedule.T + 1, (len(x),))
            x_t = noised(schedule, x, t, torch.randn_like(x))
            loss = F.cross_entropy(network(x_t, t), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            losses.append(loss.detach())
        print(f"epoch {epoch + 1}: loss {torch.stack(losses).mean():.4f}", flush=True)
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    name = "fashion-noisy-classifier"
    parser.add_argument(
        "--out", type=Path, default=ROOT / "data" / "checkpoints" / name
    )
    o = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    network = train(o.epochs, o.seed).half().float()  # as it is kept
    seconds = round(time.monotonic() - began)
    images, labels = ddpm.load_images("fashion-mnist", "test")
    x0, schedule = ddpm.to_model_range(images), ddpm.linear_schedule()
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(o.seed))
    clean = fashion_features()
    accuracy = {}
    for t in (0, 1, 100, 250, 500, 750, 1000):
        x_t = noised(schedule, x0, t, eps)
        accuracy[str(t)] = {
            "noisy": noisy_accuracy(network, x_t, labels, t),
            "clean": noisy_accuracy(
                lambda x, t: clean.head(clean.body(x).mean((2, 3))), x_t, labels, t
            ),
        }
    partial = o.out.with_name(f".{o.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = partial / "weights.safetensors"
    save_file(network.half().state_dict(), weights)
    weights.chmod(0o644)
    card = {
        "format": FORMAT,
        "command": f"python -m experiments.train_noisy_classifier --epochs {o.epochs} --seed {o.seed}",
        "seed": o.seed,
        "epochs": o.epochs,
        "network": network.config,
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": seconds,
        "machine": machine(),
        "accuracy": accuracy,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    (partial / "classifier.json").write_text(json.dumps(card, indent=1) + "\n")
    words = ", ".join(f"t = {t}: {a['noisy']:.1%}" for t, a in accuracy.items())
    (partial / "README.md").write_text(README.format(**card, accuracies=words))
    shutil.rmtree(o.out, ignore_errors=True)
    partial.rename(o.out)
    print(fashion_noisy_classifier(o.out).card["accuracy"])


if __name__ == "__main__":
    main()
