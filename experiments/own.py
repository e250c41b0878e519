"""How many pictures are enough: one small network trained on 100, on 1,000 and on all
6,000 pictures of one class, everything else alike; and 100 pictures of another class,
from nothing and from the weights of the 6,000. Writes data/results/own.json and own.png,
the weights to data/checkpoints/bags, and the price list of networks (sizes.py).

    python -m experiments.own [--steps 6000] [--seed 0]

The pictures are Fashion-MNIST's with each 2 x 2 pixels averaged, 14 x 14. Every 300
steps the simple loss of the averaged weights is measured on pictures of the training and
on held-out ones (the test split), always with the same t and the same noise. Samples are
drawn from the weights with the least held-out loss and from the last ones; their
distances to the nearest training picture stand beside those of the held-out pictures. A
run that is stopped goes on where it was, and with more --steps it goes on from there.
Some fifteen minutes of one quiet core.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import torch

import ddpm_core as ddpm
from ddpm_core.checkpoint import save_checkpoint
from ddpm_core.features import classify, fashion_features
from ddpm_core.metrics import frechet_distance, memorisation
from ddpm_core.training import mix
from experiments import sizes
from experiments.ablation import as_seen, halve
from experiments.results import ROOT, digits, keep, made_by, sha256

BAG, BOOT = 8, 9
SHOWN = 10  # samples in the picture, above the training picture nearest to each
QUANTILES = (0.1, 0.5, 0.9)


class Case(NamedTuple):
    """A training; `of` is its part of --steps, `init` the case that it begins with."""

    label: int
    pictures: int
    of: float = 1.0
    init: str | None = None


CASES = {
    "bags-100": Case(BAG, 100),
    "bags-1000": Case(BAG, 1000),
    "bags-6000": Case(BAG, 6000),
    "boots-100": Case(BOOT, 100, 0.25),
    "boots-100-init": Case(BOOT, 100, 0.25, "bags-6000"),
}


def pictures(label: int, split: str) -> torch.Tensor:
    images, labels = ddpm.load_images("fashion-mnist", split)
    return halve(images[labels == label])


@torch.no_grad()
def loss_of(model, schedule, images: torch.Tensor, draws: int) -> float:
    """The simple loss, Eq. (14), with t spread evenly over 1..T and noise that is the
    same every time: what changes from call to call is the network."""
    noise = torch.Generator().manual_seed(0)
    n = len(images) * draws
    t = torch.arange(n) * schedule.T // n + 1
    t = t[torch.randperm(n, generator=noise)]
    x0 = ddpm.to_model_range(images.repeat(draws, 1, 1, 1))
    eps = torch.randn(x0.shape, generator=noise)
    parts = zip(x0.split(500), t.split(500), eps.split(500))
    losses = [ddpm.simple_loss(model, schedule, *part) * len(part[0]) for part in parts]
    return float(torch.stack(losses).sum()) / n


def draw(model, schedule, o: argparse.Namespace) -> torch.Tensor:
    seeds = [mix(o.seed, "image", i) for i in range(o.samples)]
    parts = [
        ddpm.sample(
            model,
            schedule,
            (len(some), 1, 14, 14),
            steps=o.sample_steps,
            variance="beta_tilde",
            generator=[torch.Generator().manual_seed(s) for s in some],
            precision="float32",
        )
        for some in (seeds[i : i + 100] for i in range(0, o.samples, 100))
    ]
    return ddpm.to_uint8(torch.cat(parts))


def judged(samples, unseen, train, judge) -> tuple[dict, torch.Tensor]:
    """What samples are like, and which training picture is nearest to each.

    Distances are root mean square differences per pixel, in grey levels of 255.
    """
    m = memorisation(*(x.flatten(1).float() for x in (samples, unseen, train)))
    at = torch.tensor(QUANTILES)
    features, real = (classify(judge, as_seen(x))[0] for x in (samples, unseen))
    return {
        "samples": digits(m.distance.quantile(at) / 14, 4),
        "unseen": digits(m.unseen.quantile(at) / 14, 4),
        "nearer": digits(torch.tensor(m.nearer), 4),
        "nearer_error": digits(torch.tensor(m.nearer_error), 2),
        "suspect": digits(torch.tensor(m.suspect), 3),
        "frechet": digits(torch.tensor(frechet_distance(features, real)), 4),
    }, m.index


def run(case: Case, o: argparse.Namespace, out: Path, judge) -> dict:
    """Train in pieces, after each of which the averaged weights are looked at."""
    train = pictures(case.label, "train")[: case.pictures]
    unseen, schedule = pictures(case.label, "test"), ddpm.linear_schedule()
    lines = out / "losses.json"
    losses = json.loads(lines.read_text()) if lines.exists() else []
    torch.manual_seed(o.seed)
    model = ddpm.UNet(14, 1, o.width, (1, 2), 1, (7,), 0.0, groups=8)
    if case.init is not None:
        first = ddpm.load_checkpoint(o.out / f"{case.init}-{o.seed}" / "best")
        model.load_state_dict(first.model.state_dict())

    def look(average, step: int) -> None:
        draws = -(-1000 // min(case.pictures, 1000))
        line = {
            "step": step,
            "train": digits(
                torch.tensor(loss_of(average, schedule, train[:1000], draws))
            ),
            "unseen": digits(torch.tensor(loss_of(average, schedule, unseen, 1))),
        }
        if not losses or line["unseen"] < min(each["unseen"] for each in losses):
            save_checkpoint(out / "best", average, schedule, step=step)
        losses.append(line)
        lines.write_text(json.dumps(losses))
        print(f"{out.name}: {line}, {time.strftime('%H:%M:%S')}", flush=True)

    if case.init is not None and not losses:
        look(model.eval(), 0)
    for step in range(o.every, int(o.steps * case.of) + 1, o.every):
        if any(line["step"] == step for line in losses):
            continue
        average = ddpm.train(
            model,
            schedule,
            train,
            steps=step,
            batch_size=o.batch_size,
            lr=o.lr,
            warmup=100,
            ema=o.ema,
            flip=False,
            device="cpu",
            precision="float32",
            out=out / "run",
            resume=(out / "run").exists(),
            save_every=o.every,
            seed=o.seed,
            progress=False,
        )
        look(average, step)
    result: dict = {"pictures": case.pictures, "label": case.label, "losses": losses}
    shown = []
    for name, folder in (("best", "best"), ("last", "run")):
        checkpoint = ddpm.load_checkpoint(out / folder)
        samples = draw(checkpoint.model, checkpoint.schedule, o)
        found, index = judged(samples, unseen, train, judge)
        weights = sha256(checkpoint.path / "weights.safetensors")
        result[name] = {"step": checkpoint.step, "weights_sha256": weights, **found}
        shown += [samples[:SHOWN], train[index[:SHOWN]]]
    torch.save(torch.cat(shown), out / f"shown-{o.steps}.pt")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--every", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.99)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--sample-steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "own")
    o = parser.parse_args()
    torch.set_num_threads(1)
    judge, runs, shown = fashion_features(), {}, []
    for name in o.cases:
        out = o.out / f"{name}-{o.seed}"
        out.mkdir(parents=True, exist_ok=True)
        result = out / f"result-{o.steps}.json"
        if not result.exists():
            result.write_text(json.dumps(run(CASES[name], o, out, judge)))
        runs[name] = json.loads(result.read_text())
        shown.append(torch.load(out / f"shown-{o.steps}.pt", weights_only=True))
    if set(o.cases) != set(CASES):
        return  # the table wants all of them
    kept = ddpm.load_checkpoint(o.out / f"bags-6000-{o.seed}" / "best")
    bags = ROOT / "data" / "checkpoints" / "bags"
    about = {"data": "the bags of fashion-mnist, 2 x 2 pixels averaged"}
    save_checkpoint(
        bags, kept.model, kept.schedule, step=kept.step, info=about, half=True
    )
    priced = o.out / "sizes.json"
    if not priced.exists():
        priced.write_text(json.dumps(list(sizes.rows())))
    left_out = ("out", "cases", "seed")
    floor = [  # what real pictures score, as many as there are samples
        frechet_distance(*(classify(judge, as_seen(x))[0] for x in (some, unseen)))
        for label in (BAG, BOOT)
        for unseen in [pictures(label, "test")]
        for some in [pictures(label, "train")[-o.samples :]]
    ]
    keep(
        "own",
        made_by(ddpm.load_checkpoint(bags), o.seed)
        | {
            "settings": {k: v for k, v in vars(o).items() if k not in left_out},
            "parameters": sum(p.numel() for p in kept.model.parameters()),
            "held_out": len(pictures(BAG, "test")),
            "quantiles": QUANTILES,
            "floor": digits(torch.tensor(floor), 4),
            "runs": runs,
            "sizes": json.loads(priced.read_text()),
        },
        ddpm.to_model_range(torch.cat(shown)),
        columns=SHOWN,
    )


if __name__ == "__main__":
    main()
