"""Files that are written whole or not at all, and what a folder of them holds.

Everything that the package leaves on a disk is written here: first under a name with
a dot, then flushed, then given its own name by one rename. Nothing is ever unpickled.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

UNTOUCHED = "what was there before is untouched"


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A file to write to; it gets the name `path` when all of it is on the disk.

    If anything fails, it is gone. Raises OSError (disk full, read-only folder), after
    which what stood at `path` before stands there still.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
    except BaseException as error:  # Ctrl-C, too
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OSError(
            f"{path} could not be written ({error}); {UNTOUCHED}. Free some space or "
            "choose another folder"
        ) from error


def claim(path: Path) -> None:
    """See that a file can be written at `path`, and make its folder. Raises OSError.

    Better now than after hours.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        try:
            # An empty file could be made on a full disk, too.
            partial.write_bytes(bytes(4096))
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error}); wanted a file in a folder, there or "
            "to be made, with space for it"
        ) from error


def claim_folder(out: Path) -> None:
    """Raise OSError now, not after hours, if `out` cannot be written to. No trace."""
    there = next(folder for folder in [out, *out.absolute().parents] if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise OSError(
            f"out = {out} cannot be written to ({error}); wanted a folder, there or to "
            "be made, for checkpoints and the log"
        ) from error


def write_json(content: Any, path: Path) -> None:
    """`content` as JSON at `path`: all of it or nothing. Raises TypeError, OSError."""
    text = json.dumps(content, indent=1) + "\n"
    with beside(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_picture(pixels: Tensor, path: Path) -> None:
    """uint8 (H, W) or (H, W, 3) as a PNG at `path`: all of it or nothing."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    with beside(path) as partial:
        Image.fromarray(pixels.numpy()).save(partial, "PNG")


def write_folder(
    path: Path,
    about: dict[str, Any],
    tensors: dict[str, dict[str, Tensor] | None],
    name: str = "checkpoint.json",
) -> Path:
    """A folder with one JSON file, `name`, and a safetensors file for each of
    `tensors`.

    All of it or, whatever happens meanwhile, none of it. What stood at `path` before is
    replaced; files in it that are not of this kind, a user's own, move into the new
    one.
    Raises TypeError for what JSON cannot hold, before anything is written; OSError.
    """
    text = json.dumps(about, indent=1) + "\n"
    with folder_beside(path, {name, *tensors}, "the checkpoint") as partial:
        for file, some in tensors.items():
            if some is not None:
                save_tensors(some, partial / file)
        (partial / name).write_text(text, encoding="utf-8")
    return path


@contextmanager
def folder_beside(path: Path, ours: set[str] | None, what: str) -> Iterator[Path]:
    """A folder to fill; it gets the name `path` when all of it is on the disk.

    ours   the names in `path` that are replaced: other files there, a user's own, move
           into the new folder; None: all of it is replaced
    what   `path` is, for the message
    If anything fails, it is gone, and what stood at `path` stands there still. Raises
    OSError (disk full, read-only folder).
    """
    partial, old = path.with_name(f".{path.name}.partial"), old_name(path)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        for made in [*partial.rglob("*"), partial]:
            flush(made)
        if path.exists():
            _carry(old, path, ours)  # somebody was killed on the way to here
            path.rename(old)
        partial.rename(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        raise OSError(
            f"{what} {path} could not be written ({error}); {UNTOUCHED}. Free some "
            "space or choose another folder"
        ) from error
    # All of it is written by now; some file systems cannot flush a folder.
    with suppress(OSError):
        flush(path.parent)
    _carry(old, path, ours)


def save_tensors(
    tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file, readable by whom other new files are, too."""
    save_file(plain(tensors), file, metadata=metadata)
    file.chmod(file.parent.stat().st_mode & 0o666)  # it makes them its owner's only


def _carry(old: Path, path: Path, ours: set[str] | None) -> None:
    """Delete `old`, except that a user's own files in it move to `path`."""
    if ours is not None and old.is_dir():
        for other in old.iterdir():
            if other.name not in ours and not (path / other.name).exists():
                with suppress(OSError):
                    other.rename(path / other.name)
    shutil.rmtree(old, ignore_errors=True)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises FileNotFoundError, ValueError."""
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing; the checkpoint is incomplete, or was published "
            "without it"
        )
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file} ({file.stat().st_size} bytes) is truncated or no safetensors file "
            f"({error}); take another copy"
        ) from error


def steps_in(run: Path, prefix: str = "step-") -> dict[int, Path]:
    """The folders step-<eight digits> of a run, by their number, in its order.

    Only these names are ours: step-best or step-00000010-good are a user's own.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d{8,})")
    found = {
        int(match[1]): folder
        for folder in run.glob(f"{prefix}*")
        if (match := pattern.fullmatch(folder.name))
        and folder.is_dir()
        and not folder.is_symlink()
    }
    return dict(sorted(found.items()))


def remove_steps(run: Path, before: int, ours: tuple[str, ...]) -> None:
    """Delete the steps of a run before number `before`, half-written ones included.

    In a step only the files named in `ours` are deleted; a user's own file stays, and
    so does the folder around it.
    """
    for number, folder in steps_in(run).items():
        if number < before:
            for name in ours:  # the JSON file first: without it, it is no checkpoint
                with suppress(OSError):
                    (folder / name).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
    for leftover in run.glob(".step-*"):
        match = re.fullmatch(r"\.step-(\d{8,})\.(partial|old)", leftover.name)
        if match and int(match[1]) < before:
            shutil.rmtree(leftover, ignore_errors=True)


def digest(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_embedded(file: Path) -> bytes:
    """The bytes of a file of data/, whose SHA-256 is the one in SHA256SUMS beside it.

    Raises FileNotFoundError where it or the sums are missing, ValueError if it differs.
    """
    sums = file.parent / "SHA256SUMS"
    folder = file.parent.name
    remedy = f"restore it with: git checkout -- data/{folder} (in a clone)"
    for path in (sums, file):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing; {remedy}, or set DDPM_DATA to the repository's "
                "data/ folder"
            )
    lines = sums.read_text(errors="replace").splitlines()
    wanted = {line.split()[-1]: line.split()[0] for line in lines if line.strip()}
    packed = file.read_bytes()
    if hashlib.sha256(packed).hexdigest() != wanted.get(file.name):
        raise ValueError(
            f"{file} ({len(packed)} bytes) is damaged: its SHA-256 is not the one in "
            f"{folder}/SHA256SUMS; {remedy}"
        )
    return packed


def old_name(path: Path) -> Path:
    """What `path` is called while another takes its place."""
    return path.with_name(f".{path.name}.old")


def plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU.

    safetensors stores neither strides nor devices, nor two names of one memory.
    """
    return {
        name: (
            tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        )
        for name, tensor in tensors.items()
    }


def flush(path: Path) -> None:
    """Wait until the file or folder is on the disk.

    So that the rename after it cannot come first.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
