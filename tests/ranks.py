"""What test_distributed.py runs in two processes, started by torchrun; and, imported, in one. Each writes what it saw to a file."""

import sys
from pathlib import Path

import numpy as np
import torch
from laboratory import SHORT
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import ddpm_core as ddpm
from ddpm_core import cli, distributed
from ddpm_core.distributed import gather, mix, shard
from ddpm_core.hardware import choose_device
from ddpm_core.streams import stream_folder, stream_rows

IMAGES = torch.randint(
    0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8
)
LABELS = torch.arange(20) % 3


def network(seed: int, **kwargs) -> ddpm.UNet:
    torch.manual_seed(seed)
    model = ddpm.UNet(
        8, 1, 8, (1,), 1, (), **{**dict(dropout=0.0, classes=3, groups=4), **kwargs}
    )
    for p in model.parameters():
        nn.init.normal_(
            p, std=0.2
        )  # layers that start at zero would hide what goes through them
    return model


def train(model, out=None, images=IMAGES, labels=LABELS, **kwargs):
    args = dict(
        steps=4,
        batch_size=8,
        lr=1e-3,
        warmup=0,
        ema=0.9,
        drop_label=0.3,
        device="cpu",
        precision="float32",
        progress=False,
    )
    return ddpm.train(model, SHORT, images, labels, out=out, **{**args, **kwargs})


def training(out: Path) -> dict[str, torch.Tensor]:
    """Four steps, clipped, with flips and dropped labels: what each step was asked, and all that comes of it."""
    seen: dict[str, torch.Tensor] = {}
    model = network(
        1 + distributed.rank()
    )  # each rank has weights of its own, before it gets those of rank 0
    labels = []
    model.register_forward_pre_hook(
        lambda module, arguments: labels.append(arguments[2].clone())
    )

    def objective(model, schedule, x0, t, eps):
        for name, value in dict(x0=x0, t=t, eps=eps).items():
            seen[f"{name}.{len(labels)}"] = value.clone()
        return 100 * (
            model(ddpm.q_sample(schedule, x0, t, eps), t) - eps
        ).square().flatten(1).mean(1)  # a gradient longer than 1

    ema = train(model, out / "run", objective=objective, log_every=1)
    seen |= {f"y.{i}": y for i, y in enumerate(labels)}
    seen |= {f"grad.{name}": p.grad for name, p in model.named_parameters()}
    seen |= {f"weight.{name}": p for name, p in model.named_parameters()}
    return seen | {f"ema.{name}": p for name, p in ema.named_parameters()}


class Draws(nn.Module):
    """Draws a number in forward, as dropout does."""

    def __init__(self):
        super().__init__()
        self.a, self.drawn = nn.Parameter(torch.tensor(0.5)), []

    def forward(self, x, t):
        self.drawn.append(torch.rand(1))
        return self.a * x


def streams(out: Path) -> dict[str, torch.Tensor]:
    """Two batches of a folder and of rows in parquet files, and those that follow after going on; here every image is one number."""
    folder, rows = stream_folder(out / "numbers", 4, seed=2), parquet(out)
    seen = {}
    for name, stream in dict(
        folder=folder, rows=stream_rows(rows, 4, seed=2, buffer=5)
    ).items():
        for i, (x, y) in zip(range(9), stream):
            seen[f"{name}.{i}"] = x[:, 0, 0, 0].clone()
            assert x.shape == (4 // distributed.size(), 1, 2, 2) and (y is None) == (
                name == "folder"
            )
            if y is not None:
                assert torch.equal(y, x[:, 0, 0, 0].long() % 5)
            if i == 1:
                places = gather(torch.tensor([stream.place])).tolist()
        again = (
            stream_folder(out / "numbers", 4, seed=2)
            if name == "folder"
            else stream_rows(rows, 4, seed=2, buffer=5)
        )
        for i, (x, _) in zip(range(2, 9), again.batches(2, places)):
            assert torch.equal(x[:, 0, 0, 0], seen[f"{name}.{i}"]), (name, i)
    return seen


def parquet(out: Path):
    from datasets import config, load_dataset

    config.SLEEP_TIME_ON_THREADS_SHUTDOWN = (
        0  # else 5 seconds at the end of every pass over several files
    )
    return load_dataset(
        "parquet",
        data_files=[str(p) for p in sorted(out.glob("*.parquet"))],
        split="train",
        streaming=True,
    )


def write_numbers(out: Path, n: int = 14, files: int = 3) -> None:
    """n images of 2 x 2, number i filled with i: as PNG files, and as rows in parquet files with i % 5 as their label."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as Picture

    (out / "numbers").mkdir()
    for i in range(n):
        Image.fromarray(np.full((2, 2), i, dtype=np.uint8)).save(
            out / "numbers" / f"{i:02d}.png"
        )
    rows = [
        {
            "image": {
                "bytes": (out / "numbers" / f"{i:02d}.png").read_bytes(),
                "path": f"{i}.png",
            },
            "label": i % 5,
        }
        for i in range(n)
    ]
    features = Features({"image": Picture(), "label": ClassLabel(5)})
    for k in range(files):
        Dataset.from_list(rows[k::files], features=features).to_parquet(
            out / f"{k}.parquet"
        )


def bound() -> dict[str, torch.Tensor]:
    """bits_per_dim over batches of three, dealt out to the ranks."""
    x0, model, starts = ddpm.to_model_range(IMAGES), network(5), range(0, 20, 3)
    parts = [
        ddpm.bits_per_dim(
            model,
            SHORT,
            x0[starts[k] : starts[k] + 3],
            generator=torch.Generator().manual_seed(mix(k)),
        )
        for k in shard(len(starts))
    ]
    return {
        "total": gather(torch.cat([p.total for p in parts])),
        "terms": gather(torch.cat([p.terms for p in parts])),
    }


def errors(out: Path) -> list[str]:
    """What several processes may be asked for in vain; the messages."""
    calls = {
        "odd": lambda: train(network(0), batch_size=7),
        "odd stream": lambda: stream_folder(out / "numbers", 7),
        "loader": lambda: train(
            network(0, classes=None),
            images=[IMAGES[: 2 + distributed.rank()]],
            labels=None,
        ),
        "device": lambda: choose_device("mps"),
        "resumed elsewhere": lambda: train(
            network(0),
            (out / "run") if distributed.rank() else (out / "run_of_3"),
            resume=True,
        ),
    }
    said = []
    for call in calls.values():
        try:
            call()
        except ValueError as error:
            said.append(str(error))
    return said


def main(out: Path) -> None:
    torch.set_num_threads(1)
    rank, written = distributed.rank(), []

    def note(event: str, arguments: tuple) -> None:
        """Every file opened to be written, every folder made, every renaming."""
        writing = (
            event == "open"
            and isinstance(arguments[1], str)
            and set(arguments[1]) & set("wax+")
        )
        if (writing or event in ("os.mkdir", "os.rename")) and str(out) in str(
            arguments[0]
        ):
            written.append(f"{event} {arguments[0]}")

    sys.addaudithook(note)
    before = torch.get_rng_state()
    result = {
        "mine": torch.tensor(list(shard(5))),
        "all": gather(torch.tensor(list(shard(5)))),
        "few": gather(torch.ones(len(shard(1)), 2)),
    }
    assert distributed.any_rank(
        rank == distributed.size() - 1
    ) and not distributed.any_rank(False)
    assert distributed.mean(torch.tensor(float(rank))) == (distributed.size() - 1) / 2
    result |= streams(out)
    assert torch.equal(
        before, torch.get_rng_state()
    )  # none of this draws from the caller's generator
    result |= training(out)
    draws = Draws()
    train(draws, labels=None, steps=2)
    result["dropout"] = torch.cat(draws.drawn)
    result |= bound()
    assert (
        cli.main(
            [
                "sample",
                str(out / "trained"),
                "-n",
                "6",
                "--batch-size",
                "3",
                "--out",
                str(out / f"{distributed.size()}.png"),
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    (out / f"{distributed.size()}-{rank}.txt").write_text("\n".join(written))
    if distributed.size() > 1:
        (out / f"errors{rank}.txt").write_text("\n".join(errors(out)))
    save_file(
        {name: value.detach().contiguous().clone() for name, value in result.items()},
        out / f"{distributed.size()}-{rank}.safetensors",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
