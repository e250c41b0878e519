"""What `ddpm evaluate` measures: the bound in bits per dimension, and samples beside real pictures that the network has not seen.

`evaluate` does all of it; `draw`, `measure_bound` and `measure_pictures` are its parts, for use in a notebook; `table` prints.
Every figure of the samples stands beside the same figure of as many real test images: that, not zero, is what can be reached.
"""

import json
import math
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from . import distributed, sampling
from .bits import bits_per_dim, bits_per_dim_estimate
from .checkpoint import Checkpoint, beside, load_checkpoint
from .data import CLASSES, load_labelled, to_model_range, to_uint8
from .distributed import mix
from .features import (
    Classifier,
    FashionClassifier,
    classify,
    fashion_features,
    inception_features,
)
from .figures import image_grid
from .hardware import choose_device
from .metrics import Memorisation, frechet_distance, inception_score, memorisation
from .runtime.files import digest
from .runtime.files import write_json as write_json
from .sampling import sample_steps

SURE = (
    0.9  # probability of its class above which a picture counts as clearly recognised
)
MOST_PIXELS = (
    10**9
)  # of the training images, which are compared as floats; CIFAR-10 has 1.5e8


@dataclass(frozen=True)
class Samples(sampling.Sampling):
    """n pictures from a seed, and how they are drawn: the settings of `sample`."""

    n: int = 2000
    seed: int = 0

    def record(self) -> dict[str, Any]:
        """For JSON: the settings that matter to every run, and what is not the usual."""
        known = ("n", "steps", "sampler", "variance", "guidance", "seed")
        usual, every = Samples(), asdict(self)
        more = {
            name: value if isinstance(value, (int, float, str)) else repr(value)
            for name, value in every.items()
            if name not in known and value != getattr(usual, name)
        }
        return {name: every[name] for name in known} | more


Sampling = Samples  # its name until 0.1.0


def evaluate(
    run: str | Path,
    how: Samples = Samples(),
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
    """Measure a trained network; everything in the answer is a number, a string or a list of them, so that JSON holds it.

    run       folder of a run or of a checkpoint
    data      name of its data set (default: what the checkpoint says), whose test split is what the network has not seen;
              `unseen` names another data set for that, which a folder, having no splits, needs. Images are resized to the network's
    features  "fashion", "inception", "none" (no samples are drawn), or "auto": "fashion" for Fashion-MNIST, else "inception"
    bound     images of each split for the bound; 0: leave it out. evaluations: of the network for each of them (None: at every t)
    keep      file (.npz) for the samples: written batch by batch, and gone on with if it is there already; and a grid of 100 (.png)
    Under torchrun every rank takes its share, and all of them get the same answer.
    Raises ValueError, TypeError or FileNotFoundError before any long work, if something is missing or does not fit.
    """
    began = time.monotonic()
    if features not in ("auto", "fashion", "inception", "none"):
        raise ValueError(
            f'features = {features!r}; wanted "auto", "fashion", "inception" or "none"'
        )
    if features == "none" and not bound:
        raise ValueError(
            "nothing to measure: without features no samples are judged, and without images no bound; give --features or --bound"
        )
    checkpoint = load_checkpoint(run, device=choose_device(device))
    how = _settled(how, checkpoint)
    data = data or checkpoint.info.get("data")
    if not data:
        raise ValueError(
            f"the checkpoint in {run} does not say which data it was trained on; say it with --data"
        )
    if unseen is None and ":" in data and not data.startswith("hub:"):
        raise ValueError(
            f"{data} is a folder and has no test split; name images that the network has not seen with --unseen folder:<path>"
        )
    if features == "auto":
        features = "fashion" if data == "fashion-mnist" else "inception"
    _, classes = _shape(checkpoint)
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
            f"batches of {batch_size}, bound of {bound} images; wanted at least 1, and 0 or from 2 to {min(len(train), len(test))}"
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
        "weights_sha256": _sha256(checkpoint),
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


def draw(
    checkpoint: Checkpoint,
    how: Samples,
    *,
    batch_size: int = 64,
    keep: Path | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Samples uint8 (n, C, H, W), and their labels, or None.

    As many of each class, class 0 first, so that the label of image i depends on n. The
    image depends on (seed, i) and its label only, and is that of `ddpm sample --labels`.

    keep  file (.npz) to which all samples so far are written after each batch. If it is there, it is gone on with.
    Raises ValueError if `keep` holds samples of another network or other settings.
    """
    from tqdm.auto import tqdm

    if how.n < 2 or batch_size < 1:
        raise ValueError(
            f"n = {how.n}, batch_size = {batch_size}; wanted at least 2 samples, and batches of at least 1"
        )
    model, schedule, how = (
        checkpoint.model,
        checkpoint.schedule,
        _settled(how, checkpoint),
    )
    shape, classes = _shape(checkpoint)
    labels = None if classes is None else torch.arange(how.n) * classes // how.n
    settings = {"weights_sha256": _sha256(checkpoint), **how.record()}
    images = (
        torch.empty(0, *shape, dtype=torch.uint8)
        if keep is None
        else _kept(keep, settings, shape)
    )
    steps = schedule.T if how.steps is None else how.steps
    together = batch_size * distributed.size()
    batches = [
        range(first, min(first + together, how.n))
        for first in range(len(images), how.n, together)
    ]
    with tqdm(
        total=len(batches) * steps,
        unit="step",
        desc=f"{how.n} samples",
        disable=_quiet(progress),
        dynamic_ncols=True,
    ) as bar:
        for batch in batches:
            chosen = batch[_slice(distributed.shard(len(batch)))]
            x = torch.empty(0, *shape)
            for t, x, _ in (
                ()
                if not chosen
                else sample_steps(
                    model,
                    schedule,
                    (len(chosen), *shape),
                    how,
                    generator=[
                        torch.Generator().manual_seed(mix(how.seed, "image", i))
                        for i in chosen
                    ],
                    labels=None
                    if labels is None
                    else labels[chosen.start : chosen.stop],
                )
            ):
                bar.update(t > 0)
            images = torch.cat([images, distributed.gather(to_uint8(x).cpu())])
            if keep is not None and distributed.rank() == 0:
                _keep(keep, images, settings)
    return images, labels


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
    """Eq. (5) in bits per dimension on n images chosen by the seed: mean and standard error over images; x0_hat is clipped.

    labels       tell the network the class of each image: then it is the bound of -log p(x | y)
    evaluations  None: every term, at every t. A number: the unbiased estimate of `bits_per_dim_estimate` from so many
    Raises ValueError for fewer than two images or more than there are.
    """
    from tqdm.auto import tqdm

    if not 2 <= n <= len(images):
        raise ValueError(
            f"the bound of {n} images; wanted from 2, of which a standard error can be taken, to {len(images)}"
        )
    chosen = torch.randperm(
        len(images), generator=torch.Generator().manual_seed(mix(seed, "bound"))
    )[:n]
    mine = chosen[_slice(distributed.shard(n))]
    device, totals = next(checkpoint.model.parameters()).device, [torch.empty(0)]
    for batch in tqdm(
        torch.split(mine, batch_size) if len(mine) else (),
        unit="batch",
        desc=desc,
        disable=_quiet(progress) or len(mine) <= batch_size,
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
                    not _quiet(progress),
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


def measure_pictures(
    classifier: Classifier,
    samples: Tensor,
    labels: Tensor | None,
    train: Tensor,
    test: Tensor,
    test_labels: Tensor | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Everything that needs samples: uint8 (N, C, H, W), beside as many real ones from `test` that the network has not seen.

    labels  what each sample was asked to be, or None. What concerns classes is measured for a FashionClassifier only
    The floor is the distance of real test images to the training images, N at a time: up to five disjoint sets, mean and spread.
    """
    n = min(len(samples), len(test))
    order = torch.randperm(
        len(test), generator=torch.Generator().manual_seed(mix(seed, "floor"))
    )
    sets = [order[i * n : (i + 1) * n] for i in range(min(len(test) // n, 5))]
    drawn, drawn_logits = _classified(
        classifier, samples, progress, "features of the samples"
    )
    real, real_logits = _classified(
        classifier, test, progress, "features of the test images"
    )
    known, _ = _classified(
        classifier, train, progress, "features of the training images"
    )

    reference = (known.double().mean(0), known.double().T.cov())
    floor = torch.tensor(
        [frechet_distance(real[chosen], reference) for chosen in sets],
        dtype=torch.float64,
    )
    splits = min(10, n // 2)
    (score, spread), (real_score, real_spread) = (
        inception_score(logits, splits)
        for logits in (drawn_logits, real_logits[sets[0]])
    )
    fashion = isinstance(classifier, FashionClassifier)
    result: dict[str, Any] = {
        "frechet": {
            "name": "Frechet distance, Fashion features" if fashion else "FID",
            "samples": frechet_distance(drawn, reference),
            "floor": float(floor.mean()),
            "floor_spread": float(floor.std()) if len(floor) > 1 else None,
            "images": [
                len(samples),
                n,
                len(train),
            ],  # samples; test images of one floor; training images
        },
        "score": {
            "name": "Score as Inception Score, Fashion features"
            if fashion
            else "Inception Score",
            "splits": splits,
            "samples": score,
            "samples_spread": spread,
            "real": real_score,
            "real_spread": real_spread,
        },
    }
    if isinstance(classifier, FashionClassifier):
        result["classifier"] = {
            "sha256": classifier.card["sha256"],
            "accuracy": classifier.card["accuracy"],
        }
        result["classes"] = _classes(drawn_logits, labels, real_logits, test_labels)
    chosen = sets[0]
    result["memorisation"] = {
        "features": _distances(memorisation(drawn, real[chosen], known))
    }
    if train.numel() <= MOST_PIXELS:
        pixels = memorisation(
            to_model_range(samples), to_model_range(test[chosen]), to_model_range(train)
        )
        result["memorisation"] = {
            "pixels": _distances(pixels),
            **result["memorisation"],
        }
    return result


def _classified(
    classifier: Classifier, images: Tensor, progress: bool, desc: str
) -> tuple[Tensor, Tensor]:
    """`classify`, each rank its share; every rank has at least one image, since test sets are larger than clusters."""
    features, logits = classify(
        classifier,
        images[_slice(distributed.shard(len(images)))],
        progress=not _quiet(progress),
        desc=desc,
    )
    return distributed.gather(features), distributed.gather(logits)


def _classes(
    drawn: Tensor, labels: Tensor | None, real: Tensor, real_labels: Tensor | None
) -> dict[str, Any]:
    """How many pictures are recognised with a probability above SURE, as what, and as what they should be."""
    p, answer = drawn.softmax(1).max(1)
    p_real, answer_real = real.softmax(1).max(1)
    k = drawn.shape[1]
    true = answer_real if real_labels is None else real_labels

    def shares(x: Tensor) -> list[float]:
        return (torch.bincount(x, minlength=k) / len(x)).tolist()

    return {
        "sure": float((p > SURE).double().mean()),
        "sure_real": float((p_real > SURE).double().mean()),
        "as_asked": None
        if labels is None
        else float((answer == labels).double().mean()),
        "right_real": None
        if real_labels is None
        else float((answer_real == real_labels).double().mean()),
        "names": list(CLASSES["fashion-mnist"]),
        "shares": shares(answer),
        "shares_real": shares(true),
    }


def _distances(m: Memorisation) -> dict[str, Any]:
    q = torch.tensor([0.01, 0.1, 0.5, 0.9])
    return {
        "quantiles": [round(float(x), 2) for x in q],
        "samples": m.distance.quantile(q).tolist(),
        "real": m.unseen.quantile(q).tolist(),
        "nearest_sample": float(m.distance.min()),
        "nearest_real": float(m.unseen.min()),
        "nearer": m.nearer,
        "nearer_error": m.nearer_error,
        "suspect": m.suspect,
    }


def table(result: dict[str, Any]) -> str:
    """The result of `evaluate` in lines of at most 100 characters."""
    how = result.get("sampling")
    lines = [
        f"{result['checkpoint']}, step {result['step']:,}, weights {result['weights_sha256'][:12]}, on {result['data']}"
    ]
    if how:
        steps = "all steps" if how["steps"] is None else f"{how['steps']} steps"
        guided = f", guidance {how['guidance']:g}" if how["guidance"] else ""
        lines += [
            f"{how['n']} samples by {how['sampler']}, {steps}, variance {how['variance']}{guided}, seed {how['seed']}"
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


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)


def _quiet(progress: bool) -> bool:
    return not progress or distributed.rank() > 0


def write_picture(
    images: Tensor, path: Path, columns: int = 10, rows: int = 10
) -> None:
    """At most columns x rows of the images, spread evenly over all of them, unselected, in a grid."""
    from PIL import Image

    chosen = (
        torch.linspace(0, len(images) - 1, min(len(images), columns * rows))
        .round()
        .long()
    )
    with beside(path) as partial:
        Image.fromarray(image_grid(images[chosen], columns)).save(partial, "PNG")


def _keep(path: Path, images: Tensor, settings: dict[str, Any]) -> None:
    with beside(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file, images=images.numpy(), settings=np.array(json.dumps(settings))
        )


def _kept(path: Path, settings: dict[str, Any], shape: tuple[int, int, int]) -> Tensor:
    """The samples in `path`, none if there is no such file."""
    if not path.exists():
        return torch.empty(0, *shape, dtype=torch.uint8)
    try:
        with np.load(path, allow_pickle=False) as file:
            found, images = (
                json.loads(str(file["settings"])),
                torch.from_numpy(file["images"]),
            )
    except Exception as error:  # zipfile, zlib, numpy and json each raise their own
        raise ValueError(
            f"{path} is no file of kept samples, or damaged ({error}); remove it, or choose another --out"
        ) from error
    if (
        found != settings
        or images.dtype != torch.uint8
        or tuple(images.shape[1:]) != shape
        or len(images) > settings["n"]
    ):
        different = [
            f"{name} = {found.get(name)!r}, not {value!r}"
            for name, value in settings.items()
            if found.get(name) != value
        ]
        raise ValueError(
            f"{path} holds other samples ({'; '.join(different) or 'of another shape'}); remove it, or choose another --out"
        )
    return images


def _shape(checkpoint: Checkpoint) -> tuple[tuple[int, int, int], int | None]:
    """(C, H, W) of the pictures that a network draws, and its number of classes."""
    config = cast(dict[str, Any], checkpoint.model.config)
    return (config["channels"], config["image_size"], config["image_size"]), config[
        "classes"
    ]


def _pictures(
    name: str, split: str, checkpoint: Checkpoint
) -> tuple[Tensor, Tensor | None]:
    """Pictures read as those of the training were, with labels in the network's numbers.

    Raises ValueError for another shape, and for classes that the network does not know.
    """
    wanted, classes = _shape(checkpoint)
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


def _settled(how: Samples, checkpoint: Checkpoint) -> Samples:
    """The same with the variance decided, so that the record says which it was."""
    learned = cast(dict[str, Any], checkpoint.model.config).get("learn_variance")
    return replace(how, variance=how.variance or ("learned" if learned else "beta"))


def _sha256(checkpoint: Checkpoint) -> str:
    return digest(checkpoint.path / "weights.safetensors")


def _versions() -> dict[str, str]:
    from . import __version__

    return {
        "ddpm_core": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
