"""Everything that changes during a descent: made, kept on the disk, set back to it."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from . import distributed
from .files import remove_steps, steps_in
from .store import (
    FILES,
    differences,
    load_network,
    read_about,
    save_network,
    set_weights,
    unwrap,
    weights_of,
)


class Kept(Protocol):
    """What reading a checkpoint gives: see store.Stored."""

    step: int
    info: dict[str, Any]
    training: dict[str, Tensor] | None
    path: Path


@dataclass
class TrainingState:
    """Everything that changes during a descent; yielded after each step."""

    model: nn.Module
    ema: nn.Module  # the averaged weights, which sample better
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # idle unless the precision is float16
    step: int = 0  # steps done
    # on this rank's part of the last batch; reading it waits for the device
    loss: Tensor = field(default_factory=lambda: torch.tensor(math.nan))
    whole: bool = True  # False in the middle of a step: then it is not worth saving
    size: int = 0  # entries of this rank's part of the last batch


def start(
    model: nn.Module,
    device: torch.device,
    precision: str,
    lr: float,
    channels_last: bool = False,
    fused: bool = True,
    weight_decay: float = 0.0,
) -> TrainingState:
    """The state before the first step: the model on its device, its average, Adam."""
    model = unwrap(model)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "all parameters of the model are frozen; wanted some that can be trained: "
            "requires_grad_(True)"
        )
    model.to(device)
    if channels_last:
        # some of torch's stubs leave it out
        cast(Any, model).to(memory_format=torch.channels_last)
    distributed.share(model)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer: torch.optim.Optimizer
    if weight_decay:
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=lr, eps=1e-8, weight_decay=weight_decay, fused=fused
        )
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=lr, eps=1e-8, fused=fused)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    return TrainingState(model, ema, optimizer, scaler)


def save_state(
    state: TrainingState,
    out: Path,
    info: dict[str, Any],
    save: Callable[..., Path] = save_network,
) -> Path:
    """Write out/step-<n> with all that resuming needs, then drop the older ones."""
    tensors = {f"model.{name}": w for name, w in weights_of(state.model).items()}
    for name, parameter in _named(state.model):
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = value
    folder = save(
        out / f"step-{state.step:08d}",
        state.ema,
        step=state.step,
        info={**info, "scaler": state.scaler.state_dict()},
        training=tensors,
    )
    remove_steps(out, state.step, FILES)
    return folder


def restore(
    state: TrainingState, out: Path, load: Callable[..., Kept] = load_network
) -> Kept:
    """Set `state` to the newest checkpoint in `out`.

    A parameter that was frozen has no moments; it gets new ones if it is trained now.
    Raises FileNotFoundError, or ValueError if it does not fit.
    """
    device = next(state.model.parameters()).device
    about, folder = read_about(out)
    if changed := differences(about.get("network"), state.model):
        raise ValueError(
            f"the weights in {folder} do not fit the model: it has {changed}; wanted "
            "the same network to go on with"
        )
    stored = load(out, model=state.ema, training=True, device=device)
    tensors = stored.training or {}
    adam = {"step", "exp_avg", "exp_avg_sq"}
    try:
        set_weights(
            state.model,
            {
                name.removeprefix("model."): w
                for name, w in tensors.items()
                if name.startswith("model.")
            },
        )
        trained = 0
        for name, parameter in _named(state.model):
            moments = {
                key: tensors[f"adam.{key}.{name}"]
                for key in adam
                if f"adam.{key}.{name}" in tensors
            }
            if not moments:
                continue
            if set(moments) != adam:
                raise KeyError(f"adam.{min(adam - set(moments))}.{name}")
            trained += 1
            kept: dict[str, Any] = {
                "step": moments.pop("step").to(parameter.device, copy=True).reshape(())
            }
            for key, value in moments.items():
                # laid out in memory like the parameter: a fused Adam reads both side
                # by side
                kept[key] = torch.empty_like(parameter.detach()).copy_(value)
            state.optimizer.state[parameter] = kept
        if stored.step and not trained:
            raise KeyError("adam.exp_avg")
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{stored.path} cannot be resumed with this model: "
            f"{' '.join(str(error).split())[:500]}"
        ) from error
    if stored.info.get("scaler"):
        state.scaler.load_state_dict(stored.info["scaler"])
    state.step = stored.step
    return stored


def _named(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Parameters by the names that they have without torch.compile inside."""
    return [
        (name.replace("_orig_mod.", ""), parameter)
        for name, parameter in model.named_parameters()
    ]


def runs_in(out: Path) -> list[Path]:
    """The complete checkpoints of a run, the newest last."""
    return [
        folder for folder in steps_in(out).values() if (folder / FILES[0]).is_file()
    ]


def check_no_run(out: Path) -> None:
    """Raises ValueError for a folder that holds a run already."""
    if there := runs_in(out):
        raise ValueError(
            f"{out} already holds a run ({there[-1].name}); go on with resume=True "
            "(--resume), or choose another folder"
        )


def is_finite(state: TrainingState, losses: Tensor) -> bool:
    """Whether all that a checkpoint would hold is numbers."""
    kept = [*state.model.parameters(), *state.ema.parameters(), losses]
    return all(bool(x.isfinite().all()) for x in kept)
