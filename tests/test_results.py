"""The stored results: each says how it was made, belongs to the weights in the repository, and a part of it is made again here."""

import hashlib
import json
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ddpm_core as ddpm
from ddpm_core.training import mix
from experiments import interpolation as between_two
from experiments import steps as table_of_steps
from experiments.results import decode

ROOT = Path(__file__).resolve().parents[1]
RESULTS = sorted(
    file
    for file in (ROOT / "data" / "results").glob("*.json")
    if file.stem != "mutants"  # belongs to the chapters' code: test_mutants.py
)
WEIGHTS = {
    hashlib.sha256(file.read_bytes()).hexdigest(): file
    for file in (ROOT / "data" / "checkpoints").rglob("weights.safetensors")
}


def test_there_are_results() -> None:
    assert len(RESULTS) >= 3


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_says_how_it_was_made(path: Path) -> None:
    result = json.loads(path.read_text())
    words = shlex.split(result["command"])
    assert words[:2] == ["python", "-m"] and find_spec(words[2]), (
        "the command names a script of the repository"
    )
    assert result["weights_sha256"] in WEIGHTS, (
        f"measured with weights that are no longer here; run: {result['command']}"
    )
    assert isinstance(result["seed"], int) and result["versions"]["torch"]
    if "picture_sha256" in result:
        assert (
            hashlib.sha256(path.with_suffix(".png").read_bytes()).hexdigest()
            == result["picture_sha256"]
        )


@pytest.mark.parametrize("name", ["quality", "quality-plain"])
def test_some_samples_of_the_quality_table_are_drawn_again(name: str) -> None:
    file = ROOT / "data" / "results" / f"{name}.json"
    result = json.loads(file.read_text())
    how, columns = result["sampling"], result["columns"]
    grid = torch.from_numpy(np.array(Image.open(file.with_suffix(".png")).convert("L")))
    stored = grid.reshape(-1, 28, columns, 28).transpose(1, 2).reshape(-1, 1, 28, 28)
    kept = ddpm.load_checkpoint(WEIGHTS[result["weights_sha256"]].parent)
    chosen = [0, how["n"] - 1]
    x = ddpm.sample(
        kept.model,
        kept.schedule,
        (2, 1, 28, 28),
        steps=how["steps"],
        sampler=how["sampler"],
        variance=how["variance"],
        guidance=how["guidance"],
        generator=[
            torch.Generator().manual_seed(mix(result["seed"], "image", i))
            for i in chosen
        ],
        labels=torch.tensor(chosen) * 10 // how["n"],
    )
    # Another batch size and another processor sum in another order; the chain keeps such differences small, not zero.
    away = (ddpm.to_uint8(x).float() - stored[chosen].float()).abs().mean(dim=(1, 2, 3))
    assert (away < 2).all(), f"mean difference {away.tolist()} grey levels of 255"
    other = (
        (ddpm.to_uint8(x).float() - stored[[1, how["n"] - 2]].float())
        .abs()
        .mean(dim=(1, 2, 3))
    )
    assert (other > 4).all(), "the comparison would not notice another image"


def stored(name: str) -> tuple[dict, ddpm.Checkpoint, torch.Tensor]:
    """A file of results, the weights it was made with, and its pictures, uint8 (rows, columns, 28, 28)."""
    result = json.loads((ROOT / "data" / "results" / f"{name}.json").read_text())
    grid = torch.from_numpy(
        np.array(Image.open(ROOT / "data" / "results" / f"{name}.png").convert("L"))
    )
    return (
        result,
        ddpm.load_checkpoint(WEIGHTS[result["weights_sha256"]].parent),
        grid.reshape(-1, 28, result["columns"], 28).transpose(1, 2),
    )


def same(drawn: torch.Tensor, kept: torch.Tensor, other: torch.Tensor) -> None:
    """Pictures (N, 1, 28, 28) in [-1, 1] are the stored ones, as far as processors agree, and not the others."""
    pictures = ddpm.to_uint8(drawn)[:, 0].float()
    assert (
        (pictures - kept.float()).abs().mean()
        < 2
        < 4
        < (pictures - other.float()).abs().mean()
    )


@pytest.mark.parametrize("row, steps", [("dpm", 10), ("beta_tilde", 20)])
def test_some_samples_of_the_table_of_steps_are_drawn_again(
    row: str, steps: int
) -> None:
    result, kept, grid = stored("steps")
    n, place = (
        result["settings"]["n"],
        [(r["row"], r["steps"]) for r in result["rows"]].index((row, steps)),
    )
    sampler, variance = table_of_steps.SAMPLERS[row]
    chosen = [0, n // 10 * 9]
    x = ddpm.sample(
        kept.model,
        kept.schedule,
        (2, 1, 28, 28),
        steps=steps,
        sampler=sampler,
        variance=variance,
        labels=torch.tensor(chosen) * 10 // n,
        generator=[
            torch.Generator().manual_seed(mix(result["seed"], "image", i))
            for i in chosen
        ],
    )
    same(x, grid[place, [0, 9]], grid[place, [1, 8]])


def test_some_pictures_that_share_x_t_are_drawn_again() -> None:
    result, kept, grid = stored("shared")
    images, _ = ddpm.load_images("fashion-mnist", "test")
    i, t, draws = 0, 250, [0, 1]
    x0, eps = (
        ddpm.to_model_range(images[result["index"][i]]),
        torch.randn(
            1,
            28,
            28,
            generator=torch.Generator().manual_seed(1000 * result["seed"] + i),
        ),
    )
    x_t = ddpm.q_sample(kept.schedule, x0[None], t, eps[None]).expand(2, 1, 28, 28)
    column = result["times"].index(t) * result["draws"]
    drawn = decode(
        kept.model,
        kept.schedule,
        x_t,
        t,
        t // 10,
        [1_000_000 * (d + 1) + 1000 * t + i for d in draws],
    )
    same(drawn, grid[i, [column, column + 1]], grid[i, [0, 1]])


def test_a_row_between_two_pictures_is_drawn_again() -> None:
    result, kept, grid = stored("interpolation")
    images, _ = ddpm.load_images("fashion-mnist", "test")
    (a, b), t, n = result["road"][0], result["times"][1], result["mixtures"]["road"]
    row = between_two.between(
        kept, *ddpm.to_model_range(images[[a, b]]), t, n, 1000 * result["seed"]
    )
    same(row, grid[1, :n], grid[len(result["times"]), :n])
