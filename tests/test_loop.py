"""A descent on any loss: several networks, no t, resumed to the bit, errors that cost no more than Ctrl-C."""

import math
import subprocess
import sys
import warnings

import pytest
import ranks_loop
import torch
from laboratory import generator
from safetensors.torch import load_file, save_file
from test_training import ENVIRONMENT
from torch import Tensor, nn
from torch.testing import assert_close

from ddpm_core.runtime.files import steps_in
from ddpm_core.runtime.log import Log, read_log
from ddpm_core.runtime.loop import Descent, descend, descent, split, start
from ddpm_core.runtime.store import load_network, register

PLAIN = dict(device="cpu", precision="float32", progress=False, warmup=0)


@register
class Pair(nn.Module):
    """Two encoders whose answers are to meet, as in CLIP: two networks, one loss."""

    def __init__(self, width: int = 4, dropout: float = 0.0):
        super().__init__()
        self.config = dict(width=width, dropout=dropout)
        self.image = nn.Sequential(nn.Linear(6, width), nn.Dropout(dropout))
        self.text = nn.Linear(3, width)


IMAGES = torch.randn(40, 6, generator=generator(1))
DATA = (IMAGES, IMAGES[:, :3] + 0.1 * IMAGES[:, 3:])  # what the texts say of them


def pair(dropout: float = 0.0) -> Pair:
    torch.manual_seed(0)
    return Pair(4, dropout)


def contrast(network: Pair, batch: tuple[Tensor, Tensor]) -> Tensor:
    image, text = batch
    return nn.functional.cross_entropy(
        network.image(image) @ network.text(text).T, torch.arange(len(image))
    )


def distance(network: Pair, batch: tuple[Tensor, Tensor]) -> Tensor:
    image, text = batch
    return (network.image(image) - network.text(text)).square().mean(1)


def batch_of(step: int) -> tuple[Tensor, Tensor]:
    chosen = torch.arange(8 * step, 8 * step + 8) % 40
    return DATA[0][chosen], DATA[1][chosen]


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(p, q)
        for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_two_encoders_learn_to_tell_pairs_apart_and_come_back_from_the_folder(tmp_path):
    network = pair()
    average = descend(
        network, contrast, batch_of, steps=60, lr=0.05, ema=0.5, out=tmp_path, **PLAIN
    )
    first = math.log(8)  # of eight pairs that look alike
    assert contrast(average, batch_of(0)) < 0.6 * first
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [50]
    kept = load_network(tmp_path)
    assert equal(kept.network, average) and kept.step == 60
    assert isinstance(kept.network, Pair) and not kept.network.training


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_resumed_descent_is_the_descent(tmp_path, weight_decay):
    args = dict(
        lr=1e-2, ema=0.9, decay=4, log_every=4, weight_decay=weight_decay, **PLAIN
    )
    whole = descend(
        pair(0.5), contrast, batch_of, steps=9, out=tmp_path / "whole", **args
    )
    stopped = pair(0.5)
    calls = []

    def interrupted(step):
        if step == 5 and not calls:
            calls.append(step)
            raise KeyError("the disk of the data is gone")
        return batch_of(step)

    with pytest.raises(KeyError):
        descend(stopped, contrast, interrupted, steps=9, out=tmp_path / "parts", **args)
    assert load_network(tmp_path / "parts").step == 5
    other = pair(0.5)
    nn.init.normal_(other.text.weight)
    torch.manual_seed(7)  # nor does it matter what else the process draws
    parts = descend(
        other,
        contrast,
        interrupted,
        steps=9,
        out=tmp_path / "parts",
        resume=True,
        **args,
    )
    assert equal(whole, parts)


# --- an error costs no more than Ctrl-C ------------------------------------------------


class Halved(nn.Module):
    """With a buffer that changes in forward, as a norm's running mean does."""

    def __init__(self):
        super().__init__()
        self.image, self.text = nn.BatchNorm1d(6), nn.Linear(3, 6)


def failing(at: int, error: Exception, kind: str):
    """Batches, or a loss, that fail in step number `at` (from 0)."""
    seen = []

    def batches(step):
        seen.append(step)
        if kind == "batches" and step == at:
            raise error
        return batch_of(step)

    def loss(network, batch):
        value = distance(network, batch)
        if kind == "loss" and seen[-1] == at:
            raise error
        return value

    return batches, loss


@pytest.mark.parametrize("make", [pair, Halved])
@pytest.mark.parametrize("kind", ["batches", "loss"])
def test_what_fails_outside_the_step_costs_no_more_than_ctrl_c(tmp_path, make, kind):
    """The whole state of the step before is saved; from it the run is the run."""
    args = dict(steps=9, lr=1e-2, ema=0.9, log_every=2, save_every=100, **PLAIN)
    torch.manual_seed(0)
    whole = descend(make(), distance, batch_of, out=tmp_path / "whole", **args)
    torch.manual_seed(0)
    batches, loss = failing(5, OSError("the data's disk is gone"), kind)
    with pytest.raises(OSError, match="the data's disk is gone") as raised:
        descend(make(), loss, batches, out=tmp_path / "r", **args)
    if make is Halved and kind == "loss":  # its running mean has changed on the way
        assert not (tmp_path / "r" / "step-00000005").exists()
        return
    (note,) = raised.value.__notes__
    assert note.startswith("step 5 is saved; go on with resume=True")
    assert list(steps_in(tmp_path / "r")) == [5]
    parts = descend(make(), distance, batch_of, out=tmp_path / "r", resume=True, **args)
    assert equal(whole, parts)
    lines = [
        [(line["step"], line["loss"]) for line in read_log(folder / "log.jsonl")]
        for folder in (tmp_path / "whole", tmp_path / "r")
    ]
    assert lines[0] == lines[1]


def test_an_error_in_the_first_step_leaves_no_trace(tmp_path):
    batches, loss = failing(0, KeyError("no data"), "batches")
    with pytest.raises(KeyError):
        descend(pair(), loss, batches, steps=3, out=tmp_path / "r", **PLAIN)
    assert not (tmp_path / "r").exists()


def test_what_fails_in_the_middle_of_a_step_is_not_saved(tmp_path, monkeypatch):
    """Half of the parameters are new then, and half are old."""
    taken = []
    right = torch.optim.Adam.step

    def step(self, *args, **kwargs):
        taken.append(1)
        if len(taken) == 4:
            raise RuntimeError("the device is lost")
        return right(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    with pytest.raises(RuntimeError, match="lost"):
        descend(
            pair(), distance, batch_of, steps=9, save_every=2, out=tmp_path, **PLAIN
        )
    assert list(steps_in(tmp_path)) == [2]


def test_a_log_that_cannot_be_written_costs_no_step(tmp_path, monkeypatch):
    args = dict(steps=6, lr=1e-2, log_every=2, save_every=100, **PLAIN)
    whole = descend(pair(), distance, batch_of, out=tmp_path / "whole", **args)
    right = Log._append

    def full(self, file, line):
        if line["step"] == 4:
            raise OSError("No space left on device")
        right(self, file, line)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "_append", full)
        with pytest.raises(OSError, match="log.jsonl could not be written .*No space"):
            descend(pair(), distance, batch_of, out=tmp_path / "r", **args)
    assert list(steps_in(tmp_path / "r")) == [4]
    parts = descend(pair(), distance, batch_of, out=tmp_path / "r", resume=True, **args)
    assert equal(whole, parts)
    # the line that could not be written is part of the next one's mean
    lines = [
        [line["loss"] for line in read_log(tmp_path / name / "log.jsonl")]
        for name in ("whole", "r")
    ]
    assert_close(lines[1], [lines[0][0], (lines[0][1] + lines[0][2]) / 2])


@pytest.mark.parametrize("last", [4, 6], ids=["in the middle", "the last step"])
def test_weights_that_are_no_numbers_do_not_replace_a_good_checkpoint(tmp_path, last):
    """The loss is finite, its gradient is not: sqrt at 0, in the step that is saved."""

    def loss(network, batch):
        value = distance(network, batch)
        return (
            value + (value.detach() - value).sqrt() if seen[-1] == last - 1 else value
        )

    seen = []

    def batches(step):
        seen.append(step)
        return batch_of(step)

    with pytest.raises(ValueError, match=f"weights are no numbers after step {last}"):
        descend(pair(), loss, batches, steps=6, save_every=2, out=tmp_path, **PLAIN)
    assert list(steps_in(tmp_path)) == [last - 2]
    kept = load_network(tmp_path).network
    assert all(p.isfinite().all() for p in kept.parameters())


def test_batches_that_come_to_an_end(tmp_path):
    """An iterator can be gone through once; what was learned from it is kept."""
    with pytest.raises(ValueError, match="the loader gave no batch"):
        descend(
            pair(),
            distance,
            iter([batch_of(0), batch_of(1)]),
            steps=5,
            out=tmp_path,
            **PLAIN,
        )
    assert list(steps_in(tmp_path)) == [2]


# --- gradient accumulation -------------------------------------------------------------


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulated_gradients_are_those_of_the_whole_batch(parts):
    """Also where the parts are not of one size; clipped as a whole; float64."""
    states = []
    for accumulate in (1, parts):
        how = Descent(steps=1, lr=1e-2, accumulate=accumulate, warmup=0, clip=0.1)
        state = start(pair().double(), torch.device("cpu"), "float32", 1e-2)
        batches = iter([tuple(x.double() for x in batch_of(0))])
        states.append(next(descent(state, distance, batches, how)))
    whole, sum_of_parts = states
    assert_close(sum_of_parts.loss, whole.loss, rtol=1e-12, atol=0)
    for p, q in zip(whole.model.parameters(), sum_of_parts.model.parameters()):
        assert_close(q.grad, p.grad, rtol=1e-12, atol=1e-15)
    norm = torch.cat([p.grad.flatten() for p in whole.model.parameters()]).norm()
    assert_close(norm.item(), 0.1, rtol=1e-5, atol=0)


def test_what_draw_draws_is_the_same_for_the_whole_and_for_its_parts():
    seen = {1: [], 4: []}
    for accumulate, drawn in seen.items():
        state = start(pair(), torch.device("cpu"), "float32", 1e-2)
        how = Descent(steps=1, accumulate=accumulate)
        draw = lambda batch: (batch[0] + torch.randn(8, 6), batch[1])

        def loss(network, batch, drawn=drawn):
            drawn.append(batch[0])
            return distance(network, batch)

        next(descent(state, loss, iter([batch_of(0)]), how, draw=draw))
    assert [len(x) for x in seen[4]] == [2] * 4
    assert torch.equal(torch.cat(seen[4]), seen[1][0])
    assert not torch.equal(seen[1][0], batch_of(0)[0])


def test_more_parts_than_entries():
    with pytest.raises(ValueError, match="accumulate = 9 parts of a batch of 8; want"):
        descend(pair(), distance, batch_of, steps=1, accumulate=9, **PLAIN)


def test_a_batch_may_be_a_dict_and_hold_other_things():
    batch = {"image": DATA[0], "of": ["texts", None, {"text": DATA[1]}], "n": 40}
    parts = split(batch, 3)
    assert [len(part["image"]) for part, _ in parts] == [13, 13, 14]
    assert math.isclose(sum(share for _, share in parts), 1)
    assert parts[2][0]["of"][:2] == ["texts", None] and parts[0][0]["n"] == 40
    assert torch.equal(torch.cat([p["of"][2]["text"] for p, _ in parts]), DATA[1])


# --- what is frozen, what is around a network ------------------------------------------


def test_a_frozen_part_is_resumed(tmp_path):
    args = dict(lr=1e-2, ema=0.9, **PLAIN)
    frozen = lambda: pair().requires_grad_(False)

    def network():
        network = pair()
        network.text.requires_grad_(False)
        return network

    whole = descend(
        network(), distance, batch_of, steps=6, out=tmp_path / "whole", **args
    )
    descend(network(), distance, batch_of, steps=3, out=tmp_path / "r", **args)
    parts = descend(
        network(), distance, batch_of, steps=6, out=tmp_path / "r", resume=True, **args
    )
    assert equal(whole, parts) and equal(parts.text, pair().text)
    assert not equal(parts.image, pair().image)
    thawed = descend(
        pair(), distance, batch_of, steps=8, out=tmp_path / "r", resume=True, **args
    )
    assert not equal(thawed.text, pair().text)
    with pytest.raises(ValueError, match="all parameters of the model are frozen"):
        descend(frozen(), distance, batch_of, steps=1, **PLAIN)


def test_moments_that_are_missing_are_noticed(tmp_path):
    descend(pair(), distance, batch_of, steps=2, out=tmp_path, **PLAIN)
    file = tmp_path / "step-00000002" / "training.safetensors"
    tensors = load_file(file)
    for gone in ("adam.exp_avg.text.weight", "adam."):
        save_file({k: v for k, v in tensors.items() if not k.startswith(gone)}, file)
        with pytest.raises(
            ValueError, match="cannot be resumed with this model: 'adam"
        ):
            descend(
                pair(), distance, batch_of, steps=4, out=tmp_path, resume=True, **PLAIN
            )


# --- what a descent is told ------------------------------------------------------------


def test_settings_as_an_object_or_by_keyword():
    how = Descent(steps=3, lr=1e-2, warmup=0, device="cpu", precision="float32")
    a = descend(pair(), distance, batch_of, how, progress=False)
    b = descend(pair(), distance, batch_of, steps=3, lr=1e-2, **PLAIN)
    assert equal(a, b)
    for args, phrase in (
        (dict(how=how, lr=1.0), "lr was given beside Descent"),
        (dict(how=3), "how is a int; wanted Descent"),
        (dict(stps=3), "stps is no argument; wanted some of accumulate, channels"),
        (dict(), "steps"),
    ):
        with pytest.raises(TypeError, match=phrase):
            descend(pair(), distance, batch_of, progress=False, **args)


def test_a_resumed_run_says_what_is_not_as_before(tmp_path):
    args = dict(out=tmp_path, **PLAIN)
    descend(pair(), distance, batch_of, steps=2, lr=1e-2, seed=1, **args)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        descend(
            pair(), distance, batch_of, steps=4, lr=1e-3, seed=1, resume=True, **args
        )
        twice = lambda step: tuple(torch.cat([x, x]) for x in batch_of(step))
        descend(pair(), distance, twice, steps=5, lr=1e-3, seed=1, resume=True, **args)
    assert [str(w.message).partition(";")[0] for w in said] == [
        "the run goes on with lr = 0.001",
        "the run goes on with batch_size = 16",
    ]
    assert load_network(tmp_path).info["training"]["batch_size"] == 16


def test_what_an_earlier_part_noted_stays(tmp_path):
    args = dict(out=tmp_path, **PLAIN)
    info = {"data": "a", "init": {"of": "b"}}
    descend(pair(), distance, batch_of, steps=1, info=info, **args)
    descend(
        pair(), distance, batch_of, steps=2, info={"data": "c"}, resume=True, **args
    )
    kept = load_network(tmp_path).info
    assert (kept["data"], kept["init"]) == ("c", {"of": "b"})


def test_pictures_on_the_way(tmp_path):
    from PIL import Image

    looks = []

    def look(average):
        looks.append(average.text.weight[0, 0].item())
        return torch.full((4, 6, 3), len(looks), dtype=torch.uint8)

    args = dict(steps=5, sample_every=2, look=look, lr=1e-2, ema=0.5, **PLAIN)
    a = descend(
        pair(), distance, batch_of, out=tmp_path, tensorboard=tmp_path / "b", **args
    )
    found = sorted((tmp_path / "samples").iterdir())
    assert [p.name for p in found] == ["step-00000002.png", "step-00000004.png"]
    assert [Image.open(p).getpixel((5, 3)) for p in found] == [(1, 1, 1), (2, 2, 2)]
    assert len(set(looks)) == 2
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(tmp_path / "b")).Reload().Images("samples")
    assert [image.step for image in shown] == [2, 4]
    assert equal(a, descend(pair(), distance, batch_of, **args | dict(sample_every=0)))
    for args in (dict(look=look), dict(out=tmp_path / "c")):
        with pytest.raises(ValueError, match="sample_every = 1 needs (out|look)="):
            descend(
                pair(), distance, batch_of, steps=1, sample_every=1, **args, **PLAIN
            )


# --- several processes -----------------------------------------------------------------


def test_two_processes_descend_as_one_and_stop_as_one(tmp_path):
    """Any loss, and parts of it; where one rank's data end, rank 0 saves for all."""
    ranks_loop.main(tmp_path)
    launch = "-m torch.distributed.run --standalone --nproc-per-node 2".split()
    done = subprocess.run(
        [sys.executable, *launch, ranks_loop.__file__, str(tmp_path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    for parts in (1, 2):
        alone, first, second = (
            load_file(tmp_path / f"{name}-{parts}.safetensors")
            for name in ("1-0", "2-0", "2-1")
        )
        for name in alone:
            assert torch.equal(first[name], second[name])
            assert_close(first[name], alone[name], rtol=2e-4, atol=2e-6)
    assert done.returncode != 0
    assert "the disk of rank 1 is gone" in done.stderr
    assert "step 3 is saved; go on with resume=True" in done.stderr
    assert list(steps_in(tmp_path / "run")) == [3]
