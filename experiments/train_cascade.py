"""Train the two networks of a cascade on Fashion-MNIST: one draws 14 x 14 pixels, one enlarges to 28 x 28.

    python -m experiments.train_cascade base        about 7 minutes of one core
    python -m experiments.train_cascade enlarger    about 25 minutes

The enlarger starts as the network of data/checkpoints/fashion-mnist with two further input channels of weight zero. Started again, a
run goes on where it was; with fewer --steps it ends sooner. Weights are kept as float16.
"""

import argparse
import json
import shutil

import torch
from torch import Tensor, nn

import ddpm_core as ddpm
from ddpm_core.after.cascade import Enlarger, enlarging, shrink, with_condition
from ddpm_core.schedule import at
from experiments.results import ROOT, machine, sha256

STEPS = {"base": 2000, "enlarger": 2400}
README = """# Cascade on Fashion-MNIST: {name}

{what}

| | |
|---|---|
| command | `python -m experiments.train_cascade {name}` |
| seed | {seed} |
| training | {steps:,} steps of 64 pictures; {wall} |
| parameters | {parameters:,} |
| weights | float16, averaged, SHA-256 `{sha256}` |
| licence | MIT, as the data |
"""
WHAT = {
    "base": "Draws pictures of 14 x 14 pixels, the 2 x 2 means of Fashion-MNIST's, with or without a label.",
    "enlarger": "Draws the 28 x 28 picture that belongs to a small one, which it sees spoilt to a level 0..1000 that it is told. "
    "Started from the network of `fashion-mnist`; Eq. (14) weighted by min(1 / alpha_bar_t, 20).",
}


def small(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 1, 28, 28) -> uint8 (N, 1, 14, 14), the means rounded."""
    return shrink(images.float()).round().to(torch.uint8)


def late_times_count(
    model: nn.Module, schedule: ddpm.Schedule, x0: Tensor, t: Tensor, eps: Tensor
) -> Tensor:
    """`enlarging` times min(1 / alpha_bar_t, 20), over the mean weight. -> (B,)

    Departure: in Eq. (14) an error of x0_hat counts alpha_bar_t / (1 - alpha_bar_t), next to nothing at late times. There the small
    picture says most, and a short training with equal weights hardly learns to look at it.
    """
    weight = (1 / schedule.alpha_bar).clamp(max=20)
    loss = enlarging(model, schedule, x0, t, eps)
    return at(weight / weight[1:].mean(), t, loss) * loss


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=list(STEPS))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(o.seed)
    steps = o.steps or STEPS[o.network]
    schedule = ddpm.linear_schedule()
    images, labels = ddpm.load_images("fashion-mnist")
    run = ROOT / "runs" / f"cascade-{o.network}"
    model: nn.Module
    if o.network == "base":
        model = ddpm.UNet(
            14, 1, 32, (1, 2), 1, attention=(7,), dropout=0.0, classes=10, groups=8
        )
        images, objective = small(images), None
    else:
        start = ddpm.load_checkpoint(ROOT / "data" / "checkpoints" / "fashion-mnist")
        model, objective = Enlarger(with_condition(start.model, 2)), late_times_count
        labels = None
    ema = ddpm.train(
        model,
        schedule,
        images,
        labels,
        steps=steps,
        batch_size=64,
        lr=1e-3 if o.network == "base" else 4e-4,
        warmup=100,
        decay=steps // 3,
        ema=0.995,
        flip=False,
        objective=objective,
        out=run,
        resume=run.exists(),
        save_every=250,
        seed=o.seed,
        progress=False,
    )
    unet = ema.unet if isinstance(ema, Enlarger) else ema
    info = {
        "data": "fashion-mnist",
        "command": f"python -m experiments.train_cascade {o.network}",
        "seed": o.seed,
        "machine": machine(),
    }
    folder = ROOT / "data" / "checkpoints" / "cascade" / o.network
    ddpm.save_checkpoint(folder, unet.half(), schedule, step=steps, info=info)
    shutil.copy(run / "log.jsonl", folder / "log.jsonl")
    log = [json.loads(line) for line in (run / "log.jsonl").open()]
    minutes = log[-1].get("seconds", 0) / 60
    (folder / "README.md").write_text(
        README.format(
            name=o.network,
            what=WHAT[o.network],
            seed=o.seed,
            steps=steps,
            wall=f"{minutes:.0f} minutes on {machine()}, shared with other work",
            parameters=sum(p.numel() for p in unet.parameters()),
            sha256=sha256(folder / "weights.safetensors"),
        )
    )
    print(folder, "written")


if __name__ == "__main__":
    main()
