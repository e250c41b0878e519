"""A descent on any loss of a batch: what it is told, and the loop itself.

`descent` is a generator that yields its state after every step. Whatever is random in
step n is drawn from a seed made of (seed, n), so that there is no random state to save:
a resumed run *is* the run. loop.py has the daily form of it.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from . import distributed
from .batches import size_of, split, to_device
from .distributed import mix
from .hardware import Choice, choose_training, describe
from .state import TrainingState

Loss = Callable[[Any, Any], Tensor]  # (network, batch) -> scalar or (B,)


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
              hardware.choose_training; True or False: as you say
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


def told(kind: type[Any], how: Any, settings: dict[str, Any]) -> Any:
    """`how`, or a `kind` of the keyword arguments. Raises TypeError for both, neither."""
    if how is None:
        names = {f.name for f in fields(kind)}
        if unknown := sorted(set(settings) - names):
            raise TypeError(
                f"{unknown[0]} is no argument; wanted some of"
                f" {', '.join(sorted(names))}"
            )
        return kind(**settings)
    if not isinstance(how, kind):
        raise TypeError(
            f"how is a {type(how).__name__}; wanted {kind.__name__}(...), or its fields"
            " by keyword"
        )
    if settings:
        raise TypeError(
            f"{sorted(settings)[0]} was given beside {kind.__name__}(...); wanted it "
            "inside: dataclasses.replace(how, ...)"
        )
    return how


def choose_for(how: Descent, device: torch.device) -> Choice:
    """The precision and the rest, where they are "auto"."""
    return choose_training(
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


@contextmanager
def _randomness_of_step(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Seed torch from (seed, step) inside, dropout included; the caller's comes back."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(mix(seed, "step", step))
        yield
