"""Weights in and out of diffusers. All of them are drawn anew, those too that start at zero, so that no layer hides what it does."""

import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from laboratory import generator, randn, randomise
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from ddpm_core import (
    Schedule,
    UNet,
    cifar10_unet,
    from_diffusers,
    linear_schedule,
    pipeline_from_diffusers,
    sample,
    schedulers,
    to_diffusers,
    unet2d,
)
from ddpm_core.reverse import as_eps_model
from ddpm_core.runtime import files

diffusers = pytest.importorskip("diffusers")

TIMES = (1, 500, 1000)
WEIGHTS = "diffusion_pytorch_model"

# The config.json of google/ddpm-cifar10-32. Whether attention_head_dim is null or missing depends on the file.
CIFAR10 = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": [
        "DownBlock2D",
        "AttnDownBlock2D",
        "DownBlock2D",
        "DownBlock2D",
    ],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
# The same structure, smaller: attention at the second of four levels, shortcuts where the width changes.
REDUCED = CIFAR10 | {
    "block_out_channels": [16, 32, 32, 32],
    "norm_num_groups": 8,
    "sample_size": 16,
}
# One of each part, for what does not depend on their number.
SMALL = CIFAR10 | {
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "sample_size": 8,
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


def reduced(**changes) -> UNet:
    return randomise(
        UNet(
            **(
                dict(
                    image_size=16,
                    channels=3,
                    width=16,
                    multipliers=(1, 2, 2, 2),
                    attention=(8,),
                    groups=8,
                )
                | changes
            )
        )
    ).eval()


def small(**changes) -> UNet:
    return reduced(
        **(
            dict(
                image_size=8,
                width=8,
                multipliers=(1, 2),
                blocks=1,
                attention=(4,),
                groups=4,
            )
            | changes
        )
    )


def theirs_from(config: dict):
    """Their network with random weights."""
    return randomise(
        diffusers.UNet2DModel(
            **{k: v for k, v in config.items() if not k.startswith("_")}
        )
    ).eval()


def load_theirs(folder):
    model, loading = diffusers.UNet2DModel.from_pretrained(
        folder, low_cpu_mem_usage=False, output_loading_info=True
    )
    assert not any(loading.values()), (
        loading
    )  # it only warns of tensors that do not fit
    return model.eval()


def old_names(weights):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    return {
        re.sub(
            r"(attentions\.\d+)\.(to_[qkv]|to_out\.0)\.",
            lambda m: f"{m[1]}.{names[m[2]]}.",
            name,
        ): w
        for name, w in weights.items()
    }


def write(folder: Path, config: dict, weights: dict, file: str = "safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if file == "safetensors":
        save_file(weights, folder / f"{WEIGHTS}.safetensors", metadata={"format": "pt"})
    else:
        torch.save(
            weights,
            folder / f"{WEIGHTS}.bin",
            _use_new_zipfile_serialization=file == "bin",
        )
    return folder


@torch.no_grad()
def assert_same_answers(ours, theirs, labels=None):
    c = ours.config
    x = randn(
        2, c["channels"], c["image_size"], c["image_size"], seed=3, dtype=torch.float32
    )
    answers = []
    for t in TIMES:
        mine = ours(x, t, labels)
        answers.append(mine)
        assert_close(
            mine, theirs(x, t - 1, class_labels=labels).sample, rtol=0, atol=1e-5
        )
    assert (
        min((a - b).abs().max() for a, b in zip(answers, answers[1:])) > 1e-3
        and answers[0].std() > 0.1
    ), "t, or the weights, were not seen"


def same_weights(a, b):
    return all(
        torch.equal(p, q)
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.fixture(scope="module")
def theirs():
    return theirs_from(SMALL)


@pytest.fixture
def published(theirs, tmp_path):
    """A folder like the published ones, small."""
    return write(tmp_path / "published", SMALL, theirs.state_dict())


def say(folder, **changes):
    """Change entries of its config.json; an Ellipsis takes one out."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))
    return folder


# Into ddpm_core


@pytest.mark.parametrize(
    "names, file",
    [
        (dict, "safetensors"),
        (old_names, "safetensors"),
        (dict, "bin"),
        (old_names, "legacy bin"),
    ],
)
def test_from_diffusers(tmp_path, names, file):
    theirs = theirs_from(REDUCED)
    weights = names(theirs.state_dict())
    assert ("mid_block.attentions.0.query.weight" in weights) == (names is old_names)
    ours = from_diffusers(write(tmp_path / "x", REDUCED, weights, file))
    assert ours.config == reduced(dropout=0.0).config and not ours.training
    assert_same_answers(ours, theirs)


def test_the_published_cifar10_network_and_ours(tmp_path):
    """The true sizes, once: out to their class, which answers alike, and back from a file as old as the published one."""
    ours = randomise(cifar10_unet()).eval()
    to_diffusers(ours, tmp_path / "out")
    theirs = load_theirs(tmp_path / "out")
    assert len(theirs.state_dict()) == 328
    x = randn(1, 3, 32, 32, dtype=torch.float32)
    with torch.no_grad():
        for t in TIMES:
            # 4e-6 is seen at t = 1 and 8e-6 at t = 1000, half of it from their other rounding of the frequencies, times 999
            assert_close(ours(x, t), theirs(x, t - 1).sample, rtol=0, atol=1e-5)
    back = from_diffusers(
        write(tmp_path / "old", CIFAR10, old_names(theirs.state_dict()), "bin")
    )
    assert same_weights(back, ours) and back.config == ours.config | {"dropout": 0.0}
    shutil.rmtree(tmp_path)  # 286 MB


@pytest.mark.parametrize(
    "image_size, multipliers, attention",
    [(32, (1, 2, 2, 2), (16,)), (256, (1, 1, 2, 2, 4, 4), (16,))],
)
def test_the_published_sizes_by_their_config(image_size, multipliers, attention):
    """... and every tensor has its namesake of the same shape. (Without memory for the 114 million of the second.)"""
    config = CIFAR10 | {
        "sample_size": image_size,
        "block_out_channels": [128 * m for m in multipliers],
    }
    config["down_block_types"] = [
        "AttnDownBlock2D" if image_size // 2**i in attention else "DownBlock2D"
        for i in range(len(multipliers))
    ]
    config["up_block_types"] = [
        d.replace("Down", "Up") for d in reversed(config["down_block_types"])
    ]
    with torch.device("meta"):
        ours = UNet(**unet2d.arguments_of(config))
        theirs = diffusers.UNet2DModel(
            **{k: v for k, v in config.items() if not k.startswith("_")}
        )
        assert (
            ours.config
            == UNet(image_size, 3, 128, multipliers, 2, attention, 0.0).config
        )
    assert {unet2d.theirs(n): w.shape for n, w in ours.state_dict().items()} == {
        n: w.shape for n, w in theirs.state_dict().items()
    }


def test_a_head_of_8_channels_would_be_another_network(published, theirs):
    """The trap: the class's default for the missing entry. The shapes are the same, the answers are not."""
    say(published, attention_head_dim=...)
    ours = from_diffusers(published)
    assert_same_answers(ours, theirs)
    trapped = load_theirs(published)
    assert trapped.config.attention_head_dim == 8 and same_weights(trapped, theirs)
    x = randn(1, 3, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        assert (ours(x, 500) - trapped(x, 499).sample).abs().max() > 1e-3
    with pytest.raises(
        ValueError,
        match=re.escape(
            "attention_head_dim = 8, wanted null: one head of all [16] channels, "
            "not [2] heads"
        ),
    ):
        from_diffusers(say(published, attention_head_dim=8))


@pytest.mark.parametrize(
    "changes",
    [
        dict(attention_head_dim=16),
        dict(act_fn="swish"),
        dict(sample_size=[8, 8]),
        dict(attn_norm_num_groups=4),
        dict(
            time_embedding_dim=32,
            num_train_timesteps=1000,
            mid_block_type="UNetMidBlock2D",
            add_attention=True,
            num_class_embeds=None,
            _name="any",
        ),
        dict(
            center_input_sample=...,
            act_fn=...,
            mid_block_scale_factor=...,
            time_embedding_type=...,
            in_channels=...,
            out_channels=...,
        ),
    ],
    ids=lambda c: next(iter(c)),
)
def test_other_ways_to_say_the_same(published, theirs, changes):
    assert_same_answers(from_diffusers(say(published, **changes)), theirs)


@pytest.mark.parametrize(
    "name, value",
    [
        ("center_input_sample", True),
        ("time_embedding_type", "fourier"),
        ("time_embedding_type", "learned"),
        ("freq_shift", 0),
        ("freq_shift", ...),
        ("flip_sin_to_cos", None),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("add_attention", "no"),
        ("mid_block_scale_factor", 1.4142135),
        ("downsample_padding", 1),
        ("downsample_padding", ...),
        ("downsample_type", "resnet"),
        ("upsample_type", "resnet"),
        ("act_fn", "gelu"),
        ("norm_eps", 1e-5),
        ("norm_eps", ...),
        ("resnet_time_scale_shift", "scale_shift"),
        ("class_embed_type", "timestep"),
        ("class_embed_type", "identity"),
        ("sample_size", None),
        ("sample_size", [8, 16]),
        ("sample_size", 8.5),
        ("image_size", 8),
        ("in_channels", 0),
        ("out_channels", 6),
        ("layers_per_block", "2"),
        ("norm_num_groups", None),
        ("norm_num_groups", 3),
        ("attn_norm_num_groups", 2),
        ("dropout", 1.5),
        ("dropout", "0"),
        ("attention_head_dim", 8),
        ("attention_head_dim", [16]),
        ("time_embedding_dim", 64),
        ("num_class_embeds", 1),
        ("num_class_embeds", "10"),
        ("block_out_channels", [8, 12]),
        ("block_out_channels", ...),
        ("block_out_channels", [9, 18]),
        ("block_out_channels", [16]),
        ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"]),
        ("down_block_types", ...),
        ("up_block_types", ["UpBlock2D", "SkipUpBlock2D"]),
        ("up_block_types", ["UpBlock2D"]),
        ("up_block_types", ...),
        ("sample_size", 7),
        ("block_out_channels", [10**18] * 2),
    ],
)
def test_what_our_network_cannot_be_is_named(published, name, value):
    named = {"image_size": "image_size = 8, an argument unknown here"}.get(name, name)
    if (name, value) == ("norm_num_groups", 3):
        named = "GroupNorm has groups = 3"  # as UNet itself says it
    if (name, value) == ("sample_size", 7):
        named = "image_size = 7 cannot be halved 1 times"
    if value == [10**18] * 2:
        named = "is no network that UNet can be"
    if (name, value) == ("block_out_channels", [16]):
        named = "down_block_types"
    with pytest.raises(ValueError, match=named) as raised:
        from_diffusers(say(published, **{name: value}))
    assert "config.json" in str(raised.value)
    if value is ... and not name.startswith(("block_out", "down_block", "up_block")):
        assert "(being missing)" in str(raised.value)


def test_all_that_is_wrong_is_named_at_once(published):
    with pytest.raises(ValueError) as raised:
        from_diffusers(
            say(published, norm_eps=1e-5, freq_shift=0, dropout=2, surprise=[])
        )
    assert all(
        f"{name} = " in str(raised.value)
        for name in ("norm_eps", "freq_shift", "dropout", "surprise")
    )


CONV_IN = "conv_in.weight"


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda w: w.pop(CONV_IN), "lacks conv_in.weight;"),
        (
            lambda w: w.update({"conv_in.wait": w[CONV_IN].clone()}),
            "has surplus conv_in.wait;",
        ),
        (
            lambda w: w.update({"conv_in.wait": w.pop(CONV_IN)}),
            "lacks conv_in.weight and has surplus conv_in.wait;",
        ),
        (
            lambda w: w.update({CONV_IN: w[CONV_IN][:, :1].clone()}),
            "has conv_in.weight of torch.float32 (8, 1, 3, 3) where floats (8, 3, 3, 3) were",
        ),
        (
            lambda w: w.update({CONV_IN: w[CONV_IN].long()}),
            "has conv_in.weight of torch.int64",
        ),
        (
            lambda w: w.update({"mid_block.attentions.0.query.bias": torch.zeros(16)}),
            "twice, by their old and their new names",
        ),
        (
            lambda w: [w.pop(n) for n in list(w) if "up_blocks" in n],
            "more; it does not fit its config.json",
        ),
    ],
)
@pytest.mark.parametrize("file", ["safetensors", "bin"])
def test_tensors_that_do_not_fit_are_named(tmp_path, theirs, change, said, file):
    weights = dict(theirs.state_dict())
    change(weights)
    with pytest.raises(ValueError, match=re.escape(said)):
        from_diffusers(write(tmp_path / "x", SMALL, weights, file))


def test_weights_of_half_the_precision(tmp_path, theirs):
    weights = {name: w.half() for name, w in theirs.state_dict().items()}
    ours = from_diffusers(write(tmp_path / "x", SMALL, weights))
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert torch.equal(ours.conv_in.weight, weights[CONV_IN].float())


def test_the_weights_are_our_own_and_nothing_is_drawn(published, untouched):
    ours = from_diffusers(published)
    before = ours.conv_in.weight.clone()
    (published / f"{WEIGHTS}.safetensors").write_bytes(
        b""
    )  # a memory map would change, or crash
    assert torch.equal(ours.conv_in.weight, before) and all(
        p.requires_grad and p.is_leaf and not p.is_meta for p in ours.parameters()
    )


def test_pipelines(tmp_path, theirs, published):
    pipeline = diffusers.DDPMPipeline(theirs, diffusers.DDPMScheduler())
    pipeline.save_pretrained(tmp_path / "pipeline")
    assert (tmp_path / "pipeline" / "unet" / "config.json").is_file()
    assert_same_answers(from_diffusers(str(tmp_path / "pipeline")), theirs)
    for file in (
        tmp_path / "pipeline" / "scheduler" / "scheduler_config.json",
        published / "scheduler_config.json",
    ):  # the second as on the hub
        file.write_text(
            json.dumps(
                {"_class_name": "DDPMScheduler", "prediction_type": "v_prediction"}
            )
        )
        with pytest.raises(
            ValueError,
            match="scheduler_config.json says prediction_type = 'v_prediction'; wanted \"epsilon\"",
        ):
            from_diffusers(
                tmp_path / "pipeline" if "pipeline" in str(file) else published
            )


# What strangers send


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize(
    "how", ["torch.save", "pickle 2", "pickle 5", "among the weights", "legacy"]
)
def test_a_pickle_that_would_run_code_does_not(tmp_path, theirs, how):
    mark, folder = tmp_path / "ran", write(tmp_path / "x", SMALL, {}, "bin")
    content = (
        Hostile(mark)
        if how != "among the weights"
        else theirs.state_dict() | {CONV_IN: Hostile(mark)}
    )
    file = folder / f"{WEIGHTS}.bin"
    if "pickle" in how:
        file.write_bytes(pickle.dumps(content, protocol=int(how[-1])))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how != "legacy")
    asks = (
        "more, or is no pickle"
        if how == "pickle 5"
        else r"\w+\.system, which could run code"
    )
    said = f"was refused and nothing of it executed.*asks for {asks}.*Ask for a .safetensors"
    with warnings.catch_warnings(), pytest.raises(ValueError, match=said):
        warnings.simplefilter("ignore")  # torch warns of protocol 5
        from_diffusers(folder)
    assert not mark.exists()
    pickle.loads(file.read_bytes()) if "pickle" in how else torch.load(
        file, weights_only=False
    )
    assert mark.exists()  # it was loaded


def test_a_pickle_is_not_read_by_a_torch_whose_guard_has_a_hole(
    tmp_path, theirs, monkeypatch
):
    write(tmp_path / "x", SMALL, theirs.state_dict(), "bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(
        ValueError,
        match="torch 2.5.1.*CVE-2025-32434.*wanted a .safetensors file, or torch 2.6",
    ):
        from_diffusers(tmp_path / "x")


def test_safetensors_are_preferred(published):
    (published / f"{WEIGHTS}.bin").write_bytes(b"never read")
    from_diffusers(published)


@pytest.mark.parametrize("file", ["safetensors", "bin", "legacy bin"])
@pytest.mark.parametrize("left", [0, 7, 100, 0.5, -1], ids=lambda n: f"{n} left")
def test_truncated_weights(tmp_path, theirs, file, left):
    write(tmp_path / "x", SMALL, theirs.state_dict(), file)
    (whole,) = (tmp_path / "x").glob(f"{WEIGHTS}.*")
    data = whole.read_bytes()
    whole.write_bytes(
        data[: int(len(data) * left) if isinstance(left, float) else left]
    )
    with pytest.raises(ValueError, match=rf"{whole.name} \(\d+ bytes\) is truncated"):
        from_diffusers(tmp_path / "x")


@pytest.mark.parametrize(
    "file, said",
    [
        ("safetensors", r"is truncated or damaged, or a Git LFS pointer"),
        ("bin", "was refused .* or is no pickle"),
    ],
)
def test_what_git_leaves_in_place_of_a_large_file(published, file, said):
    (published / f"{WEIGHTS}.safetensors").unlink()
    (published / f"{WEIGHTS}.{file}").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 143018000\n"
    )
    with pytest.raises(ValueError, match=said):
        from_diffusers(published)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"state_dict": {}}, {1: torch.zeros(1)}, torch.zeros(3)],
    ids=lambda c: type(c).__name__,
)
def test_a_pickle_of_other_things(tmp_path, content):
    with pytest.raises(ValueError, match="of other things than named tensors"):
        from_diffusers(write(tmp_path / "x", SMALL, content, "bin"))


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "config.json is not JSON"),
        ("[" * 100_000, "config.json is not JSON"),
        ("[]", "config.json describes a list"),
        (
            '{"model_type": "bert"}',
            "describes a None; wanted _class_name = 'UNet2DModel'",
        ),
        ('{"_class_name": "UNet2DConditionModel"}', "describes a UNet2DConditionModel"),
        ("\udcff", "config.json is not JSON"),
    ],
    ids=range(6),
)
def test_a_foreign_config(published, text, said):
    (published / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=said):
        from_diffusers(published)


def test_folders_without_what_is_wanted(tmp_path, published):
    with pytest.raises(
        TypeError, match="path_or_hub_id is a int; wanted a folder or a hub id"
    ):
        from_diffusers(3)
    with pytest.raises(
        FileNotFoundError, match="no folder .*nowhere; wanted a folder with config.json"
    ):
        from_diffusers(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no config.json in"):
        from_diffusers(tmp_path)
    with pytest.raises(ValueError, match="is a file; wanted the folder it is in"):
        from_diffusers(published / f"{WEIGHTS}.safetensors")
    (published / f"{WEIGHTS}.safetensors").rename(published / "model.safetensors")
    with pytest.raises(
        FileNotFoundError,
        match=rf"no {WEIGHTS}.safetensors or .bin in .*it holds \['config.json', 'model.safetensors'\]",
    ):
        from_diffusers(published)


# The hub


HOW = (
    r"'google/ddpm-cifar10-32' is no folder here, and could not be fetched .*hf download google/ddpm-cifar10-32 --local-dir ddpm-cifar10-32 .*"
    r"huggingface-cli download.*bring the folder here and say from_diffusers\('ddpm-cifar10-32'\)"
)


def test_without_a_network_the_error_says_how_to_bring_the_folder(
    tmp_path, monkeypatch
):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=HOW):
        from_diffusers("google/ddpm-cifar10-32")


def test_without_huggingface_hub_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=HOW):
        from_diffusers("google/ddpm-cifar10-32")


@pytest.mark.parametrize("file, asked", [("safetensors", 1), ("bin", 2)])
@pytest.mark.parametrize("sub", ["", "unet"])
def test_a_hub_id_is_fetched_without_what_is_not_needed(
    tmp_path, theirs, monkeypatch, file, asked, sub
):
    """A hub of our own: it hands out what matches the patterns, as the true one does, into one folder for all calls."""
    from fnmatch import fnmatch

    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "remote" / sub, SMALL, theirs.state_dict(), file)
    for more in (
        "model_index.json",
        "README.md",
        f"{WEIGHTS}.fp16.safetensors",
        "scheduler_config.json",
    ):
        (tmp_path / "remote" / more).write_text("{}")
    calls = []

    def snapshot_download(repo_id, *, allow_patterns):
        calls.append(repo_id)
        for source in (tmp_path / "remote").rglob("*"):
            name = source.relative_to(tmp_path / "remote")
            if source.is_file() and any(
                fnmatch(str(name), pattern) for pattern in allow_patterns
            ):
                (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, tmp_path / "cache" / name)
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert_same_answers(from_diffusers("someone/something"), theirs)
    assert calls == ["someone/something"] * asked
    assert not list((tmp_path / "cache").rglob("README.md")) and not list(
        (tmp_path / "cache").rglob("*fp16*")
    )


@pytest.mark.parametrize(
    "how, ask, asked",
    [
        (dict(max_shard_size="5KB"), {}, 1),
        (dict(max_shard_size="5KB", safe_serialization=False), {}, 2),
        (dict(variant="fp16"), {}, 3),
        (dict(variant="fp16"), dict(variant="fp16"), 1),
        (dict(variant="bf16", max_shard_size="5KB"), {}, 4),
        (dict(variant="ema", max_shard_size="5KB"), dict(variant="ema"), 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("sub", ["unet", "unet_ema"])
def test_shards_and_variants_from_a_hub(
    tmp_path, theirs, monkeypatch, how, ask, asked, sub
):
    from fnmatch import fnmatch

    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(tmp_path)
    theirs.save_pretrained(tmp_path / "remote" / sub, **how)
    (tmp_path / "remote" / sub / f"{WEIGHTS}.other.safetensors").write_text("large")
    calls = []

    def snapshot_download(repo_id, *, allow_patterns):
        calls.append(repo_id)
        for source in (tmp_path / "remote").rglob("*"):
            name = source.relative_to(tmp_path / "remote")
            if source.is_file() and any(fnmatch(str(name), p) for p in allow_patterns):
                (tmp_path / "cache" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, tmp_path / "cache" / name)
        return str(tmp_path / "cache")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    if sub != "unet":
        ask = ask | {"subfolder": sub}
    assert_same_answers(from_diffusers("someone/something", **ask), theirs)
    assert len(calls) == asked
    assert not list((tmp_path / "cache").rglob("*other*"))


def test_a_folder_goes_before_a_hub_id_of_its_name(tmp_path, theirs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    write(tmp_path / "google" / "ddpm-cifar10-32", SMALL, theirs.state_dict())
    assert from_diffusers("google/ddpm-cifar10-32").config["image_size"] == 8


def test_importing_ddpm_core_imports_neither():
    code = "import sys, ddpm_core; print([m for m in ('diffusers', 'huggingface_hub', 'requests', 'httpx') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


# Out of ddpm_core


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(groups=16, blocks=1),
        dict(channels=1, attention=(), blocks=1),
        dict(multipliers=(1,), attention=(16,), blocks=1),
        dict(
            image_size=32,
            multipliers=(1, 1, 2, 2, 4, 4),
            attention=(2,),
            width=8,
            groups=4,
        ),
        dict(attention=(4, 16, 2), blocks=3, dropout=0.3, width=8),
    ],
    ids=str,
)
def test_to_diffusers(tmp_path, changes, untouched):
    state = torch.get_rng_state()
    ours = reduced(**changes)
    torch.set_rng_state(state)
    assert to_diffusers(ours, tmp_path / "x") == tmp_path / "x"
    back = from_diffusers(tmp_path / "x")
    assert same_weights(back, ours) and {
        k: set(v) if k == "attention" else v for k, v in back.config.items()
    } == {k: set(v) if k == "attention" else v for k, v in ours.config.items()}
    state = torch.get_rng_state()
    theirs = load_theirs(tmp_path / "x")
    torch.set_rng_state(state)
    assert_same_answers(ours, theirs)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]
    assert (
        len({p.stat().st_mode for p in (tmp_path / "x").rglob("*") if p.is_file()}) == 1
    )  # others can read all of it, if any


def test_labels(tmp_path):
    """Both add an Embedding of the label to that of the time before the swish; ours has one more row, of no label."""
    ours = small(classes=3)
    to_diffusers(ours, tmp_path / "x")
    theirs = load_theirs(tmp_path / "x")
    assert theirs.config.num_class_embeds == 4
    for labels in (torch.tensor([0, 2]), torch.tensor([3, 1])):
        assert_same_answers(ours, theirs, labels)
    x = randn(2, 3, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        assert_close(
            ours(x, 5),
            theirs(x, 4, class_labels=torch.tensor([3, 3])).sample,
            rtol=0,
            atol=1e-5,
        )
        assert (ours(x, 5, torch.tensor([0, 0])) - ours(x, 5)).abs().max() > 1e-3
    assert same_weights(from_diffusers(tmp_path / "x"), ours)


def test_of_other_labels_only_their_author_knows_what_the_last_one_is(tmp_path):
    config = SMALL | {"num_class_embeds": 4}
    theirs = theirs_from(config)
    write(tmp_path / "x", config, theirs.state_dict())
    with pytest.raises(
        ValueError,
        match=r"num_class_embeds = 4, but not whether the last .*from_diffusers\(..., no_label=True\)",
    ):
        from_diffusers(tmp_path / "x")
    assert_same_answers(
        from_diffusers(tmp_path / "x", no_label=True), theirs, torch.tensor([1, 3])
    )


def test_labels_that_are_all_labels(tmp_path):
    config = SMALL | {"num_class_embeds": 4}
    theirs = theirs_from(config)
    write(tmp_path / "x", config, theirs.state_dict())
    with pytest.raises(ValueError, match="no_label=False if all of them are labels"):
        from_diffusers(tmp_path / "x")
    ours = from_diffusers(tmp_path / "x", no_label=False)  # the remedy
    assert ours.classes == 4
    assert_same_answers(ours, theirs, torch.tensor([0, 3]))
    single = SMALL | {"num_class_embeds": 1}
    theirs = theirs_from(single)
    write(tmp_path / "y", single, theirs.state_dict())
    ours = from_diffusers(tmp_path / "y", no_label=False)
    assert_same_answers(ours, theirs, torch.tensor([0, 0]))


@pytest.mark.parametrize(
    "changes",
    [
        dict(flip_sin_to_cos=True),
        dict(add_attention=False),
        dict(mid_block_type=None),
        dict(mid_block_type=None, add_attention=False, flip_sin_to_cos=True),
        dict(up_block_types=["UpBlock2D", "UpBlock2D"]),
        dict(up_block_types=["AttnUpBlock2D", "AttnUpBlock2D"]),
        dict(
            down_block_types=["AttnDownBlock2D", "DownBlock2D"],
            up_block_types=["AttnUpBlock2D", "UpBlock2D"],
        ),
        dict(
            down_block_types=["DownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "UpBlock2D"],
            add_attention=False,
            attention_head_dim=8,  # of no attention
        ),
        dict(
            down_block_types=["AttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "UpBlock2D"],
            mid_block_type=None,
            attention_head_dim=8,  # all of the first level's channels: one head
        ),
    ],
    ids=str,
)
def test_the_same_network_with_other_parts(tmp_path, changes):
    """Other tensors, the same function; and theirs again when it is written out."""
    config = SMALL | changes
    theirs = theirs_from(config)
    ours = from_diffusers(write(tmp_path / "x", config, theirs.state_dict()))
    assert_same_answers(ours, theirs)
    to_diffusers(ours, tmp_path / "y")
    assert_same_answers(ours, load_theirs(tmp_path / "y"))


def test_tensors_of_a_part_that_the_config_denies_are_surplus(tmp_path, theirs):
    folder = write(
        tmp_path / "x", SMALL | {"mid_block_type": None}, theirs.state_dict()
    )
    with pytest.raises(ValueError, match="has surplus mid_block"):
        from_diffusers(folder)


def test_the_folder_of_an_average(tmp_path, theirs):
    """EMAModel.save_pretrained, of diffusers itself: seven more keys."""
    from diffusers.training_utils import EMAModel

    average = EMAModel(
        theirs.parameters(),
        model_cls=diffusers.UNet2DModel,
        model_config=theirs.config,
        use_ema_warmup=True,
    )
    average.save_pretrained(tmp_path / "unet_ema")
    config = json.loads((tmp_path / "unet_ema" / "config.json").read_text())
    assert unet2d.AVERAGE <= config.keys()
    assert_same_answers(from_diffusers(tmp_path / "unet_ema"), theirs)
    assert_same_answers(from_diffusers(tmp_path, subfolder="unet_ema"), theirs)


def test_a_byte_order_mark_is_no_damage(published, theirs):
    for file in [published / "config.json"]:
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert_same_answers(from_diffusers(published), theirs)
    scheduler = published / "scheduler_config.json"
    scheduler.write_bytes(b'\xef\xbb\xbf{"_class_name": "DDPMScheduler"}')
    assert pipeline_from_diffusers(published).schedule.T == 1000


@pytest.mark.parametrize("variant", [None, "fp16", "non_ema"])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("safe", [True, False])
def test_variants_and_shards_as_diffusers_writes_them(
    tmp_path, theirs, variant, shards, safe
):
    size = "5KB" if shards else "10GB"
    theirs.save_pretrained(
        tmp_path / "x", variant=variant, max_shard_size=size, safe_serialization=safe
    )
    indices = [p.name for p in (tmp_path / "x").glob("*.index*.json")]
    assert bool(indices) == shards
    assert_same_answers(from_diffusers(tmp_path / "x", variant=variant), theirs)
    if variant == "non_ema":  # other weights: not taken unasked
        with pytest.raises(
            FileNotFoundError, match="has the variants non_ema: say variant='non_ema'"
        ):
            from_diffusers(tmp_path / "x")
    else:
        assert_same_answers(from_diffusers(tmp_path / "x"), theirs)


def test_of_two_precisions_the_whole_one_is_taken(tmp_path, theirs):
    theirs.save_pretrained(tmp_path / "x")
    halved = {n: w.half() for n, w in theirs.state_dict().items()}
    save_file(halved, tmp_path / "x" / f"{WEIGHTS}.fp16.safetensors")
    ours = from_diffusers(tmp_path / "x")
    assert torch.equal(ours.conv_in.weight, theirs.conv_in.weight)
    ours = from_diffusers(tmp_path / "x", variant="fp16")
    assert torch.equal(ours.conv_in.weight, theirs.conv_in.weight.half().float())
    (tmp_path / "x" / f"{WEIGHTS}.safetensors").rename(
        tmp_path / "x" / f"{WEIGHTS}.bf16.safetensors"
    )
    with pytest.raises(
        FileNotFoundError, match="variants bf16, fp16: say variant='bf16'"
    ):
        from_diffusers(tmp_path / "x")
    from_diffusers(tmp_path / "x", variant="bf16")  # the remedy
    with pytest.raises(FileNotFoundError, match=rf"no {WEIGHTS}.ema.safetensors"):
        from_diffusers(tmp_path / "x", variant="ema")


@pytest.mark.parametrize(
    "damage, error, said",
    [
        (
            "lost",
            FileNotFoundError,
            r"-of-0\d+.safetensors is missing, of which .*tensors",
        ),
        ("cut", ValueError, r"-of-0\d+.safetensors \(\d+ bytes\) is truncated"),
        ("swapped", ValueError, r"index.json lists .* which does not hold it"),
        ("outside", ValueError, "has no weight_map .* to files beside it"),
        ("list", ValueError, "has no weight_map"),
        ("half", ValueError, "lacks .*it does not fit its config.json"),
    ],
)
def test_damaged_shards_are_named(tmp_path, theirs, damage, error, said):
    theirs.save_pretrained(tmp_path, max_shard_size="5KB")
    index = tmp_path / f"{WEIGHTS}.safetensors.index.json"
    about = json.loads(index.read_text())
    where = about["weight_map"]
    first = tmp_path / where["conv_in.weight"]
    if damage == "lost":
        first.unlink()
    elif damage == "cut":
        first.write_bytes(first.read_bytes()[:100])
    elif damage == "swapped":
        where["conv_in.weight"] = where["conv_out.weight"]
    elif damage == "outside":
        where["conv_in.weight"] = "../" + first.name
    elif damage == "half":
        where.pop("conv_in.weight")
    index.write_text(json.dumps([] if damage == "list" else about))
    with pytest.raises(error, match=said):
        from_diffusers(tmp_path)


@pytest.mark.parametrize("subfolder", ["../x", "/etc", 3])
def test_a_subfolder_is_inside(published, subfolder):
    with pytest.raises(
        ValueError, match="subfolder = .*wanted None, or a folder inside"
    ):
        from_diffusers(published, subfolder=subfolder)
    with pytest.raises(ValueError, match="variant = .*wanted None, or a word"):
        from_diffusers(published, variant="../fp16")
    with pytest.raises(
        FileNotFoundError, match=r"no config.json in .*unet; .*say\s*sub"
    ):
        from_diffusers(published, subfolder="unet")


# The schedule beside it


def scheduled(tmp_path, theirs, scheduler):
    diffusers.DDPMPipeline(theirs, scheduler).save_pretrained(tmp_path / "p")
    return tmp_path / "p"


@pytest.mark.parametrize("name", sorted(schedulers.SCHEDULERS))
@pytest.mark.parametrize(
    "said",
    [
        dict(),
        dict(num_train_timesteps=50, beta_start=1e-3, beta_end=0.4),
        dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        dict(beta_schedule="squaredcos_cap_v2", num_train_timesteps=100),
        dict(trained_betas=[0.1, 0.2, 0.3], num_train_timesteps=3),
    ],
    ids=["default", "linear", "scaled", "cosine", "listed"],
)
def test_the_pipelines_own_schedule(tmp_path, theirs, name, said):
    scheduler = getattr(diffusers, name)(**said)
    folder = scheduled(tmp_path, theirs, scheduler)
    model, schedule = pipeline_from_diffusers(folder)
    assert_close(scheduler.betas.double(), schedule.beta[1:], rtol=1e-4, atol=1e-7)
    assert_same_answers(model, theirs)
    file = folder / "scheduler" / "scheduler_config.json"
    if not said:  # what a missing entry means to each of them
        file.write_text(json.dumps({"_class_name": name}))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            from_diffusers(folder)  # the paper's: nothing to warn of
        assert torch.equal(
            pipeline_from_diffusers(folder).schedule.beta, linear_schedule().beta
        )
    else:
        with pytest.warns(UserWarning, match="is not the paper's.*pipeline_from_diff"):
            from_diffusers(folder)


def test_a_sigmoid_schedule(tmp_path, theirs):
    scheduler = diffusers.DDPMScheduler(beta_schedule="sigmoid")
    schedule = pipeline_from_diffusers(scheduled(tmp_path, theirs, scheduler)).schedule
    assert_close(scheduler.betas.double(), schedule.beta[1:], rtol=1e-4, atol=1e-8)


def test_a_network_that_predicts_x0(tmp_path, theirs):
    scheduler = diffusers.DDIMScheduler(prediction_type="sample", clip_sample=False)
    folder = scheduled(tmp_path, theirs, scheduler)
    with pytest.raises(
        ValueError, match='One that says "sample" is read by pipeline_f'
    ):
        from_diffusers(folder)
    with pytest.raises(ValueError, match="prediction_type = 'sample'"):
        from_diffusers(folder / "unet")  # the pipeline above it counts, too
    model, schedule = pipeline_from_diffusers(folder)  # the remedy
    x = randn(2, 3, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        x0 = theirs(x, 499).sample
        eps = (x - schedule.alpha_bar[500] ** 0.5 * x0) / (
            1 - schedule.alpha_bar[500]
        ) ** 0.5
        assert_close(model(x, 500), eps.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "said, named",
    [
        (
            dict(prediction_type="v_prediction"),
            "prediction_type = 'v_prediction', wanted",
        ),
        (
            dict(beta_schedule="laplace"),
            "beta_schedule = 'laplace', wanted one of linear",
        ),
        (dict(beta_schedule=["linear"]), "beta_schedule = "),
        (dict(rescale_betas_zero_snr=True), "rescale_betas_zero_snr = True"),
        (dict(use_flow_sigmas=True), "use_flow_sigmas = True"),
        (
            dict(_class_name="ScoreSdeVeScheduler"),
            "_class_name = 'ScoreSdeVeScheduler'",
        ),
        (dict(_class_name=None), "_class_name = None"),
        (dict(num_train_timesteps="1000"), "num_train_timesteps = '1000'"),
        (dict(num_train_timesteps=10**12), "describes no Schedule"),
        (dict(beta_end=2), "beta_end = 2"),
        (dict(trained_betas=[0.1]), "trained_betas has 1 entries, wanted 1000"),
        (dict(trained_betas=5), "trained_betas is no list"),
        (dict(trained_betas=["a"] * 1000), "an entry of trained_betas: wanted numbers"),
    ],
    ids=str,
)
def test_what_is_no_schedule_of_ours_is_named(published, said, named):
    file = published / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": "DDPMScheduler"} | said))
    with pytest.raises(ValueError, match=re.escape(named)) as raised:
        pipeline_from_diffusers(published)
    assert "scheduler_config.json" in str(raised.value)
    if "prediction_type" not in said:  # the network alone is right; the rest is told
        with pytest.warns(UserWarning, match=re.escape(named)):
            from_diffusers(published)


def test_no_schedule_is_guessed(published):
    with pytest.raises(
        FileNotFoundError, match="no scheduler/scheduler_config.json or"
    ):
        pipeline_from_diffusers(published)
    from_diffusers(published)  # the remedy


def test_our_pipeline_comes_back_whole(tmp_path):
    schedule = Schedule(torch.linspace(0.1, 0.6, 20, dtype=torch.float64) ** 2)
    to_diffusers(small(), tmp_path / "x", schedule)
    model, back = pipeline_from_diffusers(tmp_path / "x")
    assert torch.equal(back.beta, schedule.beta) and same_weights(model, small())


def test_saved_again_by_diffusers(tmp_path):
    ours = small(classes=3)
    to_diffusers(ours, tmp_path / "x")
    load_theirs(tmp_path / "x").save_pretrained(tmp_path / "y")
    assert same_weights(from_diffusers(tmp_path / "y"), ours)


@pytest.mark.parametrize(
    "schedule",
    [
        None,
        linear_schedule(20, 0.01, 0.3),
        Schedule(torch.linspace(0.1, 0.6, 20, dtype=torch.float64) ** 2),
    ],
    ids=["the paper's", "linear", "another"],
)
def test_the_pipeline_draws_the_images_that_we_draw(tmp_path, schedule):
    """Algorithm 2 in whole, theirs and ours, from one seed; and with fewer steps."""
    ours = small()
    to_diffusers(ours, tmp_path / "x", schedule)
    listed = "trained_betas" in json.loads(
        (tmp_path / "x" / "scheduler" / "scheduler_config.json").read_text()
    )
    assert listed == (
        schedule is not None
        and not torch.allclose(schedule.beta[1:].diff(2), torch.zeros(()).double())
    )
    pipeline = diffusers.DDPMPipeline.from_pretrained(
        tmp_path / "x", low_cpu_mem_usage=False
    )
    pipeline.set_progress_bar_config(disable=True)
    schedule = linear_schedule() if schedule is None else schedule
    assert_close(
        pipeline.scheduler.betas.double(), schedule.beta[1:], rtol=1e-6, atol=0
    )
    for steps in (20, 2):
        theirs = pipeline(
            batch_size=2,
            generator=generator(5),
            num_inference_steps=steps,
            output_type="pt",
        ).images
        mine = sample(ours, schedule, (2, 3, 8, 8), steps=steps, generator=generator(5))
        assert theirs.std() > 0.1
        assert_close(
            (mine / 2 + 0.5).clamp(0, 1), theirs, rtol=0, atol=1e-4
        )  # 20 steps of 1e-5 or less
    (image,) = pipeline(generator=generator(5), num_inference_steps=2).images
    assert image.size == (8, 8) and image.mode == "RGB"


@pytest.mark.parametrize(
    "model, error, said",
    [
        (
            lambda: UNet(8, 1, 8, (1,), 1, (), groups=4, learn_variance=True),
            ValueError,
            r"UNet\(learn_variance=True, ...\) is no UNet2DModel",
        ),
        (
            lambda: UNet(8, 1, 8, (2, 4), 1, (), groups=4),
            ValueError,
            r"UNet\(width=8, multipliers=\(2, 4\), ...\) is no UNet2DModel",
        ),
        (
            lambda: as_eps_model(small(), linear_schedule(), "x0"),
            TypeError,
            r"unet is a EpsModel; wanted a UNet that predicts eps",
        ),
        (
            lambda: torch.optim.swa_utils.AveragedModel(small()),
            TypeError,
            r"unet is a AveragedModel; .*\.module",
        ),
    ],
    ids=["learned variance", "wide first level", "predicts x_0", "wrapped"],
)
def test_what_diffusers_cannot_be_is_refused(tmp_path, model, error, said):
    with pytest.raises(error, match=said):
        to_diffusers(model(), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_schedule_is_a_schedule(tmp_path):
    with pytest.raises(TypeError, match="schedule is a int; wanted a Schedule"):
        to_diffusers(small(), tmp_path / "x", 1000)


def test_only_its_own_folders_are_replaced(tmp_path, published):
    ours, path = small(), tmp_path / "x"
    path.mkdir()
    for _ in range(2):  # into an empty folder; over its own
        to_diffusers(ours, path)
    (path / "README.md").write_text("about this model")
    with pytest.raises(
        ValueError,
        match="holds README.md, which to_diffusers did not write, and nothing was changed",
    ):
        to_diffusers(ours, path)
    (path / "README.md").unlink()
    load_theirs(path).save_pretrained(path)
    for foreign in (path, published):  # by name they could be ours
        before = {p: p.read_bytes() for p in foreign.rglob("*") if p.is_file()}
        with pytest.raises(
            ValueError, match="holds a model, which to_diffusers did not write"
        ):
            to_diffusers(ours, foreign)
        assert {p: p.read_bytes() for p in foreign.rglob("*") if p.is_file()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file, and nothing was changed"):
        to_diffusers(ours, tmp_path / "file")


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "name, n, error",
    [
        ("save_file", 1, FULL),
        ("write_text", 3, FULL),
        ("mkdir", 1, FULL),
        ("rename", 1, FULL),
        ("rename", 2, FULL),
        ("save_file", 1, KeyboardInterrupt()),
        ("rename", 1, KeyboardInterrupt()),
        ("rename", 2, KeyboardInterrupt()),
    ],
    ids=str,
)
def test_whatever_fails_the_old_folder_or_the_new_one_remains(
    tmp_path, monkeypatch, name, n, error
):
    first, second = (
        small(multipliers=(1,), attention=()),
        small(multipliers=(1,), attention=(), dropout=0.4),
    )
    to_diffusers(first, tmp_path / "x")
    owner = files if name == "save_file" else Path
    right, calls = getattr(owner, name), []

    def wrong(*args, **kwargs):
        calls.append(1)
        if len(calls) == n:
            raise error
        return right(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(
        OSError if isinstance(error, OSError) else KeyboardInterrupt
    ) as raised:
        to_diffusers(second, tmp_path / "x")
    monkeypatch.undo()
    assert len(calls) >= n
    if isinstance(error, OSError):
        assert "could not be written" in str(raised.value) and "No space left" in str(
            raised.value
        )
        assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]
    left = (
        tmp_path / "x" if (tmp_path / "x").exists() else tmp_path / ".x.old"
    )  # the latter between the two renames
    assert from_diffusers(left).config == first.config
    to_diffusers(second, tmp_path / "x")
    assert from_diffusers(tmp_path / "x").config == second.config
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]


def test_the_file_says_what_diffusers_asks_for(tmp_path):
    to_diffusers(small(), tmp_path / "x")
    with safe_open(tmp_path / "x" / f"{WEIGHTS}.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert (
        json.loads((tmp_path / "x" / "config.json").read_text())["attention_head_dim"]
        is None
    )
    assert (
        load_file(tmp_path / "x" / f"{WEIGHTS}.safetensors").keys()
        == theirs_from(SMALL).state_dict().keys()
    )
