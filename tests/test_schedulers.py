"""Our posterior and samplers against DDPMScheduler and DDIMScheduler of diffusers, one step at a time and whole chains.

Where the conventions differ:
- Time. Theirs is 0..T-1, ours the paper's 1..T. Their alphas_cumprod[t - 1] is our alpha_bar[t].
- Tables. Theirs are float32. 1 - alpha_bar_t is 1e-4 at t = 1, of which rounding alpha_bar to 2^-24 takes up to 6e-4, and both weights
  of Eq. (7) divide by it. So each test runs twice: with their tables in float64, where the formulas must agree to 1e-9, and
  with the tables as they are, to 1e-5 and, near t = 1, that rounding.
- t = 1. Their "fixed_small" variance there is clamped to 1e-20, ours is 0; neither is ever used, since neither adds noise at the last step.
  (In L_0 of the bound, where it is needed, ours is beta_tilde_2, as in the official code.)
- The end. Ours ends at alpha_bar_0 = 1, x_0 itself. Theirs does in DDPM, and in DDIM with set_alpha_to_one=True, the default; with False the
  last step only goes to alpha_bar_1.
- Fewer steps. Ours spreads them from T to 1, both included, which is their timestep_spacing="linspace" (their default "leading" leaves out
  the times near T, where the noise is made; "trailing" leaves out those near 1). DDPMScheduler steps to the next of its times. DDIMScheduler always
  steps to t - T // steps, which with "linspace" is not the next of its times, so in that case there is nothing to agree with.
"""

import pytest
import torch
from laboratory import generator, ideal, randn
from torch.testing import assert_close

from ddpm_core import (
    Schedule,
    linear_schedule,
    predict_x0,
    q_posterior,
    q_sample,
    respace,
    reverse_mean,
    sample,
    sample_steps,
)
from ddpm_core.reverse import reverse_variance

diffusers = pytest.importorskip("diffusers")

S = linear_schedule()
SHORT = linear_schedule(100, 1e-3, 0.2)
SHAPE = (2, 3, 4, 4)
VARIANCE = {"beta": "fixed_large", "beta_tilde": "fixed_small"}

variances = pytest.mark.parametrize("variance", list(VARIANCE))
clipping = pytest.mark.parametrize(
    "clip", [True, False], ids=["clipped", "not clipped"]
)
tables = pytest.mark.parametrize(
    "exact", [True, False], ids=["float64 tables", "tables as they are"]
)


@pytest.fixture(autouse=True)
def noise_in_float32(monkeypatch):
    """Ours draws the noise in float32 whatever the images are; a generator gives other numbers in float64, in which theirs would draw."""
    draw = lambda shape, generator, device, dtype: torch.randn(
        shape, generator=generator
    ).to(dtype)
    for theirs in ("scheduling_ddpm", "scheduling_ddim"):
        monkeypatch.setattr(getattr(diffusers.schedulers, theirs), "randn_tensor", draw)


def predictor(schedule):
    """The best guess for data with mean 0.3 and standard deviation 1: they often leave [-1, 1], so that clipping has something to do."""
    return ideal(schedule, 0.3, 1.0)


def noise(seed):
    return randn(*SHAPE, seed=seed, dtype=torch.float32).double()


def ddpm(schedule=S, exact=True, **kwargs):
    return made(diffusers.DDPMScheduler, schedule, exact, **kwargs)


def ddim(schedule=S, exact=True, **kwargs):
    return made(diffusers.DDIMScheduler, schedule, exact, **kwargs)


def made(kind, schedule, exact, **kwargs):
    """Their scheduler with our betas; exact: with its tables in float64, so that only the formulas are compared."""
    theirs = kind(schedule.T, trained_betas=schedule.beta[1:].tolist(), **kwargs)
    assert_close(
        theirs.alphas_cumprod.double(), schedule.alpha_bar[1:], rtol=1e-4, atol=1e-6
    )
    if exact:
        theirs.alphas_cumprod = schedule.alpha_bar[1:].clone()
    return theirs


def allowed(t, exact):
    """For an x_t of up to 3, as normal numbers are: that many times the rounding of its weight."""
    return 1e-9 if exact else 1e-5 + 3 * 2**-24 / float(1 - S.alpha_bar[t])


def at_every_step(ours, g, steps):
    """Takes their steps, each with other tables, from our x_t with our next noise, at the first, the last and every 17th t.

    -> {t: the largest differences from our next x, one for each of `steps`}
    """
    differences, expected = {}, None
    for t, x, _ in ours:
        if expected is not None:
            differences[t + 1] = [float((x - e).abs().max()) for e in expected]
        expected = None
        if t and (t <= 12 or t % 17 == 0 or t >= 990):
            state = g.get_state()
            expected = [step(x, t, generator().set_state(state)) for step in steps]
    return differences


@variances
@clipping
def test_ddpm_steps(variance, clip):
    """One step from the same x_t with the same eps_hat and the same noise, at times from T to 1."""
    model, g, outside = predictor(S), generator(1), []

    def taken_by(theirs):
        def step(x, t, noise):
            eps = model(x, torch.full((2,), t))
            outside.append((predict_x0(S, x, t, eps).abs() > 1).double().mean())
            return theirs.step(eps, t - 1, x, generator=noise).prev_sample

        return step

    steps = [
        taken_by(ddpm(exact=exact, variance_type=VARIANCE[variance], clip_sample=clip))
        for exact in (True, False)
    ]
    differences = at_every_step(
        sample_steps(
            model, S, SHAPE, variance=variance, clip_x0=clip, generator=g, x_T=noise(0)
        ),
        g,
        steps,
    )
    assert {1, 2, 3, 17, 986, 999, 1000} <= differences.keys()
    for t, (exact, rounded) in differences.items():
        assert exact <= allowed(t, True) and rounded <= allowed(t, False), t
    assert (
        0.01 < torch.stack(outside).mean() < 0.99
    )  # the clipping was met, and not always


@clipping
@pytest.mark.parametrize("eta", [0, 0.4, 1])
def test_ddim_steps(clip, eta):
    """Clipped, theirs has to be told to take eps_hat anew: use_clipped_model_output."""
    model, g = predictor(S), generator(1)
    how = dict(eta=eta, use_clipped_model_output=clip)

    def taken_by(theirs):
        theirs.set_timesteps(1000)
        return lambda x, t, noise: (
            theirs.step(
                model(x, torch.full((2,), t)), t - 1, x, generator=noise, **how
            ).prev_sample
        )

    steps = [taken_by(ddim(exact=exact, clip_sample=clip)) for exact in (True, False)]
    differences = at_every_step(
        sample_steps(
            model,
            S,
            SHAPE,
            sampler="ddim",
            clip_x0=clip,
            eta=eta,
            generator=g,
            x_T=noise(0),
        ),
        g,
        steps,
    )
    assert {1, 2, 3, 17, 986, 999, 1000} <= differences.keys()
    for t, (exact, rounded) in differences.items():
        assert exact <= 1e-9 and rounded <= allowed(t, False), t


def test_ddim_keeps_no_eps_hat_that_does_not_fit_its_x0_hat():
    """What theirs does unless told otherwise is another step, where clipping has something to do."""
    theirs, model, x = ddim(), lambda x, t: 0.99 * x, noise(0)
    theirs.set_timesteps(1000)
    ours = iter(sample_steps(model, S, SHAPE, sampler="ddim", x_T=x))
    eps, (_, _, x0_hat) = model(x, 1000), next(ours)
    assert 0.05 < (x0_hat.abs() == 1).double().mean() < 0.95
    stale, anew = (
        theirs.step(eps, 999, x, use_clipped_model_output=again).prev_sample
        for again in (False, True)
    )
    following = next(ours)[1]
    assert_close(following, anew, rtol=0, atol=1e-9)
    assert (following - stale).abs().max() > 1e-3


def chain(theirs, model, x, **kwargs):
    """Their loop, as their pipelines write it."""
    g = generator(1)
    for t in theirs.timesteps.tolist():
        x = theirs.step(
            model(x, torch.full((2,), t + 1)), t, x, generator=g, **kwargs
        ).prev_sample
    return x


@variances
@clipping
@pytest.mark.parametrize("steps", [None, 34, 12, 2])
def test_ddpm_chains(variance, clip, steps):
    """All the steps from the same x_T with the same noise; with fewer steps both respace the betas in the same way."""
    model, theirs = (
        predictor(SHORT),
        ddpm(
            SHORT,
            variance_type=VARIANCE[variance],
            clip_sample=clip,
            timestep_spacing="linspace",
        ),
    )
    if steps:
        theirs.set_timesteps(steps)
    ours = sample(
        model,
        SHORT,
        SHAPE,
        steps=steps,
        variance=variance,
        clip_x0=clip,
        generator=generator(1),
        x_T=noise(0),
    )
    assert_close(ours, chain(theirs, model, noise(0)), rtol=0, atol=1e-9)


def test_a_chain_of_a_thousand_steps_with_their_tables_as_they_are():
    """What a step near t = 1 adds of their rounding is no more than `allowed` there, and none of the earlier steps matters by then."""
    ours = sample(predictor(S), S, SHAPE, generator=generator(1), x_T=noise(0))
    theirs = chain(
        ddpm(exact=False, variance_type="fixed_large"), predictor(S), noise(0)
    )
    assert_close(ours, theirs, rtol=0, atol=allowed(1, False))


def visiting(times):
    """The schedule and the model of a chain that visits these times only, 0 first: as `respace` makes them, for any choice of times."""
    alpha_bar = S.alpha_bar[times]
    return (lambda x, i: predictor(S)(x, torch.tensor(times)[i])), Schedule(
        1 - alpha_bar[1:] / alpha_bar[:-1]
    )


@clipping
@tables
@pytest.mark.parametrize(
    "spacing, offset, n",
    [
        ("leading", 0, 50),
        ("leading", 1, 20),
        ("trailing", 0, 50),
        ("trailing", 0, 8),
        ("leading", 0, 1),
    ],
)
def test_ddim_with_fewer_steps_at_the_times_that_they_choose(
    clip, exact, spacing, offset, n
):
    theirs = ddim(
        exact=exact, clip_sample=clip, timestep_spacing=spacing, steps_offset=offset
    )
    theirs.set_timesteps(n)
    times = [0, *(theirs.timesteps.flip(0) + 1).tolist()]
    assert (times[-1] == 1000) == (spacing == "trailing") and (
        times[1] == 1 + offset
    ) == (spacing == "leading")
    model, schedule = visiting(times)
    ours = sample(model, schedule, SHAPE, sampler="ddim", clip_x0=clip, x_T=noise(0))
    assert_close(
        ours,
        chain(theirs, predictor(S), noise(0), use_clipped_model_output=clip),
        rtol=0,
        atol=1e-9 if exact else 1e-4,
    )  # 50 steps of 1e-5 at most


@clipping
@pytest.mark.parametrize("steps", [3, 7, 50])
def test_ddim_with_fewer_steps_at_the_times_that_we_choose(clip, steps):
    """Told our respaced schedule as if it were all there is, theirs takes the same steps as ours."""
    times, schedule = respace(S, steps)
    theirs = ddim(schedule, clip_sample=clip)
    theirs.set_timesteps(steps)
    ours = sample(
        predictor(S), S, SHAPE, steps=steps, sampler="ddim", clip_x0=clip, x_T=noise(0)
    )
    at_these = lambda x, i: predictor(S)(x, torch.tensor(times)[i])
    assert_close(
        ours,
        chain(theirs, at_these, noise(0), use_clipped_model_output=clip),
        rtol=0,
        atol=1e-9,
    )


def test_their_ddim_does_not_visit_its_own_linspace_times():
    """... so ours is not compared with it there: their 50 times are 999 / 49 = 20.4 apart, but each step goes back by 1000 // 50 = 20."""
    theirs = ddim(timestep_spacing="linspace")
    theirs.set_timesteps(50)
    aimed, visited = theirs.timesteps[:-1] - 1000 // 50, theirs.timesteps[1:]
    assert (aimed != visited).any()
    ours = sample(predictor(S), S, SHAPE, steps=50, sampler="ddim", x_T=noise(0))
    theirs_ends = chain(theirs, predictor(S), noise(0), use_clipped_model_output=True)
    assert (ours - theirs_ends).abs().max() > 1e-4


def test_set_alpha_to_one_false_ends_before_x_0():
    x, eps = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)
    theirs = ddim(set_alpha_to_one=False, clip_sample=False)
    theirs.set_timesteps(1000)
    theirs.final_alpha_cumprod = S.alpha_bar[1]
    assert_close(
        theirs.step(eps, 0, x).prev_sample, x, rtol=0, atol=1e-9
    )  # from alpha_bar_1 to alpha_bar_1
    theirs = ddim(clip_sample=False)
    theirs.set_timesteps(1000)
    assert_close(
        theirs.step(eps, 0, x).prev_sample, predict_x0(S, x, 1, eps), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("T", [10, 11, 100, 1000, 4000])
def test_our_times_are_their_linspace(T):
    """... but for ties: where a time falls half-way between two, we round t to even and they t - 1."""
    schedule, theirs = (
        Schedule(torch.full((T,), 0.005)),
        diffusers.DDPMScheduler(T, timestep_spacing="linspace"),
    )
    for steps in {2, 3, 5, 7, 10, T // 4, T // 3, T // 2, T - 1, T} - {0, 1}:
        if steps <= T:
            theirs.set_timesteps(steps)
            pairs = zip(
                respace(schedule, steps)[0][:0:-1],
                theirs.timesteps.tolist(),
                strict=True,
            )
            for k, (ours, t) in enumerate(pairs):
                tie = 2 * k * (T - 1) % (2 * (steps - 1)) == steps - 1
                assert ours == t + 1 or (tie and abs(ours - t - 1) == 1)
    theirs.set_timesteps(
        1
    )  # of one single step they make t = 1, at which nothing comes from noise; ours is t = T
    assert theirs.timesteps.tolist() == [0] and respace(schedule, 1)[0] == [0, T]


TIMES = (1, 2, 3, 10, 100, 500, 999, 1000)


@pytest.mark.parametrize("t", TIMES)
@tables
def test_posterior(t, exact):
    """Eqs. (6) and (7): what their scheduler does with a network that predicts x_0. Its noise is taken off again."""
    theirs = ddpm(exact=exact, prediction_type="sample", clip_sample=False)
    x0, x_t = randn(*SHAPE, seed=1).clamp(-1, 1), randn(*SHAPE, seed=2)
    mean, var = q_posterior(S, x0, x_t, t)
    if t > 1:
        assert_close(
            var.double(),
            theirs._get_variance(t - 1).double(),
            rtol=1e-9 if exact else 2**-23 / float(S.beta[t - 1]),
            atol=0,
        )
    else:
        assert var == 0 and theirs._get_variance(0) <= 1e-20
    prev = theirs.step(x0, t - 1, x_t, generator=generator(3)).prev_sample
    if t > 1:
        prev = prev - theirs._get_variance(t - 1).sqrt() * noise(3)
    assert_close(mean, prev, rtol=0, atol=allowed(t, exact))


@pytest.mark.parametrize("t", TIMES)
def test_mean_of_eq_11_and_both_variances(t):
    x_t, eps = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)
    for variance, theirs_name in VARIANCE.items():
        theirs = ddpm(variance_type=theirs_name, clip_sample=False)
        prev = theirs.step(eps, t - 1, x_t, generator=generator(3)).prev_sample
        ours = reverse_mean(S, x_t, t, eps) + (
            reverse_variance(S, variance)[t].sqrt() * noise(3) if t > 1 else 0
        )
        assert_close(ours, prev, rtol=0, atol=1e-9)


def test_t_1_has_no_variance_in_theirs_and_that_of_t_2_in_our_bound():
    assert ddpm(variance_type="fixed_small")._get_variance(0) == 1e-20
    assert_close(
        ddpm(variance_type="fixed_large")._get_variance(0), S.beta[1], rtol=1e-9, atol=0
    )
    assert (
        reverse_variance(S, "beta")[1]
        == reverse_variance(S, "beta_tilde")[1]
        == S.beta_tilde[2]
    )


def test_noise_is_added_alike():
    x0, eps, t = (
        randn(*SHAPE, seed=1).float(),
        randn(*SHAPE, seed=2).float(),
        torch.tensor([1, 700]),
    )
    theirs = ddpm(exact=False).add_noise(x0, eps, t - 1)
    assert_close(q_sample(S, x0, t, eps), theirs, rtol=0, atol=1e-5)


def test_near_t_1_the_difference_is_their_rounding():
    """Our float32 step from t = 3 is within 1e-6 of our float64 step; theirs, with float32 tables, is not."""
    x, eps = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)
    exact = reverse_mean(S, x, 3, eps)
    assert_close(
        reverse_mean(S, x.float(), 3, eps.float()).double(), exact, rtol=0, atol=1e-6
    )
    theirs = (
        ddpm(exact=False, clip_sample=False)
        .step(eps, 2, x, generator=generator(3))
        .prev_sample
    )
    assert (
        1e-5
        < (theirs - S.beta_tilde[3].sqrt() * noise(3) - exact).abs().max()
        < allowed(3, False)
    )
