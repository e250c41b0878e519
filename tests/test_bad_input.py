"""What a user may get wrong, in Python and in the shell: the error's type, a phrase with what was given or wanted, and that no file changed.

Each case runs in a folder that holds what a user may lose: runs, exported weights, pictures, results. After it all are there to the byte,
and nothing half-written beside them.
"""

import errno
import json
import pickle
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratory import SHORT, Scale, generator, small_unet
from PIL import Image
from test_training import files_of_at_most, resource

import ddpm_core as ddpm
from ddpm_core import after
from ddpm_core.cli import main
from ddpm_core.streams import load_stream

X = torch.zeros(3, 1, 8, 8)
NAN = X / 0
BLACK = X - 1  # on the 8-bit grid
U8 = X.to(torch.uint8)
RGBA = U8.expand(3, 4, 8, 8)
LABELS = torch.tensor([0, 1, 2])
PLAIN = dict(device="cpu", precision="float32", batch_size=2, progress=False)


def tiny(width: int = 8, classes: int | None = None) -> ddpm.UNet:
    """Files of it are small: all of them are read before and after each case."""
    return ddpm.UNet(8, 1, width, (1,), 1, (), 0.0, classes, groups=4)


NET, CLASSES = tiny(), tiny(classes=3)
long = torch.tensor


def trains(model=NET, images=U8, labels=None, **kwargs):
    return lambda: ddpm.train(
        model, SHORT, images, labels, **{**PLAIN, "steps": 1, **kwargs}
    )


def on_a_full_disk(call, at_most: int = 10):
    def full():
        with files_of_at_most(at_most):
            call()

    return pytest.param(
        full,
        OSError,
        "No space left on device" if resource is None else "could not be written",
        marks=FULL,
    )


def stopped(*arguments):
    raise KeyboardInterrupt("Ctrl-C")


FULL = pytest.mark.skipif(
    resource is None, reason="this system cannot limit the size of files"
)


HALF, PAIR = torch.arange(8) < 4, torch.ones(1, 2)


def paints(known=X, mask=HALF, *args, model=NET, **kwargs):
    return lambda: list(after.inpaint_steps(model, SHORT, known, mask, *args, **kwargs))


def measures(A=PAIR, y=X[:, 0, 0, :1], var=0.1, spread=1.0):
    points = torch.zeros(3, 2)
    return lambda: after.observation_gradient(lambda x, t: x, SHORT, A, y, var, spread)(
        points, 3
    )


def judges(*shape: int, labels=LABELS):
    answer = lambda x, t: torch.zeros(shape) + 0 * x.sum()
    return lambda: after.classifier_gradient(answer, labels)(X, LABELS + 1)


def flows(*args, model=NET, x=X):
    return lambda: list(after.flow(model, SHORT, x, *args))


def walks(**kwargs):
    return lambda: list(after.annealed_langevin(NET, SHORT, X.shape, **kwargs))


def samples(*args, model=NET, shape=(3, 1, 8, 8), **kwargs):
    return lambda: ddpm.sample(model, *(args or (SHORT,)), shape, **kwargs)


TABLE = [
    # schedules
    (lambda: ddpm.Schedule([]), ValueError, "wanted one dimension with T entries"),
    (lambda: ddpm.Schedule(torch.zeros(3, 3)), ValueError, "beta has shape (3, 3)"),
    (lambda: ddpm.Schedule([0.0]), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.Schedule([0.1, 1.0]), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.Schedule([0.1, -0.1]), ValueError, "strictly between 0 and 1"),
    (
        lambda: ddpm.Schedule([0.1, float("nan")]),
        ValueError,
        "strictly between 0 and 1",
    ),
    (lambda: ddpm.Schedule([0.1, 0.0, 0.1]), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.Schedule("linear"), TypeError, "beta"),
    (lambda: ddpm.Schedule([1e-18, 0.1]), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.Schedule([0.999] * 200), ValueError, "alpha_bar_T"),
    (
        lambda: ddpm.linear_schedule(0),
        ValueError,
        "T = 0; wanted a whole number of steps, at least 1",
    ),
    (lambda: ddpm.linear_schedule(10.0), ValueError, "T = 10.0; wanted a whole number"),
    (
        lambda: ddpm.linear_schedule(10, 0.0, 0.02),
        ValueError,
        "strictly between 0 and 1",
    ),
    (lambda: ddpm.linear_schedule(10, 1e-4, 2), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.cosine_schedule(True), ValueError, "T = True; wanted a whole number"),
    (lambda: ddpm.cosine_schedule(-3), ValueError, "T = -3"),
    (lambda: ddpm.Schedule([0.1], alpha=0.5), TypeError, "alpha"),
    # models that are told something
    (
        lambda: ddpm.given(None, LABELS),
        TypeError,
        "model is a NoneType; wanted a callable model(x_t, t, ...)",
    ),
    (
        lambda: ddpm.guided(NET, "much", LABELS),
        TypeError,
        "guidance = 'much'; wanted a finite number",
    ),
    (lambda: ddpm.guided(NET, True, LABELS), TypeError, "guidance = True"),
    (lambda: ddpm.guided(NET, LABELS, None, 3.0), TypeError, "guidance = tensor("),
    (
        lambda: ddpm.guided(NET, SHORT, lambda x, t: x),
        TypeError,
        "guidance = Schedule(",
    ),
    # times
    (
        lambda: ddpm.q_sample(SHORT, X, 0, X),
        ValueError,
        "t = 0; wanted the paper's time, 1..20",
    ),
    (
        lambda: ddpm.q_sample(SHORT, X, 21, X),
        ValueError,
        "t = 21; wanted the paper's time, 1..20",
    ),
    (lambda: ddpm.q_sample(SHORT, X, -1, X), ValueError, "t = -1"),
    (
        lambda: ddpm.q_sample(SHORT, X, 1.0, X),
        TypeError,
        "t is a float; wanted an int or a LongTensor (B,)",
    ),
    (lambda: ddpm.q_sample(SHORT, X, True, X), TypeError, "t is a bool"),
    (lambda: ddpm.q_sample(SHORT, X, [1, 2, 3], X), TypeError, "t is a list"),
    (
        lambda: ddpm.q_sample(SHORT, X, long([0, 1, 2]), X),
        ValueError,
        "t runs from 0 to 2; wanted the paper's time, 1..20",
    ),
    (
        lambda: ddpm.q_sample(SHORT, X, long([1, 2, 21]), X),
        ValueError,
        "t runs from 1 to 21",
    ),
    (
        lambda: ddpm.q_sample(SHORT, X, long([1.0, 2, 3]), X),
        TypeError,
        "t has dtype torch.float32",
    ),
    (
        lambda: ddpm.q_sample(SHORT, X, long([[1], [2], [3]]), X),
        TypeError,
        "shape (3, 1)",
    ),
    (
        lambda: ddpm.q_sample(SHORT, X, long([1, 2]), X),
        ValueError,
        "t has 2 entries for a batch of 3",
    ),
    (lambda: NET(X, 0), ValueError, "t = 0; wanted the paper's time"),
    (lambda: NET(X, long([0, 1, 2])), ValueError, "t runs from 0 to 2"),
    (
        lambda: ddpm.q_step(SHORT, X, 0, X),
        ValueError,
        "t = 0; wanted the paper's time, 1..20",
    ),
    (lambda: ddpm.q_posterior(SHORT, X, X, 21), ValueError, "t = 21"),
    (lambda: ddpm.predict_x0(SHORT, X, 0, X), ValueError, "t = 0"),
    (
        lambda: ddpm.reverse_mean(SHORT, X, long([1, 2, 30]), X),
        ValueError,
        "t runs from 1 to 30",
    ),
    (lambda: ddpm.simple_loss(NET, SHORT, X, 0, X), ValueError, "t = 0"),
    (lambda: ddpm.eps_error(NET, SHORT, X, 21, X), ValueError, "t = 21"),
    (lambda: ddpm.mu_error(NET, SHORT, X, 21, X), ValueError, "t = 21"),
    (lambda: ddpm.x0_error(NET, SHORT, X, -1, X), ValueError, "t = -1"),
    (lambda: ddpm.bound_loss(NET, SHORT, BLACK, 21, X), ValueError, "t = 21"),
    (lambda: ddpm.linear_schedule(-1), ValueError, "T = -1"),
    (
        lambda: ddpm.linear_schedule(10, "1e-4", 0.02),
        TypeError,
        "beta_1 = '1e-4', beta_T = 0.02; wanted two numbers",
    ),
    (lambda: ddpm.linear_schedule(10, float("nan"), 0.02), ValueError, "beta_1 = nan"),
    # images and noise
    (lambda: ddpm.q_step(SHORT, NAN, 1, X), ValueError, "x_prev contains NaN"),
    (lambda: ddpm.q_sample(SHORT, X, 1, NAN), ValueError, "eps contains NaN"),
    (lambda: ddpm.q_posterior(SHORT, X, NAN, 1), ValueError, "x_t contains NaN"),
    (
        lambda: ddpm.predict_x0(SHORT, X, 1, NAN),
        ValueError,
        "eps contains NaN; wanted numbers. A model that answers NaN has usually diverged",
    ),
    (lambda: ddpm.reverse_mean(SHORT, NAN, 1, X), ValueError, "x_t contains NaN"),
    (lambda: ddpm.simple_loss(NET, SHORT, NAN, 1, X), ValueError, "x0 contains NaN"),
    (
        lambda: ddpm.mu_error(lambda x, t: NAN, SHORT, X, 1, X),
        ValueError,
        "eps contains NaN",
    ),
    (
        lambda: ddpm.x0_error(NET, SHORT, X, 1, X[:, :, :2]),
        ValueError,
        "eps has shape (3, 1, 2, 8) but x0 has (3, 1, 8, 8)",
    ),
    (
        lambda: ddpm.simple_loss(None, SHORT, X, 1, X),
        TypeError,
        "model is a NoneType; wanted a callable model(x_t, t) -> eps_hat",
    ),
    (
        lambda: ddpm.simple_loss(lambda x, t: None, SHORT, X, 1, X),
        TypeError,
        "the model returned a NoneType; wanted eps_hat, a tensor",
    ),
    # the bound: see also test_bound.py
    (
        lambda: ddpm.decoder_log_likelihood(X + 0.3, X, 0.1),
        ValueError,
        "x0 has values off the 8-bit grid",
    ),
    (
        lambda: ddpm.decoder_log_likelihood(BLACK - 2 / 255, X, 0.1),
        ValueError,
        "x0 has values off the 8-bit grid",
    ),
    (
        lambda: ddpm.decoder_log_likelihood(U8, X, 0.1),
        TypeError,
        "x0 is a torch.uint8; wanted floats: to_model_range()",
    ),
    (
        lambda: ddpm.decoder_log_likelihood(BLACK.numpy(), X, 0.1),
        TypeError,
        "x0 is a float32; wanted floats",
    ),
    (lambda: ddpm.decoder_log_likelihood(NAN, X, 0.1), ValueError, "(or NaN)"),
    (
        lambda: ddpm.decoder_log_likelihood(BLACK, NAN, 0.1),
        ValueError,
        "mean contains NaN",
    ),
    (
        lambda: ddpm.decoder_log_likelihood(BLACK, X[:, :, :3], 0.1),
        ValueError,
        "mean has shape (3, 1, 3, 8) but x0 has (3, 1, 8, 8)",
    ),
    (
        lambda: ddpm.decoder_log_likelihood(BLACK, X, 0.0),
        ValueError,
        "std = 0.0 at its smallest; wanted a standard deviation above 0",
    ),
    (lambda: ddpm.decoder_log_likelihood(BLACK, X, -1.0), ValueError, "std = -1.0"),
    (
        lambda: ddpm.decoder_log_likelihood(BLACK, X, float("nan")),
        ValueError,
        "std = nan",
    ),
    (
        lambda: ddpm.bits_per_dim(NET, None, BLACK),
        TypeError,
        "schedule is a NoneType; wanted a Schedule",
    ),
    (
        lambda: ddpm.bits_per_dim(NET, SHORT, U8),
        TypeError,
        "x0 has dtype torch.uint8; wanted floats",
    ),
    (lambda: ddpm.bits_per_dim(NET, SHORT, X + 0.3), ValueError, "off the 8-bit grid"),
    (lambda: ddpm.bits_per_dim(NET, SHORT, NAN), ValueError, "(or NaN)"),
    (
        lambda: ddpm.bits_per_dim(NET, SHORT, BLACK, variance="small"),
        ValueError,
        "variance = 'small'",
    ),
    (
        lambda: ddpm.bits_per_dim(lambda x, t: NAN, SHORT, BLACK),
        ValueError,
        "eps contains NaN",
    ),
    (
        lambda: ddpm.bits_per_dim(NET, SHORT, BLACK, "learned"),
        ValueError,
        "as UNet(learn_variance=True) gives it",
    ),
    (
        lambda: ddpm.bits_per_dim_estimate(NET, SHORT, BLACK, evaluations=5),
        ValueError,
        "evaluations = 5; wanted an even number",
    ),
    (
        lambda: ddpm.bound_loss(NET, SHORT, X + 0.3, 1, X),
        ValueError,
        "off the 8-bit grid",
    ),
    (
        lambda: ddpm.choose_objective("score"),
        ValueError,
        'prediction = \'score\'; wanted "eps", "mu" or "x0"',
    ),
    (
        lambda: ddpm.choose_objective("eps", "hybrid"),
        ValueError,
        'objective = \'hybrid\'; wanted "simple" or "bound"',
    ),
    (lambda: ddpm.as_eps_model(NET, SHORT, "v"), ValueError, "prediction = 'v'"),
    (
        lambda: ddpm.q_step(None, X, 1, X),
        TypeError,
        "schedule is a NoneType; wanted a Schedule",
    ),
    (
        lambda: ddpm.q_step(SHORT, U8, 1, X),
        TypeError,
        "x_prev has dtype torch.uint8; wanted floats: to_model_range()",
    ),
    (
        lambda: ddpm.q_step(SHORT, X.numpy(), 1, X),
        TypeError,
        "x_prev is a ndarray; wanted a float tensor",
    ),
    (
        lambda: ddpm.q_sample(SHORT, X, 1, X[:2]),
        ValueError,
        "eps has shape (2, 1, 8, 8) but x0 has (3, 1, 8, 8)",
    ),
    (
        lambda: ddpm.q_sample(SHORT, X, 1, torch.zeros(1)),
        ValueError,
        "wanted the same shape",
    ),
    (
        lambda: ddpm.q_posterior(SHORT, X, X[..., :4], 1),
        ValueError,
        "x_t has shape (3, 1, 8, 4) but x0 has (3, 1, 8, 8)",
    ),
    (
        lambda: ddpm.predict_x0(SHORT, X, 1, X[:, :, 0]),
        ValueError,
        "eps has shape (3, 1, 8) but x_t has (3, 1, 8, 8)",
    ),
    (
        lambda: ddpm.reverse_mean(SHORT, X, 1, U8),
        TypeError,
        "eps has dtype torch.uint8",
    ),
    (
        lambda: ddpm.simple_loss(lambda x, t: x[:, :, :4], SHORT, X, 1, X),
        ValueError,
        "the model returned shape (3, 1, 4, 8)",
    ),
    (
        lambda: ddpm.simple_loss(NET, SHORT, U8, 1, X),
        TypeError,
        "x0 has dtype torch.uint8",
    ),
    # the network
    (
        lambda: ddpm.UNet(28),
        ValueError,
        "image_size = 28 cannot be halved 3 times, as 4 multipliers ask; wanted at most 3 multipliers",
    ),
    (
        lambda: ddpm.UNet(32, width=100),
        ValueError,
        "width = 100; wanted a multiple of 32",
    ),
    (lambda: ddpm.UNet(32, multipliers=()), ValueError, "wanted at least one"),
    (
        lambda: ddpm.UNet(32, multipliers=(1, 0)),
        ValueError,
        "wanted at least one, each at least 1",
    ),
    (lambda: ddpm.UNet(32, channels=0), ValueError, "channels = 0"),
    (lambda: ddpm.UNet(32, blocks=0), ValueError, "blocks = 0"),
    (lambda: ddpm.UNet(0), ValueError, "image_size = 0"),
    (
        lambda: ddpm.UNet(32, width=32, multipliers=(1,), attention=(16,)),
        ValueError,
        "attention at side [16] but the levels have sides [32]",
    ),
    (
        lambda: ddpm.UNet(32, width=32, dropout=1.0),
        ValueError,
        "dropout = 1.0; wanted a probability",
    ),
    (
        lambda: ddpm.UNet(32, width=32, classes=0),
        ValueError,
        "classes = 0; wanted None or the number of labels",
    ),
    (
        lambda: NET(U8, 1),
        TypeError,
        "x_t is torch.uint8; wanted a float tensor (B, 1, H, W)",
    ),
    (
        lambda: NET(X.expand(3, 3, 8, 8), 1),
        ValueError,
        "x_t has shape (3, 3, 8, 8); wanted (B, 1, H, W)",
    ),
    (lambda: NET(X[0], 1), ValueError, "x_t has shape (1, 8, 8)"),
    (
        lambda: small_unet(8, 1, (1, 1))(X[..., :7], 1),
        ValueError,
        "images of 8 x 7 pixels cannot be halved 1 times; wanted sides divisible by 2",
    ),
    (lambda: NET(X, long([1, 2])), ValueError, "t has 2 entries for a batch of 3"),
    (
        lambda: NET(X, 1, LABELS),
        ValueError,
        "labels were given to a model without classes",
    ),
    (
        lambda: CLASSES(X, 1, long([0, 1, 4])),
        ValueError,
        "labels run from 0 to 4; wanted 0..2, or 3 for no label",
    ),
    (lambda: CLASSES(X, 1, long([0, -1, 1])), ValueError, "labels run from -1 to 1"),
    (lambda: CLASSES(X, 1, long([0.0, 1, 2])), ValueError, "wanted a LongTensor (3,)"),
    (lambda: CLASSES(X, 1, long([0, 1])), ValueError, "labels have shape (2,)"),
    (
        lambda: CLASSES(X, 1, [0, 1, 2]),
        TypeError,
        "labels are a list; wanted a LongTensor (3,)",
    ),
    # sampling
    (samples(None), TypeError, "schedule is a NoneType; wanted a Schedule"),
    (
        samples(steps=0),
        ValueError,
        "steps = 0; wanted None, or a whole number from 1 to T = 20",
    ),
    (samples(steps=21), ValueError, "steps = 21"),
    (
        lambda: ddpm.Sampling(sampler="ddim", eta=2),
        ValueError,
        "eta = 2 for sampler 'ddim'; wanted a number from 0 (no noise) to 1",
    ),
    (samples(threshold=0.9), TypeError, "threshold = 0.9; wanted a function"),
    (samples(steps=-5), ValueError, "steps = -5"),
    (samples(model=None), TypeError, "model is a NoneType; wanted a callable"),
    (samples(model=lambda x, t: None), TypeError, "the model returned a NoneType"),
    (samples(model=lambda x, t: x / 0 * 0), ValueError, "eps contains NaN"),
    (samples(x_T=NAN), ValueError, "x_t contains NaN"),
    (samples(model=stopped), KeyboardInterrupt, "Ctrl-C"),
    (
        lambda: next(ddpm.sample_steps(NET, SHORT, (3, 1, 8, 8), steps=0)),
        ValueError,
        "steps = 0",
    ),
    (
        lambda: next(ddpm.sample_steps(NET, SHORT, (3, 1, 8, 8), sampler="euler")),
        ValueError,
        "sampler = 'euler'",
    ),
    (samples(steps=2.0), ValueError, "steps = 2.0"),
    (samples(steps="ten"), ValueError, "steps = 'ten'"),
    (samples(precision="half"), ValueError, "precision = 'half'; wanted \"auto\""),
    (
        samples(model=lambda x, t: x, precision="bfloat16"),
        ValueError,
        "precision = 'bfloat16' for a function; wanted \"auto\"",
    ),
    (
        samples(model=lambda x, t: x, compile=True),
        ValueError,
        "compile = True for a function; wanted a UNet",
    ),
    (
        samples(model=CLASSES, labels=LABELS, guidance=float("nan")),
        TypeError,
        "guidance = nan; wanted a finite number",
    ),
    (
        samples(model=CLASSES, labels=LABELS, guidance="much"),
        TypeError,
        "guidance = 'much'; wanted a finite number",
    ),
    (
        lambda: ddpm.respace(SHORT, 3, "even"),
        ValueError,
        'spacing = \'even\'; wanted "time" or "snr"',
    ),
    (
        trains(model=None),
        TypeError,
        "model is a NoneType; wanted an nn.Module with parameters",
    ),
    (
        lambda: ddpm.train(NET, None, U8, steps=1, **PLAIN),
        TypeError,
        "schedule is a NoneType; wanted a Schedule",
    ),
    (trains(objective="simple"), TypeError, "objective = 'simple'; wanted a function"),
    (trains(seed="x"), TypeError, "seed = 'x'; wanted a whole number"),
    (
        lambda: NET(torch.full((1, 1, 8, 8), float("nan")), 1),
        ValueError,
        "x_t contains NaN",
    ),
    (lambda: ddpm.UNet("32"), TypeError, "image_size = '32'; wanted a whole number"),
    (lambda: ddpm.UNet(32.0), TypeError, "image_size = 32.0; wanted a whole number"),
    (
        lambda: ddpm.UNet(multipliers=2),
        TypeError,
        "multipliers = 2; wanted whole numbers, such as (1, 2, 2)",
    ),
    (
        lambda: ddpm.UNet(multipliers=(1, 1.5)),
        TypeError,
        "multipliers = (1, 1.5); wanted whole numbers",
    ),
    (
        samples(sampler="euler"),
        ValueError,
        'sampler = \'euler\'; wanted "ddpm", "ddim" or "dpm"',
    ),
    (
        samples(variance="guessed"),
        ValueError,
        'variance = \'guessed\'; wanted "beta", "beta_tilde" or "learned"',
    ),
    (
        samples(shape=(0, 1, 8, 8)),
        ValueError,
        "shape = (0, 1, 8, 8); wanted whole numbers, at least 1",
    ),
    (samples(shape=(2.0, 1)), ValueError, "wanted whole numbers"),
    (samples(shape=()), ValueError, "shape = ()"),
    (
        samples(shape=4),
        ValueError,
        "wanted whole numbers, at least 1, such as (16, 1, 28, 28)",
    ),
    (
        samples(generator=0),
        TypeError,
        "generator = 0; wanted a torch.Generator, such as torch.Generator().manual_seed(0)",
    ),
    (samples(generator=[0, 1, 2]), TypeError, "wanted a torch.Generator"),
    (samples(generator=[generator()]), ValueError, "1 generators for 3 images"),
    (samples(x_T=X[:2]), ValueError, "x_T has shape (2, 1, 8, 8)"),
    (samples(x_T=U8), ValueError, "wanted floats of shape (3, 1, 8, 8)"),
    (samples(x_T=X.numpy()), ValueError, "wanted floats of shape (3, 1, 8, 8)"),
    (
        samples(model=CLASSES, labels=[0, 1, 2]),
        TypeError,
        "labels are a list; wanted a LongTensor (3,)",
    ),
    (samples(model=CLASSES, labels=LABELS[:2]), ValueError, "labels have shape (2,)"),
    (samples(model=CLASSES, labels=LABELS + 2), ValueError, "labels run from 2 to 4"),
    (samples(labels=LABELS), ValueError, "model without classes"),
    (samples(guidance=1.0), ValueError, "guidance = 1.0 needs labels"),
    (
        samples(model=lambda x, t: x[:1]),
        ValueError,
        "the model returned shape (1, 1, 8, 8) for x_t of shape (3, 1, 8, 8)",
    ),
    (
        samples(shape=(1, 3, 8, 8)),
        ValueError,
        "x_t has shape (1, 3, 8, 8); wanted (B, 1, H, W)",
    ),
    (
        lambda: ddpm.respace(SHORT, 0),
        ValueError,
        "steps = 0; wanted a whole number from 1 to T = 20",
    ),
    (lambda: ddpm.respace(SHORT, 21), ValueError, "steps = 21"),
    # training
    (
        trains(images=X),
        TypeError,
        "torch.float32; wanted a uint8 tensor (N, C, H, W): to_uint8()",
    ),
    (
        trains(images=U8[0]),
        ValueError,
        "images have shape (1, 8, 8); wanted (N, C, H, W)",
    ),
    (trains(images=U8[:0]), ValueError, "at least one image"),
    (trains(images=[]), ValueError, "the loader gave no batch"),
    (trains(images=[X]), TypeError, "wanted a uint8 tensor"),
    (trains(images=U8.numpy()), TypeError, "a numpy.ndarray; wanted a uint8 tensor"),
    (
        trains(images=[U8], labels=LABELS),
        ValueError,
        "labels were given beside a loader; wanted a loader of pairs",
    ),
    (
        trains(labels=LABELS),
        ValueError,
        "labels were given for a model without classes",
    ),
    (trains(CLASSES, labels=[0, 1, 2]), TypeError, "wanted a LongTensor (3,)"),
    (trains(CLASSES, labels=LABELS[:2]), ValueError, "labels have shape (2,)"),
    (
        trains(CLASSES, labels=LABELS + 1),
        ValueError,
        "labels run from 1 to 3; wanted 0..2",
    ),
    (trains(steps=-1), ValueError, "steps = -1; wanted at least 0"),
    (trains(steps=1.5), ValueError, "steps = 1.5; wanted a whole number"),
    (trains(steps="1"), TypeError, "steps = '1'; wanted a number"),
    (trains(batch_size=0), ValueError, "batch_size = 0; wanted more than 0"),
    (trains(lr=-1e-3), ValueError, "lr = -0.001; wanted more than 0"),
    (trains(lr=float("inf")), TypeError, "lr = inf; wanted a number"),
    (trains(ema=1.0), ValueError, "ema = 1.0; wanted 0 <= ema < 1"),
    (trains(ema=-0.1), ValueError, "ema = -0.1; wanted at least 0"),
    (trains(warmup=-1), ValueError, "warmup = -1; wanted at least 0"),
    (trains(drop_label=1.5), ValueError, "drop_label = 1.5; wanted a probability"),
    (trains(precision="half"), ValueError, "precision = 'half'; wanted \"auto\""),
    (trains(device="gpu"), ValueError, "device = 'gpu' cannot be used here"),
    (trains(resume=True), ValueError, "resume=True needs out="),
    (trains(Scale(float("nan")), log_every=1), ValueError, "the loss is nan at step 1"),
    (trains(out="notes.txt"), OSError, "out = notes.txt cannot be written to"),
    (trains(out="/proc/nowhere/run"), OSError, "cannot be written to"),
    (
        trains(out="run"),
        ValueError,
        "run already holds a run (step-00000003); go on with resume=True (--resume), "
        "or choose another folder",
    ),
    (trains(out="other", resume=True), FileNotFoundError, "no checkpoint in other"),
    (trains(tiny(16), out="run", resume=True), ValueError, "do not fit the model"),
    (trains(tiny(), out="foreign", resume=True), ValueError, "says format"),
    (
        trains(tiny(), out="truncated", resume=True),
        ValueError,
        "is truncated or no safetensors file",
    ),
    on_a_full_disk(trains(tiny(), out="run", resume=True, steps=4)),
    # checkpoints: see also test_checkpoint.py
    (
        lambda: ddpm.load_checkpoint(None),
        TypeError,
        "path is a NoneType; wanted the folder of a run or of a checkpoint",
    ),
    (
        lambda: ddpm.load_checkpoint("run", model="unet"),
        TypeError,
        "model is a str; wanted a network",
    ),
    (
        lambda: ddpm.load_checkpoint("run", model=CLASSES),
        ValueError,
        "do not fit the model",
    ),
    (
        lambda: ddpm.load_checkpoint("run", device="gpu"),
        ValueError,
        "device = 'gpu' cannot be used here",
    ),
    (
        lambda: ddpm.load_checkpoint("other"),
        FileNotFoundError,
        "no checkpoint in other",
    ),
    (
        lambda: ddpm.load_checkpoint("missing"),
        FileNotFoundError,
        "weights.safetensors is missing; the checkpoint is incomplete",
    ),
    (
        lambda: ddpm.load_checkpoint("truncated"),
        ValueError,
        "is truncated or no safetensors file",
    ),
    (
        lambda: ddpm.load_checkpoint("foreign"),
        ValueError,
        "says format 'another'; wanted 'ddpm_core checkpoint 1'",
    ),
    (
        lambda: ddpm.load_checkpoint("hostile"),
        ValueError,
        "is truncated or no safetensors file",
    ),
    (
        lambda: ddpm.load_checkpoint("hostile.pt"),
        ValueError,
        "can run code when they are read, so ddpm_core never reads them",
    ),
    (
        lambda: ddpm.save_checkpoint("run/step-00000003", None, SHORT),
        TypeError,
        "model is a NoneType; wanted the network",
    ),
    (
        lambda: ddpm.save_checkpoint("run/step-00000003", NET, None),
        TypeError,
        "schedule is a NoneType; wanted a Schedule",
    ),
    (
        lambda: ddpm.save_checkpoint("run/step-00000003", NET, SHORT, step="3"),
        TypeError,
        "step = '3'; wanted the number of training steps",
    ),
    (
        lambda: ddpm.save_checkpoint("run/step-00000003", NET, SHORT, step=-3),
        TypeError,
        "step = -3",
    ),
    (
        lambda: ddpm.save_checkpoint(
            "run/step-00000003", NET, SHORT, training={"loss": 1}
        ),
        TypeError,
        "training['loss'] is a int; wanted tensors",
    ),
    (
        lambda: ddpm.save_checkpoint("run/step-00000003", NET, SHORT, info={"x": X}),
        TypeError,
        "JSON",
    ),
    (lambda: ddpm.save_checkpoint(None, NET, SHORT), TypeError, "path is a NoneType"),
    (
        lambda: ddpm.save_checkpoint("notes.txt/c", NET, SHORT),
        OSError,
        "could not be written",
    ),
    on_a_full_disk(lambda: ddpm.save_checkpoint("run/step-00000003", NET, SHORT)),
    on_a_full_disk(lambda: ddpm.save_checkpoint("new", NET, SHORT)),
    (
        lambda: ddpm.load_checkpoint("/nowhere/at/all"),
        FileNotFoundError,
        "no checkpoint in /nowhere/at/all",
    ),
    (lambda: ddpm.load_checkpoint(__file__), ValueError, "is a file; wanted a folder"),
    (
        lambda: ddpm.save_checkpoint("/proc/nowhere/c", NET, SHORT),
        OSError,
        "could not be written",
    ),
    # diffusers: see also test_pretrained.py
    (
        lambda: ddpm.from_diffusers(None),
        TypeError,
        "path_or_hub_id is a NoneType; wanted a folder or a hub id",
    ),
    (
        lambda: ddpm.from_diffusers("nowhere"),
        FileNotFoundError,
        "no folder nowhere; wanted a folder with config.json",
    ),
    (
        lambda: ddpm.from_diffusers("other"),
        FileNotFoundError,
        "no config.json in other",
    ),
    (
        lambda: ddpm.from_diffusers("notes.txt"),
        ValueError,
        "is a file; wanted the folder it is in",
    ),
    (
        lambda: ddpm.from_diffusers("unet-truncated"),
        ValueError,
        "is truncated or damaged",
    ),
    (
        lambda: ddpm.from_diffusers("unet-foreign"),
        ValueError,
        "wanted _class_name = 'UNet2DModel'",
    ),
    (
        lambda: ddpm.from_diffusers("unet-hostile"),
        ValueError,
        "was refused and nothing of it executed",
    ),
    (
        lambda: ddpm.from_diffusers("unet-foreign", subfolder="../unet"),
        ValueError,
        "subfolder = '../unet'; wanted None, or a folder inside",
    ),
    (
        lambda: ddpm.pipeline_from_diffusers("nowhere"),
        FileNotFoundError,
        "no folder nowhere; wanted a folder with config.json",
    ),
    (
        lambda: ddpm.pipeline_from_diffusers("unet-foreign"),
        ValueError,
        "wanted _class_name = 'UNet2DModel'",
    ),
    (
        lambda: ddpm.to_diffusers(Scale(), "unet"),
        TypeError,
        "unet is a Scale; wanted a UNet",
    ),
    (
        lambda: ddpm.to_diffusers(NET, "unet", 1000),
        TypeError,
        "schedule is a int; wanted a Schedule",
    ),
    (lambda: ddpm.to_diffusers(NET, None), TypeError, "path is a NoneType"),
    (
        lambda: ddpm.to_diffusers(NET, "other"),
        ValueError,
        "which to_diffusers did not write, and nothing was changed",
    ),
    (
        lambda: ddpm.to_diffusers(NET, "notes.txt"),
        ValueError,
        "notes.txt is a file, and nothing was changed",
    ),
    (
        lambda: ddpm.to_diffusers(NET, "/proc/nowhere/unet"),
        OSError,
        "could not be written",
    ),
    on_a_full_disk(lambda: ddpm.to_diffusers(NET, "unet")),
    # metrics: see also test_metrics.py
    (
        lambda: ddpm.frechet_distance(U8.flatten(1), U8.flatten(1)),
        TypeError,
        "features_a is a tensor of torch.uint8; wanted floats",
    ),
    (
        lambda: ddpm.frechet_distance(X.flatten(1), X.flatten(1)[:1]),
        ValueError,
        "features_b has shape (1, 64); wanted two dimensions, at least 2 rows",
    ),
    (
        lambda: ddpm.frechet_distance(X.flatten(1), X.flatten(1)[:, :3]),
        ValueError,
        "features_a have 64 columns and features_b 3",
    ),
    (
        lambda: ddpm.frechet_distance(NAN.flatten(1), X.flatten(1)),
        ValueError,
        "features_a has NaN or infinite values in 3 of 3 rows",
    ),
    (
        lambda: ddpm.inception_score(torch.full((4, 2), 0.5)),
        ValueError,
        "wanted logits, before the softmax",
    ),
    (
        lambda: ddpm.inception_score(NAN.flatten(1)),
        ValueError,
        "logits has NaN or infinite values",
    ),
    (
        lambda: ddpm.inception_score(X.flatten(1), splits=4),
        ValueError,
        "splits = 4; wanted None, or a whole number from 1 to the number of pictures, 3",
    ),
    # data: see also test_data.py
    (
        lambda: ddpm.load_images("folder:damaged"),
        ValueError,
        "damaged/1.png cannot be read as an image",
    ),
    (
        lambda: next(iter(load_stream("folder:damaged", 2))),
        ValueError,
        "damaged/1.png cannot be read as an image",
    ),
    (
        lambda: ddpm.load_images("folder:mixed"),
        ValueError,
        "mixed/1.png is 9 x 8 pixels but mixed/0.png is 8 x 8",
    ),
    (
        lambda: ddpm.load_images("folder:pictures", size=-1),
        ValueError,
        "size = -1; wanted None, or the side of the images in pixels",
    ),
    (lambda: ddpm.load_images("fashion-mnist", size=2.5), ValueError, "size = 2.5"),
    (
        lambda: ddpm.load_images("lsun-cat-256"),
        FileNotFoundError,
        'no complete copy of "lsun-cat-256" is known on the hub',
    ),
    (
        lambda: load_stream("folder:pictures", 0),
        ValueError,
        "batch_size = 0; wanted a whole number, at least 1",
    ),
    (
        lambda: ddpm.load_images("mnist"),
        ValueError,
        "unknown data set 'mnist'; wanted \"fashion-mnist\"",
    ),
    (
        lambda: ddpm.load_images("fashion-mnist", "validation"),
        ValueError,
        'split = \'validation\'; wanted "train" or "test"',
    ),
    (lambda: ddpm.load_images(None), TypeError, "wanted a string"),
    (lambda: load_stream(None, 2), TypeError, "wanted a string"),
    (
        lambda: load_stream("folder:pictures", 2, split="all"),
        ValueError,
        "split = 'all'",
    ),
    (lambda: ddpm.class_names(None), TypeError, "wanted a string"),
    (
        lambda: ddpm.class_names("folder:nowhere"),
        FileNotFoundError,
        "nowhere is not a folder",
    ),
    (
        lambda: ddpm.load_images("folder:pictures", ground="none"),
        ValueError,
        "ground = 'none'; wanted a colour without transparency",
    ),
    # pictures with captions: see also test_captions.py
    (
        lambda: ddpm.load_captioned("coco"),
        ValueError,
        "name = 'coco'; wanted \"emoji\"",
    ),
    (lambda: ddpm.load_captioned(size=48), ValueError, "size = 48; wanted 32 or 64"),
    (
        lambda: ddpm.load_captioned(ground="pink"),
        ValueError,
        'ground = \'pink\'; wanted "random", "light red"',
    ),
    (
        lambda: ddpm.load_drawings(split="test"),
        ValueError,
        "split = 'test'; wanted \"train\"",
    ),
    (
        lambda: ddpm.load_drawings(styles=["cubist"]),
        ValueError,
        "style = 'cubist'; wanted \"flat\"",
    ),
    (
        lambda: ddpm.load_drawings(split="artist", styles=["ink"]),
        ValueError,
        "no pictures for split = 'artist', styles = ['ink']",
    ),
    (
        lambda: ddpm.captions_of(["ink bird"]),
        TypeError,
        "facts hold a str; wanted the Drawings that load_drawings() returns",
    ),
    (lambda: ddpm.captions_of(None), TypeError, "facts are a NoneType; wanted"),
    (
        lambda: ddpm.captions_of([], generator(), no_style=1.5),
        ValueError,
        "no_style = 1.5; wanted a probability, from 0 to 1",
    ),
    (
        lambda: ddpm.captions_of([], generator(), keywords=True),
        ValueError,
        "keywords = True; wanted a probability",
    ),
    (
        lambda: ddpm.on_ground(None, (9, 9, 9)),
        TypeError,
        "drawings is a NoneType; wanted a tensor",
    ),
    (
        lambda: ddpm.on_ground(U8, (9, 9, 9)),
        ValueError,
        "drawings are torch.uint8 (3, 1, 8, 8); wanted uint8 (N, 4, H, W)",
    ),
    (
        lambda: ddpm.on_ground(RGBA, (9, 9, 9), 5),
        ValueError,
        "size = 5; wanted 8 or 4, the half of it",
    ),
    (
        lambda: ddpm.on_ground(RGBA, (9, 9), 8),
        ValueError,
        "ground is (2,); wanted (3,), or one colour for each of the 3 drawings",
    ),
    (
        lambda: ddpm.on_ground(RGBA, (9, 9, 256), 8),
        ValueError,
        "ground runs from 9 to 256; wanted 0..255",
    ),
    (
        lambda: ddpm.on_ground(RGBA, (0.5, 0.5, 1.0), 8),
        TypeError,
        "ground has dtype torch.float32; wanted whole numbers, 0..255",
    ),
    (
        lambda: ddpm.load_images("folder:/nowhere/at/all"),
        FileNotFoundError,
        "is not a folder; wanted a folder with images (.png",
    ),
    (
        lambda: ddpm.load_images(f"folder:{__file__}"),
        FileNotFoundError,
        "is not a folder",
    ),
    (
        lambda: ddpm.to_model_range(X),
        TypeError,
        "torch.float32; wanted a uint8 tensor, 0 to 255",
    ),
    (
        lambda: ddpm.to_model_range(np.zeros(3, dtype=np.uint8)),
        TypeError,
        "a numpy.ndarray; wanted a uint8 tensor",
    ),
    (
        lambda: ddpm.to_uint8(U8),
        TypeError,
        "torch.uint8; wanted a tensor of floats in [-1, 1]",
    ),
    (
        lambda: ddpm.to_uint8([0.1]),
        TypeError,
        "a builtins.list; wanted a tensor of floats",
    ),
    (
        lambda: ddpm.to_uint8(X / 0),
        ValueError,
        "x contains NaN; wanted floats in [-1, 1]",
    ),
    # scores, time, flows
    (lambda: after.alpha_bar_at(SHORT, 20.5), ValueError, "wanted real times in 0..20"),
    (lambda: after.alpha_bar_at(SHORT, float("nan")), ValueError, "u runs from nan"),
    (lambda: after.time_of(SHORT, 1e9), ValueError, "this schedule has 0 to 5.6"),
    (lambda: after.time_of(SHORT, -0.1), ValueError, "sigma runs from -0.1"),
    (
        lambda: after.reverse_sde_step(NET, SHORT, X, 5, -1, 1.0, X),
        ValueError,
        "a step from u = 5 by du = -1; wanted 0 <= u - du < u <= 20",
    ),
    (
        lambda: after.reverse_sde_step(NET, SHORT, X, 5, 6, 1.0, X),
        ValueError,
        "a step from u = 5 by du = 6",
    ),
    (
        lambda: after.reverse_sde_step(NET, SHORT, X, 5, 1, -1.0, X),
        ValueError,
        "lam = -1.0; wanted a number >= 0",
    ),
    (
        lambda: after.reverse_sde_step(NET, SHORT, X, 5, 1, 1.0, X[:2]),
        ValueError,
        "z has shape (2, 1, 8, 8)",
    ),
    (
        flows(0, 20),
        ValueError,
        "a flow from t = 0 to t = 20; wanted two different times in 1..20",
    ),
    (flows(5, 5), ValueError, "a flow from t = 5 to t = 5"),
    (flows(1, 21), ValueError, "to t = 21"),
    (flows(1, 20, 0), ValueError, "steps = 0; wanted a whole number"),
    (flows(1, 20, 2.5), ValueError, "steps = 2.5"),
    (flows(1, 20, x=U8), TypeError, "x has dtype torch.uint8; wanted floats"),
    (flows(1, 20, 1, model=None), TypeError, "model is a NoneType"),
    (
        flows(1, 20, 1, model=lambda x, t: x[:1]),
        ValueError,
        "the model returned shape (1, 1, 8, 8)",
    ),
    (
        lambda: after.flow_log_density(NET, SHORT, X, 20),
        ValueError,
        "t = 20; wanted 1 <= t < 20",
    ),
    (lambda: after.flow_log_density(NET, SHORT, X, 0.5), ValueError, "t = 0.5"),
    (
        lambda: after.flow_log_density(NET, SHORT, X, 1, 2, X + 2),
        ValueError,
        "the probe's entries have mean square 4; wanted E v v^T = I",
    ),
    (
        lambda: after.flow_bits_per_dim(NET, SHORT, X + 0.1234),
        ValueError,
        "x0 has values off the 8-bit grid",
    ),
    (
        lambda: after.flow_bits_per_dim(NET, SHORT, BLACK, probe=X),
        ValueError,
        "the probe's entries have mean square 0",
    ),
    (
        lambda: after.divergence(lambda x: x, X, X[:2] + 1),
        ValueError,
        "the probe has shape (2, 1, 8, 8); wanted that of x",
    ),
    (
        lambda: after.divergence(lambda x: x[..., :4], X),
        ValueError,
        "the field returned shape (3, 1, 8, 4)",
    ),
    (
        lambda: after.langevin_step(X, X, 0.0, X),
        ValueError,
        "delta = 0.0; wanted a step > 0",
    ),
    (lambda: after.langevin_step(X, X[:1], 0.1, X), ValueError, "wanted one shape"),
    (
        lambda: after.sliced_score_loss(lambda x: x, X, X[:1]),
        ValueError,
        "v has shape (1, 1, 8, 8); wanted that of x",
    ),
    (
        lambda: after.sliced_score_loss(lambda x: x, X, X + 9, True),
        ValueError,
        "mean square 81; wanted E v v^T = I",
    ),
    (
        walks(levels=99),
        ValueError,
        "steps = 99; wanted a whole number from 1 to T = 20",
    ),
    (walks(levels=5, each=0), ValueError, "each = 0"),
    (walks(levels=5, step=0.0), ValueError, "step = 0.0; wanted"),
    (lambda: after.ddim_invert(NET, SHORT, X, 0), ValueError, "steps = 0"),
    (lambda: after.ddim_invert(NET, SHORT, X, 5, -1), ValueError, "iterations = -1"),
    # guidance
    (lambda: after.guided(None, LABELS, None, 2.0), TypeError, "model is a NoneType"),
    (
        lambda: after.guided(NET, SHORT, "left"),
        TypeError,
        "guided(model, Schedule, str); wanted",
    ),
    (lambda: after.guided(NET, LABELS, None, "much"), TypeError, "with a number s"),
    (
        lambda: after.guided(NET, 2.0, LABELS),
        TypeError,
        "guided(model, w, ...) is ddpm_core.guided",
    ),
    (
        lambda: after.guided(NET, LABELS, None, float("nan")),
        ValueError,
        "s = nan; wanted",
    ),
    (
        lambda: after.guided(NET, SHORT, lambda x, t: x[:1])(X, 3),
        ValueError,
        "the gradient has shape (1, 1, 8, 8) for x_t of shape (3, 1, 8, 8)",
    ),
    (judges(3), ValueError, "the classifier answered shape (3,) for 3 pictures"),
    (judges(2, 10), ValueError, "answered shape (2, 10) for 3 pictures; wanted logits"),
    (judges(3, 2), ValueError, "3 labels from 0 to 2 for 3 pictures and 2 classes"),
    (
        judges(3, 10, labels=LABELS[:2]),
        ValueError,
        "2 labels from 0 to 1 for 3 pictures",
    ),
    (
        judges(3, 10, labels=LABELS / 1),
        ValueError,
        "dtype torch.float32; wanted a LongTensor",
    ),
    (
        lambda: after.classifier_gradient(lambda x, t: torch.zeros(3, 10), LABELS)(
            X, LABELS + 1
        ),
        ValueError,
        "the classifier's answer does not depend on x_t",
    ),
    (
        measures(A=torch.ones(1, 3)),
        ValueError,
        "for 3 pictures of 2 numbers; wanted A (M, 2)",
    ),
    (measures(A=torch.ones(2)), ValueError, "A has shape (2,) and y (3, 1)"),
    (
        measures(y=torch.zeros(2, 1)),
        ValueError,
        "A is (1, 2) and y (2, 1) for 3 pictures",
    ),
    (measures(var=0.0, spread=0.0), ValueError, "var_y = 0.0 with spread = 0.0"),
    (measures(var=-1.0), ValueError, "var_y = -1.0"),
    (measures(spread=-1.0), ValueError, "spread = -1.0; wanted a variance"),
    (measures(spread="exactly"), ValueError, "spread = 'exactly'; wanted \"exact\""),
    (
        lambda: after.gaussian_spread(SHORT, -1.0),
        ValueError,
        "var = -1.0; wanted the data's variance",
    ),
    (
        lambda: after.NoisyClassifier()(U8, 3),
        TypeError,
        "x_t is torch.uint8; wanted floats (B, 1, H, W)",
    ),
    (
        lambda: after.NoisyClassifier()(RGBA / 1, 3),
        ValueError,
        "x_t has shape (3, 4, 8, 8)",
    ),
    (
        lambda: after.NoisyClassifier(classes=0),
        ValueError,
        "classes = 0; wanted a whole number",
    ),
    (
        lambda: after.fashion_noisy_classifier("other"),
        FileNotFoundError,
        "other/classifier.json is missing; take another copy",
    ),
    # known pixels
    (paints(mask=X[0, 0, 0] == 0), ValueError, "the mask marks everything as known"),
    (paints(mask=X[0, 0, 0] > 0), ValueError, "the mask marks nothing as known"),
    (paints(mask=X), TypeError, "mask is torch.float32; wanted bool"),
    (
        paints(mask=torch.arange(7) < 3),
        ValueError,
        "mask has shape (7,) for known of shape",
    ),
    (paints(U8), TypeError, "known is torch.uint8; wanted floats"),
    (paints(NAN), ValueError, "known contains NaN inside the mask"),
    (paints(variance="learned"), ValueError, "variance = 'learned'; wanted \"beta\""),
    (paints(resample=0), ValueError, "resample = 0; wanted a whole number"),
    (paints(resample=2, jump=25), ValueError, "jump = 25 with 20 steps; wanted"),
    (paints(x_T=X[:2]), ValueError, "x_T has shape (2, 1, 8, 8); wanted (3, 1, 8, 8)"),
    (paints(steps=0), ValueError, "steps = 0"),
    (
        paints(basis=after.grey_basis()),
        ValueError,
        "coefficients have 1 channels; wanted 3",
    ),
    (
        lambda: after.Basis(torch.ones(2, 3)),
        ValueError,
        "is (2, 3); wanted a square one",
    ),
    (lambda: after.Basis(torch.ones(2, 2)), ValueError, "the rows are not orthonormal"),
    (
        lambda: after.Basis(torch.eye(3), block=2),
        ValueError,
        "for blocks of 2 x 2 pixels; wanted 4 rows",
    ),
    (
        lambda: after.Basis(torch.eye(4), block=0),
        ValueError,
        "block = 0; wanted a whole number",
    ),
    (lambda: after.grey_basis((0.0, 0.0)), ValueError, "that are not all 0"),
    (lambda: after.grey_basis("rgb"), TypeError, "weights = 'rgb'; wanted numbers"),
    (
        lambda: after.grey_basis().split(X),
        ValueError,
        "pictures have 1 channels; this basis mixes 3",
    ),
    (
        lambda: after.haar_basis().split(X[..., :7]),
        ValueError,
        "8 x 7 pixels do not fall into blocks of 2 x 2",
    ),
    (lambda: after.haar_basis().join(X), ValueError, "wanted a multiple of 4"),
    # cascades
    (
        lambda: after.noised(SHORT, X, 21, X),
        ValueError,
        "t = 21; wanted the paper's time, 0..20",
    ),
    (
        lambda: after.noised(SHORT, X, 3, X[:1]),
        ValueError,
        "eps has shape (1, 1, 8, 8)",
    ),
    (
        lambda: after.noise_condition(SHORT, X, 3, X, 12),
        ValueError,
        "beside 12 x 12 pixels; wanted a square whose side divides 12",
    ),
    (
        lambda: after.shrink(X[..., :7]),
        ValueError,
        "8 x 7 pixels do not fall into blocks",
    ),
    (
        lambda: after.with_condition(NET, 0),
        ValueError,
        "condition = 0; wanted a whole number",
    ),
    (
        lambda: after.with_condition(after.with_condition(NET, 1), 1),
        ValueError,
        "this UNet has a condition of 1 channels already",
    ),
    (
        lambda: after.enlarger(after.with_condition(NET, 2), X)(X, 3),
        ValueError,
        "condition has shape (3, 1, 8, 8); wanted (3, 2, 8, 8)",
    ),
    (lambda: after.dynamic_threshold(X, 1.5), ValueError, "quantile = 1.5; wanted"),
]


SAMPLE, EVALUATE = (
    "sample run --device cpu",
    "evaluate run --device cpu --features none --unseen folder:pictures --bound 2 --evaluations 4",
)
TRAIN = "train --device cpu --precision float32 --multipliers 1 --T 4 --batch-size 2 --steps 4 --data"
COMMANDS = [
    (f"{TRAIN} mnist --out new", "unknown data set 'mnist'"),
    (f"{TRAIN} folder:nowhere --out new", "nowhere is not a folder"),
    (f"{TRAIN} folder:damaged --out new", "damaged/1.png cannot be read as an image"),
    (f"{TRAIN} folder:mixed --out new", "wanted images of one size"),
    (f"{TRAIN} folder:pictures --out new --steps -1", "steps = -1; wanted at least 0"),
    (f"{TRAIN} folder:pictures --out new --lr nan", "lr = nan; wanted a number"),
    (f"{TRAIN} folder:pictures --out new --size -3", "size = -3"),
    (f"{TRAIN} folder:pictures --out new --init nowhere", "no checkpoint in nowhere"),
    (
        f"{TRAIN} folder:pictures --out new --init hostile",
        "is truncated or no safetensors file",
    ),
    (f"{TRAIN} folder:pictures --out new --resume", "no checkpoint in new"),
    (f"{TRAIN} folder:pictures --out run", "already holds a run"),
    (f"{TRAIN} folder:pictures --out run --resume --width 64", "do not fit the model"),
    (
        f"{TRAIN} folder:pictures --out notes.txt",
        "out = notes.txt cannot be written to",
    ),
    (f"{TRAIN} folder:pictures --out /proc/nowhere/run", "cannot be written to"),
    (f"{SAMPLE} -n 0 --out a.png", "-n 0; wanted at least 1"),
    (f"{SAMPLE} --steps -2 --out a.png", "steps = -2"),
    (f"{SAMPLE} --labels shoe --out a.png", "trained without labels"),
    (f"{SAMPLE} --out a.jpg", "wanted a file name that ends in .png"),
    (f"{SAMPLE} --out notes.txt/a.png", "notes.txt/a.png cannot be written"),
    (f"{SAMPLE} --out /proc/nowhere/a.png", "/proc/nowhere/a.png cannot be written"),
    ("sample nowhere --out a.png", "no checkpoint in nowhere"),
    ("sample truncated --out picture.png", "is truncated or no safetensors file"),
    ("sample foreign --out picture.png", "says format 'another'"),
    ("sample hostile --out picture.png", "is truncated or no safetensors file"),
    ("sample hostile.pt --out picture.png", "can run code when they are read"),
    (f"{EVALUATE} --out a.txt", "wanted a file name that ends in .json"),
    (
        f"{EVALUATE} --out /proc/nowhere/a.json",
        "/proc/nowhere/a.json cannot be written",
    ),
    (f"{EVALUATE} --bound -2", "bound of -2 images"),
    (f"{EVALUATE} --evaluations 3", "evaluations = 3; wanted an even number"),
    (f"{EVALUATE} --data nonsense", "unknown data set 'nonsense'"),
    (f"{EVALUATE} --unseen folder:damaged", "damaged/1.png cannot be read as an image"),
    (
        f"{EVALUATE} --unseen folder:wide",
        "the network draws images of shape (1, 8, 8), those of folder:wide are (3, 8, 8)",
    ),
    ("evaluate nowhere", "no checkpoint in nowhere"),
    ("evaluate hostile --out evaluation.json", "is truncated or no safetensors file"),
    ("encode nowhere --data folder:pictures --out a.bits", "no checkpoint in nowhere"),
    (
        "encode hostile --data folder:pictures --out picture.png",
        "is truncated or no safetensors file",
    ),
    ("encode run --data nonsense --out a.bits", "unknown data set 'nonsense'"),
    (
        "encode run --data folder:damaged --out a.bits",
        "damaged/1.png cannot be read as an image",
    ),
    ("encode run --data folder:pictures -n 0 --out a.bits", "-n 0; wanted from 1"),
    ("encode run --data folder:pictures --steps 0 --out a.bits", "steps = 0"),
    ("encode run --data folder:pictures --bits -1 --out a.bits", "bits = -1"),
    (
        "encode run --data folder:pictures --out /proc/nowhere/a.bits",
        "/proc/nowhere/a.bits cannot be written",
    ),
    ("decode run notes.txt --out new", "a file that `ddpm encode` made"),
    ("decode run nowhere.bits --out new", "nowhere.bits"),
]


class Hostile:
    """A pickle of it leaves a file behind when it is read."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.fixture(scope="module")
def belongings(tmp_path_factory) -> Path:
    """What a user has on disk, good and bad."""
    disk = tmp_path_factory.mktemp("disk")
    for name, sizes in dict(pictures=[8] * 4, damaged=[8] * 3, mixed=[8, 9]).items():
        (disk / name).mkdir()
        for i, width in enumerate(sizes):
            Image.new("L", (width, 8), 40 * i).save(disk / name / f"{i}.png")
    (disk / "wide").mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8), (9, 9, 200)).save(disk / "wide" / f"{i}.png")
    (disk / "damaged" / "1.png").write_text("no image")
    (disk / "notes.txt").write_text("kept")
    (disk / "picture.png").write_text("an older picture")
    (disk / "evaluation.json").write_text("older results")
    (disk / "other").mkdir()
    (disk / "other" / "thesis.txt").write_text("kept")
    ddpm.train(
        tiny(),
        SHORT,
        U8,
        steps=3,
        out=disk / "run",
        log_every=1,
        info={"data": f"folder:{disk}/pictures"},
        **PLAIN,
    )
    for name in ("missing", "truncated", "foreign", "hostile"):
        shutil.copytree(disk / "run" / "step-00000003", disk / name)
    (disk / "missing" / "weights.safetensors").unlink()
    weights = disk / "truncated" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    about = json.loads((disk / "foreign" / "checkpoint.json").read_text())
    (disk / "foreign" / "checkpoint.json").write_text(
        json.dumps(about | {"format": "another"})
    )
    (disk / "hostile" / "weights.safetensors").write_bytes(pickle.dumps(Hostile()))
    torch.save({"weight": Hostile()}, disk / "hostile.pt")
    ddpm.to_diffusers(NET, disk / "unet")
    for name in ("truncated", "foreign", "hostile"):
        shutil.copytree(disk / "unet", disk / f"unet-{name}")
    weights = disk / "unet-truncated" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    (disk / "unet-foreign" / "config.json").write_text(
        '{"_class_name": "AutoencoderKL"}'
    )
    (disk / "unet-hostile" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(
        {"weight": Hostile()}, disk / "unet-hostile" / "diffusion_pytorch_model.bin"
    )
    return disk


@pytest.fixture
def disk(belongings, monkeypatch):
    """The user's folder to work in, which is afterwards as it was."""
    monkeypatch.chdir(belongings)
    before = files(belongings)
    yield belongings
    after = files(belongings)
    changed = sorted(
        name
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name)
    )
    assert not changed, f"changed, lost or left behind: {changed}"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def named(table):
    return [
        f"{i:03d} {(row.values if hasattr(row, 'values') else row)[-1][:40]}"
        for i, row in enumerate(table)
    ]


@pytest.mark.parametrize("call, error, phrase", TABLE, ids=named(TABLE))
def test_bad_input(call, error, phrase, disk):
    with pytest.raises(error, match=re.escape(phrase)) as raised:
        call()
    assert type(raised.value) is error
    assert len(str(raised.value)) < 700


@pytest.mark.parametrize("command, phrase", COMMANDS, ids=named(COMMANDS))
def test_bad_commands(command, phrase, disk, capfd):
    assert main(shlex.split(command)) == 2
    *before, line = said(capfd.readouterr())
    # The error is one line, the last; of the four steps of TRAIN, one line warns.
    assert all("x_T is not yet noise" in other for other in before)
    assert len(before) <= 1 and (not before or command.startswith(TRAIN))
    assert (
        line.startswith(f"ddpm {command.split()[0]}: ")
        and phrase in line
        and len(line) < 700
    )


def said(captured) -> list[str]:
    """Lines on stderr without bars; nothing on stdout."""
    assert captured.out == ""
    return [
        line
        for line in captured.err.replace("\r", "\n").splitlines()
        if line.strip()
        and not re.match(r"(sampling|training|bound|\d+ samples):", line)
    ]


WRITING = [
    f"{SAMPLE} -n 2 --steps 2 --out picture.png",
    f"{EVALUATE} --out evaluation.json",
    f"{EVALUATE} --features fashion -n 2 --steps 2 --out evaluation.json --keep-samples",
]


@FULL
@pytest.mark.parametrize("command", WRITING)
def test_a_full_disk_is_noticed_before_the_work(command, disk, capfd):
    with files_of_at_most(2000):  # enough for what is said
        assert main(shlex.split(command)) == 2
    (line,) = said(capfd.readouterr())
    assert re.search(
        r"(picture.png|evaluation.json) cannot be written .*wanted a file in a folder, there or to be made, with space for it",
        line,
    )


@pytest.mark.parametrize("command", WRITING)
def test_a_disk_that_is_full_after_the_work(command, disk, capfd, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ddpm_core.runtime.files.flush", full)
    monkeypatch.setattr(
        ddpm.evaluation,
        "fashion_features",
        lambda: lambda images: (images.flatten(1).float(), images.flatten(1).float()),
    )
    assert main(shlex.split(command)) == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert re.search(
        r"(picture.png|evaluation.(json|npz)) could not be written \(.*No space left.*\); what was there before is untouched. Free some space",
        line,
    )


@pytest.mark.parametrize(
    "command",
    [
        f"{SAMPLE} -n 2 --out picture.png",
        f"{EVALUATE} --out evaluation.json",
        f"{TRAIN} folder:pictures --out run --resume",
    ],
    ids=lambda command: command.split()[0],
)
def test_ctrl_c(command, disk, capfd, monkeypatch):
    monkeypatch.setattr(ddpm.UNet, "forward", stopped)
    more = (
        [*"--width 8 --groups 4 --attention --dropout 0 --steps 9".split()]
        + [*"--T 20 --beta-1 0.01 --beta-T 0.3".split()]  # SHORT
        if command.startswith("train")
        else []
    )
    assert main([*shlex.split(command), *more]) == 130
    assert "Traceback" not in capfd.readouterr().err


def test_an_unreadable_picture_is_left_out_on_request(disk):
    with pytest.warns(UserWarning, match="left out: damaged/1.png"):
        images, _ = ddpm.load_images("folder:damaged", skip_unreadable=True)
    assert len(images) == 2


def test_the_hostile_files_would_have_run_code(tmp_path, belongings, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads((belongings / "hostile" / "weights.safetensors").read_bytes())
    assert Path(
        "executed"
    ).exists()  # the fixture `disk` sees that no case above made it


def test_every_public_function_and_command_is_in_the_tables():
    source = Path(__file__).read_text(encoding="utf-8")
    tables = source[source.index("\nTABLE = [") : source.index("\nclass Hostile")]
    helpers = {"train": "trains(", "sample": "samples("}  # what the tables call instead
    results = {
        "BitsPerDim",
        "BoundEstimate",
        "Checkpoint",
        "TrainingState",
    }  # returned, never called by a user
    constant = {"cifar10_unet"}  # takes nothing
    inner = {
        "training_steps"
    }  # what train calls when all of its input has been checked
    for name in set(ddpm.__all__) - results - constant - inner:
        assert helpers.get(name, f"ddpm.{name}(") in tables, name
    assert {command.split()[0] for command, _ in COMMANDS} == {
        "train",
        "sample",
        "evaluate",
        "encode",
        "decode",
    }
    assert len(TABLE) + len(COMMANDS) > 200


def test_an_empty_folder(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="contains no images; wanted files that end in .png"
    ):
        ddpm.load_images(f"folder:{tmp_path}")
