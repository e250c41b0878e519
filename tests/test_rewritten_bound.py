"""Eq. (16), against Eq. (3) summed over every trajectory of a small chain, and against Eqs. (3) and (5) in Lab G."""

import itertools

import pytest
import torch

from ddpm_core.bound import bound_terms
from ddpm_core.exact import (
    exact_bound,
    exact_chain,
    exact_rewritten_bound,
    gaussian,
    random_chain,
    rewritten_bound,
)
from ddpm_core.schedule import Schedule, linear_schedule


def tables(states, T, seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.softmax(
            torch.randn(shape, generator=generator, dtype=torch.float64), dim=-1
        )
        for shape in [
            (states,),
            (T + 1, states, states),
            (states,),
            (T + 1, states, states),
        ]
    ]


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_bound_summed_over_all_trajectories(seed):
    T, states = 3, 4
    q0, forward, p_T, reverse = tables(states, T, seed)
    L = 0.0
    for x in itertools.product(range(states), repeat=T + 1):
        log_q = sum(forward[t, x[t - 1], x[t]].log() for t in range(1, T + 1))
        log_p = p_T[x[T]].log() + sum(
            reverse[t, x[t], x[t - 1]].log() for t in range(1, T + 1)
        )
        L += (q0[x[0]].log() + log_q).exp() * (log_q - log_p)
    terms = rewritten_bound(q0, forward, p_T, reverse)
    torch.testing.assert_close(terms.sum(), L, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        terms[0], torch.distributions.Categorical(q0).entropy(), rtol=0, atol=1e-12
    )
    assert (terms[1:] >= 0).all()


def test_states_that_are_never_visited_do_not_matter():
    q0, forward, p_T, reverse = tables(3, 2, 0)
    pad = torch.nn.functional.pad
    grown = rewritten_bound(
        pad(q0, (0, 1)),
        pad(forward, (0, 1, 0, 1)),
        pad(p_T, (0, 1)),
        pad(reverse, (0, 1, 0, 1)),
    )
    torch.testing.assert_close(grown, rewritten_bound(q0, forward, p_T, reverse))


@pytest.mark.parametrize("D", [1, 2, 3])
def test_lab_g(D):
    schedule, generator = (
        Schedule(torch.linspace(0.05, 0.5, 5, dtype=torch.float64)),
        torch.Generator().manual_seed(D),
    )
    chain, root = (
        random_chain(5, D, generator),
        torch.randn(D, D, generator=generator, dtype=torch.float64),
    )
    mean, cov = (
        torch.randn(D, generator=generator, dtype=torch.float64),
        root @ root.T + 0.1 * torch.eye(D, dtype=torch.float64),
    )
    terms = exact_rewritten_bound(chain, schedule, gaussian(mean, cov))
    # 2n points with mean 0 and covariance I: averages of quadratics over them are exact
    z = (2 * D) ** 0.5 * torch.cat(
        [torch.eye(2 * D, dtype=torch.float64), -torch.eye(2 * D, dtype=torch.float64)]
    )
    x0 = mean + z[:, :D] @ torch.linalg.cholesky(cov).T
    eq_3 = torch.stack([exact_bound(chain, schedule, x) for x in x0]).mean()
    eq_5 = bound_terms(chain, schedule, x0, z[:, D:].expand(5, 4 * D, D)).mean(1)
    torch.testing.assert_close(terms.sum(), eq_3, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(terms.sum(), eq_5.sum(), rtol=1e-10, atol=1e-10)
    assert (terms[1:] >= 0).all() and (
        eq_5[1:] >= torch.cat([terms[2:-1], terms[-1:]])
    ).all(), "Eq. (5) pays for information as well"


def test_the_exact_chain_of_lab_g_pays_for_nothing_but_the_prior():
    terms = exact_rewritten_bound(
        exact_chain(linear_schedule(), 0.3, 0.5),
        linear_schedule(),
        gaussian(
            torch.tensor([0.3], dtype=torch.float64),
            torch.tensor([[0.25]], dtype=torch.float64),
        ),
    )
    torch.testing.assert_close(
        terms[1:-1], torch.zeros(1000, dtype=torch.float64), rtol=0, atol=1e-12
    )
    assert 0 < terms[-1] < 1e-4
