"""Fewer steps: how far from the training images samples are (Fashion features), and how long they take, for each sampler and number of
steps. Writes data/results/steps.json, and the first ten samples of each row in steps.png.

    python -m experiments.steps [--steps 5 10 20 50 100 250] [-n 500] [--seed 0]       about half an hour on two cores

All rows start from the same x_T: image i depends on the seed, on i, and on its label. Finished rows are kept in --out; started again, it
goes on. Seconds are those of the machine that the file names, while nothing else ran on it as far as the command can know.
"""

import json
import time
from pathlib import Path

import torch

import ddpm_core as ddpm
from ddpm_core.features import classify, fashion_features
from ddpm_core.training import mix
from experiments.results import ROOT, digits, keep, made_by, options

SAMPLERS = {
    "beta": ("ddpm", "beta"),
    "beta_tilde": ("ddpm", "beta_tilde"),
    "ddim": ("ddim", "beta"),
    "dpm": ("dpm", "beta"),
}
SHOWN = 10


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[5, 10, 20, 50, 100, 250]
    )
    parser.add_argument("-n", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "steps")
    o = parser.parse_args()
    checkpoint = ddpm.load_checkpoint(Path(o.checkpoint))
    made = made_by(checkpoint, o.seed)
    judge = fashion_features()
    train, _ = ddpm.load_images("fashion-mnist")
    known, _ = classify(judge, train)
    reference = (known.double().mean(0), known.double().T.cov())
    test, _ = ddpm.load_images("fashion-mnist", "test")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(o.seed))

    def judged(images: torch.Tensor) -> dict:
        features, logits = classify(judge, images)
        return {
            "frechet": digits(
                torch.tensor(ddpm.frechet_distance(features, reference)), 5
            ),
            "sure": digits((logits.softmax(1).max(1).values > 0.9).double().mean(), 5),
        }

    floor = [judged(test[part]) for part in order.split(o.n)[:5]]
    labels = torch.arange(o.n) * 10 // o.n
    rows, pictures = [], []
    o.out.mkdir(parents=True, exist_ok=True)
    for steps in o.steps:
        for name, (sampler, variance) in SAMPLERS.items():
            place = (
                o.out
                / f"{made['weights_sha256'][:12]}-{name}-{steps}-{o.n}-{o.seed}-{o.precision}.json"
            )
            if not place.exists():
                begin, drawn = time.monotonic(), []
                for first in range(0, o.n, o.batch_size):
                    chosen = range(first, min(first + o.batch_size, o.n))
                    drawn.append(
                        ddpm.to_uint8(
                            ddpm.sample(
                                checkpoint.model,
                                checkpoint.schedule,
                                (len(chosen), 1, 28, 28),
                                steps=steps,
                                sampler=sampler,
                                variance=variance,
                                generator=[
                                    torch.Generator().manual_seed(
                                        mix(o.seed, "image", i)
                                    )
                                    for i in chosen
                                ],
                                labels=labels[first : chosen[-1] + 1],
                                precision=o.precision,
                            )
                        )
                    )
                seconds, images = time.monotonic() - begin, torch.cat(drawn)
                place.with_suffix(".partial").write_text(
                    json.dumps(
                        {
                            "row": name,
                            "steps": steps,
                            "seconds_an_image": digits(torch.tensor(seconds / o.n), 3),
                            **judged(images),
                            "shown": images[:: o.n // SHOWN][:SHOWN].flatten().tolist(),
                        }
                    )
                )
                place.with_suffix(".partial").replace(place)
                print(f"{name}, {steps} steps: {seconds:.0f} s", flush=True)
            row = json.loads(place.read_text())
            pictures.append(
                torch.tensor(row.pop("shown"), dtype=torch.uint8).view(-1, 1, 28, 28)
            )
            rows.append(row)
    settings = {"n": o.n, "batch_size": o.batch_size, "precision": o.precision}
    keep(
        "steps",
        made | {"settings": settings, "floor": floor, "rows": rows},
        ddpm.to_model_range(torch.cat(pictures)),
        columns=SHOWN,
    )


if __name__ == "__main__":
    main()
