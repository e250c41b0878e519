"""Checkpoints: a folder of safetensors and JSON, written completely or not at all, and read without executing anything.

runs/fashion/                 a run, as train(out="runs/fashion") makes it
    log.jsonl                 step, loss, learning rate, seconds
    step-00002000/            a checkpoint; it gets this name by one rename, when all of it is on the disk
        checkpoint.json       the network's arguments, beta, the step, the settings of the training
        weights.safetensors   the averaged weights: all that sampling needs
        training.safetensors  weights, Adam's moments: what only resuming needs (absent in published checkpoints)
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .reverse import EpsModel, as_eps_model
from .schedule import Schedule
from .unet import UNet

FORMAT = "ddpm_core checkpoint 1"


@dataclass
class Checkpoint:
    """What load_checkpoint returns."""

    model: nn.Module  # with the averaged weights, in eval mode
    schedule: Schedule
    step: int  # of training, after which it was written
    info: dict[str, Any] = field(
        default_factory=dict
    )  # whatever was saved beside: settings, data set, class names
    training: dict[str, Tensor] | None = None  # only if asked for
    path: Path = Path()


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    schedule: Schedule,
    *,
    step: int = 0,
    info: dict[str, Any] | None = None,
    training: dict[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint folder `path`: all of it or, whatever happens meanwhile, none of it.

    model     the network whose weights are kept; a UNet can be rebuilt from the folder alone, as_eps_model around it included
    info      anything that JSON can hold; training  further tensors, by name, for resuming
    Raises TypeError for what is no network, no schedule, no path, or cannot be kept, before anything is written; OSError (disk full,
    read-only folder), after which what stood at `path` before stands there still.
    """
    path = _path(path)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}; wanted the network whose weights to keep, an nn.Module"
        )
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule is a {type(schedule).__name__}; wanted a Schedule, such as linear_schedule()"
        )
    if isinstance(step, bool) or not isinstance(step, int) or step < 0:
        raise TypeError(
            f"step = {step!r}; wanted the number of training steps done, a whole number"
        )
    if wrong := [
        name
        for name, tensor in (training or {}).items()
        if not isinstance(tensor, Tensor)
    ]:
        raise TypeError(
            f"training[{wrong[0]!r}] is a {type((training or {})[wrong[0]]).__name__}; wanted tensors: info= takes everything else"
        )
    network, prediction = _inside(model)
    about = {
        "format": FORMAT,
        "step": step,
        "network": {
            "class": type(network).__name__,
            **({} if prediction == "eps" else {"prediction": prediction}),
            **getattr(network, "config", {}),
        },
        "beta": schedule.beta[1:].tolist(),
        "info": info or {},
    }
    text = json.dumps(about, indent=1) + "\n"
    partial, old = path.with_name(f".{path.name}.partial"), _old(path)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_plain(network.state_dict()), partial / "weights.safetensors")
        if training is not None:
            save_file(_plain(training), partial / "training.safetensors")
        (partial / "checkpoint.json").write_text(text, encoding="utf-8")
        for file in partial.glob("*.safetensors"):
            file.chmod(
                (partial / "checkpoint.json").stat().st_mode
            )  # safetensors makes them private to their owner
        for file in [*partial.iterdir(), partial]:
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
            f"the checkpoint {path} could not be written ({error}); what was there before is untouched. "
            "Free some space or choose another folder"
        ) from error
    with suppress(
        OSError
    ):  # all of it is written by now; some file systems cannot flush a folder
        _flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)
    return path


def load_checkpoint(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    training: bool = False,
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """Read a checkpoint folder, or the newest complete one in the folder of a run.

    model     a network of your own to load the weights into; not needed for a UNet
              If the network predicts mu_tilde or x_0, it is or comes inside as_eps_model, so that .model answers with eps_hat
    training  also read what resuming needs
    Raises FileNotFoundError if there is none, ValueError if it is truncated, foreign, or does not fit the model, or for a device that is
    not there, TypeError for a path that is none. Never unpickles.
    """
    if model is not None and not isinstance(model, nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}; wanted a network to load the weights into, an nn.Module, or None for a UNet"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'device = {str(device)!r} cannot be used here ({str(error).splitlines()[0][:200]}); wanted "cpu", "cuda", "cuda:1" or "mps"'
        ) from error
    folder = find_checkpoint(path)
    try:
        about = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{folder / 'checkpoint.json'} is not JSON ({error}); the checkpoint is damaged: take another copy"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else type(about).__name__
        raise ValueError(
            f"{folder / 'checkpoint.json'} says format {found!r}; wanted {FORMAT!r}, as save_checkpoint writes it"
        )
    try:
        network = dict(about["network"])
        kind, prediction = network.pop("class"), network.pop("prediction", "eps")
        schedule = Schedule(torch.tensor(about["beta"], dtype=torch.float64))
        step, info = int(about["step"]), dict(about["info"])
        if model is None:
            if kind != "UNet":
                raise ValueError(
                    f"it holds a {kind}; pass model= with such a network to load it"
                )
            model = as_eps_model(UNet(**network), schedule, prediction)
    except (
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # the last: more weights than fit into memory
        raise ValueError(
            f"{folder / 'checkpoint.json'} does not describe a model: {error}"
        ) from error
    inside, given = _inside(model)
    if given != prediction:
        raise ValueError(
            f"the network in {folder} predicts {prediction}, the model given predicts {given}; wanted the same: "
            f'as_eps_model(network, schedule, "{prediction}")'
        )
    weights = _read(folder / "weights.safetensors")
    try:
        inside.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {folder} do not fit the model: {' '.join(str(error).split())[:500]}"
        ) from error
    extra = _read(folder / "training.safetensors") if training else None
    return Checkpoint(model.to(device).eval(), schedule, step, info, extra, folder)


def _inside(model: nn.Module) -> tuple[nn.Module, str]:
    """The network whose weights are kept, and what it predicts."""
    return (
        (cast(nn.Module, model.network), model.prediction)
        if isinstance(model, EpsModel)
        else (model, "eps")
    )


def find_checkpoint(path: str | Path) -> Path:
    """`path` itself if it is a checkpoint, else the newest complete one in it."""
    path = _path(path)
    if path.is_file():
        raise ValueError(
            f"{path} is a file; wanted a folder with checkpoint.json and weights.safetensors. "
            "Pickled weights (.pt, .ckpt, .bin) can run code when they are read, so ddpm_core never reads them"
        )
    for folder in (
        path,
        _old(path),
    ):  # the latter, if the process was killed between the two renames of save_checkpoint
        if (folder / "checkpoint.json").is_file():
            return folder
    complete = sorted(
        folder
        for folder in path.glob("step-*")
        if (folder / "checkpoint.json").is_file()
    )
    if not complete:
        raise FileNotFoundError(
            f"no checkpoint in {path}; wanted a folder with checkpoint.json, as `ddpm train --out {path}` makes it"
        )
    return complete[-1]


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write to; it gets the name `path` by one rename, when all of it is on the disk. If anything fails, it is gone.

    Raises OSError (disk full, read-only folder), after which what stood at `path` before stands there still.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
    except BaseException as error:  # Ctrl-C, too
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OSError(
            f"{path} could not be written ({error}); what was there before is untouched. Free some space or choose another folder"
        ) from error


def claim(path: Path) -> None:
    """Make the folder of `path` and see that a file can be written there: better now than after hours. Raises OSError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        try:
            partial.write_bytes(
                bytes(4096)
            )  # an empty file could be made on a full disk, too
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error}); wanted a file in a folder, there or to be made, with space for it"
        ) from error


def _path(path: str | Path) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f'path is a {type(path).__name__}; wanted the folder of a run or of a checkpoint, such as "runs/fashion"'
        )
    return Path(path)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing; the checkpoint is incomplete, or was published without it"
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file} ({file.stat().st_size} bytes) is truncated or no safetensors file ({error}); take another copy"
        ) from error


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU copies: safetensors stores neither strides nor devices, nor two names of one memory."""
    return {
        name: tensor.detach().to(
            "cpu", copy=True, memory_format=torch.contiguous_format
        )
        for name, tensor in tensors.items()
    }


def _flush(path: Path) -> None:
    """Wait until the file or folder is on the disk, so that the rename after it cannot come first."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
