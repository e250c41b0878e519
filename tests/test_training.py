import errno
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from contextlib import contextmanager
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

import pytest
import torch
from laboratory import SHORT, Scale, generator, small_unet
from scipy import stats
from torch import nn
from torch.testing import assert_close

import ddpm_core
from ddpm_core import (
    load_checkpoint,
    q_sample,
    sample,
    to_model_range,
    train,
    training,
    training_steps,
)
from ddpm_core.training import learning_rate, read_log, shuffled, start

CPU = torch.device("cpu")
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(ddpm_core.__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


def pictures(n: int = 12, side: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 1, side, side), generator=generator(seed), dtype=torch.uint8
    )


def run(model, images, labels=None, **kwargs):
    """train() on the CPU in float32, without a bar or a warm-up."""
    return train(
        model,
        SHORT,
        images,
        labels,
        **{
            **dict(
                device="cpu",
                precision="float32",
                progress=False,
                warmup=0,
                batch_size=4,
            ),
            **kwargs,
        },
    )


@pytest.fixture
def batches(monkeypatch):
    """What Eq. (14) was asked about: (x0, t, eps) of every step."""
    seen = []

    def loss(model, schedule, x0, t, eps):
        seen.append((x0.clone(), t.clone(), eps.clone()))
        return (model(q_sample(schedule, x0, t, eps), t) - eps).square().mean()

    monkeypatch.setattr(training, "simple_loss", loss)
    return seen


def test_the_loss_falls_and_samples_show_the_data(tmp_path):
    """All images are one image, a bright square on dark ground; its samples must be bright where it is bright."""
    image = torch.full((1, 1, 8, 8), 30, dtype=torch.uint8)
    image[..., 2:6, 2:6] = 220
    model = run(
        small_unet(),
        image.expand(16, -1, -1, -1),
        steps=80,
        batch_size=8,
        lr=3e-3,
        ema=0.9,
        flip=False,
        out=tmp_path / "run",
        log_every=20,
    )
    losses = [line["loss"] for line in read_log(tmp_path / "run" / "log.jsonl")]
    assert len(losses) == 4 and losses[-1] < 0.5 * losses[0]
    x = sample(model, SHORT, (4, 1, 8, 8), generator=generator())
    bright = (image > 100).expand_as(x)
    assert x[bright].mean() > x[~bright].mean() + 0.5


def test_one_step_is_algorithm_1_with_adam(batches):
    """The first step of Adam moves a parameter by lr against its gradient's sign; the gradient from autograd on Eq. (14)."""
    model = Scale(0.5)
    state = start(model, CPU, "float32", 0.1)
    state = next(
        training_steps(
            state, SHORT, shuffled(pictures(), None, 4, 0), steps=10, lr=0.1, warmup=0
        )
    )
    x0, t, eps = batches[0]
    a = torch.tensor(0.5, requires_grad=True)
    loss = (a * q_sample(SHORT, x0, t, eps) - eps).square().mean()
    (grad,) = torch.autograd.grad(loss, a)
    assert_close(state.loss, loss.detach())
    assert_close(model.a.item(), 0.5 - 0.1 * grad.sign().item(), rtol=0, atol=1e-5)


def test_gradients_are_clipped_at_norm_one_and_adam_is_the_papers():
    model = nn.Linear(3, 3, bias=False)
    state = start(model, CPU, "float32", 1e-3)
    model.forward = lambda x, t: 1e3 * nn.functional.linear(x, model.weight)
    next(training_steps(state, SHORT, shuffled(pictures(4, 3), None, 4, 0), steps=1))
    assert_close(model.weight.grad.norm().item(), 1.0, rtol=1e-4, atol=0)
    group = state.optimizer.param_groups[0]
    assert (
        type(state.optimizer) is torch.optim.Adam
        and group["eps"] == 1e-8
        and group["betas"] == (0.9, 0.999)
        and group["weight_decay"] == 0
    )


def test_times_are_uniform_on_1_to_T_and_the_noise_is_normal(batches):
    run(Scale(), pictures(200, 2), steps=20, batch_size=200)
    t = torch.cat([t for _, t, _ in batches])
    assert t.min() == 1 and t.max() == SHORT.T
    assert stats.chisquare(torch.bincount(t, minlength=SHORT.T + 1)[1:]).pvalue > 1e-3
    eps = torch.cat([eps for *_, eps in batches]).flatten()
    assert stats.kstest(eps, "norm").pvalue > 1e-3
    assert len({e.sum().item() for *_, e in batches}) == 20  # new noise at every step


def test_every_image_of_an_epoch_is_seen_exactly_once_in_a_new_order(batches):
    n, side = 50, 2
    images = (
        torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, side, side)
    )
    for batch_size in (8, 50, 120):
        batches.clear()
        run(Scale(), images, steps=math.ceil(4 * n / batch_size), batch_size=batch_size)
        seen = torch.cat(
            [((x0[:, 0, 0, 0] + 1) * 127.5).round().long() for x0, *_ in batches]
        )
        epochs = seen[: 4 * n].view(4, n)
        assert (epochs.sort(1).values == torch.arange(n)).all()
        assert len({tuple(e.tolist()) for e in epochs}) == 4 and tuple(
            range(n)
        ) not in {tuple(e.tolist()) for e in epochs}


def test_labels_stay_with_their_images():
    images = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1)
    for _, (x, y) in zip(range(20), shuffled(images, torch.arange(50) * 3, 8, 0)):
        assert torch.equal(x.flatten() * 3, y)


def test_starting_in_the_middle_of_the_stream_is_the_same_stream():
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1)
    all_of_it = [
        x.flatten().tolist()
        for _, (x, _) in zip(range(20), shuffled(images, None, 4, 7))
    ]
    for k in (1, 2, 3, 11):
        assert (
            next(shuffled(images, None, 4, 7, start=k))[0].flatten().tolist()
            == all_of_it[k]
        )


@pytest.mark.parametrize("flip", [True, False])
def test_half_of_the_images_are_mirrored_left_to_right(batches, flip):
    n = 2000
    images = torch.tensor([[10, 20], [30, 40]], dtype=torch.uint8).expand(n, 1, 2, 2)
    run(Scale(), images, steps=1, batch_size=n, flip=flip)
    x0 = ((batches[0][0] + 1) * 127.5).round()
    mirrored = (x0[:, 0] == torch.tensor([[20, 10], [40, 30]])).all((1, 2))
    plain = (x0[:, 0] == torch.tensor([[10, 20], [30, 40]])).all((1, 2))
    assert (mirrored ^ plain).all()  # neither upside down nor anything else
    assert (
        abs(mirrored.sum() - n / 2) <= 4 * (n / 4) ** 0.5
        if flip
        else not mirrored.any()
    )


@pytest.mark.parametrize("drop", [0.0, 0.1, 1.0])
def test_labels_are_dropped_with_their_probability(drop):
    n, seen = 2000, []
    model = Scale(classes=3)
    model.register_forward_pre_hook(lambda m, a: seen.append(a[2]))
    labels = torch.arange(n) % 3
    run(
        model,
        torch.zeros(n, 1, 1, 1, dtype=torch.uint8),
        labels,
        steps=1,
        batch_size=n,
        drop_label=drop,
        seed=1,
    )
    (y,) = seen
    dropped = y == 3
    assert abs(dropped.sum() - drop * n) <= 4 * (drop * (1 - drop) * n) ** 0.5
    counts = torch.bincount(y[~dropped], minlength=3)
    assert drop == 1 or (counts - (1 - drop) * n / 3).abs().max() <= 4 * n**0.5 * 0.5


def test_ema_is_the_recursion_over_parameters():
    model = Scale(0.5)
    state = start(model, CPU, "float32", 0.1)
    average = 0.5
    for n, state in enumerate(
        training_steps(
            state, SHORT, shuffled(pictures(), None, 4, 0), steps=40, lr=0.1, ema=0.8
        )
    ):
        decay = min(0.8, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * state.model.a.item()
        assert_close(state.ema.a.item(), average, rtol=1e-5, atol=1e-6)
    assert abs(average - state.model.a.item()) > 1e-4 and not state.ema.a.requires_grad


class WithBuffers(Scale):
    """A network with state beside its parameters: a norm's running mean, and a table that must stay what it is."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.register_buffer("table", torch.tensor([0.1, 0.2]))

    def forward(self, x, t):
        return super().forward(self.norm(x), t)


def test_buffers_are_copied_not_averaged():
    model = WithBuffers()
    ema = run(model, pictures(), steps=5, ema=0.9)
    assert (
        torch.equal(ema.table, torch.tensor([0.1, 0.2]))
        and ema.norm.num_batches_tracked == 5
    )
    assert (
        torch.equal(ema.norm.running_mean, model.norm.running_mean)
        and model.norm.running_mean.abs() > 0
    )


def test_ema_zero_is_the_model_and_it_comes_back_in_eval_mode():
    model = small_unet(dropout=0.1)
    ema = run(model, pictures(), steps=3, ema=0.0)
    assert all(torch.equal(a, b) for a, b in zip(ema.parameters(), model.parameters()))
    assert not any(m.training for m in ema.modules()) and ema is not model


def test_dropout_is_on_while_training():
    model = Scale().eval()
    run(model, pictures(), steps=3)
    assert model.modes == [True] * 3


@pytest.mark.parametrize("warmup, decay", [(0, 0), (10, 0), (0, 20), (10, 20)])
def test_learning_rate(warmup, decay):
    rates = [learning_rate(n, 0.1, 100, warmup, decay) for n in range(100)]
    assert all(0 < r <= 0.1 for r in rates) and max(rates) == 0.1
    for n, r in enumerate(rates):
        assert_close(
            r,
            0.1
            * (min(1, (n + 1) / warmup) if warmup else 1)
            * (min(1, (100 - n) / decay) if decay else 1),
        )
    assert rates[40] == 0.1
    if warmup:
        assert_close(rates[0], 0.01) and rates[9] == 0.1
    if decay:
        assert (
            rates[80] == 0.1 and rates[81] < 0.1 and math.isclose(rates[99], 0.1 / 20)
        )


def test_the_learning_rate_is_used(tmp_path):
    run(
        Scale(),
        pictures(),
        steps=10,
        warmup=4,
        decay=4,
        lr=0.01,
        out=tmp_path / "r",
        log_every=1,
    )
    assert_close(
        [line["lr"] for line in read_log(tmp_path / "r" / "log.jsonl")],
        [learning_rate(n, 0.01, 10, 4, 4) for n in range(10)],
    )


def equal_checkpoints(a: Path, b: Path) -> None:
    a, b = (
        load_checkpoint(path, model=small_unet(dropout=0.3, classes=3), training=True)
        for path in (a, b)
    )
    assert a.step == b.step and a.training.keys() == b.training.keys()
    assert any(k.startswith("adam.exp_avg_sq.") for k in a.training) and any(
        k.startswith("model.") for k in a.training
    )
    for name in a.training:
        assert torch.equal(a.training[name], b.training[name]), name
    for (name, p), q in zip(a.model.named_parameters(), b.model.parameters()):
        assert torch.equal(p, q), name


def losses(folder: Path) -> list[tuple]:
    return [
        (line["step"], line["loss"], line["lr"])
        for line in read_log(folder / "log.jsonl")
    ]


@pytest.mark.parametrize("stop", [6, 7])
def test_resuming_is_exact(tmp_path, stop):
    """12 steps = 6 (or 7, in the middle of a line of the log) + resume + the rest, to the bit, with dropout, flips and labels."""
    images, labels = pictures(10), torch.arange(10) % 3
    args = dict(seed=5, lr=1e-2, ema=0.9, warmup=3, log_every=3, save_every=100)
    whole = run(
        small_unet(dropout=0.3, classes=3),
        images,
        labels,
        steps=12,
        out=tmp_path / "whole",
        **args,
    )
    run(
        small_unet(dropout=0.3, classes=3),
        images,
        labels,
        steps=stop,
        out=tmp_path / "parts",
        **args,
    )
    torch.manual_seed(99)  # nor does it matter what else the process draws
    other = small_unet(dropout=0.3, classes=3)
    nn.init.normal_(other.conv_in.weight)
    resumed = run(
        other, images, labels, steps=12, out=tmp_path / "parts", resume=True, **args
    )
    equal_checkpoints(tmp_path / "whole", tmp_path / "parts")
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters())
    )
    assert (
        losses(tmp_path / "whole") == losses(tmp_path / "parts")
        and len(losses(tmp_path / "whole")) == 4
    )


def test_two_runs_of_one_seed_are_one_run_and_another_seed_is_another(tmp_path):
    a, b, c = (
        run(small_unet(dropout=0.3), pictures(), steps=3, lr=1e-2, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(a.conv_in.weight, b.conv_in.weight) and not torch.equal(
        a.conv_in.weight, c.conv_in.weight
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_step_saves_and_goes_on_exactly(tmp_path, number):
    images, args = pictures(10), dict(steps=8, lr=1e-2, decay=4, log_every=2, ema=0.9)
    run(small_unet(), images, out=tmp_path / "whole", **args)
    model, handlers = (
        small_unet(),
        [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
    )
    calls = []

    def press(module, arguments):
        calls.append(arguments)
        if len(calls) == 5:
            os.kill(os.getpid(), number)

    hook = model.register_forward_pre_hook(press)
    with pytest.raises(
        KeyboardInterrupt, match="stopped after step 5; go on with resume=True"
    ):
        run(model, images, out=tmp_path / "parts", **args)
    hook.remove()
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert load_checkpoint(tmp_path / "parts").step == 5
    run(model, images, out=tmp_path / "parts", resume=True, **args)
    a, b = (load_checkpoint(tmp_path / name).model for name in ("whole", "parts"))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_the_callers_random_state_is_left_alone(tmp_path, untouched):
    run(Scale(), pictures(), steps=3, out=tmp_path / "r")


def test_only_the_newest_checkpoint_is_kept_with_settings_and_info(tmp_path):
    run(
        small_unet(),
        pictures(),
        steps=5,
        save_every=2,
        log_every=5,
        out=tmp_path / "r",
        info={"data": "noise"},
        seed=3,
    )
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        "log.jsonl",
        "step-00000005",
    ]
    checkpoint = load_checkpoint(tmp_path / "r")
    assert (
        checkpoint.info["data"] == "noise"
        and checkpoint.info["training"]["seed"] == 3
        and checkpoint.info["training"]["steps"] == 5
    )


def test_a_finished_run_is_not_trained_further_by_resuming(tmp_path):
    a = run(small_unet(), pictures(), steps=3, out=tmp_path / "r")
    b = run(small_unet(), pictures(), steps=3, out=tmp_path / "r", resume=True)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert load_checkpoint(tmp_path / "r").step == 3


def test_a_log_cut_short_by_a_crash_is_mended(tmp_path):
    run(small_unet(), pictures(), steps=4, out=tmp_path / "r", log_every=1)
    log = tmp_path / "r" / "log.jsonl"
    with log.open("a") as file:
        file.write(
            '{"step": 5, "loss": 0.5, "lr": 0.1, "seconds": 1.0}\n{"step": 6, "lo'
        )
    run(small_unet(), pictures(), steps=6, out=tmp_path / "r", resume=True, log_every=1)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


@pytest.mark.parametrize(
    "save_every, steps",
    [(2, 20), (100, 3), (100, 20)],
    ids=["between lines of the log", "at the end", "at a line"],
)
def test_a_diverged_run_is_reported_and_does_not_replace_a_good_checkpoint(
    tmp_path, save_every, steps
):
    images, model = pictures(), Scale()
    run(model, images, steps=1, out=tmp_path / "r")
    model.register_forward_hook(lambda m, a, out: out * float("nan"))
    with pytest.raises(ValueError, match="the loss is nan.*Lower lr"):
        run(
            model,
            images,
            steps=steps,
            out=tmp_path / "r",
            resume=True,
            save_every=save_every,
            log_every=10,
        )
    kept = load_checkpoint(tmp_path / "r", model=Scale())
    assert kept.step == 1 and kept.model.a.isfinite()


def test_nothing_is_written_when_the_arguments_do_not_fit(tmp_path):
    images, labels = pictures(), torch.arange(12) % 3
    for model, args in (
        (small_unet(), dict(labels=labels)),
        (small_unet(classes=2), dict(labels=labels)),
        (small_unet(channels=3), {}),
        (small_unet(8, 1, (1, 1, 1, 1)), dict(images=pictures(side=12))),
        (small_unet(), dict(drop_label=2.0)),
    ):
        with pytest.raises((ValueError, TypeError)):
            run(model, args.pop("images", images), steps=2, out=tmp_path / "r", **args)
        assert not (tmp_path / "r").exists(), args


def test_resuming_with_another_schedule_is_refused(tmp_path):
    run(small_unet(), pictures(), steps=1, out=tmp_path / "r")
    with pytest.raises(ValueError, match="schedule"):
        train(
            small_unet(),
            ddpm_core.linear_schedule(7),
            pictures(),
            steps=2,
            device="cpu",
            out=tmp_path / "r",
            resume=True,
            progress=False,
        )


@pytest.mark.parametrize("pairs", [False, True])
def test_a_loader_is_gone_through_again_and_again(pairs, batches):
    images, labels = pictures(6), torch.tensor([0, 1, 2, 0, 1, 2])
    data = torch.utils.data.TensorDataset(images, labels) if pairs else images
    run(
        Scale(classes=3),
        torch.utils.data.DataLoader(data, batch_size=3),
        steps=5,
        flip=False,
    )
    assert len(batches) == 5
    for i, (x0, *_) in enumerate(batches):
        assert_close(
            x0, to_model_range(images[3 * (i % 2) : 3 * (i % 2) + 3]), rtol=0, atol=0
        )


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_mixed_precision_keeps_float32_weights(tmp_path, precision):
    model = small_unet()
    seen = set()
    model.conv_in.register_forward_hook(lambda m, a, out: seen.add(out.dtype))
    ema = run(model, pictures(), steps=3, precision=precision, out=tmp_path / "r")
    assert seen == {getattr(torch, precision)}
    assert all(
        p.dtype == torch.float32 and p.isfinite().all()
        for p in [*model.parameters(), *ema.parameters()]
    )
    run(
        model, pictures(), steps=4, precision=precision, out=tmp_path / "r", resume=True
    )


def test_the_scaler_works_only_for_float16():
    assert start(Scale(), CPU, "float16", 1e-3).scaler.is_enabled()
    assert (
        not start(Scale(), CPU, "bfloat16", 1e-3).scaler.is_enabled()
        and not start(Scale(), CPU, "float32", 1e-3).scaler.is_enabled()
    )


KILLED = textwrap.dedent("""
    # Trains, is killed at a random moment, and resumes, again and again; each time the newest checkpoint must be whole.
    import os, random, signal, sys, time
    import torch
    from pathlib import Path
    from ddpm_core import Schedule, UNet, load_checkpoint, train
    from ddpm_core.training import read_log
    torch.set_num_threads(1)
    out, images = Path(sys.argv[1]), torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    random.seed(0)
    model, newest = UNet(8, 1, 32, (1,), 1, ()), 0
    for kill in range(2):
        child = os.fork()
        if child == 0:
            train(model, Schedule([0.1, 0.2]), images, steps=10**6, batch_size=2, save_every=1, log_every=1, out=out, resume=newest > 0,
                  device="cpu", precision="float32", progress=False)
        while not any(p.name > f"step-{newest:08d}" for p in out.glob("step-*")):
            time.sleep(0.001)
        time.sleep(random.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        checkpoint = load_checkpoint(out, training=True)
        assert checkpoint.step > newest and all(t.isfinite().all() for t in checkpoint.training.values())
        newest = checkpoint.step
        steps = [line["step"] for line in read_log(out / "log.jsonl")]
        assert steps == list(range(1, len(steps) + 1)) and len(steps) >= newest  # each step once: what was repeated replaced what was lost
    print("survived", len(list(out.glob(".step-*"))))
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
def test_kill_9_at_random_moments_leaves_the_newest_checkpoint_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "r")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.startswith("survived") and int(done.stdout.split()[1]) <= 1
    )  # what a kill left half-written is cleared away later


def test_a_ctrl_c_between_two_decisions_of_a_step_is_saved_too(tmp_path, monkeypatch):
    right = training.Log.write

    def write(self, step, loss, lr):
        right(self, step, loss, lr)
        if step == 3:
            os.kill(
                os.getpid(), signal.SIGINT
            )  # after it was decided that step 3 is not saved

    monkeypatch.setattr(training.Log, "write", write)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 4"):
        run(Scale(), pictures(), steps=9, out=tmp_path / "r", log_every=1)
    assert load_checkpoint(tmp_path / "r", model=Scale()).step == 4


def small(dropout: float = 0.3) -> nn.Module:
    torch.manual_seed(0)
    return ddpm_core.UNet(8, 1, 8, (1,), 1, (), dropout, groups=4)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_mixed_precision_is_resumed_exactly(tmp_path, precision):
    args = dict(precision=precision, lr=1e-2, save_every=100)
    whole = run(small(), pictures(), steps=6, out=tmp_path / "whole", **args)
    run(small(), pictures(), steps=3, out=tmp_path / "parts", **args)
    parts = run(
        small(), pictures(), steps=6, out=tmp_path / "parts", resume=True, **args
    )
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters())
    )
    scalers = [
        load_checkpoint(tmp_path / name).info["scaler"] for name in ("whole", "parts")
    ]
    assert scalers[0] == scalers[1] and bool(scalers[0]) == (precision == "float16")
    assert precision == "bfloat16" or scalers[0]["_growth_tracker"] == 6


def test_a_step_that_overflows_in_float16_is_left_out_and_the_scale_halved():
    """65536 times a loss of 1e35 is more than float32 holds, so the gradient is no number; such a step must change nothing."""
    factors = iter([1.0, 1e35, 1.0])
    objective = lambda *arguments: next(factors) * ddpm_core.simple_loss(*arguments)
    state = start(small(), CPU, "float16", 1e-3)
    steps = training_steps(
        state,
        SHORT,
        shuffled(pictures(), None, 4, 0),
        steps=3,
        warmup=0,
        precision="float16",
        objective=objective,
    )
    weights = lambda: [p.detach().clone() for p in state.model.parameters()]
    taken = lambda: {int(s["step"]) for s in state.optimizer.state.values()}
    next(steps)
    before, scale = weights(), state.scaler.get_scale()
    assert taken() == {1}
    next(steps)
    assert state.loss.isfinite() and not any(
        p.grad.isfinite().all() for p in state.model.parameters()
    )
    assert (
        all(torch.equal(a, b) for a, b in zip(before, weights()))
        and taken() == {1}
        and state.scaler.get_scale() == scale / 2
    )
    next(steps)
    assert not all(
        torch.equal(a, b) for a, b in zip(before, weights())
    ) and taken() == {2}
    assert all(
        p.isfinite().all() for p in [*state.model.parameters(), *state.ema.parameters()]
    )


def test_labels_from_a_loader_for_a_model_without_classes():
    with pytest.raises(
        ValueError, match="labels were given for a model without classes"
    ):
        run(small(), [(pictures(4), torch.zeros(4, dtype=torch.int64))], steps=1)


@contextmanager
def files_of_at_most(size: int):
    """The system refuses to write more to any file, as it does when the disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.skipif(
    resource is None, reason="this system cannot limit the size of files"
)
@pytest.mark.parametrize(
    "limit, name",
    [(20_000, "step-00000004"), (10, "log.jsonl")],
    ids=["checkpoint", "log"],
)
def test_a_full_disk_loses_nothing(tmp_path, limit, name):
    args = dict(lr=1e-2, save_every=2, log_every=1)
    whole = run(small(), pictures(), steps=6, out=tmp_path / "whole", **args)
    run(small(), pictures(), steps=2, out=tmp_path / "r", **args)
    before = {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()}
    with (
        files_of_at_most(limit),
        pytest.raises(
            OSError, match=f"{name} could not be written .*untouched. Free some space"
        ),
    ):
        run(small(), pictures(), steps=6, out=tmp_path / "r", resume=True, **args)
    for path, content in before.items():
        assert path.read_bytes().startswith(content)  # the log may have gained lines
    assert load_checkpoint(tmp_path / "r").step == 2
    resumed = run(small(), pictures(), steps=6, out=tmp_path / "r", resume=True, **args)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters())
    ) and losses(tmp_path / "r") == losses(tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == [
        "log.jsonl",
        "step-00000006",
    ]


def test_a_folder_that_cannot_be_written_to_is_noticed_before_the_first_step(
    tmp_path, batches, monkeypatch
):
    (tmp_path / "file").write_text("kept")
    for out in ("/proc/run", tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(OSError, match="cannot be written to .*wanted a folder"):
            run(Scale(), pictures(), steps=1, out=out)

    def refuse(**kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="r cannot be written to .*Read-only file system"):
        run(Scale(), pictures(), steps=1, out=tmp_path / "r")
    assert batches == [] and [p.name for p in tmp_path.iterdir()] == ["file"]


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(e.step, e.value) for e in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_tensorboard_shows_what_the_log_says_also_after_resuming(tmp_path):
    args = dict(log_every=1, save_every=2, tensorboard=True, warmup=3, lr=1e-2)
    run(Scale(), pictures(), steps=5, out=tmp_path / "r", **args)
    Path(tmp_path / "r" / "step-00000005").rename(tmp_path / "later")
    run(Scale(), pictures(), steps=2, out=tmp_path / "early", **args)
    (tmp_path / "early" / "step-00000002").rename(
        tmp_path / "r" / "step-00000002"
    )  # as if killed after the log's fifth line
    run(Scale(), pictures(), steps=6, out=tmp_path / "r", resume=True, **args)
    shown, lines = (
        events(tmp_path / "r" / "tensorboard"),
        read_log(tmp_path / "r" / "log.jsonl"),
    )
    assert (
        [step for step, _ in shown["loss"]]
        == [1, 2, 3, 4, 5, 6]
        == [line["step"] for line in lines]
    )
    for tag in ("loss", "lr"):
        assert_close(
            [value for _, value in shown[tag]],
            [line[tag] for line in lines],
            rtol=1e-5,
            atol=1e-6,
        )
    run(Scale(), pictures(), steps=2, tensorboard=tmp_path / "board", log_every=1)
    assert len(events(tmp_path / "board")["loss"]) == 2


def test_tensorboard_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="tensorboard=True needs out="):
        run(Scale(), pictures(), steps=1, tensorboard=True)
    with pytest.raises(
        ValueError, match="labels were given for a model without classes"
    ):
        run(
            small(),
            [(pictures(4), torch.zeros(4, dtype=torch.int64))],
            steps=1,
            out=tmp_path / "r",
            tensorboard=True,
        )
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        FileNotFoundError,
        match="tensorboard, which is not installed; run: pip install tensorboard",
    ):
        run(Scale(), pictures(), steps=1, tensorboard=True, out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
    run(Scale(), pictures(), steps=1)  # and nobody else needs it


def test_ctrl_c_in_ddpm_train_leaves_a_resumable_checkpoint_and_status_130(tmp_path):
    from PIL import Image

    from ddpm_core.cli import main

    for i, image in enumerate(pictures(8)):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{i}.png")
    command = [
        "train",
        "--data",
        f"folder:{tmp_path}",
        "--out",
        str(tmp_path / "run"),
        "--multipliers",
        "1",
        "--attention",
        "--T",
        "10",
        "--batch-size",
        "4",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "ddpm_core", *command, "--steps", "1000000"],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        shown = ""
        while (
            "/1000000" not in shown and process.poll() is None
        ):  # the bar is there: the first step has begun
            shown += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "stopped after step" in errors and "Traceback" not in errors
    step = load_checkpoint(tmp_path / "run").step
    assert step >= 1
    assert main([*command, "--steps", str(step + 2), "--resume"]) == 0
    assert load_checkpoint(tmp_path / "run").step == step + 2


# --- an error costs no more than Ctrl-C ------------------------------------------------


def test_one_truncated_picture_met_late_costs_no_step(tmp_path, capfd):
    """Streamed, as the command line does; the pictures are read when they are due."""
    from PIL import Image

    from ddpm_core.cli import main

    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(pictures(12)):
        Image.fromarray(image[0].numpy()).save(folder / f"{i:02d}.png")
    late = next(streams_order(12, 4, seed=0, step=2))[1]  # in the third batch
    whole = (folder / f"{late:02d}.png").read_bytes()
    (folder / f"{late:02d}.png").write_bytes(whole[:60])
    command = (
        f"train --data folder:{folder} --stream --out {tmp_path / 'r'} --steps 5 "
        "--multipliers 1 --width 8 --groups 4 --attention --T 10 --batch-size 4 "
        "--device cpu --precision float32"
    ).split()
    assert main(command) == 2
    errors = capfd.readouterr().err
    assert f"{late:02d}.png cannot be read" in errors
    assert "step 2 is saved; go on with resume=True" in errors
    assert load_checkpoint(tmp_path / "r").step == 2
    (folder / f"{late:02d}.png").write_bytes(whole)
    assert main([*command, "--resume"]) == 0
    assert (
        main([w.replace(str(tmp_path / "r"), str(tmp_path / "w")) for w in command])
        == 0
    )
    a, b = (load_checkpoint(tmp_path / name).model for name in "rw")
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def streams_order(n, batch_size, seed, step):
    from ddpm_core.streams import order

    return (numbers.tolist() for numbers in order(n, batch_size, seed, step))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_in_a_loader_costs_no_step(tmp_path, workers):
    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 16

        def __getitem__(self, i):
            if i == 13:
                raise OSError("the network share is gone")
            return pictures(16)[i]

    loader = torch.utils.data.DataLoader(Data(), batch_size=4, num_workers=workers)
    with pytest.raises(OSError, match="the network share is gone"):
        run(small(), loader, steps=9, out=tmp_path / "r")
    assert load_checkpoint(tmp_path / "r").step == 3


# --- what was accepted can be used -----------------------------------------------------


@pytest.mark.parametrize("wrapper", ["compiled", "parallel", "parallel of compiled"])
def test_a_wrapped_network_trains_saves_samples_and_resumes(tmp_path, wrapper, capfd):
    from ddpm_core.cli import main

    # without dropout, whose masks a compiled network draws in another order
    wraps = {
        "compiled": lambda net: torch.compile(net, backend="aot_eager"),
        "parallel": nn.DataParallel,
        "parallel of compiled": lambda net: nn.DataParallel(
            torch.compile(net, backend="aot_eager")
        ),
    }
    wrap = wraps[wrapper]
    plain = run(small(0.0), pictures(), steps=4, lr=1e-2, seed=3)
    run(wrap(small(0.0)), pictures(), steps=2, lr=1e-2, seed=3, out=tmp_path / "r")
    average = run(
        wrap(small(0.0)),
        pictures(),
        steps=4,
        lr=1e-2,
        seed=3,
        out=tmp_path / "r",
        resume=True,
    )
    assert type(average) is ddpm_core.UNet
    for a, b in zip(plain.parameters(), average.parameters()):
        assert_close(a, b, rtol=1e-3, atol=1e-5)
    kept = load_checkpoint(tmp_path / "r")
    assert all(
        torch.equal(a, b) for a, b in zip(kept.model.parameters(), average.parameters())
    )
    assert main(f"sample {tmp_path / 'r'} -n 1 --out {tmp_path / 'a.png'}".split()) == 0
    # and a run that was wrapped goes on without
    run(
        small(0.0),
        pictures(),
        steps=5,
        out=tmp_path / "r",
        resume=True,
        seed=3,
        lr=1e-2,
    )


def test_a_compiled_network_inside_of_another_model(tmp_path):
    """The names of its weights and moments are those that it has on its own."""
    mu = lambda net: ddpm_core.as_eps_model(net, SHORT, "mu")
    compiled = lambda: torch.compile(small(0.0), backend="aot_eager")
    args = dict(lr=1e-2, seed=3, out=tmp_path / "r")
    run(mu(compiled()), pictures(), steps=2, **args)
    run(mu(small(0.0)), pictures(), steps=3, resume=True, **args)
    average = run(mu(compiled()), pictures(), steps=4, resume=True, **args)
    plain = run(mu(small(0.0)), pictures(), steps=4, lr=1e-2, seed=3)
    for a, b in zip(plain.parameters(), average.parameters()):
        assert_close(a, b, rtol=1e-3, atol=1e-5)
    kept = load_checkpoint(tmp_path / "r", training=True)
    assert not [name for name in kept.training if "_orig_mod" in name]


def test_ddp_around_a_network_is_taken_off(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(small())
        a = run(wrapped, pictures(), steps=3, lr=1e-2, out=tmp_path / "r")
    finally:
        torch.distributed.destroy_process_group()
    b = run(small(), pictures(), steps=3, lr=1e-2)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert load_checkpoint(tmp_path / "r").step == 3


def test_frozen_layers_are_resumed(tmp_path):
    def network():
        model = small()
        model.embed_time.requires_grad_(False)
        return model

    args = dict(lr=1e-2, save_every=100)
    whole = run(network(), pictures(), steps=6, out=tmp_path / "whole", **args)
    run(network(), pictures(), steps=3, out=tmp_path / "r", **args)
    parts = run(network(), pictures(), steps=6, out=tmp_path / "r", resume=True, **args)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters())
    )
    assert torch.equal(
        parts.embed_time.linear_1.weight, small().embed_time.linear_1.weight
    )


# --- usual inputs ----------------------------------------------------------------------


def test_lists_of_one_tensor_are_batches(batches):
    images = pictures(6)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images), batch_size=3
    )
    run(Scale(), loader, steps=2, flip=False, batch_size=3)
    for i, (x0, *_) in enumerate(batches):
        assert torch.equal(x0, to_model_range(images[3 * i : 3 * i + 3]))


@pytest.mark.parametrize(
    "batch, phrase",
    [
        ((), "a batch of the loader has 0 parts"),
        ((pictures(4), None, None), "a batch of the loader has 3 parts"),
        ({"image": pictures(4)}, "images are a builtins.dict; wanted a uint8"),
        ([pictures(4), [0, 1, 2, 3]], "wanted a LongTensor"),
    ],
)
def test_batches_that_are_none(batch, phrase):
    with pytest.raises((ValueError, TypeError), match=phrase):
        run(Scale(classes=4), [batch], steps=1)


# --- accumulated gradients, pictures on the way ----------------------------------------


def test_algorithm_1_accumulated_is_algorithm_1():
    """Images, times, noise, flips and dropped labels are drawn for the whole batch."""
    found = []
    for accumulate in (1, 2, 3):
        torch.manual_seed(0)
        model = ddpm_core.UNet(8, 1, 8, (1,), 1, (), 0.0, classes=3, groups=4)
        average = run(
            model,
            pictures(),
            torch.arange(12) % 3,
            steps=3,
            batch_size=8,
            lr=1e-3,
            drop_label=0.4,
            accumulate=accumulate,
        )
        found.append([*model.parameters(), *average.parameters()])
    for other in found[1:]:
        for p, q in zip(found[0], other):
            # Adam divides by the gradient's own size: some units of the last place
            assert_close(p, q, rtol=1e-3, atol=2e-5)


def test_accumulate_is_a_whole_number_at_most_the_batch():
    for accumulate, phrase in ((0, "more than 0"), (1.5, "whole number"), (5, "of 4;")):
        with pytest.raises(ValueError, match=f"accumulate = {accumulate}.*{phrase}"):
            run(Scale(), pictures(), steps=1, accumulate=accumulate)


@pytest.mark.parametrize("classes", [None, 3])
def test_samples_on_the_way_change_nothing(tmp_path, classes, untouched):
    from PIL import Image

    def network():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return ddpm_core.UNet(8, 1, 8, (1,), 1, (), 0.3, classes, groups=4)

    labels = None if classes is None else torch.arange(12) % 3
    args = dict(steps=4, lr=1e-2)
    a = run(network(), pictures(), labels, **args)
    b = run(network(), pictures(), labels, out=tmp_path, sample_every=2, **args)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    found = sorted((tmp_path / "samples").iterdir())
    assert [p.name for p in found] == ["step-00000002.png", "step-00000004.png"]
    assert Image.open(found[0]).size[0] >= 4 * 8
    assert found[0].read_bytes() != found[1].read_bytes()


def test_settings_in_an_object(tmp_path):
    from ddpm_core.training import Training

    how = Training(
        steps=3, batch_size=4, lr=1e-2, warmup=0, device="cpu", precision="float32"
    )
    a = train(small(), SHORT, pictures(), how=how, progress=False)
    b = run(small(), pictures(), steps=3, lr=1e-2)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    with pytest.raises(TypeError, match="flips is no argument; wanted some of acc"):
        run(small(), pictures(), steps=3, flips=True)
