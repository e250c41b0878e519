"""A step is a function, and how pictures are drawn is one object."""

import warnings

import pytest
import torch
from laboratory import SHORT, Scale, generator, randn, randomise, small_unet
from torch.testing import assert_close

from ddpm_core import (
    Sampling,
    bits_per_dim,
    cosine_schedule,
    linear_schedule,
    load_checkpoint,
    q_sample,
    sample,
    sample_steps,
    to_uint8,
    train,
)
from ddpm_core.model import eps_of_x0, learns_variance
from ddpm_core.sampling import SAMPLERS, More, ancestral, ddim, dpm

SHAPE = (4, 1, 2, 2)


def alone(step, i=9, **more):
    """One step from a place where x0_hat and eps_hat fit x, as the loop hands them on."""
    x, x0_hat = randn(*SHAPE), 0.3 * randn(*SHAPE, seed=1)
    eps_hat = eps_of_x0(SHORT, x, i, x0_hat)
    g = generator(2)
    noise = lambda: torch.randn(SHAPE, generator=g, dtype=torch.float64)
    return step(
        SHORT, x, x0_hat, eps_hat, i, More(noise, sigma2=SHORT.beta_tilde, **more)
    )


def test_each_step_alone():
    """The first step of "dpm" is DDIM's; DDIM with all its noise is Algorithm 2's."""
    assert_close(alone(dpm), alone(ddim))
    assert_close(alone(ddim, eta=1.0), alone(ancestral))
    assert (alone(dpm, before=randn(*SHAPE)) - alone(ddim)).abs().max() > 1e-3
    v = torch.full(SHAPE, 0.5, dtype=torch.float64)
    mean = alone(ancestral) - (alone(ancestral, v=v) - alone(ancestral)) / (
        torch.tensor(0.25).exp() - 1
    )
    assert_close(alone(ancestral, i=9, v=v - 100.5), mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_by_name_is_its_step(name):
    how = dict(steps=5, spacing="time", generator=generator())
    a = sample(Scale(0.7), SHORT, SHAPE, sampler=name, **how)
    how["generator"] = generator()
    b = sample(Scale(0.7), SHORT, SHAPE, sampler=SAMPLERS[name], **how)
    assert torch.equal(a, b)


def test_a_step_around_a_step():
    """Half of the picture known, put back at its own noise level after every step."""
    known, mask = torch.full(SHAPE, 0.5), torch.arange(2) == 0
    g = generator(5)

    def around(schedule, x, x0_hat, eps_hat, i, more):
        x = ancestral(schedule, x, x0_hat, eps_hat, i, more)
        there = known
        if i > 1:
            there = q_sample(schedule, known, i - 1, torch.randn(SHAPE, generator=g))
        return torch.where(mask, there, x)

    x = sample(Scale(), SHORT, SHAPE, sampler=around, steps=6, generator=generator())
    assert (x[..., 0] == 0.5).all() and not (x[..., 1] == 0.5).any()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_settings_are_one_object_or_keywords(sampler):
    how = Sampling(steps=4, sampler=sampler, variance="beta_tilde", clip_x0=False)
    runs = [
        sample(Scale(), SHORT, SHAPE, how, generator=generator()),
        sample(
            Scale(),
            SHORT,
            SHAPE,
            steps=4,
            sampler=sampler,
            variance="beta_tilde",
            clip_x0=False,
            generator=generator(),
        ),
        sample(
            Scale(),
            SHORT,
            SHAPE,
            Sampling(steps=9, sampler=sampler, clip_x0=False),
            steps=4,
            variance="beta_tilde",
            generator=generator(),
        ),
    ]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_threshold_takes_the_place_of_the_clamp_and_eps_hat_follows(sampler):
    seen = []

    def halved(x0_hat):
        seen.append(x0_hat)
        return x0_hat / 2

    step, pairs = SAMPLERS[sampler], []

    def watched(schedule, x, x0_hat, eps_hat, i, more):
        pairs.append((eps_hat, eps_of_x0(schedule, x, i, x0_hat)))
        return step(schedule, x, x0_hat, eps_hat, i, more)

    how = dict(sampler=watched, threshold=halved, generator=generator())
    steps = list(sample_steps(Scale(-3.0), SHORT, SHAPE, **how))
    for raw, (_, _, x0_hat) in zip(seen, steps[:-1], strict=True):
        assert torch.equal(x0_hat, raw / 2)
    assert max(raw.abs().max() for raw in seen) > 2  # it was not clamped before
    for given, fitting in pairs:
        assert_close(given, fitting)


def test_the_clamp_is_a_threshold():
    clamp = lambda x0_hat: x0_hat.clamp(-1, 1)
    a = sample(Scale(-3.0), SHORT, SHAPE, threshold=clamp, generator=generator())
    b = sample(Scale(-3.0), SHORT, SHAPE, generator=generator())
    assert torch.equal(a, b)


def test_a_variance_that_was_learned_is_used():
    model = small_unet()
    assert not learns_variance(model) and not learns_variance(lambda x, t: x)
    model.config["learn_variance"] = True
    assert learns_variance(model)


@pytest.mark.parametrize(
    "settings, error, phrase",
    [
        (dict(stepz=3), TypeError, "stepz = 3 is no setting of a sampler; wanted some"),
        (dict(threshold=0.9), TypeError, "threshold = 0.9; wanted a function"),
        (dict(spacing="even"), ValueError, "spacing = 'even'; wanted \"time\" or"),
        (dict(how=dict(steps=3)), TypeError, "how is a dict; wanted a Sampling"),
        (dict(threshold=lambda x: x[:1]), ValueError, "x0_hat has shape (1, 1, 2, 2)"),
    ],
)
def test_settings_that_cannot_be(settings, error, phrase):
    import re

    with pytest.raises(error, match=re.escape(phrase)):
        sample(Scale(), SHORT, SHAPE, **settings)


PICTURES = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)


def trained(schedule):
    train(small_unet(), schedule, PICTURES, steps=0, device="cpu", progress=False)


@pytest.mark.parametrize(
    "use",
    [lambda s: sample(Scale(), s, (1, 1, 2, 2)), trained],
    ids=["sample", "train"],
)
def test_a_schedule_that_leaves_a_picture_behind_is_told_of(use):
    """The paper's betas are made for its T: with T = 100 they leave alpha_bar_T = 0.36."""
    with pytest.warns(
        UserWarning, match=r"alpha_bar_T = 0.36\d* .* 0.3\d* bits"
    ) as met:
        use(linear_schedule(100))
    (line,) = [str(w.message) for w in met if "alpha_bar_T" in str(w.message)]
    remedies = ["linear_schedule(100, 0.001, 0.2)", "cosine_schedule(100)"]
    for remedy in remedies:  # the line says them, and they are remedies
        assert remedy in line
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            use(eval(remedy))
            use(cosine_schedule(4))


def test_no_warning_where_the_start_is_given():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(Scale(), linear_schedule(100), SHAPE, x_T=randn(*SHAPE))


DTYPES = [torch.float64, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_pictures_of_another_dtype_than_the_network(dtype):
    """Computed as the weights are, answered and stepped as x_T is."""
    model, x_T = randomise(small_unet()), randn(2, 1, 8, 8)
    how = dict(steps=4, sampler="ddim", precision="float32")
    with torch.no_grad():
        assert model(x_T.to(dtype), 3).dtype == dtype
    x = sample(model, SHORT, (2, 1, 8, 8), x_T=x_T.to(dtype), **how)
    full = sample(model, SHORT, (2, 1, 8, 8), x_T=x_T.float(), **how)
    near = {torch.float64: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.4}[dtype]
    assert x.dtype == dtype and (x.float() - full).abs().max() < near


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_network_of_another_dtype_than_the_pictures(dtype):
    model = randomise(small_unet())
    x_T = randn(2, 1, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        full = model(x_T, 3)
        got = model.to(dtype)(x_T, 3)
    assert got.dtype == torch.float32
    assert 0 < (got - full).abs().max() < 0.05 * full.abs().max()
    x = sample(model, SHORT, (2, 1, 8, 8), x_T=x_T, steps=2)
    assert x.dtype == torch.float32 and x.isfinite().all()


def test_the_bound_of_another_dtype():
    model, x0 = randomise(small_unet()), torch.zeros(2, 1, 8, 8) - 1
    args = dict(generator=generator())
    a = bits_per_dim(model, SHORT, x0.double(), generator=generator()).total
    b = bits_per_dim(model, SHORT, x0, generator=generator()).total
    assert_close(a.float(), b, rtol=1e-4, atol=1e-4)
    for dtype in DTYPES[1:]:
        with pytest.raises(TypeError, match="cannot hold the 256 grey levels; wanted"):
            bits_per_dim(model, SHORT, x0.to(dtype), **args)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_another_batch_changes_a_picture_by_rounding_only(precision):
    """The limit that the docstring states, for the published network."""
    checkpoint = load_checkpoint("data/checkpoints/fashion-mnist")
    how = dict(steps=10, sampler="dpm", precision=precision)

    def pictures(chosen):
        return to_uint8(
            sample(
                checkpoint.model,
                checkpoint.schedule,
                (len(chosen), 1, 28, 28),
                labels=torch.tensor(chosen),
                generator=[generator(i) for i in chosen],
                **how,
            )
        ).int()

    together = pictures([0, 1, 2, 3])
    alone = torch.cat([pictures([i]) for i in range(4)])
    away = (together - alone).abs()
    if precision == "float32":
        assert away.max() <= 1 and (away > 0).double().mean() < 0.01
    else:
        assert away.double().mean() < 1 and away.max() < 32
