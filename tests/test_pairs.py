"""What must agree, in training: each pair is disagreed with once, and refused or said.

The pairs: data and network, labels and classes, schedule and model, schedule and
checkpoint, network and checkpoint, command line and checkpoint, batch and its parts,
objective and variance. World size and batch: test_distributed.py.
"""

import json
import warnings
from pathlib import Path

import pytest
import torch
from laboratory import SHORT, generator
from PIL import Image

import ddpm_core as ddpm
from ddpm_core.cli import main
from ddpm_core.model import as_eps_model

OTHER = ddpm.linear_schedule(7)


def net(side=8, channels=1, classes=None, groups=4, dropout=0.0, **more):
    torch.manual_seed(0)
    return ddpm.UNet(
        side, channels, 8, (1,), 1, (), dropout, classes, groups=groups, **more
    )


def pixels(side=8, channels=1, other=None, n=4):
    shape = (n, channels, side, other or side)
    return torch.randint(0, 256, shape, generator=generator(), dtype=torch.uint8)


def folder(path, side=8, n=4):
    path.mkdir()
    for i, image in enumerate(pixels(side, n=n)):
        Image.fromarray(image[0].numpy()).save(path / f"{i}.png")
    return path


LABELS = torch.tensor([0, 1, 2, 0])
PLAIN = dict(batch_size=4, device="cpu", precision="float32", progress=False, warmup=0)


def train(model, images, labels=None, schedule=SHORT, **kwargs):
    return ddpm.train(
        model, schedule, images, labels, **{"steps": 1, **PLAIN, **kwargs}
    )


CASES = {
    "tensor, height": lambda p: train(net(), pixels(8, other=16)),
    "tensor, larger": lambda p: train(net(), pixels(16)),
    "tensor, smaller": lambda p: train(net(16), pixels(8)),
    "tensor, channels": lambda p: train(net(), pixels(channels=3)),
    "loader, side": lambda p: train(net(), [pixels(16)]),
    "loader, channels": lambda p: train(net(), [pixels(channels=3)]),
    "stream, side": lambda p: train(
        net(), ddpm.streams.stream_folder(folder(p / "f", 16), 4)
    ),
    "mu model, side": lambda p: train(as_eps_model(net(), SHORT, "mu"), pixels(16)),
    "compiled, side": lambda p: train(torch.compile(net()), pixels(16)),
    "labels without classes": lambda p: train(net(), pixels(), LABELS),
    "labels beyond classes": lambda p: train(net(classes=2), pixels(), LABELS),
    "loader's labels beyond classes": lambda p: train(
        net(classes=2), [(pixels(), LABELS)]
    ),
    "loader's labels without classes": lambda p: train(net(), [(pixels(), LABELS)]),
    "second batch's labels": lambda p: train(
        net(classes=3), [(pixels(), LABELS), (pixels(), LABELS + 1)], steps=2
    ),
    "second batch's side": lambda p: train(net(), [pixels(), pixels(16)], steps=2),
    "stream's classes": lambda p: train(
        net(classes=2), ddpm.streams.Stream(None, (1, 8, 8), 3)
    ),
    "stream's classes without any": lambda p: train(
        net(), ddpm.streams.Stream(None, (1, 8, 8), 3)
    ),
    "schedule and model": lambda p: train(as_eps_model(net(), OTHER, "x0"), pixels()),
    "schedule and model, saved": lambda p: ddpm.save_checkpoint(
        p / "c", as_eps_model(net(), OTHER, "x0"), SHORT
    ),
    "schedule and model, loaded": lambda p: ddpm.load_checkpoint(
        ddpm.save_checkpoint(p / "c", as_eps_model(net(), SHORT, "x0"), SHORT),
        model=as_eps_model(net(), OTHER, "x0"),
    ),
    "prediction and checkpoint": lambda p: ddpm.load_checkpoint(
        ddpm.save_checkpoint(p / "c", net(), SHORT),
        model=as_eps_model(net(), SHORT, "x0"),
    ),
    "learned variance, simple loss": lambda p: train(
        net(learn_variance=True), pixels()
    ),
    "fixed variance, learned loss": lambda p: train(
        net(), pixels(), objective=ddpm.choose_objective("eps", "bound", "learned")
    ),
    "batch and parts": lambda p: train(net(), pixels(), accumulate=5),
}
SAID = {
    "tensor, height": r"shape \(1, 8, 16\), the model is for \(1, 8, 8\)",
    "tensor, larger": r"shape \(1, 16, 16\), the model is for \(1, 8, 8\)",
    "tensor, smaller": r"shape \(1, 8, 8\), the model is for \(1, 16, 16\)",
    "tensor, channels": r"shape \(3, 8, 8\), the model is for \(1, 8, 8\)",
    "loader, side": r"shape \(1, 16, 16\)",
    "loader, channels": r"shape \(3, 8, 8\)",
    "stream, side": r"shape \(1, 16, 16\)",
    "mu model, side": r"shape \(1, 16, 16\)",
    "compiled, side": r"shape \(1, 16, 16\)",
    "labels without classes": "model without classes",
    "labels beyond classes": r"labels run from 0 to 2; wanted 0\.\.1",
    "loader's labels beyond classes": r"labels run from 0 to 2; wanted 0\.\.1",
    "loader's labels without classes": "model without classes",
    "second batch's labels": r"labels run from 1 to 3; wanted 0\.\.2",
    "second batch's side": r"shape \(1, 16, 16\)",
    "stream's classes": "the data has 3 classes, the model 2",
    "stream's classes without any": "model without classes",
    "schedule and model": "as_eps_model was given Schedule.T=7.*here is Schedule.T=20",
    "schedule and model, saved": "as_eps_model was given Schedule.T=7",
    "schedule and model, loaded": "as_eps_model was given Schedule.T=7",
    "prediction and checkpoint": "predicts eps, the model given predicts x0",
    "learned variance, simple loss": 'pass variance="learned"',
    "fixed variance, learned loss": 'or variance="beta"',
    "batch and parts": "accumulate = 5 parts of a batch of 4",
}


@pytest.mark.parametrize("name", CASES)
def test_two_that_must_agree(name, tmp_path):
    with pytest.raises(ValueError, match=SAID[name]):
        CASES[name](tmp_path)


def test_every_pair_has_its_words():
    assert CASES.keys() == SAID.keys()


# What the run in `start` was, and another command line that goes on with it.
START = "--width 8 --groups 4 --multipliers 1 --attention --T 10 --batch-size 4"
RESUMED = {
    "--dropout 0.2": "has dropout = 0.2, the checkpoint dropout = 0.1",
    "--groups 2": "has groups = 2, the checkpoint groups = 4",
    "--width 16": "has width = 16, the checkpoint width = 8",
    "--blocks 2": "has blocks = 2, the checkpoint blocks = 1",
    "--attention 8": "has attention",
    "--multipliers 1 2": "has multipliers",
    "--predict mu": "predicts eps, the model given predicts mu",
    "--T 11": "was trained with Schedule(T=10",
    "--schedule cosine": "was trained with Schedule(T=10",
    "--objective bound": "was trained with objective = simple, and now it is bound",
    "--size 4": "has image_size = 4, the checkpoint image_size = 8",
}
WARNED = {
    "--lr 0.5": "goes on with lr = 0.5; until now it had lr = 0.001",
    "--batch-size 2": "goes on with batch_size = 2; until now it had batch_size = 4",
    "--seed 5": "goes on with seed = 5; until now it had seed = 0",
    "--no-flip": "goes on with flip = False; until now it had flip = True",
    "--ema 0.5": "goes on with ema = 0.5",
    "--warmup 3": "goes on with warmup = 3",
    "--accumulate 2": "goes on with accumulate = 2",
    "--data folder:{}/other": "other",
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    at = tmp_path_factory.mktemp("pairs")
    folder(at / "pictures")
    folder(at / "other")
    assert main(command(at, at / "run")) == 0
    return at


def command(at: Path, out: Path, more: str = "") -> list[str]:
    return (
        f"train --data folder:{at / 'pictures'} --out {out} --steps 1 {START} "
        f"--device cpu --precision float32 {more}"
    ).split()


@pytest.mark.parametrize("more", RESUMED)
def test_a_command_line_and_the_run_it_goes_on_with(begun, more, capfd):
    before = (begun / "run" / "step-00000001" / "checkpoint.json").read_bytes()
    assert main(command(begun, begun / "run", f"--resume --steps 2 {more}")) == 2
    assert RESUMED[more] in capfd.readouterr().err
    assert (begun / "run" / "step-00000001" / "checkpoint.json").read_bytes() == before


@pytest.mark.parametrize("more", WARNED)
def test_what_may_change_on_resuming_is_said(begun, more, tmp_path):
    import shutil

    shutil.copytree(begun / "run", tmp_path / "run")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        asked = f"--resume --steps 2 {more.format(begun)}"
        assert main(command(begun, tmp_path / "run", asked)) == 0
    assert [w for w in said if WARNED[more] in str(w.message)]


def test_nothing_is_said_where_all_agrees(begun, tmp_path):
    import shutil

    shutil.copytree(begun / "run", tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert main(command(begun, tmp_path / "run", "--resume --steps 2")) == 0


def test_beginning_with_a_network_that_predicts_something_else(begun, tmp_path, capfd):
    more = f"--init {begun / 'run'} --predict x0"
    assert main(command(begun, tmp_path / "new", more)) == 2
    assert "its network predicts eps, the new one x0" in capfd.readouterr().err


def test_names_of_classes_in_another_order(tmp_path, capfd):
    for name in ("bag", "shoe"):
        folder(tmp_path / "pictures" / name) if (tmp_path / "pictures").is_dir() else (
            (tmp_path / "pictures").mkdir(),
            folder(tmp_path / "pictures" / name),
        )
    assert main(command(tmp_path, tmp_path / "run")) == 0
    file = tmp_path / "run" / "step-00000001" / "checkpoint.json"
    about = json.loads(file.read_text())
    assert about["info"]["classes"] == ["bag", "shoe"]
    about["info"]["classes"] = ["shoe", "bag"]
    file.write_text(json.dumps(about))
    assert main(command(tmp_path, tmp_path / "run", "--resume --steps 2")) == 2
    assert "was trained with classes = ['shoe', 'bag']" in capfd.readouterr().err


def test_resumed_beyond_the_end_says_what_is_true(begun, capfd):
    assert main(command(begun, begun / "long", "--steps 3")) == 0
    assert "trained for 3 steps; now" in capfd.readouterr().out
    assert main(command(begun, begun / "long", "--resume --steps 2")) == 0
    out = capfd.readouterr().out
    assert "trained for 3 steps; --steps 2 asks for no more; now" in out
    assert ddpm.load_checkpoint(begun / "long").step == 3
