"""Known pixels and known small pictures on Fashion-MNIST, with the network that was trained on whole pictures without a condition.
Writes data/results/inverse.json, and the first ten pictures of each row in inverse.png.

    python -m experiments.inverse [-n 60] [--steps 40] [--seed 0]       about three minutes of one core

Test pictures. "upper half": rows 0 to 13 are known; "seam" is the mean absolute difference between rows 13 and 14. "small picture": the
14 x 14 means are known, Haar's first coefficients; "frechet" is the distance to the training pictures in Fashion features, for n
pictures each, to be compared with that of the real ones. The network is told no label. Finished rows are kept in --out.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import ddpm_core as ddpm
from ddpm_core.after import haar_basis, inpaint_steps, shrink
from ddpm_core.features import classify, fashion_features
from experiments.results import ROOT, digits, keep, made_by

ROWS = [("upper half", 1), ("upper half", 4), ("small picture", 1)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-n", type=int, default=60)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--jump", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "inverse")
    o = parser.parse_args()
    torch.set_num_threads(1)
    kept = ddpm.load_checkpoint(ROOT / "data" / "checkpoints" / "fashion-mnist")
    made, judge = made_by(kept, o.seed), fashion_features()
    known, _ = classify(judge, ddpm.load_images("fashion-mnist")[0])
    reference = (known.double().mean(0), known.double().T.cov())
    images, _ = ddpm.load_images("fashion-mnist", "test")
    real, haar = ddpm.to_model_range(images[: o.n]), haar_basis()

    def judged(x: Tensor) -> dict:
        features, _ = classify(judge, ddpm.to_uint8(x))
        distance = ddpm.frechet_distance(features, reference)
        seam = (x[:, :, 13] - x[:, :, 14]).abs().mean()
        small = (shrink(x) - shrink(real)).square().mean().sqrt()
        upper = (x - real)[:, :, :14].abs().max()
        return {
            "seam": digits(seam, 4),
            "frechet": digits(torch.tensor(distance), 4),
            "small_rms": digits(small, 3),
            "upper_off": digits(upper, 3),
        }

    def draw(kind: str, resample: int) -> Tensor:
        how = dict(
            resample=resample,
            jump=o.jump if resample > 1 else 1,
            steps=o.steps,
            generator=torch.Generator().manual_seed(o.seed),
        )
        if kind == "upper half":
            mask = (torch.arange(28) < 14)[:, None]
            path = inpaint_steps(kept.model, kept.schedule, real, mask, **how)
        else:
            mask = torch.tensor([True, False, False, False]).view(1, 4, 1, 1)
            path = inpaint_steps(
                kept.model, kept.schedule, haar.split(real), mask, haar, **how
            )
        *_, (_, x, _) = path
        return x

    o.out.mkdir(parents=True, exist_ok=True)
    rows, pictures = [], [real[:10]]
    for kind, resample in ROWS:
        place = o.out / f"{kind}-{resample}-{o.n}-{o.steps}-{o.jump}-{o.seed}.json"
        if not place.exists():
            x = draw(kind, resample)
            shown = ddpm.to_uint8(x[:10]).flatten().tolist()
            place.write_text(json.dumps({**judged(x), "shown": shown}))
        row = json.loads(place.read_text())
        shown = torch.tensor(row.pop("shown"), dtype=torch.uint8).view(-1, 1, 28, 28)
        pictures.append(ddpm.to_model_range(shown))
        rows.append({"kind": kind, "resample": resample, **row})
        print(rows[-1], flush=True)
    blocks = F.interpolate(shrink(real), scale_factor=2, mode="nearest")
    pictures.append(blocks[:10])
    settings = {"n": o.n, "steps": o.steps, "jump": o.jump, "variance": "beta_tilde"}
    keep(
        "inverse",
        made
        | {"settings": settings, "real": judged(real), "nearest": judged(blocks)}
        | {"rows": rows},
        torch.cat(pictures),
        columns=10,
    )


if __name__ == "__main__":
    main()
