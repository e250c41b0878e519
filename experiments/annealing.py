"""Walking along the shipped network's arrows: annealed Langevin dynamics, Algorithm 2, and predictor with corrector, equally dear.

    python -m experiments.annealing [-n 60] [--seed 0]        about ten minutes on two cores

Each row draws n labelled images with 200 evaluations of the network for each, from the same x_T. Judged with Fashion features: the
share of images that the classifier takes for their label, and the Frechet distance to the training images, beside five sets of
n real test images with the same classes.
Writes data/results/annealing.json, and the first ten of each row in annealing.png.
"""

import argparse
import time
from pathlib import Path

import torch

import ddpm_core as ddpm
from ddpm_core.after import annealed_langevin, langevin_step
from ddpm_core.features import classify, fashion_features
from ddpm_core.training import mix
from experiments.results import digits, keep, made_by

SHOWN = 10


@torch.no_grad()
def predictor_corrector(model, schedule, x, levels, step, generators):
    """A step of Algorithm 2 with beta_tilde, then a Langevin step with a = step sigma^2 at the level reached; two evaluations each."""
    times, few = ddpm.respace(schedule, levels, "snr")
    normal = lambda: torch.stack(
        [torch.randn(x.shape[1:], generator=g) for g in generators]
    )
    whole = lambda i: torch.full((len(x),), times[i])

    def guess(x, i):
        return ddpm.predict_x0(few, x, i, model(x, whole(i))).clamp(-1, 1)

    for i in range(levels, 0, -1):
        mean, var = ddpm.q_posterior(few, guess(x, i), x, i)
        x = mean + var.sqrt() * normal() if i > 1 else mean
        if i > 1:
            signal = float(few.alpha_bar[i - 1].sqrt())
            sigma2 = float((1 - few.alpha_bar[i - 1]) / few.alpha_bar[i - 1])
            score = (guess(x, i - 1) - x / signal) / sigma2
            x = signal * langevin_step(x / signal, score, step * sigma2, normal())
    return x


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint", nargs="?", default="data/checkpoints/fashion-mnist"
    )
    parser.add_argument("-n", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    o = parser.parse_args()
    checkpoint = ddpm.load_checkpoint(Path(o.checkpoint))
    made = made_by(checkpoint, o.seed)
    schedule, judge = checkpoint.schedule, fashion_features()
    known, _ = classify(judge, ddpm.load_images("fashion-mnist")[0])
    reference = (known.double().mean(0), known.double().T.cov())
    labels = torch.arange(o.n) * 10 // o.n
    model = lambda x, t: checkpoint.model(x, t, labels)
    shape = (o.n, 1, 28, 28)
    checkpoint.model.eval()
    x_T = torch.stack(
        [
            torch.randn(shape[1:], generator=torch.Generator().manual_seed(mix(o.seed, "x_T", i)))
            for i in range(o.n)
        ]
    )  # fmt: skip

    def generators():
        return [torch.Generator().manual_seed(mix(o.seed, "z", i)) for i in range(o.n)]

    def langevin(step):
        *_, (_, x, _) = annealed_langevin(
            model, schedule, shape, levels=100, each=2, step=step,
            generator=generators(), x_T=x_T,
        )  # fmt: skip
        return x

    def ancestral():
        return ddpm.sample(
            model, schedule, shape, steps=200, variance="beta_tilde",
            generator=generators(), x_T=x_T,
        )  # fmt: skip

    rows, pictures = [], []
    for name, call in (
        ("langevin 0.6", lambda: langevin(0.6)),
        ("langevin 0.1", lambda: langevin(0.1)),
        ("algorithm 2", ancestral),
        ("corrector", lambda: predictor_corrector(model, schedule, x_T, 100, 0.1, generators())),
    ):  # fmt: skip
        begin = time.monotonic()
        images = ddpm.to_uint8(call())
        features, logits = classify(judge, images)
        rows.append(
            {
                "row": name,
                "agreement": digits((logits.argmax(1) == labels).double().mean(), 4),
                "frechet": digits(
                    torch.tensor(ddpm.frechet_distance(features, reference)), 4
                ),
                "seconds": round(time.monotonic() - begin),
            }
        )
        pictures.append(images[:: o.n // SHOWN][:SHOWN])
        print(rows[-1], flush=True)
    test, names = ddpm.load_images("fashion-mnist", "test")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(o.seed))
    each = [order[names[order] == k] for k in range(10)]  # by class, as in the rows
    real = []
    for _ in range(5):
        part = torch.cat([one[: (labels == k).sum()] for k, one in enumerate(each)])
        each = [one[(labels == k).sum() :] for k, one in enumerate(each)]
        features, logits = classify(judge, test[part])
        real.append(
            {
                "agreement": digits(
                    (logits.argmax(1) == names[part]).double().mean(), 4
                ),
                "frechet": digits(
                    torch.tensor(ddpm.frechet_distance(features, reference)), 4
                ),
            }
        )
    keep(
        "annealing",
        made | {"settings": {"n": o.n, "evaluations": 200}, "rows": rows, "real": real},
        ddpm.to_model_range(torch.cat(pictures)),
        columns=SHOWN,
    )


if __name__ == "__main__":
    main()
