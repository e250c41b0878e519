"""The book's checks: each prints one line and raises AssertionError when it does not hold.

    check         two ways to compute the same thing agree
    check_zero    a symbolic residual is identically zero (sympy)
    check_mc      a Monte Carlo estimate lies within 4 of its own standard errors
    check_seen    a known misprint is *noticed* by the comparison that the right formula passes
"""

import torch
from torch import Tensor


def check(name: str, mine, theirs, atol: float = 1e-12) -> None:
    """`mine` and `theirs` (numbers, arrays or tensors of one shape) differ nowhere by more than atol."""
    difference = _largest_difference(name, mine, theirs)
    _say(difference <= atol, name, f"largest difference {difference:.1e}, allowed {atol:.0e}")


def check_seen(name: str, wrong, right, atol: float = 1e-12) -> None:
    """The wrong version differs from the right one by more than atol: the check above would have failed for it."""
    difference = _largest_difference(name, wrong, right)
    _say(difference > atol, name, f"misprint noticed: off by {difference:.2g}, allowed {atol:.0e}")


def check_zero(name: str, residual) -> None:
    """A sympy expression, or a list of them, simplifies to exactly 0, for all values of its symbols."""
    import sympy

    left = [sympy.simplify(sympy.expand_log(sympy.sympify(r), force=True)) for r in (residual if isinstance(residual, (list, tuple)) else [residual])]
    _say(all(r == 0 for r in left), name, "identically zero" if all(r == 0 for r in left) else f"not zero but {left}")


def check_mc(name: str, samples: Tensor, expected: float, errors: float = 4.0) -> None:
    """The mean of independent samples lies within `errors` standard errors (std / sqrt(n)) of the expected value."""
    samples = torch.as_tensor(samples, dtype=torch.float64).flatten()
    mean, error = float(samples.mean()), float(samples.std()) / len(samples) ** 0.5
    _say(abs(mean - expected) <= errors * error, name, f"{mean:.4f}, expected {float(expected):.4f}, {errors:.0f} standard errors are {errors * error:.4f}")


def _largest_difference(name: str, mine, theirs) -> float:
    mine, theirs = (torch.as_tensor(x).detach().to("cpu", torch.float64) for x in (mine, theirs))
    assert mine.shape == theirs.shape, f"{name}: shapes {tuple(mine.shape)} and {tuple(theirs.shape)} differ"
    assert mine.numel(), f"{name}: nothing to compare"
    difference = float((mine - theirs).abs().max())
    return float("inf") if difference != difference else difference  # NaN agrees with nothing


def _say(holds: bool, name: str, what: str) -> None:
    line = f"{'ok  ' if holds else 'FAIL'} {name}: {what}"
    assert holds, line
    print(line)
