"""The ddpm command: the package without writing Python. Also python -m ddpm_core."""

import argparse
import math
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import distributed
from .checkpoint import Checkpoint, beside, claim, find_checkpoint, load_checkpoint
from .codec import decode, encode, read_header
from .data import FLIP, load_images, load_labelled, to_uint8
from .distributed import mix
from .evaluation import Samples, evaluate, table, write_json
from .figures import image_grid
from .hardware import choose_device
from .objectives import choose_objective
from .reverse import EpsModel, as_eps_model
from .runtime.files import digest
from .runtime.store import read_about
from .sampling import sample
from .schedule import Schedule, cosine_schedule, linear_schedule
from .streams import Stream, load_stream, must_stream
from .training import train
from .unet import UNet

SIGNAL = 0.001  # bits/dim of L_T; the paper's schedule leaves 0.00003
YES: dict[str, bool | str] = {"auto": "auto", "yes": True, "no": False}


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Say the default, where there is one to say."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return (
            action.help
            if action.default is None or action.default is False
            else super()._get_help_string(action)
        )


def parser() -> argparse.ArgumentParser:
    """The whole command line; `run` of what it parses is the command to carry out."""
    whole = argparse.ArgumentParser(
        prog="ddpm",
        description="Denoising diffusion probabilistic models: train, sample.",
    )
    commands = whole.add_subparsers(dest="command", required=True)
    for name, about, arguments, run in (
        ("train", "Algorithm 1: train a network on images", _train_arguments, _train),
        (
            "sample",
            "Algorithm 2: draw images from a trained network",
            _sample_arguments,
            _sample,
        ),
        (
            "evaluate",
            "bits per dimension, FID, IS: measure a trained network",
            _evaluate_arguments,
            _evaluate,
        ),
        (
            "encode",
            "Algorithm 3: pictures to a file that the network has made short",
            _encode_arguments,
            _encode,
        ),
        (
            "decode",
            "Algorithm 4: the pictures of such a file",
            _decode_arguments,
            _decode,
        ),
        ("draw", "pictures from words, by the stored network", _draw_arguments, _draw),
    ):
        one = commands.add_parser(name, help=about, formatter_class=_Help)
        one.set_defaults(run=run)
        arguments(one)
    return whole


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Errors that a user can mend are one line, without a traceback.
    """
    options = parser().parse_args(arguments)
    options.typed = shlex.join(
        ["ddpm", *(sys.argv[1:] if arguments is None else arguments)]
    )
    try:
        return int(options.run(options))
    except KeyboardInterrupt as stop:
        if distributed.rank() == 0:
            print(f"\n{stop or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        who = f" (rank {distributed.rank()})" if distributed.rank() else ""
        notes = "".join(f"; {note}" for note in getattr(error, "__notes__", []))
        print(f"ddpm {options.command}{who}: {error}{notes}", file=sys.stderr)
        return 2


def _train_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--data",
        required=True,
        help="fashion-mnist, digits, cifar10, hub:<data set id>, folder:<path> (one folder a class makes labels); or celebahq-256, lsun-church-256, "
        "lsun-bedroom-256, lsun-cat-256, with :<path> for a folder of yours",
    )
    p.add_argument(
        "--stream",
        action="store_true",
        help="read images when their turn comes, instead of all before (automatic for large folders)",
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
        help="make all images of a folder or the hub grey, or with --no-grey colour "
        "(default: as they are)",
    )
    p.add_argument(
        "--ground",
        default=None,
        help="colour that transparent pixels let through: black, '#ff8800' "
        "(default: white)",
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
        type=Path,
        default=None,
        help="a checkpoint whose averaged weights to begin with, for a network of the same sizes",
    )
    p.add_argument(
        "--paper",
        action="store_true",
        help="the paper's network, for CIFAR-10 or for 256 x 256, instead of one sized by the next six options",
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
        default=128,
        help="in all, under torchrun over all processes (the paper: 128, for 256 x 256 64)",
    )
    p.add_argument(
        "--lr",
        type=float,
        default=None,
        help="learning rate of Adam (default: 1e-3, which suits small networks; with --paper 2e-4, "
        "and 2e-5 for 256 x 256)",
    )
    p.add_argument(
        "--warmup",
        type=int,
        default=None,
        help="steps over which the learning rate grows (default: 100; with --paper 5000)",
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
        help="parts of a batch whose gradients are added up: less memory, the same step",
    )
    p.add_argument(
        "--sample-every",
        type=int,
        default=0,
        help="steps between 16 samples of the network so far, in --out/samples (0: none)",
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


def _train(o: argparse.Namespace) -> int:
    some = {
        name: value
        for name, value in dict(
            size=o.size,
            skip_unreadable=o.skip_unreadable or None,
            grey=o.grey,
            ground=o.ground,
        ).items()
        if value is not None
    }
    if o.stream or must_stream(o.data, o.size):
        images: Tensor | Stream
        images = stream = load_stream(
            o.data,
            o.batch_size,
            labels=not (o.unconditional or o.paper),
            seed=o.seed,
            **some,
        )
        labels, classes, (channels, side, other) = None, stream.classes, stream.shape
        names = stream.names
    else:
        if o.unconditional or o.paper:
            some["labels"] = False
        images, labels, called = load_labelled(o.data, **some)
        names = list(called) if called else None
        classes = (
            len(names) if names else None if labels is None else int(labels.max()) + 1
        )
        _, channels, side, other = images.shape
    if o.size is not None and side != o.size:
        raise ValueError(
            f"--size {o.size}: the images of {o.data} are {other} x {side} and stay so; "
            "wanted --size for a folder or the hub only"
        )
    if side != other:
        raise ValueError(
            f"the images are {other} x {side} pixels; wanted square ones: crop or pad them first"
        )
    lr = (
        o.lr
        if o.lr is not None
        else (2e-5 if side == 256 else 2e-4)
        if o.paper
        else 1e-3
    )
    warmup = o.warmup if o.warmup is not None else 5000 if o.paper else 100
    objective, learned = (
        choose_objective(o.predict, o.objective, o.variance),
        o.variance == "learned",
    )
    torch.manual_seed(o.seed)  # of the initial weights
    if o.paper:
        # Appendix B: the network for 256 x 256, without dropout and with a tenth of the learning rate; else that for CIFAR-10
        large: dict[str, Any] = (
            dict(image_size=256, multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0)
            if side == 256
            else {}
        )
        model = UNet(**large, learn_variance=learned)
    else:
        attention = (
            o.attention
            if o.attention is not None
            else [side // 2 ** (len(o.multipliers) - 1)]
        )
        model = UNet(
            side,
            channels,
            o.width,
            tuple(o.multipliers),
            o.blocks,
            tuple(attention),
            o.dropout,
            classes,
            o.groups,
            learned,
        )
    before = (
        {}
        if o.init is None
        else {"init": _begin_with(model, load_checkpoint(o.init), o.predict)}
    )
    schedule = _schedule(o)
    if rest := _signal_left(schedule):
        _tell(rest)
    info = before | {"data": o.data, "shape": [channels, side, side], "classes": names}
    reading = {name: some[name] for name in ("grey", "ground") if name in some}
    if reading:  # else an evaluation would read other pixels
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
            images,
            labels,
            objective=objective,
            steps=o.steps,
            batch_size=o.batch_size,
            lr=lr,
            warmup=warmup,
            decay=o.decay,
            ema=o.ema,
            flip=FLIP.get(o.data.partition(":")[0], True) if o.flip is None else o.flip,
            device=o.device,
            precision=o.precision,
            out=o.out,
            resume=o.resume,
            save_every=o.save_every,
            accumulate=o.accumulate,
            sample_every=o.sample_every,
            seed=o.seed,
            info=info,
            channels_last=YES[o.channels_last],
            compile=YES[o.compile],
            tensorboard=o.tensorboard,
        )
    if distributed.rank() == 0:
        asked = f"; --steps {o.steps} asks for no more" if done >= o.steps else ""
        print(
            f"{o.out}: trained for {max(done, o.steps)} steps{asked}; "
            f"now: ddpm sample {o.out} -n 64 --out samples.png"
        )
    return 0


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


def _begin_with(model: UNet, checkpoint: Checkpoint, predict: str) -> dict[str, Any]:
    """Take over the weights; returns what the new run's checkpoints will say about it."""
    predicted = getattr(checkpoint.model, "prediction", "eps")
    if predicted != predict:
        raise ValueError(
            f"--init {checkpoint.path}: its network predicts {predicted}, the new one "
            f"{predict}; wanted --predict {predicted}"
        )
    try:
        network: Any = (
            checkpoint.model.network
            if isinstance(checkpoint.model, EpsModel)
            else checkpoint.model
        )
        model.load_state_dict(network.state_dict())
    except RuntimeError as error:
        raise ValueError(
            f"--init {checkpoint.path}: its network has other sizes, {getattr(checkpoint.model, 'config', {})}; wanted those of the "
            f"new one, {model.config}; the two may differ in groups and dropout only"
        ) from error
    return {
        "step": checkpoint.step,
        "groups": getattr(checkpoint.model, "config", {}).get("groups"),
        "training": checkpoint.info.get("training"),
        "seconds": checkpoint.info.get("seconds"),
        "weights_sha256": digest(checkpoint.path / "weights.safetensors"),
    }


def _sample_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "checkpoint", type=Path, help="folder of a run, or of one checkpoint"
    )
    p.add_argument("-n", type=int, default=64, help="number of images")
    p.add_argument(
        "--out",
        type=Path,
        required=True,
        help="picture to write, all images in a grid (.png); with --each a folder",
    )
    p.add_argument(
        "--each",
        action="store_true",
        help="a picture for each image, 00000.png, 00001.png, ..., in --out",
    )
    p.add_argument(
        "--columns",
        type=int,
        default=None,
        help="images in a row of the grid (default: as many as there are classes, "
        "up to 16; 8 without classes)",
    )
    p.add_argument(
        "--steps", type=int, default=None, help="reverse steps (default: all T)"
    )
    p.add_argument(
        "--sampler",
        choices=["ddpm", "ddim", "dpm"],
        default="ddpm",
        help="Algorithm 2, DDIM, or DPM-Solver++ for few steps",
    )
    p.add_argument(
        "--variance",
        choices=["beta", "beta_tilde", "learned"],
        default=None,
        help="(default: learned if it was, else beta)",
    )
    p.add_argument(
        "--no-clip", action="store_true", help="do not clamp x0_hat to [-1, 1]"
    )
    p.add_argument(
        "--labels",
        nargs="+",
        default=None,
        help="class names or numbers, dealt out in turn (default: all classes)",
    )
    p.add_argument(
        "--guidance", type=float, default=0.0, help="exaggerate the labels by this much"
    )
    p.add_argument(
        "--batch-size",
        type=int,
        default=64,
        help="images at a time; changes them by rounding only, which is seen in "
        "bfloat16 (--precision float32: by a grey level at most)",
    )
    p.add_argument(
        "--seed",
        type=int,
        default=0,
        help="image i depends on the seed, i and its label only, not on -n",
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    p.add_argument(
        "--precision",
        default="auto",
        help="auto (the fastest on the device), float32, bfloat16, float16",
    )
    p.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the network: minutes at first, earned back by many images",
    )


def _sample(o: argparse.Namespace) -> int:
    from PIL import Image

    counts = {"-n": o.n, "--columns": o.columns, "--batch-size": o.batch_size}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} {value}; wanted at least 1")
    if o.each:
        _empty(o.out)
    elif o.out.suffix.lower() != ".png":
        raise ValueError(
            f"--out {o.out}; wanted a file name that ends in .png, or --each"
        )
    checkpoint = load_checkpoint(o.checkpoint, device=choose_device(o.device))
    model: Any = checkpoint.model
    channels, side = model.config["channels"], model.config["image_size"]
    variance = o.variance or (
        "learned" if model.config.get("learn_variance") else "beta"
    )
    if distributed.rank() == 0:
        claim(o.out / "00000.png" if o.each else o.out)
    labels = _labels(o.labels, checkpoint.info.get("classes"), model.classes, o.n)
    mine, images = (
        distributed.shard(o.n),
        [torch.empty(0, channels, side, side, dtype=torch.uint8)],
    )
    for first in range(mine.start, mine.stop, o.batch_size):
        chosen = range(first, min(first + o.batch_size, mine.stop))
        x = sample(
            model,
            checkpoint.schedule,
            (len(chosen), channels, side, side),
            steps=o.steps,
            sampler=o.sampler,
            variance=variance,
            clip_x0=not o.no_clip,
            generator=[
                torch.Generator().manual_seed(mix(o.seed, "image", i)) for i in chosen
            ],
            labels=None if labels is None else labels[first : chosen[-1] + 1],
            guidance=o.guidance,
            precision=o.precision,
            compile=o.compile,
            progress=distributed.rank() == 0,
        )
        images.append(to_uint8(x).cpu())
    drawn = distributed.gather(torch.cat(images))
    if distributed.rank() > 0:
        return 0
    if o.each:
        _write_each(drawn, o.out)
    else:
        many = model.classes if (model.classes or 17) <= 16 else 8
        with beside(o.out) as partial:
            grid = image_grid(drawn, min(o.columns or many, o.n))
            Image.fromarray(grid).save(partial, "PNG")
    print(f"{o.out}: {o.n} images of {side} x {side}")
    return 0


def _labels(
    asked: list[str] | None, names: list[str] | None, classes: int | None, n: int
) -> torch.Tensor | None:
    """Labels for n images: those asked for, or all classes, in turn; None for a network
    without classes. That of image i is the same whatever n is."""
    if classes is None:
        if asked:
            raise ValueError(
                "--labels was given, but the network was trained without labels"
            )
        return None
    if asked is None:
        return torch.arange(n) % classes
    exact = {name: i for i, name in enumerate(names or [])}
    numbers = {str(i): i for i in range(classes)}  # a name goes before a number
    numbers = numbers | {name.lower(): i for name, i in exact.items()} | exact
    chosen = [numbers.get(a, numbers.get(a.lower())) for a in asked]
    if unknown := [a for a, number in zip(asked, chosen) if number is None]:
        raise ValueError(
            f"unknown label {unknown[0]!r}; wanted 0 to {classes - 1}"
            + (f" or {', '.join(names)}" if names else "")
        )
    return torch.tensor([chosen[i % len(chosen)] for i in range(n)])


def _evaluate_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "checkpoint", type=Path, help="folder of a run, or of one checkpoint"
    )
    p.add_argument(
        "--data",
        default=None,
        help="as for ddpm train (default: the data it was trained on)",
    )
    p.add_argument(
        "--unseen",
        default=None,
        help="data that it has not seen (default: the test split of --data)",
    )
    p.add_argument("-n", type=int, default=2000, help="number of samples")
    p.add_argument(
        "--steps", type=int, default=None, help="reverse steps (default: all T)"
    )
    p.add_argument(
        "--sampler",
        choices=["ddpm", "ddim", "dpm"],
        default="ddpm",
        help="Algorithm 2, DDIM, or DPM-Solver++ for few steps",
    )
    p.add_argument(
        "--variance",
        choices=["beta", "beta_tilde", "learned"],
        default=None,
        help="(default: learned if it was, else beta)",
    )
    p.add_argument(
        "--guidance", type=float, default=0.0, help="exaggerate the labels by this much"
    )
    p.add_argument(
        "--features",
        choices=["auto", "fashion", "inception", "none"],
        default="auto",
        help="network to judge the samples with; none: draw none (auto: fashion for fashion-mnist, else inception)",
    )
    p.add_argument(
        "--bound",
        type=int,
        default=0,
        metavar="IMAGES",
        help="test images, and as many training images, whose bits/dim to measure; 0: skip it",
    )
    p.add_argument(
        "--evaluations",
        type=int,
        default=None,
        help="of the network for each of them, for an estimate, such as 20 (default: T, all terms)",
    )
    p.add_argument("--batch-size", type=int, default=64, help="images at a time")
    p.add_argument("--seed", type=int, default=0, help="of all that is random")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    p.add_argument(
        "--out",
        type=Path,
        default=None,
        help="file for the results (.json; default: evaluation.json in the folder of the run)",
    )
    p.add_argument(
        "--keep-samples",
        action="store_true",
        help="keep the samples beside --out (.npz, .png); after a stop, the same command goes on from them",
    )


def _evaluate(o: argparse.Namespace) -> int:
    out = o.out or o.checkpoint / "evaluation.json"
    if out.suffix != ".json":
        raise ValueError(f"--out {out}; wanted a file name that ends in .json")
    keep = out.with_suffix(".npz") if o.keep_samples else None
    find_checkpoint(o.checkpoint)  # before a folder for the results is made
    if distributed.rank() == 0:
        claim(out)
    how = Samples(
        n=o.n,
        steps=o.steps,
        sampler=o.sampler,
        variance=o.variance,
        guidance=o.guidance,
        seed=o.seed,
    )
    try:
        result = evaluate(
            o.checkpoint,
            how,
            data=o.data,
            unseen=o.unseen,
            features=o.features,
            bound=o.bound,
            evaluations=o.evaluations,
            batch_size=o.batch_size,
            device=o.device,
            keep=keep,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped; the same command goes on from the samples in {keep}"
            if keep
            else "stopped"
        ) from None
    if distributed.rank() > 0:
        return 0
    print(table(result))
    write_json({"command": o.typed, **result}, out)
    print(
        f"{out}: written"
        + (
            f"; the samples are in {keep} and {keep.with_suffix('.png')}"
            if keep
            else ""
        )
    )
    return 0


def _encode_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "checkpoint",
        type=Path,
        help="folder of a run, or of one checkpoint; to decode the file one needs the same",
    )
    p.add_argument(
        "--data",
        required=True,
        help="the pictures, as for ddpm train: folder:<path>, fashion-mnist, ...",
    )
    p.add_argument(
        "--split",
        choices=["train", "test"],
        default="test",
        help="of a data set that has two; a folder has none",
    )
    p.add_argument(
        "-n",
        type=int,
        default=None,
        help="number of pictures, the first ones (default: all)",
    )
    p.add_argument("--out", type=Path, required=True, help="file to write")
    p.add_argument(
        "--t",
        type=int,
        default=None,
        help="where the steps stop: 1, ..., T, in even ratios (default: about 40, with --lossy 1)",
    )
    p.add_argument(
        "--lossy",
        action="store_true",
        help="send no more than x_t: the receiver shows the network's guess of the picture, Eq. (15)",
    )
    p.add_argument("--steps", type=int, default=24, help="from T to 1")
    p.add_argument(
        "--bits",
        type=int,
        default=16,
        help="one more shortens the file, and doubles the work of encoding",
    )
    p.add_argument(
        "--seed", type=int, default=0, help="of the noise that both sides make"
    )


def _encode(o: argparse.Namespace) -> int:
    checkpoint = load_checkpoint(o.checkpoint)
    config: Any = getattr(checkpoint.model, "config", {})
    reading: dict[str, Any] = dict(checkpoint.info.get("reading", {}))
    if o.data.startswith(("folder:", "hub:")):
        reading["size"] = config.get("image_size")
    images, _ = load_images(o.data, o.split, labels=False, **reading)
    if o.n is not None and not 1 <= o.n <= len(images):
        raise ValueError(
            f"-n {o.n}; wanted from 1 to the {len(images)} pictures of {o.data}"
        )
    claim(o.out)
    data = encode(
        checkpoint.model,
        checkpoint.schedule,
        images[: o.n],
        t=o.t,
        lossless=not o.lossy,
        steps=o.steps,
        bits=o.bits,
        seed=o.seed,
        progress=True,
    )
    with beside(o.out) as partial:
        partial.write_bytes(data)
    about = read_header(data)
    print(
        f"{o.out}: {about.shape[0]} pictures in {len(data)} bytes, {'lossless' if about.lossless else 'lossy'} at t = {about.t}; "
        f"now: ddpm decode {o.checkpoint} {o.out} --out pictures"
    )
    return 0


def _decode_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "checkpoint",
        type=Path,
        help="folder of the run or the checkpoint that the file was encoded with",
    )
    p.add_argument("file", type=Path, help="file that ddpm encode wrote")
    p.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the pictures, 00000.png, 00001.png, ...; must not exist, or be empty",
    )


def _decode(o: argparse.Namespace) -> int:
    data = o.file.read_bytes()
    read_header(data)  # a foreign file is refused before a network is loaded
    _empty(o.out)
    checkpoint = load_checkpoint(o.checkpoint)
    images = decode(checkpoint.model, checkpoint.schedule, data, progress=True)
    _write_each(images, o.out)
    print(f"{o.out}: {len(images)} pictures of {images.shape[3]} x {images.shape[2]}")
    return 0


def _draw_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "caption", help="what to draw, such as 'glossy octopus on a light blue ground'"
    )
    p.add_argument("-n", "--n", type=int, default=16, help="number of images")
    p.add_argument(
        "--out", type=Path, required=True, help="picture to write, a grid (.png)"
    )
    p.add_argument("--steps", type=int, default=25, help="reverse steps, by DDIM")
    p.add_argument(
        "--guidance",
        type=float,
        default=2.0,
        help="exaggerate the words by this much; s of other papers, less one",
    )
    p.add_argument("--seed", type=int, default=0, help="image i depends on it and i")


def _draw(o: argparse.Namespace) -> int:
    from PIL import Image

    from .after.reading import check_known, read_captions, words_network
    from .model import guided
    from .schedule import linear_schedule

    if o.n < 1:
        raise ValueError(f"--n {o.n}; wanted at least 1")
    if o.out.suffix.lower() != ".png":
        raise ValueError(f"--out {o.out}; wanted a file name that ends in .png")
    check_known(o.caption)
    told = read_captions([o.caption])
    net = words_network("decoder")
    claim(o.out)
    parts = []
    for first in range(0, o.n, 64):
        some = range(first, min(first + 64, o.n))
        words = {k: v.expand(len(some), *v.shape[1:]) for k, v in told.items()}
        x = sample(
            guided(net, o.guidance, **words),
            linear_schedule(),
            (len(some), 3, 32, 32),
            steps=o.steps,
            sampler="ddim",
            generator=[
                torch.Generator().manual_seed(mix(o.seed, "image", i)) for i in some
            ],
        )
        parts.append(to_uint8(x))
    with beside(o.out) as partial:
        grid = image_grid(torch.cat(parts), min(8, o.n))
        Image.fromarray(grid).save(partial, "PNG")
    print(f"{o.out}: {o.n} images of 32 x 32")
    return 0


def _empty(folder: Path) -> None:
    """Raises ValueError for a place where pictures would lie among, or over, others."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"--out {folder} is there and not an empty folder; wanted a new one, so "
            "that nothing is overwritten"
        )


def _write_each(images: Tensor, folder: Path) -> None:
    """folder/00000.png, 00001.png, ..., of uint8 images (N, C, H, W)."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        with beside(folder / f"{i:05d}.png") as partial:
            Image.fromarray(image_grid(image[None], 1)).save(partial, "PNG")


if __name__ == "__main__":
    sys.exit(main())
