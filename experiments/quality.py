"""Draw 2,000 samples and judge them with Fashion features: data/results/quality.json (or --name), and all of the samples in quality.png.

    python -m experiments.quality [data/checkpoints/fashion-mnist] [--steps 1000] [--seed 0]

The same measurements as `ddpm evaluate`. Sampling takes hours with all thousand steps; stopped, it goes on where it was. Image i depends
on the seed, on i and on its label only, so that any of them can be drawn again alone.
"""

from pathlib import Path

import ddpm_core as ddpm
from ddpm_core.evaluation import Samples, draw, measure_pictures
from ddpm_core.features import fashion_features
from experiments.results import ROOT, keep, made_by, options


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("-n", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--variance", default="beta")
    parser.add_argument("--sampler", default="ddpm")
    parser.add_argument("--guidance", type=float, default=0.0)
    parser.add_argument("--name", default="quality", help="of the file of results")
    parser.add_argument(
        "--keep",
        type=Path,
        default=ROOT / "runs" / "quality.npz",
        help="file for the samples so far",
    )
    o = parser.parse_args()
    checkpoint = ddpm.load_checkpoint(Path(o.checkpoint))
    made = made_by(checkpoint, o.seed)
    how = Samples(
        n=o.n,
        steps=o.steps,
        sampler=o.sampler,
        variance=o.variance,
        guidance=o.guidance,
        seed=o.seed,
    )
    o.keep.parent.mkdir(parents=True, exist_ok=True)
    samples, labels = draw(checkpoint, how, batch_size=50, keep=o.keep, progress=True)
    train, _ = ddpm.load_images("fashion-mnist")
    test, test_labels = ddpm.load_images("fashion-mnist", "test")
    measured = measure_pictures(
        fashion_features(),
        samples,
        labels,
        train,
        test,
        test_labels,
        seed=o.seed,
        progress=True,
    )
    settings = {
        "n": o.n,
        "steps": o.steps,
        "sampler": o.sampler,
        "variance": o.variance,
        "guidance": o.guidance,
    }
    keep(
        o.name,
        made | {"sampling": settings} | measured,
        ddpm.to_model_range(samples),
        columns=50,
    )


if __name__ == "__main__":
    main()
