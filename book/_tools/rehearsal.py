"""Run a notebook's cells with checks that record instead of raise, and again with a mistake
planted, from the place on where it begins to matter.

One process runs all cells once and forks before each: the copies wait. To try a mistake,
the copy that stands before the first cell it touches forks once more, plants it there and
runs those cells only that the mistake can reach, and those that these need. Which ones
that are was seen in the first run: lines of the package that a cell executed, names that
it reads, sets or changes, random generators that it draws from. Needs os.fork.

No file changes: sources are edited in memory, and a hook refuses to write anywhere but
in a temporary folder.
"""

import ast
import contextlib
import ctypes
import gc
import io
import os
import random
import resource
import signal
import symtable
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from book._tools.mistakes import CHECKS, Mistake, made, root
from book._tools.notebooks import is_setup

ALIKE = 1e-9  # numbers that differ by less, relatively, are the same: rounding
PATIENCE, LEAST = 8, 10.0  # a cell may take so many times as long, or so many seconds,
BUSY = (
    20  # of processor time; and so many times that by the clock, before it is stopped
)
MEMORY = 6 << 30  # bytes that a planted mistake may ask for on top
SETTINGS = ("set_default_dtype", "style.use", "rcParams", "set_grad_enabled")


class Late(BaseException):
    """A cell's time is over. No Exception, so that no cell catches it."""


# What was noticed ---------------------------------------------------------------------


@dataclass
class Log:
    """What one run says."""

    cell: int = -1
    checks: dict = field(default_factory=dict)  # key -> (holds, numbers, name)
    shown: dict = field(default_factory=dict)  # cell -> what was printed or drawn
    times: dict = field(default_factory=dict)  # site -> how often it was passed

    def check(self, kind: str, name: str, holds: bool, numbers: object) -> None:
        site = (self.cell, kind, *_lines(self.cell))
        self.times[site] = nth = self.times.get(site, -1) + 1
        self.checks[(*site, nth)] = (holds, numbers, " ".join(str(name).split()))

    def show(self, what: object) -> None:
        self.shown.setdefault(self.cell, []).append(what)


LOG = Log()


def _lines(cell: int) -> tuple[int, int]:
    """The statement of the cell that is running, and the line that calls the check."""
    frame, own, outer = sys._getframe(1), 0, 0
    while frame is not None:
        if frame.f_code.co_filename == f"<cell {cell}>":
            own = own or frame.f_lineno
            outer = frame.f_lineno
        elif frame.f_code.co_filename.startswith("<cell "):
            own = own or frame.f_lineno
        frame = frame.f_back
    return outer, own


def summary(value: Any) -> object:
    """A few numbers that change when a value does."""
    import numpy as np

    if value is None or isinstance(value, (str, bytes, bool)):
        return value
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu().double().numpy()
        x = np.asarray(value, dtype=np.float64).ravel()
    except Exception:
        return str(value)[:2000]
    if not x.size:
        return (0.0,)
    bad = ~np.isfinite(x)
    y = np.where(bad, 0.0, x)
    size = float(np.abs(y).sum())
    return (
        float(x.size),
        float(bad.sum()),
        size,
        float(y.sum()),
        float(y @ uneven(x.size)),
    )


@lru_cache(maxsize=64)
def uneven(n: int):
    """Weights without any order, so that what moves its numbers about is seen, too."""
    import numpy as np

    return np.random.default_rng(n).random(n)


def alike(one: object, two: object) -> bool:
    if isinstance(one, (tuple, list)) and isinstance(two, (tuple, list)):
        if len(one) != len(two):
            return False
        if len(one) == 5 and all(isinstance(v, float) for v in (*one, *two)):
            scale = ALIKE * max(one[2], two[2])
            return one[:2] == two[:2] and all(
                abs(a - b) <= scale for a, b in zip(one[2:], two[2:])
            )
        return all(map(alike, one, two))
    return one == two


def listen() -> None:
    """Checks record, drawings say their numbers and are not drawn."""
    from ddpm_core import _page, checks, figures

    def recording(kind: str, original: Callable) -> Callable:
        def recorder(name, *given, **more):
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    original(name, *given, **more)
                holds = True
            except Exception:
                holds = False
            values = [*given, *more.values()]
            if kind == "check_zero":
                numbers = str(values[0])[:2000]
            else:
                numbers = [summary(v) for v in values]
            LOG.check(kind, name, holds, numbers)

        return recorder

    for kind in CHECKS:
        setattr(checks, kind, recording(kind, getattr(checks, kind)))

    def drawn(fig: Any, *_: object) -> tuple[str, ...]:
        for ax in fig.axes:
            LOG.show([summary(line.get_xydata()) for line in ax.lines])
            LOG.show([summary(image.get_array()) for image in ax.images])
            LOG.show([summary(c.get_offsets()) for c in ax.collections])
            LOG.show([summary(c.get_array()) for c in ax.collections])
            LOG.show([summary(p.get_path().vertices) for p in ax.patches])
            LOG.show([t.get_text() for t in ax.texts])
        return ("",)

    def pixels(array: Any, colours: object = None) -> bytes:
        LOG.show(summary(array))
        return b""

    def still(fig: Any) -> Any:
        import numpy as np

        drawn(fig)
        return np.zeros((2, 2, 4), np.uint8)

    class Slider(figures.FrameSlider):
        def __init__(self, *given, **more):
            super().__init__(*given, **more)
            LOG.show(summary(self.frames))

    _page.vector, _page.drawings = drawn, drawn
    figures._png, figures._pixels = pixels, still
    figures.FrameSlider = Slider


# Cells --------------------------------------------------------------------------------


class Recording(ast.NodeTransformer):
    """An assertion says what it found, and goes on; the last expression is shown."""

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        text = ast.unparse(node.test)
        test = Operands().visit(node.test)
        call = ast.Call(
            ast.Name("_book_holds", ast.Load()), [ast.Constant(text), test], []
        )
        return ast.copy_location(ast.Expr(call), node)

    def visit_Module(self, node: ast.Module) -> ast.Module:
        self.generic_visit(node)
        if node.body and isinstance(node.body[-1], ast.Expr):
            last = node.body[-1]
            call = ast.Call(ast.Name("_book_shows", ast.Load()), [last.value], [])
            node.body[-1] = ast.copy_location(ast.Expr(call), last)
        return node


class Operands(ast.NodeTransformer):
    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        look = lambda part: ast.Call(ast.Name("_book_looks", ast.Load()), [part], [])
        node.left, node.comparators = look(node.left), list(map(look, node.comparators))
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        return node

    visit_GeneratorExp = visit_ListComp = visit_SetComp = visit_DictComp = visit_Lambda


LOOKED: list = []


def _book_looks(value: Any) -> Any:
    LOOKED.append(summary(value))
    return value


def _book_holds(text: str, value: Any) -> None:
    LOG.check("assert", text, bool(value), list(LOOKED))
    LOOKED.clear()


def _book_shows(value: Any) -> None:
    if value is not None:
        LOG.show(repr(value)[:20_000])


TOOLS = dict(_book_looks=_book_looks, _book_holds=_book_holds, _book_shows=_book_shows)


def code_cells(nb) -> list:
    """The code cells, without the set-up cell. Text that comes or goes leaves their numbers alone."""
    return [c for c in nb.cells if c.cell_type == "code" and not is_setup(c)]


def cells_of(nb) -> list[tuple[int, str]]:
    """Number, counted from 0, and source of the code cells; magics as empty lines."""
    return [
        (
            number,
            "\n".join(
                "" if line[:1] in ("%", "!") else line
                for line in cell.source.splitlines()
            ),
        )
        for number, cell in enumerate(code_cells(nb))
    ]


def compiled(source: str, number: int) -> types.CodeType:
    tree = ast.fix_missing_locations(Recording().visit(ast.parse(source)))
    return compile(tree, f"<cell {number}>", "exec", dont_inherit=True)


def run_cell(code: types.CodeType, number: int, space: dict) -> None:
    LOG.cell = number
    LOOKED.clear()
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            exec(code, space)
    finally:
        LOG.show(out.getvalue())


# What a cell reads, sets and changes --------------------------------------------------


@dataclass
class Names:
    """Names in a cell's source."""

    reads: set[str] = field(default_factory=set)
    sets: set[str] = field(default_factory=set)  # anywhere, and what they are part of
    anew: set[str] = field(default_factory=set)  # set in any case, outside of functions
    inside: list = field(default_factory=list)  # of functions: first, last line, reads
    settings: bool = False


def names_of(source: str) -> Names:
    found = Names(settings=any(word in source for word in SETTINGS))
    tree = ast.parse(source)
    found.reads = asked_for(tree.body, set())
    for statement in tree.body:
        found.anew |= made(statement)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.sets.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.sets |= {(n.asname or n.name).split(".")[0] for n in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.sets.add(node.name)
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            inner = from_outside(node)
            found.inside.append((node.lineno, node.end_lineno, inner))
        if isinstance(node, (ast.Subscript, ast.Attribute)):
            whole = root(node)
            in_place = isinstance(node, ast.Attribute) and node.attr.endswith("_")
            if whole and (in_place or not isinstance(node.ctx, ast.Load)):
                found.sets.add(whole)
    return found


def asked_for(block: list, known: set[str]) -> set[str]:
    """Names that these statements read before they set them."""
    reads, known = set(), set(known)
    for node in block:
        if isinstance(node, ast.For):
            reads |= from_outside(node.iter) - known
            inner = known | made(node)
            reads |= asked_for([*node.body, *node.orelse], inner)
        elif isinstance(node, (ast.If, ast.While)):
            reads |= from_outside(node.test) - known
            reads |= asked_for(node.body, known) | asked_for(node.orelse, known)
        else:
            reads |= from_outside(node) - known
            known |= made(node)
    return reads


def from_outside(node: ast.AST) -> set[str]:
    """Global names that a piece of code reads."""
    tables, found = [symtable.symtable(ast.unparse(node), "cell", "exec")], set()
    for table in tables:
        tables += table.get_children()
        for symbol in table.get_symbols():
            outside = symbol.is_global() or table.get_type() == "module"
            if outside and symbol.is_referenced():
                found.add(symbol.get_name())
    if isinstance(node, ast.AugAssign):
        found.add(root(node.target))
    return found


def state_of(value: Any, depth: int = 2) -> object:
    """What changes when an object is changed in place; generators apart, at the top."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        with contextlib.suppress(RuntimeError):
            return id(value), value._version, value.requires_grad
        return id(value)
    if isinstance(value, torch.nn.Module):
        parts = [*value.parameters(), *value.buffers()]
        return id(value), value.training, tuple(state_of(p) for p in parts)
    if isinstance(value, np.ndarray):
        return id(value), hash(value.tobytes()) if value.nbytes < 1 << 20 else 0
    if isinstance(value, (torch.Generator, np.random.Generator)):
        return id(value), (hash(repr(_saved(value))) if depth < 2 else 0)
    if isinstance(value, (list, tuple, set, frozenset)):
        some = list(value)[:200] if depth else []
        return id(value), len(value), tuple(state_of(v, depth - 1) for v in some)
    if isinstance(value, dict):
        some = list(value.values())[:200] if depth else []
        return id(value), len(value), tuple(state_of(v, depth - 1) for v in some)
    if hasattr(value, "__next__"):
        return object()
    fixed = (types.ModuleType, types.FunctionType, type, str, bytes, int, float)
    if depth and hasattr(value, "__dict__") and not isinstance(value, fixed):
        return id(value), state_of(vars(value), depth - 1)
    return id(value)


def digest(value: Any, depth: int = 4) -> object:
    """A value in short, to be compared by `alike`; what cannot be told is like nothing."""
    import numpy as np
    import torch

    deeper = lambda values: [digest(v, depth - 1) for v in list(values)[:300]]
    if isinstance(value, (type(None), bool, str, bytes)):
        return value
    if isinstance(value, (int, float, complex, np.ndarray, np.generic, torch.Tensor)):
        return [type(value).__name__, str(getattr(value, "shape", "")), summary(value)]
    if isinstance(value, (torch.Generator, np.random.Generator)):
        return "generator"  # see `restore`
    if isinstance(value, (types.ModuleType, type)):
        return value.__name__
    origin = str(type(value).__module__)  # sympy makes classes that have none
    if origin.startswith(("matplotlib", "ddpm_core.figures")):
        return "drawing"  # its numbers are in the log
    if isinstance(value, types.CodeType):
        names = value.co_names, value.co_varnames, value.co_freevars
        return [value.co_code, repr(names), deeper(value.co_consts)]
    if depth == 0:
        return float("nan")
    if isinstance(value, types.FunctionType):
        with contextlib.suppress(ValueError):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            return [digest(value.__code__), deeper(cells)]
        return float("nan")
    if isinstance(value, torch.nn.Module):
        return [value.training, deeper((*value.parameters(), *value.buffers()))]
    if isinstance(value, (list, tuple)):
        return [len(value), deeper(value)]
    if isinstance(value, dict):
        return [len(value), deeper(value.keys()), deeper(value.values())]
    if hasattr(value, "free_symbols"):
        return str(value)
    if hasattr(value, "__dict__") and not hasattr(value, "__next__"):
        return [type(value).__name__, digest(vars(value), depth - 1)]
    return float("nan")


def _saved(generator: Any) -> Any:
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.get_state().numpy().tobytes()


def randomness(space: dict) -> dict[str, Any]:
    """The states of the global generators and of those that have a name."""
    import numpy as np
    import torch

    found = {
        "<torch>": torch.get_rng_state().numpy().tobytes(),
        "<numpy>": repr(np.random.get_state(legacy=True)[1].tobytes()),
        "<random>": hash(random.getstate()),
    }
    for name, value in space.items():
        if isinstance(value, (torch.Generator, np.random.Generator)):
            found[name] = _saved(value)
    return found


def restore(states: dict[str, Any], space: dict, but: set[str]) -> None:
    import numpy as np
    import torch

    of_bytes = lambda state: torch.frombuffer(bytearray(state), dtype=torch.uint8)
    for name, state in states.items():
        if name in but or name in ("<numpy>", "<random>"):
            continue
        if name == "<torch>":
            torch.set_rng_state(of_bytes(state))
        elif isinstance(space.get(name), torch.Generator):
            space[name].set_state(of_bytes(state))
        elif isinstance(space.get(name), np.random.Generator):
            space[name].bit_generator.state = state


@dataclass
class Survey:
    """What the first run of a notebook showed."""

    numbers: list[int] = field(default_factory=list)
    cells: dict[str, int] = field(default_factory=dict)  # "<cell 7>" -> 7
    sources: dict[int, str] = field(default_factory=dict)
    names: dict[int, Names] = field(default_factory=dict)
    sets: dict[int, set[str]] = field(default_factory=dict)  # and changes in place
    values: dict[int, dict] = field(default_factory=dict)  # of what it sets, in short
    lines: dict[int, set] = field(default_factory=dict)  # (file, line) executed
    before: dict[int, dict] = field(default_factory=dict)  # randomness
    after: dict[int, dict] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    checks: dict = field(default_factory=dict)
    shown: dict = field(default_factory=dict)
    unsteady: set = field(
        default_factory=set
    )  # checks and cells that vary by themselves

    def draws(self, number: int) -> set[str]:
        now, then = self.after[number], self.before[number]
        return {name for name in now if name in then and now[name] != then[name]}

    def finish(self) -> None:
        """What a cell reads, those names inside of the functions that ran in it too; and
        the cells whose functions ran."""
        self.reads, self.ran = {}, {}
        for number in self.numbers:
            found, cells = set(self.names[number].reads), set()
            for module, line in self.lines[number]:
                if module in self.cells:
                    cells.add(self.cells[module])
                    for first, last, names in self.names[self.cells[module]].inside:
                        if first <= line <= last:
                            found |= names
            self.reads[number], self.ran[number] = found, cells - {number}

    def hit(self, number: int, one: Mistake | None) -> bool:
        """Whether a cell runs the line that has the mistake."""
        return one is None or (
            number == one.cell
            or any(
                (one.module, line) in self.lines[number]
                for line in range(one.first, one.last + 1)
            )
        )

    def touched(self, later: list[int], one: Mistake | None, dirty: set) -> list[int]:
        """Those of these cells that a mistake can reach, when these names differ."""
        dirty, found = set(dirty), []
        for number in later:
            if (
                self.hit(number, one)
                or not dirty.isdisjoint(self.reads[number])
                or not self.ran[number].isdisjoint(found)
            ):
                found.append(number)
                dirty |= self.sets[number]
            else:
                dirty -= self.names[number].anew
        return found

    def needed(self, later: list[int], wanted: list[int]) -> list[int]:
        """Of these cells those that are wanted, and those that they need."""
        plan = set(wanted) | {n for n in later if self.names[n].settings}
        for k in range(len(later) - 1, -1, -1):
            if later[k] not in plan:
                continue
            missing = set(self.reads[later[k]])
            for earlier in reversed(later[:k]):
                if not missing.isdisjoint(self.sets[earlier]):
                    plan.add(earlier)
                    missing -= self.names[earlier].anew
        return [n for n in later if n in plan]

    def later(self, start: int) -> list[int]:
        return self.numbers[self.numbers.index(start) :]


# Forks --------------------------------------------------------------------------------


def forked(do: Callable[[], Any], limit: float) -> Any:
    """What a forked copy of this process returns; None when its time was over, or it died."""
    here, there = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        dies_with_its_parent()
        here.close()
        with contextlib.suppress(BaseException):
            there.send(do())
        os._exit(0)
    there.close()
    answer = None
    if here.poll(limit):
        with contextlib.suppress(EOFError, OSError):
            answer = here.recv()
        answer = "died" if answer is None else answer
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    here.close()
    return answer


def dies_with_its_parent() -> None:
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, on Linux


def guard(allowed: str) -> None:
    """From here on this process and its copies write below `allowed` only, and start none."""
    inside = (os.path.realpath(allowed) + os.sep, "/dev/")
    changing = {
        "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link",
        "os.symlink", "shutil.rmtree", "shutil.move", "shutil.copyfile",
    }  # fmt: skip

    def hook(event: str, given: tuple) -> None:
        if event in ("subprocess.Popen", "os.system", "os.exec"):
            raise PermissionError(f"{event}: a rehearsal starts no other program")
        paths: tuple = ()
        if event == "open":
            path, mode, flags = given
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and isinstance(path, (str, bytes, os.PathLike)):
                paths = (path,)
        elif event in changing:
            paths = tuple(g for g in given if isinstance(g, (str, bytes, os.PathLike)))
        for path in paths:
            full = os.path.realpath(os.fsdecode(path))
            if not (full + os.sep).startswith(inside):
                raise PermissionError(f"{event} {full}: a rehearsal changes no file")

    sys.addaudithook(hook)


@contextlib.contextmanager
def tracing(package: Path, found: set) -> Iterator[None]:
    """Collect (module, line) of the lines that run in the package and in cells."""
    root, known = str(package) + os.sep, {}

    def module_of(file: str) -> str | None:
        if file not in known:
            known[file] = None
            if file.startswith(root):
                parts = Path(file).relative_to(package.parent).with_suffix("").parts
                known[file] = ".".join(parts)
            elif file.startswith("<cell "):
                known[file] = file
        return known[file]

    left: dict[tuple, set[int]] = {}  # lines that were not yet seen

    def start(frame, event, argument):
        code = frame.f_code
        name = module_of(code.co_filename)
        if name is None:
            return None
        key = (name, code.co_qualname, code.co_firstlineno)
        if key not in left:
            left[key] = {line for *_, line in code.co_lines() if line is not None}
        if not (waiting := left[key]):
            return None

        def inside(frame, event, argument):
            if event == "line":
                line = frame.f_lineno
                if line in waiting:
                    waiting.discard(line)
                    found.add((name, line))
                elif not waiting:
                    return None
            return inside

        found.add((name, frame.f_lineno))
        return inside

    sys.settrace(start)
    try:
        yield
    finally:
        sys.settrace(None)


def plant(one: Mistake, package: Path) -> None:
    """Put a mistake into a function of the package: every reference to it sees it."""
    import importlib

    module = importlib.import_module(one.module)
    file = Path(module.__file__)
    source = file.read_text(encoding="utf-8")
    new, old = (
        {c.co_qualname: c for c in _codes(compile(text, str(file), "exec"))}
        for text in (one.planted(source), source)
    )
    changed = {
        name
        for name in new
        if name in old and new[name] != old[name] and "<locals>" not in name
    }
    for function in gc.get_objects():
        if type(function) is types.FunctionType:  # asks no lazy object anything
            code = function.__code__
            if code.co_filename == str(file) and code.co_qualname in changed:
                if code.co_firstlineno == new[code.co_qualname].co_firstlineno:
                    function.__code__ = new[code.co_qualname]


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield inner
            yield from _codes(inner)


def trial(
    survey: Survey,
    start: int,
    one: Mistake | None,
    space: dict,
    package: Path,
    goals: set[int],
    wanted: set,
    whole: bool,
) -> dict:
    """Run with the mistake the cells among `goals` that it can reach, and what they need.

    wanted  checks that were not yet seen to fail: with none of them ahead, the first
            failure ends the run
    whole   run all cells from the start on; else random generators are set, before each
            cell, as they were in the first run
    """
    LOG.checks, LOG.shown, LOG.times = {}, {}, {}
    with contextlib.suppress(ValueError, OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    said = dict(SILENT)
    if one is not None and one.module:
        plant(one, package)

    def late(*_):
        raise Late

    signal.signal(signal.SIGPROF, late)  # processor time: others may be at work, too
    astray: set[str] = set()  # generators that went another way
    dirty: set[str] = set()  # names that hold something else
    later, reached = survey.later(start), set()
    while later:
        touched = later if whole else survey.touched(later, one, dirty)
        plan = survey.needed(later, [n for n in touched if n in goals])
        if not set(touched) & set(plan):
            break
        number = plan[0]
        later = later[later.index(number) + 1 :]
        source = survey.sources[number]
        if one is not None and number == one.cell:
            source = one.planted(source)
        if not whole and number != start:
            restore(survey.before[number], space, astray)
        limit = max(LEAST, PATIENCE * survey.seconds[number])
        signal.setitimer(signal.ITIMER_PROF, limit)
        try:
            run_cell(compiled(source, number), number, space)
        except Late:
            said["stop"] = "time"
        except BaseException as error:
            said["stop"] = type(error).__name__
            if os.environ.get("BOOK_TRACE"):
                traceback.print_exc()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        failed = [
            key[:-1]
            for key, (holds, *_) in LOG.checks.items()
            if not holds and key[:-1] not in survey.unsteady
        ]
        said["failed"] = list(dict.fromkeys(failed))
        if said["stop"]:
            break
        if number in touched:
            reached.add(number)
            for name, was in survey.values[number].items():
                same = name in space and alike(digest(space[name]), was)
                (dirty.discard if same else dirty.add)(name)
            now = randomness(space)
            for name, state in () if whole else survey.after[number].items():
                if now.get(name) != state and name not in astray:
                    astray.add(name)
                    if any(name in survey.draws(n) for n in later):
                        return said | dict(strayed=True, seconds=time.process_time())
        else:
            dirty -= survey.names[number].anew
        if failed and wanted is not None:
            ahead = {n for n in touched if n in later}
            if not any(site[0] in ahead for site in wanted - set(failed)):
                break
    for key, (_, numbers, _) in LOG.checks.items():
        if key not in survey.unsteady and key[:-1] not in survey.unsteady:
            was = survey.checks.get(key)
            said["changed"] |= was is None or not alike(numbers, was[1])
    for number in reached - survey.unsteady:
        said["shown"] |= not alike(LOG.shown.get(number), survey.shown.get(number))
    if one is None:
        said["log"] = LOG.checks, LOG.shown
    return said | dict(seconds=time.process_time())


SILENT = dict(
    failed=[], changed=False, shown=False, stop="", strayed=False, seconds=0.0
)  # what a run says by which nothing changes


class Holder:
    """A copy of the process as it was before one cell, which tries mistakes there."""

    def __init__(self, number: int, space: dict, package: Path) -> None:
        self.told = False
        self.here, there = Pipe()
        self.pid = os.fork()
        if self.pid:
            there.close()
            return
        dies_with_its_parent()
        try:
            survey: Survey = there.recv()
            while (task := there.recv()) is not None:
                there.send(self.answer(survey, number, space, package, *task))
        finally:
            os._exit(0)

    @staticmethod
    def answer(survey, start, space, package, one, wanted, whole) -> dict:
        checking = {key[0] for key in survey.checks}
        cells = set(survey.numbers)

        def run(goals: set[int], whole: bool) -> dict:
            times = [survey.seconds[n] for n in survey.later(start)]
            longest = sorted(max(LEAST, PATIENCE * t) for t in times)[-3:]
            answer = forked(
                lambda: trial(survey, start, one, space, package, goals, wanted, whole),
                BUSY * (sum(longest) + PATIENCE * sum(times)),
            )
            if isinstance(answer, dict):
                return answer
            return SILENT | dict(stop="time" if answer is None else "died")

        if whole:
            return run(cells, True)
        said = run(checking, False)
        spent = said["seconds"]
        if said | dict(seconds=0.0) == SILENT:
            said = run(cells, False)
            spent += said["seconds"]
        if said["strayed"]:
            said = run(cells, True)
            spent += said["seconds"]
        return said | dict(seconds=spent)

    def ask(
        self, survey: Survey, one: Mistake | None, wanted: set, whole=False
    ) -> dict:
        if not self.told:
            self.here.send(survey)
            self.told = True
        self.here.send((one, wanted, whole))
        return self.here.recv()

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.here.close()


def first_run(
    cells: list[tuple[int, str]], package: Path, said: Callable[[int], None] = id
) -> tuple[Survey, dict[int, Holder]]:
    """Run all cells once, leaving a copy before each. Raises what a cell raises."""
    survey, holders = Survey(), {}
    space: dict = {"__name__": "__main__", **TOOLS}
    LOG.checks, LOG.shown, LOG.times = {}, {}, {}
    for number, source in cells:
        code = compiled(source, number)
        holders[number] = Holder(number, space, package)
        names = names_of(source)
        watched = {n: state_of(space[n]) for n in names.reads if n in space}
        survey.numbers.append(number)
        survey.cells[f"<cell {number}>"] = number
        survey.sources[number], survey.names[number] = source, names
        survey.before[number] = randomness(space)
        survey.lines[number] = set()
        began = time.process_time()
        with tracing(package, survey.lines[number]):
            run_cell(code, number, space)
        survey.seconds[number] = time.process_time() - began
        survey.after[number] = randomness(space)
        survey.sets[number] = names.sets | {
            n for n, was in watched.items() if state_of(space.get(n)) != was
        }
        survey.values[number] = {
            n: digest(space[n]) for n in survey.sets[number] if n in space
        }
        said(number)
    survey.checks, survey.shown = dict(LOG.checks), dict(LOG.shown)
    survey.finish()
    return survey, holders
