import dataclasses
import math

import pytest
import torch
from torch.testing import assert_close

from ddpm_core import Schedule, cosine_schedule, linear_schedule
from ddpm_core.schedule import at

SCHEDULES = [
    linear_schedule(),
    linear_schedule(50, 0.001, 0.3),
    cosine_schedule(),
    cosine_schedule(7),
    linear_schedule(1),
]


@pytest.mark.parametrize("s", SCHEDULES, ids=repr)
def test_every_tensor_is_float64_with_T_plus_1_entries_and_begins_without_noise(s):
    for tensor in (s.beta, s.alpha, s.alpha_bar, s.beta_tilde):
        assert (
            tensor.dtype == torch.float64
            and tensor.shape == (s.T + 1,)
            and tensor.isfinite().all()
            and not tensor.requires_grad
        )
    assert (
        s.beta[0] == 0
        and s.alpha[0] == 1
        and s.alpha_bar[0] == 1
        and s.beta_tilde[0] == 0
    )


@pytest.mark.parametrize("s", SCHEDULES, ids=repr)
def test_definitions_entry_by_entry_in_exact_sums_of_logarithms(s):
    log_alpha_bar = 0.0
    for t in range(1, s.T + 1):
        before, log_alpha_bar = (
            log_alpha_bar,
            math.fsum([log_alpha_bar, math.log1p(-s.beta[t])]),
        )
        assert math.isclose(s.alpha[t], 1 - s.beta[t])
        assert math.isclose(s.alpha_bar[t], math.exp(log_alpha_bar), rel_tol=1e-11)
        assert math.isclose(
            s.beta_tilde[t],
            math.expm1(before) / math.expm1(log_alpha_bar) * s.beta[t],
            rel_tol=1e-10,
        )


def test_the_papers_schedule():
    s = linear_schedule()
    assert s.T == 1000
    assert_close(
        s.beta[[1, 1000]],
        torch.tensor([1e-4, 0.02], dtype=torch.float64),
        rtol=1e-15,
        atol=0,
    )
    steps = s.beta[2:] - s.beta[1:-1]
    assert_close(steps, torch.full_like(steps, (0.02 - 1e-4) / 999), rtol=1e-10, atol=0)
    assert math.isclose(
        s.alpha_bar[1000], 4.0358e-5, rel_tol=1e-4
    )  # the signal that is left: 1/158 of its amplitude
    assert math.isclose(
        s.beta_tilde[2], 5.453e-5, rel_tol=1e-3
    )  # the official code's first log variance
    assert s.beta_tilde[1] == 0
    assert (s.beta_tilde[2:] < s.beta[2:]).all() and (s.beta_tilde[2:] > 0).all()


def test_cosine_schedule_follows_its_formula_except_where_beta_is_capped():
    T = 1000
    s = cosine_schedule(T)
    f = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
    for t in range(1, T):
        assert math.isclose(s.alpha_bar[t], f[t] / f[0], rel_tol=1e-9), t
    assert s.beta[T] == 0.999 and (s.beta[1:T] < 0.999).all()


@pytest.mark.parametrize("first", [[], [0.0]], ids=["(T,)", "(T+1,)"])
def test_both_forms_of_beta_are_the_same_schedule(first):
    s = Schedule(torch.tensor([*first, 0.1, 0.2, 0.3], dtype=torch.float64))
    assert s.T == 3
    assert s.beta.tolist() == [0, 0.1, 0.2, 0.3]
    assert_close(s.alpha_bar, torch.tensor([1, 0.9, 0.72, 0.504], dtype=torch.float64))
    assert_close(Schedule(s.beta).alpha_bar, s.alpha_bar, rtol=0, atol=0)


def test_a_list_will_do_and_the_callers_tensor_is_neither_kept_nor_changed():
    beta = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)
    s = Schedule(beta)
    with torch.no_grad():
        beta.fill_(0.5)
    assert s.beta.tolist() == Schedule([0.1, 0.2]).beta.tolist() == [0, 0.1, 0.2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        s.beta = beta


def test_float32_products_would_be_wrong_where_little_noise_is():
    """Why float64: 1 - alpha_bar_1 = 1e-4 is off in its fourth digit in float32."""
    s = linear_schedule()
    single = 1 - torch.cumprod(1 - s.beta.float(), 0)
    assert abs(single[1].item() / (1 - s.alpha_bar[1].item()) - 1) > 1e-4


def test_at_picks_the_entry_of_each_image_and_takes_its_dtype():
    table = torch.arange(5, dtype=torch.float64) / 3
    x = torch.zeros(3, 1, 2, 2)
    got = at(table, torch.tensor([1, 4, 2]), x)
    assert got.shape == (3, 1, 1, 1) and got.dtype == torch.float32
    assert got.flatten().tolist() == table[[1, 4, 2]].float().tolist()
    assert at(table, 4, x.half()).dtype == torch.float16 and at(table, 4, x).shape == ()
    assert at(table, torch.tensor(3), x).shape == (1, 1, 1, 1)


def test_at_follows_the_image_to_its_device():
    x = torch.empty(3, 1, 2, 2, device="meta")
    for t in (2, torch.tensor([1, 2, 3]), torch.tensor(2)):
        assert at(linear_schedule(5).beta, t, x).device.type == "meta"
