"""Named tensors from the files of a model's folder: whole, in shards, or of a variant.

STEM.safetensors                  all of them
STEM-00001-of-00002.safetensors   ... in shards, which STEM.safetensors.index.json lists
STEM.fp16.safetensors             a variant: in half the precision, or other weights
STEM.bin                          a pickle, of which tensors are read and nothing else
"""

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

HALVES = ("fp16", "bf16")  # the same weights, rounded


def read_json(file: Path) -> Any:
    """What a JSON file says, with or without a byte-order mark; else ValueError."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file} is not JSON ({error}); it is damaged: take another copy"
        ) from error


def patterns(stem: str, variant: str | None) -> list[list[str]]:
    """Names to ask a hub for, the better ones first; one kind is enough."""
    number = "?????-of-?????"
    kinds = []
    for ending in ("safetensors", "bin"):
        for v in [variant] if variant else [None, *HALVES]:
            dot = f".{v}" if v else ""
            kinds.append(
                [f"{stem}{dot}.{ending}", f"{stem}{dot}-{number}.{ending}"]
                + [f"{stem}-{number}{dot}.{ending}"] * bool(v)
                + [f"{stem}.{ending}.index{dot}.json"]
            )
    return sorted(kinds, key=lambda names: any(f".{h}" in names[0] for h in HALVES))


def find_weights(folder: Path, stem: str, variant: str | None = None) -> Path:
    """The file with the weights, or the index of their shards.

    variant  "fp16" and the like; None: all of the precision there is, or, where a
             folder has nothing but one rounded copy, that
    Raises FileNotFoundError, which names what is there.
    """
    variants = _variants(folder, stem)
    asked = [variant]
    if variant is None and not _one(folder, stem, None):
        asked = [v for v in HALVES if v in variants]
    if len(asked) == 1 and (file := _one(folder, stem, asked[0])):
        return file
    found = (
        f"it has the variants {', '.join(variants)}: say variant={variants[0]!r}"
        if variants and variant not in variants
        else f"it holds {sorted(f.name for f in folder.iterdir())}"
    )
    name = f"{stem}.{variant}" if variant else stem
    raise FileNotFoundError(f"no {name}.safetensors or .bin in {folder}; {found}")


def _one(folder: Path, stem: str, variant: str | None) -> Path | None:
    dot = f".{variant}" if variant else ""
    for ending in ("safetensors", "bin"):
        for name in (f"{stem}{dot}.{ending}", f"{stem}.{ending}.index{dot}.json"):
            if (folder / name).is_file():
                return folder / name
    return None


def _variants(folder: Path, stem: str) -> list[str]:
    names = re.compile(
        rf"{re.escape(stem)}\.(?:(\w+)\.(?:safetensors|bin)"
        r"|(?:safetensors|bin)\.index\.(\w+)\.json)"
    )
    found = (names.fullmatch(file.name) for file in folder.iterdir())
    return sorted({match[1] or match[2] for match in found if match})


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, or of the shards that an index lists; on the CPU.

    Raises ValueError for what is truncated, damaged, foreign or would run code, and
    FileNotFoundError for a shard that is missing.
    """
    if file.suffix == ".json":
        return _read_shards(file)
    if file.suffix == ".bin":
        return _unpickle(file)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file} ({file.stat().st_size} bytes) is truncated or damaged, or a Git "
            f"LFS pointer ({error}); take another copy"
        ) from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    about = read_json(index)
    where = about.get("weight_map") if isinstance(about, dict) else None
    if not isinstance(where, dict) or not all(
        isinstance(shard, str) and re.fullmatch(r"[\w.-]+\.(safetensors|bin)", shard)
        for shard in where.values()
    ):
        raise ValueError(
            f"{index} has no weight_map from the names of tensors to files beside it; "
            "take another copy"
        )
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(where.values())):
        if not (index.parent / shard).is_file():
            raise FileNotFoundError(
                f"{index.parent / shard} is missing, of which {index.name} says "
                f"that it holds {list(where.values()).count(shard)} tensors: bring it"
            )
        part = read_weights(index.parent / shard)
        weights |= {name: w for name, w in part.items() if where.get(name) == shard}
    if missing := sorted(where.keys() - weights.keys()):
        raise ValueError(
            f"{index} lists {missing[0]} in {where[missing[0]]}, which does not hold "
            f"it ({len(missing)} such tensors); take another copy of both"
        )
    return weights


def _unpickle(file: Path) -> dict[str, Tensor]:
    """A .bin, of which torch builds tensors in dictionaries and nothing else."""
    if tuple(int(n) for n in torch.__version__.split(".")[:2]) < (2, 6):
        raise ValueError(
            f"{file} is a pickle, and torch {torch.__version__} can be made to run "
            "code by one even with weights_only=True (CVE-2025-32434); wanted a "
            ".safetensors file, or torch 2.6"
        )
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asks = re.search(r"GLOBAL (\S+)", str(error))
        what = (
            f"asks for {asks[1]}, which could run code"
            if asks
            else "asks for more, or is no pickle"
        )
        raise ValueError(
            f"{file} was refused and nothing of it executed: a pickle of tensors was "
            f"wanted, and it {what}. Ask for a .safetensors file"
        ) from None  # torch's own message advises to switch its guard off
    except Exception as error:  # a stranger's bytes can fail anywhere in it
        reason = " ".join(str(error).split())[:150] or "it ends early"
        raise ValueError(
            f"{file} ({file.stat().st_size} bytes) is truncated or damaged ({reason}); "
            "take another copy"
        ) from error
    if not isinstance(weights, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()
    ):
        raise ValueError(
            f"{file} holds a {type(weights).__name__} of other things than named "
            "tensors; wanted the state_dict of a network"
        )
    return weights
