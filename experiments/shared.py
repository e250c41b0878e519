"""Several pictures out of one x_t: data/results/shared.json and shared.png.

    python -m experiments.shared [data/checkpoints/fashion-mnist] [--seed 0]

12 test images are noised to t = 1000, 750, 500, 250 and 100, each with one noise of its own for all t, and from each x_t four pictures
are drawn, in t / 10 reverse steps, without a label. The grid has a row for each image and, in the order of t, four columns of draws.
About 12,500 evaluations of the network: two minutes on one core.

The noise of image i has seed 1000 * seed + i; the reverse process of its draw d at the time t has seed 1,000,000 * (d + 1) + 1000 * t + i.
"""

import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

import ddpm_core as ddpm
from experiments.results import decode, keep, made_by, options

TIMES, IMAGES, DRAWS = (1000, 750, 500, 250, 100), 12, 4


def main() -> None:
    parser = options(__doc__)
    args = parser.parse_args()
    began, checkpoint = time.monotonic(), ddpm.load_checkpoint(Path(args.checkpoint))
    card = made_by(checkpoint, args.seed)
    schedule = checkpoint.schedule
    images, _ = ddpm.load_images("fashion-mnist", "test")
    index = torch.randperm(
        len(images), generator=torch.Generator().manual_seed(args.seed)
    )[:IMAGES]
    x0 = ddpm.to_model_range(images[index])
    eps = torch.stack(
        [
            torch.randn(
                x0.shape[1:],
                generator=torch.Generator().manual_seed(1000 * args.seed + i),
            )
            for i in range(IMAGES)
        ]
    )

    drawn = torch.empty(IMAGES, len(TIMES), DRAWS, *x0.shape[1:])
    bar = tqdm(
        [(k, d) for k in range(len(TIMES)) for d in range(DRAWS)],
        unit="batch",
        desc="shared latents",
        dynamic_ncols=True,
    )
    for k, d in bar:
        t = TIMES[k]
        seeds = [1_000_000 * (d + 1) + 1000 * t + i for i in range(IMAGES)]
        drawn[:, k, d] = decode(
            checkpoint.model,
            schedule,
            ddpm.q_sample(schedule, x0, t, eps),
            t,
            t // 10,
            seeds,
        )
    settings = {
        "index": index.tolist(),
        "times": TIMES,
        "draws": DRAWS,
        "steps": "t / 10",
        "variance": "beta_tilde",
        "labels": None,
    }
    keep(
        "shared",
        card | {"seconds": round(time.monotonic() - began)} | settings,
        drawn.flatten(0, 2),
        columns=len(TIMES) * DRAWS,
    )


if __name__ == "__main__":
    main()
