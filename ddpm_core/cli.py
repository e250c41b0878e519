"""The ddpm command: the package without writing Python. Also python -m ddpm_core."""

import argparse
import sys
from pathlib import Path

import torch

from .checkpoint import load_checkpoint
from .data import CLASSES, FLIP, load_images, to_uint8
from .figures import image_grid
from .sampling import sample
from .schedule import cosine_schedule, linear_schedule
from .training import choose_device, mix, train
from .unet import UNet, cifar10_unet

SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Say the default, where there is one to say."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. Errors that a user can mend are one line, without a traceback."""
    parser = argparse.ArgumentParser(prog="ddpm", description="Denoising diffusion probabilistic models: train, sample.")
    commands = parser.add_subparsers(dest="command", required=True)
    _train_arguments(commands.add_parser("train", help="Algorithm 1: train a network on images", formatter_class=_Help))
    _sample_arguments(commands.add_parser("sample", help="Algorithm 2: draw images from a trained network", formatter_class=_Help))
    options = parser.parse_args(arguments)
    try:
        return {"train": _train, "sample": _sample}[options.command](options)
    except KeyboardInterrupt as stop:
        print(f"\n{stop or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        print(f"ddpm {options.command}: {error}", file=sys.stderr)
        return 2


def _train_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--data", required=True, help="fashion-mnist, digits, cifar10, hub:<data set id> or folder:<path>")
    p.add_argument("--steps", type=int, required=True, help="training steps in all, including those of a resumed run")
    p.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the log")
    p.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in --out")
    p.add_argument("--paper", action="store_true", help="the paper's network instead of one sized by the next six options")
    p.add_argument("--width", type=int, default=32, help="channels of the first level")
    p.add_argument("--multipliers", type=int, nargs="+", default=[1, 2, 2], help="channels of each level, in widths")
    p.add_argument("--blocks", type=int, default=1, help="residual blocks a level")
    p.add_argument("--attention", type=int, nargs="*", default=None, help="sides of the levels with self-attention (default: the last level)")
    p.add_argument("--groups", type=int, default=8, help="of GroupNorm; 32 suits widths from 64 on")
    p.add_argument("--dropout", type=float, default=0.1, help="in the residual blocks")
    p.add_argument("--unconditional", action="store_true", help="ignore the data set's labels")
    p.add_argument("--schedule", choices=sorted(SCHEDULES), default="linear")
    p.add_argument("--T", type=int, default=1000, help="diffusion steps")
    p.add_argument("--batch-size", type=int, default=128)
    p.add_argument("--lr", type=float, default=None, help="learning rate of Adam (default: 1e-3, which suits small networks; with --paper 2e-4)")
    p.add_argument("--warmup", type=int, default=None, help="steps over which the learning rate grows (default: 100; with --paper 5000)")
    p.add_argument("--decay", type=int, default=0, help="last steps, over which it falls to zero")
    p.add_argument("--ema", type=float, default=0.9999, help="decay of the moving average of the weights")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--save-every", type=int, default=1000, help="steps between checkpoints")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    p.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16", "float16"])


def _train(o: argparse.Namespace) -> int:
    images, labels = load_images(o.data)
    if o.unconditional:
        labels = None
    classes = None if labels is None else int(labels.max()) + 1
    _, channels, side, other = images.shape
    if side != other:
        raise ValueError(f"the images are {other} x {side} pixels; wanted square ones: crop or pad them first")
    lr = o.lr if o.lr is not None else 2e-4 if o.paper else 1e-3
    warmup = o.warmup if o.warmup is not None else 5000 if o.paper else 100
    torch.manual_seed(o.seed)  # of the initial weights
    if o.paper:
        model = cifar10_unet()
        labels = None
    else:
        attention = o.attention if o.attention is not None else [side // 2 ** (len(o.multipliers) - 1)]
        model = UNet(side, channels, o.width, tuple(o.multipliers), o.blocks, tuple(attention), o.dropout, classes, o.groups)
    info = {"data": o.data, "shape": [channels, side, side], "classes": CLASSES.get(o.data) if labels is not None else None}
    train(model, SCHEDULES[o.schedule](o.T), images, labels, steps=o.steps, batch_size=o.batch_size, lr=lr, warmup=warmup,
          decay=o.decay, ema=o.ema, flip=FLIP.get(o.data, True), device=o.device, precision=o.precision, out=o.out, resume=o.resume,
          save_every=o.save_every, seed=o.seed, info=info)  # fmt: skip
    print(f"{o.out}: trained for {o.steps} steps; now: ddpm sample {o.out} -n 64 --out samples.png")
    return 0


def _sample_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("checkpoint", type=Path, help="folder of a run, or of one checkpoint")
    p.add_argument("-n", type=int, default=64, help="number of images")
    p.add_argument("--out", type=Path, required=True, help="picture to write, all images in a grid (.png)")
    p.add_argument("--columns", type=int, default=8, help="images in a row of the grid")
    p.add_argument("--steps", type=int, default=None, help="reverse steps (default: all T)")
    p.add_argument("--sampler", choices=["ddpm", "ddim"], default="ddpm")
    p.add_argument("--variance", choices=["beta", "beta_tilde"], default="beta")
    p.add_argument("--no-clip", action="store_true", help="do not clamp x0_hat to [-1, 1]")
    p.add_argument("--labels", nargs="+", default=None, help="class names or numbers, dealt out in turn (default: all classes, in order)")
    p.add_argument("--guidance", type=float, default=0.0, help="exaggerate the labels by this much")
    p.add_argument("--batch-size", type=int, default=64, help="images at a time; does not change them")
    p.add_argument("--seed", type=int, default=0, help="image i depends on the seed and i only")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")


def _sample(o: argparse.Namespace) -> int:
    from PIL import Image

    if o.n < 1 or o.columns < 1 or o.batch_size < 1:
        raise ValueError(f"-n {o.n} --columns {o.columns} --batch-size {o.batch_size}; wanted at least 1 of each")
    if o.out.suffix.lower() != ".png":
        raise ValueError(f"--out {o.out}; wanted a file name that ends in .png")
    checkpoint = load_checkpoint(o.checkpoint, device=choose_device(o.device))
    model = checkpoint.model
    channels, side = model.config["channels"], model.config["image_size"]
    o.out.parent.mkdir(parents=True, exist_ok=True)
    labels = _labels(o.labels, checkpoint.info.get("classes"), model.classes, o.n)
    images = []
    for first in range(0, o.n, o.batch_size):
        chosen = range(first, min(first + o.batch_size, o.n))
        x = sample(model, checkpoint.schedule, (len(chosen), channels, side, side), steps=o.steps, sampler=o.sampler, variance=o.variance,
                   clip_x0=not o.no_clip, generator=[torch.Generator().manual_seed(mix(o.seed, "image", i)) for i in chosen],
                   labels=None if labels is None else labels[first : chosen[-1] + 1], guidance=o.guidance, progress=True)  # fmt: skip
        images.append(to_uint8(x).cpu())
    partial = o.out.with_name(f".{o.out.name}.partial")
    Image.fromarray(image_grid(torch.cat(images), o.columns)).save(partial, "PNG")
    partial.replace(o.out)
    print(f"{o.out}: {o.n} images of {side} x {side}")
    return 0


def _labels(asked: list[str] | None, names: list[str] | None, classes: int | None, n: int) -> torch.Tensor | None:
    """Labels for n images: those asked for in turn, or all classes in order, or None for a network without classes."""
    if classes is None:
        if asked:
            raise ValueError("--labels was given, but the network was trained without labels")
        return None
    if asked is None:
        return torch.arange(n) * classes // n
    numbers = {str(i): i for i in range(classes)} | {name.lower(): i for i, name in enumerate(names or [])}
    if unknown := [a for a in asked if a.lower() not in numbers]:
        raise ValueError(f"unknown label {unknown[0]!r}; wanted 0 to {classes - 1}" + (f" or {', '.join(names)}" if names else ""))
    return torch.tensor([numbers[asked[i % len(asked)].lower()] for i in range(n)])


if __name__ == "__main__":
    sys.exit(main())
