"""A cascade on Fashion-MNIST: 14 x 14 pixels, then 28 x 28, with the small picture spoilt to a level s before it is enlarged. Writes
data/results/cascade.json, and ten pictures for each level in cascade.png.

    python -m experiments.cascade [-n 100] [--steps 12] [--seeds 0 1 2]       about eight minutes of one core

For each s, `n` small pictures are enlarged: "real", the 2 x 2 means of test pictures, and "drawn", what the base draws. "frechet" is
the distance to the training pictures in Fashion features, one number for each seed, which decides on the noise and on the n test
pictures; "real" in the file is that of these pictures themselves, whole. "error" is the enlarger's mean squared error of the noise on 200 test
pictures, for each s and t; s = null is the network that it started from. Finished rows are kept in --out.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import ddpm_core as ddpm
from ddpm_core.after import enlarger, noise_condition, noised, shrink
from ddpm_core.features import classify, fashion_features
from experiments.results import ROOT, digits, keep, made_by, sha256

LEVELS = (0, 50, 100, 200, 350, 600, 1000)
TIMES = (100, 400, 700)


def gaussian(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "cascade")
    o = parser.parse_args()
    torch.set_num_threads(1)
    folder = ROOT / "data" / "checkpoints"
    large = ddpm.load_checkpoint(folder / "cascade" / "enlarger")
    base = ddpm.load_checkpoint(folder / "cascade" / "base")
    before = ddpm.load_checkpoint(folder / "fashion-mnist").model
    made, judge, schedule = (
        made_by(large, o.seeds[0]),
        fashion_features(),
        large.schedule,
    )
    made["base_sha256"] = sha256(base.path / "weights.safetensors")
    known, _ = classify(judge, ddpm.load_images("fashion-mnist")[0])
    reference = (known.double().mean(0), known.double().T.cov())
    test = ddpm.to_model_range(ddpm.load_images("fashion-mnist", "test")[0])
    o.out.mkdir(parents=True, exist_ok=True)
    labels = torch.arange(o.n) * 10 // o.n

    @torch.no_grad()
    def error(s: int | None, t: int, normal: Callable[..., Tensor]) -> float:
        x0, eps, z = test[:200], normal(200, 1, 28, 28), normal(200, 1, 14, 14)
        x_t = noised(schedule, x0, t, eps)
        model = before
        if s is not None:
            model = enlarger(
                large.model, noise_condition(schedule, shrink(x0), s, z, 28)
            )
        guess = torch.cat([model(x, t) for x in x_t.split(200)])
        return float((guess - eps).square().mean())

    def judged(x: Tensor, z: Tensor) -> dict:
        features, _ = classify(judge, ddpm.to_uint8(x))
        distance = torch.tensor(ddpm.frechet_distance(features, reference))
        off = (shrink(x) - z).square().mean().sqrt()
        return {"frechet": digits(distance, 4), "small_rms": digits(off, 3)}

    rows = {
        (source, s): {"source": source, "s": s, "frechet": [], "small_rms": []}
        for s in LEVELS
        for source in ("real", "drawn")
    }
    pictures: list[Tensor] = []
    real = []
    for seed in o.seeds:
        generator = torch.Generator().manual_seed(seed)
        normal = partial(gaussian, generator)
        whole = test[seed * o.n : (seed + 1) * o.n]
        drawn = ddpm.sample(
            base.model,
            schedule,
            (o.n, 1, 14, 14),
            steps=25,
            sampler="dpm",
            labels=labels,
            x_T=normal(o.n, 1, 14, 14),
        )
        small = {"real": shrink(whole), "drawn": drawn}
        start, spoil = normal(o.n, 1, 28, 28), normal(o.n, 1, 14, 14)
        for (source, s), row in rows.items():
            place = o.out / f"{source}-{s}-{o.n}-{o.steps}-{seed}.json"
            told = noise_condition(schedule, small[source], s, spoil, 28)
            if not place.exists():
                x = ddpm.sample(
                    enlarger(large.model, told),
                    schedule,
                    start.shape,
                    steps=o.steps,
                    sampler="dpm",
                    x_T=start,
                )
                shown = ddpm.to_uint8(x[:: o.n // 10]).flatten().tolist()
                found = {**judged(x, small[source]), "shown": shown}
                place.write_text(json.dumps(found))
            found = json.loads(place.read_text())
            shown = torch.tensor(found.pop("shown"), dtype=torch.uint8)
            if seed == o.seeds[0]:
                shown = ddpm.to_model_range(shown.view(-1, 1, 28, 28))
                pictures += [told[:: o.n // 10, :1], shown]
            for name, value in found.items():
                row[name].append(value)
            print(seed, source, s, found, flush=True)
        features, _ = classify(judge, ddpm.to_uint8(whole))
        distance = ddpm.frechet_distance(features, reference)
        real.append(digits(torch.tensor(distance), 4))
    normal = partial(gaussian, torch.Generator().manual_seed(o.seeds[0]))
    errors = [
        {"s": s, "t": t, "error": digits(torch.tensor(error(s, t, normal)), 4)}
        for s in (None, *LEVELS)
        for t in TIMES
    ]
    settings = {"n": o.n, "steps": o.steps, "sampler": "dpm", "seeds": o.seeds}
    keep(
        "cascade",
        made
        | {
            "settings": settings,
            "real": real,
            "errors": errors,
            "rows": list(rows.values()),
        },
        torch.cat(pictures),
        columns=10,
    )


if __name__ == "__main__":
    main()
