"""What a user may get wrong, and what the message must say: the error's type, and a phrase with what was given or wanted."""

import re

import numpy as np
import pytest
import torch

import ddpm_core as ddpm
from laboratory import SHORT, Scale, generator, small_unet

X = torch.zeros(3, 1, 8, 8)
U8 = X.to(torch.uint8)
LABELS = torch.tensor([0, 1, 2])
NET, CLASSES = small_unet(), small_unet(classes=3)
TRAIN = dict(device="cpu", progress=False)
long = torch.tensor


def trains(model=NET, images=U8, labels=None, **kwargs):
    return lambda: ddpm.train(model, SHORT, images, labels, **{**TRAIN, "steps": 1, **kwargs})


def samples(*args, model=NET, shape=(3, 1, 8, 8), **kwargs):
    return lambda: ddpm.sample(model, *(args or (SHORT,)), shape, **kwargs)


TABLE = [
    # schedules
    (lambda: ddpm.Schedule([]), ValueError, "wanted one dimension with T entries"),
    (lambda: ddpm.Schedule(torch.zeros(3, 3)), ValueError, "beta has shape (3, 3)"),
    (lambda: ddpm.Schedule([0.0]), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.Schedule([0.1, 1.0]), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.Schedule([0.1, -0.1]), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.Schedule([0.1, float("nan")]), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.Schedule([0.1, 0.0, 0.1]), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.Schedule("linear"), TypeError, "beta"),
    (lambda: ddpm.Schedule([1e-18, 0.1]), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.Schedule([0.999] * 200), ValueError, "alpha_bar_T"),
    (lambda: ddpm.linear_schedule(0), ValueError, "T = 0; wanted a whole number of steps, at least 1"),
    (lambda: ddpm.linear_schedule(10.0), ValueError, "T = 10.0; wanted a whole number"),
    (lambda: ddpm.linear_schedule(10, 0.0, 0.02), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.linear_schedule(10, 1e-4, 2), ValueError, "strictly between 0 and 1"),
    (lambda: ddpm.cosine_schedule(True), ValueError, "T = True; wanted a whole number"),
    (lambda: ddpm.cosine_schedule(-3), ValueError, "T = -3"),
    # times
    (lambda: ddpm.q_sample(SHORT, X, 0, X), ValueError, "t = 0; wanted the paper's time, 1..20"),
    (lambda: ddpm.q_sample(SHORT, X, 21, X), ValueError, "t = 21; wanted the paper's time, 1..20"),
    (lambda: ddpm.q_sample(SHORT, X, -1, X), ValueError, "t = -1"),
    (lambda: ddpm.q_sample(SHORT, X, 1.0, X), TypeError, "t is a float; wanted an int or a LongTensor (B,)"),
    (lambda: ddpm.q_sample(SHORT, X, True, X), TypeError, "t is a bool"),
    (lambda: ddpm.q_sample(SHORT, X, [1, 2, 3], X), TypeError, "t is a list"),
    (lambda: ddpm.q_sample(SHORT, X, long([0, 1, 2]), X), ValueError, "t runs from 0 to 2; wanted the paper's time, 1..20"),
    (lambda: ddpm.q_sample(SHORT, X, long([1, 2, 21]), X), ValueError, "t runs from 1 to 21"),
    (lambda: ddpm.q_sample(SHORT, X, long([1.0, 2, 3]), X), TypeError, "t has dtype torch.float32"),
    (lambda: ddpm.q_sample(SHORT, X, long([[1], [2], [3]]), X), TypeError, "shape (3, 1)"),
    (lambda: ddpm.q_sample(SHORT, X, long([1, 2]), X), ValueError, "t has 2 entries for a batch of 3"),
    (lambda: NET(X, 0), ValueError, "t = 0; wanted the paper's time"),
    (lambda: NET(X, long([0, 1, 2])), ValueError, "t runs from 0 to 2"),
    # images and noise
    (lambda: ddpm.q_step(None, X, 1, X), TypeError, "schedule is a NoneType; wanted a Schedule"),
    (lambda: ddpm.q_step(SHORT, U8, 1, X), TypeError, "x_prev has dtype torch.uint8; wanted floats: to_model_range()"),
    (lambda: ddpm.q_step(SHORT, X.numpy(), 1, X), TypeError, "x_prev is a ndarray; wanted a float tensor"),
    (lambda: ddpm.q_sample(SHORT, X, 1, X[:2]), ValueError, "eps has shape (2, 1, 8, 8) but x0 has (3, 1, 8, 8)"),
    (lambda: ddpm.q_sample(SHORT, X, 1, torch.zeros(1)), ValueError, "wanted the same shape"),
    (lambda: ddpm.q_posterior(SHORT, X, X[..., :4], 1), ValueError, "x_t has shape (3, 1, 8, 4) but x0 has (3, 1, 8, 8)"),
    (lambda: ddpm.predict_x0(SHORT, X, 1, X[:, :, 0]), ValueError, "eps has shape (3, 1, 8) but x_t has (3, 1, 8, 8)"),
    (lambda: ddpm.reverse_mean(SHORT, X, 1, U8), TypeError, "eps has dtype torch.uint8"),
    (lambda: ddpm.simple_loss(lambda x, t: x[:, :, :4], SHORT, X, 1, X), ValueError, "the model returned shape (3, 1, 4, 8)"),
    (lambda: ddpm.simple_loss(NET, SHORT, U8, 1, X), TypeError, "x0 has dtype torch.uint8"),
    # the network
    (lambda: ddpm.UNet(28), ValueError, "image_size = 28 cannot be halved 3 times, as 4 multipliers ask; wanted at most 3 multipliers"),
    (lambda: ddpm.UNet(32, width=100), ValueError, "width = 100; wanted a multiple of 32"),
    (lambda: ddpm.UNet(32, multipliers=()), ValueError, "wanted at least one"),
    (lambda: ddpm.UNet(32, multipliers=(1, 0)), ValueError, "wanted at least one, each at least 1"),
    (lambda: ddpm.UNet(32, channels=0), ValueError, "channels = 0"),
    (lambda: ddpm.UNet(32, blocks=0), ValueError, "blocks = 0"),
    (lambda: ddpm.UNet(0), ValueError, "image_size = 0"),
    (lambda: ddpm.UNet(32, width=32, multipliers=(1,), attention=(16,)), ValueError, "attention at side [16] but the levels have sides [32]"),
    (lambda: ddpm.UNet(32, width=32, dropout=1.0), ValueError, "dropout = 1.0; wanted a probability"),
    (lambda: ddpm.UNet(32, width=32, classes=0), ValueError, "classes = 0; wanted None or the number of labels"),
    (lambda: NET(U8, 1), TypeError, "x_t is torch.uint8; wanted a float tensor (B, 1, H, W)"),
    (lambda: NET(X.expand(3, 3, 8, 8), 1), ValueError, "x_t has shape (3, 3, 8, 8); wanted (B, 1, H, W)"),
    (lambda: NET(X[0], 1), ValueError, "x_t has shape (1, 8, 8)"),
    (lambda: small_unet(8, 1, (1, 1))(X[..., :7], 1), ValueError, "images of 8 x 7 pixels cannot be halved 1 times; wanted sides divisible by 2"),
    (lambda: NET(X, long([1, 2])), ValueError, "t has 2 entries for a batch of 3"),
    (lambda: NET(X, 1, LABELS), ValueError, "labels were given to a model without classes"),
    (lambda: CLASSES(X, 1, long([0, 1, 4])), ValueError, "labels run from 0 to 4; wanted 0..2, or 3 for no label"),
    (lambda: CLASSES(X, 1, long([0, -1, 1])), ValueError, "labels run from -1 to 1"),
    (lambda: CLASSES(X, 1, long([0.0, 1, 2])), ValueError, "wanted a LongTensor (3,)"),
    (lambda: CLASSES(X, 1, long([0, 1])), ValueError, "labels have shape (2,)"),
    (lambda: CLASSES(X, 1, [0, 1, 2]), TypeError, "labels are a list; wanted a LongTensor (3,)"),
    # sampling
    (samples(None), TypeError, "schedule is a NoneType; wanted a Schedule"),
    (samples(steps=0), ValueError, "steps = 0; wanted None, or a whole number from 1 to T = 20"),
    (samples(steps=21), ValueError, "steps = 21"),
    (samples(steps=2.0), ValueError, "steps = 2.0"),
    (samples(steps="ten"), ValueError, "steps = 'ten'"),
    (samples(sampler="euler"), ValueError, "sampler = 'euler'; wanted \"ddpm\" or \"ddim\""),
    (samples(variance="guessed"), ValueError, "variance = 'guessed'; wanted \"beta\", \"beta_tilde\" or \"learned\""),
    (samples(shape=(0, 1, 8, 8)), ValueError, "shape = (0, 1, 8, 8); wanted whole numbers, at least 1"),
    (samples(shape=(2.0, 1)), ValueError, "wanted whole numbers"),
    (samples(shape=()), ValueError, "shape = ()"),
    (samples(shape=4), ValueError, "wanted whole numbers, at least 1, such as (16, 1, 28, 28)"),
    (samples(generator=0), TypeError, "generator = 0; wanted a torch.Generator, such as torch.Generator().manual_seed(0)"),
    (samples(generator=[0, 1, 2]), TypeError, "wanted a torch.Generator"),
    (samples(generator=[generator()]), ValueError, "1 generators for 3 images"),
    (samples(x_T=X[:2]), ValueError, "x_T has shape (2, 1, 8, 8)"),
    (samples(x_T=U8), ValueError, "wanted floats of shape (3, 1, 8, 8)"),
    (samples(x_T=X.numpy()), ValueError, "wanted floats of shape (3, 1, 8, 8)"),
    (samples(model=CLASSES, labels=[0, 1, 2]), TypeError, "labels are a list; wanted a LongTensor (3,)"),
    (samples(model=CLASSES, labels=LABELS[:2]), ValueError, "labels have shape (2,)"),
    (samples(model=CLASSES, labels=LABELS + 2), ValueError, "labels run from 2 to 4"),
    (samples(labels=LABELS), ValueError, "model without classes"),
    (samples(guidance=1.0), ValueError, "guidance = 1.0 needs labels"),
    (samples(model=lambda x, t: x[:1]), ValueError, "the model returned shape (1, 1, 8, 8) for x_t of shape (3, 1, 8, 8)"),
    (samples(shape=(1, 3, 8, 8)), ValueError, "x_t has shape (1, 3, 8, 8); wanted (B, 1, H, W)"),
    (lambda: ddpm.respace(SHORT, 0), ValueError, "steps = 0; wanted a whole number from 1 to T = 20"),
    (lambda: ddpm.respace(SHORT, 21), ValueError, "steps = 21"),
    # training
    (trains(images=X), TypeError, "torch.float32; wanted a uint8 tensor (N, C, H, W): to_uint8()"),
    (trains(images=U8[0]), ValueError, "images have shape (1, 8, 8); wanted (N, C, H, W)"),
    (trains(images=U8[:0]), ValueError, "at least one image"),
    (trains(images=[]), ValueError, "the loader gave no batch"),
    (trains(images=[X]), TypeError, "wanted a uint8 tensor"),
    (trains(images=U8.numpy()), TypeError, "a numpy.ndarray; wanted a uint8 tensor"),
    (trains(images=[U8], labels=LABELS), ValueError, "labels were given beside a loader; wanted a loader of pairs"),
    (trains(labels=LABELS), ValueError, "labels were given for a model without classes"),
    (trains(CLASSES, labels=[0, 1, 2]), TypeError, "wanted a LongTensor (3,)"),
    (trains(CLASSES, labels=LABELS[:2]), ValueError, "labels have shape (2,)"),
    (trains(CLASSES, labels=LABELS + 1), ValueError, "labels run from 1 to 3; wanted 0..2"),
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
    # checkpoints: see also test_checkpoint.py
    (lambda: ddpm.load_checkpoint("/nowhere/at/all"), FileNotFoundError, "no checkpoint in /nowhere/at/all"),
    (lambda: ddpm.load_checkpoint(__file__), ValueError, "is a file; wanted a folder"),
    (lambda: ddpm.save_checkpoint("/proc/nowhere/c", NET, SHORT), OSError, "could not be written"),
    # data: see also test_data.py
    (lambda: ddpm.load_images("mnist"), ValueError, "unknown data set 'mnist'; wanted \"fashion-mnist\""),
    (lambda: ddpm.load_images("fashion-mnist", "validation"), ValueError, "split = 'validation'; wanted \"train\" or \"test\""),
    (lambda: ddpm.load_images(None), TypeError, "wanted a string"),
    (lambda: ddpm.load_images("folder:/nowhere/at/all"), FileNotFoundError, "is not a folder; wanted a folder with images (.png"),
    (lambda: ddpm.load_images(f"folder:{__file__}"), FileNotFoundError, "is not a folder"),
    (lambda: ddpm.to_model_range(X), TypeError, "torch.float32; wanted a uint8 tensor, 0 to 255"),
    (lambda: ddpm.to_model_range(np.zeros(3, dtype=np.uint8)), TypeError, "a numpy.ndarray; wanted a uint8 tensor"),
    (lambda: ddpm.to_uint8(U8), TypeError, "torch.uint8; wanted a tensor of floats in [-1, 1]"),
    (lambda: ddpm.to_uint8([0.1]), TypeError, "a builtins.list; wanted a tensor of floats"),
    (lambda: ddpm.to_uint8(X / 0), ValueError, "x contains NaN; wanted floats in [-1, 1]"),
]


@pytest.mark.parametrize("call, error, phrase", TABLE, ids=[f"{i:03d} {phrase[:40]}" for i, (_, _, phrase) in enumerate(TABLE)])
def test_bad_input(call, error, phrase):
    with pytest.raises(error, match=re.escape(phrase)) as raised:
        call()
    assert type(raised.value) is error
    assert len(str(raised.value)) < 700


def test_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="contains no images; wanted files that end in .png"):
        ddpm.load_images(f"folder:{tmp_path}")
