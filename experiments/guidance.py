"""Guidance on Fashion-MNIST, by the classifier of noisy pictures and without a classifier: agreement with the label, distance from real
pictures and variety within a class, for each scale. Writes data/results/guidance.json, and the first picture of each class in
guidance.png.

    python -m experiments.guidance [-n 100] [--steps 20] [--seed 0]       about five minutes of one core

All rows start from the same x_T; DDIM, x0_hat clipped. "agreement" is the share of pictures whose class the judge of chapter 16 names
as asked; "spread" the trace of the covariance of its features within a class, averaged over classes. Finished rows are kept in --out.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

import ddpm_core as ddpm
from ddpm_core.after import classifier_gradient, fashion_noisy_classifier, guided
from ddpm_core.features import classify, fashion_features
from experiments.results import ROOT, digits, keep, made_by

ROWS = (
    [("classifier", scale) for scale in (0.0, 1.0, 3.0, 10.0)]
    + [("clean classifier", 10.0)]
    + [("classifier-free", w) for w in (0.0, 1.0, 3.0, 7.0)]
    + [("eps kept", w) for w in (0.0, 1.0, 3.0, 7.0)]
)


@torch.no_grad()
def eps_kept(
    model: ddpm.UNet,
    schedule: ddpm.Schedule,
    x: Tensor,
    labels: Tensor,
    w: float,
    n: int,
) -> Tensor:
    """DDIM as it is often written: x0_hat is clipped, the eps_hat beside it stays what it was. For comparison only."""
    bent = guided(model, labels, None, 1 + w)
    times, s = ddpm.respace(schedule, n)
    for i in range(n, 0, -1):
        eps = bent(x, times[i])
        x0_hat = ddpm.predict_x0(s, x, i, eps).clamp(-1, 1)
        a = float(s.alpha_bar[i - 1])
        x = a**0.5 * x0_hat + (1 - a) ** 0.5 * eps
    return x


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "guidance")
    o = parser.parse_args()
    torch.set_num_threads(1)
    kept = ddpm.load_checkpoint(ROOT / "data" / "checkpoints" / "fashion-mnist")
    made = made_by(kept, o.seed)
    noisy, judge = fashion_noisy_classifier(), fashion_features()
    made["classifier_sha256"] = noisy.card["sha256"]
    labels = torch.arange(o.n) * 10 // o.n
    start = torch.randn(o.n, 1, 28, 28, generator=torch.Generator().manual_seed(o.seed))
    known, _ = classify(judge, ddpm.load_images("fashion-mnist")[0])
    reference = (known.double().mean(0), known.double().T.cov())

    def judged(images: Tensor) -> dict:
        features, logits = classify(judge, images)
        spread = torch.stack(
            [features[labels == k].double().T.cov().trace() for k in range(10)]
        )
        right = (logits.argmax(1) == labels).double().mean()
        distance = torch.tensor(ddpm.frechet_distance(features, reference))
        return {
            "agreement": digits(right, 4),
            "frechet": digits(distance, 4),
            "spread": digits(spread.mean(), 4),
        }

    def draw(kind: str, scale: float) -> Tensor:
        how = dict(steps=o.steps, sampler="ddim", x_T=start)
        if kind == "classifier-free":
            return ddpm.sample(
                kept.model,
                kept.schedule,
                start.shape,
                labels=labels,
                guidance=scale,
                **how,
            )
        if kind == "eps kept":
            return eps_kept(kept.model, kept.schedule, start, labels, scale, o.steps)
        answer = noisy
        if kind == "clean classifier":
            answer = lambda x, t: judge.head(judge.body(x).mean((2, 3)))
        g = classifier_gradient(answer, labels, scale)
        bent = guided(kept.model, kept.schedule, g) if scale else kept.model
        return ddpm.sample(bent, kept.schedule, start.shape, **how)

    o.out.mkdir(parents=True, exist_ok=True)
    rows, pictures = [], []
    for kind, scale in ROWS:
        # of these weights: a row of others must not be taken for it
        weights = made["weights_sha256"][:8] + made["classifier_sha256"][:8]
        place = o.out / f"{kind}-{scale:g}-{o.n}-{o.steps}-{o.seed}-{weights}.json"
        if not place.exists():
            images = ddpm.to_uint8(draw(kind, scale))
            shown = images[:: o.n // 10].flatten().tolist()
            place.write_text(json.dumps({**judged(images), "shown": shown}))
        row = json.loads(place.read_text())
        shown = torch.tensor(row.pop("shown"), dtype=torch.uint8)
        pictures.append(shown.view(-1, 1, 28, 28))
        rows.append({"kind": kind, "scale": scale, **row})
        print(rows[-1], flush=True)
    test, truth = ddpm.load_images("fashion-mnist", "test")
    chosen = [(truth == k).nonzero()[: o.n // 10, 0] for k in range(10)]
    real = judged(test[torch.cat(chosen)])
    settings = {"n": o.n, "steps": o.steps, "sampler": "ddim"}
    keep(
        "guidance",
        made | {"settings": settings, "real": real, "rows": rows},
        ddpm.to_model_range(torch.cat(pictures)),
        columns=10,
    )


if __name__ == "__main__":
    main()
