"""A descent on any loss of a batch, in its daily form: Adam, a moving average, a log,
checkpoints, a bar, exact resuming. An autoencoder, in full:

    loss = lambda network, x: (network(x) - x).square()
    average = descend(Autoencoder(), loss, lambda n: images[order[n]], steps=2000)

descent.py has the loop itself, a generator.
"""

import math
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import distributed
from .batches import Batches as Batches
from .batches import again as again
from .batches import over as over
from .batches import split as split
from .descent import Descent as Descent
from .descent import Loss as Loss
from .descent import choose_for as choose_for
from .descent import descent as descent
from .descent import learning_rate as learning_rate
from .descent import told as told
from .files import claim_folder, write_picture
from .hardware import choose_device
from .log import Log, bar, board_folder, open_log
from .state import Kept as Kept
from .state import TrainingState as TrainingState
from .state import check_no_run, is_finite
from .state import restore as restore
from .state import runs_in as runs_in
from .state import save_state as save_state
from .state import start as start
from .store import load_network, save_network

# what a run itself writes into its checkpoints' info, and reads there
RUNNING = ("training", "seconds", "unlogged", "places", "scaler")


def descend(
    network: nn.Module,
    loss: Loss,
    batches: Callable[[int], Any] | Iterable[Any] | Batches,
    how: Descent | None = None,
    *,
    draw: Callable[[Any], Any] | None = None,
    quicker: Callable[[nn.Module], nn.Module] | None = None,
    look: Callable[[nn.Module], Tensor] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    info: dict[str, Any] | None = None,
    progress: bool = True,
    tensorboard: bool | str | Path = False,
    save: Callable[..., Path] = save_network,
    load: Callable[..., Kept] = load_network,
    **settings: Any,
) -> nn.Module:
    """Minimise loss(network, batch); return the moving average, in eval mode.

    network  any nn.Module: one network, or several as its parts; trained in place
    loss     (network, batch) -> scalar, or (B,), whose mean is minimised
    batches  a function step -> batch (a resumed run is then exact), or an iterable,
             gone through again and again. A batch is a tensor, or a tuple, list or dict
             of them; it is brought to the device
    how      Descent(...); or its fields by keyword: descend(..., steps=500, lr=1e-3)
    draw, quicker    see `descent`
    look     average -> picture, uint8 (H, W) or (H, W, C): drawn every `sample_every`
             steps, to out/samples and the board
    out      folder for checkpoints and log.jsonl; resume=True goes on from the newest
             checkpoint there. load_network(out) gives the average back
    info     anything JSON can hold, kept in the checkpoints
    tensorboard  True: event files, too, in out/tensorboard; or a folder for them
    save, load   how a checkpoint is written and read; see save_network, load_network

    Ctrl-C finishes the step, writes a checkpoint (if there is `out`) and raises
    KeyboardInterrupt. An error in the data, the log or the network costs no more: the
    newest whole state is saved, then it is raised. The caller's random state is left
    alone. Raises TypeError or ValueError for settings that do not fit, before anything
    is written, and OSError for a disk that is full, after which the newest checkpoint
    is what it was. Under torchrun every process calls this with the same arguments and
    its own part of the batches.
    """
    how = told(Descent, how, settings)
    _check_network(network)
    first, ranks = distributed.rank() == 0, distributed.size()
    out = Path(out) if out is not None else None
    if first and out is not None:
        claim_folder(out)
    board = board_folder(tensorboard, out)
    _check_pictures(how, look, out is not None or board is not None)
    device = choose_device(how.device)
    choice = choose_for(how, device)
    state = start(
        network,
        device,
        choice.precision,
        how.lr,
        choice.channels_last,
        choice.fused,
        how.weight_decay,
    )
    before = _earlier(state, out, resume, load)
    source, met = Batches.of(batches), [False]
    run = descent(
        state,
        loss,
        _together(source.begin(state.step, before), met),
        how,
        draw=draw,
        quicker=quicker,
        precision=choice.precision,
        compile=choice.compile,
        through=network,
    )
    said = asdict(how) | dict(device=device.type, ranks=ranks) | asdict(choice)
    unlogged = before.get("unlogged", (0.0, 0))
    # summed since the last line of the log
    losses, summed = torch.tensor(unlogged[0], device=device), unlogged[1]
    saved, place = state.step, source.place and source.place()
    # what an earlier part of the run noted stays, unless it is noted anew
    noted = {k: v for k, v in before.items() if k not in RUNNING} | (info or {})

    def keep() -> None:
        """Write a checkpoint; all ranks call this, if the batches have a place."""
        nonlocal saved
        saved = state.step
        more = {
            "training": said | {"batch_size": state.size * ranks},
            "seconds": round(log.seconds()),
            "unlogged": [losses.item(), summed],
        }
        if place is not None:
            more["places"] = distributed.gather(torch.tensor([place])).tolist()
        if first and out is not None:
            save_state(state, out, {**noted, **more}, save)

    def show(log: Log) -> None:
        """A picture of what the average draws by now."""
        assert look is not None
        pixels = look(state.ema).cpu()
        if out is not None:
            write_picture(pixels, out / "samples" / f"step-{state.step:08d}.png")
        log.picture(state.step, pixels)

    with (
        _interrupt() as interrupted,
        bar(progress and first, state.step, how.steps) as shown,
        open_log(first, out, state.step, board) as log,
    ):
        if not shown.disable:
            on = f"{ranks} x {device}" if ranks > 1 else f"{device}"
            shown.write(f"training: on {on} in {choice}", file=sys.stderr)
        try:
            for state in run:
                stop = distributed.any_rank(bool(interrupted))
                if before:
                    _say_what_changed(before, said | {"batch_size": state.size * ranks})
                    before = {}
                losses, summed = losses + state.loss, summed + 1
                place = source.place and source.place()
                shown.update()
                end = state.step == how.steps or stop
                saving = out is not None and (end or state.step % how.save_every == 0)
                if saving or state.step % how.log_every == 0:
                    losses = distributed.mean(losses)
                    _check_finite(state, losses.item() / summed, saving)
                if state.step % how.log_every == 0:
                    mean = losses.item() / summed
                    rate = state.optimizer.param_groups[0]["lr"]
                    log.write(step=state.step, loss=mean, lr=rate)
                    losses, summed = torch.zeros_like(losses), 0
                    shown.set_postfix_str(f"loss {mean:.4f}")
                if saving:
                    keep()
                if how.sample_every and state.step % how.sample_every == 0 and first:
                    show(log)
                if stop:
                    # torchrun ends all ranks when one ends: none may end before the
                    # checkpoint is written
                    distributed.any_rank(stop)
                    raise KeyboardInterrupt(
                        f"stopped after step {state.step}"
                        + (
                            f"; go on with resume=True (--resume) from {out}"
                            if out
                            else ""
                        )
                    )
        except Exception as error:
            alone = ranks == 1 or met[0]  # or all ranks are here, and know it
            if out is not None and state.step > saved and state.whole:
                if (alone or place is None) and is_finite(state, losses):
                    try:
                        keep()
                        error.add_note(
                            f"step {state.step} is saved; go on with resume=True"
                            " (--resume)"
                        )
                    except OSError as second:
                        error.add_note(f"nor could the run be saved: {second}")
            if met[0]:
                distributed.any_rank(True)  # see above
            raise
    return state.ema


def _check_network(network: object) -> None:
    """Raise TypeError unless there is something to train."""
    if not isinstance(network, nn.Module) or next(network.parameters(), None) is None:
        raise TypeError(
            f"model is a {type(network).__name__}; wanted an nn.Module with "
            "parameters, such as UNet(...)"
        )


def _check_pictures(how: Descent, look: object, place: bool) -> None:
    """Raise ValueError for pictures that nobody draws, or that have no place."""
    if how.sample_every and look is None:
        raise ValueError(
            f"sample_every = {how.sample_every} needs look=, which draws them"
        )
    if how.sample_every and not place:
        raise ValueError(
            f"sample_every = {how.sample_every} needs out=, the folder of the run, or "
            "tensorboard=, to show its pictures in"
        )


def _earlier(
    state: TrainingState, out: Path | None, resume: bool, load: Callable[..., Kept]
) -> dict[str, Any]:
    """Set the state to where the run in `out` was -> its info; {} for a new run.

    Raises ValueError where there is nothing to go on with, or a run already.
    """
    if not resume:
        if out is not None:
            check_no_run(out)
        return {}
    if out is None:
        raise ValueError("resume=True needs out=, the folder of the run to go on with")
    before = restore(state, out, load).info
    here = distributed.gather(torch.tensor([state.step])).tolist()
    if len(found := set(here)) > 1:
        raise ValueError(
            f"the processes found different checkpoints in {out}: steps "
            f"{sorted(found)}; wanted one folder that all of them see"
        )
    return before


def _together(batches: Iterator[Any], met: list[bool]) -> Iterator[Any]:
    """The batches; where one rank has none, all stop, so that rank 0 can save."""
    while True:
        batch, error = None, cast(Exception | None, None)
        try:
            batch = next(batches)
        except StopIteration:
            error = ValueError("there are no more batches; wanted one for every step")
        except Exception as problem:
            error = problem
        if distributed.any_rank(error is not None):
            met[0] = distributed.size() > 1
            raise error or RuntimeError("another process had no batch to go on with")
        yield batch


def _say_what_changed(before: dict[str, Any], said: dict[str, Any]) -> None:
    """Warn of settings that a resumed run does not share with its earlier part."""
    earlier = before.get("training") or {}
    ours = (
        "steps",
        "decay",
        "device",
        "precision",
        "channels_last",
        "fused",
        "compile",
    )
    for name, value in said.items():
        if name in (*ours, "ranks", "save_every", "log_every", "sample_every"):
            continue  # a longer run, another machine, other habits: not another descent
        if earlier.get(name, value) != value and distributed.rank() == 0:
            warnings.warn(
                f"the run goes on with {name} = {value}; until now it had "
                f"{name} = {earlier[name]}",
                stacklevel=3,
            )


def _check_finite(state: TrainingState, loss: float, saving: bool) -> None:
    remedy = 'the newest checkpoint is untouched. Lower lr, or use precision="float32"'
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss} at step {state.step}; {remedy}")
    if saving and not is_finite(state, state.loss):
        raise ValueError(
            f"the loss is {loss}, but weights are no numbers after step {state.step}; "
            f"{remedy}"
        )


@contextmanager
def _interrupt() -> Iterator[list[int]]:
    """A list that becomes non-empty at the first Ctrl-C, so that the step can end.

    The second one stops at once. Under torchrun it does not: there one Ctrl-C may come
    as several signals, and 30 seconds after it torchrun itself makes an end.
    """
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def press(number: int, frame: object) -> None:
        if pressed and distributed.size() == 1:
            raise KeyboardInterrupt
        pressed.append(number)

    before = {
        number: signal.signal(number, press)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
