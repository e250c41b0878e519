"""What a GPU has to show, part by part: bash bench/gpu.sh calls this once for each.

    python -m bench.gpu paths [--quick] [--device cuda] [--out bench/gpu]

paths     sampling, training and the bound answer on the device as on the processor
waits     no step of sampling or training makes the host wait; what takes the time
memory    the peak of a step, beside diffusers
speed     a step beside diffusers: as it comes, with our dtype and layout, both compiled
training  a small network on Fashion-MNIST until its loss is 0.045

Each prints a table and leaves OUT/<device>/<part>.json, which is not made again. On the
meta device `waits` runs alone: shapes and operations without numbers. Nothing here has been
measured on a GPU yet.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ddpm_core as ddpm
from bench import peers
from bench.measure import interleave, machine, quartiles, ratios
from bench.run import AS_IT_COMES, FULL, QUICK, Bench
from ddpm_core import training
from ddpm_core.runtime.hardware import choose_device, choose_training, describe

ROOT = Path(__file__).resolve().parents[1]
Row = list[Any]  # words and numbers of a line of the table
LOSS = 0.045  # of Eq. (14), the mean of 200 steps; the book's own network reaches 0.036


class Told(argparse.Namespace):
    device: torch.device
    quick: bool
    rounds: int

    @property
    def config(self) -> dict[str, Any]:
        """The paper's network for CIFAR-10; or a toy."""
        return (QUICK if self.quick else FULL)["network"]

    @property
    def small(self) -> dict[str, Any]:
        return (QUICK if self.quick else FULL)["small"]


def generator(seed: int = 0) -> torch.Generator:
    """On the processor: the same noise on every device."""
    return torch.Generator().manual_seed(seed)


def network(config: dict[str, Any], device: torch.device | str = "cpu") -> ddpm.UNet:
    """With weights that answer: those of a fresh network are almost zero at the end."""
    torch.manual_seed(0)
    unet = ddpm.UNet(**config)
    for name, parameter in unet.named_parameters():
        if "conv_2" in name or "conv_out" in name or ".out." in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return unet.to(device)


# The parts ----------------------------------------------------------------------------


def paths(o: Told) -> Iterator[Row]:
    """Device against processor; the difference, and the most that it may be."""
    yield ["what", "difference", "at most", ""]
    schedule = ddpm.linear_schedule(20, beta_1=0.005, beta_T=0.5)
    config = o.small | dict(dropout=0.0)
    channels, side = config["channels"], config["image_size"]
    shape = (4, channels, side, side)
    images = torch.randint(0, 256, shape, generator=generator(1), dtype=torch.uint8)
    x0 = ddpm.to_model_range(images)

    def compared(
        name: str, here: torch.Tensor, there: torch.Tensor, most: float
    ) -> Row:
        away = float((here.float().cpu() - there.float().cpu()).abs().max())
        return [name, away, most, "ok" if away <= most else "FAILS"]

    def drawn(device: Any, **how: Any) -> torch.Tensor:
        return ddpm.sample(
            network(config, device), schedule, shape, generator=generator(), **how
        )

    half = "bfloat16" if describe(o.device).capability != (7, 5) else "float16"
    exact = drawn("cpu", precision="float32")
    for name, how, most in (
        ("samples in float32", dict(precision="float32"), 2e-3),
        (f"samples in {half}", dict(precision=half), 0.25),
        ("samples by DDIM", dict(precision="float32", sampler="ddim"), None),
        ("samples, compiled", dict(precision="float32", compile=True), 2e-3),
    ):
        if how.get("compile") and o.device.type == "cpu":
            continue  # minutes of a C++ compiler, and no path of a GPU
        other = exact if most else drawn("cpu", **how)
        yield compared(name, drawn(o.device, **how), other, most or 2e-3)

    def bits(device: Any) -> torch.Tensor:
        model = network(config, device).eval()
        return ddpm.bits_per_dim(
            model, schedule, x0.to(device), generator=generator()
        ).total

    yield compared("bits per dimension", bits(o.device), bits("cpu"), 2e-3)

    def losses(device: str, **how: Any) -> torch.Tensor:
        """Three steps with the same numbers: noise is drawn where the images are."""
        model = network(config, device)
        state = training.start(model, torch.device(device), "float32", 1e-3)
        x, found = x0.to(device), []
        for i in range(3):
            t = torch.randint(1, 21, (4,), generator=generator(i)).to(device)
            eps = torch.randn(shape, generator=generator(i)).to(device)
            loss = ddpm.simple_loss(state.model, schedule, x, t, eps)
            loss.backward()
            state.optimizer.step()
            state.optimizer.zero_grad()
            found.append(loss.detach())
        return torch.stack(found)

    yield compared(
        "three steps of training", losses(str(o.device)), losses("cpu"), 2e-3
    )
    for precision in ("bfloat16", "float16"):
        if precision == "float16" and o.device.type == "cpu":
            continue
        model = ddpm.train(
            network(config),
            schedule,
            images,
            steps=3,
            batch_size=4,
            device=o.device,
            precision=precision,
            progress=False,
        )
        away = 0.0 if all(p.isfinite().all() for p in model.parameters()) else 1.0
        yield [
            f"training in {precision} stays finite",
            away,
            0,
            "ok" if not away else "FAILS",
        ]


def waits(o: Told) -> Iterator[Row]:
    """Steps under torch's own watch for waiting; then where their time goes."""
    schedule, device = ddpm.linear_schedule(), o.device
    meta = device.type == "meta"
    config, batch = o.config, 2 if o.quick else 64
    shape = (batch, config["channels"], config["image_size"], config["image_size"])
    runs: dict[str, Callable[[], Any]] = {}
    images = torch.zeros(shape, dtype=torch.uint8, device=device)
    how = choose_training(describe(device), steps=10)
    with torch.device(device):
        unet = ddpm.UNet(**config)
    state = training.start(
        unet, device, how.precision, 1e-3, how.channels_last, how.fused and not meta
    )
    runs["training"] = partial(
        next,
        training.training_steps(
            state,
            schedule,
            itertools.repeat((images, None)),
            steps=10**6,
            precision="float32" if meta else how.precision,
        ),
    )
    if not meta:  # a sampler looks at its numbers before it begins
        runs["sampling"] = partial(
            next, ddpm.sample_steps(network(config, device), schedule, shape)
        )
    yield ["what", "steps", "waits", "ms", "kernels", "the three longest"]
    for name, step in runs.items():
        step()
        step()
        found = "none" if device.type == "cuda" else "watched on CUDA only"
        began = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                step()
        except RuntimeError as error:
            found = str(error).splitlines()[0][:60]
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
                torch.cuda.synchronize()
        ms = (time.perf_counter() - began) / 5 * 1e3
        # on the meta device nothing is computed that could take time
        yield (
            [name, 5, found] if meta else [name, 5, found, ms, *profiled(step, device)]
        )


def profiled(step: Callable[[], Any], device: torch.device) -> Row:
    """The number of kernels of a step, and the three that take longest."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profile:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(profile.key_averages(), key=lambda e: -getattr(e, key))
    whole = sum(getattr(event, key) for event in events) or 1
    longest = "; ".join(
        f"{event.key[:28]} {100 * getattr(event, key) / whole:.0f}%"
        for event in events[:3]
    )
    return [sum(event.count for event in events if getattr(event, key)), longest]


def memory(o: Told) -> Iterator[Row]:
    """Peaks of a process that takes two steps, as `make bench` takes them."""
    bench = Bench(o.quick, o.rounds, o.device)
    bench.observe()
    yield ["what", "batch", "ours, MiB", "diffusers, times ours", "equal, times ours"]
    for what, batch in (("sampling", 64), ("training", 128)):
        batch = 2 if o.quick else batch
        ours, *others = (
            bench.elsewhere(what, name, batch)
            for name in ("ours", "diffusers", "equal")
            if name != "equal" or bench.differs(what)
        )
        # 0: a toy in a process that already had the room
        times = [other / ours if ours else float("nan") for other in others]
        yield [what, batch, ours / 2**20, *times]


def speed(o: Told) -> Iterator[Row]:
    """Seconds a step, cases in turn, beside diffusers; the last two compiled."""
    bench = Bench(o.quick, o.rounds, o.device)
    bench.observe()
    yield ["what", "batch", "ours, ms", "as it comes", "equal", "compiled, ms", "equal"]
    for what, batch in (("sampling", 1), ("sampling", 64), ("training", 128)):
        batch = min(batch, 2) if o.quick else batch
        cases = bench.cases("ours diffusers equal", what, o.config, batch)
        if o.device.type == "cuda" or o.quick:
            with torch.no_grad() if what == "sampling" else torch.enable_grad():
                cases |= compiled(bench, what, o.config, batch)
        found = interleave(cases, o.rounds, warm_up=1 if o.quick else 3)
        times = {
            name: quartiles(ratios(seconds, found["ours"]))[1]
            for name, seconds in found.items()
        }
        row = [what, batch, quartiles(found["ours"])[1] * 1e3, times["diffusers"]]
        row.append(times.get("equal", times["diffusers"]))
        if "compiled" in found:
            row.append(quartiles(found["compiled"])[1] * 1e3)
            row.append(quartiles(ratios(found["their compiled"], found["compiled"]))[1])
        yield row


def compiled(
    bench: Bench, what: str, config: dict[str, Any], batch: int
) -> dict[str, Callable[[], Any]]:
    """Ours and diffusers with our dtype and layout, both by torch.compile. In quick runs
    by a backend that compiles nothing, so that the road is gone and no time is lost."""
    build = partial(torch.compile, backend="eager") if bench.quick else torch.compile
    layout = bench.layout[what] if bench.differs(what) else AS_IT_COMES
    unet = build(bench.unet(config, layout))
    images = bench.images(config, batch)
    model = bench.model(config)
    if what == "sampling":
        theirs = peers.diffusers_sampling(unet, tuple(images.shape))
        if bench.quick:
            return {
                "compiled": bench.ours(what, config, batch),
                "their compiled": partial(next, theirs),
            }
        ours = ddpm.sample_steps(
            model, bench.schedule, tuple(images.shape), compile=True
        )
        return {
            "compiled": partial(next, ours),
            "their compiled": partial(next, theirs),
        }
    how = choose_training(describe(bench.device), steps=10)
    state = training.start(
        model, bench.device, how.precision, 2e-4, how.channels_last, how.fused
    )
    run = training.training_steps(
        state,
        bench.schedule,
        itertools.repeat((images, None)),
        steps=10**9,
        precision=how.precision,
        compile=not bench.quick,
    )
    theirs = peers.diffusers_training(unet, images)
    return {"compiled": partial(next, run), "their compiled": partial(next, theirs)}


def train_to(o: Told) -> Iterator[Row]:
    """Fashion-MNIST until the mean loss of 200 steps is LOSS, or four minutes are over."""
    yield ["loss wanted", "loss", "steps", "seconds", "images/s", ""]
    images, _ = ddpm.load_images("fashion-mnist")
    config, wanted, window = dict(o.small), LOSS, 200
    if o.quick:
        config |= dict(image_size=28, channels=1, multipliers=(1,))
        wanted, window, images = 1.2, 10, images[:64]
    batch, limit = (4 if o.quick else 128), (20 if o.quick else 240)
    how = choose_training(describe(o.device), steps=10)
    torch.manual_seed(0)
    state = training.start(
        ddpm.UNet(**config), o.device, how.precision, 1e-3, how.channels_last, how.fused
    )
    batches = training.shuffled(images.to(o.device), None, batch, 0)
    began, kept = time.monotonic(), torch.zeros(window, device=o.device)
    for state in training.training_steps(
        state,
        ddpm.linear_schedule(),
        batches,
        steps=10**6,
        batch_size=batch,
        lr=1e-3,
        warmup=100,
        ema=0.999,
        flip=False,
        precision=how.precision,
    ):
        kept[state.step % window] = state.loss.detach()
        if state.step % window == 0:  # once in `window` steps the host looks
            loss, seconds = float(kept.mean()), time.monotonic() - began
            if loss <= wanted or seconds > limit:
                break
    rate = state.step * batch / seconds
    yield [wanted, loss, state.step, seconds, rate, "ok" if loss <= wanted else "FAILS"]


PARTS = dict(paths=paths, waits=waits, memory=memory, speed=speed, training=train_to)


def show(rows: list[Row]) -> str:
    """A table in Markdown."""

    def word(cell: Any) -> str:
        return f"{cell:.3g}" if isinstance(cell, float) else str(cell)

    head, *lines = ([word(cell) for cell in row] for row in rows)
    lines = [line + ["-"] * (len(head) - len(line)) for line in lines]
    return "\n".join(
        "| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines]
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="toy sizes, two rounds")
    parser.add_argument("--device", default="auto", help="cuda, cpu, meta (waits only)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "gpu")
    o = parser.parse_args(arguments, namespace=Told())
    if o.device == "meta":
        if o.part != "waits":
            print(f"{o.part}: not on the meta device, which holds no numbers")
            return 0
        o.device, o.quick = torch.device("meta"), True
    else:
        o.device = choose_device(o.device)
    if o.quick:
        o.rounds = 2
    about = machine()
    name = about["slug"] if o.device.type == "cuda" else o.device.type
    file = o.out / (name + ("-quick" if o.quick else "")) / f"{o.part}.json"
    if file.exists():
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        print(f"{o.part}: done before, {file}")
    else:
        began = time.monotonic()
        rows = list(PARTS[o.part](o))
        said = dict(machine=about, device=str(o.device), quick=o.quick, rows=rows)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial_file = file.with_name(f".{file.name}.partial")
        partial_file.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
        partial_file.replace(file)
        print(f"{o.part}, {about['gpu'] or o.device}, {time.monotonic() - began:.0f} s")
    print(show(rows) + "\n", flush=True)
    return int(any("FAILS" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
