"""given and guided: a network that is told something, as a plain model for every sampler and the bound."""

import copy

import pytest
import torch
from laboratory import SHORT, Scale, bfloat16_attention, generator, randn, randomise
from torch.testing import assert_close

import ddpm_core as ddpm
from ddpm_core import given, guided, sample, sample_steps
from ddpm_core.model import Given, around, as_eps_model, device_of, evaluating

SHAPE = (3, 1, 8, 8)
LABELS = torch.tensor([0, 2, 1])


def unet(**more) -> ddpm.UNet:
    torch.manual_seed(0)
    how = dict(width=8, multipliers=(1,), blocks=1, attention=(8,), dropout=0.0)
    return randomise(ddpm.UNet(8, 1, groups=4, **how, **more))


def x(n: int = 3):
    return randn(n, 1, 8, 8, dtype=torch.float32)


def everything() -> tuple[ddpm.UNet, dict[str, torch.Tensor]]:
    """A network with every kind of condition, and one of each."""
    network = unet(classes=3, condition=2, context=5, pooled=4)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    floats = dict(
        condition=randn(3, 2, 8, 8, seed=1),
        context=randn(3, 3, 5, seed=2),
        pooled=randn(3, 4, seed=3),
    )
    return network, {n: f.float() for n, f in floats.items()} | dict(mask=mask)


@torch.no_grad()
def test_what_is_given_reaches_the_network():
    network, named = everything()
    wanted = network(x(), 7, LABELS, **named)
    assert_close(given(network, LABELS, **named)(x(), 7), wanted, rtol=0, atol=0)
    for name in named:  # and each of them makes a difference
        if name == "condition":
            other = {**named, name: -named[name]}
        else:
            other = {n: v for n, v in named.items() if n != name}
            if name == "context":
                other.pop("mask")
        away = given(network, LABELS, **other)(x(), 7) - wanted
        assert away.abs().max() > 1e-3, name
    twice = given(given(network, LABELS), **named)
    assert isinstance(twice, Given) and twice.network is network
    assert_close(twice(x(), 7), wanted, rtol=0, atol=0)


def test_nothing_given_is_the_network_itself():
    network = unet(classes=3)
    assert given(network) is network
    assert given(network, None, context=None) is network
    assert isinstance(guided(network, 0, LABELS), Given)


@torch.no_grad()
@pytest.mark.parametrize("w", [0.0, -0.5, 2.5, torch.tensor([0.0, 1.0, 3.0])])
def test_guidance_is_the_formula(w):
    network = unet(classes=3)
    told, free = network(x(), 5, LABELS), network(x(), 5)
    assert (told - free).abs().max() > 1e-2
    by_hand = torch.stack(
        [
            told[i]
            + (float(w[i]) if isinstance(w, torch.Tensor) else w) * (told - free)[i]
            for i in range(3)
        ]
    )
    assert_close(guided(network, w, LABELS)(x(), 5), by_hand)


@torch.no_grad()
def test_what_stands_for_no_condition_can_be_said():
    network, named = everything()
    picture = dict(condition=named["condition"])
    words = dict(context=named["context"], mask=named["mask"])
    unwanted = dict(context=-named["context"], mask=named["mask"])
    told = network(x(), 5, LABELS, **words, **picture)
    for null, without in (
        (picture, network(x(), 5, **picture)),
        ({**picture, **unwanted}, network(x(), 5, **unwanted, **picture)),
        (given(network, **picture), network(x(), 5, **picture)),
    ):
        model = guided(network, 2.0, LABELS, **words, **picture, null=null)
        assert_close(model(x(), 5), 3 * told - 2 * without, rtol=1e-4, atol=1e-5)
    labelled, others = unet(classes=3), LABELS.flip(0)
    wanted = 3 * labelled(x(), 5, LABELS) - 2 * labelled(x(), 5, others)
    for null in (others, (others,), dict(y=others)):
        got = guided(labelled, 2.0, LABELS, null=null)(x(), 5)
        assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_learned_variance_stays_that_of_the_conditions():
    network = unet(classes=3, learn_variance=True)
    told, free = network(x(), 5, LABELS), network(x(), 5)
    got = guided(network, 2.0, LABELS)(x(), 5)
    assert_close(got[:, :1], 3 * told[:, :1] - 2 * free[:, :1])
    assert_close(got[:, 1:], told[:, 1:], rtol=0, atol=0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm"])
@pytest.mark.parametrize("w", [0.0, 1.5])
def test_every_sampler_takes_it_and_labels_of_sample_are_the_same(sampler, w):
    network, how = unet(classes=3), dict(sampler=sampler, steps=4)
    bound = sample(
        guided(network, w, LABELS), SHORT, SHAPE, generator=generator(), **how
    )
    told = sample(
        network, SHORT, SHAPE, labels=LABELS, guidance=w, generator=generator(), **how
    )
    free = sample(network, SHORT, SHAPE, generator=generator(), **how)
    assert torch.equal(bound, told) and not torch.equal(bound, free)


def test_the_bound_takes_it():
    network, x0 = unet(classes=3), torch.zeros(SHAPE) - 1
    told = given(network, LABELS)
    for bound in (ddpm.bits_per_dim, ddpm.bits_per_dim_estimate):
        a = bound(told, SHORT, x0, generator=generator()).total
        b = bound(network, SHORT, x0, generator=generator(), labels=LABELS).total
        c = bound(network, SHORT, x0, generator=generator()).total
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_objectives_and_predictions_take_it():
    network, t, eps = unet(classes=3), torch.tensor([1, 9, 20]), randn(*SHAPE).float()
    x0 = torch.zeros(SHAPE)
    for kind in ("eps", "mu", "x0"):
        inside = given(as_eps_model(network, SHORT, kind), LABELS)
        outside = as_eps_model(given(network, LABELS), SHORT, kind)
        a, b = (ddpm.mu_error(m, SHORT, x0, t, eps) for m in (inside, outside))
        assert_close(a, b)


def test_the_network_inside_is_put_in_eval_mode_and_found():
    network = Scale(classes=3).train()
    told = guided(network, 1.0, LABELS)
    assert device_of(told) == torch.device("cpu")
    with evaluating(told):
        assert not network.training
    assert network.training
    sample(told, SHORT, SHAPE, generator=generator())
    assert network.modes == [False] * 40 and network.training


def test_each_network_is_changed_once_and_what_it_is_told_stays():
    network, seen = unet(classes=3), []
    told = guided(network, 2.0, LABELS)

    def change(part):
        seen.append(part)
        return copy.deepcopy(part)

    other = around(told, change)
    assert seen == [network] and not set(map(id, network.parameters())) & set(
        map(id, other.parameters())
    )
    with torch.no_grad():
        assert torch.equal(told(x(), 3), other(x(), 3))


def test_what_it_is_told_is_where_the_network_is():
    """A rehearsal with a device that is not the processor: moved once, in `around`."""
    told = guided(Scale(classes=3).to("meta"), 1.0, LABELS, null=LABELS)
    moved = around(told, lambda part: part, torch.device("meta"))
    for side in (moved.informed, moved.free):
        assert side.conditions[0].is_meta
    assert sample(told, SHORT, SHAPE, generator=generator()).is_meta


@bfloat16_attention
def test_a_network_with_bound_conditions_samples_as_fast_as_without(monkeypatch):
    """What is asked in the end is the copy in bfloat16, once for each, with one t."""
    network, named = everything()
    asked = []
    forward = ddpm.UNet.forward

    def watched(self, x, t, *conditions, **named):
        asked.append((self is network, x.dtype, len(t), len(conditions) + len(named)))
        return forward(self, x, t, *conditions, **named)

    monkeypatch.setattr(ddpm.UNet, "forward", watched)
    for model, conditions in (
        (given(network, LABELS, **named), [5]),
        (guided(network, 2.0, LABELS, **named, null=named), [5, 4]),
    ):
        asked.clear()
        steps = sample_steps(
            model, SHORT, SHAPE, steps=2, precision="bfloat16", generator=generator()
        )
        last = list(steps)[-1][1]
        assert last.dtype == torch.float32
        assert asked == [(False, torch.bfloat16, 1, n) for n in 2 * conditions]


def test_what_cannot_be_told_is_refused_when_it_is_asked():
    with pytest.raises(ValueError, match="model without classes"):
        sample(given(unet(), LABELS), SHORT, SHAPE)
    with pytest.raises(ValueError, match="context= was given to a UNet without"):
        sample(given(unet(), context=randn(3, 2, 5).float()), SHORT, SHAPE)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        sample(given(lambda x, t: x, words=LABELS), SHORT, SHAPE)
