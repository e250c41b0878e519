"""Samples beside real pictures that the network has not seen: distance, score, classes,
copies.

Every figure of the samples stands beside the same figure of as many real test images:
that, not zero, is what can be reached.
"""

from typing import Any

import torch
from torch import Tensor

from . import distributed
from .data import CLASSES, to_model_range
from .distributed import mix
from .features import Classifier, FashionClassifier, classify
from .metrics import Memorisation, frechet_distance, inception_score, memorisation
from .samples import quiet, slice_of

SURE = (
    0.9  # probability of its class above which a picture counts as clearly recognised
)
MOST_PIXELS = (
    10**9
)  # of the training images, which are compared as floats; CIFAR-10 has 1.5e8


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
    """Everything that needs samples: uint8 (N, C, H, W), beside as many real ones from
    `test` that the network has not seen.

    labels  what each sample was asked to be, or None. What concerns classes is measured
            for a FashionClassifier only
    The floor is the distance of real test images to the training images, N at a time:
    up to five disjoint sets, mean and spread.
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
            "name": (
                "Score as Inception Score, Fashion features"
                if fashion
                else "Inception Score"
            ),
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
    """`classify`, each rank its share; every rank has at least one image, since test
    sets are larger than clusters.
    """
    features, logits = classify(
        classifier,
        images[slice_of(distributed.shard(len(images)))],
        progress=not quiet(progress),
        desc=desc,
    )
    return distributed.gather(features), distributed.gather(logits)


def _classes(
    drawn: Tensor, labels: Tensor | None, real: Tensor, real_labels: Tensor | None
) -> dict[str, Any]:
    """How many pictures are recognised with a probability above SURE, as what, and as
    what they should be.
    """
    p, answer = drawn.softmax(1).max(1)
    p_real, answer_real = real.softmax(1).max(1)
    k = drawn.shape[1]
    true = answer_real if real_labels is None else real_labels

    def shares(x: Tensor) -> list[float]:
        return (torch.bincount(x, minlength=k) / len(x)).tolist()

    return {
        "sure": float((p > SURE).double().mean()),
        "sure_real": float((p_real > SURE).double().mean()),
        "as_asked": (
            None if labels is None else float((answer == labels).double().mean())
        ),
        "right_real": (
            None
            if real_labels is None
            else float((answer_real == real_labels).double().mean())
        ),
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
