"""Two processes under torchrun do what one does: the same batches, gradients, weights, samples; and only one of them writes."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch
from laboratory import SHORT
from safetensors.torch import load_file
from test_training import ENVIRONMENT
from torch.testing import assert_close

from ddpm_core import load_checkpoint, save_checkpoint
from ddpm_core.cli import main
from ddpm_core.training import read_log

TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[Path, dict, dict, dict]:
    """ranks.py on its own, and as rank 0 and 1 of 2."""
    out = tmp_path_factory.mktemp("ranks")
    ranks.write_numbers(out)
    ranks.train(ranks.network(0), out / "run_of_3", steps=3)
    save_checkpoint(out / "trained", ranks.network(7), SHORT)
    done = subprocess.run(
        [*TORCHRUN, ranks.__file__, str(out)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (out / "run").rename(out / "run_of_two")
    ranks.main(out)
    return out, *(
        load_file(out / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1")
    )


def under(prefix: str, found: dict) -> list[str]:
    names = [name for name in found if name.startswith(prefix + ".")]
    assert names
    return names


def test_the_parts_of_a_batch_are_those_of_one_process(results):
    _, one, first, second = results
    for kind in ("x0", "t", "eps", "y"):
        assert len(under(kind, one)) == 4
        for name in under(kind, one):
            assert torch.equal(torch.cat([first[name], second[name]]), one[name]), name
            assert len(first[name]) == len(second[name]) == 4
    for i in range(4):  # other images and other noise on each rank
        assert not torch.equal(first[f"x0.{i}"], second[f"x0.{i}"]) and not torch.equal(
            first[f"eps.{i}"], second[f"eps.{i}"]
        )
    y = torch.cat([one[name] for name in under("y", one)])
    assert (y == 3).any() and (y < 3).any()  # some labels were dropped


def test_gradients_weights_and_average_are_those_of_one_process(results):
    """The sums are taken in another order, and Adam divides by the gradient's own size: a few units in the last place of float32."""
    _, one, first, second = results
    for kind in ("grad", "weight", "ema"):
        for name in under(kind, one):
            assert torch.equal(first[name], second[name]), name
            assert_close(first[name], one[name], rtol=2e-4, atol=2e-6)
    norm = torch.cat([one[name].flatten() for name in under("grad", one)]).norm()
    assert_close(
        norm.item(), 1.0, rtol=1e-4, atol=0
    )  # the gradient was clipped, as a whole


def test_the_log_has_the_loss_of_the_whole_batch(results):
    out, *_ = results
    alone, together = (
        read_log(out / name / "log.jsonl") for name in ("run", "run_of_two")
    )
    assert len(alone) == 4 and [line["step"] for line in together] == [1, 2, 3, 4]
    assert_close(
        [line["loss"] for line in together],
        [line["loss"] for line in alone],
        rtol=1e-5,
        atol=1e-6,
    )


def test_only_rank_0_writes(results):
    out, *_ = results
    wrote = [(out / f"2-{rank}.txt").read_text() for rank in (0, 1)]
    assert wrote[1] == "" and all(
        name in wrote[0] for name in ("log.jsonl", "step-00000004", "2.png")
    )
    assert sorted(p.name for p in (out / "run_of_two").iterdir()) == [
        "log.jsonl",
        "step-00000004",
    ]


def test_dropout_differs_between_the_ranks_and_is_that_of_one_process_on_the_first(
    results,
):
    _, one, first, second = results
    assert (
        torch.equal(one["dropout"], first["dropout"])
        and not (first["dropout"] == second["dropout"]).any()
    )


def test_a_folder_is_streamed_in_the_same_order_by_one_and_by_two(results):
    _, one, first, second = results
    for name in under("folder", one):
        assert torch.equal(torch.cat([first[name], second[name]]), one[name])
    numbers = torch.cat([one[f"folder.{i}"] for i in range(7)]).view(
        2, 14
    )  # two passes
    assert (numbers.sort(1).values == torch.arange(14)).all() and not torch.equal(
        numbers[0], numbers[1]
    )


def test_rows_are_split_between_the_ranks_and_every_pass_has_each_once(results):
    _, one, first, second = results
    alone = torch.cat([one[f"rows.{i}"] for i in range(7)]).view(2, 14)
    assert (alone.sort(1).values == torch.arange(14)).all() and not torch.equal(
        alone[0], alone[1]
    )
    assert alone[0].tolist() != sorted(alone[0].tolist())
    parts = [
        torch.cat([found[f"rows.{i}"] for i in range(7)]).view(2, 7)
        for found in (first, second)
    ]
    assert (torch.cat(parts, 1).sort(1).values == torch.arange(14)).all()


def test_shard_and_gather(results):
    _, one, first, second = results
    assert (
        one["mine"].tolist() == [0, 1, 2, 3, 4]
        and first["mine"].tolist() == [0, 1]
        and second["mine"].tolist() == [2, 3, 4]
    )
    for found in (one, first, second):
        assert found["all"].tolist() == [0, 1, 2, 3, 4] and found["few"].shape == (
            1,
            2,
        )  # two ranks for one row


def test_samples_and_bits_per_dim_are_those_of_one_process(results):
    out, one, first, second = results
    assert (out / "1.png").read_bytes() == (out / "2.png").read_bytes()
    for name in ("total", "terms"):
        assert torch.equal(first[name], one[name]) and torch.equal(
            second[name], one[name]
        )
    assert one["total"].shape == (20,) and one["total"].unique().numel() == 20


def test_what_several_processes_cannot_do_is_said_by_each_of_them(results):
    out, *_ = results
    for rank in (0, 1):
        said = (out / f"errors{rank}.txt").read_text().splitlines()
        for line, phrase in zip(
            said,
            [
                "batch_size = 7 cannot be split over 2 processes; wanted a multiple of 2",
                "batch_size = 7; wanted a whole number, at least 1 and a multiple of 2 processes",
                "batches of [2, 3] images; wanted the same number every time and on all ranks: DataLoader(..., drop_last=True)",
                'device = \'mps\' for 2 processes; wanted "auto", "cpu", or "cuda": one device for each',
                "the processes found different checkpoints",
            ],
            strict=True,
        ):
            assert phrase in line


def test_ctrl_c_under_torchrun_leaves_one_checkpoint_and_one_process_goes_on(
    results, tmp_path
):
    folder = results[0] / "numbers"
    command = [
        "train",
        "--data",
        f"folder:{folder}",
        "--stream",
        "--size",
        "8",
        "--out",
        str(tmp_path / "run"),
        "--multipliers",
        "1",
        "--width",
        "8",
        "--attention",
        "--T",
        "10",
        "--batch-size",
        "4",
        "--device",
        "cpu",
        "--precision",
        "float32",
        "--channels-last",
        "no",
    ]
    process = subprocess.Popen(
        [*TORCHRUN, "-m", "ddpm_core", *command, "--steps", "1000000"],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        shown = ""
        while not re.search(r"[1-9]\d*/1000000", shown) and process.poll() is None:
            shown += process.stderr.read(1)
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=100)
    finally:
        process.kill()
    shown += rest
    assert (
        "training: on 2 x cpu in float32, channels first, fused Adam, not compiled"
        in shown
    )
    assert shown.count("stopped after step") == 1, shown
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name != "log.jsonl"] == [
        f"step-{load_checkpoint(tmp_path / 'run').step:08d}"
    ]
    step = load_checkpoint(tmp_path / "run", training=True).step
    assert (
        step >= 1 and load_checkpoint(tmp_path / "run").info["training"]["ranks"] == 2
    )
    assert main([*command, "--steps", str(step + 2), "--resume"]) == 0
    assert load_checkpoint(tmp_path / "run").step == step + 2
