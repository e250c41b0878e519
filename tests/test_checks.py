import numpy as np
import pytest
import torch
from laboratory import randn

from ddpm_core.checks import check, check_mc, check_seen, check_zero

NAN = float("nan")


@pytest.mark.parametrize(
    "mine, theirs",
    [
        (1.0, 1.0 + 1e-13),
        ([1, 2], np.array([1.0, 2.0])),
        (torch.ones(2, 2), torch.ones(2, 2).double()),
        (0, 0.0),
    ],
)
def test_check_passes_and_prints_one_line(mine, theirs, capsys):
    check("Eq. (7)", mine, theirs)
    out = capsys.readouterr().out
    assert out.startswith("ok   Eq. (7): largest difference ") and out.count("\n") == 1


@pytest.mark.parametrize(
    "mine, theirs, atol",
    [
        (1.0, 1.0 + 1e-11, 1e-12),
        (torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3), 0.5),
        (torch.tensor([-1.0]), torch.tensor([1.0]), 1e-3),
        (NAN, 1.0, 1e9),
        (NAN, NAN, 1e9),
        (torch.tensor([0.0, NAN]), torch.zeros(2), 1.0),
        (float("inf"), 1.0, 1e9),
        (1.0, 1.0, NAN),
        (torch.ones(2), torch.ones(3), 1),
        (torch.ones(2), torch.ones(2, 1), 1),
        (torch.ones(1), 1.0, 1),
        ([], [], 1),
    ],
    ids=str,
)
def test_check_raises(mine, theirs, atol, capsys):
    with pytest.raises(AssertionError, match="name"):
        check("name", mine, theirs, atol)
    assert capsys.readouterr().out == ""


def test_check_compares_float32_with_float64_without_rounding_the_latter():
    check("name", torch.tensor(0.1), 0.1, atol=2e-9)
    with pytest.raises(AssertionError, match="1.5e-09"):
        check("name", torch.tensor(0.1), 0.1, atol=1e-9)


def test_check_zero():
    sympy = pytest.importorskip("sympy")
    x, y = sympy.symbols("x y", positive=True)
    check_zero("identity", (x + y) ** 2 - x**2 - 2 * x * y - y**2)
    check_zero(
        "logarithms",
        [
            sympy.log(x * y) - sympy.log(x) - sympy.log(y),
            sympy.sin(x) ** 2 + sympy.cos(x) ** 2 - 1,
        ],
    )
    for wrong in (
        (x + y) ** 2 - x**2 - y**2,
        [0 * x, x - y],
        sympy.nan,
        sympy.sqrt(x) - x,
        [],
        sympy.Float(1e-30),
    ):
        with pytest.raises(AssertionError, match="name"):
            check_zero("name", wrong)


@pytest.mark.filterwarnings("ignore:std")
def test_check_mc():
    x = 3 + 2 * randn(10_000)
    check_mc("mean", x, 3.0)
    for expected in (3.2, 2.8, NAN):
        with pytest.raises(AssertionError):
            check_mc("mean", x, expected)
    with pytest.raises(AssertionError):
        check_mc("mean", x, x.mean().item() + 3e-2, errors=1)
    for few in (torch.tensor([1.0, NAN]), torch.tensor([])):
        with pytest.raises(AssertionError):
            check_mc("mean", few, 1.0)


def test_check_mc_is_as_strict_as_it_says():
    """Of estimates that are right, 1 standard error refuses about a third; 4 refuse almost none."""
    refused = {1.0: 0, 4.0: 0}
    for seed in range(200):
        for errors in refused:
            try:
                check_mc("mean", randn(100, seed=seed), 0.0, errors)
            except AssertionError:
                refused[errors] += 1
    assert 35 <= refused[1.0] <= 95 and refused[4.0] <= 1


def test_check_seen():
    check_seen("misprint", 1.0, 1.1)
    for wrong, right in (
        (1.0, 1.0),
        (1.0, 1.0 + 1e-14),
        (torch.ones(2), torch.ones(3)),
        ([], []),
        (1.0, NAN),
        (NAN, NAN),
    ):
        with pytest.raises(AssertionError, match="misprint"):
            check_seen("misprint", wrong, right)


def test_checks_hold_also_where_assertions_are_switched_off():
    """python -O removes assert statements; a check that cannot fail there would say ok."""
    import inspect

    from ddpm_core import checks

    assert not [
        line
        for line in inspect.getsource(checks).splitlines()
        if line.strip().startswith("assert ")
    ]
