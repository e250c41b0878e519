"""Results that take minutes: where they are kept, and what each file says about how it was made.

A file data/results/NAME.json holds the command that wrote it, the seed, the versions and the SHA-256 of the weights that were measured;
pictures lie beside it in NAME.png, as one grid.
"""

import argparse
import hashlib
import json
import platform
import shlex
import sys
from pathlib import Path

import torch
from PIL import Image

import ddpm_core as ddpm
from ddpm_core.figures import image_grid

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results"


def options(doc: str, checkpoint: bool = True) -> argparse.ArgumentParser:
    """What every experiment takes: the checkpoint that it measures, and a seed."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if checkpoint:
        parser.add_argument(
            "checkpoint",
            nargs="?",
            default="data/checkpoints/fashion-mnist",
            help="folder of a checkpoint",
        )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def machine() -> str:
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    cores = torch.get_num_threads()
    return f"{cores} core{'s' if cores > 1 else ''} of an {model.removesuffix(' Processor')} processor, torch {torch.__version__.split('+')[0]}"


def made_by(checkpoint: ddpm.Checkpoint, seed: int) -> dict:
    """What goes first into every file of results. To be called when the checkpoint is loaded: its file may be another one later."""
    return {
        "command": shlex.join(
            ["python", "-m", f"experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
        ),
        "seed": seed,
        "weights_sha256": sha256(checkpoint.path / "weights.safetensors"),
        "training_steps": checkpoint.step,
        "versions": {
            "ddpm_core": ddpm.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "machine": machine(),
    }


def keep(
    name: str, result: dict, images: torch.Tensor | None = None, columns: int = 20
) -> None:
    """Write NAME.json, and images float in [-1, 1] as NAME.png, each completely or not at all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    if images is not None:
        partial = RESULTS / f".{name}.png.partial"
        Image.fromarray(image_grid(images, columns, gap=0)).save(
            partial, "PNG", optimize=True
        )
        result = {
            **result,
            "columns": columns,
            "picture_sha256": hashlib.sha256(partial.read_bytes()).hexdigest(),
        }
        partial.replace(RESULTS / f"{name}.png")
    partial = RESULTS / f".{name}.json.partial"
    partial.write_text(
        json.dumps(result, separators=(",", ":")).replace(',"', ',\n"') + "\n",
        encoding="utf-8",
    )
    partial.replace(RESULTS / f"{name}.json")
    print(f"{RESULTS / name}.json: written")


def digits(x: torch.Tensor, n: int = 5) -> list:
    """A tensor as nested lists of numbers with n significant digits."""
    return [digits(row, n) for row in x] if x.ndim else float(f"{float(x):.{n}g}")


def decode(
    model,
    schedule: ddpm.Schedule,
    x_t: torch.Tensor,
    t: int,
    steps: int,
    seeds: list[int],
) -> torch.Tensor:
    """x_0 ~ p_theta(x_0 | x_t): the reverse process from t on, in `steps` steps, with a noise for each image by its seed.

    The first t betas are a schedule of their own, whose alpha_bar are the same: so Algorithm 2 on it starts at t. The variance is
    beta_tilde, the better choice where steps are few: beta leaves a grain.
    """
    from_t = ddpm.Schedule(schedule.beta[: t + 1])
    return ddpm.sample(
        model,
        from_t,
        x_t.shape,
        steps=steps,
        variance="beta_tilde",
        x_T=x_t,
        generator=[torch.Generator().manual_seed(s) for s in seeds],
    )
