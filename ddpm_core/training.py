"""Algorithm 1: repeat { x_0 ~ q, t ~ U{1..T}, eps ~ N(0, I), one gradient step on Eq. (14) } until converged.

`training_steps` is the algorithm, a generator that yields its state after every step; `train` is the daily form of it, with a
progress bar, a log and checkpoints. Whatever is random in step n is drawn from a seed made of (seed, n), so that there is no
random state to save: a resumed run *is* the run. Under torchrun each process draws for the whole batch and takes its part of it, so
that any number of processes trains the same network.
"""

import copy
import json
import math
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from . import distributed
from .bound import simple_loss
from .checkpoint import Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint
from .data import check_uint8_images, to_model_range
from .distributed import mix as mix
from .distributed import shard
from .hardware import choose, describe
from .hardware import choose_device as choose_device
from .objectives import Objective
from .reverse import Model
from .schedule import Schedule
from .streams import Batch, Stream, order

WITHOUT_CLASSES = (
    "a model without classes; build it with UNet(classes=...), or leave the labels out"
)


@dataclass
class TrainingState:
    """Everything that changes during training; training_steps yields it after each step."""

    model: nn.Module
    ema: nn.Module  # the averaged weights, which sample better
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # idle unless the precision is float16
    step: int = 0  # steps done
    loss: Tensor = field(
        default_factory=lambda: torch.tensor(math.nan)
    )  # on this rank's part of the last batch; reading it waits for the device


def train(
    model: nn.Module,
    schedule: Schedule,
    images: Tensor | Stream | Iterable[Any],
    labels: Tensor | None = None,
    *,
    steps: int,
    batch_size: int = 128,
    lr: float = 2e-4,
    warmup: int = 500,
    decay: int = 0,
    ema: float = 0.9999,
    flip: bool = True,
    drop_label: float = 0.1,
    device: str = "auto",
    precision: str = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    save_every: int = 1000,
    log_every: int = 50,
    seed: int = 0,
    info: dict[str, Any] | None = None,
    progress: bool = True,
    objective: Objective | None = None,
    channels_last: bool | str = "auto",
    fused: bool | str = "auto",
    compile: bool | str = "auto",
    tensorboard: bool | str | Path = False,
) -> nn.Module:
    """Algorithm 1: train `model` to predict noise and return its moving average, in eval mode.

    model      the network; trained in place, on `device`          schedule  whose T steps are learned
               One that predicts mu_tilde or x_0: as_eps_model(network, schedule, "mu"), and the same kind of model comes back
    images     uint8 (N, C, H, W), kept on the device and scaled batch by batch; or, if they do not fit there, a Stream
               (load_stream), or any iterable of such batches (or of pairs with labels), gone through again and again
    labels     LongTensor (N,) for a UNet with classes, replaced by "no label" with probability drop_label
    steps      in all, including those of a resumed run
    lr         of Adam; it grows linearly for `warmup` steps and falls linearly to zero over the last `decay` steps
    ema        decay of the moving average      flip       mirror half of the images left to right
    device     "auto": CUDA, else MPS, else CPU      precision  "auto", "float32", "bfloat16" or "float16"
    channels_last, fused (Adam), compile    "auto": what is fastest on the device, see hardware.choose; True or False: as you say
    out        folder for checkpoints and log.jsonl; resume=True goes on from the newest checkpoint there
    tensorboard  True: event files, too, in out/tensorboard; or a folder for them
    info       anything JSON can hold, kept in the checkpoints
    objective  function (model, schedule, x0, t, eps) -> (B,), whose mean is minimised; None: Eq. (14). See objectives.py

    Ctrl-C finishes the step, writes a checkpoint (if there is `out`) and raises KeyboardInterrupt; the caller's random state is
    left alone. Raises TypeError or ValueError for images, labels or settings that do not fit, before anything is written, and
    OSError for a disk that is full, after which the newest checkpoint is what it was.

    Under torchrun every process calls this with the same arguments: batch_size is split over them, rank 0 writes, and the weights
    are those of one process but for rounding (and dropout, whose masks differ). A loader of your own gives each rank its own images.
    """
    if not isinstance(model, nn.Module) or not any(True for _ in model.parameters()):
        raise TypeError(
            f"model is a {type(model).__name__}; wanted an nn.Module with parameters, such as UNet(...)"
        )
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule is a {type(schedule).__name__}; wanted a Schedule, such as linear_schedule()"
        )
    if objective is not None and not callable(objective):
        raise TypeError(
            f"objective = {objective!r}; wanted a function (model, schedule, x0, t, eps) -> (B,): choose_objective(...) has some by name"
        )
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed = {seed!r}; wanted a whole number")
    _check_settings(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        ema=ema,
        warmup=warmup,
        decay=decay,
        save_every=save_every,
        log_every=log_every,
        drop_label=drop_label,
    )
    if isinstance(images, Tensor):
        check_uint8_images(images, labels)
        if labels is not None:
            _check_labels(labels, getattr(model, "classes", None))
    elif labels is not None:
        raise ValueError(
            "labels were given beside a loader; wanted a loader of pairs (images, labels), or both as tensors"
        )
    ranks, first = distributed.size(), distributed.rank() == 0
    if isinstance(images, Tensor) and batch_size % ranks:
        raise ValueError(
            f"batch_size = {batch_size} cannot be split over {ranks} processes; wanted a multiple of {ranks}"
        )
    out = Path(out) if out is not None else None
    if first and out is not None:
        _check_writable(out)
    board = _board_folder(tensorboard, out)
    where = choose_device(device)
    how = choose(describe(where), steps, precision, channels_last, fused, compile)
    settings = dict(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        warmup=warmup,
        decay=decay,
        ema=ema,
        flip=flip,
        drop_label=drop_label,
        seed=seed,
        device=where.type,
        ranks=ranks,
        **asdict(how),
    )
    state, before = (
        start(model, where, how.precision, lr, how.channels_last, how.fused),
        {},
    )
    if resume:
        if out is None:
            raise ValueError(
                "resume=True needs out=, the folder of the run to go on with"
            )
        before = restore(state, out, schedule).info
        if (
            len(found := set(distributed.gather(torch.tensor([state.step])).tolist()))
            > 1
        ):
            raise ValueError(
                f"the processes found different checkpoints in {out}: steps {sorted(found)}; wanted one folder that all of them see"
            )
    elif out is not None and any(out.glob("step-*")):
        raise ValueError(
            f"{out} already holds a run ({find_checkpoint(out).name}); go on with resume=True, or choose another folder"
        )

    if isinstance(images, Tensor):
        batches = shuffled(
            images.to(where),
            None if labels is None else labels.to(where),
            batch_size,
            seed,
            state.step,
            shard(batch_size),
        )
    else:
        batches = checked(going_on(images, state.step, before), where)
    run = training_steps(
        state,
        schedule,
        batches,
        steps=steps,
        lr=lr,
        warmup=warmup,
        decay=decay,
        ema=ema,
        flip=flip,
        drop_label=drop_label,
        precision=how.precision,
        seed=seed,
        objective=objective,
        compile=how.compile,
    )
    unlogged = before.get("unlogged", (0.0, 0))
    losses, count = (
        torch.tensor(unlogged[0], device=where),
        unlogged[1],
    )  # summed since the last line of the log
    with (
        _interrupt() as interrupted,
        _bar(progress and first, state.step, steps) as bar,
        _log(first, out, state.step, board) as log,
    ):
        if not bar.disable:
            bar.write(
                f"training: on {f'{ranks} x ' if ranks > 1 else ''}{where} in {how}",
                file=sys.stderr,
            )
        for state in run:
            stop = distributed.any_rank(bool(interrupted))
            losses, count = losses + state.loss, count + 1
            bar.update()
            saving = out is not None and (
                state.step % save_every == 0 or state.step == steps or stop
            )
            if saving or state.step % log_every == 0:
                losses = distributed.mean(losses)
                loss = losses.item() / count
                if not math.isfinite(loss):
                    raise ValueError(
                        f"the loss is {loss} at step {state.step}; the newest checkpoint is untouched. Lower lr, or use "
                        'precision="float32"'
                    )
            if state.step % log_every == 0:
                log.write(
                    step=state.step, loss=loss, lr=state.optimizer.param_groups[0]["lr"]
                )
                bar.set_postfix_str(f"loss {loss:.4f}")
                losses, count = torch.zeros_like(losses), 0
            if saving:
                about = {
                    "training": settings,
                    "seconds": round(log.seconds()),
                    "unlogged": [losses.item(), count],
                }
                if isinstance(images, Stream):
                    about["places"] = distributed.gather(
                        torch.tensor([images.place])
                    ).tolist()
                if first and out is not None:
                    save(state, schedule, out, {**(info or {}), **about})
            if stop:
                distributed.any_rank(
                    stop
                )  # torchrun ends all ranks when one ends: none may end before the checkpoint is written
                raise KeyboardInterrupt(
                    f"stopped after step {state.step}"
                    + (f"; go on with resume=True from {out}" if out else "")
                )
    return state.ema


def training_steps(
    state: TrainingState,
    schedule: Schedule,
    batches: Iterator[tuple[Tensor, Tensor | None]],
    *,
    steps: int,
    lr: float = 2e-4,
    warmup: int = 500,
    decay: int = 0,
    ema: float = 0.9999,
    flip: bool = True,
    drop_label: float = 0.1,
    precision: str = "float32",
    seed: int = 0,
    objective: Objective | None = None,
    compile: bool = False,
) -> Iterator[TrainingState]:
    """Algorithm 1 itself: yields the state after each step, up to step `steps`. Arguments as in `train`.

    Under torchrun, `batches` are this rank's parts of the whole batches, equally large on all ranks.
    """
    model, device = state.model, next(state.model.parameters()).device
    average, weights = list(state.ema.parameters()), list(model.parameters())
    classes: int | None = getattr(model, "classes", None)
    model.train()
    network: Model = distributed.parallel(model)
    if compile:
        network = torch.compile(network)
    while state.step < steps:
        images, labels = next(batches)
        state.optimizer.zero_grad()  # before the network runs: gradients and activations are then not held at once
        with _randomness_of_step(seed, state.step, device):
            # All ranks draw for the whole batch, each keeps its part; so one process and many draw the same.
            whole = len(images) * distributed.size()
            mine = slice(shard(whole).start, shard(whole).stop)
            x0 = to_model_range(images)
            if flip:
                x0 = torch.where(
                    torch.rand(whole, 1, 1, 1, device=device)[mine] < 0.5,
                    x0.flip(3),
                    x0,
                )
            if labels is not None:
                if classes is None:
                    raise ValueError(f"labels were given for {WITHOUT_CLASSES}")
                labels = torch.where(
                    torch.rand(whole, device=device)[mine] < drop_label, classes, labels
                )
            t = torch.randint(1, schedule.T + 1, (whole,), device=device)[mine]
            eps = torch.randn(whole, *x0.shape[1:], device=device)[mine]
            if distributed.rank() > 0:
                torch.manual_seed(
                    mix(seed, "step", state.step, "rank", distributed.rank())
                )  # what dropout draws is for this part only

            with (
                torch.autocast(device.type, getattr(torch, precision))
                if precision != "float32"
                else nullcontext()
            ):
                guess = (
                    network
                    if labels is None
                    else lambda x_t, t: network(x_t, t, labels)
                )
                state.loss = (objective or simple_loss)(
                    guess, schedule, x0, t, eps
                ).mean()
            state.scaler.scale(state.loss).backward()
            state.scaler.unscale_(state.optimizer)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(state.step, lr, steps, warmup, decay)
            state.scaler.step(state.optimizer)
            state.scaler.update()

        # Departure: the average starts short and lengthens to `ema`; at a constant 0.9999 it would still hold more than a third
        # of the random initial weights after 10,000 steps. Only parameters are averaged; buffers are copied.
        n = state.step
        get_ema_multi_avg_fn(min(ema, (1 + n) / (10 + n)))(average, weights, n)
        for kept, buffer in zip(state.ema.buffers(), model.buffers()):
            kept.copy_(buffer)
        state.step += 1
        state.loss = state.loss.detach()
        yield state


def learning_rate(step: int, lr: float, steps: int, warmup: int, decay: int) -> float:
    """Linear from 0 to lr over `warmup` steps, then constant, then linear to 0 over the last `decay` of `steps` steps.

    Departure: the official code warms up over 5,000 of 800,000 steps and does not decay; runs of a few thousand steps need both.
    """
    up = min(1.0, (step + 1) / warmup) if warmup else 1.0
    down = min(1.0, (steps - step) / decay) if decay else 1.0
    return lr * up * down


def shuffled(
    images: Tensor,
    labels: Tensor | None,
    batch_size: int,
    seed: int,
    start: int = 0,
    part: range | None = None,
) -> Iterator[Batch]:
    """Batches start, start + 1, ... of an endless stream: epoch after epoch, each in an order of its own, nothing left out.

    part  of every batch that is wanted; None: all of it
    """
    for chosen in order(len(images), batch_size, seed, start, part, images.device):
        yield images[chosen], None if labels is None else labels[chosen]


def going_on(
    images: Stream | Iterable[Any], step: int, before: dict[str, Any]
) -> Iterator[Any]:
    """The batches after the first `step` of them, if they can be found again; without end.

    before  what the checkpoint says, {} if the run begins
    """
    if isinstance(images, Stream):
        yield from images.batches(step, before.get("places"))
    if step and distributed.rank() == 0:
        warnings.warn(
            "a loader cannot be asked for the batches after those that the run has seen, so it starts from its beginning; "
            "tensors and folders go on exactly (load_stream)",
            stacklevel=3,
        )
    while True:
        empty = True
        for batch in images:
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "the loader gave no batch; wanted an iterable of uint8 images (B, C, H, W) that can be gone through repeatedly"
            )


def checked(batches: Iterable[Any], device: torch.device) -> Iterator[Batch]:
    """Batches of any kind, checked and on the device. Several ranks must have the same number of images in all of them."""
    size = 0
    for batch in batches:
        images, labels = batch if isinstance(batch, (tuple, list)) else (batch, None)
        check_uint8_images(images, labels)
        if distributed.size() > 1:
            sizes = (
                {len(images), size}
                if size
                else set(distributed.gather(torch.tensor([len(images)])).tolist())
            )
            if len(sizes) > 1:
                raise ValueError(
                    f"batches of {sorted(sizes)} images; wanted the same number every time and on all ranks: DataLoader(..., drop_last=True)"
                )
            size = len(images)
        yield (
            images.to(device, non_blocking=True),
            None if labels is None else labels.to(device, non_blocking=True),
        )


def start(
    model: nn.Module,
    device: torch.device,
    precision: str,
    lr: float,
    channels_last: bool = False,
    fused: bool = True,
) -> TrainingState:
    """The state before the first step: the model on its device, its average, Adam."""
    model.to(device)
    if channels_last:
        cast(Any, model).to(
            memory_format=torch.channels_last
        )  # some of torch's stubs leave it out
    distributed.share(model)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, eps=1e-8, fused=fused)
    return TrainingState(
        model,
        ema,
        optimizer,
        torch.amp.GradScaler(device.type, enabled=precision == "float16"),
    )


def save(
    state: TrainingState, schedule: Schedule, out: Path, info: dict[str, Any]
) -> Path:
    """Write out/step-<n> with all that resuming needs, then drop the older ones."""
    tensors = {
        f"model.{name}": tensor for name, tensor in state.model.state_dict().items()
    }
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"adam.{key}.{name}"] = value
    info = {**info, "scaler": state.scaler.state_dict()}
    folder = save_checkpoint(
        out / f"step-{state.step:08d}",
        state.ema,
        schedule,
        step=state.step,
        info=info,
        training=tensors,
    )
    for older in [
        *out.glob("step-*"),
        *out.glob(".step-*"),
    ]:  # the latter, with a dot, are what a kill left half-written
        if older.name < folder.name:
            shutil.rmtree(older, ignore_errors=True)
    return folder


def restore(state: TrainingState, out: Path, schedule: Schedule) -> Checkpoint:
    """Set `state` to the newest checkpoint in `out`. Raises FileNotFoundError, or ValueError if it does not fit."""
    checkpoint = load_checkpoint(
        out,
        model=state.ema,
        training=True,
        device=next(state.model.parameters()).device,
    )
    if not torch.equal(checkpoint.schedule.beta, schedule.beta):
        raise ValueError(
            f"{checkpoint.path} was trained with {checkpoint.schedule}; wanted the same schedule to go on with, got {schedule}"
        )
    tensors = checkpoint.training or {}
    try:
        state.model.load_state_dict(
            {
                k.removeprefix("model."): v
                for k, v in tensors.items()
                if k.startswith("model.")
            }
        )
        for name, parameter in state.model.named_parameters():
            moments = {
                key: tensors[f"adam.{key}.{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
            state.optimizer.state[parameter] = {
                "step": moments.pop("step").to(parameter.device, copy=True).reshape(())
            }
            for (
                key,
                value,
            ) in moments.items():  # laid out in memory like the parameter: a fused Adam reads both side by side
                state.optimizer.state[parameter][key] = torch.empty_like(
                    parameter.detach()
                ).copy_(value)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"{checkpoint.path} cannot be resumed with this model: {' '.join(str(error).split())[:500]}"
        ) from error
    if checkpoint.info.get("scaler"):
        state.scaler.load_state_dict(checkpoint.info["scaler"])
    state.step = checkpoint.step
    return checkpoint


class Log:
    """log.jsonl in the folder of a run; on resuming, lines after the checkpoint are dropped and the clock goes on.

    board  a folder for TensorBoard's event files of the same, or None
    """

    def __init__(self, out: Path | None, step: int, board: Path | None = None):
        self.file, self.board, self.step = (
            out / "log.jsonl" if out else None,
            board,
            step,
        )
        self.writer: Any = None
        lines = (
            read_log(self.file)
            if self.file is not None and step and self.file.exists()
            else []
        )
        self.kept: list[dict[str, Any]] | None = [
            line for line in lines if line["step"] <= step
        ]
        self.began = time.monotonic() - (self.kept[-1]["seconds"] if self.kept else 0.0)

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def write(self, step: int, loss: float, lr: float) -> None:
        # Nothing is written before there is something to say: a run that fails at once leaves no trace.
        line = dict(
            step=step, loss=round(loss, 6), lr=lr, seconds=round(self.seconds(), 1)
        )
        if self.file is not None:
            try:
                self._append(self.file, line)
            except OSError as error:
                raise OSError(
                    f"{self.file} could not be written ({error}); the checkpoints beside it are untouched. Free some space and "
                    "go on with resume=True"
                ) from error
        if self.board is not None:
            if self.writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self.writer = SummaryWriter(
                    self.board, purge_step=self.step + 1 if self.step else None
                )  # hides what a resumed run repeats
            self.writer.add_scalar("loss", loss, step)
            self.writer.add_scalar("lr", lr, step)

    def _append(self, file: Path, line: dict[str, Any]) -> None:
        if self.kept is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{file.name}.partial")
            partial.write_text(
                "".join(json.dumps(line) + "\n" for line in self.kept), encoding="utf-8"
            )
            partial.replace(file)
            self.kept = None
        with file.open("a", encoding="utf-8") as end:
            end.write(json.dumps(line) + "\n")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


@contextmanager
def _log(first: bool, out: Path | None, step: int, board: Path | None) -> Iterator[Log]:
    """Rank 0 has a log; the others have one that writes nothing."""
    log = Log(out, step, board) if first else Log(None, step)
    try:
        yield log
    finally:
        log.close()


def _board_folder(tensorboard: bool | str | Path, out: Path | None) -> Path | None:
    """Where TensorBoard's files go, if anywhere. Raises before the training if they could not be written after it."""
    if not tensorboard:
        return None
    if not isinstance(tensorboard, bool):
        folder = Path(tensorboard)
    elif out is not None:
        folder = out / "tensorboard"
    else:
        raise ValueError(
            'tensorboard=True needs out=, the folder of the run; or name a folder: tensorboard="runs/board"'
        )
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise FileNotFoundError(
            "event files are written by tensorboard, which is not installed; run: pip install tensorboard"
        ) from error
    return folder


def read_log(file: str | Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; a last line cut short by a crash is left out."""
    lines = Path(file).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _check_writable(out: Path) -> None:
    """Raise now, not after the first thousand steps, if `out` cannot be written to. Leaves no trace."""
    there = next(folder for folder in [out, *out.absolute().parents] if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(
            f"out = {out} cannot be written to ({error}); wanted a folder, there or to be made, for checkpoints and the log"
        ) from error


def _check_settings(**settings: float) -> None:
    for name, value in settings.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            raise TypeError(f"{name} = {value!r}; wanted a number")
        if (
            name in ("lr", "batch_size", "save_every", "log_every")
            and value <= 0
            or value < 0
        ):
            raise ValueError(
                f"{name} = {value}; wanted {'more than 0' if name not in ('steps', 'warmup', 'decay', 'ema', 'drop_label') else 'at least 0'}"
            )
        if name not in ("lr", "ema", "drop_label") and value != int(value):
            raise ValueError(f"{name} = {value}; wanted a whole number")
    if settings["drop_label"] > 1:
        raise ValueError(
            f"drop_label = {settings['drop_label']}; wanted a probability, 0 <= drop_label <= 1"
        )
    if settings["ema"] >= 1:
        raise ValueError(
            f"ema = {settings['ema']}; wanted 0 <= ema < 1 (the paper: 0.9999)"
        )


def _check_labels(labels: Tensor, classes: int | None) -> None:
    if classes is None:
        raise ValueError(f"labels were given for {WITHOUT_CLASSES}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}; wanted 0..{classes - 1} for a model with {classes} classes"
        )


@contextmanager
def _randomness_of_step(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Seed torch from (seed, step) inside, dropout included, and give the caller's random state back afterwards."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(mix(seed, "step", step))
        yield


@contextmanager
def _interrupt() -> Iterator[list[int]]:
    """A list that becomes non-empty at the first Ctrl-C, so that the step can end; the second one stops at once.

    Under torchrun it does not: there one Ctrl-C may come as several signals, and 30 seconds after it torchrun itself makes an end.
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


def _bar(progress: bool, done: int, steps: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(
        total=steps,
        initial=done,
        unit="step",
        desc="training",
        disable=not progress,
        dynamic_ncols=True,
    )
