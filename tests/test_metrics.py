"""Distances between Gaussians against their closed forms and against scipy; scores against those that can be counted."""

import numpy as np
import pytest
import scipy.linalg
import torch
from laboratory import generator, randn

from ddpm_core import frechet_distance, inception_score
from ddpm_core.metrics import memorisation, nearest


def by_sqrtm(a: np.ndarray, b: np.ndarray) -> float:
    """The formula as it stands, with scipy's Schur method: an implementation that shares nothing with ours but the definition."""
    A, B, m = np.cov(a.T), np.cov(b.T), a.mean(0) - b.mean(0)
    return float(m @ m + np.trace(A + B - 2 * scipy.linalg.sqrtm(A @ B).real))


def cloud(n: int, d: int, seed: int) -> torch.Tensor:
    return randn(n, d, seed=seed) @ randn(d, d, seed=seed + 100) / d**0.5 + randn(
        d, seed=seed + 200
    )


@pytest.mark.parametrize("d", [2, 7, 64])
def test_frechet_distance_agrees_with_sqrtm(d):
    a, b = cloud(400, d, 1), cloud(300, d, 2)
    wanted = by_sqrtm(a.numpy(), b.numpy())
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(a.numpy(), b) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance(
        (a.mean(0), a.T.cov()), (b.numpy().mean(0), np.cov(b.numpy().T))
    ) == pytest.approx(wanted, rel=1e-6)
    assert frechet_distance((a.mean(0), a.T.cov()), b) == pytest.approx(
        wanted, rel=1e-6
    )


def test_frechet_distance_of_one_dimension():
    """(m - m')^2 + (s - s')^2 for N(m, s^2) and N(m', s'^2)."""
    a, b = 3 + 2 * randn(50, 1, seed=1), -1 + 0.5 * randn(70, 1, seed=2)
    assert frechet_distance(a, b) == pytest.approx(
        float((a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2), rel=1e-12
    )
    three, four = (
        (torch.tensor([3.0]), torch.tensor([[4.0]])),
        (torch.tensor([-1.0]), torch.tensor([[0.25]])),
    )
    assert frechet_distance(three, four) == pytest.approx(16 + 1.5**2, rel=1e-12)


def test_frechet_distance_of_diagonal_covariances():
    """The sum of the distances by coordinate, whatever orthogonal frame both are seen in."""
    m, s = (randn(2, 20, seed=seed) for seed in (1, 2))
    s = s.abs()
    wanted = float((m[0] - m[1]).square().sum() + (s[0] - s[1]).square().sum())
    turn = torch.linalg.qr(randn(20, 20, seed=3)).Q
    moments = [(turn @ m[i], turn @ torch.diag(s[i] ** 2) @ turn.T) for i in range(2)]
    assert frechet_distance(*moments) == pytest.approx(wanted, rel=1e-9)


def test_frechet_distance_without_means_is_not_the_difference_of_traces():
    """Equal traces, equal means, other shape: a cloud that lies and one that stands."""
    lies, stands = (
        torch.diag(torch.tensor([4.0, 1.0])),
        torch.diag(torch.tensor([1.0, 4.0])),
    )
    assert frechet_distance(
        (torch.zeros(2), lies), (torch.zeros(2), stands)
    ) == pytest.approx(2.0)


@pytest.mark.parametrize("n", [2, 5, 30])
def test_singular_covariances(n):
    """Fewer samples than dimensions, constant and repeated columns: the roots stay real, and nothing is lost."""
    a, b = cloud(n, 64, 1), cloud(n + 3, 64, 2)
    a[:, 5], b[:, 6], a[:, 7] = 1.0, 0.0, a[:, 8]
    together = torch.cat([a, b])
    frame = torch.linalg.qr(
        (together - together.mean(0)).T
    ).Q  # (64, r): all that the clouds reach
    ours = frechet_distance(a, b)
    assert type(ours) is float and ours > 0
    assert ours == pytest.approx(frechet_distance(a @ frame, b @ frame), rel=1e-9)
    assert frechet_distance(a, a.clone()) < 1e-10
    assert frechet_distance(a, a + 0.5) == pytest.approx(64 / 4, rel=1e-9)
    # A covariance has lost half of the digits that the features have: its roots of 1e-16 are 1e-8.
    assert frechet_distance((a.mean(0), a.T.cov()), b) == pytest.approx(ours, rel=1e-6)


def test_nearly_singular_covariances_where_sqrtm_turns_complex():
    """Directions of spread from 1 to 1e-9: N(0, S) against N(0, 4 S) is tr S, since (S 4S)^(1/2) = 2 S."""
    spread = torch.logspace(0, -9, 40, dtype=torch.float64)
    turn = torch.linalg.qr(randn(40, 40, seed=3)).Q
    rows = randn(200, 40, seed=4) * spread @ turn.T
    wanted = float(rows.T.cov().trace())
    assert frechet_distance(
        rows - rows.mean(0), 2 * (rows - rows.mean(0))
    ) == pytest.approx(wanted, rel=1e-12)
    c = rows.T.cov()
    assert frechet_distance(
        (torch.zeros(40), c), (torch.zeros(40), 4 * c)
    ) == pytest.approx(wanted, rel=1e-6)


def test_frechet_distance_is_symmetric_and_scales():
    a, b = cloud(100, 8, 1), cloud(100, 8, 2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(
        9 * frechet_distance(a, b), rel=1e-12
    )
    assert frechet_distance(a.float(), b.float()) == pytest.approx(
        frechet_distance(a, b), rel=1e-5
    )


def test_inception_score_of_distributions_that_can_be_counted():
    k = 5
    sure = torch.eye(k, dtype=torch.float64).repeat(4, 1) * 200
    assert inception_score(sure) == pytest.approx(
        k, rel=1e-12
    )  # clear and balanced: all classes
    assert inception_score(torch.zeros(20, k)) == pytest.approx(
        1, rel=1e-12
    )  # nothing known
    assert inception_score(sure[:1].repeat(20, 1)) == pytest.approx(
        1, rel=1e-12
    )  # one class only
    p = torch.tensor([[0.7, 0.3], [0.1, 0.9]], dtype=torch.float64)
    mean = p.mean(0)
    wanted = float((p * (p / mean).log()).sum(1).mean().exp())
    assert inception_score(p.log()) == pytest.approx(wanted, rel=1e-12)
    assert inception_score(p.log() + torch.tensor([[5.0], [-3.0]])) == pytest.approx(
        wanted, rel=1e-12
    )  # of logits only differences count
    assert inception_score(p.log().numpy()) == pytest.approx(wanted, rel=1e-12)
    assert type(inception_score(p.log())) is float


def test_inception_score_survives_logits_of_any_size():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, -1e4, 1e4]])
    assert inception_score(logits) == pytest.approx(3, rel=1e-9)


def test_splits_are_dealt_out_in_turn():
    """Sorted by class, as our samples are, consecutive parts would hold one class each and score 1."""
    k, each = 4, 25
    sure = torch.eye(k).repeat_interleave(each, 0) * 200
    mean, std = inception_score(sure, 5)
    assert mean == pytest.approx(k, rel=1e-9) and std == pytest.approx(0, abs=1e-9)
    logits = 3 * randn(90, 6)
    scores = [inception_score(logits[i::3]) for i in range(3)]
    assert inception_score(logits, 3) == (
        pytest.approx(np.mean(scores)),
        pytest.approx(np.std(scores)),
    )
    assert inception_score(logits, 1) == (pytest.approx(inception_score(logits)), 0)


def test_nearest_finds_the_copies():
    b = randn(300, 1, 6, 6, dtype=torch.float32)
    a = torch.cat([b[[7, 250]], randn(40, 1, 6, 6, seed=1, dtype=torch.float32) + 0.1])
    distance, index = nearest(a, b, chunk=7)
    every = (a.flatten(1)[:, None] - b.flatten(1)[None]).norm(dim=2)
    torch.testing.assert_close(distance, every.min(1).values)
    assert torch.equal(index, every.argmin(1)) and index[:2].tolist() == [7, 250]
    assert distance[:2].tolist() == [
        0,
        0,
    ]  # not the 1e-2 that |a|^2 + |b|^2 - 2ab leaves in float32


def test_a_copy_far_from_the_origin_has_distance_zero():
    b = 1000 + randn(50, 30, dtype=torch.float32)
    assert nearest(b[:3], b)[0].tolist() == [0, 0, 0]


def test_memorisation_of_strangers_and_of_thieves():
    train, unseen, strangers = (randn(n, 12, seed=n) for n in (500, 400, 300))
    honest = memorisation(strangers, unseen, train)
    assert abs(honest.nearer - 0.5) < 4 * honest.nearer_error and honest.suspect < 0.05
    assert honest.distance.shape == (300,) and honest.unseen.shape == (400,)
    thieves = memorisation(train[:300] + 0.01 * strangers, unseen, train)
    assert (
        thieves.nearer == 1
        and thieves.suspect == 1
        and thieves.index.tolist() == list(range(300))
    )
    some = memorisation(torch.cat([train[:30], strangers[:270]]), unseen, train)
    assert 0.1 <= some.suspect < 0.15
    assert memorisation(unseen, unseen, train).nearer == pytest.approx(
        0.5, abs=1e-12
    )  # ties count half


def test_the_error_of_nearer_is_that_of_the_rank_test():
    g = generator()
    train = torch.randn(50, 3, generator=g)
    results = [
        memorisation(
            torch.randn(20, 3, generator=g), torch.randn(30, 3, generator=g), train
        )
        for _ in range(300)
    ]
    spread = float(torch.tensor([r.nearer for r in results]).std())
    # 300 spreads know their own to 1 / sqrt(600) = 4%; four of those
    assert spread == pytest.approx(results[0].nearer_error, rel=4 / 600**0.5)


ROWS = torch.zeros(4, 3)
IDENTITY = torch.eye(3)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: frechet_distance(ROWS[:1], ROWS),
            ValueError,
            "features_a has shape (1, 3); wanted two dimensions, at least 2 rows",
        ),
        (
            lambda: frechet_distance(ROWS, ROWS[:0]),
            ValueError,
            "features_b has shape (0, 3)",
        ),
        (
            lambda: frechet_distance(ROWS[0], ROWS),
            ValueError,
            "features_a has shape (3,)",
        ),
        (
            lambda: frechet_distance(torch.zeros(4, 3, 1), ROWS),
            ValueError,
            "features_a has shape (4, 3, 1)",
        ),
        (
            lambda: frechet_distance(ROWS, ROWS[:, :2]),
            ValueError,
            "features_a have 3 columns and features_b 2",
        ),
        (
            lambda: frechet_distance(ROWS, ROWS / 0),
            ValueError,
            "features_b has NaN or infinite values in 4 of 4 rows",
        ),
        (
            lambda: frechet_distance(ROWS + float("inf"), ROWS),
            ValueError,
            "features_a has NaN or infinite values in 4 of 4 rows",
        ),
        (
            lambda: frechet_distance(ROWS, ROWS.byte()),
            TypeError,
            "features_b is a tensor of torch.uint8; wanted floats",
        ),
        (
            lambda: frechet_distance([[1.0], [2.0]], ROWS),
            TypeError,
            "features_a is a list",
        ),
        (
            lambda: frechet_distance((ROWS[0],), ROWS),
            ValueError,
            "features_a is a tuple of 1",
        ),
        (
            lambda: frechet_distance((ROWS[0], IDENTITY[:2, :2]), ROWS),
            ValueError,
            "a mean of 3 and a covariance of shape (2, 2)",
        ),
        (
            lambda: frechet_distance((ROWS[0], -IDENTITY), ROWS),
            ValueError,
            "has a negative eigenvalue (-1)",
        ),
        (
            lambda: frechet_distance((ROWS[0], IDENTITY.roll(1, 0)), ROWS),
            ValueError,
            "not symmetric",
        ),
        (lambda: inception_score(ROWS[0]), ValueError, "logits has shape (3,)"),
        (lambda: inception_score(ROWS[:0]), ValueError, "logits has shape (0, 3)"),
        (lambda: inception_score(ROWS / 0), ValueError, "logits has NaN"),
        (
            lambda: inception_score(randn(5, 3).softmax(1)),
            ValueError,
            "sum to 1 in each row; wanted logits",
        ),
        (
            lambda: inception_score(ROWS.long()),
            TypeError,
            "logits is a tensor of torch.int64",
        ),
        (
            lambda: inception_score(ROWS, 5),
            ValueError,
            "splits = 5; wanted None, or a whole number from 1 to the number of pictures, 4",
        ),
        (lambda: inception_score(ROWS, 0), ValueError, "splits = 0"),
        (lambda: inception_score(ROWS, 2.0), ValueError, "splits = 2.0"),
        (
            lambda: nearest(ROWS, ROWS[:, :2]),
            ValueError,
            "a has 3 numbers a row and b 2",
        ),
        (lambda: nearest(ROWS, ROWS[:0]), ValueError, "b has shape (0, 3)"),
        (lambda: nearest(ROWS.numpy().tolist(), ROWS), TypeError, "a is a list"),
        (lambda: nearest(ROWS.byte(), ROWS), TypeError, "a is a tensor of torch.uint8"),
        (lambda: memorisation(ROWS / 0, ROWS, ROWS), ValueError, "a has NaN"),
    ],
)
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error) as raised:
        call()
    assert says in str(raised.value)


def test_kid_is_its_definition_and_has_no_bias():
    from ddpm_core.metrics import kid

    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, 4, generator=g, dtype=torch.float64) for n in (5, 7))
    k = lambda x, y: (float(x @ y) / 4 + 1) ** 3
    same = lambda x: [
        k(p, q) for i, p in enumerate(x) for j, q in enumerate(x) if i != j
    ]
    across = [k(p, q) for p in a for q in b]
    mean = lambda values: sum(values) / len(values)
    wanted = mean(same(a)) + mean(same(b)) - 2 * mean(across)
    torch.testing.assert_close(kid(a, b), torch.tensor(wanted, dtype=torch.float64))
    # of one law: zero on average, whatever the numbers; with the diagonal it would be near 2
    draws = [
        kid(*torch.randn(2, 20, 4, generator=g, dtype=torch.float64))
        for _ in range(400)
    ]
    error = torch.stack(draws).std() / 20
    assert torch.stack(draws).mean().abs() < 4 * error < 0.4
