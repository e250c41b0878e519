"""What training and sampling run on, and how: device, precision, memory format,
optimiser, compiler.

All choices are made in `choose_training`, for training, and in `choose_sampling`. Only
a network's arithmetic is ever chosen: x_t, the schedule, the bound and everything exact
stay what they are.
"""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from . import distributed

PRECISIONS = ("float32", "bfloat16", "float16")
UNKNOWN = 'precision = {!r}; wanted "auto", "float32", "bfloat16" or "float16"'


@dataclass(frozen=True)
class Hardware:
    """What a device says of itself."""

    kind: str  # "cuda", "cpu", "mps", ...
    # of a CUDA device: 7.0 has the first tensor cores, 8.0 the first that take bfloat16
    capability: tuple[int, int] = (0, 0)
    # of a CPU "avx2", "avx512", "amx" and "avx512_bf16", and "intel" for whose it is;
    # of a CUDA device "triton", where that is installed
    features: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Choice:
    """How to train. The weights are float32 whatever the precision of the arithmetic."""

    precision: str
    channels_last: bool
    fused: bool  # Adam in one kernel
    compile: bool  # torch.compile

    def __str__(self) -> str:
        memory, adam = (
            "channels last" if self.channels_last else "channels first",
            "fused Adam" if self.fused else "Adam",
        )
        return (
            f"{self.precision}, {memory}, {adam},"
            f" {'compiled' if self.compile else 'not compiled'}"
        )


def choose_training(
    hardware: Hardware,
    steps: int,
    precision: str = "auto",
    channels_last: bool | str = "auto",
    fused: bool | str = "auto",
    compile: bool | str = "auto",
) -> Choice:
    """The fastest way to take `steps` training steps on this hardware; what is not
    "auto" is taken as it is.

    CUDA   bfloat16 from capability 8.0 on, float16 with 7.x, whose tensor cores know no
           other, float32 before. Tensor cores want channels last. Compiling takes
           minutes, which only long runs earn back
    CPU    bfloat16 where AMX multiplies it, or AVX512-bf16 that is not Intel's: there,
           AMX forbidden, the paper's network trains 1.4 times as fast in float32.
           Channels last from AVX2 on: in float32 1.00 to 1.10 times as fast with AVX2,
           1.06 to 1.16 times with AVX512. Not compiled: training gains nothing from
           it. The first figure is of bench/results; the others were measured once,
           and no file keeps them
    other  (MPS) what works everywhere
    Raises ValueError for an unknown choice.
    """
    if hardware.kind == "cuda":
        best = Choice(
            precision=(
                "bfloat16"
                if hardware.capability >= (8, 0)
                else "float16"
                if hardware.capability >= (7, 0)
                else "float32"
            ),
            channels_last=hardware.capability >= (7, 0),
            fused=True,
            compile=hardware.capability >= (7, 0)
            and "triton" in hardware.features
            and steps >= 10_000,
        )
    elif hardware.kind == "cpu":
        has = hardware.features
        short = "amx" in has or ("avx512_bf16" in has and "intel" not in has)
        best = Choice(
            precision="bfloat16" if short else "float32",
            channels_last="avx2" in has,
            fused=True,
            compile=False,
        )
    else:
        best = Choice(
            precision="float32", channels_last=False, fused=False, compile=False
        )

    if precision not in ("auto", *PRECISIONS):
        raise ValueError(UNKNOWN.format(precision))
    for name, value in dict(
        channels_last=channels_last, fused=fused, compile=compile
    ).items():
        if value != "auto" and not isinstance(value, bool):
            raise ValueError(f'{name} = {value!r}; wanted "auto", True or False')
    return Choice(
        best.precision if precision == "auto" else precision,
        best.channels_last if channels_last == "auto" else bool(channels_last),
        best.fused if fused == "auto" else bool(fused),
        best.compile if compile == "auto" else bool(compile),
    )


choose = choose_training  # the name of 0.1.0


def choose_sampling(
    device: torch.device, parameters: int, precision: str = "auto"
) -> str:
    """The precision in which a network of so many parameters samples fastest on this
    device; what is not "auto" is taken as it is.

    As in training, but float32 for networks below a million parameters: calls take
    their time, not arithmetic, and they gain nothing (measured on a CPU). Raises
    ValueError for an unknown precision.
    """
    if precision == "auto" and parameters >= 1_000_000:
        return choose_training(describe(device), steps=1).precision
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(UNKNOWN.format(precision))
    return "float32" if precision == "auto" else precision


def describe(device: torch.device) -> Hardware:
    """What `choose_training` wants to know of a device of this machine."""
    if device.type == "cuda":
        return Hardware(
            "cuda",
            torch.cuda.get_device_capability(device),
            frozenset({"triton"} if find_spec("triton") else ()),
        )
    if device.type == "cpu":
        can = torch.backends.cpu.get_cpu_capability()
        if not can.startswith(("AVX2", "AVX512")):
            return Hardware("cpu")
        asked: dict[str, Callable[[], bool]] = {"avx2": lambda: True}
        if can.startswith("AVX512"):
            # Only there: where ATEN_CPU_CAPABILITY forbids what the processor has,
            # torch's attention in bfloat16 fails. Names with an underscore older
            # versions of torch do not all have; what is not known is not used.
            asked |= {
                "avx512": lambda: True,
                "amx": getattr(torch.cpu, "_is_amx_tile_supported", bool),
                "avx512_bf16": getattr(torch.cpu, "_is_avx512_bf16_supported", bool),
            }
        found = {name for name, there in asked.items() if there() and _let(name)}
        return Hardware(
            "cpu", features=frozenset(found | ({"intel"} if _is_intel() else set()))
        )
    return Hardware(device.type)


@cache
def _is_intel() -> bool:
    """As the system says: Linux in /proc/cpuinfo, Windows in the processor's name."""
    told = Path("/proc/cpuinfo")
    if not told.exists():
        return "GenuineIntel" in platform.processor()
    return "GenuineIntel" in told.read_text(encoding="utf-8", errors="replace")


def _let(feature: str) -> bool:
    """Whether oneDNN, which multiplies, may use what the processor has: whoever sets
    ONEDNN_MAX_CPU_ISA holds it to less, and then bfloat16 may no longer pay."""
    names = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
    held = next((os.environ[name].upper() for name in names if name in os.environ), "")
    if held in ("", "ALL", "DEFAULT") or "AMX" in held:
        return True
    if feature == "avx2":
        return held.startswith(("AVX2", "AVX512", "AVX10"))
    if feature == "avx512_bf16":
        return held.endswith(("BF16", "FP16")) or held.startswith("AVX10")
    return feature == "avx512" and held.startswith(("AVX512", "AVX10"))


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """ "auto" is CUDA if there is one, else MPS, else CPU; anything else is what
    torch.device makes of it.

    Under torchrun, "auto" and "cuda" are a CUDA device for each process of this
    machine. Raises ValueError for what is not there.
    """
    together = distributed.size() > 1
    if device == "auto":
        device = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available() and not together
            else "cpu"
        )
    if together and str(device) == "cuda" and torch.cuda.is_available():
        if distributed.local_rank() >= torch.cuda.device_count():
            raise ValueError(
                f"process {distributed.local_rank()} of this machine has no CUDA"
                f" device, there are {torch.cuda.device_count()}; wanted one for each:"
                ' lower --nproc-per-node of torchrun, or choose device "cpu"'
            )
        device = f"cuda:{distributed.local_rank()}"
        torch.cuda.set_device(device)
    elif together and str(device) not in ("cpu", "cuda"):
        raise ValueError(
            f"device = {str(device)!r} for {distributed.size()} processes; wanted"
            ' "auto", "cpu", or "cuda": one device for each'
        )
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device = {device!r} cannot be used here"
            f' ({str(error).splitlines()[0][:200]}); wanted "auto", "cpu", "cuda",'
            ' "cuda:1" or "mps"'
        ) from error
