"""Half an hour on a processor, as the chapter "Your own pictures" tells it to a newcomer:
a folder of drawings, a training, a sheet of samples. Writes data/results/half_hour.json
and half_hour.png, and the weights to data/checkpoints/smileys.

    python -m experiments.half_hour [--steps 700] [--out runs/half-hour]

The pictures are the smileys of four artists in data/emoji, 64 x 64 PNG files with
transparency. Every tenth smiley, by all artists, lies in `kept` and is not shown to the
network. COMMANDS are run one after the other, as they stand, in a folder with nothing
else in it, and each is timed. One that is done (a run that goes on with --resume, a file
that is there) is not done again.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ddpm_core as ddpm
from ddpm_core.captions import load_drawings
from ddpm_core.checkpoint import save_checkpoint
from ddpm_core.metrics import memorisation
from ddpm_core.training import read_log
from experiments.results import ROOT, digits, keep, made_by

STYLES = (
    "flat",
    "glossy",
    "noto",
    "blob",
)  # ink has no colours; twemoji another licence
COMMANDS = (
    "ddpm train --data folder:pictures --size 32 --steps {steps} --batch-size 16 "
    "--decay 300 --sample-every 500 --out runs/half",
    "ddpm sample runs/half -n 64 --steps 100 --variance beta_tilde --out samples.png",
    "ddpm evaluate runs/half --unseen folder:kept --features none --bound 64 "
    "--evaluations 20",
)
SHOWN = 8  # samples in a row; the last row but one has the first of them once more


def write_folders(home: Path) -> dict[str, int]:
    """`pictures` and `kept`, and how many pictures are in each."""
    drawings, facts = load_drawings("emoji", "all", styles=list(STYLES))
    smileys = [i for i, fact in enumerate(facts) if fact.group == "smileys"]
    names = sorted({facts[i].base for i in smileys})
    aside = set(names[::10])  # by name: artists draw alike, and two of them the same
    for folder in ("pictures", "kept"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    for i in smileys:
        fact = facts[i]
        folder = "kept" if fact.base in aside else "pictures"
        picture = Image.fromarray(drawings[i].permute(1, 2, 0).numpy(), "RGBA")
        picture.save(home / folder / f"{fact.style}-{fact.key}.png")
    return {f: len(list((home / f).iterdir())) for f in ("pictures", "kept")}


def timed(line: str, home: Path) -> dict:
    """Run a command in `home`; its seconds by the clock, and of the processor."""
    words = [sys.executable, "-m", "ddpm_core", *shlex.split(line)[1:]]
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        words, cwd=home, env=here, check=True, text=True, stdout=subprocess.PIPE
    )
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(done.stdout, flush=True)
    return {
        "command": line,
        "seconds": round(seconds - began, 1),
        "processor_seconds": round(worked, 1),
        "said": done.stdout.strip(),
    }


def tiles(sheet: Path, side: int) -> torch.Tensor:
    """The pictures of a sheet, whose tiles have a pixel between them."""
    pixels = torch.from_numpy(np.array(Image.open(sheet).convert("RGB")))
    rows, columns = ((n + 1) // (side + 1) for n in pixels.shape[:2])
    return torch.stack(
        [
            pixels[y : y + side, x : x + side].permute(2, 0, 1)
            for y in range(0, rows * (side + 1), side + 1)
            for x in range(0, columns * (side + 1), side + 1)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "half-hour")
    o = parser.parse_args()
    counts = write_folders(o.out)
    commands = []
    for number, command in enumerate(COMMANDS):
        kept = o.out / f"{number}.json"
        if not kept.exists():
            line = command.format(steps=o.steps)
            kept.write_text(json.dumps(timed(line, o.out)))
        commands.append(json.loads(kept.read_text()))
    run = ddpm.load_checkpoint(o.out / "runs" / "half")
    smileys = ROOT / "data" / "checkpoints" / "smileys"
    about = {"data": "smileys of data/emoji by flat, glossy, noto and blob, on white"}
    save_checkpoint(
        smileys, run.model, run.schedule, step=run.step, info=about, half=True
    )
    samples = tiles(o.out / "samples.png", 32)
    known, kept_out = (
        ddpm.load_images(f"folder:{o.out / name}", size=32)[0] for name in counts
    )
    m = memorisation(*(x.flatten(1).float() for x in (samples, kept_out, known)))
    near = known[m.index[:SHOWN]]
    measured = json.loads((o.out / "runs" / "half" / "evaluation.json").read_text())
    keep(
        "half_hour",
        made_by(ddpm.load_checkpoint(smileys), seed=0)
        | {
            "commands": commands,
            "pictures": counts,
            "losses": [
                {name: line[name] for name in ("step", "loss", "seconds")}
                for line in read_log(o.out / "runs" / "half" / "log.jsonl")
                if line["step"] % 250 == 0
            ],
            "parameters": sum(p.numel() for p in run.model.parameters()),
            "bits_per_dim": measured["bits_per_dim"],
            "nearer": digits(torch.tensor(m.nearer), 3),
            "nearer_error": digits(torch.tensor(m.nearer_error), 2),
            "suspect": digits(torch.tensor(m.suspect), 2),
        },
        ddpm.to_model_range(torch.cat([samples, samples[:SHOWN], near])),
        columns=SHOWN,
    )


if __name__ == "__main__":
    main()
