"""Publish a run: copy its newest averaged weights to data/checkpoints/, draw the sample grid and the landing page's slider, write the card.

    python -m experiments.publish runs/fashion fashion-mnist [--note "What the commands do not say."] [--draft]

Everything that the card says is read from the run, but for the note; the samples are made by the command that samples.json records.
--draft takes 20 steps instead of all, to look at an unfinished run.
"""

import argparse
import json
import shlex
import time
from pathlib import Path

import torch

import ddpm_core as ddpm
from ddpm_core.checkpoint import find_checkpoint, save_checkpoint
from ddpm_core.cli import main as ddpm_command
from ddpm_core.figures import FrameSlider, image_grid
from experiments.results import ROOT, machine, sha256


def training_command(
    network: dict, info: dict, out: str = "runs/fashion", init: str | None = None
) -> str:
    words = [
        "ddpm",
        "train",
        "--data",
        info["data"],
        "--out",
        out,
        *(["--init", init] if init else []),
    ]
    for name in ("steps", "batch_size", "lr", "warmup", "decay", "ema", "seed"):
        words += [
            f"--{name.replace('_', '-')}",
            f"{info['training'][name]:g}"
            if isinstance(info["training"][name], float)
            else str(info["training"][name]),
        ]
    for name in ("width", "multipliers", "blocks", "attention", "groups", "dropout"):
        value = network[name]
        words += [
            f"--{name}",
            *(
                [str(v) for v in value]
                if isinstance(value, (list, tuple))
                else [f"{value:g}"]
            ),
        ]
    return shlex.join(words)


def forming(checkpoint: ddpm.Checkpoint, n: int) -> str:
    """The landing page's picture: ten garments, one a class, out of static. HTML that needs no kernel."""
    seeds = [torch.Generator().manual_seed(i) for i in range(10)]
    steps = list(
        ddpm.sample_steps(
            checkpoint.model,
            checkpoint.schedule,
            (10, 1, 28, 28),
            steps=n,
            generator=seeds,
            labels=torch.arange(10),
        )
    )
    steps = [step for i, step in enumerate(steps) if i % max(n // 25, 1) == 0]
    slider = FrameSlider(
        [image_grid(x.clamp(-1, 1), columns=5) for _, x, _ in steps],
        [t for t, _, _ in steps],
        name="t",
        scale=4.9,
        start=len(steps) - 1,
        alt="Ten pictures of clothing form out of static as t falls from 1000 to 0, one for each class of Fashion-MNIST",
        caption="Ten garments that nobody ever made, out of static. Press play, or drag t.",
    )
    return slider._repr_html_()


def main(
    run: Path, name: str, note: str | None = None, steps: int | None = None
) -> None:
    source, target = find_checkpoint(run), ROOT / "data" / "checkpoints" / name
    newest = ddpm.load_checkpoint(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    if note:
        newest.info["note"] = note
    save_checkpoint(
        target, newest.model, newest.schedule, step=newest.step, info=newest.info
    )
    (target / "log.jsonl").write_text((run / "log.jsonl").read_text())

    words = [
        "sample",
        f"data/checkpoints/{name}",
        "-n",
        "60",
        "--seed",
        "0",
        "--out",
        f"data/checkpoints/{name}/samples.png",
    ]
    words += ["--steps", str(steps)] if steps else []
    began = time.monotonic()
    if ddpm_command(
        [
            word.replace("data/", f"{ROOT}/data/", 1)
            if word.startswith("data/")
            else word
            for word in words
        ]
    ):
        raise SystemExit("sampling failed")
    seconds = round(time.monotonic() - began)
    card = {
        "command": shlex.join(["ddpm", *words]),
        "seed": 0,
        "images": 60,
        "steps": steps or newest.schedule.T,
        "seconds": seconds,
        "machine": machine(),
        "weights_sha256": sha256(target / "weights.safetensors"),
        "picture_sha256": sha256(target / "samples.png"),
    }
    (target / "samples.json").write_text(json.dumps(card, indent=1) + "\n")
    (ROOT / "book" / "forming.html").write_text(forming(newest, steps or 200) + "\n")

    log, settings = (
        [json.loads(line) for line in (target / "log.jsonl").read_text().splitlines()],
        newest.info["training"],
    )
    network = newest.model.config
    tail = [line["loss"] for line in log[-20:]]
    every = log[-1]["step"] - log[-2]["step"]
    commands, seconds_in_all, images_in_all = (
        [],
        newest.info["seconds"],
        newest.step * settings["batch_size"],
    )
    if before := newest.info.get("init"):
        commands += [
            training_command(
                network | {"groups": before["groups"]},
                newest.info | before,
                out="runs/first",
            )
        ]
        seconds_in_all += before["seconds"]
        images_in_all += before["step"] * before["training"]["batch_size"]
    commands += [
        training_command(network, newest.info, init="runs/first" if before else None)
    ]
    asked = f"{settings['steps']:,} of {settings['batch_size']} images" + (
        f", after {before['step']:,} of {before['training']['batch_size']}"
        if before
        else ""
    )
    note = " " + newest.info["note"] if newest.info.get("note") else ""
    (target / "README.md").write_text(f"""# Fashion-MNIST, class-conditional

A U-Net of the paper's structure, {sum(p.numel() for p in newest.model.parameters()):,} parameters, trained by Algorithm 1 on all 60,000 training images.

| | |
|---|---|
| {"commands, one after the other" if before else "command"} | {"<br>".join(f"`{command}`" for command in commands)} |
| seed | {f"{before['training']['seed']}, then " if before else ""}{settings["seed"]} |
| steps | {asked}: {images_in_all / 60000:.1f} epochs in all |
| wall time | {seconds_in_all / 60:.0f} minutes on {machine()}, shared with other work |
| precision | {settings["precision"]} |
| loss, Eq. (14) | {sum(tail) / len(tail):.4f}, mean over the last {every * len(tail)} steps; the whole curve is in `log.jsonl` |
| samples | `samples.png`, unselected, by `{card["command"]}`: {seconds} seconds on {card["machine"]}, shared with other work |
| weights | moving average, float32, SHA-256 `{card["weights_sha256"]}` |
| licence | MIT, as the data |

Label 10 means "no label"; it was shown for a tenth of the images, so that the network can be guided.

**Good at**: naming its classes. Trousers, dresses, boots, sneakers, bags and pullovers are recognised at a glance.
**Bad at**: fine print, buckles and straps; thin straps are sometimes smeared, patterned cloth is often speckled. The run is short: the paper's
networks see each image two thousand times.{note} No claim is made about anything that is not clothing on a black ground.
""")
    print(f"{target}: published from {source}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--note")
    parser.add_argument("--draft", action="store_true")
    o = parser.parse_args()
    main(o.run, o.name, o.note, 20 if o.draft else None)
