"""The stored results: each says how it was made, belongs to the weights in the repository, and a part of it is made again here."""

import hashlib
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ddpm_core as ddpm
from ddpm_core.training import mix

ROOT = Path(__file__).resolve().parents[1]
RESULTS = sorted((ROOT / "data" / "results").glob("*.json"))
WEIGHTS = {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in (ROOT / "data" / "checkpoints").rglob("weights.safetensors")}


def test_there_are_results() -> None:
    assert len(RESULTS) >= 3


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_says_how_it_was_made(path: Path) -> None:
    result = json.loads(path.read_text())
    words = shlex.split(result["command"])
    assert words[0] == "python" and (ROOT / words[1]).is_file(), "the command names a script of the repository"
    assert result["weights_sha256"] in WEIGHTS, f"measured with weights that are no longer here; run: {result['command']}"
    assert isinstance(result["seed"], int) and result["versions"]["torch"]
    if "picture_sha256" in result:
        assert hashlib.sha256(path.with_suffix(".png").read_bytes()).hexdigest() == result["picture_sha256"]


@pytest.mark.parametrize("name", ["quality", "quality-plain"])
def test_some_samples_of_the_quality_table_are_drawn_again(name: str) -> None:
    file = ROOT / "data" / "results" / f"{name}.json"
    result = json.loads(file.read_text())
    how, columns = result["sampling"], result["columns"]
    grid = torch.from_numpy(np.array(Image.open(file.with_suffix(".png")).convert("L")))
    stored = grid.reshape(-1, 28, columns, 28).transpose(1, 2).reshape(-1, 1, 28, 28)
    kept = ddpm.load_checkpoint(WEIGHTS[result["weights_sha256"]].parent)
    chosen = [0, how["n"] - 1]
    x = ddpm.sample(kept.model, kept.schedule, (2, 1, 28, 28), steps=how["steps"], sampler=how["sampler"], variance=how["variance"], guidance=how["guidance"],
                    generator=[torch.Generator().manual_seed(mix(result["seed"], "image", i)) for i in chosen],
                    labels=torch.tensor(chosen) * 10 // how["n"])  # fmt: skip
    # Another batch size and another processor sum in another order; the chain keeps such differences small, not zero.
    away = (ddpm.to_uint8(x).float() - stored[chosen].float()).abs().mean(dim=(1, 2, 3))
    assert (away < 2).all(), f"mean difference {away.tolist()} grey levels of 255"
    other = (ddpm.to_uint8(x).float() - stored[[1, how["n"] - 2]].float()).abs().mean(dim=(1, 2, 3))
    assert (other > 4).all(), "the comparison would not notice another image"
