import argparse
import ast
import math
import re

import numpy as np
import pytest
import torch
from laboratory import generator, randomise, small_unet
from PIL import Image

from book._tools.notebooks import ROOT
from ddpm_core import Schedule, load_checkpoint, load_images, save_checkpoint, to_uint8
from ddpm_core.cli import main, parser


@pytest.fixture
def folder(tmp_path):
    """Eight grey pictures of 8 x 8."""
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(
        torch.randint(0, 256, (8, 8, 8), generator=generator(), dtype=torch.uint8)
    ):
        Image.fromarray(image.numpy()).save(tmp_path / "pictures" / f"{i}.png")
    return tmp_path


@pytest.fixture
def trained(tmp_path):
    """A conditional network with three named classes, as a finished run."""
    model = randomise(small_unet(classes=3, width=64))
    with torch.no_grad():
        model.embed_label.weight *= 30  # labels that are seen in 8 bits
    save_checkpoint(
        tmp_path / "run",
        model,
        Schedule([0.1, 0.2, 0.3, 0.5]),
        step=7,
        info={"classes": ["Boot", "bag", "coat"]},
    )
    return tmp_path / "run"


def training(folder, *more: str) -> list[str]:
    return [
        "train",
        "--data",
        f"folder:{folder}/pictures",
        "--out",
        f"{folder}/run",
        "--multipliers",
        "1",
        "--T",
        "4",
        "--batch-size",
        "4",
        "--device",
        "cpu",
        "--precision",
        "float32",
        *more,
    ]


def shown(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_train_resume_sample(folder, capfd):
    assert main(training(folder, "--steps", "3")) == 0
    out, err = capfd.readouterr()
    assert "trained for 3 steps; now: ddpm sample" in out and "3/3" in err
    assert main(training(folder, "--steps", "5", "--resume")) == 0
    checkpoint = load_checkpoint(folder / "run")
    assert checkpoint.step == 5 and checkpoint.schedule.T == 4
    assert checkpoint.model.config == dict(
        image_size=8,
        channels=1,
        width=32,
        multipliers=(1,),
        blocks=1,
        attention=(8,),
        dropout=0.1,
        classes=None,
        groups=8,
        learn_variance=False,
    )
    assert (
        main(
            [
                "sample",
                f"{folder}/run",
                "-n",
                "5",
                "--columns",
                "3",
                "--out",
                f"{folder}/new/samples.png",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert shown(folder / "new" / "samples.png").shape == (2 * 8 + 1, 3 * 8 + 2)
    assert [p.name for p in (folder / "new").iterdir()] == ["samples.png"]
    images, _ = load_images(f"folder:{folder}/new")
    assert images.shape == (1, 1, 17, 26)


def test_a_seed_gives_the_same_run(folder):
    main(training(folder, "--steps", "2", "--seed", "4"))
    first = load_checkpoint(folder / "run").model
    (folder / "run").rename(folder / "before")
    torch.rand(3)
    main(training(folder, "--steps", "2", "--seed", "4"))
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            first.parameters(), load_checkpoint(folder / "run").model.parameters()
        )
    )


def sampled(trained, name: str, *more: str) -> np.ndarray:
    out = trained.parent / name
    assert (
        main(["sample", str(trained), "--out", str(out), "--device", "cpu", *more]) == 0
    )
    return shown(out)


def test_an_image_depends_on_the_seed_and_its_number_only(trained):
    a = sampled(trained, "a.png", "-n", "6", "--columns", "6", "--labels", "bag")
    b = sampled(
        trained,
        "b.png",
        "-n",
        "5",
        "--columns",
        "5",
        "--labels",
        "bag",
        "--batch-size",
        "2",
    )
    assert (
        np.abs(a[:, :44].astype(int) - b).max() <= 1
    )  # sums in another order, then rounded
    c = sampled(trained, "c.png", "-n", "6", "--columns", "6")  # labels 0, 1, 2, 0, ...
    d = sampled(trained, "d.png", "-n", "6", "--columns", "6", "--batch-size", "4")
    assert np.abs(c.astype(int) - d).max() <= 1
    fewer = sampled(trained, "e.png", "-n", "3", "--columns", "3")
    assert np.abs(c[:, : fewer.shape[1]].astype(int) - fewer).max() <= 1, (
        "how many are drawn changes what is drawn"
    )
    c = sampled(
        trained, "c.png", "-n", "6", "--columns", "6", "--labels", "bag", "--seed", "1"
    )
    assert np.abs(a.astype(int) - c).max() > 20


def test_a_sheet_is_as_wide_as_it_is_full(trained):
    assert sampled(trained, "a.png", "-n", "2").shape == (8, 17)
    assert sampled(trained, "b.png", "-n", "2", "--columns", "5").shape == (8, 17)
    assert sampled(trained, "c.png", "-n", "7").shape == (26, 26)  # a column a class


def test_each_picture_alone(trained, capfd):
    """The pictures of the sheet, and never among, or over, others."""
    sheet = sampled(trained, "a.png", "-n", "3", "--columns", "3")
    folder = trained.parent / "each"
    command = ["sample", str(trained), "-n", "3", "--device", "cpu", "--each"]
    assert main([*command, "--out", str(folder)]) == 0
    files = sorted(folder.iterdir())
    assert [f.name for f in files] == ["00000.png", "00001.png", "00002.png"]
    for i, file in enumerate(files):
        assert np.abs(shown(file).astype(int) - sheet[:, 9 * i : 9 * i + 8]).max() <= 1
    capfd.readouterr()
    before = [f.read_bytes() for f in files]
    assert "not an empty folder" in fails([*command, "--out", str(folder)], capfd)
    assert "not an empty folder" in fails([*command, "--out", str(files[0])], capfd)
    assert before == [f.read_bytes() for f in sorted(folder.iterdir())]


def test_labels_by_name_by_number_and_in_turn(trained):
    one = lambda name, *labels, n="3": sampled(
        trained, name, "-n", n, "--columns", n, "--labels", *labels
    )
    names, numbers = one("a.png", "boot", "BAG", "coat"), one("b.png", "0", "1", "2")
    assert np.array_equal(names, numbers)
    assert np.array_equal(
        names, sampled(trained, "c.png", "-n", "3", "--columns", "3")
    )  # all classes, in order
    assert not np.array_equal(names, one("d.png", "coat"))
    turns = one("e.png", "boot", "bag", n="4")
    assert turns.shape == (8, 35)


@pytest.mark.parametrize(
    "more",
    [
        ["--sampler", "ddim", "--steps", "2"],
        ["--variance", "beta_tilde"],
        ["--no-clip"],
        ["--guidance", "2"],
    ],
)
def test_sampling_options_reach_the_sampler(trained, more):
    plain = sampled(trained, "a.png", "-n", "3", "--columns", "3")
    assert not np.array_equal(
        plain, sampled(trained, "b.png", "-n", "3", "--columns", "3", *more)
    )


@pytest.mark.parametrize("command", [[], ["train"], ["sample"]])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "usage: ddpm" in out
    if not command:
        assert "train" in out and "sample" in out


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["fly"],
        ["train"],
        ["sample"],
        ["train", "--data", "digits", "--out", "x", "--steps", "many"],
    ],
    ids=" ".join,
)
def test_usage_errors_have_status_2(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2 and "usage: ddpm" in capsys.readouterr().err


def fails(command: list[str], capfd) -> str:
    """The one line on stderr with which a command ends, with status 2."""
    assert main(command) == 2
    out, err = capfd.readouterr()
    lines = [
        line
        for line in err.splitlines()
        if line.strip()
        and not line.lstrip("\r").startswith(("sampling:", "training:"))
        and "x_T is not yet noise" not in line  # of the tests' short chains
    ]
    assert (
        out == "" and len(lines) == 1 and lines[0].startswith(f"ddpm {command[0]}: ")
    ), err
    return lines[0]


@pytest.mark.parametrize(
    "more, phrase",
    [
        (
            ["--labels", "shoe"],
            "unknown label 'shoe'; wanted 0 to 2 or Boot, bag, coat",
        ),
        (["--labels", "0", "3"], "unknown label '3'"),
        (["-n", "0"], "wanted at least 1"),
        (["--steps", "5"], "steps = 5; wanted None, or a whole number from 1 to T = 4"),
        (["--steps", "0"], "steps = 0"),
        (["--out", "picture.jpg"], "ends in .png"),
        (["--device", "gpu"], "device = 'gpu' cannot be used here"),
        (["--device", "cuda:77"], "device = 'cuda:77' cannot be used here"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_what_a_user_can_mend_in_sampling(trained, more, phrase, capfd):
    assert phrase in fails(
        ["sample", str(trained), "--out", f"{trained}.png", "--device", "cpu", *more],
        capfd,
    )
    assert not (trained.parent / "run.png").exists()


def test_a_missing_and_a_pickled_checkpoint(tmp_path, capfd):
    assert "no checkpoint in" in fails(
        ["sample", f"{tmp_path}/nowhere", "--out", f"{tmp_path}/a.png"], capfd
    )
    (tmp_path / "model.pt").write_bytes(b"\x80\x04N.")
    assert "can run code" in fails(
        ["sample", f"{tmp_path}/model.pt", "--out", f"{tmp_path}/a.png"], capfd
    )


def test_labels_for_a_network_without_classes(tmp_path, capfd):
    save_checkpoint(tmp_path / "run", small_unet(), Schedule([0.1]))
    assert "trained without labels" in fails(
        [
            "sample",
            f"{tmp_path}/run",
            "--out",
            f"{tmp_path}/a.png",
            "--labels",
            "bag",
            "--device",
            "cpu",
        ],
        capfd,
    )
    assert "guidance" in fails(
        [
            "sample",
            f"{tmp_path}/run",
            "--out",
            f"{tmp_path}/a.png",
            "--guidance",
            "1",
            "--device",
            "cpu",
        ],
        capfd,
    )


def test_a_picture_that_cannot_be_written(trained, capfd):
    (trained.parent / "file").write_text("kept")
    fails(
        [
            "sample",
            str(trained),
            "-n",
            "1",
            "--out",
            f"{trained.parent}/file/a.png",
            "--device",
            "cpu",
        ],
        capfd,
    )
    assert (trained.parent / "file").read_text() == "kept"


@pytest.mark.parametrize(
    "more, phrase",
    [
        (["--data", "mnist"], "unknown data set 'mnist'; wanted \"fashion-mnist\""),
        (["--data", "folder:/nowhere/at/all"], "is not a folder"),
        (["--steps", "-5"], "steps = -5; wanted at least 0"),
        (["--lr", "0"], "lr = 0.0; wanted more than 0"),
        (["--lr", "nan"], "lr = nan; wanted a number"),
        (["--ema", "1"], "ema = 1.0; wanted 0 <= ema < 1"),
        (["--batch-size", "0"], "batch_size = 0; wanted more than 0"),
        (["--save-every", "0"], "save_every = 0; wanted more than 0"),
        (["--T", "0"], "T = 0; wanted a whole number of steps"),
        (["--width", "42"], "width = 42; wanted a multiple of 8"),
        (
            ["--multipliers", "1", "1", "1", "1", "1"],
            "image_size = 8 cannot be halved 4 times",
        ),
        (["--attention", "5"], "attention at side [5]"),
        (["--dropout", "1.5"], "dropout = 1.5; wanted a probability"),
        (["--paper"], "the model is for (3, 32, 32)"),
        (["--device", "gpu"], "device = 'gpu' cannot be used here"),
        (["--resume"], "no checkpoint in"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_what_a_user_can_mend_in_training(folder, more, phrase, capfd):
    assert phrase in fails(training(folder, "--steps", "2", *more), capfd)
    assert not (folder / "run").exists()


def test_a_run_is_not_overwritten(folder, capfd):
    main(training(folder, "--steps", "2"))
    capfd.readouterr()
    before = {p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()}
    assert "already holds a run (step-00000002); go on with resume=True" in fails(
        training(folder, "--steps", "2"), capfd
    )
    assert "do not fit the model" in fails(
        training(folder, "--steps", "4", "--resume", "--width", "64"), capfd
    )
    assert "was trained with Schedule(T=4" in fails(
        training(folder, "--steps", "4", "--resume", "--schedule", "cosine"), capfd
    )
    assert {
        p: p.read_bytes() for p in (folder / "run").rglob("*") if p.is_file()
    } == before


def test_images_that_are_not_square(folder, capfd):
    for path in (folder / "pictures").iterdir():
        Image.new("L", (8, 16)).save(path)
    assert "16 x 8" in fails(training(folder, "--steps", "2"), capfd).replace(
        "8 x 16", "16 x 8"
    )


def test_out_is_a_file(folder, capfd):
    (folder / "run").write_text("kept")
    fails(training(folder, "--steps", "1"), capfd)
    assert (folder / "run").read_text() == "kept"


def test_labels_of_the_data_are_used_unless_refused(tmp_path, monkeypatch):
    from ddpm_core.commands import train
    from ddpm_core.data import Labelled

    images = torch.randint(
        0, 256, (6, 1, 8, 8), generator=generator(), dtype=torch.uint8
    )
    monkeypatch.setattr(
        train,
        "load_labelled",
        lambda name, labels=True: Labelled(
            images, *((torch.arange(6) % 3, ("a", "b", "c")) if labels else (None,) * 2)
        ),
    )
    command = [
        "train",
        "--data",
        "toys",
        "--steps",
        "1",
        "--multipliers",
        "1",
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]
    assert (
        main([*command, "--out", f"{tmp_path}/with"])
        == main([*command, "--out", f"{tmp_path}/without", "--unconditional"])
        == 0
    )
    with_, without = (load_checkpoint(tmp_path / name) for name in ("with", "without"))
    assert with_.model.classes == 3 and with_.info["classes"] == ["a", "b", "c"]
    assert without.model.classes is None and without.info["classes"] is None


def test_the_saved_grid_is_what_sample_returns(trained):
    from ddpm_core import sample
    from ddpm_core.training import mix

    grid = sampled(
        trained, "a.png", "-n", "1", "--columns", "1", "--seed", "3", "--labels", "coat"
    )
    checkpoint = load_checkpoint(trained)
    x = sample(
        checkpoint.model,
        checkpoint.schedule,
        (1, 1, 8, 8),
        generator=[generator(mix(3, "image", 0))],
        labels=torch.tensor([2]),
    )
    assert np.array_equal(grid, to_uint8(x)[0, 0].numpy())


def test_init_begins_with_the_weights_of_a_checkpoint(folder, capsys):
    small = [
        "train",
        "--data",
        f"folder:{folder / 'pictures'}",
        "--width",
        "8",
        "--multipliers",
        "1",
        "--attention",
        "--batch-size",
        "2",
        "--device",
        "cpu",
    ]
    begin = ["--groups", "8", "--init", str(folder / "first")]
    assert (
        main([*small, "--groups", "4", "--steps", "2", "--out", str(folder / "first")])
        == 0
    )
    assert (
        main(
            [
                *small,
                *begin,
                "--steps",
                "1",
                "--lr",
                "1e-12",
                "--out",
                str(folder / "second"),
                "--seed",
                "5",
            ]
        )
        == 0
    )
    first, second = (load_checkpoint(folder / name) for name in ("first", "second"))
    assert all(
        torch.allclose(a, b, atol=1e-9)
        for a, b in zip(
            first.model.state_dict().values(),
            second.model.state_dict().values(),
            strict=True,
        )
    )
    assert (
        second.model.config["groups"] == 8
        and second.info["init"]["groups"] == 4
        and second.info["init"]["step"] == 2
    )
    assert (
        main(
            [
                *small,
                *begin,
                "--blocks",
                "2",
                "--steps",
                "1",
                "--out",
                str(folder / "third"),
            ]
        )
        == 2
    )
    assert "other sizes" in capsys.readouterr().err and not (folder / "third").exists()


def test_the_ends_of_the_schedule(folder, capfd):
    ends = ["--T", "30", "--beta-1", "0.01", "--beta-T", "0.7"]
    assert main(training(folder, "--steps", "1", *ends)) == 0
    beta = load_checkpoint(folder / "run").schedule.beta[1:]
    assert beta[[0, -1]].tolist() == [0.01, 0.7] and len(beta) == 30
    assert "not yet noise" not in capfd.readouterr().err
    for more in (["--beta-1", "0.3"], ["--beta-T", "0.3"]):
        assert "has no --beta-1 and --beta-T" in fails(
            training(folder, "--steps", "1", "--schedule", "cosine", *more), capfd
        )


@pytest.mark.parametrize("T", [4, 100, 500])
def test_a_chain_that_does_not_end_in_noise_is_said(folder, capfd, T):
    """With the figure, and with remedies that are one."""
    command = training(folder, "--steps", "1", "--T", str(T))
    assert main(command) == 0
    said = capfd.readouterr().err
    betas = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
    left = -math.log2(1 - float((1 - betas).prod())) / 2
    assert f"L_T is up to {left:.2g} bits/dim" in said and "--schedule cosine" in said
    remedies = said.rpartition("try ")[2].splitlines()[0].split(", or ")
    assert len(remedies) == (1 if T == 4 else 2)
    for i, remedy in enumerate(remedies):
        other = [*command, "--out", str(folder / f"other-{i}"), *remedy.split()]
        assert main(other) == 0
        assert "not yet noise" not in capfd.readouterr().err


def options() -> dict[str, set[str]]:
    """The options of each command, as argparse knows them."""
    (commands,) = (
        a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)
    )
    return {
        name: {word for action in p._actions for word in action.option_strings}
        for name, p in commands.choices.items()
    }


def remedies() -> list[tuple[str, str]]:
    """(module, message) of every error and warning of the package, f-strings too."""
    found = []
    for file in (ROOT / "ddpm_core").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            what = getattr(node, "func", None)
            name = getattr(what, "id", None) or getattr(what, "attr", "")
            if name.endswith(("Error", "warn", "_tell", "KeyboardInterrupt")):
                words = " ".join(
                    n.value
                    for a in node.args
                    for n in ast.walk(a)
                    if isinstance(n, ast.Constant) and isinstance(n.value, str)
                )
                found.append((file.name, words))
    return found


def test_every_remedy_of_an_error_is_there():
    known = {option for some in options().values() for option in some}
    named = [
        (file, word)
        for file, text in remedies()
        for word in re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text)
    ]
    assert len(named) > 10
    others = {"--nproc-per-node": "torchrun", "--local-dir": "huggingface"}
    strange = [(file, word) for file, word in named if word not in known]
    assert {word for _, word in strange} <= set(others), strange


def test_a_remedy_in_python_is_said_for_the_command_line_too():
    known = {option for some in options().values() for option in some}
    seen = set()
    for file, text in remedies():
        if "needs out=" in text:  # which the command line always gives
            continue
        for name in re.findall(r"\b([a-z_]+)=(?:True|False|None)", text):
            if f"--{name.replace('_', '-')}" in known:
                seen.add(name)
                assert known & set(re.findall(r"--[\w-]+", text)), (file, text)
    assert {"resume", "grey", "skip_unreadable"} <= seen


def test_a_size_that_the_data_cannot_have_is_refused(tmp_path, capfd):
    """It was ignored: the network was then of another size than asked for."""
    command = ["train", "--data", "fashion-mnist", "--size", "8", "--steps", "1"]
    assert "are 28 x 28 and stay so" in fails(
        [*command, "--out", f"{tmp_path}/run"], capfd
    )
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_refused_before_pictures_are_read(
    folder, capfd, monkeypatch
):
    from ddpm_core.commands import train

    assert main(training(folder, "--steps", "1")) == 0
    capfd.readouterr()
    monkeypatch.setattr(train, "load_labelled", None)  # would be called
    said = fails(training(folder, "--steps", "2"), capfd)
    assert "already holds a run" in said and "--resume" in said


def test_encode_asks_first_whether_it_may_write(trained, tmp_path, capfd, monkeypatch):
    from ddpm_core.commands import encode

    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr(encode, "load_images", None)  # would be called
    out = str(tmp_path / "file" / "x.ddpm")
    command = ["encode", str(trained), "--data", "digits", "--out", out]
    assert "cannot be written" in fails(command, capfd)
    assert (tmp_path / "file").read_text() == "kept"
