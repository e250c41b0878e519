"""Checkpoints of a model: a network, as runtime/store.py keeps it, and its schedule.

A UNet is built again from the folder alone, as_eps_model around it included. So is
every class of after/, and a class of your own that you `register`. Networks without a
schedule (an autoencoder, a CLIP) are kept and loaded by save_network, load_network.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from .reverse import EpsModel, as_eps_model
from .runtime.files import beside as beside
from .runtime.files import claim as claim
from .runtime.store import (
    build,
    describing,
    load_network,
    read_about,
    save_network,
    unwrap,
)
from .runtime.store import find_checkpoint as find_checkpoint
from .runtime.store import register as register
from .schedule import Schedule
from .unet import UNet

register(UNet, "UNet")


@dataclass
class Checkpoint:
    """What load_checkpoint returns."""

    model: nn.Module  # with the averaged weights, in eval mode
    schedule: Schedule
    step: int  # of training, after which it was written
    # whatever was saved beside: settings, data set, class names
    info: dict[str, Any] = field(default_factory=dict)
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
    half: bool = False,
) -> Path:
    """Write a checkpoint folder `path`: all of it or, whatever happens, none of it.

    model     the network whose weights are kept; as_eps_model around it is noted, and
              torch.compile, DataParallel or DDP around it is taken off
    info      anything that JSON can hold; training  further tensors, for resuming
    half      store the weights in float16; they are float32 again when loaded
    Raises TypeError for what is no network, no schedule, no path, or cannot be kept,
    before anything is written; OSError (disk full, read-only folder), after which what
    stood at `path` before stands there still.
    """
    if isinstance(model, nn.Module) and not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule is a {type(schedule).__name__}; wanted a Schedule, such as "
            "linear_schedule()"
        )
    network, prediction = _inside(model)
    if isinstance(schedule, Schedule):
        check_schedules(model, schedule)
    return save_network(
        path,
        network,
        step=step,
        info=info,
        training=training,
        about=(
            {"beta": schedule.beta[1:].tolist()}
            if isinstance(schedule, Schedule)
            else {}
        ),
        says={} if prediction == "eps" else {"prediction": prediction},
        half=half,
    )


def load_checkpoint(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    training: bool = False,
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """Read a checkpoint folder, or the newest complete one in the folder of a run.

    model     a network of your own to load the weights into; not needed for a UNet, nor
              for a class that is registered. If the network predicts mu_tilde or x_0,
              it is or comes inside as_eps_model: .model answers with eps_hat
    training  also read what resuming needs
    Raises FileNotFoundError if there is none, ValueError if it is truncated, foreign,
    or does not fit the model, or for a device that is not there, TypeError for a path
    that is none. Never unpickles.
    """
    about, folder = read_about(path)
    with describing(folder):
        network = dict(about["network"])
        name, prediction = network.pop("class"), network.pop("prediction", "eps")
        if "beta" not in about:
            raise ValueError(f"it holds a {name} without a schedule: use load_network")
        schedule = Schedule(torch.tensor(about["beta"], dtype=torch.float64))
        if model is None:
            model = as_eps_model(build(name, network), schedule, prediction)
    check_schedules(model, schedule)
    inside, given = _inside(model)
    if isinstance(model, nn.Module) and given != prediction:
        raise ValueError(
            f"the network in {folder} predicts {prediction}, the model given predicts "
            f"{given}; wanted the same: "
            f'as_eps_model(network, schedule, "{prediction}")'
        )
    kept = load_network(folder, model=inside, training=training, device=device)
    return Checkpoint(
        model.to(device).eval(), schedule, kept.step, kept.info, kept.training, folder
    )


def _inside(model: nn.Module) -> tuple[nn.Module, str]:
    """The network whose weights are kept, and what it predicts."""
    model = unwrap(model)
    return (
        (cast(nn.Module, model.network), model.prediction)
        if isinstance(model, EpsModel)
        else (model, "eps")
    )


def check_schedules(model: nn.Module, schedule: Schedule) -> None:
    """Raise ValueError if as_eps_model was told another schedule than this."""
    inner = unwrap(model)
    own = inner.schedule if isinstance(inner, EpsModel) else schedule
    if not torch.equal(own.beta, schedule.beta):
        raise ValueError(
            f"as_eps_model was given {own}, and here is {schedule}; wanted the same"
        )
