"""How far two sets of pictures lie apart, how clear and how varied one set is, and
whether it was copied from another.

Everything here takes numbers, not pictures: features and logits come from
`features.py`, and what a figure may be called depends on the network they come from.
"""

from dataclasses import dataclass
from typing import TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = Tensor | NDArray[np.floating]
Moments: TypeAlias = tuple[Array, Array]  # mean (D,), covariance (D, D)


def frechet_distance(features_a: Array | Moments, features_b: Array | Moments) -> float:
    """|| m_a - m_b ||^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)): how far apart two clouds
    are, if both were Gaussian.

    features_a, features_b   (N, D) floats, N >= 2, which give mean m and covariance C
                             (divisor N - 1); or a pair (m, C) itself
    -> the *squared* distance, as everybody reports it; 0 if and only if mean and
    covariance agree. On the 2,048 features of
       Inception it is the FID. It is too large for few samples, so compare figures for
       the same N only.
    Float64 throughout. With C_a = F_a^T F_a and C_b = F_b^T F_b, the trace of the root
    is the sum of the singular values of F_a F_b^T: real, and exact where the
    covariances are singular, which they are whenever N <= D. (Dowson and Landau 1982;
    Heusel et al. 2017, equation 6)
    Raises TypeError or ValueError for fewer than two samples, NaN, other than two
    dimensions, and different widths.
    """
    (mean_a, factor_a), (mean_b, factor_b) = (
        _gaussian(features_a, "features_a"),
        _gaussian(features_b, "features_b"),
    )
    if mean_a.shape != mean_b.shape:
        raise ValueError(
            f"features_a have {len(mean_a)} columns and features_b {len(mean_b)};"
            " wanted the features of one network for both"
        )
    root = torch.linalg.svdvals(factor_a @ factor_b.T).sum()
    distance = (
        (mean_a - mean_b).square().sum()
        + factor_a.square().sum()
        + factor_b.square().sum()
        - 2 * root
    )
    return max(float(distance), 0.0)  # rounding may leave -1e-15


@overload
def inception_score(logits: Array, splits: None = None) -> float: ...
@overload
def inception_score(logits: Array, splits: int) -> tuple[float, float]: ...
def inception_score(
    logits: Array, splits: int | None = None
) -> float | tuple[float, float]:
    """exp(mean over x of KL(p(y | x) || p(y))), with p(y) = mean over x of p(y | x):
    clear answers, and all of them.

    logits   (N, K) floats, of which p(y | x) is the softmax
    -> from 1 (nothing learnt from a picture) to K
    splits   None: the score of all N. A number, 10 as a rule: mean and standard
             deviation (divisor `splits`) of the scores of so many equal parts.
             Departure: the original cuts consecutive parts; here pictures are dealt out
             in turn, because ours come sorted by class. A part's score is lower than
             that of the whole, so compare equal N and equal splits only.
    With the logits of Inception it is the Inception Score. (Salimans et al. 2016,
    section 4)
    Raises TypeError or ValueError for NaN, probabilities instead of logits, other than
    two dimensions, and too few rows.
    """
    rows = _matrix(logits, "logits", at_least=1)
    if (rows >= 0).all() and (rows.sum(1) - 1).abs().max() < 1e-4:
        raise ValueError(
            "logits are non-negative and sum to 1 in each row; wanted logits, before"
            " the softmax: p.log() takes probabilities back"
        )
    if splits is None:
        return _score(rows)
    if (
        isinstance(splits, bool)
        or not isinstance(splits, int)
        or not 1 <= splits <= len(rows)
    ):
        raise ValueError(
            f"splits = {splits!r}; wanted None, or a whole number from 1 to the number"
            f" of pictures, {len(rows)}"
        )
    scores = torch.tensor(
        [_score(rows[i::splits]) for i in range(splits)], dtype=torch.float64
    )
    return float(scores.mean()), float(scores.std(correction=0))


def nearest(a: Tensor, b: Tensor, *, chunk: int = 256) -> tuple[Tensor, Tensor]:
    """For each row of `a` its nearest row of `b`: Euclidean distances (N,) and row
    numbers (N,).

    a  (N, ...), b  (M, ...) floats, flattened; `chunk` rows of `a` at a time, so that
                    memory stays at chunk x M.
    Raises TypeError or ValueError for NaN, different widths and empty sets.
    """
    a, b = (
        _matrix(
            x.flatten(1) if isinstance(x, Tensor) and x.ndim > 2 else x,
            name,
            at_least=1,
            dtype=torch.float32,
        )
        for x, name in ((a, "a"), (b, "b"))
    )
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"a has {a.shape[1]} numbers a row and b {b.shape[1]}; wanted rows of one"
            " kind"
        )
    chunks = torch.split(a, chunk)
    index = torch.cat([torch.cdist(rows, b).argmin(1) for rows in chunks])
    # cdist takes |a|^2 + |b|^2 - 2ab, which leaves 1e-2 where a copy has 0; the
    # difference itself does not.
    distance = torch.cat(
        [
            (rows - b[i]).norm(dim=1)
            for rows, i in zip(chunks, torch.split(index, chunk), strict=True)
        ]
    )
    return distance, index


@dataclass(frozen=True)
class Memorisation:
    """Are samples nearer to the training images than unseen images are? What
    `memorisation` returns.
    """

    distance: Tensor  # (N,) of each sample to its nearest training image
    index: Tensor  # (N,) which one that is
    unseen: Tensor  # (M,) of each unseen image to its nearest training image
    # P(a sample is nearer than an unseen image), ties half: 0.5 if alike, 1 if all
    # samples are copies
    nearer: float
    nearer_error: float  # its standard error if both were alike
    # share of samples that are nearer than 99% of the unseen images are: 0.01 if alike
    suspect: float


def memorisation(
    samples: Tensor, unseen: Tensor, train: Tensor, *, chunk: int = 256
) -> Memorisation:
    """Compare distances samples -> train with distances unseen -> train, where `unseen`
    are real images kept from the training.

    samples (N, ...), unseen (M, ...), train (K, ...): floats of one kind, pixels or
    features.

    `nearer` is the Mann-Whitney statistic (the test of data copying of Meehan
    et al. 2020, without its cells). Pictures that are smoother than real ones are also
    nearer to everything, so look at the neighbours before you cry theft.
    Raises as `nearest` does.
    """
    distance, index = nearest(samples, train, chunk=chunk)
    far, _ = nearest(unseen, train, chunk=chunk)
    order = far.sort().values
    below, up_to = (
        torch.searchsorted(order, distance),
        torch.searchsorted(order, distance, right=True),
    )
    nearer = 1 - float((below + up_to).double().mean()) / (2 * len(far))
    n, m = len(distance), len(far)
    return Memorisation(
        distance,
        index,
        far,
        nearer,
        ((n + m + 1) / (12 * n * m)) ** 0.5,
        float((distance < far.quantile(0.01)).double().mean()),
    )


def _score(logits: Tensor) -> float:
    log_p = logits.log_softmax(1)
    log_mean = log_p.logsumexp(0) - torch.tensor(len(log_p), dtype=torch.float64).log()
    return float((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp())


def _gaussian(features: Array | Moments, name: str) -> tuple[Tensor, Tensor]:
    """Mean (D,) and a factor F (., D) with F^T F = covariance, both float64."""
    if isinstance(features, tuple):
        if len(features) != 2:
            raise ValueError(
                f"{name} is a tuple of {len(features)}; wanted (mean, covariance), or"
                " features (N, D)"
            )
        covariance = _matrix(features[1], f"the covariance of {name}", at_least=1)
        mean = _matrix(
            torch.as_tensor(features[0])[None], f"the mean of {name}", at_least=1
        )[0]
        if covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                f"{name} is a mean of {len(mean)} and a covariance of shape"
                f" {tuple(covariance.shape)}; wanted (D,) and (D, D)"
            )
        values, vectors = torch.linalg.eigh(covariance)
        tolerance = 1e-6 * float(values.abs().max())
        if (
            not torch.allclose(covariance, covariance.T, rtol=0, atol=tolerance)
            or values.min() < -tolerance
        ):
            raise ValueError(
                f"the covariance of {name} is not symmetric, or has a negative"
                f" eigenvalue ({float(values.min()):.3g}); wanted a covariance"
            )
        return mean, values.clamp(min=0).sqrt()[:, None] * vectors.T
    rows = _matrix(features, name, at_least=2)
    mean = rows.mean(0)
    return mean, torch.linalg.qr((rows - mean) / (len(rows) - 1) ** 0.5, mode="r").R


def _matrix(
    x: Array, name: str, *, at_least: int, dtype: torch.dtype = torch.float64
) -> Tensor:
    if not isinstance(x, (Tensor, np.ndarray)):
        raise TypeError(
            f"{name} is a {type(x).__name__}; wanted a tensor or an array of floats"
        )
    x = torch.as_tensor(x).detach()
    if not x.is_floating_point():
        raise TypeError(
            f"{name} is a tensor of {x.dtype}; wanted floats: features or logits of a"
            " network, not the pictures themselves"
        )
    if x.ndim != 2 or len(x) < at_least or not x.shape[1]:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; wanted two dimensions, at least"
            f" {at_least} row{'s' * (at_least > 1)} of at least one number"
        )
    if not x.isfinite().all():
        bad = int((~x.isfinite()).any(1).sum())
        raise ValueError(
            f"{name} has NaN or infinite values in {bad} of {len(x)} rows; wanted"
            " finite numbers"
        )
    return x.to("cpu", dtype)


def kid(features_a: Tensor, features_b: Tensor) -> Tensor:
    """MMD^2 with the kernel k(x, y) = (x . y / d + 1)^3, unbiased. (Binkowski et al.
    2018, Kernel Inception Distance)

    mean of k over pairs of different a, plus the same for b, minus twice the mean over
    all pairs of an a and a b; it may be negative.
    features  (N, d) and (M, d) float, N and M at least 2
    ->  scalar, float64; its mean does not depend on N or M
    Raises ValueError for other shapes.
    """
    a, b = features_a.double(), features_b.double()
    if (
        a.ndim != 2
        or b.ndim != 2
        or a.shape[1] != b.shape[1]
        or min(len(a), len(b)) < 2
    ):
        raise ValueError(
            f"features have shapes {tuple(a.shape)} and {tuple(b.shape)}; wanted (N, d)"
            " and (M, d), at least two of each"
        )

    def k(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        all_pairs = k(x, x)
        return (all_pairs.sum() - all_pairs.trace()) / (len(x) * (len(x) - 1))

    return within(a) + within(b) - 2 * k(a, b).mean()
