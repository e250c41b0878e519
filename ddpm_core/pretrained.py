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
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from .model import as_eps_model
from .runtime.files import folder_beside, save_tensors
from .runtime.store import as_path as _path
from .runtime.weights import find_weights, patterns, read_weights
from .schedule import Schedule, linear_schedule
from .schedulers import schedule_of, scheduler_config
from .unet import UNet
from .unet2d import FIXED as FIXED
from .unet2d import (
    FREE,
    MARK,
    NETWORK,
    WEIGHTS,
    absent_in,
    arguments_of,
    check_fit,
    config_of,
    newer_names,
    read_about,
    theirs,
)
from .unet2d import NAMES as NAMES
from .unet2d import OLD_NAMES as OLD_NAMES

WRITTEN = {
    "config.json",
    f"{WEIGHTS}.safetensors",
    "model_index.json",
    "scheduler",
    "scheduler/scheduler_config.json",
}


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
        kind = read_about(file).get("prediction_type", "epsilon")
        if kind != "epsilon":
            raise ValueError(
                f'{file} says prediction_type = {kind!r}; wanted "epsilon", a network '
                'that answers with eps_hat. One that says "sample" is read by '
                "pipeline_from_diffusers"
            )
    unet = _read_network(folder, no_label, variant)
    if file is not None:
        try:
            schedule, _ = schedule_of(file)
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
    schedule, prediction = schedule_of(file)
    unet = _read_network(folder, no_label, variant)
    return Pipeline(as_eps_model(unet, schedule, prediction), schedule)


def _read_network(folder: Path, no_label: bool | None, variant: str | None) -> UNet:
    about = folder / "config.json"
    config = read_about(about, NETWORK)
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
        arguments = arguments_of(config, no_label is not False)
        with torch.device("meta"):
            # without memory, and without drawing from the global generator
            unet = UNet(**arguments)
    except (
        ValueError,
        RuntimeError,
    ) as error:  # the latter: beyond what torch can count
        raise ValueError(f"{about} is no network that UNet can be: {error}") from error

    file = find_weights(folder, WEIGHTS, variant)
    weights = newer_names(file, read_weights(file))
    names = {name: theirs(name) for name in unet.state_dict()}
    wanted = {names[name]: tensor for name, tensor in unet.state_dict().items()}
    absent = tuple(absent_in(config))
    label, time = "class_embedding.weight", "time_embedding.linear_1.weight"
    if labels is not None and no_label is False:
        wanted[label] = wanted[label][:-1]
    check_fit(
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
        "config.json": config_of(unet),
        "model_index.json": {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        },
        "scheduler/scheduler_config.json": scheduler_config(schedule),
    }
    weights = {theirs(name): tensor for name, tensor in unet.state_dict().items()}
    with folder_beside(path, None, "the folder") as partial:
        (partial / "scheduler").mkdir()
        save_tensors(weights, partial / f"{WEIGHTS}.safetensors", {"format": "pt"})
        for name, about in texts.items():
            text = json.dumps(about, indent=2) + "\n"
            (partial / name).write_text(text, encoding="utf-8")
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


def _check_free(path: Path) -> None:
    """Raise unless path is free, an empty folder, or what to_diffusers wrote."""
    if path.is_dir():
        inside = {file.relative_to(path).as_posix() for file in path.rglob("*")}
        about = read_about(path / "config.json") if "config.json" in inside else {}
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
