"""A descent on any loss of a batch: Adam, a moving average, a log, exact resuming.

`descent` is the loop, a generator that yields its state after every step; `descend` is
the daily form of it, with a progress bar, a log and checkpoints. Whatever is random in
step n is drawn from a seed made of (seed, n), so that there is no random state to save:
a resumed run *is* the run. An autoencoder, in full:

    loss = lambda network, x: (network(x) - x).square()
    average = descend(Autoencoder(), loss, lambda n: images[order[n]], steps=2000)
"""

import math
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from . import distributed
from .batches import Batches as Batches
from .batches import again as again
from .batches import over as over
from .batches import size_of as size_of
from .batches import split as split
from .batches import to_device as to_device
from .distributed import mix
from .files import claim_folder, write_picture
from .hardware import Choice, choose, choose_device, describe
from .log import Log, bar, board_folder, open_log
from .state import Kept as Kept
from .state import TrainingState as TrainingState
from .state import is_finite
from .state import restore as restore
from .state import runs_in as runs_in
from .state import save_state as save_state
from .state import start as start
from .store import load_network, save_network

Loss = Callable[[Any, Any], Tensor]  # (network, batch) -> scalar or (B,)


# what a run itself writes into its checkpoints' info, and reads there
RUNNING = ("training", "seconds", "unlogged", "places", "scaler")


@dataclass(frozen=True, kw_only=True)
class Descent:
    """What a descent is told, whatever its loss. Raises TypeError or ValueError.

    steps     in all, including those of a resumed run
    lr        of Adam; it grows linearly for `warmup` steps and falls linearly to zero
              over the last `decay` steps
    weight_decay  above 0: AdamW      clip  largest norm of the gradient; 0: any
    ema       decay of the moving average of the weights
    accumulate  parts of a batch whose gradients are added up before a step: the step of
              the whole batch in a fraction of the memory (see `descent`)
    seed      of everything that is random in a step
    device    "auto": CUDA, else MPS, else CPU
    precision  "auto", "float32", "bfloat16" or "float16"
    channels_last, fused (Adam), compile    "auto": what is fastest on the device, see
              hardware.choose; True or False: as you say
    save_every, log_every, sample_every    steps between checkpoints, lines of the log,
              pictures (0: none)
    """

    steps: int
    lr: float = 2e-4
    warmup: int = 500
    decay: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.9999
    accumulate: int = 1
    seed: int = 0
    device: str | torch.device = "auto"
    precision: str = "auto"
    channels_last: bool | str = "auto"
    fused: bool | str = "auto"
    compile: bool | str = "auto"
    save_every: int = 1000
    log_every: int = 50
    sample_every: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed = {self.seed!r}; wanted a whole number")
        positive = ("lr", "batch_size", "save_every", "log_every", "accumulate")
        for name, kind in ((f.name, f.type) for f in fields(self)):
            value = getattr(self, name)
            if kind not in (int, float) or name == "seed":
                continue
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not math.isfinite(value)
            ):
                raise TypeError(f"{name} = {value!r}; wanted a number")
            if value < 0 or value == 0 and name in positive:
                least = "more than 0" if name in positive else "at least 0"
                raise ValueError(f"{name} = {value}; wanted {least}")
            if kind is int and value != int(value):
                raise ValueError(f"{name} = {value}; wanted a whole number")
        if self.ema >= 1:
            raise ValueError(
                f"ema = {self.ema}; wanted 0 <= ema < 1 (the paper: 0.9999)"
            )


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
    if not isinstance(network, nn.Module) or next(network.parameters(), None) is None:
        raise TypeError(
            f"model is a {type(network).__name__}; wanted an nn.Module with "
            "parameters, such as UNet(...)"
        )
    first, ranks = distributed.rank() == 0, distributed.size()
    out = Path(out) if out is not None else None
    if first and out is not None:
        claim_folder(out)
    board = board_folder(tensorboard, out)
    if how.sample_every and (look is None or out is None and board is None):
        raise ValueError(
            f"sample_every = {how.sample_every} needs out=, the folder of the run, or "
            "tensorboard=, to show its pictures in"
            if look is not None
            else f"sample_every = {how.sample_every} needs look=, which draws them"
        )
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
    before: dict[str, Any] = {}
    if resume:
        if out is None:
            raise ValueError(
                "resume=True needs out=, the folder of the run to go on with"
            )
        before = restore(state, out, load).info
        here = distributed.gather(torch.tensor([state.step])).tolist()
        if len(found := set(here)) > 1:
            raise ValueError(
                f"the processes found different checkpoints in {out}: steps "
                f"{sorted(found)}; wanted one folder that all of them see"
            )
    elif out is not None and (there := runs_in(out)):
        raise ValueError(
            f"{out} already holds a run ({there[-1].name}); go on with resume=True "
            "(--resume), or choose another folder"
        )
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
                            f"step {state.step} is saved; go on with resume=True (--resume)"
                        )
                    except OSError as second:
                        error.add_note(f"nor could the run be saved: {second}")
            if met[0]:
                distributed.any_rank(True)  # see above
            raise
    return state.ema


def told(kind: type[Any], how: Any, settings: dict[str, Any]) -> Any:
    """`how`, or a `kind` of the keyword arguments. Raises TypeError for both, neither."""
    if how is None:
        names = {f.name for f in fields(kind)}
        if unknown := sorted(set(settings) - names):
            raise TypeError(
                f"{unknown[0]} is no argument; wanted some of {', '.join(sorted(names))}"
            )
        return kind(**settings)
    if not isinstance(how, kind):
        raise TypeError(
            f"how is a {type(how).__name__}; wanted {kind.__name__}(...), or its fields "
            "by keyword"
        )
    if settings:
        raise TypeError(
            f"{sorted(settings)[0]} was given beside {kind.__name__}(...); wanted it "
            "inside: dataclasses.replace(how, ...)"
        )
    return how


def choose_for(how: Descent, device: torch.device) -> Choice:
    """The precision and the rest, where they are "auto"."""
    return choose(
        describe(device),
        how.steps,
        how.precision,
        how.channels_last,
        how.fused,
        how.compile,
    )


class _Asked(nn.Module):
    """The loss as a network's forward: whatever a loss asks of it, ranks stay alike."""

    def __init__(self, network: nn.Module, loss: Loss):
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(self.network, batch).mean()


def descent(
    state: TrainingState,
    loss: Loss,
    batches: Iterator[Any],
    how: Descent,
    *,
    draw: Callable[[Any], Any] | None = None,
    quicker: Callable[[nn.Module], nn.Module] | None = None,
    precision: str = "float32",
    compile: bool = False,
    through: nn.Module | None = None,
) -> Iterator[TrainingState]:
    """The loop itself: yields the state after each step, up to step how.steps.

    draw     batch -> batch, with whatever is random in it. Here all ranks draw the same
             numbers (for the whole batch, of which they keep their part), and numbers
             for all parts of an accumulated batch; in `loss` each rank draws its own
    quicker  network -> what is asked instead of it, with the same weights, such as
             fast.training; None: the network itself
    through  the network as it was given, where that is compiled or in parallel

    With how.accumulate = k the batch is cut into k parts. The loss of the whole is the
    mean of theirs, weighted by their numbers of entries, so the step is the same but
    for rounding, if the loss is a mean over the batch. What `loss` draws is drawn part
    by part: dropout has other masks of the same kind. A contrastive loss sees fewer
    pairs, a BatchNorm smaller batches; these are other losses then.

    Under torchrun, `batches` are this rank's parts of the whole batches, equally large
    on all ranks.
    """
    model, device = state.model, next(state.model.parameters()).device
    average, weights = list(state.ema.parameters()), list(model.parameters())
    buffers = next(model.buffers(), None) is not None
    model.train()
    network = quicker(model) if quicker is not None else model
    if through is not None and hasattr(through, "_orig_mod"):
        network = through
    elif isinstance(through, nn.DataParallel):
        network = through
    elif compile:
        network = cast(nn.Module, torch.compile(network))
    asked = distributed.parallel(_Asked(network, loss))
    together = getattr(asked, "no_sync", nullcontext)
    while state.step < how.steps:
        batch = to_device(next(batches), device)
        # before the network runs: gradients and activations are then not held at once
        state.optimizer.zero_grad()
        with _randomness_of_step(how.seed, state.step, device):
            if draw is not None:
                batch = draw(batch)
            if distributed.rank() > 0:
                # what is drawn from here on, dropout, is for this part only
                torch.manual_seed(
                    mix(how.seed, "step", state.step, "rank", distributed.rank())
                )
            state.whole = not buffers  # a norm's buffers change on the way
            total = torch.zeros((), device=device)
            parts = split(batch, how.accumulate)
            for k, (part, share) in enumerate(parts):
                last = k == len(parts) - 1
                with nullcontext() if last else together():
                    with (
                        torch.autocast(device.type, getattr(torch, precision))
                        if precision != "float32"
                        else nullcontext()
                    ):
                        value = asked(part) * share
                    state.scaler.scale(value).backward()
                total = total + value.detach()
            state.whole = False
            state.scaler.unscale_(state.optimizer)
            if how.clip:
                torch.nn.utils.clip_grad_norm_(weights, how.clip)
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(
                    state.step, how.lr, how.steps, how.warmup, how.decay
                )
            state.scaler.step(state.optimizer)
            state.scaler.update()

        # Departure: the average starts short and lengthens to `ema`; at a constant
        # 0.9999 it would still hold more than a third of the random initial weights
        # after 10,000 steps. Only parameters are averaged; buffers are copied.
        n = state.step
        get_ema_multi_avg_fn(min(how.ema, (1 + n) / (10 + n)))(average, weights, n)
        for kept, buffer in zip(state.ema.buffers(), model.buffers()):
            kept.copy_(buffer)
        state.step, state.loss, state.whole = state.step + 1, total, True
        state.size = size_of(batch)
        yield state


def learning_rate(step: int, lr: float, steps: int, warmup: int, decay: int) -> float:
    """Linear from 0 to lr over `warmup` steps, constant, linear to 0 over the last.

    decay  how many of the `steps` steps those are

    Departure: the official code warms up over 5,000 of 800,000 steps and does not
    decay; runs of a few thousand steps need both.
    """
    up = min(1.0, (step + 1) / warmup) if warmup else 1.0
    down = min(1.0, (steps - step) / decay) if decay else 1.0
    return lr * up * down


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
def _randomness_of_step(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Seed torch from (seed, step) inside, dropout included; the caller's comes back."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(mix(seed, "step", step))
        yield


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
