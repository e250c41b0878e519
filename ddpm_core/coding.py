"""Relative entropy coding of one number: a draw from q, named among draws from p.

`choose` is the Poisson functional representation (Li and El Gamal 2018): exact, and its
number costs about KL(q || p). `put` and `take` are its way through a range coder, at
most KL + log2(KL + 1) + 3 bits on average.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
OCTAVES = 48


def choose(
    log_w: Callable[[Array], Array],
    draws: Callable[[int], Array],
    rng: np.random.Generator,
    log_w_max: float = math.inf,
    limit: int = 2**24,
) -> tuple[int, bool]:
    """K = argmin_k T_k / w(y_k) with w = q / p, y_k independent draws from p, T_k the
    arrivals of a Poisson process of rate 1.

    Then y_K ~ q exactly, and E log2 K <= KL(q || p) + 1 bits. Only the sender needs w
    and T; the receiver makes y_K, given K.

    log_w      callable: draws (R, ...) -> (R,), nats           log_w_max  its supremum;
               infinite if there is none
    draws      callable: block 0, 1, 2, ... -> the next draws from p, (R, ...), as the
               receiver makes them
    rng        for T, the sender's own
    -> K, from 1, and whether it is proven: no later draw can win once T_k exceeds max w
    times the best quotient so far Not proven after `limit` draws, K is the best of
    these, and the law is not quite q.
    """
    best, index, time, seen, block = math.inf, 0, 0.0, 0, 0
    while seen < limit:
        ratio = log_w(draws(block))
        arrival = time + rng.exponential(size=len(ratio)).cumsum()
        score = np.log(arrival) - ratio
        k = int(score.argmin())
        if score[k] < best:
            best, index = float(score[k]), seen + k + 1
        seen, time, block = seen + len(ratio), float(arrival[-1]), block + 1
        if math.log(time) >= best + log_w_max:
            return index, True
    return index, False


def log_ratio(z: Array, shift: Array, var_q: float, var_p: float) -> Array:
    """log q(x) / p(x) at x = mean_p + sqrt(var_p) z, with shift = mean_q - mean_p:
    (..., D), (D,) -> (...), nats.
    """
    x = math.sqrt(var_p) * z - shift
    answer: Array = (z * z / 2 - x * x / (2 * var_q)).sum(-1) + z.shape[-1] * math.log(
        var_p / var_q
    ) / 2
    return answer


def largest_log_ratio(shift: Array, var_q: float, var_p: float) -> float:
    """The supremum of `log_ratio`: infinite unless var_q < var_p, or both laws are the
    same.
    """
    if var_q < var_p:
        return float(
            len(shift) * math.log(var_p / var_q) / 2
            + (shift * shift).sum() / (2 * (var_p - var_q))
        )
    return 0.0 if var_q == var_p and not shift.any() else math.inf


def put(coder: Any, number: int, bits: float) -> None:
    """Append a number from 1 on, which is expected to have `bits` binary digits or so:
    P(number) ~ number^-(1 + 1 / (bits + 1)).

    That law of Zipf, made of octaves: first the octave o = floor(log2 number), P(o) ~
    2^(-o / (bits + 1)), then its o lower digits.
    """
    octave = number.bit_length() - 1
    coder.encode(octave, categorical(octaves(bits)))
    rest = number - (1 << octave)
    for low in range(0, octave, 16):
        coder.encode(
            rest >> low & 0xFFFF, stream().model.Uniform(1 << min(16, octave - low))
        )


def take(coder: Any, bits: float) -> int:
    """The number that `put` appended."""
    octave = int(coder.decode(categorical(octaves(bits))))
    return (1 << octave) + sum(
        int(coder.decode(stream().model.Uniform(1 << min(16, octave - low)))) << low
        for low in range(0, octave, 16)
    )


def octaves(bits: float) -> Array:
    return np.exp2(-np.arange(OCTAVES) / (bits + 1))


def stream() -> Any:
    try:
        from constriction import stream
    except ImportError as error:
        raise FileNotFoundError(
            "the codec's range coder is that of constriction, which is not installed;"
            " run: pip install constriction"
        ) from error
    return stream


def categorical(probabilities: Array) -> Any:
    return stream().model.Categorical(
        probabilities / probabilities.sum(), perfect=False
    )
