"""Speed and memory beside other libraries: `make bench`, or .venv/bin/python -m bench.run [--parts networks,bound] [--rounds 5].

Cases are interleaved in one run, because on a machine that does other work, too, only ratios taken together mean anything. Writes
bench/results/<machine>-<date>.json with the seconds of every round; bench.report makes the page book/speed.md of all such files.
"""

import argparse
import datetime
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ddpm_core as ddpm
from bench import improved, peers, project
from bench.measure import interleave, machine, peak_bytes, quartiles
from ddpm_core.hardware import choose_device, choose_training, describe
from ddpm_core.training import start

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
AS_IT_COMES = dict(
    weights="float32", arithmetic="float32", layout="channels first"
)  # what diffusers computes in unless it is told

# "network" is the paper's for CIFAR-10; "small" is of a size that trains on a processor in an hour or two. "once": batches from
# there on are measured in one round.
FULL: dict[str, Any] = dict(
    network=dict(
        image_size=32,
        channels=3,
        width=128,
        multipliers=(1, 2, 2, 2),
        blocks=2,
        attention=(16,),
        dropout=0.1,
        groups=32,
    ),
    small=dict(
        image_size=28,
        channels=1,
        width=32,
        multipliers=(1, 2, 2),
        blocks=1,
        attention=(7,),
        dropout=0.1,
        groups=8,
    ),
    sampling=(1, 16, 64),
    training=(16,),
    other_width=(96, 1),
    once=64,
    job_batch=4,
    job_steps=10,
    ddim_batch=16,
    ddim_steps=50,
    bound=(16, 1000),
    bound_network=(4, 4),
    memory=(
        ("sampling", 16, "ours diffusers equal ddp"),
        ("training", 16, "ours diffusers equal ddp"),
    ),
    lengths=(100, 1000, 4000),
    batches=(1, 4, 16, 64),
    sides=(32, 64, 128),
    widths=(32, 64, 128),
    processes=(1, 2),
    together=(16, 10),
    together_rounds=3,
    imports="torch ours diffusers",
    import_rounds=5,
)
QUICK: dict[str, Any] = dict(
    network=dict(
        image_size=8,
        channels=3,
        width=8,
        multipliers=(1, 2),
        blocks=1,
        attention=(4,),
        dropout=0.1,
        groups=4,
    ),
    small=dict(
        image_size=8,
        channels=1,
        width=8,
        multipliers=(1,),
        blocks=1,
        attention=(),
        dropout=0.1,
        groups=4,
    ),
    sampling=(1, 2),
    training=(2,),
    other_width=(12, 1),
    once=2,
    job_batch=2,
    job_steps=2,
    ddim_batch=2,
    ddim_steps=3,
    bound=(2, 5),
    bound_network=(2, 2),
    memory=(("training", 2, "ours"),),
    lengths=(),
    batches=(2,),
    sides=(8,),
    widths=(8,),
    processes=(1,),
    together=(2, 2),
    together_rounds=1,
    imports="ours",
    import_rounds=1,
)

Step = Callable[[], Any]
Row = dict[
    str, Any
]  # what was measured, "unit", and "values": for each case a list with one value a round


class Bench:
    """One run: the sizes, how often, where; and what ours has been seen to compute in."""

    def __init__(self, quick: bool, rounds: int, device: torch.device):
        self.quick, self.sizes, self.rounds, self.device = (
            quick,
            QUICK if quick else FULL,
            rounds,
            device,
        )
        self.schedule = ddpm.linear_schedule(peers.T)
        self.layout = dict(sampling=AS_IT_COMES, training=AS_IT_COMES)

    # The cases ---------------------------------------------------------------------------------------------------------------------

    def model(self, config: dict[str, Any]) -> ddpm.UNet:
        torch.manual_seed(0)
        return ddpm.UNet(**config).to(self.device)

    def images(self, config: dict[str, Any], batch: int) -> Tensor:
        shape = (batch, config["channels"], config["image_size"], config["image_size"])
        return torch.randint(
            0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        ).to(self.device)

    def ours(
        self, what: str, config: dict[str, Any], batch: int, precision: str = "auto"
    ) -> Step:
        model, images = self.model(config), self.images(config, batch)
        if what == "sampling":
            return partial(
                next,
                ddpm.sample_steps(
                    model, self.schedule, tuple(images.shape), precision=precision
                ),
            )
        how = choose_training(
            describe(self.device), steps=10, precision=precision
        )  # as `train` does
        state = start(
            model, self.device, how.precision, 2e-4, how.channels_last, how.fused
        )
        run = ddpm.training_steps(
            state,
            self.schedule,
            itertools.repeat((images, None)),
            steps=10**9,
            precision=how.precision,
            compile=how.compile,
        )
        return partial(next, run)

    def unet(self, config: dict[str, Any], layout: dict[str, str]) -> nn.Module:
        unet = peers.diffusers_unet(config).to(self.device)
        ours, size = (
            sum(p.numel() for p in network.parameters())
            for network in (self.model(config), unet)
        )
        if ours != size:
            raise RuntimeError(
                f"ours has {ours} parameters and diffusers' has {size}; wanted the same network"
            )
        return peers.given(unet, layout)

    def theirs(
        self,
        what: str,
        config: dict[str, Any],
        batch: int,
        layout: dict[str, str] = AS_IT_COMES,
    ) -> Step:
        unet, images = self.unet(config, layout), self.images(config, batch)
        return partial(
            next,
            peers.diffusers_sampling(unet, tuple(images.shape))
            if what == "sampling"
            else peers.diffusers_training(unet, images),
        )

    def ddp(self, what: str, config: dict[str, Any], batch: int) -> Step | None:
        diffusion, images = peers.ddp_diffusion(config), self.images(config, batch)
        if diffusion is None:
            return None
        diffusion.to(self.device)
        return partial(
            next,
            peers.ddp_sampling(diffusion, tuple(images.shape))
            if what == "sampling"
            else peers.ddp_training(diffusion, images),
        )

    def case(
        self, name: str, what: str, config: dict[str, Any], batch: int
    ) -> Step | None:
        """ "ours"; "diffusers" as it comes; "equal": diffusers with our dtype and layout; "float32": ours with the dtype of diffusers as it
        comes; "ddp": denoising-diffusion-pytorch. Or None."""
        if name == "float32":
            return (
                self.ours(what, config, batch, precision="float32")
                if self.differs(what)
                else None
            )
        if name == "equal":
            return (
                self.theirs(what, config, batch, self.layout[what])
                if self.differs(what)
                else None
            )
        return dict(ours=self.ours, diffusers=self.theirs, ddp=self.ddp)[name](
            what, config, batch
        )

    def cases(
        self, names: str, what: str, config: dict[str, Any], batch: int
    ) -> dict[str, Step]:
        return {
            name: step
            for name in names.split()
            if (step := self.case(name, what, config, batch)) is not None
        }

    def differs(self, what: str) -> bool:
        """Whether ours computes in something else than diffusers does as it comes; if not, "equal" is "diffusers"."""
        return self.layout[what] != AS_IT_COMES

    def observe(self) -> None:
        self.layout = {
            what: peers.layout_of(self.ours(what, self.sizes["network"], 2))
            for what in ("sampling", "training")
        }

    # The parts ---------------------------------------------------------------------------------------------------------------------

    def networks(self) -> Iterator[Row]:
        """One step of sampling, one of training: the paper's network; and one of
        sampling with a width that is no power of two, where weights laid out for another
        shape are slowest."""
        config = self.sizes["network"]
        for what in ("sampling", "training"):
            for batch in self.sizes[what]:
                rounds = 1 if batch >= self.sizes["once"] else self.rounds
                cases = self.cases(
                    "ours diffusers equal float32 ddp", what, config, batch
                )
                yield dict(
                    what=f"{what} step",
                    batch=batch,
                    unit="s",
                    values=interleave(cases, rounds),
                )
        width, batch = self.sizes["other_width"]
        cases = self.cases(
            "ours diffusers equal float32 ddp",
            "sampling",
            config | dict(width=width),
            batch,
        )
        yield dict(
            what=f"sampling step, {width} wide",
            batch=batch,
            unit="s",
            values=interleave(cases, self.rounds),
        )

    def jobs(self) -> Iterator[Row]:
        """What somebody waits for, set-up included: ten steps of training; images by DDIM."""
        config, batch, steps = (
            self.sizes["network"],
            self.sizes["job_batch"],
            self.sizes["job_steps"],
        )
        images = self.images(config, batch).cpu()

        def our_training() -> None:
            ddpm.train(
                self.model(config),
                self.schedule,
                images,
                steps=steps,
                batch_size=batch,
                progress=False,
            )

        def their_training(layout: dict[str, str] = AS_IT_COMES) -> None:
            run = peers.diffusers_training(
                self.unet(config, layout), images.to(self.device)
            )
            for _ in range(steps):
                next(run)

        cases: dict[str, Step] = dict(ours=our_training, diffusers=their_training)
        if self.differs("training"):
            cases["equal"] = partial(their_training, self.layout["training"])
        yield dict(
            what=f"train, {steps} steps",
            batch=batch,
            unit="s",
            values=interleave(cases, self.rounds, warm_up=0),
        )

        batch, steps = self.sizes["ddim_batch"], self.sizes["ddim_steps"]
        for name, rounds in (("small", self.rounds), ("network", 1)):
            config = self.sizes[name]
            shape = (
                batch,
                config["channels"],
                config["image_size"],
                config["image_size"],
            )
            cases = dict(
                ours=partial(
                    ddpm.sample,
                    self.model(config),
                    self.schedule,
                    shape,
                    steps=steps,
                    sampler="ddim",
                ),
                diffusers=peers.ddim_pipeline(
                    self.unet(config, AS_IT_COMES), batch, steps
                ),
            )
            if self.differs("sampling"):
                cases["equal"] = peers.ddim_pipeline(
                    self.unet(config, self.layout["sampling"]), batch, steps
                )
            yield dict(
                what=f"{batch} images, {steps} steps of DDIM, {config['image_size']} px, {config['width']} wide",
                batch=batch,
                unit="s",
                values=interleave(cases, rounds, warm_up=int(rounds > 1)),
            )

    def memory(self) -> Iterator[Row]:
        """The peak of a process that takes two steps, less what it has after its imports (on CUDA: what torch has allocated)."""
        for what, batch, names in self.sizes["memory"]:
            there = dict(
                equal=self.differs(what),
                ddp=peers.denoising_diffusion_pytorch() is not None,
            )
            values = {
                name: [self.elsewhere(what, name, batch)]
                for name in names.split()
                if there.get(name, True)
            }
            yield dict(what=f"{what} step", batch=batch, unit="bytes", values=values)
        for T in self.sizes["lengths"]:
            yield dict(
                what="bits_per_dim",
                T=T,
                unit="bytes",
                values=dict(ours=[self.elsewhere("bound", "ours", T)]),
            )

    def elsewhere(self, what: str, name: str, size: int) -> int:
        command = [
            sys.executable,
            "-m",
            "bench.run",
            "--alone",
            what,
            name,
            str(size),
            "--layout",
            json.dumps(self.layout),
            "--device",
            str(self.device),
            "--threads",
            str(torch.get_num_threads()),
            *(["--quick"] if self.quick else []),
        ]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        return int(done.stdout)

    def alone(self, what: str, name: str, size: int) -> int:
        """Bytes, in a process that does nothing else."""
        import torch._dynamo  # the first optimizer imports it, diffusers at once: it is nobody's memory of a step

        if name == "diffusers" or name == "equal":
            peers.diffusers_unet(QUICK["network"])  # imports what it needs
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        before = peak_bytes()
        if what == "bound":
            x0 = ddpm.to_model_range(self.images(self.sizes["network"], 2))
            ddpm.bits_per_dim(
                one_convolution(3).to(self.device), ddpm.linear_schedule(size), x0
            )
        elif (step := self.case(name, what, self.sizes["network"], size)) is not None:
            step()
            step()
        return (
            torch.cuda.max_memory_allocated()
            if self.device.type == "cuda"
            else peak_bytes() - before
        )

    def bound(self) -> Iterator[Row]:
        """The whole bound, by bits_per_dim and by improved-diffusion's arithmetic, with the same network."""
        config = self.sizes["network"]
        for name, model, (batch, T) in (
            (
                "one convolution",
                one_convolution(config["channels"]).to(self.device),
                self.sizes["bound"],
            ),
            (
                "the paper's network",
                self.model(config).eval(),
                self.sizes["bound_network"],
            ),
        ):
            x0, schedule = (
                ddpm.to_model_range(self.images(config, batch)),
                ddpm.linear_schedule(T),
            )
            coefficients = improved.Coefficients(schedule.beta[1:].numpy())
            cases: dict[str, Step] = dict(
                ours=partial(ddpm.bits_per_dim, model, schedule, x0, clip_x0=True),
                improved=partial(improved.bits_per_dim, model, coefficients, x0),
            )
            yield dict(
                what=f"bits/dim, {name}",
                batch=batch,
                T=T,
                unit="s",
                values=interleave(cases, self.rounds),
            )

    def scaling(self) -> Iterator[Row]:
        """A training step of the small network as one thing grows; and the same batch by one process and by two."""
        small, middle = (
            self.sizes["small"],
            self.sizes["batches"][len(self.sizes["batches"]) // 2],
        )

        def row(by: str, at: int, config: dict[str, Any], batch: int) -> Row:
            values = interleave(
                self.cases("ours diffusers", "training", config, batch), self.rounds
            )
            return dict(
                what="training step, small network",
                by=by,
                at=at,
                batch=batch,
                unit="s",
                values=values,
            )

        for batch in self.sizes["batches"]:
            yield row("batch", batch, small, batch)
        for side in self.sizes["sides"]:
            attention = tuple(
                side // 2 ** (len(small["multipliers"]) - 1) for _ in small["attention"]
            )
            yield row(
                "side",
                side,
                small | dict(image_size=side, attention=attention),
                min(4, middle),
            )
        for width in self.sizes["widths"]:
            yield row("width", width, small | dict(width=width), min(4, middle))

        seconds: dict[int, list[float]] = {
            processes: [] for processes in self.sizes["processes"]
        }
        for _ in range(self.sizes["together_rounds"]):
            for processes in seconds:
                seconds[processes].append(self.launch(processes))
        for processes, values in seconds.items():
            yield dict(
                what="training step, small network, on the processor",
                by="processes",
                at=processes,
                batch=self.sizes["together"][0],
                unit="s",
                values=dict(ours=values),
            )

    def launch(self, processes: int) -> float:
        """Seconds a step of so many processes under torchrun, which share the threads of this one."""
        threads = max(1, torch.get_num_threads() // processes)
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node",
                str(processes),
                "-m",
                "bench.run",
                "--together",
                f"{folder}/seconds",
                "--threads",
                str(threads),
                *(["--quick"] if self.quick else []),
            ]
            subprocess.run(
                command,
                check=True,
                stdout=subprocess.DEVNULL,
                cwd=ROOT,
                env=os.environ | dict(OMP_NUM_THREADS=str(threads)),
            )
            return float(Path(folder, "seconds").read_text())

    def together(self, file: Path) -> None:
        """One of the processes of `launch`: its part of a batch; the first one writes the seconds a step takes."""
        from ddpm_core import distributed

        (batch, steps), self.device = self.sizes["together"], torch.device("cpu")
        step = self.ours("training", self.sizes["small"], batch // distributed.size())
        step()
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        if distributed.rank() == 0:
            file.write_text(str((time.perf_counter() - begin) / steps))

    def imports(self) -> Iterator[Row]:
        """How long Python takes to start and import."""
        lines = dict(
            torch="import torch",
            ours="import ddpm_core",
            diffusers="from diffusers import DDPMPipeline, UNet2DModel",
        )
        cases = {
            name: partial(
                subprocess.run, [sys.executable, "-c", lines[name]], check=True
            )
            for name in self.sizes["imports"].split()
        }
        yield dict(
            what="import",
            unit="s",
            values=interleave(
                cases, self.sizes["import_rounds"], warm_up=int(not self.quick)
            ),
        )

    def project(self) -> Iterator[Row]:
        """This book: building and testing it, its notebooks, its pages."""
        yield from project.loops(dry=self.quick)
        yield from project.pages(some=1 if self.quick else None)


PARTS = ("networks", "jobs", "memory", "bound", "scaling", "imports", "project")


def one_convolution(channels: int) -> nn.Module:
    """A network that is next to nothing, so that the arithmetic around it shows."""

    class Model(nn.Conv2d):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x)

    return Model(channels, channels, 3, padding=1)


def main(argv: list[str] | None = None) -> Path | None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="of every interleaved measurement (default 5)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="toy sizes and two rounds: shows that the script works, and nothing else",
    )
    parser.add_argument("--device", default="auto", help='"auto", "cpu", "cuda", ...')
    parser.add_argument(
        "--threads", type=int, help="of the processor (default: what torch takes)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="folder for the JSON file (default bench/results)",
    )
    parser.add_argument(
        "--alone", nargs=3, metavar=("WHAT", "CASE", "SIZE"), help=argparse.SUPPRESS
    )
    parser.add_argument("--layout", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--together", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    parts = args.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; wanted some of {','.join(PARTS)}")
    if args.threads:
        torch.set_num_threads(args.threads)

    bench = Bench(
        args.quick,
        2 if args.quick else args.rounds,
        choose_device("cpu" if args.together else args.device),
    )
    if args.together:
        bench.together(args.together)
        return None
    if args.alone:
        bench.layout = args.layout
        print(bench.alone(args.alone[0], args.alone[1], int(args.alone[2])))
        return None

    if not args.quick:
        peers.install()
    bench.observe()
    result: dict[str, Any] = dict(
        date=datetime.date.today().isoformat(),
        machine=machine(),
        quick=args.quick,
        rounds=bench.rounds,
        layout=bench.layout,
        parts={},
    )
    try:
        for part in parts:
            begin, rows = time.monotonic(), []
            for row in getattr(bench, part)():
                rows.append(row)
                print(f"bench: {part}: {in_words(row)}", file=sys.stderr)
            result["parts"][part] = dict(
                seconds=round(time.monotonic() - begin), rows=rows
            )
    finally:  # a part that fails, or Ctrl-C, does not take the finished ones along
        file = write(result, args.out) if result["parts"] else None
    return file


def in_words(row: Row) -> str:
    about = ", ".join(
        f"{key} {value}"
        for key, value in row.items()
        if key not in ("what", "unit", "values")
    )
    scale, unit = (1, "s") if row["unit"] == "s" else (2**20, "MiB")
    return f"{row['what']} ({about}): " + "; ".join(
        f"{name} {quartiles(values)[1] / scale:.4g} {unit}"
        for name, values in row["values"].items()
    )


def write(result: dict[str, Any], folder: Path) -> Path:
    """results/<machine>-<date>.json, or ...-2.json and so on where that is taken: a run is evidence, and none replaces another."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{result['machine']['slug']}-{result['date']}"
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    file = next(
        path
        for path in (folder / f"{name}.json" for name in names)
        if not path.exists()
    )
    partial_file = folder / f".{file.name}.partial"
    partial_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial_file.replace(file)
    print(f"bench: written to {file}", file=sys.stderr)
    return file


if __name__ == "__main__":
    main()
