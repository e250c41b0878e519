"""Train the classifier of noisy Fashion-MNIST pictures that guidance needs, and write its card.

    python -m experiments.train_noisy_classifier [--steps 9000] [--seed 0]       about fifteen minutes of one core

Every picture gets a t of its own from 0..T, evenly, and the noise of Eq. (4). Started again, a stopped run goes on where it was. What
is kept is the moving average of the weights after the last step; the test set is only looked at then.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import ddpm_core as ddpm
from ddpm_core.after.cascade import noised
from ddpm_core.after.classifier import (
    FORMAT,
    NoisyClassifier,
    fashion_noisy_classifier,
    noisy_accuracy,
)
from ddpm_core.data import CLASSES
from ddpm_core.features import fashion_features
from ddpm_core.runtime.log import read_log
from ddpm_core.runtime.loop import descend
from ddpm_core.runtime.store import load_network
from experiments.results import ROOT, machine

BATCH, LR = 128, 3e-3
SCHEDULE = ddpm.linear_schedule()
README = """# Classifier of noisy Fashion-MNIST pictures

Answers p(y | x_t) for t = 0..1000 of the paper's schedule; {parameters:,} parameters. It guides and never judges.

| | |
|---|---|
| command | `{command}` |
| seed | {seed} |
| training | {steps:,} steps of 128 pictures ({epochs:.1f} times the 60,000 training images), t evenly from 0..1000; AdamW, learning rate 3e-3, falling to 0 over the second half; weights averaged |
| wall time | {seconds} s on {machine}, shared with other work |
| accuracy on 10,000 noisy test images | {accuracies} |
| weights | float16, SHA-256 `{sha256}` |
| licence | MIT, as the data |

The curve is in `classifier.json`: the mean loss of every {every} steps.

**Good at**: saying under noise what is left of a picture. At t = 250 most often right for {best}.
**Bad at**: kinds that overlap in the data; at t = 250 least often right for {worst}. From t = 750 on it is little better than
chance: there is hardly anything left to see. On clean pictures `fashion-classifier`, which never saw noise, does better.
"""


def loss(network: NoisyClassifier, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of the label, each picture at a t of its own. -> (B,)"""
    images, labels = batch
    x0 = ddpm.to_model_range(images)
    t = torch.randint(0, SCHEDULE.T + 1, (len(x0),), device=x0.device)
    x_t = noised(SCHEDULE, x0, t, torch.randn_like(x0))
    return F.cross_entropy(network(x_t, t).float(), labels, reduction="none")


def train(steps: int, seed: int, run: Path) -> None:
    """Leaves the averaged weights in the folder `run`."""
    images, labels = ddpm.load_images("fashion-mnist")
    each = len(images) // BATCH  # steps of an epoch
    orders: dict[int, Tensor] = {}

    def batch(step: int) -> tuple[Tensor, Tensor]:
        epoch, k = divmod(step, each)
        if epoch not in orders:
            orders.clear()
            g = torch.Generator().manual_seed(seed * 1000 + epoch)
            orders[epoch] = torch.randperm(len(images), generator=g)
        chosen = orders[epoch][k * BATCH : (k + 1) * BATCH]
        return images[chosen], labels[chosen]

    torch.manual_seed(seed)
    descend(
        NoisyClassifier(),
        loss,
        batch,
        steps=steps,
        lr=LR,
        warmup=200,
        decay=steps // 2,
        weight_decay=0.01,
        ema=0.999,
        seed=seed,
        out=run,
        resume=run.exists(),
        save_every=500,
        log_every=max(steps // 40, 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    name = "fashion-noisy-classifier"
    parser.add_argument(
        "--out", type=Path, default=ROOT / "data" / "checkpoints" / name
    )
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / name)
    o = parser.parse_args()
    torch.set_num_threads(1)
    train(o.steps, o.seed, o.run)
    kept, log = load_network(o.run), read_log(o.run / "log.jsonl")
    network = kept.network.half().float()  # as it is kept
    images, labels = ddpm.load_images("fashion-mnist", "test")
    x0 = ddpm.to_model_range(images)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(o.seed))
    clean = fashion_features()
    accuracy = {}
    for t in (0, 1, 100, 250, 500, 750, 1000):
        x_t = noised(SCHEDULE, x0, t, eps)
        accuracy[str(t)] = {
            "noisy": noisy_accuracy(network, x_t, labels, t),
            "clean": noisy_accuracy(
                lambda x, t: clean.head(clean.body(x).mean((2, 3))), x_t, labels, t
            ),
        }
    x_t = noised(SCHEDULE, x0, 250, eps)
    by_class = [
        round(noisy_accuracy(network, x_t[labels == k], labels[labels == k], 250), 3)
        for k in range(10)
    ]
    partial = o.out.with_name(f".{o.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = partial / "weights.safetensors"
    save_file(network.half().state_dict(), weights)
    weights.chmod(0o644)
    card = {
        "format": FORMAT,
        "command": f"python -m experiments.train_noisy_classifier --steps {o.steps} --seed {o.seed}",
        "seed": o.seed,
        "steps": o.steps,
        "epochs": round(o.steps * BATCH / 60_000, 1),
        "network": network.config,
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": kept.info["seconds"],
        "machine": machine(),
        "accuracy": accuracy,
        "right_by_class_at_250": by_class,
        "curve": [[line["step"], round(line["loss"], 4)] for line in log],
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    (partial / "classifier.json").write_text(json.dumps(card, indent=1) + "\n")
    words = ", ".join(f"t = {t}: {a['noisy']:.1%}" for t, a in accuracy.items())
    named = sorted(zip(by_class, CLASSES["fashion-mnist"]))
    say = lambda some: ", ".join(f"{name} ({right:.0%})" for right, name in some)
    about = README.format(
        **card,
        accuracies=words,
        every=card["curve"][0][0],
        best=say(named[:-4:-1]),
        worst=say(named[:3]),
    )
    (partial / "README.md").write_text(about)
    shutil.rmtree(o.out, ignore_errors=True)
    partial.rename(o.out)
    print(fashion_noisy_classifier(o.out).card["accuracy"])


if __name__ == "__main__":
    main()
