"""ddpm train: Algorithm 1, on a folder, the hub or a data set by its name."""

import argparse
import math
import re
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import distributed
from ..checkpoint import load_checkpoint
from ..data import FLIP, find_source, load_labelled
from ..objectives import choose_objective
from ..pretrained import from_diffusers
from ..reverse import EpsModel, as_eps_model
from ..runtime.files import digest
from ..runtime.state import check_no_run
from ..runtime.store import read_about
from ..schedule import Schedule, cosine_schedule, linear_schedule
from ..streams import Stream, load_stream, must_stream
from ..training import Training, train
from ..unet import UNet

# bits/dim of L_T; the paper's schedule leaves 0.00003. Stricter than the warning of
# schedule.check_end: what is said here is said before hours of training
SIGNAL = 0.001
YES: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}


def add_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--data",
        required=True,
        help=(
            "fashion-mnist, digits, cifar10, hub:<data set id>, folder:<path> (one"
            " folder a class makes labels); or celebahq-256, lsun-church-256,"
            " lsun-bedroom-256, lsun-cat-256, with :<path> for a folder of yours"
        ),
    )
    p.add_argument(
        "--stream",
        action="store_true",
        help=(
            "read images when their turn comes, instead of all before (automatic for"
            " large folders)"
        ),
    )
    p.add_argument(
        "--size",
        type=int,
        default=None,
        help="resize the shorter side of images to this and cut out the centre",
    )
    p.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be read, with a warning",
    )
    p.add_argument(
        "--grey",
        action=argparse.BooleanOptionalAction,
        default=None,
        help=(
            "make all images of a folder or the hub grey, or with --no-grey colour "
            "(default: as they are)"
        ),
    )
    p.add_argument(
        "--ground",
        default=None,
        help=(
            "colour that transparent pixels let through: black, '#ff8800' "
            "(default: white)"
        ),
    )
    p.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="mirror half of the images (default: what suits --data)",
    )
    p.add_argument(
        "--steps",
        type=int,
        required=True,
        help="training steps in all, including those of a resumed run",
    )
    p.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints and the log"
    )
    p.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in --out",
    )
    p.add_argument(
        "--init",
        default=None,
        help=(
            "weights to begin with, for a network of the same sizes: the averaged ones"
            " of a run or a checkpoint, a folder of diffusers, or published ones by"
            " their name, such as google/ddpm-cifar10-32 (with --paper)"
        ),
    )
    p.add_argument(
        "--paper",
        action="store_true",
        help=(
            "the paper's network, for CIFAR-10 or for 256 x 256, instead of one sized"
            " by the next six options, and its batch size, learning rate and warm-up"
            " (Appendix B)"
        ),
    )
    p.add_argument("--width", type=int, default=32, help="channels of the first level")
    p.add_argument(
        "--multipliers",
        type=int,
        nargs="+",
        default=[1, 2, 2],
        help="channels of each level, in widths",
    )
    p.add_argument("--blocks", type=int, default=1, help="residual blocks a level")
    p.add_argument(
        "--attention",
        type=int,
        nargs="*",
        default=None,
        help="sides of the levels with self-attention (default: the last level)",
    )
    p.add_argument(
        "--groups", type=int, default=8, help="of GroupNorm; 32 suits widths from 64 on"
    )
    p.add_argument("--dropout", type=float, default=0.1, help="in the residual blocks")
    p.add_argument(
        "--predict",
        choices=["eps", "mu", "x0"],
        default="eps",
        help="what the network predicts (Table 2)",
    )
    p.add_argument(
        "--objective",
        choices=["simple", "bound"],
        default="simple",
        help="unweighted squared error of that, or the bound L",
    )
    p.add_argument(
        "--variance",
        choices=["beta", "learned"],
        default="beta",
        help="of the reverse steps; learned needs --objective bound",
    )
    p.add_argument(
        "--unconditional", action="store_true", help="ignore the data set's labels"
    )
    p.add_argument(
        "--schedule",
        choices=["cosine", "linear"],
        default="linear",
        help="how beta grows; linear is the paper's",
    )
    p.add_argument("--T", type=int, default=1000, help="diffusion steps")
    p.add_argument(
        "--beta-1",
        type=float,
        default=None,
        help="first beta of the linear schedule (default: 1e-4)",
    )
    p.add_argument(
        "--beta-T",
        type=float,
        default=None,
        help="and the last (default: 0.02); both suit --T 1000: for fewer, larger ones",
    )
    p.add_argument(
        "--batch-size",
        type=int,
        default=None,
        help=(
            "in all, under torchrun over all processes (default: 128; with --paper 64"
            " for 256 x 256)"
        ),
    )
    p.add_argument(
        "--lr",
        type=float,
        default=None,
        help=(
            "learning rate of Adam (default: 1e-3, which suits small networks; with"
            " --paper 2e-4, and 2e-5 for 256 x 256)"
        ),
    )
    p.add_argument(
        "--warmup",
        type=int,
        default=None,
        help=(
            "steps over which the learning rate grows (default: 100; with --paper 5000)"
        ),
    )
    p.add_argument(
        "--decay", type=int, default=0, help="last steps, over which it falls to zero"
    )
    p.add_argument(
        "--ema",
        type=float,
        default=0.9999,
        help="decay of the moving average of the weights",
    )
    p.add_argument("--seed", type=int, default=0, help="of all that is random")
    p.add_argument(
        "--save-every", type=int, default=1000, help="steps between checkpoints"
    )
    p.add_argument(
        "--accumulate",
        type=int,
        default=1,
        help=(
            "parts of a batch whose gradients are added up: less memory, the same step"
        ),
    )
    p.add_argument(
        "--sample-every",
        type=int,
        default=0,
        help=(
            "steps between 16 samples of the network so far, in --out/samples (0: none)"
        ),
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    p.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="auto: the fastest on the device",
    )
    p.add_argument(
        "--channels-last",
        choices=["auto", "yes", "no"],
        default="auto",
        help="memory format",
    )
    p.add_argument(
        "--compile", choices=["auto", "yes", "no"], default="auto", help="torch.compile"
    )
    p.add_argument(
        "--tensorboard",
        action="store_true",
        help="event files, too, in --out/tensorboard",
    )


class Read(NamedTuple):
    """The pictures that --data names, and what is known of them."""

    images: Tensor | Stream
    labels: Tensor | None
    names: list[str] | None  # of the classes
    classes: int | None
    channels: int
    side: int


def run(o: argparse.Namespace) -> int:
    schedule, learned = _schedule(o), o.variance == "learned"
    objective = choose_objective(o.predict, o.objective, o.variance)
    if not o.resume:
        check_no_run(o.out)  # before the pictures are read, which may take minutes
    how_read = {
        "size": o.size,
        "skip_unreadable": o.skip_unreadable or None,
        "grey": o.grey,
        "ground": o.ground,
    }
    how_read = {name: value for name, value in how_read.items() if value is not None}
    read = _read(o, how_read)
    torch.manual_seed(o.seed)  # of the initial weights
    model = _network(o, read, learned)
    info: dict[str, Any] = {}
    if o.init is not None:
        info["init"] = _begin_with(model, o.init, o.predict)
    if rest := _signal_left(schedule):
        _tell(rest)
    info["data"] = o.data
    info["shape"] = [read.channels, read.side, read.side]
    info["classes"] = read.names
    # else an evaluation would read other pixels
    if reading := {k: v for k, v in how_read.items() if k in ("grey", "ground")}:
        info["reading"] = reading
    if (o.predict, o.objective) != ("eps", "simple"):
        info["objective"] = o.objective
    done = _goes_on(o.out, info) if o.resume else 0
    with warnings.catch_warnings():
        # _tell has said it, in terms of the options.
        warnings.filterwarnings("ignore", "after T = .* alpha_bar_T = ")
        train(
            as_eps_model(model, schedule, o.predict),
            schedule,
            read.images,
            read.labels,
            _training(o, read.side),
            objective=objective,
            out=o.out,
            resume=o.resume,
            info=info,
            tensorboard=o.tensorboard,
        )
    if distributed.rank() == 0:
        asked = f"; --steps {o.steps} asks for no more" if done >= o.steps else ""
        print(
            f"{o.out}: trained for {max(done, o.steps)} steps{asked}; "
            f"now: ddpm sample {o.out} -n 64 --out samples.png"
        )
    return 0


def _read(o: argparse.Namespace, how: dict[str, Any]) -> Read:
    """The pictures, streamed if they are many. Raises ValueError unless square."""
    images: Tensor | Stream
    labels, wanted = None, not (o.unconditional or o.paper)
    if o.stream or must_stream(o.data, o.size):
        side = find_source(o.data, "train", o.size)[3] or 0
        batch = _batch_size(o, side)
        stream = load_stream(o.data, batch, labels=wanted, seed=o.seed, **how)
        if _batch_size(o, stream.shape[1]) != batch:  # a folder tells its size only now
            batch = _batch_size(o, stream.shape[1])
            stream = load_stream(o.data, batch, labels=wanted, seed=o.seed, **how)
        images = stream
        names, classes, (channels, side, other) = (
            stream.names,
            stream.classes,
            stream.shape,
        )
    else:
        if not wanted:
            how = how | {"labels": False}
        images, labels, called = load_labelled(o.data, **how)
        names = list(called) if called else None
        classes = len(names) if names else None
        if labels is not None and not names:
            classes = int(labels.max()) + 1
        _, channels, side, other = images.shape
    if o.size is not None and side != o.size:
        raise ValueError(
            f"--size {o.size}: the images of {o.data} are {other} x {side} and stay so;"
            " wanted --size for a folder or the hub only"
        )
    if side != other:
        raise ValueError(
            f"the images are {other} x {side} pixels; wanted square ones: crop or pad "
            "them first"
        )
    return Read(images, labels, names, classes, channels, side)


def _network(o: argparse.Namespace, read: Read, learned: bool) -> UNet:
    """The paper's network for these pictures, or one of the sizes that are asked for."""
    if o.paper:
        # Appendix B: that for 256 x 256 has no dropout; else that for CIFAR-10
        large: dict[str, Any] = dict(
            image_size=256, multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0
        )
        return UNet(**large if read.side == 256 else {}, learn_variance=learned)
    attention = o.attention
    if attention is None:
        attention = [read.side // 2 ** (len(o.multipliers) - 1)]
    return UNet(
        read.side,
        read.channels,
        o.width,
        tuple(o.multipliers),
        o.blocks,
        tuple(attention),
        o.dropout,
        read.classes,
        o.groups,
        learned,
    )


def _batch_size(o: argparse.Namespace, side: int) -> int:
    """What is asked for, or Appendix B's: 128, and 64 for 256 x 256."""
    if o.batch_size is not None:
        return int(o.batch_size)
    return 64 if o.paper and side == 256 else 128


def _training(o: argparse.Namespace, side: int) -> Training:
    """What Algorithm 1 is told; what is not said is the paper's, or suits small runs."""
    lr, warmup, flip = o.lr, o.warmup, o.flip
    if lr is None:  # Appendix B: a tenth for 256 x 256
        lr = (2e-5 if side == 256 else 2e-4) if o.paper else 1e-3
    if warmup is None:
        warmup = 5000 if o.paper else 100
    if flip is None:
        flip = FLIP.get(o.data.partition(":")[0], True)
    return Training(
        steps=o.steps,
        batch_size=_batch_size(o, side),
        lr=lr,
        warmup=warmup,
        decay=o.decay,
        ema=o.ema,
        flip=flip,
        accumulate=o.accumulate,
        seed=o.seed,
        device=o.device,
        precision=o.precision,
        channels_last=YES[o.channels_last],
        compile=YES[o.compile],
        save_every=o.save_every,
        sample_every=o.sample_every,
    )


def _goes_on(out: Path, info: dict[str, Any]) -> int:
    """Steps done of the run to go on with. Raises ValueError if it was another run."""
    about, folder = read_about(out)
    before = about.get("info") or {}
    same = {
        "classes": (before.get("classes", info["classes"]), info["classes"]),
        "objective": tuple(i.get("objective", "simple") for i in (before, info)),
    }
    for name, (earlier, now) in same.items():
        if earlier != now:
            raise ValueError(
                f"{folder} was trained with {name} = {earlier}, and now it is {now}; "
                "wanted the same to go on with, or another --out"
            )
    if before.get("data", info["data"]) != info["data"] and distributed.rank() == 0:
        warnings.warn(
            f"{folder} was trained on {before['data']} and goes on with {info['data']}",
            stacklevel=2,
        )
    return int(about.get("step") or 0)


def _schedule(o: argparse.Namespace) -> Schedule:
    """The schedule that the options name."""
    betas = {"beta_1": o.beta_1, "beta_T": o.beta_T}
    given = {name: value for name, value in betas.items() if value is not None}
    if o.schedule == "linear":
        return linear_schedule(o.T, **given)
    if given:
        raise ValueError(
            f"--schedule {o.schedule} has no --beta-1 and --beta-T; wanted them with "
            "--schedule linear only"
        )
    return cosine_schedule(o.T)


def _most_left(schedule: Schedule) -> float:
    """The most that L_T of Eq. (5) can be for pixels in [-1, 1], bits per dimension.

    With x_0^2 <= 1 the divergence from N(0, 1) is at most -log(1 - alpha_bar_T) / 2.
    """
    return -math.log2(1 - float(schedule.alpha_bar[schedule.T])) / 2


def _signal_left(schedule: Schedule) -> str | None:
    """What to say where x_T is no noise, which is what sampling begins with; or None."""
    left = _most_left(schedule)
    if left <= SIGNAL:
        return None
    T = schedule.T
    remedy = "--schedule cosine"
    if T > 20:
        betas = {"beta_1": 0.1 / T, "beta_T": 20 / T}
        if _most_left(linear_schedule(T, **betas)) <= SIGNAL:
            remedy = f"--beta-1 {0.1 / T:.3g} --beta-T {20 / T:.3g}, or {remedy}"
    return (
        f"after {T} steps x_T is not yet noise: alpha_bar_T = "
        f"{float(schedule.alpha_bar[T]):.2g}, so L_T is up to {left:.2g} bits/dim "
        f"(wanted: at most {SIGNAL:g}), and samples, which begin with noise, will be "
        f"wrong; try {remedy}"
    )


def _tell(what: str) -> None:
    """A warning, once for all processes."""
    if distributed.rank() == 0:
        print(f"ddpm train: {what}", file=sys.stderr)


def _begin_with(model: UNet, name: str, predict: str) -> dict[str, Any]:
    """Take over the weights; returns what the new run's checkpoints will say about it.

    name  of a checkpoint or a run, of a folder of diffusers, or on the hub
    """
    source: Any
    about: dict[str, Any]
    if _of_diffusers(name):
        source, predicted = from_diffusers(name), "eps"
        about = {"name": name}
    else:
        checkpoint = load_checkpoint(name)
        source = checkpoint.model
        predicted = getattr(source, "prediction", "eps")
        if isinstance(source, EpsModel):
            source = source.network
        about = {
            "step": checkpoint.step,
            "training": checkpoint.info.get("training"),
            "seconds": checkpoint.info.get("seconds"),
            "weights_sha256": digest(checkpoint.path / "weights.safetensors"),
        }
        name = str(checkpoint.path)
    if predicted != predict:
        raise ValueError(
            f"--init {name}: its network predicts {predicted}, the new one {predict}; "
            f"wanted --predict {predicted}"
        )
    config = getattr(source, "config", {})
    try:
        model.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"--init {name}: its network has other sizes, {config}; wanted those of the "
            f"new one, {model.config}; the two may differ in groups and dropout only"
        ) from error
    return {"groups": config.get("groups"), **about}


def _of_diffusers(name: str) -> bool:
    """Whether --init names a folder of diffusers, or nothing here: then it is an id on
    the hub, owner/name. runs/first beside other runs is a checkpoint that is missing."""
    path = Path(name)
    if path.is_dir():
        folders = (path, path / "unet")
        return any((folder / "config.json").is_file() for folder in folders)
    return (
        bool(re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name)) and not path.parent.exists()
    )
