"""UNet2DModel of diffusers in our words: its arguments, its tensors' names, and back.

Only JSON and tensors: diffusers is never imported. pretrained.py reads and writes the
folders.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .runtime.weights import read_json
from .unet import UNet

WEIGHTS = "diffusion_pytorch_model"
MARK = "_ddpm_core"  # in config.json: diffusers ignores what begins with an underscore
# The arguments of UNet2DModel that must have one value for the network to be ours: what
# a missing one means there, and what it must be.
FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False, False),
    "time_embedding_type": ("positional", "positional"),
    "freq_shift": (0, 1),  # frequencies exp(-i ln 10000 / (half - 1))
    "mid_block_scale_factor": (1, 1),
    "downsample_padding": (
        1,
        0,
    ),  # 0 stands for (0, 1, 0, 1): at the bottom and right only
    "downsample_type": ("conv", "conv"),
    "upsample_type": ("conv", "conv"),
    "act_fn": ("silu", "silu", "swish"),  # two names of one function
    "norm_eps": (1e-5, 1e-6),
    "resnet_time_scale_shift": ("default", "default"),
    "class_embed_type": (None, None),
}
# The others, and what a missing one means. The trap: to the class a missing
# attention_head_dim is 8, that is 32 heads for 256 channels, with tensors of the same
# shapes and another result. But whoever saves a network writes every argument, so it is
# missing only from files older than that default; in them, as in the published ones
# that say null, attention has one head.
FREE: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": None,
    "down_block_types": None,
    "up_block_types": None,
    "layers_per_block": 2,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "attention_head_dim": None,
    "time_embedding_dim": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,
    "flip_sin_to_cos": True,  # [cos | sin]; ours is [sin | cos]
    "mid_block_type": "UNetMidBlock2D",
    "add_attention": True,  # in the middle
}
# What EMAModel.save_pretrained writes beside them: about the average, not the network.
AVERAGE = {
    "decay",
    "inv_gamma",
    "min_decay",
    "optimization_step",
    "power",
    "update_after_step",
    "use_ema_warmup",
}
NETWORK = "UNet2DModel"
# Ours -> theirs, applied in this order to each name.
NAMES = [
    (r"^embed_time\.", "time_embedding."),
    (r"^embed_label\.", "class_embedding."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"^middle\.0\.", "mid_block.resnets.0."),
    (r"^middle\.1\.", "mid_block.attentions.0."),
    (r"^middle\.2\.", "mid_block.resnets.1."),
    (r"^(down|up)\.(\d+)\.blocks\.", r"\1_blocks.\2.resnets."),
    (r"^(down|up)\.(\d+)\.attention\.", r"\1_blocks.\2.attentions."),
    (r"^(down|up)\.(\d+)\.resample\.", r"\1_blocks.\2.\1samplers.0."),
    (r"\.(norm|conv)_(\d)\.", r".\1\2."),
    (r"\.embed\.", ".time_emb_proj."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.out\.", r"\1.to_out.0."),
]
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def absent_in(config: dict[str, Any]) -> list[str]:
    """How the names of tensors begin that this UNet2DModel lacks and our UNet has."""
    c = FREE | config
    down, up = c["down_block_types"], c["up_block_types"]
    lacks = []
    if c["mid_block_type"] is None:
        lacks.append("mid_block.")
    elif not c["add_attention"]:
        lacks.append("mid_block.attentions.")
    for i, (d, u) in enumerate(zip(down, reversed(up))):
        if d.startswith("Attn") and not u.startswith("Attn"):
            lacks.append(f"up_blocks.{len(up) - 1 - i}.attentions.")
        elif u.startswith("Attn") and not d.startswith("Attn"):
            lacks.append(f"down_blocks.{i}.attentions.")
    return lacks


def arguments_of(config: dict[str, Any], no_label: bool = True) -> dict[str, Any]:
    """The arguments of our UNet for the config of a UNet2DModel.

    no_label  whether the last of its labels stands for none
    Raises ValueError that names every entry that our UNet cannot express.
    """
    config = {
        name: value
        for name, value in config.items()
        if not name.startswith("_") and name not in AVERAGE
    }
    wrong = [
        f"{name} = {config[name]!r}, an argument unknown here"
        for name in config
        if name not in FIXED | FREE
    ]
    for name, (default, *wanted) in FIXED.items():
        if config.get(name, default) not in wanted:
            wrong.append(
                f"{name} = {config.get(name, default)!r}"
                f"{'' if name in config else ' (being missing)'}, wanted {wanted[0]!r}"
            )
    c = FREE | config
    size = c["sample_size"]
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        c["sample_size"] = size[0]
    for name in ("sample_size", "in_channels", "layers_per_block", "norm_num_groups"):
        if not whole(c[name]):
            wrong.append(f"{name} = {c[name]!r}, wanted one whole number")
    widths, down = c["block_out_channels"], c["down_block_types"]
    up, attends = c["up_block_types"], []
    if (
        not isinstance(widths, list)
        or not widths
        or not all(whole(w) and w % widths[0] == 0 for w in widths)
        or widths[0] % 2
        or widths[0] < 4
    ):
        wrong.append(
            f"block_out_channels = {widths!r}, wanted multiples of the first, which is "
            "even and at least 4"
        )
        widths = []
    if (
        not isinstance(down, list)
        or len(down) != len(widths or down)
        or not all(d in ("DownBlock2D", "AttnDownBlock2D") for d in down)
    ):
        wrong.append(
            f"down_block_types = {down!r}, wanted DownBlock2D or AttnDownBlock2D for "
            "each of block_out_channels"
        )
    elif (
        not isinstance(up, list)
        or len(up) != len(down)
        or not all(u in ("UpBlock2D", "AttnUpBlock2D") for u in up)
    ):
        wrong.append(
            f"up_block_types = {up!r}, wanted UpBlock2D or AttnUpBlock2D for each of "
            "block_out_channels"
        )
    elif widths:
        attends = [
            d.startswith("Attn") or u.startswith("Attn")
            for d, u in zip(down, reversed(up))
        ]
        attending = {w for w, a in zip(widths, attends) if a}
        if c["add_attention"] and c["mid_block_type"]:
            attending.add(widths[-1])
        head = c["attention_head_dim"]
        if head is not None and any(w != head for w in attending):
            heads = [w // head if whole(head) else "?" for w in sorted(attending)]
            wrong.append(
                f"attention_head_dim = {head!r}, wanted null: one head of all "
                f"{sorted(attending)} channels, not {heads} heads"
            )
    if c["mid_block_type"] not in (None, "UNetMidBlock2D"):
        wrong.append(
            f"mid_block_type = {c['mid_block_type']!r}, wanted 'UNetMidBlock2D' or null"
        )
    for name in ("add_attention", "flip_sin_to_cos"):
        if not isinstance(c[name], bool):
            wrong.append(f"{name} = {c[name]!r}, wanted true or false")
    if c["out_channels"] != c["in_channels"]:
        wrong.append(
            f"out_channels = {c['out_channels']!r}, wanted in_channels = "
            f"{c['in_channels']!r}: eps_hat, and no variance of another kind"
        )
    if (
        isinstance(c["dropout"], bool)
        or not isinstance(c["dropout"], (int, float))
        or not 0 <= c["dropout"] < 1
    ):
        wrong.append(
            f"dropout = {c['dropout']!r}, wanted a probability, 0 <= dropout < 1"
        )
    if c["attn_norm_num_groups"] not in (None, c["norm_num_groups"]):
        wrong.append(
            f"attn_norm_num_groups = {c['attn_norm_num_groups']!r}, wanted null or "
            f"norm_num_groups = {c['norm_num_groups']!r}"
        )
    if widths and c["time_embedding_dim"] not in (None, 4 * widths[0]):
        wrong.append(
            f"time_embedding_dim = {c['time_embedding_dim']!r}, wanted null or "
            f"{4 * widths[0]}"
        )
    if c["num_class_embeds"] is not None and not (
        whole(c["num_class_embeds"]) and c["num_class_embeds"] > no_label
    ):
        wrong.append(
            f"num_class_embeds = {c['num_class_embeds']!r}, wanted null, or the number "
            "of labels and one for no label"
        )
    if wrong:
        raise ValueError("; ".join(wrong))
    return dict(
        image_size=c["sample_size"],
        channels=c["in_channels"],
        width=widths[0],
        multipliers=tuple(w // widths[0] for w in widths),
        blocks=c["layers_per_block"],
        attention=tuple(c["sample_size"] // 2**i for i, a in enumerate(attends) if a),
        dropout=c["dropout"],
        classes=c["num_class_embeds"] - no_label if c["num_class_embeds"] else None,
        groups=c["norm_num_groups"],
    )


def config_of(unet: UNet) -> dict[str, Any]:
    """The config of a UNet2DModel that is this UNet.

    Raises ValueError that names what would be lost.
    """
    c: dict[str, Any] = unet.config
    kinds = [
        "Attn" * (c["image_size"] // 2**i in c["attention"]) + "DownBlock2D"
        for i in range(len(c["multipliers"]))
    ]
    ours = {
        name: wanted
        for name, (default, wanted, *_) in FIXED.items()
        if wanted != default
    }
    config: dict[str, Any] = (
        {"_class_name": NETWORK, MARK: "written by to_diffusers"}
        | ours
        | dict(
            sample_size=c["image_size"],
            in_channels=c["channels"],
            out_channels=c["channels"],
            block_out_channels=[c["width"] * m for m in c["multipliers"]],
            down_block_types=kinds,
            up_block_types=[kind.replace("Down", "Up") for kind in reversed(kinds)],
            layers_per_block=c["blocks"],
            dropout=c["dropout"],
            norm_num_groups=c["groups"],
            flip_sin_to_cos=False,
            attention_head_dim=None,  # one head; left out, it is 8 in most releases
        )
    )
    if c["classes"]:
        config["num_class_embeds"] = c["classes"] + 1
    with torch.device("meta"):
        back: dict[str, Any] = UNet(**arguments_of(config)).config
    lost = {
        name: value
        for name, value in c.items()
        if (
            set(value) != set(back[name])
            if name == "attention"
            else value != back.get(name)
        )
    }
    if lost:
        raise ValueError(
            f"UNet({', '.join(f'{name}={value!r}' for name, value in lost.items())}, "
            "...) is no UNet2DModel, which answers with "
            "as many channels as it is given and whose first level is as wide as its "
            "embedding"
        )
    return config


def whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def theirs(name: str) -> str:
    for ours, theirs in NAMES:
        name = re.sub(ours, theirs, name)
    return name


def newer_names(file: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the newer of diffusers' names."""
    renamed = {
        re.sub(r"(attentions\.\d+)\.(\w+)\.", _newer, name): tensor
        for name, tensor in weights.items()
    }
    if len(renamed) < len(weights):
        raise ValueError(
            f"{file} holds some tensors of attention twice, by their old and their new "
            "names; wanted one of each"
        )
    return renamed


def _newer(old: re.Match[str]) -> str:
    return f"{old[1]}.{OLD_NAMES.get(old[2], old[2])}."


def check_fit(
    file: Path, weights: dict[str, Tensor], wanted: dict[str, Tensor]
) -> None:
    problems = []
    for what, names in (
        ("lacks", wanted.keys() - weights.keys()),
        ("has surplus", weights.keys() - wanted.keys()),
    ):
        if names:
            problems.append(f"{what} {_some(sorted(names))}")
    misshapen = [
        f"{name} of {weights[name].dtype} {tuple(weights[name].shape)} where floats "
        f"{tuple(tensor.shape)} were wanted"
        for name, tensor in wanted.items()
        if name in weights
        and (
            weights[name].shape != tensor.shape or not weights[name].is_floating_point()
        )
    ]
    if misshapen:
        problems.append(f"has {_some(misshapen)}")
    if problems:
        raise ValueError(
            f"{file} {' and '.join(problems)}; it does not fit its config.json: take "
            "another copy of both"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (
        f" and {len(names) - 6} more" if len(names) > 6 else ""
    )


def read_about(file: Path, kind: str | None = None) -> dict[str, Any]:
    about = read_json(file)
    if not isinstance(about, dict) or (kind and about.get("_class_name") != kind):
        found = (
            about.get("_class_name")
            if isinstance(about, dict)
            else type(about).__name__
        )
        raise ValueError(
            f"{file} describes a {found}; wanted _class_name = {kind!r}, as diffusers "
            "writes it"
        )
    return about
