"""Table 2 in small: what is predicted, what is minimised, which variance; everything else alike. Writes data/results/ablation.json.

    python -m experiments.ablation                                      all rows, three seeds: about an hour on one core; started again, it goes on
    python -m experiments.ablation --rows eps-simple mu-bound --seeds 0   some of them
    python -m experiments.ablation --steps 1500 --go-on    the runs that ablation.json holds are taken from there; what it lacks is trained

The images are Fashion-MNIST's with each 2 x 2 pixels averaged, 14 x 14, without labels, and the chain has T = 100 steps whose betas are
ten times the paper's, so that x_T is noise as well; so a run takes minutes, and samples are drawn with all steps. A run is a folder
below --out, in which result.json says what it measured. The averaged weights of seed 0 are kept in data/checkpoints/ablation/.

On a GPU, with the paper's data, network and length (the rows, seeds and budget are options):
    python -m experiments.ablation --data cifar10 --T 1000 --paper --steps 800000 --batch-size 128 --lr 2e-4 --samples 50000 --features inception --out runs/cifar10-ablation
"""

import argparse
import json
import shlex
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import ddpm_core as ddpm
from ddpm_core.checkpoint import save_checkpoint
from ddpm_core.data import FLIP
from ddpm_core.features import classify, fashion_features, inception_features
from ddpm_core.metrics import frechet_distance
from ddpm_core.objectives import choose_objective
from ddpm_core.reverse import as_eps_model
from ddpm_core.training import mix, read_log
from experiments.results import RESULTS, ROOT, digits, keep, made_by

ROWS = {  # name -> prediction, objective, variance; in the order of the paper's table, then the one that it only mentions
    "mu-bound-learned": ("mu", "bound", "learned"),
    "mu-bound": ("mu", "bound", "beta"),
    "mu-simple": ("mu", "simple", "beta"),
    "eps-bound-learned": ("eps", "bound", "learned"),
    "eps-bound": ("eps", "bound", "beta"),
    "eps-simple": ("eps", "simple", "beta"),
    "x0-simple": ("x0", "simple", "beta"),
}
SHOWN = 10  # samples of each row in the picture


def halve(images: torch.Tensor) -> torch.Tensor:
    """uint8 images of half the side: the mean of each 2 x 2 pixels, rounded."""
    return F.avg_pool2d(images.float(), 2).round().to(torch.uint8)


def as_seen(images: torch.Tensor) -> torch.Tensor:
    """What the classifier, who knows 28 x 28 pixels, is shown: each pixel as 2 x 2 of them."""
    return images.repeat_interleave(2, 2).repeat_interleave(2, 3)


def measure(
    row: str,
    seed: int,
    o: argparse.Namespace,
    train: torch.Tensor,
    test: torch.Tensor,
    judge,
) -> dict:
    """Train one row with one seed, draw samples, take the bound; a run that diverges says so instead."""
    prediction, objective, variance = ROWS[row]
    schedule = ddpm.linear_schedule(o.T, beta_1=0.1 / o.T, beta_T=20 / o.T)
    torch.manual_seed(seed)
    if o.paper:
        network = ddpm.UNet(learn_variance=variance == "learned")
    else:
        network = ddpm.UNet(
            train.shape[2],
            train.shape[1],
            o.width,
            (1, 2),
            1,
            (train.shape[2] // 2,),
            0.0,
            groups=8,
            learn_variance=variance == "learned",
        )
    model = as_eps_model(network, schedule, prediction)
    out = Path(o.out) / f"{row}-{seed}"
    began = time.monotonic()
    try:
        model = ddpm.train(
            model,
            schedule,
            train,
            steps=o.steps,
            batch_size=o.batch_size,
            lr=o.lr,
            warmup=o.steps // 15,
            decay=o.steps // 3,
            ema=o.ema,
            flip=FLIP.get(o.data, True),
            out=out,
            resume=out.exists(),
            save_every=o.steps,
            log_every=max(o.steps // 50, 1),
            seed=seed,
            objective=choose_objective(prediction, objective, variance),
        )
        draw = [
            torch.Generator().manual_seed(mix(seed, "image", i))
            for i in range(o.samples)
        ]
        shape = (100, *train.shape[1:])
        samples = torch.cat(
            [
                ddpm.to_uint8(
                    ddpm.sample(
                        model,
                        schedule,
                        shape,
                        variance=variance,
                        generator=draw[i : i + 100],
                    )
                )
                for i in range(0, o.samples, 100)
            ]
        )
    except ValueError as error:
        if "the loss is" not in str(error) and "NaN" not in str(error):
            raise
        return {"row": row, "seed": seed, "diverged": str(error)}
    distance, sure = judge(samples)
    x0 = ddpm.to_model_range(test[: o.bound])
    noise = [
        torch.Generator().manual_seed(mix(seed, "bound", i)) for i in range(len(x0))
    ]
    bound = torch.cat(
        [
            ddpm.bits_per_dim(
                model,
                schedule,
                x0[i : i + 100],
                variance,
                clip_x0=True,
                generator=noise[i : i + 100],
            ).total
            for i in range(0, len(x0), 100)
        ]
    ).double()
    if seed == 0:
        save_checkpoint(
            ROOT / "data" / "checkpoints" / "ablation" / row,
            model,
            schedule,
            step=o.steps,
            info={"data": f"{o.data}, 2 x 2 pixels averaged"},
        )
    torch.save(samples[:SHOWN], out / "samples.pt")
    return {
        "row": row,
        "seed": seed,
        "frechet": distance,
        "sure": sure,
        "bits": digits(bound.mean(), 6),
        "bits_error": digits(bound.std() / len(bound) ** 0.5, 3),
        "x0_bits": digits(bound[:8], 6),
        "loss": [line["loss"] for line in read_log(out / "log.jsonl")],
        "seconds": round(time.monotonic() - began),
    }


def take_stored(
    out: Path, settings: dict, results: Path = RESULTS
) -> list[tuple[str, int]]:
    """Lay the runs of ablation.json below out as if they had been made there, and say which; folders of runs are not in the history.

    Only runs with the same settings can stand in one table with those that are still to come.
    """
    stored = json.loads((results / "ablation.json").read_text())
    other = {
        name: (stored["settings"].get(name), value)
        for name, value in settings.items()
        if stored["settings"].get(name) != value
    }
    if other:
        raise SystemExit(
            "--go-on: ablation.json holds runs with other settings, "
            + ", ".join(
                f"{name} {was}, not {now}" for name, (was, now) in other.items()
            )
            + "; give the same ones, or leave --go-on out to make every run anew"
        )
    sheet = np.array(Image.open(results / "ablation.png").convert("L"))
    side = sheet.shape[1] // stored["columns"]
    drawn = torch.from_numpy(sheet).reshape(-1, side, stored["columns"], side)
    shown = min(run["seed"] for run in stored["runs"])
    taken = []
    for run in stored["runs"]:
        folder = out / f"{run['row']}-{run['seed']}"
        if (folder / "result.json").exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        if run["seed"] == shown:
            strip = drawn[list(stored["rows"]).index(run["row"])]
            torch.save(
                strip.transpose(0, 1).unsqueeze(1).contiguous(), folder / "samples.pt"
            )
        (folder / "result.json").write_text(json.dumps(run))
        taken.append((run["row"], run["seed"]))
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument(
        "--paper",
        action="store_true",
        help="the paper's network, and images as they are",
    )
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--T", type=int, default=100)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument(
        "--bound", type=int, default=60, help="test images whose bound is taken"
    )
    parser.add_argument(
        "--features", choices=["fashion", "inception"], default="fashion"
    )
    parser.add_argument("--out", default="runs/ablation")
    parser.add_argument(
        "--go-on",
        action="store_true",
        help="take the runs that data/results/ablation.json holds from there",
    )
    o = parser.parse_args()
    settings = {
        name: value
        for name, value in vars(o).items()
        if name not in ("rows", "seeds", "out", "go_on")
    }
    if o.go_on:
        for row, seed in take_stored(Path(o.out), settings):
            print(f"{row}, seed {seed}: as stored", flush=True)

    train, test = (ddpm.load_images(o.data, split)[0] for split in ("train", "test"))
    if not o.paper:
        train, test = halve(train), halve(test)
    network = (
        fashion_features()
        if o.features == "fashion"
        else inception_features(torch.device("cuda"))
    )
    seen = as_seen if o.features == "fashion" else lambda images: images
    known, _ = classify(network, seen(train))
    reference = (known.double().mean(0), known.double().T.cov())

    def judge(images: torch.Tensor) -> tuple[float, float]:
        """The distance to the training images, and the share that is recognised with a probability above 0.9."""
        features, logits = classify(network, seen(images))
        return digits(torch.tensor(frechet_distance(features, reference)), 5), digits(
            (logits.softmax(1).max(1).values > 0.9).double().mean(), 5
        )

    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    test = test[order]
    floor = [judge(images) for images in test.split(o.samples)[:5]]
    runs, pictures = [], []
    for seed in (
        o.seeds
    ):  # seed by seed: stopped early, every row has had the same number of them
        for row in o.rows:
            result = Path(o.out) / f"{row}-{seed}" / "result.json"
            if not result.exists():
                print(f"{row}, seed {seed}", flush=True)
                measured = measure(row, seed, o, train, test, judge)
                result.parent.mkdir(parents=True, exist_ok=True)
                result.write_text(json.dumps(measured))
            runs.append(json.loads(result.read_text()))
            shown = result.with_name("samples.pt")
            if seed == o.seeds[0]:
                pictures.append(
                    torch.load(shown, weights_only=True)
                    if shown.exists()
                    else torch.zeros(SHOWN, *train.shape[1:], dtype=torch.uint8)
                )
    first = ROOT / "data" / "checkpoints" / "ablation" / o.rows[0]
    made = made_by(ddpm.load_checkpoint(first), o.seeds[0])
    # the command that makes all of it: --go-on would only read what it wrote
    words = [word for word in shlex.split(made["command"]) if word != "--go-on"]
    keep(
        "ablation",
        made
        | {
            "command": shlex.join(words),
            "settings": settings,
            "floor": floor,
            "rows": {row: ROWS[row] for row in o.rows},
            "runs": runs,
        },
        ddpm.to_model_range(torch.cat(pictures)),
        columns=SHOWN,
    )


if __name__ == "__main__":
    main()
