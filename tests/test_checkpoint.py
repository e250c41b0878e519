import errno
import importlib
import json
import os
import pickle
import shutil
import types
from pathlib import Path

import pytest
import torch
from laboratory import Scale, randomise, small_unet
from safetensors.torch import load_file
from torch import nn

from ddpm_core import (
    UNet,
    as_eps_model,
    linear_schedule,
    load_checkpoint,
    save_checkpoint,
)
from ddpm_core.model import EpsModel
from ddpm_core.runtime import files, store
from ddpm_core.runtime.store import FILES

S = linear_schedule(10, 0.01, 0.2)


def saved(path: Path, seed: int = 1, **kwargs) -> UNet:
    model = randomise(small_unet(classes=2), seed)
    save_checkpoint(path, model, S, step=seed, **kwargs)
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(p, q)
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_round_trip(tmp_path):
    model = saved(
        tmp_path / "c",
        info={"a": [1, None, "é"]},
        training={"x": torch.arange(6).view(2, 3).T},
    )
    got = load_checkpoint(tmp_path / "c")
    assert (
        same(got.model, model)
        and got.model.config == model.config
        and not got.model.training
    )
    assert torch.equal(got.schedule.beta, S.beta)  # float64, to the bit, through JSON
    assert (
        got.step == 1
        and got.info == {"a": [1, None, "é"]}
        and got.path == tmp_path / "c"
        and got.training is None
    )
    assert load_checkpoint(tmp_path / "c", training=True).training["x"].tolist() == [
        [0, 3],
        [1, 4],
        [2, 5],
    ]
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "checkpoint.json",
        "training.safetensors",
        "weights.safetensors",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]


def test_others_can_read_what_was_written_as_far_as_the_umask_allows(tmp_path):
    saved(tmp_path / "c")
    assert len({p.stat().st_mode for p in (tmp_path / "c").iterdir()}) == 1


def test_saving_again_replaces_it_and_leaves_nothing_behind(tmp_path):
    saved(tmp_path / "c", 1)
    second = saved(tmp_path / "c", 2)
    assert load_checkpoint(tmp_path / "c").step == 2 and same(
        load_checkpoint(tmp_path / "c").model, second
    )
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_network_of_ones_own(tmp_path):
    save_checkpoint(tmp_path / "c", Scale(0.25), S)
    assert load_checkpoint(tmp_path / "c", model=Scale(0.0)).model.a == 0.25
    with pytest.raises(ValueError, match="it holds a Scale; pass model="):
        load_checkpoint(tmp_path / "c")
    with pytest.raises(ValueError, match="do not fit the model"):
        load_checkpoint(tmp_path / "c", model=small_unet())


def test_weights_shared_by_two_layers(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_checkpoint(
        tmp_path / "c",
        model,
        S,
        training={"whole": torch.arange(4.0), "part": torch.arange(4.0)[1:]},
    )
    assert same(
        load_checkpoint(
            tmp_path / "c", model=nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        ).model,
        model,
    )


def test_the_newest_complete_checkpoint_of_a_run(tmp_path):
    for n in (5, 900, 1000):
        saved(tmp_path / f"step-{n:08d}", n)
    (tmp_path / "step-00002000").mkdir()  # without checkpoint.json
    shutil.copytree(tmp_path / "step-00000005", tmp_path / ".step-00003000.partial")
    assert load_checkpoint(tmp_path).step == 1000
    assert load_checkpoint(tmp_path / "step-00000005").step == 5


STAGES = [
    ("save_file", 1),
    ("save_file", 2),
    ("write_text", 1),
    ("fsync", 1),
    ("fsync", 2),
    ("fsync", 3),
    ("fsync", 4),
    ("rename", 1),
    ("rename", 2),
    ("mkdir", 1),
    ("chmod", 1),
]


@pytest.fixture(params=STAGES, ids=lambda s: f"{s[0]} {s[1]}")
def failing(request, monkeypatch):
    """Makes one call of one stage of writing raise, the n-th of its kind, after doing half of its work where it can."""
    name, n = request.param

    def break_with(error):
        owner = {"save_file": files, "fsync": os}.get(name, Path)
        right, calls = getattr(owner, name), []

        def wrong(*args, **kwargs):
            calls.append(1)
            if len(calls) == n:
                if name == "save_file":
                    Path(args[1]).write_bytes(b"half of the file")
                raise error
            return right(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrong)
        return calls

    break_with.n = n
    return break_with


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()],
    ids=["disk full", "Ctrl-C"],
)
def test_whatever_fails_a_whole_checkpoint_remains(
    tmp_path, failing, error, monkeypatch
):
    models = {1: saved(tmp_path / "c", 1)}
    models[2] = randomise(small_unet(classes=2), 2)
    calls = failing(error)
    with pytest.raises(
        OSError if isinstance(error, OSError) else KeyboardInterrupt
    ) as raised:
        save_checkpoint(
            tmp_path / "c", models[2], S, step=2, training={"x": torch.ones(1)}
        )
    monkeypatch.undo()
    assert len(calls) >= failing.n
    got = load_checkpoint(tmp_path / "c")
    assert same(got.model, models[got.step])
    if isinstance(error, OSError):
        assert "could not be written" in str(raised.value) and "No space left" in str(
            raised.value
        )
        assert [p.name for p in tmp_path.iterdir()] == ["c"]
        assert got.step == 1
    save_checkpoint(tmp_path / "c", models[2], S, step=2)  # and the next time it works
    assert load_checkpoint(tmp_path / "c").step == 2 and [
        p.name for p in tmp_path.iterdir()
    ] == ["c"]


def test_whatever_fails_nothing_half_written_gets_the_name(
    tmp_path, failing, monkeypatch
):
    calls = failing(OSError(errno.ENOSPC, "No space left on device"))
    try:
        save_checkpoint(tmp_path / "c", small_unet(), S, training={"x": torch.ones(1)})
    except OSError:
        assert calls
        monkeypatch.undo()
        assert list(tmp_path.iterdir()) == []
    else:  # the stage belongs to replacing only
        assert len(calls) < failing.n


def test_a_folder_that_cannot_be_flushed_is_written_all_the_same(tmp_path, monkeypatch):
    right = os.open

    def refuse():
        raise PermissionError(errno.EACCES, "a folder cannot be opened here")

    monkeypatch.setattr(
        os,
        "open",
        lambda path, *args, **kwargs: (
            refuse() if path == tmp_path else right(path, *args, **kwargs)
        ),
    )
    model = saved(tmp_path / "c")
    monkeypatch.undo()
    assert same(load_checkpoint(tmp_path / "c").model, model)


def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="JSON"):
        save_checkpoint(tmp_path / "c", small_unet(), S, info={"a": {1, 2}})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="could not be written"):
        saved(tmp_path / "file" / "c")


@pytest.mark.parametrize("name", ["weights.safetensors", "training.safetensors"])
@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, -1])
def test_truncated_anywhere(tmp_path, name, keep):
    saved(tmp_path / "c", training={"x": torch.ones(100)})
    file = tmp_path / "c" / name
    whole = file.read_bytes()
    file.write_bytes(
        whole[: int(keep * len(whole)) if isinstance(keep, float) else keep]
    )
    with pytest.raises(
        ValueError, match=f"{name}.*truncated or no safetensors file.*take another copy"
    ):
        load_checkpoint(tmp_path / "c", training=True)


@pytest.mark.parametrize(
    "content, phrase",
    [
        (b"", "is not JSON"),
        (b'{"format": "ddpm_co', "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1, 2]", "says format 'list'"),
        (b'{"step": 1}', "says format None"),
        (b'{"format": "somebody else\'s 7"}', "wanted 'ddpm_core checkpoint 1'"),
        (b'{"format": "ddpm_core checkpoint 1"}', "does not describe a model"),
    ],
    ids=lambda v: None if isinstance(v, str) else str(v[:20]),
)
def test_a_foreign_or_damaged_json(tmp_path, content, phrase):
    saved(tmp_path / "c")
    (tmp_path / "c" / "checkpoint.json").write_bytes(content)
    with pytest.raises(ValueError, match=phrase):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize(
    "key, value",
    [
        ("network", None),
        ("network", {"class": "UNet", "width": 33}),
        ("network", {"class": "UNet", "depth": 3}),
        ("network", {"class": "os.system"}),
        ("network", {"class": "UNet", "image_size": "32"}),
        ("network", {"class": "UNet", "width": 32 * 10**9}),
        ("beta", []),
        ("beta", "linear"),
        ("beta", [0.1, 2.0]),
        ("beta", [0.1, None]),
        ("step", "many"),
        ("info", 3),
    ],
    ids=str,
)
def test_a_json_that_describes_nothing(tmp_path, key, value):
    saved(tmp_path / "c")
    file = tmp_path / "c" / "checkpoint.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(ValueError, match="checkpoint.json does not describe a model"):
        load_checkpoint(tmp_path / "c")


def test_weights_of_another_size(tmp_path):
    saved(tmp_path / "c")
    save_checkpoint(tmp_path / "d", small_unet(channels=3), S)
    (tmp_path / "d" / "weights.safetensors").replace(
        tmp_path / "c" / "weights.safetensors"
    )
    with pytest.raises(ValueError, match="do not fit the model.*size mismatch"):
        load_checkpoint(tmp_path / "c")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no checkpoint in .*nowhere.*ddpm train --out"
    ):
        load_checkpoint(tmp_path / "nowhere")
    saved(tmp_path / "c")
    with pytest.raises(FileNotFoundError, match="training.safetensors is missing"):
        load_checkpoint(tmp_path / "c", training=True)
    (tmp_path / "c" / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="weights.safetensors is missing"):
        load_checkpoint(tmp_path / "c")


class Hostile:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    "name",
    [
        "model.pt",
        "model.ckpt",
        "pytorch_model.bin",
        "weights.safetensors",
        "training.safetensors",
        "checkpoint.json",
    ],
)
def test_a_pickle_is_refused_and_not_executed(tmp_path, name):
    saved(tmp_path / "c", training={"x": torch.ones(1)})
    marker, file = tmp_path / "executed", tmp_path / "c" / name
    if name.endswith((".pt", ".bin")):
        torch.save({"weight": Hostile(marker)}, file)
    else:
        file.write_bytes(pickle.dumps({"weight": Hostile(marker)}))
    if name.endswith((".pt", ".ckpt", ".bin")):
        with pytest.raises(
            ValueError, match="is a file; wanted a folder.*can run code"
        ):
            load_checkpoint(file)
        load_checkpoint(
            tmp_path / "c", training=True
        )  # beside a checkpoint it is not looked at
    else:
        with pytest.raises(ValueError, match="truncated or no safetensors|is not JSON"):
            load_checkpoint(tmp_path / "c", training=True)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Hostile(marker)))
    assert marker.exists()  # it would have


def test_the_file_format_is_plain_safetensors(tmp_path):
    model = saved(tmp_path / "c")
    assert set(load_file(tmp_path / "c" / "weights.safetensors")) == set(
        model.state_dict()
    )
    json.loads(
        (tmp_path / "c" / "checkpoint.json").read_text(),
        parse_constant=lambda c: pytest.fail(f"{c} is no JSON"),
    )


def files_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


OTHERS = ["step-best", "step-00000010-good", "step-9", "step-0000000x", "steps"]


@pytest.mark.parametrize("name", OTHERS)
def test_only_step_and_eight_digits_are_a_runs_own(tmp_path, name):
    """A copy made by hand is neither taken for the newest checkpoint nor deleted."""
    saved(tmp_path / name, 7)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(tmp_path)
    saved(tmp_path / "step-00000003", 3)
    assert load_checkpoint(tmp_path).step == 3
    files.remove_steps(tmp_path, 10**6, FILES)
    assert load_checkpoint(tmp_path / name).step == 7
    assert not (tmp_path / "step-00000003").exists()


def test_numbers_are_compared_and_not_names(tmp_path):
    saved(tmp_path / "step-99999999", 1)
    saved(tmp_path / "step-100000000", 2)
    assert load_checkpoint(tmp_path).step == 2


def test_a_users_file_in_a_checkpoint_outlives_it(tmp_path):
    saved(tmp_path / "step-00000003", 3)
    (tmp_path / "step-00000003" / "notes.txt").write_text("mine")
    (tmp_path / ".step-00000003.partial").mkdir()  # left half-written by a kill
    (tmp_path / ".step-mine.partial").mkdir()
    files.remove_steps(tmp_path, 4, FILES)
    assert files_in(tmp_path) == {"step-00000003/notes.txt"}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".step-mine.partial",
        "step-00000003",
    ]
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed on the way"])
def test_a_users_file_moves_into_the_checkpoint_that_replaces_its(tmp_path, killed):
    saved(tmp_path / "c", 1)
    (tmp_path / "c" / "samples.png").write_text("mine")
    if killed:  # between the last rename and the moving of the file
        (tmp_path / "c").rename(tmp_path / ".c.old")
        saved(tmp_path / "d", 2)
        (tmp_path / "d").rename(tmp_path / "c")
    second = saved(tmp_path / "c", 3)
    assert (tmp_path / "c" / "samples.png").read_text() == "mine"
    assert same(load_checkpoint(tmp_path / "c").model, second)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_link_among_the_steps_is_the_users(tmp_path):
    saved(tmp_path / "elsewhere", 1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "step-00000001").symlink_to(tmp_path / "elsewhere")
    files.remove_steps(tmp_path / "run", 10, FILES)
    assert load_checkpoint(tmp_path / "elsewhere").step == 1


@store.register
class Two(nn.Module):
    """Two networks in one, of different kinds."""

    def __init__(self, width: int, more: list[int]):
        super().__init__()
        self.config = dict(width=width, more=more)
        self.first = nn.Linear(2, width)
        self.second = small_unet()
        self.register_buffer("count", torch.tensor(len(more)))


def test_several_networks_in_one_checkpoint_with_and_without_a_schedule(tmp_path):
    model = randomise(Two(3, [1, 2]))
    save_checkpoint(tmp_path / "c", model, S)
    assert same(load_checkpoint(tmp_path / "c").model, model)
    store.save_network(tmp_path / "n", model, step=4, info={"of": "what"})
    kept = store.load_network(tmp_path / "n")
    assert same(kept.network, model) and (kept.step, kept.info) == (4, {"of": "what"})
    assert kept.network.config == model.config
    with pytest.raises(ValueError, match="holds a Two without a schedule: use load_"):
        load_checkpoint(tmp_path / "n")
    assert same(store.load_network(tmp_path / "c").network, model)


@pytest.mark.parametrize(
    "name",
    [
        "os.PathLike",
        "subprocess.Popen",
        "__main__.main",
        "..os.path",
        "after.nothing.Here",
        "cli.main",
        "unet.ResBlock",  # of the package, but not registered
        "torch.nn.Linear",
    ],
)
def test_no_class_is_built_that_is_not_registered(tmp_path, name, monkeypatch):
    asked = []
    right = importlib.import_module

    def note(module, *rest):
        asked.append(module)
        return right(module, *rest)

    monkeypatch.setattr(importlib, "import_module", note)
    saved(tmp_path / "c")
    file = tmp_path / "c" / "checkpoint.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({**about, "network": {"class": name}}))
    with pytest.raises(ValueError, match=f"it holds a {name}; pass model="):
        load_checkpoint(tmp_path / "c")
    assert all(m.startswith("ddpm_core.") and "__main__" not in m for m in asked)


def test_a_class_of_the_package_is_imported_when_a_checkpoint_asks_for_it(
    tmp_path, monkeypatch
):
    module = types.ModuleType("ddpm_core.after.late")
    source = """
from torch import nn
from ddpm_core.runtime.store import register
@register
class Late(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.config, self.linear = dict(n=n), nn.Linear(n, 1)
"""
    exec(source, module.__dict__)
    model = module.Late(3)
    store.save_network(tmp_path / "c", model)
    assert store.read_about(tmp_path / "c")[0]["network"]["class"] == "after.late.Late"
    monkeypatch.delitem(store.CLASSES, "after.late.Late")
    with pytest.raises(ValueError, match="it holds a after.late.Late"):
        store.load_network(tmp_path / "c")

    def imported(name):
        assert name == "ddpm_core.after.late"
        exec(source, module.__dict__)

    monkeypatch.setattr(importlib, "import_module", imported)
    assert same(store.load_network(tmp_path / "c").network, model)


def test_weights_in_half_the_size_are_float32_again(tmp_path):
    model = saved(tmp_path / "whole")
    save_checkpoint(tmp_path / "half", model, S, half=True)
    whole, half = (
        (tmp_path / name / "weights.safetensors").stat().st_size
        for name in ("whole", "half")
    )
    assert half < 0.6 * whole
    got = load_checkpoint(tmp_path / "half").model
    for p, q in zip(got.parameters(), model.parameters()):
        assert p.dtype == torch.float32 and torch.equal(p, q.half().float())


WRAPPERS = {
    "compiled": torch.compile,
    "parallel": nn.DataParallel,
    "compiled in parallel": lambda net: nn.DataParallel(torch.compile(net)),
    "mu": lambda net: as_eps_model(net, S, "mu"),
    "mu of compiled": lambda net: as_eps_model(torch.compile(net), S, "mu"),
    "compiled mu": lambda net: torch.compile(as_eps_model(net, S, "mu")),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_around_a_network_is_taken_off(tmp_path, wrapper):
    network = randomise(small_unet())
    save_checkpoint(tmp_path / "c", WRAPPERS[wrapper](network), S)
    got = load_checkpoint(tmp_path / "c").model
    assert isinstance(got, EpsModel) == ("mu" in wrapper)
    assert same(got.network if "mu" in wrapper else got, network)
    other = randomise(small_unet(), 5)
    load_checkpoint(tmp_path / "c", model=WRAPPERS[wrapper](other))
    assert same(other, network)


def test_weights_that_fit_another_function_are_refused(tmp_path):
    """GroupNorm's groups leave no trace in the shapes of the weights."""
    torch.manual_seed(0)
    model = UNet(8, 1, 8, (1,), 1, (), 0.1, groups=4)
    save_checkpoint(tmp_path / "c", model, S)
    for groups in (2, 8):
        with pytest.raises(
            ValueError, match=f"has groups = {groups}, the checkpoint groups = 4"
        ):
            other = UNet(8, 1, 8, (1,), 1, (), 0.1, groups=groups)
            load_checkpoint(tmp_path / "c", model=other)
    other = UNet(8, 1, 8, (1,), 1, (), 0.5, groups=4)  # dropout is off by then
    assert same(load_checkpoint(tmp_path / "c", model=other).model, model)
