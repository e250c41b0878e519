"""Many samples of a trained network, drawn batch by batch, kept, and gone on with."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from . import distributed, sampling
from .checkpoint import Checkpoint, beside
from .data import to_uint8
from .distributed import mix
from .figures import image_grid
from .runtime.files import digest
from .sampling import sample_steps


@dataclass(frozen=True)
class Samples(sampling.Sampling):
    """n pictures from a seed, and how they are drawn: the settings of `sample`."""

    n: int = 2000
    seed: int = 0

    def record(self) -> dict[str, Any]:
        """For JSON: the settings that matter to every run, and what is not the usual."""
        known = ("n", "steps", "sampler", "variance", "guidance", "seed")
        usual, every = Samples(), asdict(self)
        more = {
            name: value if isinstance(value, (int, float, str)) else repr(value)
            for name, value in every.items()
            if name not in known and value != getattr(usual, name)
        }
        return {name: every[name] for name in known} | more


def draw(
    checkpoint: Checkpoint,
    how: Samples,
    *,
    batch_size: int = 64,
    keep: Path | None = None,
    progress: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Samples uint8 (n, C, H, W), and their labels, or None.

    As many of each class, class 0 first, so that the label of image i depends on n. The
    image depends on (seed, i) and its label only, and is that of `ddpm sample
    --labels`.

    keep  file (.npz) to which all samples so far are written after each batch. If it is
          there, it is gone on with.
    Raises ValueError if `keep` holds samples of another network or other settings.
    """
    from tqdm.auto import tqdm

    if how.n < 2 or batch_size < 1:
        raise ValueError(
            f"n = {how.n}, batch_size = {batch_size}; wanted at least 2 samples, and"
            " batches of at least 1"
        )
    model, schedule, how = (
        checkpoint.model,
        checkpoint.schedule,
        settled(how, checkpoint),
    )
    shape, classes = shape_of(checkpoint)
    labels = None if classes is None else torch.arange(how.n) * classes // how.n
    settings = {"weights_sha256": sha256_of(checkpoint), **how.record()}
    images = (
        torch.empty(0, *shape, dtype=torch.uint8)
        if keep is None
        else _kept(keep, settings, shape)
    )
    steps = schedule.T if how.steps is None else how.steps
    together = batch_size * distributed.size()
    batches = [
        range(first, min(first + together, how.n))
        for first in range(len(images), how.n, together)
    ]
    with tqdm(
        total=len(batches) * steps,
        unit="step",
        desc=f"{how.n} samples",
        disable=quiet(progress),
        dynamic_ncols=True,
    ) as bar:
        for batch in batches:
            chosen = batch[slice_of(distributed.shard(len(batch)))]
            x = torch.empty(0, *shape)
            for t, x, _ in (
                ()
                if not chosen
                else sample_steps(
                    model,
                    schedule,
                    (len(chosen), *shape),
                    how,
                    generator=[
                        torch.Generator().manual_seed(mix(how.seed, "image", i))
                        for i in chosen
                    ],
                    labels=(
                        None if labels is None else labels[chosen.start : chosen.stop]
                    ),
                )
            ):
                bar.update(t > 0)
            images = torch.cat([images, distributed.gather(to_uint8(x).cpu())])
            if keep is not None and distributed.rank() == 0:
                _keep(keep, images, settings)
    return images, labels


def write_picture(
    images: Tensor, path: Path, columns: int = 10, rows: int = 10
) -> None:
    """At most columns x rows of the images, spread evenly over all of them, unselected,
    in a grid.
    """
    from PIL import Image

    chosen = (
        torch.linspace(0, len(images) - 1, min(len(images), columns * rows))
        .round()
        .long()
    )
    with beside(path) as partial:
        Image.fromarray(image_grid(images[chosen], columns)).save(partial, "PNG")


def _keep(path: Path, images: Tensor, settings: dict[str, Any]) -> None:
    with beside(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file, images=images.numpy(), settings=np.array(json.dumps(settings))
        )


def _kept(path: Path, settings: dict[str, Any], shape: tuple[int, int, int]) -> Tensor:
    """The samples in `path`, none if there is no such file."""
    if not path.exists():
        return torch.empty(0, *shape, dtype=torch.uint8)
    try:
        with np.load(path, allow_pickle=False) as file:
            found, images = (
                json.loads(str(file["settings"])),
                torch.from_numpy(file["images"]),
            )
    except Exception as error:  # zipfile, zlib, numpy and json each raise their own
        raise ValueError(
            f"{path} is no file of kept samples, or damaged ({error}); remove it, or"
            " choose another --out"
        ) from error
    if (
        found != settings
        or images.dtype != torch.uint8
        or tuple(images.shape[1:]) != shape
        or len(images) > settings["n"]
    ):
        different = [
            f"{name} = {found.get(name)!r}, not {value!r}"
            for name, value in settings.items()
            if found.get(name) != value
        ]
        raise ValueError(
            f"{path} holds other samples"
            f" ({'; '.join(different) or 'of another shape'}); remove it, or choose"
            " another --out"
        )
    return images


def slice_of(part: range) -> slice:
    return slice(part.start, part.stop)


def quiet(progress: bool) -> bool:
    return not progress or distributed.rank() > 0


def shape_of(checkpoint: Checkpoint) -> tuple[tuple[int, int, int], int | None]:
    """(C, H, W) of the pictures that a network draws, and its number of classes."""
    config = cast(dict[str, Any], checkpoint.model.config)
    return (config["channels"], config["image_size"], config["image_size"]), config[
        "classes"
    ]


def settled(how: Samples, checkpoint: Checkpoint) -> Samples:
    """The same with the variance decided, so that the record says which it was."""
    learned = cast(dict[str, Any], checkpoint.model.config).get("learn_variance")
    return replace(how, variance=how.variance or ("learned" if learned else "beta"))


def sha256_of(checkpoint: Checkpoint) -> str:
    return digest(checkpoint.path / "weights.safetensors")
