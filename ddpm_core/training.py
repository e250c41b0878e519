"""Algorithm 1: x_0 ~ q, t ~ U{1..T}, eps ~ N(0, I), one step on Eq. (14); repeat.

That is one loss and one way of drawing batches, handed to runtime/loop.py, which brings
the state, Adam, the moving average, the log and the checkpoints. `training_steps` is
the algorithm, a generator that yields its state after every step; `train` is the daily
form of it. Under torchrun each process draws for the whole batch and takes its part of
it, so that any number of processes trains the same network.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import fast
from .checkpoint import Checkpoint, check_schedules, load_checkpoint, save_checkpoint
from .data import check_uint8_images, to_model_range
from .model import Model, given
from .objectives import Objective, simple_loss
from .runtime import distributed, loop
from .runtime.distributed import mix as mix
from .runtime.distributed import shard
from .runtime.hardware import choose_device as choose_device
from .runtime.log import Log as Log
from .runtime.log import read_log as read_log
from .runtime.loop import Batches, Descent, descend, descent, told
from .runtime.loop import TrainingState as TrainingState
from .runtime.loop import learning_rate as learning_rate
from .runtime.loop import start as start
from .runtime.store import unwrap
from .schedule import Schedule, check_end
from .streams import Batch, Stream, order

WITHOUT_CLASSES = (
    "a model without classes; build it with UNet(classes=...), or leave the labels out "
    "(labels=False of load_stream and load_images)"
)

# x0 (B, C, H, W), t (B,), eps like x0, labels (B,) or None
Noised = tuple[Tensor, Tensor, Tensor, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Training(Descent):
    """What Algorithm 1 is told: all that any descent is (see Descent), and

    batch_size  of the whole batch; under torchrun it is split over the processes
    flip        mirror half of the images left to right
    drop_label  with this probability a label is replaced by "no label"
    """

    batch_size: int = 128
    flip: bool = True
    drop_label: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drop_label > 1:
            raise ValueError(
                f"drop_label = {self.drop_label}; wanted a probability, "
                "0 <= drop_label <= 1"
            )


def train(
    model: nn.Module,
    schedule: Schedule,
    images: Tensor | Stream | Iterable[Any],
    labels: Tensor | None = None,
    how: Training | None = None,
    *,
    objective: Objective | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    info: dict[str, Any] | None = None,
    progress: bool = True,
    tensorboard: bool | str | Path = False,
    **settings: Any,
) -> nn.Module:
    """Algorithm 1: train `model` to predict noise; return its moving average.

    model      the network; trained in place, on `device`. One that predicts mu_tilde or
               x_0: as_eps_model(network, schedule, "mu"), and the same kind comes back
    schedule   whose T steps are learned
    images     uint8 (N, C, H, W), kept on the device and scaled batch by batch; or, if
               they do not fit there, a Stream (load_stream), or any iterable of such
               batches (or of pairs with labels), gone through again and again
    labels     LongTensor (N,) for a UNet with classes
    how        Training(...); or its fields by keyword, train(..., steps=500, lr=1e-3):
               steps, batch_size=128, lr=2e-4, warmup=500, decay=0, ema=0.9999,
               flip=True, drop_label=0.1, accumulate=1, seed=0, device="auto",
               precision="auto", save_every=1000, log_every=50, ...: see Training
    objective  function (model, schedule, x0, t, eps) -> (B,), whose mean is minimised;
               None: Eq. (14). See objectives.py
    out        folder for checkpoints and log.jsonl; resume=True goes on from the newest
               checkpoint there
    info       anything JSON can hold, kept in the checkpoints
    tensorboard  True: event files, too, in out/tensorboard; or a folder for them

    Ctrl-C finishes the step, writes a checkpoint (if there is `out`) and raises
    KeyboardInterrupt; an error of the data or of the log costs no more. The caller's
    random state is left alone. Raises TypeError or ValueError for images, labels or
    settings that do not fit, before anything is written, and OSError for a disk that is
    full, after which the newest checkpoint is what it was.

    Under torchrun every process calls this with the same arguments, rank 0 writes, and
    the weights are those of one process but for rounding (and dropout, whose masks
    differ). A loader of your own gives each rank its own images.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}; wanted an nn.Module with parameters, "
            "such as UNet(...)"
        )
    if not isinstance(schedule, Schedule):
        raise TypeError(
            f"schedule is a {type(schedule).__name__}; wanted a Schedule, such as "
            "linear_schedule()"
        )
    if objective is not None and not callable(objective):
        raise TypeError(
            f"objective = {objective!r}; wanted a function (model, schedule, x0, t, "
            "eps) -> (B,): choose_objective(...) has some by name"
        )
    how = told(Training, how, settings)
    check_end(schedule)
    network, place = unwrap(model), None
    check_schedules(network, schedule)
    shape = _shape(images, network)
    if isinstance(images, Tensor):
        check_uint8_images(images, labels)
        _check_fit(network, images.shape[1:], labels)
        if how.batch_size % (ranks := distributed.size()):
            raise ValueError(
                f"batch_size = {how.batch_size} cannot be split over {ranks} "
                f"processes; wanted a multiple of {ranks}"
            )
    elif isinstance(images, Stream):
        _check_fit(network, images.shape, None, images.classes)
    if labels is not None and not isinstance(images, Tensor):
        raise ValueError(
            "labels were given beside a loader; wanted a loader of pairs (images, "
            "labels), or both as tensors"
        )

    def begin(step: int, before: dict[str, Any]) -> Iterator[Batch]:
        if isinstance(images, Stream):
            return checked(images.batches(step, before.get("places")), network, how)
        if not isinstance(images, Tensor):
            return checked(loop.again(images, step), network, how)
        device = choose_device(how.device)
        return shuffled(
            images.to(device),
            None if labels is None else labels.to(device),
            how.batch_size,
            how.seed,
            step,
            shard(how.batch_size),
        )

    if isinstance(stream := images, Stream):
        place = lambda: stream.place
    return descend(
        model,
        noise_loss(schedule, objective),
        Batches(begin, place),
        how,
        draw=partial(noised, network, schedule, how),
        quicker=fast.training,
        look=None if shape is None else partial(_look, schedule, how.seed, shape),
        out=out,
        resume=resume,
        info=info,
        progress=progress,
        tensorboard=tensorboard,
        save=partial(_save, schedule),
        load=partial(_load, schedule),
    )


def training_steps(
    state: TrainingState,
    schedule: Schedule,
    batches: Iterator[Batch],
    how: Training | None = None,
    *,
    objective: Objective | None = None,
    precision: str = "float32",
    compile: bool = False,
    **settings: Any,
) -> Iterator[TrainingState]:
    """Algorithm 1 itself: yields the state after each step, up to step `steps`.

    Arguments as in `train`. Under torchrun, `batches` are this rank's parts of the
    whole batches, equally large on all ranks.
    """
    how = told(Training, how, settings)
    return descent(
        state,
        noise_loss(schedule, objective),
        batches,
        how,
        draw=partial(noised, state.model, schedule, how),
        quicker=fast.training,
        precision=precision,
        compile=compile,
    )


def noised(model: nn.Module, schedule: Schedule, how: Training, batch: Batch) -> Noised:
    """Lines 2 to 4 of Algorithm 1 for a batch: (images, labels) -> x0, t, eps, labels.

    All ranks draw for the whole batch, each keeps its part; so one process and many
    draw the same.
    """
    images, labels = batch
    device, whole = images.device, len(images) * distributed.size()
    mine = slice(shard(whole).start, shard(whole).stop)
    x0 = to_model_range(images)
    if how.flip:
        mirrored = torch.rand(whole, 1, 1, 1, device=device)[mine] < 0.5
        x0 = torch.where(mirrored, x0.flip(3), x0)
    if labels is not None:
        classes: int | None = getattr(model, "classes", None)
        if classes is None:
            raise ValueError(f"labels were given for {WITHOUT_CLASSES}")
        dropped = torch.rand(whole, device=device)[mine] < how.drop_label
        labels = torch.where(dropped, classes, labels)
    t = torch.randint(1, schedule.T + 1, (whole,), device=device)[mine]
    eps = torch.randn(whole, *x0.shape[1:], device=device)[mine]
    return x0, t, eps, labels


def noise_loss(
    schedule: Schedule, objective: Objective | None = None
) -> Callable[[Model, Noised], Tensor]:
    """Line 5 of Algorithm 1 as a loss of (model, (x0, t, eps, labels)).

    objective  None: Eq. (14)
    """

    def loss(model: Model, batch: Noised) -> Tensor:
        x0, t, eps, labels = batch
        ask = objective or simple_loss
        return ask(given(model, labels), schedule, x0, t, eps)

    return loss


def shuffled(
    images: Tensor,
    labels: Tensor | None,
    batch_size: int,
    seed: int,
    start: int = 0,
    part: range | None = None,
) -> Iterator[Batch]:
    """Batches start, start + 1, ... of an endless stream of epochs.

    Each epoch has an order of its own, and nothing is left out.

    part  of every batch that is wanted; None: all of it
    """
    for chosen in order(len(images), batch_size, seed, start, part, images.device):
        yield images[chosen], None if labels is None else labels[chosen]


def checked(batches: Iterable[Any], model: nn.Module, how: Training) -> Iterator[Batch]:
    """Batches of any kind, checked against the model and against each other.

    A batch is images, (images,) or (images, labels). Several ranks must have the same
    number of images in all of them.
    """
    size, ranks = 0, distributed.size()
    for batch in batches:
        parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if len(parts) not in (1, 2):
            raise ValueError(
                f"a batch of the loader has {len(parts)} parts; wanted images, "
                "(images,) or (images, labels)"
            )
        images, labels = (*parts, None)[:2]
        check_uint8_images(images, labels)
        _check_fit(model, images.shape[1:], labels)
        if not size and how.batch_size not in (128, len(images) * ranks):
            warnings.warn(
                f"batch_size = {how.batch_size} is not used: the loader gives batches "
                f"of {len(images) * ranks}",
                stacklevel=2,
            )
        if ranks > 1:
            sizes = (
                {len(images), size}
                if size
                else set(distributed.gather(torch.tensor([len(images)])).tolist())
            )
            if len(sizes) > 1:
                raise ValueError(
                    f"batches of {sorted(sizes)} images; wanted the same number every "
                    "time and on all ranks: DataLoader(..., drop_last=True)"
                )
        size = len(images)
        yield images, labels


def save(
    state: TrainingState, schedule: Schedule, out: Path, info: dict[str, Any]
) -> Path:
    """Write out/step-<n> with all that resuming needs, then drop the older ones."""
    return loop.save_state(state, out, info, partial(_save, schedule))


def restore(state: TrainingState, out: Path, schedule: Schedule) -> Checkpoint:
    """Set `state` to the newest checkpoint in `out`. Raises as `load_checkpoint`."""
    return cast(Checkpoint, loop.restore(state, out, partial(_load, schedule)))


def _save(schedule: Schedule, path: Path, model: nn.Module, **rest: Any) -> Path:
    return save_checkpoint(path, model, schedule, **rest)


def _load(schedule: Schedule, path: Path, **rest: Any) -> Checkpoint:
    checkpoint = load_checkpoint(path, **rest)
    if not torch.equal(checkpoint.schedule.beta, schedule.beta):
        raise ValueError(
            f"{checkpoint.path} was trained with {checkpoint.schedule}; wanted the "
            f"same schedule to go on with, got {schedule}"
        )
    return checkpoint


def _look(
    schedule: Schedule, seed: int, shape: Sequence[int], average: nn.Module
) -> Tensor:
    """Sixteen samples in 50 steps of DDIM, from the same noise each time, in a grid."""
    from .data import to_uint8
    from .figures import image_grid
    from .sampling import sample

    device = next(average.parameters()).device
    classes: int | None = getattr(average, "classes", None)
    learned = getattr(average, "config", {}).get("learn_variance")
    x = sample(
        average,
        schedule,
        (16, *shape),
        steps=min(50, schedule.T),
        sampler="ddim",
        variance="learned" if learned else "beta",
        generator=torch.Generator().manual_seed(mix(seed, "look")),
        labels=None if classes is None else torch.arange(16, device=device) % classes,
    )
    return torch.from_numpy(image_grid(to_uint8(x).cpu(), 4))


def _shape(images: object, model: nn.Module) -> tuple[int, ...] | None:
    """Of one image, (C, H, W), where it is known before the first batch."""
    if isinstance(images, Tensor):
        return tuple(images.shape[1:])
    if isinstance(images, Stream):
        return images.shape
    config = getattr(model, "config", {})
    side = config.get("image_size")
    return (config["channels"], side, side) if side and "channels" in config else None


def _check_fit(
    model: nn.Module,
    shape: Sequence[int],
    labels: Tensor | None,
    classes: int | None = None,
) -> None:
    """Raise ValueError unless a model is for images of this shape (C, H, W), labels.

    classes  of a stream, whose labels are not there yet
    """
    wanted = _shape(None, model)
    if wanted is not None and tuple(shape) != wanted:
        raise ValueError(
            f"the images have shape {tuple(shape)}, the model is for {wanted}: "
            "channels, height, width. Build it for these images, or crop, pad or "
            "resize them (--size)"
        )
    known: int | None = getattr(model, "classes", None)
    if known is None and (labels is not None or classes is not None):
        raise ValueError(f"labels were given for {WITHOUT_CLASSES}")
    if known is not None and classes is not None and classes > known:
        raise ValueError(
            f"the data has {classes} classes, the model {known}; wanted at least as "
            f"many: UNet(classes={classes})"
        )
    # On a device, looking at them would make the host wait, in every step.
    if known is not None and labels is not None and labels.device.type == "cpu":
        if not 0 <= int(labels.min()) <= int(labels.max()) < known:
            raise ValueError(
                f"labels run from {int(labels.min())} to {int(labels.max())}; wanted "
                f"0..{known - 1} for a model with {known} classes"
            )
