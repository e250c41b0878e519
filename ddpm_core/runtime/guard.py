"""What arguments must be: each rule, and what it says, stands here once.

A check returns nothing, or raises TypeError or ValueError; the message says what was
given and what is wanted. So the functions of the paper begin with one line of it.
"""

import math
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Generator, Tensor

SCALED = "floats: to_model_range() takes uint8 images to [-1, 1]"


def instance(name: str, value: object, kind: type, wanted: str) -> None:
    """TypeError unless `value` is of that kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {type(value).__name__}; wanted {wanted}")


def is_whole(value: object) -> bool:
    """An int, and not True or False, which Python takes for 1 and 0."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """An int or a float, finite, and not True or False."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def whole(
    name: str, value: object, wanted: str, least: int, most: int | None = None
) -> None:
    """ValueError unless `value` is a whole number from `least` to `most`."""
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or value < least
        or (most is not None and value > most)
    ):
        raise ValueError(f"{name} = {value!r}; wanted {wanted}")


def one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    """ValueError unless `value` is one of these words."""
    words = list(allowed)
    if not isinstance(value, str) or value not in words:
        *most, last = [f'"{word}"' for word in words]
        raise ValueError(f"{name} = {value!r}; wanted {', '.join(most)} or {last}")


def floats(**tensors: object) -> None:
    """TypeError unless all of them are tensors of floats."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name} is a {type(tensor).__name__}; wanted a float tensor"
            )
        if not tensor.is_floating_point():
            raise TypeError(f"{name} has dtype {tensor.dtype}; wanted {SCALED}")


def same_shape(**tensors: Tensor) -> None:
    """ValueError unless all of them have the shape of the first."""
    (first, x), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != x.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} but {first} has "
                f"{tuple(x.shape)}; wanted the same shape"
            )


def numbers(**tensors: Tensor) -> None:
    """ValueError if one contains NaN.

    Looked for on the processor only: asking a GPU would make every step wait for it.
    """
    for name, tensor in tensors.items():
        if tensor.device.type == "cpu" and tensor.isnan().any():
            raise ValueError(
                f"{name} contains NaN; wanted numbers. A model that answers NaN has "
                "usually diverged: lower its learning rate"
            )


def generators(generator: object, batch: int) -> None:
    """Raise unless it is None, one torch.Generator, or a list of one for each image."""
    if generator is None or isinstance(generator, Generator):
        return
    if not isinstance(generator, (list, tuple)) or not all(
        isinstance(one, Generator) for one in generator
    ):
        raise TypeError(
            f"generator = {generator!r}; wanted a torch.Generator, such as "
            "torch.Generator().manual_seed(0), or a list of them"
        )
    if len(generator) != batch:
        raise ValueError(
            f"{len(generator)} generators for {batch} images; wanted one, or one for "
            "each image"
        )


def labels(given: object, batch: int) -> None:
    """Raise unless they are None, or a LongTensor (batch,)."""
    if given is None:
        return
    instance_of = f"a LongTensor ({batch},), such as torch.tensor([0, 1])"
    if not isinstance(given, Tensor):
        raise TypeError(f"labels are a {type(given).__name__}; wanted {instance_of}")
    if given.dtype != torch.int64 or given.shape != (batch,):
        raise ValueError(
            f"labels have shape {tuple(given.shape)} and dtype {given.dtype}; "
            f"wanted a LongTensor ({batch},)"
        )


def moved(module: str, names: dict[str, str]) -> Callable[[str], Any]:
    """A module's __getattr__, for names that have moved to another one.

    names  the name: the module beside this one where it now is. An import of the old
           path goes on working, and costs nothing until it is used
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        package = module.rpartition(".")[0]
        return getattr(import_module(f"{package}.{names[name]}"), name)

    return getattr_


def kind_of(x: object) -> str:
    return (
        f"a tensor of {x.dtype}"
        if isinstance(x, Tensor)
        else f"a {type(x).__module__}.{type(x).__name__}"
    )
