"""A network on the disk: a folder of safetensors and JSON, and the class it is of.

runs/fashion/                 a run, as `descend(out="runs/fashion")` makes it
    log.jsonl                 step, loss, learning rate, seconds
    step-00002000/            a checkpoint; all of it is on the disk, or it is not there
        checkpoint.json       class and arguments of the network, step, settings
        weights.safetensors   the averaged weights: all that using it needs
        training.safetensors  weights, Adam's moments: what only resuming needs

A class that is registered here is built again from the folder alone. Nothing is
unpickled, and no module is imported except modules of this package.
"""

import importlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .files import old_name, read_tensors, steps_in, write_folder

FORMAT = "ddpm_core checkpoint 1"
FILES = ("checkpoint.json", "weights.safetensors", "training.safetensors")
PACKAGE = __name__.partition(".")[0]

CLASSES: dict[str, type[nn.Module]] = {}

Class = TypeVar("Class", bound=type[nn.Module])


def register(cls: Class, name: str | None = None) -> Class:
    """Let checkpoints of this class be loaded by their folder alone; a decorator.

    cls   an nn.Module whose instances have `config`, a dict that JSON can hold, so that
          cls(**config) is the same network with other weights. Networks inside it are
          parts of its weights: an nn.Module with two encoders is one checkpoint
    name  that the checkpoint says; None: the class's own, with its module for classes
          of this package, which is then imported when a checkpoint asks for it
    """
    CLASSES[name or _name(cls)] = cls
    return cls


def _name(cls: type[nn.Module]) -> str:
    if cls in CLASSES.values():
        return next(name for name, known in CLASSES.items() if known is cls)
    package, _, module = cls.__module__.partition(".")
    return f"{module}.{cls.__name__}" if package == PACKAGE and module else cls.__name__


def build(name: str, config: dict[str, Any]) -> nn.Module:
    """A network of a registered class. Raises ValueError for a class that is not."""
    module = name.rpartition(".")[0]
    if name not in CLASSES and module:
        if all(p.isidentifier() and not p.startswith("_") for p in module.split(".")):
            try:
                importlib.import_module(f"{PACKAGE}.{module}")
            except ModuleNotFoundError as error:
                if not (error.name or "").startswith(PACKAGE):
                    raise ValueError(
                        f"it holds a {name}, which needs {error.name}; install that"
                    ) from error
    if name not in CLASSES:
        raise ValueError(
            f"it holds a {name}; pass model= with such a network to load it, or "
            "register its class"
        )
    return CLASSES[name](**config)


@dataclass
class Stored:
    """What load_network returns."""

    network: nn.Module  # with the averaged weights, in eval mode
    step: int
    info: dict[str, Any]  # whatever was saved beside
    training: dict[str, Tensor] | None  # only if asked for
    path: Path
    about: dict[str, Any]  # all of checkpoint.json


def save_network(
    path: str | Path,
    network: nn.Module,
    *,
    step: int = 0,
    info: dict[str, Any] | None = None,
    training: dict[str, Tensor] | None = None,
    about: dict[str, Any] | None = None,
    says: dict[str, Any] | None = None,
    half: bool = False,
) -> Path:
    """Write a checkpoint folder `path`: all of it or, whatever happens, none of it.

    info      anything that JSON can hold; training  more tensors, for resuming
    about     what else checkpoint.json says; says  of the network
    half      store the weights in float16: half the size, 3 digits; they load as
              float32
    Raises TypeError for what is no network, no path, or cannot be kept, before anything
    is written; OSError (disk full, read-only folder), after which what stood at `path`
    before stands there still.
    """
    path = as_path(path)
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"model is a {type(network).__name__}; wanted the network whose weights to "
            "keep, an nn.Module"
        )
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise TypeError(
            f"step = {step!r}; wanted the number of training steps done, a whole number"
        )
    for name, tensor in (training or {}).items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"training[{name!r}] is a {type(tensor).__name__}; wanted tensors: "
                "info= takes everything else"
            )
    network = unwrap(network)
    description = {
        "class": _name(type(network)),
        **(says or {}),
        **getattr(network, "config", {}),
    }
    weights = weights_of(network)
    if half:
        weights = {
            name: w.half() if w.dtype == torch.float32 else w
            for name, w in weights.items()
        }
    return write_folder(
        path,
        {
            "format": FORMAT,
            "step": step,
            "network": description,
            **(about or {}),
            "info": info or {},
        },
        dict(zip(FILES[1:], (weights, training))),
    )


def load_network(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    training: bool = False,
    device: str | torch.device = "cpu",
) -> Stored:
    """Read a checkpoint folder, or the newest complete one in the folder of a run.

    model     a network of your own to load the weights into; not needed for a class
              that is registered
    training  also read what resuming needs
    Raises FileNotFoundError if there is none, ValueError if it is truncated, foreign,
    or does not fit the model, or for a device that is not there, TypeError for a path
    that is none. Never unpickles.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}; wanted a network to load the weights "
            "into, an nn.Module, or None for a UNet"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device = {str(device)!r} cannot be used here "
            f"({str(error).splitlines()[0][:200]}); wanted "
            '"cpu", "cuda", "cuda:1" or "mps"'
        ) from error
    about, folder = read_about(path)
    with describing(folder):
        config = dict(about["network"])
        name, step, info = config.pop("class"), int(about["step"]), dict(about["info"])
        config.pop("prediction", None)  # as_eps_model's around it, not its own
    if model is None:
        with describing(folder):
            model = build(name, config)
    elif changed := differences(config, model, but=("dropout",)):
        raise ValueError(
            f"the weights in {folder} do not fit the model: it has {changed}; wanted "
            "the same network"
        )
    model = unwrap(model)
    try:
        set_weights(model, read_tensors(folder / FILES[1]))
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {folder} do not fit the model: "
            f"{' '.join(str(error).split())[:500]}"
        ) from error
    extra = read_tensors(folder / FILES[2]) if training else None
    return Stored(model.to(device).eval(), step, info, extra, folder, about)


def read_about(path: str | Path) -> tuple[dict[str, Any], Path]:
    """What checkpoint.json says, and its folder. Raises as `load_network`."""
    folder = find_checkpoint(path)
    file = folder / FILES[0]
    try:
        about = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is not JSON ({error}); the checkpoint is damaged: take another "
            "copy"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else type(about).__name__
        raise ValueError(
            f"{file} says format {found!r}; wanted {FORMAT!r}, as save_checkpoint "
            "writes it"
        )
    return about, folder


def differences(config: object, model: nn.Module, but: tuple[str, ...] = ()) -> str:
    """Where a model's own config and the one on the disk disagree, in words.

    Weights of equal shapes may belong to other functions: GroupNorm's groups, say.
    """
    own = getattr(unwrap(model), "config", None)
    if not isinstance(config, dict) or not isinstance(own, dict):
        return ""
    own = json.loads(json.dumps(own, default=str))
    return ", ".join(
        f"{name} = {own[name]}, the checkpoint {name} = {config[name]}"
        for name in own
        if name in config and name not in but and own[name] != config[name]
    )


@contextmanager
def describing(folder: Path) -> Iterator[None]:
    """Inside, what goes wrong is the fault of what checkpoint.json says."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        # the last: more weights than fit into memory
        raise ValueError(
            f"{folder / FILES[0]} does not describe a model: {error}"
        ) from error


def find_checkpoint(path: str | Path) -> Path:
    """`path` itself if it is a checkpoint, else the newest complete one in it.

    In a run only folders called step-<eight digits> are looked at, and the one with the
    largest number is the newest.
    """
    path = as_path(path)
    if path.is_file():
        raise ValueError(
            f"{path} is a file; wanted a folder with checkpoint.json and "
            "weights.safetensors. Pickled weights (.pt, .ckpt, .bin) can run code when "
            "they are read, so ddpm_core never reads them"
        )
    # The latter, if the process was killed between the two renames of write_folder.
    for folder in (path, old_name(path)):
        if (folder / FILES[0]).is_file():
            return folder
    for folder in reversed(steps_in(path).values()):
        if (folder / FILES[0]).is_file():
            return folder
    raise FileNotFoundError(
        f"no checkpoint in {path}; wanted a folder with checkpoint.json, as "
        f"`ddpm train --out {path}` makes it"
    )


def unwrap(model: nn.Module) -> nn.Module:
    """The network itself: without torch.compile, DataParallel or DDP around it."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """The state_dict, by the names that it has without torch.compile inside."""
    return {_plain_name(name): w for name, w in network.state_dict().items()}


def set_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load what `weights_of` gave; any precision becomes the network's own."""
    names = {_plain_name(name): name for name in network.state_dict()}
    network.load_state_dict({names.get(name, name): w for name, w in weights.items()})


def _plain_name(name: str) -> str:
    return name.replace("_orig_mod.", "")


def as_path(path: str | Path) -> Path:
    """Raises TypeError for what is no path."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"path is a {type(path).__name__}; wanted the folder of a run or of a "
            'checkpoint, such as "runs/fashion"'
        )
    return Path(path)
