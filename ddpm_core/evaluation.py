"""What `ddpm evaluate` measures: the bound in bits per dimension, and samples beside
real pictures that the network has not seen.

`evaluate` does all of it; `draw`, `measure_bound` and `measure_pictures` are its parts,
for use in a notebook; `table` prints. Every figure of the samples stands beside the
same figure of as many real test images: that, not zero, is what can be reached.
"""

import math
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import distributed
from .bits import bits_per_dim, bits_per_dim_estimate
from .checkpoint import Checkpoint, load_checkpoint
from .data import load_labelled, to_model_range
from .distributed import mix
from .features import Classifier, fashion_features, inception_features
from .hardware import choose_device
from .judging import MOST_PIXELS as MOST_PIXELS
from .judging import SURE as SURE
from .judging import measure_pictures as measure_pictures
from .runtime.files import write_json as write_json
from .samples import Samples as Samples
from .samples import draw as draw
from .samples import quiet, settled, sha256_of, shape_of, slice_of
from .samples import write_picture as write_picture

Sampling = Samples  # its name until 0.1.0
TWO_THOUSAND = Samples()


def evaluate(
    run: str | Path,
    how: Samples = TWO_THOUSAND,
    *,
    data: str | None = None,
    unseen: str | None = None,
    features: str = "auto",
    bound: int = 0,
    evaluations: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    keep: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a trained network; everything in the answer is a number, a string or a
    list of them, so that JSON holds it.

    run       folder of a run or of a checkpoint
    data      name of its data set (default: what the checkpoint says), whose test split
              is what the network has not seen; `unseen` names another data set for
              that, which a folder, having no splits, needs. Images are resized to the
              network's
    features  "fashion", "inception", "none" (no samples are drawn), or "auto":
              "fashion" for Fashion-MNIST, else "inception"
    bound     images of each split for the bound; 0: leave it out. evaluations: of the
              network for each of them (None: at every t)
    keep      file (.npz) for the samples: written batch by batch, and gone on with if
              it is there already; and a grid of 100 (.png)
    Under torchrun every rank takes its share, and all of them get the same answer.
    Raises ValueError, TypeError or FileNotFoundError before any long work, if something
    is missing or does not fit.
    """
    began = time.monotonic()
    if features not in ("auto", "fashion", "inception", "none"):
        raise ValueError(
            f'features = {features!r}; wanted "auto", "fashion", "inception" or "none"'
        )
    if features == "none" and not bound:
        raise ValueError(
            "nothing to measure: without features no samples are judged, and without"
            " images no bound; give --features or --bound"
        )
    checkpoint = load_checkpoint(run, device=choose_device(device))
    how = settled(how, checkpoint)
    data = data or checkpoint.info.get("data")
    if not data:
        raise ValueError(
            f"the checkpoint in {run} does not say which data it was trained on; say it"
            " with --data"
        )
    if unseen is None and ":" in data and not data.startswith("hub:"):
        raise ValueError(
            f"{data} is a folder and has no test split; name images that the network"
            " has not seen with --unseen folder:<path>"
        )
    if features == "auto":
        features = "fashion" if data == "fashion-mnist" else "inception"
    _, classes = shape_of(checkpoint)
    train, train_labels = _pictures(data, "train", checkpoint)
    test, test_labels = (
        _pictures(data, "test", checkpoint)
        if unseen is None
        else _pictures(unseen, "train", checkpoint)
    )
    fewest = max(2, distributed.size())  # a spread needs two, and each process one
    if features != "none" and min(len(train), len(test)) < fewest:
        raise ValueError(
            f"{len(train)} pictures of {data} and {len(test)} of "
            f"{unseen or f'{data}, test'}; wanted at least {fewest} of each to compare "
            "the samples with, or --features none"
        )
    if batch_size < 1 or bound and not 2 <= bound <= min(len(train), len(test)):
        raise ValueError(
            f"batches of {batch_size}, bound of {bound} images; wanted at least 1, and"
            f" 0 or from 2 to {min(len(train), len(test))}"
        )
    if features != "none" and how.n < 2:
        raise ValueError(f"n = {how.n} samples; wanted at least 2, or --features none")
    if bound and evaluations is not None:
        # On one image, so that what it refuses is not refused after all the samples.
        one = to_model_range(test[:1]).to(next(checkpoint.model.parameters()).device)
        bits_per_dim_estimate(
            checkpoint.model, checkpoint.schedule, one, evaluations=evaluations
        )
    classifier: Classifier | None = None
    if features == "fashion":
        classifier = fashion_features()
    elif features == "inception":
        classifier = inception_features(choose_device(device))
    if classifier is not None:
        classifier(test[:1])  # refuses pictures that it is not made for

    result: dict[str, Any] = {
        "versions": _versions(),
        "checkpoint": str(run),
        "step": checkpoint.step,
        "weights_sha256": sha256_of(checkpoint),
        "data": data,
        "unseen": unseen or f"{data}, test",
        "features": features,
    }
    if classifier is not None:
        result["sampling"] = how.record()
        samples, labels = draw(
            checkpoint, how, batch_size=batch_size, keep=keep, progress=progress
        )
        if keep is not None and distributed.rank() == 0:
            write_picture(samples, keep.with_suffix(".png"))
        known = (
            data == "fashion-mnist"
        )  # the classifier's classes are those of the labels
        result |= measure_pictures(
            classifier,
            samples,
            labels if known else None,
            train,
            test,
            test_labels if known else None,
            seed=how.seed,
            progress=progress,
        )
    if bound:
        given = test_labels is not None and classes is not None
        result["bits_per_dim"] = {
            split: measure_bound(
                checkpoint,
                images,
                labels if given else None,
                bound,
                variance=how.variance or "beta",
                seed=how.seed,
                evaluations=evaluations,
                batch_size=batch_size,
                progress=progress,
                desc=f"bound, {split}",
            )
            for split, images, labels in (
                ("test", test, test_labels),
                ("train", train, train_labels),
            )
        }
    return result | {"seconds": round(time.monotonic() - began, 1)}


def measure_bound(
    checkpoint: Checkpoint,
    images: Tensor,
    labels: Tensor | None,
    n: int,
    *,
    variance: str = "beta",
    seed: int = 0,
    evaluations: int | None = None,
    batch_size: int = 64,
    progress: bool = False,
    desc: str = "bound",
) -> dict[str, Any]:
    """Eq. (5) in bits per dimension on n images chosen by the seed: mean and standard
    error over images; x0_hat is clipped.

    labels       tell the network the class of each image: then it is the bound of -log
                 p(x | y)
    evaluations  None: every term, at every t. A number: the unbiased estimate of
                 `bits_per_dim_estimate` from so many
    Raises ValueError for fewer than two images or more than there are.
    """
    from tqdm.auto import tqdm

    if not 2 <= n <= len(images):
        raise ValueError(
            f"the bound of {n} images; wanted from 2, of which a standard error can be"
            f" taken, to {len(images)}"
        )
    chosen = torch.randperm(
        len(images), generator=torch.Generator().manual_seed(mix(seed, "bound"))
    )[:n]
    mine = chosen[slice_of(distributed.shard(n))]
    device, totals = next(checkpoint.model.parameters()).device, [torch.empty(0)]
    for batch in tqdm(
        torch.split(mine, batch_size) if len(mine) else (),
        unit="batch",
        desc=desc,
        disable=quiet(progress) or len(mine) <= batch_size,
        dynamic_ncols=True,
    ):
        x0, y = (
            to_model_range(images[batch]).to(device),
            None if labels is None else labels[batch],
        )
        noise = [
            torch.Generator().manual_seed(mix(seed, "bound", i)) for i in batch.tolist()
        ]
        if evaluations is None:
            totals += [
                bits_per_dim(
                    checkpoint.model,
                    checkpoint.schedule,
                    x0,
                    variance,
                    True,
                    noise,
                    not quiet(progress),
                    y,
                ).total
            ]
        else:
            totals += [
                bits_per_dim_estimate(
                    checkpoint.model,
                    checkpoint.schedule,
                    x0,
                    variance,
                    True,
                    noise,
                    labels=y,
                    evaluations=evaluations,
                ).total
            ]
    total = distributed.gather(torch.cat(totals)).double()
    return {
        "mean": float(total.mean()),
        "error": float(total.std()) / math.sqrt(n),
        "images": n,
        "evaluations": evaluations,
        "given": None if labels is None else "label",
    }


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate` in lines of at most 100 characters."""
    how = result.get("sampling")
    lines = [
        f"{result['checkpoint']}, step {result['step']:,}, weights"
        f" {result['weights_sha256'][:12]}, on {result['data']}"
    ]
    if how:
        steps = "all steps" if how["steps"] is None else f"{how['steps']} steps"
        guided = f", guidance {how['guidance']:g}" if how["guidance"] else ""
        lines += [
            f"{how['n']} samples by {how['sampler']}, {steps}, variance"
            f" {how['variance']}{guided}, seed {how['seed']}"
        ]
    for split, b in result.get("bits_per_dim", {}).items():
        given = f" given the {b['given']}" if b["given"] else ""
        lines += [
            _row(
                f"bits/dim{given}, {split}",
                f"{b['mean']:.3f} +- {b['error']:.3f}",
                f"({b['images']} images)",
            )
        ]
    if not how:
        return "\n".join(lines)
    f, s = result["frechet"], result["score"]
    spread = "" if f["floor_spread"] is None else f" +- {f['floor_spread']:.3f}"
    lines += [
        _row("", "samples", "real test images"),
        _row(f["name"], f"{f['samples']:.3f}", f"{f['floor']:.3f}{spread}"),
        _row(
            s["name"],
            f"{s['samples']:.2f} +- {s['samples_spread']:.2f}",
            f"{s['real']:.2f} +- {s['real_spread']:.2f}",
        ),
    ]
    if c := result.get("classes"):
        lines += [
            _row(
                f"classified with p > {SURE:g}",
                f"{c['sure']:.1%}",
                f"{c['sure_real']:.1%}",
            )
        ]
        if c["as_asked"] is not None and c["right_real"] is not None:
            lines += [
                _row(
                    "classified as the label says",
                    f"{c['as_asked']:.1%}",
                    f"{c['right_real']:.1%}",
                )
            ]
        lines += [
            _row(f"share of {name}", f"{a:.1%}", f"{b:.1%}")
            for name, a, b in zip(
                c["names"], c["shares"], c["shares_real"], strict=True
            )
        ]
    for kind, m in result["memorisation"].items():
        lines += [
            _row(
                f"to the nearest training image, {kind}, median",
                f"{m['samples'][2]:.2f}",
                f"{m['real'][2]:.2f}",
            ),
            _row(
                "  nearer than an unseen image",
                f"{m['nearer']:.3f}",
                f"0.5 +- {m['nearer_error']:.3f}",
            ),
            _row("  nearer than 99% of unseen images", f"{m['suspect']:.1%}", "1.0%"),
        ]
    return "\n".join(lines)


def _row(name: str, samples: str, real: str) -> str:
    return f"{name:48}{samples:>20}  {real:>20}"


def _pictures(
    name: str, split: str, checkpoint: Checkpoint
) -> tuple[Tensor, Tensor | None]:
    """Pictures read as those of the training were, with labels in the network's
    numbers.

    Raises ValueError for another shape, and for classes that the network does not know.
    """
    wanted, classes = shape_of(checkpoint)
    reading: dict[str, Any] = checkpoint.info.get("reading", {})
    images, labels, names = load_labelled(name, split, size=wanted[1], **reading)
    if tuple(images.shape[1:]) != wanted:
        raise ValueError(
            f"the network draws images of shape {wanted}, those of {name} are "
            f"{tuple(images.shape[1:])}; wanted the data it was trained on"
        )
    if classes is None or labels is None:
        return images, labels
    if names and (known := checkpoint.info.get("classes")):
        if strange := [n for n in names if n not in known]:
            raise ValueError(
                f"{name} has a class {strange[0]!r}, which the network has not been "
                f"trained on; wanted some of {', '.join(known)}"
            )
        labels = torch.tensor([known.index(n) for n in names])[labels]
    elif int(labels.max()) >= classes:
        raise ValueError(
            f"the labels of {name} go up to {int(labels.max())}; wanted at most "
            f"{classes - 1}, as the network was trained with {classes} classes"
        )
    return images, labels


def _versions() -> dict[str, str]:
    from . import __version__

    return {
        "ddpm_core": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
