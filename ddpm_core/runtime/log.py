"""The log of a run, as lines of JSON and for TensorBoard; and its progress bar."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor


class Log:
    """log.jsonl in the folder of a run.

    On resuming, lines after the checkpoint are dropped and the clock goes on.

    board  a folder for TensorBoard's event files of the same, or None
    """

    def __init__(self, out: Path | None, step: int, board: Path | None = None):
        self.file = out / "log.jsonl" if out else None
        self.board, self.step = board, step
        self.writer: Any = None
        lines = (
            read_log(self.file)
            if self.file is not None and step and self.file.exists()
            else []
        )
        self.kept: list[dict[str, Any]] | None = [
            line for line in lines if line["step"] <= step
        ]
        self.began = time.monotonic() - (self.kept[-1]["seconds"] if self.kept else 0.0)

    def seconds(self) -> float:
        """Since the run began, the time of its earlier parts included."""
        return time.monotonic() - self.began

    def write(self, step: int, loss: float, lr: float) -> None:
        """A line. Nothing is written before there is something to say."""
        line = dict(
            step=step, loss=round(loss, 6), lr=lr, seconds=round(self.seconds(), 1)
        )
        if self.file is not None:
            try:
                self._append(self.file, line)
            except OSError as error:
                raise OSError(
                    f"{self.file} could not be written ({error}); the checkpoints "
                    "beside it are untouched. Free some space and go on with "
                    "resume=True (--resume)"
                ) from error
        if self.board is not None:
            self._writer().add_scalar("loss", loss, step)
            self._writer().add_scalar("lr", lr, step)

    def picture(self, step: int, pixels: Tensor) -> None:
        """Show uint8 (H, W) or (H, W, C) on the board, if there is one."""
        if self.board is not None:
            kind = "HWC"[: pixels.ndim]
            self._writer().add_image("samples", pixels, step, dataformats=kind)

    def _writer(self) -> Any:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # purge_step hides what a resumed run repeats
            self.writer = SummaryWriter(
                self.board, purge_step=self.step + 1 if self.step else None
            )
        return self.writer

    def _append(self, file: Path, line: dict[str, Any]) -> None:
        if self.kept is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(f".{file.name}.partial")
            partial.write_text(
                "".join(json.dumps(line) + "\n" for line in self.kept), encoding="utf-8"
            )
            partial.replace(file)
            self.kept = None
        with file.open("a", encoding="utf-8") as end:
            end.write(json.dumps(line) + "\n")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


@contextmanager
def open_log(
    first: bool, out: Path | None, step: int, board: Path | None
) -> Iterator[Log]:
    """Rank 0 has a log; the others have one that writes nothing."""
    log = Log(out, step, board) if first else Log(None, step)
    try:
        yield log
    finally:
        log.close()


def board_folder(tensorboard: bool | str | Path, out: Path | None) -> Path | None:
    """Where TensorBoard's files go, if anywhere. Raises now if they could not."""
    if not tensorboard:
        return None
    if not isinstance(tensorboard, bool):
        folder = Path(tensorboard)
    elif out is not None:
        folder = out / "tensorboard"
    else:
        raise ValueError(
            "tensorboard=True needs out=, the folder of the run; or name a folder: "
            'tensorboard="runs/board"'
        )
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise FileNotFoundError(
            "event files are written by tensorboard, which is not installed; "
            "run: pip install tensorboard"
        ) from error
    return folder


def read_log(file: str | Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; a last line cut short by a crash is left out."""
    lines = Path(file).read_text(encoding="utf-8-sig").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def bar(progress: bool, done: int, steps: int) -> Any:
    """A progress bar for `steps` steps, of which so many are done."""
    from tqdm.auto import tqdm

    return tqdm(
        total=steps,
        initial=done,
        unit="step",
        desc="training",
        disable=not progress,
        dynamic_ncols=True,
    )
