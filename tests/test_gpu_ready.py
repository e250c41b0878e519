"""The path of a GPU, rehearsed without one: fake tensors say that they are on CUDA and hold nothing, and whatever would make the host
wait for the device inside a loop is caught with the line that does it: numbers read back, copies that block, shapes that depend on data.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from laboratory import SHORT, Scale, generator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ddpm_core import (
    UNet,
    bits,
    bits_per_dim,
    bound,
    sample_steps,
    simple_loss,
    training,
)

PLUMBING = ("__torch_dispatch__", "__torch_function__", "note")


class Waits(TorchDispatchMode):
    """Notes every operation after which the host waits for the device, as "file:line  what"."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            if args[0].device.type == "cpu" and type(args[0]) is Tensor:
                return func(*args, **kwargs)
            if args[0].device.type != "cpu":
                self.note("a number is read back")
            return 1  # any number does: a fake tensor holds none
        out = func(*args, **kwargs)
        if (
            func is torch.ops.aten._to_copy.default
            and {args[0].device.type, out.device.type} > {"cpu"}
            and not kwargs.get("non_blocking")
        ):
            self.note(f"a copy from {args[0].device.type} to {out.device.type} blocks")
        if (
            func is torch.ops.aten.copy_.default
            and args[0].device.type != args[1].device.type
            and not (args[2:] + (kwargs.get("non_blocking"),))[0]
        ):
            self.note(
                f"a copy from {args[1].device.type} to {args[0].device.type} blocks"
            )
        return out

    def note(self, what: str) -> None:
        ours = [
            f
            for f in traceback.extract_stack()
            if "ddpm_core" in f.filename
            or f.filename == __file__
            and f.name not in PLUMBING
        ]
        self.found.append(
            f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}  {what}"
        )


class Indexing(TorchFunctionMode):
    """x[i] and x.contiguous() without the driver, for which torch asks before it sees that the tensor is fake."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.__setitem__ and isinstance(args[1], tuple):  # x[:, i] = y
            return torch.ops.aten.copy_(
                torch.ops.aten.select(args[0], 1, args[1][-1]), args[2]
            )
        if func is Tensor.__getitem__ and isinstance(args[1], int):
            return torch.ops.aten.select(args[0], 0, args[1])
        if func is Tensor.__getitem__ and isinstance(args[1], Tensor):
            return torch.ops.aten.index(args[0], [args[1]])
        if func is Tensor.contiguous:
            return torch.ops.aten.clone(args[0], memory_format=torch.contiguous_format)
        return func(*args, **(kwargs or {}))


@contextmanager
def rehearsal() -> Iterator[Waits]:
    waits = Waits()
    with FakeTensorMode(allow_non_fake_inputs=True), Indexing(), waits:
        yield waits


def on(device: str, model: nn.Module) -> nn.Module:
    """Without gradients, which ask for CUDA's driver."""
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(
                    torch.empty(p.shape, device=device), requires_grad=False
                )
    return model


def network(classes: int | None = None) -> nn.Module:
    return on("cuda", UNet(8, 1, 8, (1, 2), 1, (4,), classes=classes, groups=4))


def in_each_step(step: Callable[[], object], waits: Waits, steps: int = 2) -> list[str]:
    """What waits in the second step and in all after it: what comes before is set-up."""
    step()
    waits.found.clear()
    for _ in range(steps):
        step()
    return waits.found


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x.cpu(),
        lambda x: torch.ones(2).to(x.device),
        lambda x: (x > 0).tolist(),
    ],
)
def test_the_rehearsal_notices(bad):
    with rehearsal() as waits:
        bad(torch.ones(2, device="cuda"))
        torch.ones(2, device="meta").copy_(torch.ones(2))
    assert len(set(waits.found)) == 2 and all(
        "test_gpu_ready.py" in line for line in waits.found
    )


def test_the_rehearsal_lets_pass_what_does_not_wait():
    with rehearsal() as waits:
        x = torch.ones(2, device="cuda")
        torch.ones(2).to(x.device, non_blocking=True) + x.half().float()
        assert torch.ones(2).sum().item() and x.to(x.device) is x
        torch._assert_async((x > 0).all())
    assert waits.found == []


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm"])
@pytest.mark.parametrize("guidance", [None, 0.0, 1.0])
def test_no_step_of_sampling_waits(sampler, guidance):
    labels = None if guidance is None else torch.tensor([0, 2])
    with rehearsal() as waits:
        run = sample_steps(
            network(None if labels is None else 3),
            SHORT,
            (2, 1, 8, 8),
            sampler=sampler,
            generator=generator(),
            labels=labels,
            guidance=guidance or 0.0,
        )
        assert in_each_step(lambda: next(run), waits) == []


def test_no_step_of_sampling_waits_with_a_generator_an_image():
    with rehearsal() as waits:
        run = sample_steps(
            network(), SHORT, (2, 1, 8, 8), generator=[generator(1), generator(2)]
        )
        assert in_each_step(lambda: next(run), waits) == []


def test_noise_without_a_generator_is_drawn_where_the_model_is(monkeypatch):
    """On the device, not sent there: a generator of the processor gives the same noise everywhere, and has to be asked for."""
    asked: list[str] = []

    class Recorder(torch.Generator):
        def __new__(cls, device="cpu"):
            asked.append(torch.device(device).type)
            return super().__new__(cls)

    monkeypatch.setattr("ddpm_core.model.Generator", Recorder)
    with rehearsal():
        next(sample_steps(network(), SHORT, (2, 1, 8, 8)))
    next(sample_steps(Scale(), SHORT, (2, 1, 8, 8)))
    assert asked == ["cuda", "cpu"]


@pytest.mark.parametrize("labelled", [False, True])
def test_no_step_of_training_waits(labelled):
    """On the meta device, which holds nothing either: torch's gradients ask for CUDA's driver. Adam as it is written, not fused."""
    device = torch.device("meta")
    state = training.start(
        UNet(8, 1, 8, (1, 2), 1, (4,), classes=3 if labelled else None, groups=4),
        device,
        "float32",
        1e-3,
        fused=False,
    )
    images, labels = (
        torch.zeros(20, 1, 8, 8, dtype=torch.uint8, device=device),
        torch.zeros(20, dtype=torch.int64, device=device),
    )
    run = training.training_steps(
        state,
        SHORT,
        training.shuffled(images, labels if labelled else None, 4, 0),
        steps=9,
    )
    with Waits() as waits:
        assert in_each_step(lambda: next(run), waits) == []
    assert state.step == 3


def test_the_bound_waits_no_more_often_for_more_steps(monkeypatch):
    """It looks at the images before and returns the results after; in between nothing is read."""
    counts = []
    for module in (bits, bound):  # each has its own name for it
        monkeypatch.setattr(module, "grid_level", lambda x: x)
    for T in (3, 6):
        schedule = type(SHORT)(SHORT.beta[1 : T + 1])
        with rehearsal() as waits:
            bits_per_dim(
                lambda x, t: 0.5 * x,
                schedule,
                torch.zeros(2, 1, 4, 4, device="cuda"),
                generator=generator(),
            )
        counts.append(Counter(waits.found))
    assert counts[1] == counts[0], counts[1] - counts[0]


@pytest.mark.parametrize("device", ["meta", "cuda"])
@torch.no_grad()
def test_a_model_meets_its_inputs_on_its_own_device(device):
    """Times, labels and noise may come from the processor; nothing is computed there."""
    with rehearsal():
        model, x = on(device, Scale(classes=3)), torch.zeros(2, 1, 8, 8, device=device)
        for t in (5, torch.tensor([5, 7], device=device)):
            assert (
                simple_loss(model, SHORT, x, t, torch.zeros_like(x)).device.type
                == device
            )
        for _, x_t, _ in sample_steps(
            model,
            SHORT,
            (2, 1, 8, 8),
            generator=generator(),
            labels=torch.tensor([0, 1]),
        ):
            assert x_t.device.type == device
    assert model.devices == {device}
