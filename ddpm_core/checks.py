"""The book's checks: each prints one line and raises AssertionError when it does not hold.

check         two ways to compute the same thing agree
check_zero    a symbolic residual is identically zero (sympy)
check_mc      a Monte Carlo estimate lies within 4 of its own standard errors
check_seen    a known misprint is *noticed* by the comparison that the right formula passes
"""

from typing import Any

import torch
from torch import Tensor


def check(name: str, mine: Any, theirs: Any, atol: float = 1e-12) -> None:
    """`mine` and `theirs` (numbers, arrays or tensors of one shape) differ nowhere by more than atol."""
    difference = _largest_difference(name, mine, theirs)
    _say(
        difference <= atol,
        name,
        f"largest difference {difference:.1e}, allowed {atol:.0e}",
    )


def check_seen(name: str, wrong: Any, right: Any, atol: float = 1e-12) -> None:
    """The wrong version differs from the right one by more than atol: the check above would have failed for it."""
    difference = _largest_difference(name, wrong, right)
    sound = (
        _largest_difference(name, right, right) == 0
    )  # not so if it contains NaN, from which everything differs
    _say(
        sound and difference > atol,
        name,
        f"misprint noticed: off by {difference:.4g}, allowed {atol:.0e}",
    )


def check_zero(name: str, residual: Any) -> None:
    """A sympy expression, or a list of them, simplifies to exactly 0, for all values of its symbols."""
    import sympy

    left = [
        sympy.simplify(sympy.expand_log(sympy.sympify(r), force=True))
        for r in (residual if isinstance(residual, (list, tuple)) else [residual])
    ]
    _say(
        bool(left) and all(r == 0 for r in left),
        name,
        "identically zero" if all(r == 0 for r in left) else f"not zero but {left}",
    )


def check_mc(name: str, samples: Tensor, expected: float, errors: float = 4.0) -> None:
    """The mean of independent samples lies within `errors` standard errors (std / sqrt(n)) of the expected value."""
    samples = torch.as_tensor(samples, dtype=torch.float64).flatten()
    mean, error = (
        float(samples.mean()),
        float(samples.std()) / max(len(samples), 1) ** 0.5,
    )
    _say(
        abs(mean - expected) <= errors * error,
        name,
        f"{mean:.4g}, expected {float(expected):.4g}, {errors:g} standard errors are {errors * error:.4g}",
    )


def _largest_difference(name: str, mine: Any, theirs: Any) -> float:
    mine, theirs = (
        torch.as_tensor(x, dtype=torch.float64).detach().cpu() for x in (mine, theirs)
    )  # never by way of float32
    if mine.shape != theirs.shape:
        raise AssertionError(
            f"{name}: shapes {tuple(mine.shape)} and {tuple(theirs.shape)} differ"
        )
    if not mine.numel():
        raise AssertionError(f"{name}: nothing to compare")
    difference = float((mine - theirs).abs().max())
    return (
        float("inf") if difference != difference else difference
    )  # NaN agrees with nothing


def _say(holds: bool, name: str, what: str) -> None:
    line = f"{'ok  ' if holds else 'FAIL'} {name}: {what}"
    if not holds:  # no assert statement: python -O would take it away
        raise AssertionError(line)
    print(line)
