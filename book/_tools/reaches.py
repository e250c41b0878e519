"""What a notebook's outputs were made from: the modules that it reaches, and the files
that it opened.

Modules are found in the source: a name taken from `ddpm_core` leads to the module that
defines it, and that module to those it imports. They enter without comments, docstrings
and layout. Files under data/ and book/ are found while the notebook runs, by a hook in
its kernel (`RECORDER`), and kept as a list in the notebook's metadata.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from book._tools.notebooks import ROOT, is_setup

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PACKAGES = ("ddpm_core", "experiments")  # those a notebook can import from this tree


# Modules ----------------------------------------------------------------------------------


@cache
def parsed(path: Path, changed: int) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def tree(path: Path) -> ast.Module:
    return parsed(path, path.stat().st_mtime_ns)


def plain(node: object) -> object:
    """A syntax tree as nested tuples without docstrings, alike in every Python.

    `ast.dump` is not: fields come and go between versions, empty at first.
    """
    if isinstance(node, ast.AST):
        fields = dict(ast.iter_fields(node))
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False):
            fields["body"] = fields["body"][1:]
        return type(node).__name__, tuple(
            (name, plain(value))
            for name, value in fields.items()
            if value not in (None, []) and name not in ("ctx", "kind", "type_ignores")
        )
    if isinstance(node, list):
        return tuple(map(plain, node))
    return repr(node)


@cache
def _meaning(path: Path, changed: int) -> str:
    return hashlib.sha256(repr(plain(tree(path))).encode()).hexdigest()


def meaning(path: Path) -> str:
    """sha256 of what a module does: not of its comments, docstrings and layout."""
    return _meaning(path, path.stat().st_mtime_ns)


def file_of(module: str, root: Path) -> Path | None:
    """ddpm_core.after.sde -> its file, or None for what is not of this tree."""
    if module.split(".")[0] not in PACKAGES:
        return None
    place = root.joinpath(*module.split("."))
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def imports(code: ast.AST, module: str = "", package: bool = False) -> Iterator[str]:
    """Full names of what the code imports or takes from an imported package:
    "ddpm_core.sample", "ddpm_core.codec". `module` is the code's own name."""
    known: dict[str, str] = {}  # name in the code -> what it stands for
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name
                known[name.asname or name.name.split(".")[0]] = (
                    name.name if name.asname else name.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            start = module.split(".")
            if node.level:
                start = start[: len(start) - node.level + package]
            origin = ".".join((start if node.level else []) + [node.module or ""])
            for name in node.names:
                yield f"{origin.rstrip('.')}.{name.name}"
                known[name.asname or name.name] = f"{origin.rstrip('.')}.{name.name}"
    for node in ast.walk(code):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in known:
                yield f"{known[node.value.id]}.{node.attr}"


@cache
def _imported(file: Path, changed: int, module: str) -> tuple[str, ...]:
    package = file.name == "__init__.py"
    return tuple(dict.fromkeys(imports(tree(file), module, package)))


def modules(names: Iterable[str], root: Path = ROOT) -> dict[str, Path]:
    """All modules that these full names lead to, by name; packages' own files only where
    they do more than pass names on."""
    found: dict[str, Path] = {}
    asked, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in asked:
            continue
        asked.add(name)
        module = (
            name  # the longest beginning that is a module: the rest is a name in it
        )
        while module and file_of(module, root) is None:
            module = module.rpartition(".")[0]
        if not module:
            continue
        file = file_of(module, root)
        inside = file.name == "__init__.py"
        rest = name[len(module) + 1 :].split(".")[0]
        own = _imported(file, file.stat().st_mtime_ns, module)
        if inside:  # it passes names on: follow the one that is asked for
            waiting += [n for n in own if rest == "*" or n.rpartition(".")[2] == rest]
        elif module not in found:
            found[module] = file
            waiting += own
    return dict(sorted(found.items()))


def reached(nb, root: Path = ROOT) -> dict[str, Path]:
    """The modules that a notebook's code reaches."""
    names: list[str] = []
    for cell in nb.cells:
        if cell.cell_type == "code" and not is_setup(cell):
            lines = cell.source.splitlines()
            code = "\n".join(line for line in lines if line[:1] not in ("%", "!"))
            names.append(code)
    return modules(_named("\n".join(names)), root)


@cache
def _named(source: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(imports(ast.parse(source))))


# Files ------------------------------------------------------------------------------------

# Runs in the kernel before the notebook's first cell; leaves no name behind. Weights are
# read by compiled code, which the hook cannot see: they enter with the card beside them.
RECORDER = """\
def _record():
    import os, sys
    root, log = {root!r}, open({log!r}, "a", buffering=1)
    def opened(event, arguments):
        if event != "open" or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        if isinstance(arguments[1], str) and not arguments[1].startswith("r"):
            return  # written, not read
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if path.startswith((root + "/data/", root + "/book/")):
            log.write(path[len(root) + 1:] + chr(10))
    sys.addaudithook(opened)
_record()
del _record
"""


def recorded(log: Path, root: Path = ROOT) -> list[str]:
    """The files that the hook saw, relative to the root. A folder whose loader compares
    with SHA256SUMS enters by these sums; weights enter with the card beside them."""
    found = set()
    for line in set(log.read_text().splitlines()):
        file = root / line
        if not file.is_file() or file.suffix in (".py", ".pyc", ".ipynb"):
            continue
        sums = file.parent / "SHA256SUMS"
        if sums.is_file() and file.name in sums.read_text():
            file = sums
        found.add(file)
        if file.suffix == ".json":
            found.update(file.parent.glob("*.safetensors"))
    return sorted(file.relative_to(root).as_posix() for file in found)


@cache
def _content(path: Path, changed: int, size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content(path: Path) -> str:
    """sha256 of a file, "missing" where there is none."""
    if not path.is_file():
        return "missing"
    return _content(path, path.stat().st_mtime_ns, path.stat().st_size)


# Both -------------------------------------------------------------------------------------


def digest(nb, reads: list[str], root: Path = ROOT) -> str:
    """sha256 of what the outputs depend on: the code cells in order, the modules that
    they reach, the files that they opened. Not the set-up cell, so that a new address
    needs no new run."""
    code = [c.source for c in nb.cells if c.cell_type == "code" and not is_setup(c)]
    parts = {
        "code": code,
        "modules": {name: meaning(file) for name, file in reached(nb, root).items()},
        "files": {name: content(root / name) for name in sorted(reads)},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
