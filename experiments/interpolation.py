"""Pictures between two pictures: data/results/interpolation.json and interpolation.png.

    python -m experiments.interpolation [data/checkpoints/fashion-mnist] [--seed 0]

Two images are noised to the time t with the same noise, mixed linearly, and the mixture is decoded by t / 10 reverse steps, with the same
noises for every mixture and no label. Two sets, one after the other in the grid, nine or eleven pictures a row:

    road     2 pairs, t = 100, 200, ..., 1000, nine mixtures each: coarse to fine. A row for each pair and t
    sleeves  16 pairs of a T-shirt and a pullover, t = 500, eleven mixtures each: eight pairs go from dark to bright, eight from
             bright to dark. A row for each pair

About 19,000 evaluations of the network: three minutes on one core. All noises of a pair come from its seed: 1000 * seed + its number.
"""

import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

import ddpm_core as ddpm
from experiments.results import decode, keep, made_by, options

ROAD = ((1, 0), (8, 9))  # the pairs' classes: trouser and T-shirt, bag and boot
TIMES = tuple(range(100, 1001, 100))
COLUMNS, MIXTURES = 11, {"road": 9, "sleeves": 11}


def sleeves(images: torch.Tensor) -> torch.Tensor:
    """Brightness beside the body, where long sleeves are, over that of the body; uint8 (N, 1, 28, 28) -> (N,)."""
    x = images[:, 0].float()
    beside = torch.cat([x[:, 16:23, 2:7], x[:, 16:23, 21:26]], dim=2).mean((1, 2))
    return beside / brightness(images).clamp(min=10)


def brightness(images: torch.Tensor) -> torch.Tensor:
    """Mean grey level of the body of a shirt; uint8 (N, 1, 28, 28) -> (N,)."""
    return images[:, 0, 8:22, 10:18].float().mean((1, 2))


def choose(
    images: torch.Tensor, labels: torch.Tensor, seed: int
) -> list[tuple[int, int]]:
    """16 pairs (T-shirt without, pullover with long sleeves): 8 from dark to bright and 8 from bright to dark, by the seed."""
    g = torch.Generator().manual_seed(seed)
    bare, long, light = (
        sleeves(images) < 0.05,
        (sleeves(images) > 0.5) & (sleeves(images) < 0.9),
        brightness(images),
    )
    dark, bright = (light > 60) & (light < 110), (light > 180) & (light < 230)

    def some(wanted: torch.Tensor) -> list[int]:
        found = wanted.nonzero().flatten()
        return found[torch.randperm(len(found), generator=g)[:8]].tolist()

    shirt, pullover = (labels == 0) & bare, (labels == 2) & long
    return [
        *zip(some(shirt & dark), some(pullover & bright)),
        *zip(some(shirt & bright), some(pullover & dark)),
    ]


def between(
    checkpoint: ddpm.Checkpoint,
    a: torch.Tensor,
    b: torch.Tensor,
    t: int,
    n: int,
    seed: int,
) -> torch.Tensor:
    """n pictures from a to b (1, 28, 28), mixed at t with one noise: (n, 1, 28, 28)."""
    weight = torch.linspace(0, 1, n).view(-1, 1, 1, 1)
    eps = torch.randn(a.shape, generator=torch.Generator().manual_seed(seed))
    x_t, y_t = (
        ddpm.q_sample(checkpoint.schedule, x[None], t, eps[None]) for x in (a, b)
    )
    return decode(
        checkpoint.model,
        checkpoint.schedule,
        (1 - weight) * x_t + weight * y_t,
        t,
        t // 10,
        [seed + 1_000_000] * n,
    )


def main() -> None:
    parser = options(__doc__)
    args = parser.parse_args()
    began, checkpoint = time.monotonic(), ddpm.load_checkpoint(Path(args.checkpoint))
    card = made_by(checkpoint, args.seed)
    images, labels = ddpm.load_images("fashion-mnist", "test")
    x0 = ddpm.to_model_range(images)
    road = [
        (
            int((labels == a).nonzero()[args.seed]),
            int((labels == b).nonzero()[args.seed]),
        )
        for a, b in ROAD
    ]
    pairs = choose(images, labels, args.seed)

    todo = [("road", i, pair, t) for i, pair in enumerate(road) for t in TIMES] + [
        ("sleeves", i, pair, 500) for i, pair in enumerate(pairs)
    ]
    rows = []
    for name, i, (a, b), t in tqdm(
        todo, unit="row", desc="interpolations", dynamic_ncols=True
    ):
        row = between(checkpoint, x0[a], x0[b], t, MIXTURES[name], 1000 * args.seed + i)
        rows.append(torch.cat([row, -torch.ones(COLUMNS - len(row), *row.shape[1:])]))
    settings = {
        "road": road,
        "times": TIMES,
        "sleeves": pairs,
        "sleeves_t": 500,
        "mixtures": MIXTURES,
        "steps": "t / 10",
        "variance": "beta_tilde",
        "labels": None,
    }
    keep(
        "interpolation",
        card | {"seconds": round(time.monotonic() - began)} | settings,
        torch.cat(rows),
        columns=COLUMNS,
    )


if __name__ == "__main__":
    main()
