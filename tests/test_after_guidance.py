"""Guidance: both forms against worlds in which the guided score is known; what is refused."""

import pytest
import torch
from laboratory import generator, randn

from ddpm_core import guided as guided_by_w
from ddpm_core import (
    linear_schedule,
    load_images,
    predict_x0,
    q_sample,
    sample,
    to_model_range,
)
from ddpm_core.after.classifier import (
    NoisyClassifier,
    fashion_noisy_classifier,
    noisy_accuracy,
)
from ddpm_core.after.encoding import ddim_invert
from ddpm_core.after.guidance import (
    classifier_gradient,
    gaussian_spread,
    guided,
    observation_gradient,
)
from ddpm_core.exact import GaussianMixture, gaussian

SCHEDULE = linear_schedule(200, 1e-3, 0.05)


def two_clusters():
    return GaussianMixture(
        torch.tensor([0.3, 0.7]).double(),
        torch.tensor([[-1.0, 0.2], [0.8, -0.4]]).double(),
        torch.tensor([[[0.2, 0.05], [0.05, 0.1]], [[0.1, 0.0], [0.0, 0.3]]]).double(),
    )


def test_the_exact_classifier_turns_the_model_of_all_into_that_of_one_cluster():
    """q(x_t | y) is one component: Bayes' rule with the true q(y | x_t) must give its noise predictor."""
    world = two_clusters()

    def classifier(x, t):
        parts = world._components(SCHEDULE, int(t[0]))
        return world.weights.log() + parts.log_prob(x[:, None])

    x, labels = randn(6, 2), torch.ones(6, dtype=torch.int64)
    one = gaussian(world.means[1], world.covs[1])
    for t in (1, 50, 200):
        bent = guided(
            world.model(SCHEDULE), SCHEDULE, classifier_gradient(classifier, labels)
        )
        torch.testing.assert_close(
            bent(x, t), one.eps(SCHEDULE, x, t), atol=1e-10, rtol=0
        )
        twice = guided(
            world.model(SCHEDULE), SCHEDULE, classifier_gradient(classifier, labels, 2)
        )
        assert (twice(x, t) - one.eps(SCHEDULE, x, t)).abs().max() > 1e-3


def test_without_a_classifier_s_mixes_the_two_answers():
    def model(x, t, y=None, *, shift=0.0):
        return x * 0.5 + (0 if y is None else y.double()[:, None]) + shift

    x, y = randn(3, 2), torch.tensor([1, 2, 3])
    told, free = model(x, 5, y), model(x, 5)
    for s in (0.0, 1.0, 3.5):
        bent = guided(model, y, None, s)
        torch.testing.assert_close(bent(x, 5), free + s * (told - free))
        # its namesake takes w = s - 1
        torch.testing.assert_close(guided_by_w(model, s - 1, y)(x, 5), bent(x, 5))
        named = guided(model, dict(shift=0.7), dict(shift=0.1), s)
        torch.testing.assert_close(named(x, 5), x * 0.5 + 0.1 + s * 0.6)


def test_every_sampler_takes_a_guided_model():
    world = two_clusters()
    bent = guided(world.model(SCHEDULE), SCHEDULE, lambda x, t: torch.zeros_like(x))
    for sampler in ("ddpm", "ddim", "dpm"):
        same = dict(steps=5, sampler=sampler, clip_x0=False, x_T=randn(4, 2))
        mine = sample(bent, SCHEDULE, (4, 2), generator=generator(), **same)
        plain = sample(
            world.model(SCHEDULE), SCHEDULE, (4, 2), generator=generator(), **same
        )
        torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("var_y", [0.0, 0.09])
def test_the_observation_gradient_is_exact_for_gaussian_data(var_y):
    cov = 0.25 * torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.1], [0.2, 0.1, 0.5]])
    world = gaussian(torch.tensor([0.1, -0.2, 0.3]), cov)
    A = torch.tensor([[1.0, 0.0, 0.5]]).double()
    y = torch.tensor([[0.6], [-0.4]]).double()
    x = randn(2, 3)
    gain = world.covs[0] @ A.T / (A @ world.covs[0] @ A.T + var_y)
    left = world.covs[0] - gain @ A @ world.covs[0]
    model = world.model(SCHEDULE)
    for t in (2, 60, 200):
        bent = guided(
            model, SCHEDULE, observation_gradient(model, SCHEDULE, A, y, var_y, "exact")
        )(x, t)
        for i in range(2):
            mean = world.means[0] + (gain @ (y[i] - A @ world.means[0])[:, None])[:, 0]
            truth = gaussian(mean, left + 1e-13 * torch.eye(3))
            torch.testing.assert_close(
                bent[i : i + 1], truth.eps(SCHEDULE, x[i : i + 1], t), atol=1e-7, rtol=0
            )


def test_pigdm_is_exact_for_white_data_only():
    white, tinted = (
        gaussian(torch.zeros(2), c * torch.eye(2)) for c in (torch.tensor(0.25), 1.0)
    )
    A, y, x = torch.eye(2)[:1].double(), torch.tensor([[0.6]]).double(), randn(1, 2)
    model = white.model(SCHEDULE)
    right, wrong = (
        observation_gradient(model, SCHEDULE, A, y, 0.01, gaussian_spread(SCHEDULE, v))(
            x, 80
        )
        for v in (0.25, 1.0)
    )
    exact = observation_gradient(model, SCHEDULE, A, y, 0.01, "exact")(x, 80)
    torch.testing.assert_close(right, exact)
    assert (wrong - exact).abs().max() > 0.01
    assert tinted.covs.shape == (1, 2, 2)


def test_what_is_refused():
    world = two_clusters()
    model, x = world.model(SCHEDULE), randn(3, 2)
    labels = torch.tensor([0, 1, 1])
    with pytest.raises(TypeError, match="wanted guided"):
        guided(model, SCHEDULE)
    with pytest.raises(TypeError, match="wanted guided"):
        guided(model, labels, None, "much")
    bent = guided(model, SCHEDULE, lambda x, t: x[:, :1])
    with pytest.raises(ValueError, match="the same shape"):
        bent(x, 5)
    with pytest.raises(ValueError, match="wanted a LongTensor"):
        classifier_gradient(lambda x, t: x, torch.tensor([0.5]))
    for answer, chosen in (
        (lambda x, t: x[:, 0], labels),
        (lambda x, t: x, labels * 2),
    ):
        with pytest.raises(ValueError, match="wanted"):
            classifier_gradient(answer, chosen)(x, torch.full((3,), 5))
    with pytest.raises(ValueError, match="above 0"):
        observation_gradient(model, SCHEDULE, torch.eye(2), x, 0.0, 0.0)
    with pytest.raises(ValueError, match="wanted A"):
        observation_gradient(model, SCHEDULE, torch.eye(2), x[:, :1], 0.1, 0.0)
    with pytest.raises(ValueError, match="wanted A"):
        observation_gradient(model, SCHEDULE, torch.eye(3), randn(3, 3), 0.1, 0.0)(x, 5)
    with pytest.raises(ValueError, match="exact"):
        observation_gradient(model, SCHEDULE, torch.eye(2), x, 0.1, "dps")


def test_the_inverse_of_ddim():
    world = two_clusters()
    model, x0 = world.model(SCHEDULE), world.sample(50, generator())
    error = {}
    for steps, rounds in ((50, 0), (100, 0), (50, 40)):
        x_T = ddim_invert(model, SCHEDULE, x0, steps, rounds)
        back = sample(
            model,
            SCHEDULE,
            x0.shape,
            steps=steps,
            sampler="ddim",
            x_T=x_T,
            clip_x0=False,
        )
        error[steps, rounds] = (back - x0).abs().median().item()
    assert 1.5 < error[50, 0] / error[100, 0] < 2.6  # first order
    assert error[50, 40] < 1e-8
    with pytest.raises(ValueError, match="iterations"):
        ddim_invert(model, SCHEDULE, x0, 10, -1)
    with pytest.raises(TypeError, match="wanted floats"):
        ddim_invert(model, SCHEDULE, x0.long(), 10)
    assert predict_x0(SCHEDULE, x0, 1, x0).shape == x0.shape


def test_the_noisy_classifier_is_told_t_and_says_what_it_wants(tmp_path):
    network = NoisyClassifier(3, 5)
    x = randn(2, 3, 16, 16, dtype=torch.float32)
    assert network(x, 7).shape == (2, 5)
    assert not torch.equal(network(x, 7), network(x, torch.tensor([700, 700])))
    with pytest.raises(ValueError, match="wanted"):
        network(x[:, :1], 7)
    with pytest.raises(TypeError, match="wanted floats"):
        network(x.long(), 7)
    with pytest.raises(FileNotFoundError, match="train_noisy_classifier"):
        fashion_noisy_classifier(tmp_path)


def test_the_kept_classifier_is_as_right_as_its_card_says():
    network = fashion_noisy_classifier()
    images, labels = load_images("fashion-mnist", "test")
    n, t = 500, 250
    eps = randn(n, 1, 28, 28, dtype=torch.float32)
    x_t = q_sample(linear_schedule(), to_model_range(images[:n]), t, eps)
    right = noisy_accuracy(network, x_t, labels[:n], t)
    said = network.card["accuracy"][str(t)]["noisy"]
    assert abs(right - said) < 4 * (said * (1 - said) / n) ** 0.5
    assert noisy_accuracy(network, x_t, labels[:n], 900) < right  # it listens to t
