"""How things are measured: calls in interleaved rounds, peaks of memory in fresh processes, and what the machine is."""

import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("ddpm-core", "torch", "diffusers", "denoising-diffusion-pytorch", "numpy")


def interleave(
    cases: dict[str, Callable[[], object]], rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call. A round calls every case once, so that whatever slows the machine slows all of them; rounds begin in turn
    with another case, so that none always follows the same one."""
    import torch

    finish = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    names, seconds = list(cases), {name: [] for name in cases}
    for i in range(warm_up + rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            finish()
            begin = time.perf_counter()
            cases[name]()
            finish()
            if i >= warm_up:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The first quartile, the median and the third."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third


def ratios(slower: Sequence[float], faster: Sequence[float]) -> list[float]:
    """Round by round: how many times as long, or as much, the first takes."""
    return [a / b for a, b in zip(slower, faster)]


def peak_bytes() -> int:
    """The most memory this process has had at once so far.

    Not getrusage where there is /proc: its maximum includes that of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> dict:
    """What the figures depend on, without the machine's name or paths."""
    import torch

    from ddpm_core.hardware import describe

    cores = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    can = describe(torch.device("cpu")).features  # less than it has, where held to it
    flags = [
        shown
        for name, shown in (("amx", "AMX"), ("avx512_bf16", "AVX512-bf16"))
        if name in can
    ]
    held = os.environ.get("ONEDNN_MAX_CPU_ISA")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    about = dict(
        processor=processor(),
        cores=cores,
        threads=torch.get_num_threads(),
        instructions=" ".join([torch.backends.cpu.get_cpu_capability(), *flags]),
        held=held,
        memory_gb=round(memory / 2**30),
        gpu=gpu,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: found for name in PACKAGES if (found := version_of(name))},
    )
    about["slug"] = re.sub(
        r"[^a-z0-9]+",
        "-",
        (
            gpu
            or f"{about['processor']} {cores} cores"
            + (f" held to {held}" if held else "")
        ).lower(),
    ).strip("-")
    return about


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (
        found := re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
    ):
        return found[1].strip()
    if sys.platform == "darwin":
        return subprocess.check_output(
            ["sysctl", "-n", "machdep.cpu.brand_string"], text=True
        ).strip()
    return platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
