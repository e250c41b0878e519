"""Send test images through Algorithms 3 and 4 and count the bytes: data/results/codec.json.

    python -m experiments.codec [data/checkpoints/fashion-mnist] [--images 1000] [--seed 0]

Two parts. All images are encoded without loss, a hundred to a file, decoded, and compared bit by bit; PNG and WebP of the same images
are made beside. The first `--curve` of them are also encoded at every time of the codec's schedule, with and without loss: the bytes,
and the error of what is decoded. For them the bound of Eq. (5) is computed twice, term by term: for the codec's steps with the codec's
variance (what relative entropy coding has to reach), and for the codec's steps with beta and with beta_tilde.

Files, and what decoding them gave, go to runs/codec; after a stop the same command goes on from what is there. About 15 minutes on one core.
"""

import hashlib
import io
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

import ddpm_core as ddpm
from ddpm_core import codec
from ddpm_core.checkpoint import beside
from experiments.results import ROOT, digits, keep, made_by, options

STEPS, BITS, FILE = 24, 16, 100
RUNS = (
    ROOT
    / "runs"
    / "codec"
    / hashlib.sha256(Path(codec.__file__).read_bytes()).hexdigest()[:8]
)  # files of another codec are others


def once(name: str, make) -> bytes:
    """The file runs/codec/NAME, made if it is not there."""
    path = RUNS / name
    if not path.exists():
        RUNS.mkdir(parents=True, exist_ok=True)
        with beside(path) as partial:
            partial.write_bytes(make())
    return path.read_bytes()


def wrong_by(received: torch.Tensor, images: torch.Tensor) -> float:
    """Root mean squared error of a whole set, grey levels."""
    return digits((received.double() - images).square().mean().sqrt())


def pictures(images: torch.Tensor) -> dict[str, list[int]]:
    """Bytes of each image as PNG and as lossless WebP, each at its hardest-working setting."""
    sizes: dict[str, list[int]] = {"png": [], "webp": []}
    for image in images:
        picture = Image.fromarray(image[0].numpy())
        for kind, given, how in (
            ("png", picture, {"optimize": True}),
            (
                "webp",
                picture.convert("RGB"),
                {"lossless": True, "quality": 100, "method": 6},
            ),
        ):
            buffer = io.BytesIO()
            given.save(buffer, kind.upper(), **how)
            sizes[kind].append(buffer.tell())
            buffer.seek(0)
            assert torch.equal(
                torch.from_numpy(np.array(Image.open(buffer).convert("L"))), image[0]
            ), f"{kind} is not lossless"
    return sizes


@torch.no_grad()
def bound(
    model, schedule: ddpm.Schedule, images: torch.Tensor, seed: int
) -> dict[str, list]:
    """Bits an image of each step of the codec's schedule, T first, by Eq. (5): with the codec's variance, with beta and with beta_tilde."""
    party = codec.Party(model.double(), schedule, images[0].numel(), STEPS, BITS, 0)
    few, x0, D = party.few, ddpm.to_model_range(images).double(), images[0].numel()
    g = torch.Generator().manual_seed(seed)
    rows: dict[str, list] = {"codec": [], "beta": [], "beta_tilde": []}
    for i in range(few.T, 1, -1):
        x = ddpm.q_sample(
            few, x0, i, torch.randn(x0.shape, generator=g, dtype=torch.float64)
        )
        squares = (x0 - party.look(x, i)).square().flatten(1).sum(1)
        weight = few.alpha_bar[i - 1].sqrt() * few.beta[i] / (1 - few.alpha_bar[i])
        var_q = few.beta_tilde[i]
        for name, var in (
            ("codec", var_q + weight**2 * squares / D),
            ("beta", few.beta[i]),
            ("beta_tilde", var_q),
        ):
            nats = (
                D * (torch.log(var / var_q) + var_q / var - 1)
                + weight**2 * squares / var
            ) / 2
            rows[name].append(float(nats.mean()) / math.log(2))
    return {name: digits(torch.tensor(row)) for name, row in rows.items()}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument(
        "--images", type=int, default=1000, help="of the test set, without loss"
    )
    parser.add_argument(
        "--curve", type=int, default=50, help="of these, at every time of the schedule"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    began, checkpoint = time.monotonic(), ddpm.load_checkpoint(Path(args.checkpoint))
    card, mark = (
        made_by(checkpoint, args.seed),
        codec.fingerprint(checkpoint.model, checkpoint.schedule).hex(),
    )
    model, schedule = checkpoint.model, checkpoint.schedule
    images, _ = ddpm.load_images("fashion-mnist", "test")
    index = torch.randperm(
        len(images), generator=torch.Generator().manual_seed(args.seed)
    )[: args.images]
    images = images[index]

    # every time of the schedule
    some, times = images[: args.curve], codec.coding_times(schedule.T, STEPS)[1:]
    stops = [(t, lossless) for t in times for lossless in (False, True)]
    names = [
        f"{mark}-{args.seed}-{len(some)}-{t}-{'lossless' if lossless else 'lossy'}.ddpm"
        for t, lossless in stops
    ]
    if not all((RUNS / name).exists() for name in names):
        made = codec.encode_all(
            model,
            schedule,
            some,
            stops,
            steps=STEPS,
            bits=BITS,
            seed=args.seed,
            progress=True,
        )
        for name, data in zip(names, made):
            once(name, lambda data=data: data)
    curve = []
    for (t, lossless), name in tqdm(
        [*zip(stops, names)], desc="the curve", unit="file", dynamic_ncols=True
    ):
        data = (RUNS / name).read_bytes()
        if lossless:
            curve[-1] |= {
                "lossless": len(data),
                "lossless_messages": sum(map(len, codec.read_header(data).messages)),
            }
        else:
            off = once(
                f"{name}.rmse",
                lambda data=data: repr(
                    wrong_by(codec.decode(model, schedule, data), some)
                ).encode(),
            )
            curve.append(
                {
                    "t": t,
                    "lossy": len(data),
                    "messages": sum(map(len, codec.read_header(data).messages)),
                    "rmse": float(off),
                }
            )

    # without loss, all of them
    whole, messages, exact = [], [], 0
    for first in tqdm(
        range(0, len(images), FILE),
        desc="without loss",
        unit="file",
        dynamic_ncols=True,
    ):
        part = images[first : first + FILE]
        data = once(
            f"{mark}-{args.seed}-{first}-{len(part)}.ddpm",
            lambda part=part: codec.encode(
                model, schedule, part, steps=STEPS, bits=BITS, seed=args.seed
            ),
        )
        came_back = lambda data=data, part=part: str(
            int((codec.decode(model, schedule, data) == part).flatten(1).all(1).sum())
        )
        exact += int(
            once(
                f"{mark}-{args.seed}-{first}-{len(part)}.exact",
                lambda: came_back().encode(),
            )
        )
        whole.append(len(data))
        messages += map(len, codec.read_header(data).messages)
    others = pictures(images)
    keep(
        "codec",
        card
        | {
            "seconds": round(time.monotonic() - began),
            "steps": STEPS,
            "bits": BITS,
            "times": times,
            "index": index.tolist(),
            "t": codec.read_header(data).t,
            "images": len(images),
            "exact": exact,
            "files": whole,
            "messages": messages,
            "first_file_sha256": hashlib.sha256(
                once(f"{mark}-{args.seed}-0-{min(FILE, len(images))}.ddpm", bytes)
            ).hexdigest(),
            "png": sum(others["png"]),
            "webp": sum(others["webp"]),
            "curve_images": len(some),
            "curve": curve,
            "bound": bound(model, schedule, some, args.seed),
        },
    )


if __name__ == "__main__":
    main()
