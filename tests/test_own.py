"""The chapter "Your own pictures": each of its commands runs, on a few small pictures and
with toy sizes; its table of the paper's runs is what --paper does; where --init finds
weights."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from laboratory import generator
from PIL import Image

import ddpm_core as ddpm
from book._tools.notebooks import BOOK, ROOT
from ddpm_core.cli import main, parser
from ddpm_core.commands import train
from ddpm_core.data import FLIP, PAPER
from experiments import own, sizes

NOTEBOOK = json.loads((BOOK / "22_your_own.ipynb").read_text(encoding="utf-8"))
TEXT = "\n".join(
    "".join(cell["source"])
    for cell in NOTEBOOK["cells"]
    if cell["cell_type"] == "markdown"
)
COMMANDS = [
    line
    for kind, block in re.findall(
        r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE
    )
    if not kind
    for line in block.strip().split("\n")
]
# What a toy run is told instead, after what the chapter says: the last word counts.
TOY = (
    "--steps 1 --batch-size 4 --width 8 --multipliers 1 --blocks 1 --groups 4 "
    "--attention --T 20 --beta-1 0.005 --beta-T 0.9 --sample-every 0 --decay 0 "
    "--device cpu"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two folders of colour pictures of 8 x 8, and what the commands need of the world."""
    home = tmp_path_factory.mktemp("home")
    for name in ("pictures", "kept", "bedrooms", "cats"):
        (home / name).mkdir()
        drawn = torch.randint(0, 256, (8, 8, 8, 3), generator=generator(len(name)))
        for i, picture in enumerate(drawn.to(torch.uint8)):
            Image.fromarray(picture.numpy()).save(home / name / f"{i}.png")
    return home


def words_of(line: str) -> list[str]:
    """The words of a line of the chapter that `ddpm` is given."""
    words = shlex.split(line)
    return words[words.index("ddpm_core" if "torchrun" in words else "ddpm") + 1 :]


def test_the_chapter_has_its_commands():
    assert len(COMMANDS) >= 18, COMMANDS
    assert {words_of(line)[0] for line in COMMANDS} == {"train", "sample", "evaluate"}
    for name in ("cifar10", "hub:", "--init", "--resume", "--sample-every", "--paper"):
        assert any(name in line for line in COMMANDS), name


@pytest.mark.parametrize("line", COMMANDS)
def test_a_line_is_one_that_ddpm_takes(line):
    """As it stands, with no word of it changed."""
    options = parser().parse_args(words_of(line))
    whole = options.command == "train" and "half" not in options.out.name
    assert not whole or options.steps >= 5000


@pytest.mark.parametrize("line", COMMANDS)
def test_a_line_runs(line, home, tmp_path, monkeypatch):
    """With toy sizes on the pictures of `home`, in the place of the hub, the drive and
    the published weights; a run that a line needs is made before."""
    monkeypatch.chdir(tmp_path)
    for name in ("pictures", "kept", "bedrooms", "cats"):
        Path(name).symlink_to(home / name)
    words = [
        {"/content/drive/MyDrive/mine": "drive"}.get(word, word)
        for word in words_of(line)
    ]
    if words[0] != "train":
        toy_run(words[1])
        more = "--device cpu --batch-size 4"
        if "inception" in words:
            words[words.index("inception")] = "none"
            more += " --bound 2 --evaluations 4"
        if words[0] == "evaluate" and "--unseen" not in words:
            more += " --unseen folder:kept"
        number = "--steps 2" if words[0] == "sample" else ""
        toy = f"{more} {number} -n 2 {'--bound 2' if words[0] == 'evaluate' else ''}"
        assert main([*words, *toy.split()]) == 0
        return
    data = words[words.index("--data") + 1]
    if data.startswith(("cifar10", "celebahq", "lsun", "hub")):
        words[words.index("--data") + 1] = "folder:pictures"
    if "--resume" in words:
        toy_run(words[words.index("--out") + 1])
    if "--init" in words:
        name = words[words.index("--init") + 1]
        if name.startswith("google/"):
            published = ddpm.UNet(8, 3, 8, (1,), 1, (), groups=4)
            monkeypatch.setattr(train, "from_diffusers", lambda given: published)
        else:
            toy_run(name)
    words = [word for word in words if word != "--paper"]
    size = [] if data.startswith(("cifar10", "celebahq", "lsun")) else ["--size", "8"]
    steps = "2" if "--resume" in words else "1"
    grey = ["--grey"] if "--grey" in words else []
    toy = [*shlex.split(TOY), *size, *grey, "--accumulate", "1", "--lr", "1e-3"]
    assert main([*words, *toy, "--steps", steps]) == 0
    out = words[words.index("--out") + 1]
    assert ddpm.load_checkpoint(out).step == int(steps)


def toy_run(out: str) -> None:
    command = f"train --data folder:pictures --size 8 --out {out} {TOY}"
    assert main(shlex.split(command)) == 0


def test_the_half_hour_is_the_one_that_was_timed():
    """The stored minutes and samples are those of the chapter's commands."""
    stored = json.loads((ROOT / "data/results/half_hour.json").read_text())
    timed = [done["command"] for done in stored["commands"]]
    assert len(timed) == 3 and set(timed) <= set(COMMANDS)
    assert sum(done["seconds"] for done in stored["commands"]) < 1800


# ---- the paper's runs


def test_the_table_is_what_paper_does():
    """Pictures, batch, rate, dropout and mirroring, from the code; and the steps of the
    command above the table are those in it."""
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in re.findall(r"^\| (?:cifar10|celebahq|lsun).*$", TEXT, re.MULTILINE)
    ]
    assert [row[0] for row in rows] == list(PAPER)
    for name, pictures, steps, batch, rate, dropout, mirrored in rows:
        line = next(c for c in COMMANDS if f"--paper --data {name}" in c)
        options = parser().parse_args(words_of(line))
        side = PAPER[name].size or 32
        told = train._training(options, side)
        network = train._network(
            options, train.Read(torch.empty(0), None, None, None, 3, side), False
        )
        assert int(pictures.replace(",", "")) == PAPER[name].images
        assert int(steps.replace(",", "")) == told.steps
        assert (int(batch), float(rate)) == (told.batch_size, told.lr)
        assert float(dropout) == network.config["dropout"]
        assert (mirrored == "yes") == FLIP[name] == told.flip
        assert (told.warmup, told.ema, told.clip) == (5000, 0.9999, 1.0)


@pytest.mark.parametrize(
    "more, side, batch",
    [
        ("--paper", 32, 128),
        ("--paper", 256, 64),
        ("--paper --batch-size 16", 256, 16),
        ("", 256, 128),
    ],
)
def test_batches_are_the_papers(more, side, batch):
    line = f"train --data folder:x --steps 1 --out y {more}"
    assert train._training(parser().parse_args(line.split()), side).batch_size == batch


def test_a_streamed_folder_tells_its_size_before_its_batch(monkeypatch):
    """256 pixels, found in the folder: batches of 64 all the same."""
    asked = []

    class Found:
        shape, classes, names = (3, 256, 256), None, None

    monkeypatch.setattr(
        train, "load_stream", lambda name, batch, **how: asked.append(batch) or Found()
    )
    line = "train --paper --stream --data folder:x --steps 1 --out y"
    read = train._read(parser().parse_args(line.split()), {})
    assert asked == [128, 64] and read.side == 256


# ---- weights to begin with


def test_init_takes_a_folder_of_diffusers(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pictures").symlink_to(home / "pictures")
    torch.manual_seed(3)
    unet = ddpm.UNet(8, 3, 8, (1,), 1, (), groups=4)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ddpm.to_diffusers(unet, "theirs")
    line = f"train --data folder:pictures --out run {TOY} --init theirs --lr 1e-12"
    assert main(shlex.split(line)) == 0
    run = ddpm.load_checkpoint("run")
    for a, b in zip(unet.parameters(), run.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=0)
    assert run.info["init"] == {"groups": 4, "name": "theirs"}


@pytest.mark.parametrize(
    "name, published",
    [
        ("google/ddpm-cifar10-32", True),
        ("owner/name", True),
        ("runs/forgotten", False),  # there is a folder runs: a run is missing in it
        ("forgotten", False),
        ("../owner/name", False),
        ("a/b/c", False),
    ],
)
def test_what_is_looked_for_on_the_hub(name, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    assert train._of_diffusers(name) == published


# ---- the numbers behind the chapter


def test_the_price_list_is_counted_anew():
    stored = json.loads((ROOT / "data/results/own.json").read_text())["sizes"]
    assert [row["name"] for row in stored] == list(sizes.SIZES)
    for row in stored[:2] + stored[4:5]:
        counted = sizes.count(sizes.SIZES[row["name"]][0])
        assert counted == {key: row[key] for key in counted}
    assert stored[4]["parameters"] == 35_746_307


def test_the_stored_losses_are_those_of_the_stored_weights():
    """The network of all bags, at its least held-out loss, on the held-out pictures."""
    stored = json.loads((ROOT / "data/results/own.json").read_text())
    kept = ddpm.load_checkpoint(ROOT / "data/checkpoints/bags")
    run = stored["runs"]["bags-6000"]
    at = next(line for line in run["losses"] if line["step"] == kept.step)
    unseen = own.pictures(own.BAG, "test")
    again = own.loss_of(kept.model.eval(), kept.schedule, unseen, 1)
    assert at["unseen"] == min(line["unseen"] for line in run["losses"])
    assert again == pytest.approx(at["unseen"], rel=2e-3)  # float16, other processors
    other = own.loss_of(kept.model, kept.schedule, own.pictures(own.BOOT, "test"), 1)
    assert abs(other / at["unseen"] - 1) > 0.02  # it would notice other pictures
