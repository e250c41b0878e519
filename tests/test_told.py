"""What chapters say in words of numbers that are stored: who has them measured anew is told which sentence is no longer true."""

import json

import numpy as np
import pytest

from book._tools.notebooks import ROOT


def stored(name: str) -> dict:
    return json.loads((ROOT / "data" / "results" / f"{name}.json").read_text())


def test_where_the_bits_go():
    """18: test and training images differ by less than a standard error; the share of L_0; a ratio below 1."""
    bound = stored("bound")
    total = {split: np.array(bound[split]["total"]) for split in ("test", "train")}
    error = total["test"].std(ddof=1) / len(total["test"]) ** 0.5
    assert abs(total["test"].mean() - total["train"].mean()) < error
    share = np.mean(bound["test"]["L_0"]) / total["test"].mean()
    assert share == pytest.approx(0.44, abs=0.02)


def test_what_the_codec_sends():
    """19: all come back; shorter than PNG and WebP; longer than the bound of the same pictures."""
    codec, bound = stored("codec"), stored("bound")["test"]
    assert codec["exact"] == codec["images"] == len(codec["messages"])
    assert sum(codec["files"]) < codec["webp"] < codec["png"]
    promised = dict(zip(bound["index"], np.array(bound["total"]) * 784 / 8))
    sent = dict(zip(codec["index"], codec["messages"]))
    both = sent.keys() & promised.keys()
    assert len(both) == len(promised)
    assert sum(sent[i] for i in both) > sum(promised[i] for i in both)


def test_how_few_steps_are_enough():
    """21: which sampler is ahead at 5, 10, 50 and 100 steps, by more than real images differ among themselves, and that 50 steps rank none."""
    result = stored("steps")
    at = {(row["row"], row["steps"]): row["frechet"] for row in result["rows"]}
    real = [one["frechet"] for one in result["floor"]]
    spread = max(real) - min(real)
    others = ("beta", "beta_tilde", "ddim")
    for n in (5, 10):
        assert at["dpm", n] + spread < min(at[name, n] for name in others)
    assert at["dpm", 5] < at["beta", 50]
    assert all(at["dpm", n] >= at["dpm", 10] for n in (20, 50, 100))
    fifty = [at[name, 50] for name in ("beta_tilde", "ddim", "dpm")]
    assert max(fifty) < min(fifty) + spread
    best = min(at[name, 100] for name in ("beta", "ddim", "dpm"))
    assert at["beta_tilde", 100] + spread < best


def test_how_far_a_control_reaches():
    """35: what the control adds in names and in overlap; most of the misfit is the ground."""
    control = stored("words/control")
    free, held = control["strength 0"], control["strength 1"]
    assert held["n"] == 256 and held["top1"] > 3 * free["top1"]
    assert held["top5"] == pytest.approx(2 * free["top5"], rel=0.1)
    rim = "iou, the ground by the rim"
    assert all(row[rim] > row["iou"] for key, row in control.items() if key != "about")
    assert 0.85 < held[rim] < 0.9 < control["strength 1.5"][rim]
