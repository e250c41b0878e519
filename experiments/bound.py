"""Measure the bound of Eq. (5), term by term, on test and on training images: data/results/bound.json.

    python -m experiments.bound [data/checkpoints/fashion-mnist] [--images 512] [--seed 0]

All T terms of one image would take T evaluations of the network. So the times 1..T are divided into strata, some of a single time, and
in each stratum an image is measured at one t, drawn evenly from the stratum and with a noise of its own. That term, multiplied by the number
of times in the stratum, is an unbiased estimate of the stratum's sum. The network gets no label; x0_hat is clipped, as in the official
evaluation. 49 evaluations an image: eight minutes on one core.

Image i of the test (training) set draws from a generator with seed 1,000,000 * seed + 2 i (+ 1): for each stratum first t, then eps.
"""

import math
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

import ddpm_core as ddpm
from ddpm_core.bound import bound_term
from ddpm_core.gaussian import kl_divergence
from ddpm_core.reverse import reverse_variance
from experiments.results import digits, keep, made_by, options

SINGLE = [
    *range(1, 11),
    *range(101, 1000, 100),
]  # times that are strata of their own: where a table will ask for the distortion
EXAMPLES = 8  # images whose terms are stored one by one


def strata(T: int) -> list[tuple[int, int]]:
    """(first, last) of each stratum, without gaps: the single times; between them 12 ranges up to 100, then the halves of each hundred."""
    up_to_100 = torch.logspace(1, 2, 13, dtype=torch.float64).round().long().tolist()
    ends = {
        *SINGLE,
        *(t - 1 for t in SINGLE if t > 1),
        *up_to_100,
        *range(150, T, 100),
        T,
    }
    ends = sorted(t for t in ends if t <= T)
    return [(before + 1, end) for before, end in zip([0, *ends], ends)]


def draws(
    seed: int, shape: torch.Size, layers: list[tuple[int, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The times (K,) and the noises (K, C, H, W) of one image."""
    g = torch.Generator().manual_seed(seed)
    pairs = [
        (
            torch.randint(first, last + 1, (), generator=g),
            torch.randn(shape, generator=g),
        )
        for first, last in layers
    ]
    return torch.stack([t for t, _ in pairs]), torch.stack([eps for _, eps in pairs])


@torch.no_grad()
def measure(
    model, schedule: ddpm.Schedule, images: torch.Tensor, seeds: list[int], bar: tqdm
) -> dict[str, torch.Tensor]:
    """t, term (bits/dim, times the length of its stratum), x0_mse: each (N, K); and prior (N,), L_T in bits/dim."""
    layers, sigma2 = strata(schedule.T), reverse_variance(schedule, "beta")
    x0 = ddpm.to_model_range(images).double()
    bits = math.log(2) * x0[0].numel()
    times, noises = zip(*(draws(seed, x0.shape[1:], layers) for seed in seeds))
    times, term, x0_mse = (
        torch.stack(times),
        torch.empty(len(x0), len(layers)),
        torch.empty(len(x0), len(layers)),
    )
    for k, (first, last) in enumerate(layers):
        t, eps = times[:, k], torch.stack([noise[k] for noise in noises]).double()
        x_t = ddpm.q_sample(schedule, x0, t, eps)
        x0_hat = ddpm.predict_x0(
            schedule, x_t, t, model(x_t.float(), t).double()
        ).clamp(-1, 1)
        mean, _ = ddpm.q_posterior(schedule, x0_hat, x_t, t)
        nats = bound_term(schedule, x0, x_t, t, mean, sigma2[t].view(-1, 1, 1, 1))
        term[:, k] = (last - first + 1) * nats.flatten(1).sum(1) / bits
        x0_mse[:, k] = (x0 - x0_hat).square().flatten(1).mean(1)
        bar.update(len(x0))
    alpha_bar = schedule.alpha_bar[schedule.T]
    prior = (
        kl_divergence(
            alpha_bar.sqrt() * x0, 1 - alpha_bar, torch.zeros(()), torch.ones(())
        )
        .flatten(1)
        .sum(1)
        / bits
    )
    return {"t": times, "term": term, "x0_mse": x0_mse, "prior": prior}


def summary(measured: dict[str, torch.Tensor], index: torch.Tensor) -> dict:
    """What the file keeps of one split."""
    term, x0_mse, prior, n = (
        measured["term"].double(),
        measured["x0_mse"].double(),
        measured["prior"],
        len(index),
    )
    return {
        "index": index.tolist(),
        "prior": digits(prior.mean()),
        "total": digits(prior + term.sum(1)),  # (N,) the bound of each image
        "L_0": digits(term[:, 0]),  # (N,)
        "term": digits(
            term.mean(0)
        ),  # (K,) sums over a stratum, mean over the images; and the standard error of that mean
        "term_error": digits(term.std(0) / n**0.5),
        "x0_mse": digits(x0_mse.mean(0)),
        "x0_mse_error": digits(x0_mse.std(0) / n**0.5),
        "examples": {
            "t": measured["t"][:EXAMPLES].tolist(),
            "term": digits(term[:EXAMPLES]),
            "x0_mse": digits(x0_mse[:EXAMPLES]),
        },
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--images", type=int, default=512, help="of each of the two sets"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    began, checkpoint = time.monotonic(), ddpm.load_checkpoint(Path(args.checkpoint))
    card = made_by(checkpoint, args.seed)
    model, schedule = checkpoint.model, checkpoint.schedule
    layers = strata(schedule.T)
    result = {}
    with tqdm(
        total=2 * args.images * len(layers),
        unit="evaluation",
        desc="bound",
        dynamic_ncols=True,
    ) as bar:
        for is_train, split in enumerate(("test", "train")):
            images, _ = ddpm.load_images("fashion-mnist", split)
            index = torch.randperm(
                len(images), generator=torch.Generator().manual_seed(args.seed)
            )[: args.images]
            seeds = [1_000_000 * args.seed + 2 * int(i) + is_train for i in index]
            parts = [
                measure(
                    model,
                    schedule,
                    images[batch],
                    seeds[first : first + len(batch)],
                    bar,
                )
                for first, batch in zip(
                    range(0, args.images, args.batch_size), index.split(args.batch_size)
                )
            ]
            result[split] = summary(
                {name: torch.cat([part[name] for part in parts]) for name in parts[0]},
                index,
            )
    settings = {"variance": "beta", "clip_x0": True, "labels": None, "strata": layers}
    keep(
        "bound", card | {"seconds": round(time.monotonic() - began)} | settings | result
    )


if __name__ == "__main__":
    main()
