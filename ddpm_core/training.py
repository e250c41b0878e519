"""Algorithm 1: repeat { x_0 ~ q, t ~ U{1..T}, eps ~ N(0, I), one gradient step on Eq. (14) } until converged.

`training_steps` is the algorithm, a generator that yields its state after every step; `train` is the daily form of it, with a
progress bar, a log and checkpoints. Whatever is random in step n is drawn from a seed made of (seed, n), so that there is no
random state to save: a resumed run *is* the run.
"""

import copy
import hashlib
import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .bound import simple_loss
from .checkpoint import Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint
from .data import check_uint8_images, to_model_range
from .schedule import Schedule


@dataclass
class TrainingState:
    """Everything that changes during training; training_steps yields it after each step."""

    model: nn.Module
    ema: nn.Module  # the averaged weights, which sample better
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # idle unless the precision is float16
    step: int = 0  # steps done
    loss: Tensor | None = None  # Eq. (14) on the last batch; on the device, so that reading it is the caller's choice


def train(model: nn.Module, schedule: Schedule, images: Tensor | Iterable, labels: Tensor | None = None, *, steps: int,
          batch_size: int = 128, lr: float = 2e-4, warmup: int = 500, decay: int = 0, ema: float = 0.9999, flip: bool = True,
          drop_label: float = 0.1, device: str = "auto", precision: str = "auto", out: str | Path | None = None,
          resume: bool = False, save_every: int = 1000, log_every: int = 50, seed: int = 0, info: dict | None = None,
          progress: bool = True) -> nn.Module:  # fmt: skip
    """Algorithm 1: train `model` to predict noise and return its moving average, in eval mode.

    model      the network; trained in place, on `device`          schedule  whose T steps are learned
    images     uint8 (N, C, H, W), kept on the device and scaled batch by batch; or an iterable of such batches (or of pairs with
               labels), gone through again and again
    labels     LongTensor (N,) for a UNet with classes, replaced by "no label" with probability drop_label
    steps      in all, including those of a resumed run
    lr         of Adam; it grows linearly for `warmup` steps and falls linearly to zero over the last `decay` steps
    ema        decay of the moving average      flip       mirror half of the images left to right
    device     "auto": CUDA, else MPS, else CPU      precision  "auto", "float32", "bfloat16" or "float16"
    out        folder for checkpoints and log.jsonl; resume=True goes on from the newest checkpoint there
    info       anything JSON can hold, kept in the checkpoints

    Ctrl-C finishes the step, writes a checkpoint (if there is `out`) and raises KeyboardInterrupt; the caller's random state is
    left alone. Raises TypeError or ValueError for images, labels or settings that do not fit, before anything is written.
    """
    _check_settings(steps=steps, batch_size=batch_size, lr=lr, ema=ema, warmup=warmup, decay=decay, save_every=save_every, log_every=log_every,
                    drop_label=drop_label)  # fmt: skip
    if isinstance(images, Tensor):
        check_uint8_images(images, labels)
        if labels is not None:
            _check_labels(labels, getattr(model, "classes", None))
    elif labels is not None:
        raise ValueError("labels were given beside a loader; wanted a loader of pairs (images, labels), or both as tensors")
    device, precision = choose_device(device), choose_precision(precision, choose_device(device))
    settings = dict(steps=steps, batch_size=batch_size, lr=lr, warmup=warmup, decay=decay, ema=ema, flip=flip, drop_label=drop_label,
                    precision=precision, seed=seed)  # fmt: skip
    out = Path(out) if out is not None else None
    state, unlogged = start(model, device, precision, lr), (0.0, 0)
    if resume:
        if out is None:
            raise ValueError("resume=True needs out=, the folder of the run to go on with")
        unlogged = restore(state, out, schedule).info.get("unlogged", unlogged)
    elif out is not None and any(out.glob("step-*")):
        raise ValueError(f"{out} already holds a run ({find_checkpoint(out).name}); go on with resume=True, or choose another folder")

    if isinstance(images, Tensor):
        batches = shuffled(images.to(device), None if labels is None else labels.to(device), batch_size, seed, state.step)
    else:
        batches = repeated(images, device)
    log = Log(out, state.step)
    run = training_steps(state, schedule, batches, steps=steps, lr=lr, warmup=warmup, decay=decay, ema=ema, flip=flip,
                         drop_label=drop_label, precision=precision, seed=seed)  # fmt: skip
    losses, count = torch.tensor(unlogged[0], device=device), unlogged[1]  # summed since the last line of the log
    with _interrupt() as interrupted, _bar(progress, state.step, steps) as bar:
        for state in run:
            losses, count = losses + state.loss, count + 1
            bar.update()
            saving = out is not None and (state.step % save_every == 0 or state.step == steps or interrupted)
            if saving or state.step % log_every == 0:
                loss = losses.item() / count
                if not math.isfinite(loss):
                    raise ValueError(f"the loss is {loss} at step {state.step}; the newest checkpoint is untouched. Lower lr, or use "
                                     'precision="float32"')  # fmt: skip
            if state.step % log_every == 0:
                log.write(step=state.step, loss=loss, lr=state.optimizer.param_groups[0]["lr"])
                bar.set_postfix_str(f"loss {loss:.4f}")
                losses, count = torch.zeros_like(losses), 0
            if saving:
                about = {"training": settings, "seconds": round(log.seconds()), "unlogged": [losses.item(), count]}
                save(state, schedule, out, {**(info or {}), **about})
            if interrupted:
                raise KeyboardInterrupt(f"stopped after step {state.step}" + (f"; go on with resume=True from {out}" if out else ""))
    return state.ema


def training_steps(state: TrainingState, schedule: Schedule, batches: Iterator[tuple[Tensor, Tensor | None]], *, steps: int,
                   lr: float = 2e-4, warmup: int = 500, decay: int = 0, ema: float = 0.9999, flip: bool = True,
                   drop_label: float = 0.1, precision: str = "float32", seed: int = 0) -> Iterator[TrainingState]:  # fmt: skip
    """Algorithm 1 itself: yields the state after each step, up to step `steps`. Arguments as in `train`."""
    model, device = state.model, next(state.model.parameters()).device
    average, weights = list(state.ema.parameters()), list(model.parameters())
    model.train()
    while state.step < steps:
        images, labels = next(batches)
        with _randomness_of_step(seed, state.step, device):
            x0 = to_model_range(images)
            if flip:
                x0 = torch.where(torch.rand(len(x0), 1, 1, 1, device=device) < 0.5, x0.flip(3), x0)
            if labels is not None:
                labels = torch.where(torch.rand(len(x0), device=device) < drop_label, model.classes, labels)
            t = torch.randint(1, schedule.T + 1, (len(x0),), device=device)
            eps = torch.randn_like(x0)

            with torch.autocast(device.type, getattr(torch, precision)) if precision != "float32" else nullcontext():
                guess = model if labels is None else lambda x_t, t: model(x_t, t, labels)
                state.loss = simple_loss(guess, schedule, x0, t, eps)
            state.optimizer.zero_grad()
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


def shuffled(images: Tensor, labels: Tensor | None, batch_size: int, seed: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches start, start + 1, ... of an endless stream: epoch after epoch, each in an order of its own, nothing left out."""
    n = len(images)

    @lru_cache(maxsize=2)
    def order(epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(mix(seed, "epoch", epoch))
        return torch.randperm(n, generator=generator).to(images.device)

    while True:
        first, last = start * batch_size, (start + 1) * batch_size
        chosen = torch.cat([order(e)[max(first - e * n, 0) : last - e * n] for e in range(first // n, (last - 1) // n + 1)])
        yield images[chosen], None if labels is None else labels[chosen]
        start += 1


def repeated(loader: Iterable, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
    """A loader's batches, checked and on the device, from the beginning again whenever it ends."""
    while True:
        empty = True
        for batch in loader:
            empty = False
            images, labels = batch if isinstance(batch, (tuple, list)) else (batch, None)
            check_uint8_images(images, labels)
            yield images.to(device, non_blocking=True), None if labels is None else labels.to(device, non_blocking=True)
        if empty:
            raise ValueError("the loader gave no batch; wanted an iterable of uint8 images (B, C, H, W) that can be gone through repeatedly")


def start(model: nn.Module, device: torch.device, precision: str, lr: float) -> TrainingState:
    """The state before the first step: the model on its device, its average, Adam."""
    model.to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)  # where tensor cores want it
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, eps=1e-8, fused=device.type in ("cuda", "cpu"))
    return TrainingState(model, ema, optimizer, torch.amp.GradScaler(device.type, enabled=precision == "float16"))


def save(state: TrainingState, schedule: Schedule, out: Path, info: dict) -> Path:
    """Write out/step-<n> with all that resuming needs, then drop the older ones."""
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"adam.{key}.{name}"] = value
    info = {**info, "scaler": state.scaler.state_dict()}
    folder = save_checkpoint(out / f"step-{state.step:08d}", state.ema, schedule, step=state.step, info=info, training=tensors)
    for older in [*out.glob("step-*"), *out.glob(".step-*")]:  # the latter, with a dot, are what a kill left half-written
        if older.name < folder.name:
            shutil.rmtree(older, ignore_errors=True)
    return folder


def restore(state: TrainingState, out: Path, schedule: Schedule) -> Checkpoint:
    """Set `state` to the newest checkpoint in `out`. Raises FileNotFoundError, or ValueError if it does not fit."""
    checkpoint = load_checkpoint(out, model=state.ema, training=True, device=next(state.model.parameters()).device)
    if not torch.equal(checkpoint.schedule.beta, schedule.beta):
        raise ValueError(f"{checkpoint.path} was trained with {checkpoint.schedule}; wanted the same schedule to go on with, got {schedule}")
    tensors = checkpoint.training or {}
    try:
        state.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        for name, parameter in state.model.named_parameters():
            moments = {key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            state.optimizer.state[parameter] = {
                key: value.to(parameter.device, copy=True).reshape(() if key == "step" else parameter.shape) for key, value in moments.items()
            }
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{checkpoint.path} cannot be resumed with this model: {' '.join(str(error).split())[:500]}") from error
    if checkpoint.info.get("scaler"):
        state.scaler.load_state_dict(checkpoint.info["scaler"])
    state.step = checkpoint.step
    return checkpoint


class Log:
    """log.jsonl in the folder of a run; on resuming, lines after the checkpoint are dropped and the clock goes on."""

    def __init__(self, out: Path | None, step: int):
        self.file = out / "log.jsonl" if out else None
        lines = read_log(self.file) if self.file is not None and step and self.file.exists() else []
        self.kept: list | None = [line for line in lines if line["step"] <= step]
        self.began = time.monotonic() - (self.kept[-1]["seconds"] if self.kept else 0.0)

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def write(self, step: int, loss: float, lr: float) -> None:
        if self.file is None:
            return
        if self.kept is not None:  # not before there is something to say: a run that fails at once leaves no trace
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text("".join(json.dumps(line) + "\n" for line in self.kept), encoding="utf-8")
            self.kept = None
        line = dict(step=step, loss=round(loss, 6), lr=lr, seconds=round(self.seconds(), 1))
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_log(file: str | Path) -> list[dict]:
    """The lines of a log.jsonl; a last line cut short by a crash is left out."""
    lines = Path(file).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """ "auto" is CUDA if there is one, else MPS, else CPU; anything else is what torch.device makes of it."""
    if device != "auto":
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f'device = {device!r} cannot be used here ({str(error).splitlines()[0][:200]}); '
                             'wanted "auto", "cpu", "cuda", "cuda:1" or "mps"') from error  # fmt: skip
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(precision: str, device: torch.device) -> str:
    """ "auto": bfloat16 where the hardware multiplies in it, float16 on older CUDA, float32 elsewhere. Weights stay float32."""
    if precision in ("float32", "bfloat16", "float16"):
        return precision
    if precision != "auto":
        raise ValueError(f'precision = {precision!r}; wanted "auto", "float32", "bfloat16" or "float16"')
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
    fast = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return "bfloat16" if fast else "float32"


def _check_settings(**settings: float) -> None:
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise TypeError(f"{name} = {value!r}; wanted a number")
        if name in ("lr", "batch_size", "save_every", "log_every") and value <= 0 or value < 0:
            raise ValueError(f"{name} = {value}; wanted {'more than 0' if name not in ('steps', 'warmup', 'decay', 'ema', 'drop_label') else 'at least 0'}")
        if name not in ("lr", "ema", "drop_label") and value != int(value):
            raise ValueError(f"{name} = {value}; wanted a whole number")
    if settings["drop_label"] > 1:
        raise ValueError(f"drop_label = {settings['drop_label']}; wanted a probability, 0 <= drop_label <= 1")
    if settings["ema"] >= 1:
        raise ValueError(f"ema = {settings['ema']}; wanted 0 <= ema < 1 (the paper: 0.9999)")


def _check_labels(labels: Tensor, classes: int | None) -> None:
    if classes is None:
        raise ValueError("labels were given for a model without classes; build it with UNet(classes=...), or leave the labels out")
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels run from {int(labels.min())} to {int(labels.max())}; wanted 0..{classes - 1} for a model with {classes} classes")


def mix(*parts: object) -> int:
    """A 63-bit seed that depends on all parts, and is unrelated for neighbouring ones."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def _randomness_of_step(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Seed torch from (seed, step) inside, dropout included, and give the caller's random state back afterwards."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(mix(seed, "step", step))
        yield


@contextmanager
def _interrupt() -> Iterator[list]:
    """A list that becomes non-empty at the first Ctrl-C, so that the step can end; the second one stops at once."""
    pressed: list = []
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def press(number: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = {number: signal.signal(number, press) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bar(progress: bool, done: int, steps: int):
    from tqdm.auto import tqdm

    return tqdm(total=steps, initial=done, unit="step", desc="training", disable=not progress, dynamic_ncols=True)
