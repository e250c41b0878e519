"""Weights in and out of diffusers.

Its UNet2DModel, with the right arguments, is our UNet with other names on its tensors.

    ddpm-cifar10-32/                         a folder that to_diffusers writes, as the
                                             published google/ddpm-cifar10-32 is
        config.json                          the arguments of the network
        diffusion_pytorch_model.safetensors  its weights
        model_index.json                     makes the folder a DDPMPipeline
        scheduler/scheduler_config.json      beta_1 to beta_T, and how it samples

What says the same in other words is read, too: EMAModel's folders, rounded variants,
shards, sub-folders, [cos | sin] for [sin | cos], levels without attention on one of the
two ways, no middle. What is another network is refused, and the difference named.

Only JSON and tensors are exchanged: diffusers is never imported, and huggingface_hub
only to fetch a hub id.
"""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from .model import as_eps_model
from .runtime.files import flush as _flush
from .runtime.files import plain as _plain
from .runtime.store import as_path as _path
from .runtime.weights import find_weights, patterns, read_json, read_weights
from .schedule import Schedule, cosine_schedule, linear_schedule
from .unet import UNet

WEIGHTS = "diffusion_pytorch_model"
WRITTEN = {
    "config.json",
    f"{WEIGHTS}.safetensors",
    "model_index.json",
    "scheduler",
    "scheduler/scheduler_config.json",
}
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
# Schedulers of one forward process, q with beta_1 to beta_T, and what a missing entry
# means to all of them. How they sample is the caller's choice, and is not read.
SCHEDULERS = {
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
}
FORWARD: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
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


class Pipeline(NamedTuple):
    """A network and the schedule that it was trained with."""

    model: nn.Module  # model(x_t, t) -> eps_hat
    schedule: Schedule


def from_diffusers(
    path_or_hub_id: str | Path,
    *,
    no_label: bool | None = None,
    subfolder: str | None = None,
    variant: str | None = None,
) -> UNet:
    """A UNet with the arguments and the weights of a UNet2DModel.

    In eval mode, float32, on the CPU.

    path_or_hub_id  a folder with config.json and diffusion_pytorch_model.safetensors
                    (or .bin, or shards), or a pipeline that has it in unet/; or a hub
                    id such as "google/ddpm-cifar10-32", which is fetched with
                    huggingface_hub (143 MB) and kept in its cache
    no_label        of a network with labels. True: its last one stands for "no label",
                    as ours has it; False: all of them are labels, so always pass one,
                    and no guidance: the row for "no label" is zeros, which nobody has
                    trained. A folder that to_diffusers wrote says so itself; of any
                    other only its author knows
    subfolder       where the network is, if not in the folder itself or in unet/
    variant         such as "fp16", of the files' names; None: the whole precision, or
                    the rounded copy where it is all there is

    unet(x_t, t) is diffusers' model(x_t, t - 1): t is the paper's 1..T, theirs is
    0..T-1. The schedule is not part of a network; pipeline_from_diffusers reads it.
    Warns if the one that lies beside is not the paper's linear_schedule(). The dropout
    is what config.json says: 0 in the published ones, the paper's is 0.1.

    A .bin is a pickle: of it only tensors are read, nothing is executed.
    Raises FileNotFoundError if there is no such folder and no network to fetch it, and
    says how to bring it; ValueError for a folder that is damaged or foreign, for every
    argument that our UNet does not have, and for missing, surplus and misshapen
    tensors: all are named.
    """
    top, folder = _find(path_or_hub_id, subfolder, variant)
    file = _scheduler_file(top, folder)
    if file is not None:
        kind = _read_json(file).get("prediction_type", "epsilon")
        if kind != "epsilon":
            raise ValueError(
                f'{file} says prediction_type = {kind!r}; wanted "epsilon", a network '
                'that answers with eps_hat. One that says "sample" is read by '
                "pipeline_from_diffusers"
            )
    unet = _read_network(folder, no_label, variant)
    if file is not None:
        try:
            schedule, _ = _read_schedule(file)
            told = (
                "is not the paper's linear_schedule(): pipeline_from_diffusers reads it"
            )
            beta = linear_schedule().beta
            if schedule.T == 1000 and torch.allclose(schedule.beta, beta, rtol=1e-6):
                told = ""
        except ValueError as error:
            told = f"cannot be read ({error})"
        if told:
            warnings.warn(f"the schedule in {file} {told}", stacklevel=2)
    return unet


def pipeline_from_diffusers(
    path_or_hub_id: str | Path,
    *,
    no_label: bool | None = None,
    subfolder: str | None = None,
    variant: str | None = None,
) -> Pipeline:
    """The network of a pipeline's folder as a model, and the pipeline's own schedule.

    Arguments as in from_diffusers. The schedule is read from scheduler_config.json:
    linear, scaled_linear (linear in sqrt(beta)), squaredcos_cap_v2 (cosine_schedule),
    sigmoid, or listed betas. A network that predicts x_0 ("sample") comes inside
    as_eps_model. How the pipeline samples (variance, steps, clipping) is not read: say
    it to sample().

    Raises what from_diffusers raises; FileNotFoundError where no schedule is said, and
    ValueError for one that is no Schedule, which it names: nothing is guessed.
    """
    top, folder = _find(path_or_hub_id, subfolder, variant)
    file = _scheduler_file(top, folder)
    if file is None:
        raise FileNotFoundError(
            f"no scheduler/scheduler_config.json or scheduler_config.json in {top}; "
            "wanted "
            "the schedule that the network was trained with: if you know it, say "
            "from_diffusers(...) and bring it yourself"
        )
    schedule, prediction = _read_schedule(file)
    unet = _read_network(folder, no_label, variant)
    return Pipeline(as_eps_model(unet, schedule, prediction), schedule)


def _read_network(folder: Path, no_label: bool | None, variant: str | None) -> UNet:
    about = folder / "config.json"
    config = _read_json(about, NETWORK)
    labels = config.get("num_class_embeds")
    if labels is not None and MARK in config:
        no_label = True
    elif labels is not None and no_label is None:
        raise ValueError(
            f"{about} says num_class_embeds = {labels}, but not whether the last of "
            "these "
            "labels stands for no label, as ours does; if so, say from_diffusers(..., "
            "no_label=True), and no_label=False if all of them are labels"
        )
    try:
        arguments = _arguments(config, no_label is not False)
        with torch.device("meta"):
            # without memory, and without drawing from the global generator
            unet = UNet(**arguments)
    except (
        ValueError,
        RuntimeError,
    ) as error:  # the latter: beyond what torch can count
        raise ValueError(f"{about} is no network that UNet can be: {error}") from error

    file = find_weights(folder, WEIGHTS, variant)
    weights = _newer_names(file, read_weights(file))
    names = {name: _theirs(name) for name in unet.state_dict()}
    wanted = {names[name]: tensor for name, tensor in unet.state_dict().items()}
    absent = tuple(_absent(config))
    label, time = "class_embedding.weight", "time_embedding.linear_1.weight"
    if labels is not None and no_label is False:
        wanted[label] = wanted[label][:-1]
    _check_fit(
        file,
        weights,
        {name: w for name, w in wanted.items() if not name.startswith(absent)},
    )
    if labels is not None and no_label is False:
        row = torch.zeros(1, wanted[label].shape[1], dtype=weights[label].dtype)
        weights[label] = torch.cat([weights[label], row])
    if config.get("flip_sin_to_cos", FREE["flip_sin_to_cos"]):
        weights[time] = weights[time].roll(arguments["width"] // 2, dims=1)
    for name, w in wanted.items():
        if name.startswith(absent):  # a block of zeros adds nothing to what it is given
            weights[name] = torch.zeros(w.shape)
    unet.to_empty(device="cpu").load_state_dict(
        {name: weights[theirs] for name, theirs in names.items()}
    )
    return unet.eval()


def _scheduler_file(top: Path, folder: Path) -> Path | None:
    """Where a pipeline says its schedule; its network's folder may have been named."""
    above = folder.absolute().parent
    tops = [top] + [above] * (above / "model_index.json").is_file()
    for at in tops:
        for name in ("scheduler/scheduler_config.json", "scheduler_config.json"):
            if (at / name).is_file():
                return at / name
    return None


def _read_schedule(file: Path) -> tuple[Schedule, str]:
    """beta_1 to beta_T, and what the network predicts, in our words."""
    config = _read_json(file)
    c = FORWARD | config
    T, first, last = c["num_train_timesteps"], c["beta_start"], c["beta_end"]
    kind, listed = c["beta_schedule"], c["trained_betas"]
    prediction = {"epsilon": "eps", "sample": "x0"}.get(str(c["prediction_type"]))
    wrong = []
    if config.get("_class_name") not in SCHEDULERS:
        wrong.append(
            f"_class_name = {config.get('_class_name')!r}, wanted one of "
            f"{', '.join(sorted(SCHEDULERS))}"
        )
    if prediction is None:
        wrong.append(
            f'prediction_type = {c["prediction_type"]!r}, wanted "epsilon" or "sample"'
        )
    for name in ("rescale_betas_zero_snr", "use_flow_sigmas"):
        if config.get(name):
            wrong.append(f"{name} = {config[name]!r}, wanted false: alpha_bar_T > 0")
    if not _whole(T):
        wrong.append(f"num_train_timesteps = {T!r}, wanted a whole number")
    if listed is not None and not isinstance(listed, list):
        wrong.append("trained_betas is no list")
        listed = []
    numbers = all(
        isinstance(b, (int, float)) and not isinstance(b, bool) and 0 < b < 1
        for b in ([first, last] if listed is None else listed)
    )
    if listed is not None and len(listed) != T:
        wrong.append(f"trained_betas has {len(listed)} entries, wanted {T}")
    if not numbers:
        wrong.append(
            f"beta_start = {first!r}, beta_end = {last!r}, or an entry of "
            "trained_betas: "
            "wanted numbers between 0 and 1"
        )
    if listed is None and str(kind) not in BETAS:
        wrong.append(f"beta_schedule = {kind!r}, wanted one of {', '.join(BETAS)}")
    try:
        if not wrong:
            made = Schedule(listed) if listed else BETAS[kind](T, first, last)
            return made, str(prediction)
    except (TypeError, ValueError, RuntimeError) as error:  # the last: T beyond memory
        wrong = [str(error)]
    raise ValueError(f"{file} describes no Schedule: {'; '.join(wrong)}")


def _even(T: int, first: float, last: float) -> Tensor:
    return torch.linspace(first, last, T, dtype=torch.float64)


BETAS: dict[
    str, Callable[[int, float, float], Schedule]
] = {  # (T, beta_start, beta_end) -> the schedule; the cosine has no use for the latter
    "linear": linear_schedule,
    "scaled_linear": lambda T, first, last: Schedule(
        _even(T, first**0.5, last**0.5) ** 2
    ),
    "squaredcos_cap_v2": lambda T, first, last: cosine_schedule(T),
    "sigmoid": lambda T, first, last: Schedule(
        _even(T, -6, 6).sigmoid() * (last - first) + first
    ),
}


def to_diffusers(
    unet: UNet, path: str | Path, schedule: Schedule | None = None
) -> Path:
    """Write a folder for UNet2DModel and DDPMPipeline: all of it or none of it.

    unet      that predicts eps. Its labels become class_labels, the last of which is
              "no label"; DDPMPipeline itself passes none, so only a network without
              labels can be sampled by it
    schedule  that it was trained with; None: the paper's linear_schedule()
    -> path. The pipeline samples like sample(unet, schedule, ...): variance "beta",
    x0_hat clipped, fewer steps spread from T to 1

    Replaces a folder that to_diffusers wrote, and no other.
    Raises TypeError for another model, ValueError for a UNet that UNet2DModel cannot be
    (learn_variance, a first multiplier other than 1) and for a path where something
    else is, OSError (disk full, read-only) after which what stood at `path` stands
    there still.
    """
    if not isinstance(unet, UNet):
        raise TypeError(
            f"unet is a {type(unet).__name__}; wanted a UNet that predicts eps (the "
            "one inside: .module, .network or ._orig_mod)"
        )
    schedule = linear_schedule() if schedule is None else schedule
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule is a {type(schedule).__name__}; wanted a Schedule, such as "
            "linear_schedule()"
        )
    path = _path(path).absolute()
    _check_free(path)
    texts = {
        "config.json": _config(unet),
        "model_index.json": {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        },
        "scheduler/scheduler_config.json": _scheduler_config(schedule),
    }
    weights = _plain(
        {_theirs(name): tensor for name, tensor in unet.state_dict().items()}
    )

    partial, old = (
        path.with_name(f".{path.name}.partial"),
        path.with_name(f".{path.name}.old"),
    )
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "scheduler").mkdir(parents=True)
        save_file(
            weights, partial / f"{WEIGHTS}.safetensors", metadata={"format": "pt"}
        )
        for name, about in texts.items():
            (partial / name).write_text(
                json.dumps(about, indent=2) + "\n", encoding="utf-8"
            )
        (partial / f"{WEIGHTS}.safetensors").chmod(
            (partial / "config.json").stat().st_mode
        )  # safetensors makes it private to its owner
        for file in [*partial.rglob("*"), partial]:
            _flush(file)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        partial.rename(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        raise OSError(
            f"the folder {path} could not be written ({error}); what was there before "
            "is untouched. "
            "Free some space or choose another folder"
        ) from error
    shutil.rmtree(old, ignore_errors=True)
    return path


def _find(
    path_or_hub_id: str | Path, subfolder: str | None, variant: str | None
) -> tuple[Path, Path]:
    """The folder, or where the hub id has been fetched to; and the network's in it."""
    if not isinstance(path_or_hub_id, (str, Path)):
        raise TypeError(
            f"path_or_hub_id is a {type(path_or_hub_id).__name__}; wanted a folder or "
            "a hub id such as 'google/ddpm-cifar10-32'"
        )
    for name, value in (("subfolder", subfolder), ("variant", variant)):
        inside = isinstance(value, str) and ".." not in value and value[:1] not in "/\\"
        if value is not None and not (
            inside and (name == "subfolder" or "/" not in value)
        ):
            raise ValueError(
                f"{name} = {value!r}; wanted None, or "
                + (
                    "a folder inside"
                    if name == "subfolder"
                    else 'a word such as "fp16"'
                )
            )
    path = Path(path_or_hub_id)
    if path.is_file():
        raise ValueError(
            f"{path} is a file; wanted the folder it is in, with config.json and "
            f"{WEIGHTS}.safetensors"
        )
    if (
        not path.exists()
        and isinstance(path_or_hub_id, str)
        and re.fullmatch(r"\w[\w.-]*/[\w.-]+", path_or_hub_id)
    ):
        path = _fetch(path_or_hub_id, subfolder, variant)
    for sub in ("", "unet") if subfolder is None else (subfolder,):
        if (path / sub / "config.json").is_file():
            return path, path / sub
    state = "no config.json in" if path.is_dir() else "no folder"
    raise FileNotFoundError(
        f"{state} {path / (subfolder or '')}; wanted a folder with config.json and "
        f"{WEIGHTS}.safetensors, a pipeline's folder that has them in unet/ (or say "
        "subfolder=), or a hub id such as 'google/ddpm-cifar10-32'"
    )


def _fetch(hub_id: str, subfolder: str | None, variant: str | None) -> Path:
    subs = [f"{subfolder}/"] if subfolder else ["", "unet/"]
    about = [
        "model_index.json",
        "scheduler_config.json",
        "scheduler/scheduler_config.json",
        *(f"{sub}config.json" for sub in subs),
    ]
    try:
        from huggingface_hub import snapshot_download

        for names in patterns(WEIGHTS, variant):  # a worse one only where no better is
            wanted = [sub + name for sub in subs for name in names]
            folder = Path(snapshot_download(hub_id, allow_patterns=about + wanted))
            if any(any(folder.glob(name)) for name in wanted):
                break
        return folder
    except (
        Exception
    ) as error:  # its releases raise those of several libraries, by no common name
        local = hub_id.split("/")[1]
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"{hub_id!r} is no folder here, and could not be fetched from the Hugging "
            f"Face hub: {reason}. Where there is a network: pip install "
            "huggingface_hub; "
            f"hf download {hub_id} --local-dir {local} (before its version 1: "
            "huggingface-cli download, likewise). Then bring the folder here and say "
            f"from_diffusers({local!r})"
        ) from error


def _read_json(file: Path, kind: str | None = None) -> dict[str, Any]:
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


def _absent(config: dict[str, Any]) -> list[str]:
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


def _arguments(config: dict[str, Any], no_label: bool = True) -> dict[str, Any]:
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
        if not _whole(c[name]):
            wrong.append(f"{name} = {c[name]!r}, wanted one whole number")
    widths, down = c["block_out_channels"], c["down_block_types"]
    up, attends = c["up_block_types"], []
    if (
        not isinstance(widths, list)
        or not widths
        or not all(_whole(w) and w % widths[0] == 0 for w in widths)
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
            heads = [w // head if _whole(head) else "?" for w in sorted(attending)]
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
        _whole(c["num_class_embeds"]) and c["num_class_embeds"] > no_label
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


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _config(unet: UNet) -> dict[str, Any]:
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
        back: dict[str, Any] = UNet(**_arguments(config)).config
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


def _scheduler_config(schedule: Schedule) -> dict[str, Any]:
    beta = schedule.beta[1:]
    first, last = float(beta[0]), float(beta[-1])
    linear = torch.equal(
        beta, torch.linspace(first, last, schedule.T, dtype=torch.float64)
    )
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": schedule.T,
        **(
            {"beta_schedule": "linear", "beta_start": first, "beta_end": last}
            if linear
            else {"trained_betas": beta.tolist()}
        ),
        "variance_type": "fixed_large",  # beta
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "prediction_type": "epsilon",
        # from T to 1, as respace does; "leading" would never visit T
        "timestep_spacing": "linspace",
        "steps_offset": 0,
    }


def _check_free(path: Path) -> None:
    """Raise unless path is free, an empty folder, or what to_diffusers wrote."""
    if path.is_dir():
        inside = {file.relative_to(path).as_posix() for file in path.rglob("*")}
        about = _read_json(path / "config.json") if "config.json" in inside else {}
        if not inside or (
            inside <= WRITTEN and MARK in about and "_diffusers_version" not in about
        ):  # which diffusers adds when it saves
            return
        found = (
            f"the folder {path} holds "
            f"{', '.join(sorted(inside - WRITTEN)[:5]) or 'a model'}, which "
            "to_diffusers did not write"
        )
    elif path.exists() or path.is_symlink():
        found = f"{path} is a file"
    else:
        return
    raise ValueError(
        f"{found}, and nothing was changed; wanted a new folder, or one that "
        "to_diffusers wrote"
    )


def _newer_names(file: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
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


def _check_fit(
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


def _theirs(name: str) -> str:
    for ours, theirs in NAMES:
        name = re.sub(ours, theirs, name)
    return name
