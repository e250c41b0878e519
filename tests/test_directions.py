"""Imports point down: runtime <- the paper <- after <- experiments and book."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from test_training import ENVIRONMENT

PACKAGE = Path(__file__).resolve().parents[1] / "ddpm_core"
MODULES = {
    ".".join(file.relative_to(PACKAGE).with_suffix("").parts): file
    for file in PACKAGE.rglob("*.py")
}


def room(module: str) -> str:
    first = module.partition(".")[0]
    return first if first in ("runtime", "after") else "the paper"


def known(module: str) -> str | None:
    """A module of the package, or the package around a name."""
    while module and module not in MODULES and f"{module}.__init__" not in MODULES:
        module = module.rpartition(".")[0]
    return module or None


def imports(name: str, file: Path) -> set[str]:
    """What a module of the package imports of it, also inside of functions."""
    found = set()
    here = ("ddpm_core." + name).split(".")
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            base = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for whole in names:
            package, _, module = whole.partition(".")
            if package == "ddpm_core":
                found.add(known(module))
    return found - {None, name}


MAY = {
    "runtime": {"runtime"},
    "the paper": {"runtime", "the paper"},
    "after": {"runtime", "the paper", "after"},
}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_down(name):
    for other in imports(name, MODULES[name]):
        if (name, other) == ("commands.draw", "after.reading"):
            continue  # `ddpm draw`, which imports it when it is called: see below
        assert room(other) in MAY[room(name)], f"{name} imports {other}"
        if room(name) == "after":
            assert not other.startswith(("cli", "commands", "evaluation")), (
                f"{name} imports {other}"
            )


def test_the_reader_of_imports_sees_them_all(tmp_path):
    file = tmp_path / "x.py"
    above = min(name for name in MODULES if room(name) == "after" and name[6:7] != "_")
    file.write_text(
        f"from .. import unet\nfrom ..{above} import x\nimport ddpm_core.cli\n"
        "def f():\n    from ddpm_core.schedule import Schedule\n    from .log import Log\n"
        "    from ..forward import q_sample as q\n    import torch\n"
    )
    assert imports("runtime.x", file) == {
        "unet", above, "cli", "schedule", "runtime.log", "forward",
    }  # fmt: skip


def test_there_is_something_in_every_room():
    assert {room(name) for name in MODULES} == set(MAY)


def test_importing_the_package_brings_little_beside_torch():
    """Neither after/ nor matplotlib, nor anything that only some need: by name."""
    seen = {}
    for what in ("torch", "ddpm_core"):
        code = f"import {what}, sys; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
        )
        seen[what] = set(done.stdout.split())
    more = seen["ddpm_core"] - seen["torch"]
    assert not [name for name in more if name.startswith("ddpm_core.after")]
    assert "ddpm_core.cli" not in more
    outside = {name.partition(".")[0] for name in more} - set(sys.stdlib_module_names)
    allowed = {"ddpm_core", "torch", "einops", "safetensors", "numpy", "packaging"}
    assert outside <= allowed, sorted(outside - allowed)
