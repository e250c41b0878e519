"""Which checks of a chapter were ever seen to fail, and which mistakes does it notice?

    make mutants                                               all chapters, two minutes each
    python -m book._tools.mutants 05 bound [--budget 600]      some, by a part of their names
    python -m book._tools.mutants --page                       run nothing, write the page

Plants small mistakes, one at a time, in the package's mathematics and in a chapter's own
cells (mistakes.py), runs the cells that they can reach (rehearsal.py), and keeps what was
noticed in data/results/mutants.json, which book/checked.md is written from. Goes on where
it was. A chapter begins anew when its code, or a module that it runs, has changed, with
the mistakes that made its checks fail before. What only draws does not count, nor what
only hastens: folded cells, LOOKS, HASTE. Cells are numbered among the code cells.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from book._tools import rehearsal
from book._tools.mistakes import Mistake, in_turn, misprints, of_cell, of_module
from book._tools.notebooks import ROOT, notebooks, read
from book._tools.reaches import file_of, meaning, plain

STORE = ROOT / "data" / "results" / "mutants.json"
COMMAND, SEED, BUDGET = "python -m book._tools.mutants", 0, 120.0
MATHEMATICS = (
    "bits", "bound", "codec", "coding", "data", "exact", "features", "forward",
    "gaussian", "metrics", "model", "objectives", "reverse", "sampling", "schedule",
    "runtime.descent", "streams", "training", "unet", "after",
)  # fmt: skip
OF_DATA = ("data.to_model_range", "data.to_uint8")  # the rest of it reads files
LOOKS = ("ddpm_core.figures", "ddpm_core._page", "ddpm_core.playgrounds")
HASTE = ("ddpm_core.fast", "ddpm_core.runtime.hardware")  # the same numbers, sooner
NOTICED = ("check", "stop", "time")  # and "within", "shown", "none": see OUTCOMES
OUTCOMES = {
    "check": "a check failed",
    "stop": "a cell stopped with an error",
    "time": "a cell did not end",
    "within": "a check's numbers changed, and it held",
    "shown": "only what is printed or drawn changed",
    "none": "nothing changed",
}
FOLDED = ("hide-input", "remove-input", "remove-cell")
MUST_HOLD = ("check", "check_zero", "check_mc", "assert")  # check_seen is a misprint's

Name = tuple[str, str, str]  # place, line before, line after


@dataclass
class Check:
    kind: str
    name: str
    cell: int
    seen: Name | None = None  # the mistake that made it fail

    def must_hold(self) -> bool:
        """Not a misprint's, nor one of a file and the hash beside it, which no mistake in the mathematics reaches."""
        return self.kind in MUST_HOLD and "sha256" not in self.name


@dataclass
class Chapter:
    """What is known of one notebook."""

    hash: str = ""
    modules: list[str] = field(default_factory=list)  # those that ran
    possible: int = 0  # mistakes, in what ran
    seconds: float = 0.0
    unsteady: list = field(default_factory=list)  # what varies by itself
    checks: list[Check] = field(default_factory=list)
    mistakes: dict[Name, tuple[str, str | int]] = field(default_factory=dict)

    def must_hold(self) -> list[Check]:
        return [check for check in self.checks if check.must_hold()]

    def count(self, *outcomes: str) -> int:
        return sum(outcome in outcomes for outcome, _ in self.mistakes.values())

    def complete(self) -> bool:
        return bool(self.hash) and len(self.mistakes) >= self.possible


# What is kept -------------------------------------------------------------------------


def checks_in(source: str) -> bool:
    return any(
        isinstance(node, ast.Assert)
        or isinstance(node, ast.Name)
        and node.id in MUST_HOLD
        for node in ast.walk(ast.parse(source))
    )


def counts(module: str) -> bool:
    """Whether a chapter begins anew when this module has changed."""
    ours = module.startswith(("ddpm_core.", "experiments."))
    return ours and module not in (*LOOKS, *HASTE)


def of_mathematics(module: str) -> bool:
    parts = [f"ddpm_core.{part}" for part in MATHEMATICS]
    return module in parts or module.startswith(tuple(f"{part}." for part in parts))


def of_looks(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module in LOOKS


def folded(nb) -> set[int]:
    """Numbers of the cells that only draw: their code is folded away in the page."""
    return {
        number
        for number, cell in enumerate(rehearsal.code_cells(nb))
        if set(FOLDED) & set(cell.metadata.get("tags", []))
    }


def digest(nb, modules: list[str], root: Path = ROOT) -> str:
    """sha256 of what a notebook computes, without comments and layout, and of these modules.

    A folded cell counts for what it checks and for names that the others take from it; how it draws may change.
    """
    draws, cells = folded(nb), rehearsal.cells_of(nb)
    names = {number: rehearsal.names_of(source) for number, source in cells}
    taken = set().union(*(names[n].reads for n in names if n not in draws))
    for number in names.keys() - draws:
        taken -= names[number].sets
    parts = {
        "code": [
            plain([one for one in ast.parse(source).body if not of_looks(one)])
            for number, source in cells
            if number not in draws or names[number].sets & taken or checks_in(source)
        ],
        "modules": {
            name: meaning(file) if (file := file_of(name, root)) else "gone"
            for name in sorted(modules)
        },
    }
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def load(store: Path = STORE) -> dict[str, Chapter]:
    if not store.exists():
        return {}
    found = {}
    for name, kept in json.loads(store.read_text())["chapters"].items():
        names = [tuple(row[:3]) for row in kept["mistakes"]]
        found[name] = Chapter(
            kept["hash"], kept["modules"], kept["possible"], kept["seconds"],
            kept["unsteady"],
            [
                Check(kind, said, cell, None if seen is None else names[seen])
                for kind, said, cell, seen in kept["checks"]
            ],
            {n: (row[3], row[4]) for n, row in zip(names, kept["mistakes"])},
        )  # fmt: skip
    return found


def save(chapters: dict[str, Chapter], store: Path = STORE) -> None:
    """One line for each check and each mistake; whole or not at all."""
    from importlib.metadata import version

    say = lambda value: json.dumps(value, ensure_ascii=False)
    rows = lambda values: ",\n".join(f"    {say(value)}" for value in values)
    parts = []
    for name, one in sorted(chapters.items()):
        place = {mistake: k for k, mistake in enumerate(one.mistakes)}
        checks = [
            [c.kind, c.name, c.cell, None if c.seen is None else place[c.seen]]
            for c in one.checks
        ]
        mistakes = [[*mistake, *said] for mistake, said in one.mistakes.items()]
        parts.append(
            f'  {say(name)}: {{\n   "hash": {say(one.hash)},\n'
            f'   "modules": {say(one.modules)},\n   "possible": {one.possible},\n'
            f'   "seconds": {one.seconds:.0f},\n   "unsteady": {say(one.unsteady)},\n'
            f'   "checks": [\n{rows(checks)}\n   ],\n'
            f'   "mistakes": [\n{rows(mistakes)}\n   ]\n  }}'
        )
    versions = {"python": platform.python_version()} | {
        package: version(package) for package in ("torch", "numpy", "sympy")
    }
    text = (
        f'{{\n "command": {say(COMMAND)},\n "seed": {SEED},\n'
        f' "versions": {say(versions)},\n "check": ["kind", "name", "cell", '
        '"the mistake that made it fail"],\n "mistake": ["place", "before", "after", '
        '"what happened", "the check that failed, or the error"],\n "chapters": {\n'
        + ",\n".join(parts)
        + "\n }\n}\n"
    )
    store.parent.mkdir(parents=True, exist_ok=True)
    draft = store.with_suffix(".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(store)


# One chapter, in a process of its own -------------------------------------------------


def planted_in(nb, survey: rehearsal.Survey, root: Path, seed: int) -> list[Mistake]:
    """All mistakes that can be planted in lines that this chapter runs, in their order."""
    ran = set().union(*survey.lines.values())
    found: list[Mistake] = []
    for module in sorted({name for name, _ in ran}):
        if of_mathematics(module):
            file = file_of(module, root)
            if file is not None and not module.endswith("__init__"):
                found += [
                    one
                    for one in of_module(file.read_text(encoding="utf-8"), module)
                    if module != "ddpm_core.data" or one.place in OF_DATA
                ]
    draws, spared = folded(nb), misprints(survey.sources.values())
    for number, source in survey.sources.items():
        if number not in draws:
            found += of_cell(source, number, spared)
    return in_turn(
        (
            one
            for one in found
            if any(
                (one.module or f"<cell {one.cell}>", line) in ran
                for line in range(one.first, one.last + 1)
            )
        ),
        seed,
    )


def begins(survey: rehearsal.Survey, one: Mistake) -> int:
    """The first cell that a mistake touches."""
    if one.cell >= 0:
        return one.cell
    return next(number for number in survey.numbers if survey.hit(number, one))


def work(tell: Connection, path: Path, root: Path, old: Chapter, budget: float) -> None:
    """Run one chapter and try mistakes until the time is over. Says what it finds."""
    rehearsal.dies_with_its_parent()
    sys.dont_write_bytecode = True
    os.chdir(path.parent)
    sys.path.insert(0, str(root))
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        rehearsal.guard(folder)
        rehearsal.listen()
        nb = read(path)
        spent = 0.0  # processor time of the copies
        known: set[Name] = set()  # what made checks fail before the chapter changed
        survey, holders = rehearsal.first_run(
            rehearsal.cells_of(nb), root / "ddpm_core", lambda n: tell.send(("ran", n))
        )
        try:
            ran = set().union(*survey.lines.values())
            modules = sorted(
                name for name in {module for module, _ in ran} if counts(name)
            )
            said = digest(nb, modules, root)
            if old.hash == said:
                survey.unsteady |= {
                    tuple(what) if isinstance(what, list) else what
                    for what in old.unsteady
                }
            else:
                known = {alike(check.seen) for check in old.checks if check.seen}
                old = Chapter()
                again = holders[survey.numbers[0]].ask(survey, None, set(), whole=True)
                steady(survey, again)
                spent += again["seconds"]
            sites: dict[tuple, Check] = {}
            for key, (_, _, name) in survey.checks.items():
                if key[:-1] not in survey.unsteady:
                    sites.setdefault(key[:-1], Check(key[1], name, key[0]))
            order = planted_in(nb, survey, root, SEED)
            tell.send(
                ("survey", said, modules, sorted(survey.unsteady, key=str),
                 list(sites.values()), [one.name for one in order])
            )  # fmt: skip
            numbers = {site: k for k, site in enumerate(sites)}
            unseen = {
                site for site, k in numbers.items()
                if sites[site].must_hold()
                and not (k < len(old.checks) and old.checks[k].seen)
            }  # fmt: skip
            left = {one.name: one for one in order if one.name not in old.mistakes}
            aim, first = Aim(survey), [n for n in left if alike(n) in known]
            while left and spent + time.process_time() < budget:
                one = left[first.pop(0)] if first else aim.next(left, unseen)
                del left[one.name]
                found = holders[begins(survey, one)].ask(survey, one, unseen)
                spent += found["seconds"]
                failed = [numbers[site] for site in found["failed"] if site in numbers]
                unseen -= set(found["failed"])
                now = spent + time.process_time()
                tell.send(("tried", one.name, *outcome(found, failed), failed, now))
        finally:
            for holder in holders.values():
                holder.end()
    tell.send(("end", spent + time.process_time()))


def alike(name: Name) -> Name:
    """A mistake without the number of its cell, which others before it change."""
    place, before, after = name
    return "cell" if place.startswith("cell ") else place, before, after


class Aim:
    """Which mistake comes next. Two of three are aimed at a check that has not been seen
    to fail, from near by and from many places; the third is the next in turn."""

    def __init__(self, survey: rehearsal.Survey, most: int = 12) -> None:
        self.survey, self.most, self.turn = survey, most, 0
        self.reach: dict[tuple, list[int]] = {}
        self.tries: dict[tuple, list[str]] = {}

    def cells(self, one: Mistake) -> list[int]:
        """Those that it can reach."""
        key = (one.module, one.cell, one.first, one.last)
        if key not in self.reach:
            later = self.survey.later(begins(self.survey, one))
            self.reach[key] = self.survey.touched(later, one, set())
        return self.reach[key]

    def next(self, left: dict[Name, Mistake], unseen: set[tuple]) -> Mistake:
        self.turn += 1
        if self.turn % 3:
            tried = lambda site: len(self.tries.get(site, ()))
            for site in sorted(unseen, key=lambda site: (tried(site), site)):
                if tried(site) < self.most:
                    near = [one for one in left.values() if site[0] in self.cells(one)]
                    if near:
                        return self.nearest(site, near)
                    self.tries[site] = [""] * self.most
        return next(iter(left.values()))

    def nearest(self, site: tuple, near: list[Mistake]) -> Mistake:
        places = self.tries.setdefault(site, [])

        def price(one: Mistake) -> tuple[int, float]:
            way = (self.survey.seconds[n] for n in self.cells(one) if n <= site[0])
            return places.count(one.place), sum(way)

        best = min(near, key=price)
        places.append(best.place)
        return best


def steady(survey: rehearsal.Survey, again: dict) -> None:
    """A second run without a mistake: what differs is left out, with what does not hold."""
    checks, shown = again["log"]
    for key, (holds, numbers, _) in survey.checks.items():
        if not holds or key not in checks or not checks[key][0]:
            survey.unsteady.add(key[:-1])
        elif not rehearsal.alike(numbers, checks[key][1]):
            survey.unsteady.add(key)
    for number, what in survey.shown.items():
        if not rehearsal.alike(what, shown.get(number)):
            survey.unsteady.add(number)


def outcome(found: dict, failed: list[int]) -> tuple[str, str | int]:
    if failed:
        return "check", failed[0]
    if found["stop"]:
        return ("time" if found["stop"] == "time" else "stop"), found["stop"]
    for what, name in (("changed", "within"), ("shown", "shown")):
        if found[what]:
            return name, ""
    return "none", ""


# All of them --------------------------------------------------------------------------


@dataclass
class Running:
    """A chapter that is being tried."""

    path: Path
    pid: int
    hear: Connection
    spent: float = 0.0
    error: str = ""


def begin(path: Path, root: Path, old: Chapter, budget: float) -> Running:
    hear, tell = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        hear.close()
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, *(() if os.environ.get("BOOK_TRACE") else (2,))):
                os.dup2(null, stream)
            work(tell, path, root, old, budget)
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}, line {last.lineno}"
            with contextlib.suppress(BaseException):
                tell.send(("broke", f"{where}: {type(error).__name__}: {error}"))
        finally:
            os._exit(0)
    tell.close()
    return Running(path, pid, hear)


def hear(running: Running, chapters: dict[str, Chapter]) -> str:
    """Take one message of a chapter into the table. Returns its kind, "gone" at last."""
    try:
        kind, *what = running.hear.recv()
    except EOFError:
        os.waitpid(running.pid, 0)
        return "gone"
    name = running.path.stem
    if kind == "survey":
        now, modules, unsteady, checks, possible = what
        old = chapters.get(name, Chapter())
        if old.hash == now:
            mistakes = {n: s for n, s in old.mistakes.items() if n in set(possible)}
            for check, was in zip(checks, old.checks):
                check.seen = was.seen if was.seen in mistakes else None
        else:
            old, mistakes = Chapter(), {}
        chapters[name] = Chapter(
            now, modules, len(possible), old.seconds, unsteady, checks, mistakes
        )
    elif kind == "tried":
        mistake, result, by, failed, running.spent = what
        chapters[name].mistakes[mistake] = (result, by)
        for number in failed:
            check = chapters[name].checks[number]
            check.seen = check.seen or mistake
    elif kind == "end":
        chapters[name].seconds += what[0]
    elif kind == "broke":
        running.error = what[0]
    return kind


def run(
    paths: list[Path],
    *,
    store: Path = STORE,
    root: Path = ROOT,
    budget: float = BUDGET,
    jobs: int = 1,
) -> Iterator[Running]:
    """Try the mistakes of these notebooks; yields each when it is done or broke."""
    import matplotlib
    import sympy  # noqa: F401  # once, for all forks
    import torch
    from tqdm.auto import tqdm

    matplotlib.use("agg")
    import matplotlib.font_manager
    import matplotlib.pyplot

    torch.set_num_threads(1)
    chapters = load(store)
    waiting, now, saved = list(paths), [], time.monotonic()
    with tqdm(total=round(len(paths) * budget), unit="s") as bar:
        while waiting or now:
            while waiting and len(now) < jobs:
                path = waiting.pop(0)
                old = chapters.get(path.stem, Chapter())
                now.append(begin(path, root, old, budget))
            ready = wait([one.hear for one in now], timeout=1)
            for one in [one for one in now if one.hear in ready]:
                if hear(one, chapters) == "gone":
                    now.remove(one)
                    save(chapters, store)
                    yield one
            if time.monotonic() - saved > 20:
                save(chapters, store)
                saved = time.monotonic()
            done = len(paths) - len(waiting) - len(now)
            spent = done * budget + sum(min(one.spent, budget) for one in now)
            bar.set_postfix_str(", ".join(one.path.stem for one in now), refresh=False)
            bar.update(round(spent) - bar.n)


def current(name: str, one: Chapter, root: Path = ROOT) -> bool:
    """Whether what is stored is of the notebook as it is."""
    path = root / "book" / f"{name}.ipynb"
    return path.exists() and digest(read(path), one.modules, root) == one.hash


def to_look_at(one: Chapter) -> str:
    """For a chapter's author: checks that nothing made fail, mistakes that nobody noticed."""
    unseen = [check for check in one.must_hold() if check.seen is None]
    lines = [
        f"{len(one.must_hold())} checks, {len(unseen)} never seen to fail; "
        f"{len(one.mistakes)} of {one.possible} mistakes tried, "
        f"{one.count(*NOTICED)} noticed, {one.count('none')} without effect",
        "",
        "Never seen to fail:",
        *(f"  cell {check.cell}: {check.kind}: {check.name}" for check in unseen),
        "",
    ]
    for kind in ("within", "shown"):
        lines += [f"Unnoticed, {OUTCOMES[kind]}:"]
        for (place, before, after), (what, _) in one.mistakes.items():
            if what == kind:
                lines += [f"  {place}", f"    - {before}", f"    + {after}"]
        lines += [""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "chapters", nargs="*", help="parts of their names; default: all"
    )
    parser.add_argument(
        "--budget", type=float, default=BUDGET, help="seconds a chapter"
    )
    parser.add_argument("--jobs", type=int, default=1, help="chapters at a time")
    parser.add_argument("--store", type=Path, default=STORE, help="file of the results")
    parser.add_argument("--lists", type=Path, help="folder for a list for each author")
    parser.add_argument("--page", action="store_true", help="only write the page")
    given = parser.parse_args()
    if not given.page:
        chosen = [
            path
            for path in notebooks()
            if not given.chapters or any(word in path.stem for word in given.chapters)
        ]
        if not chosen:
            parser.error(
                f"no chapter's name contains {' or '.join(given.chapters)}; wanted a part "
                "of a file's name in book/, such as 05 or posterior"
            )
        broken = []
        for one in run(chosen, store=given.store, budget=given.budget, jobs=given.jobs):
            if one.error:
                broken.append(f"{one.path.name}: {one.error}")
                continue
            text = to_look_at(load(given.store)[one.path.stem])
            print(f"{one.path.stem}: {text.splitlines()[0]}", flush=True)
            if given.lists:
                given.lists.mkdir(parents=True, exist_ok=True)
                (given.lists / f"{one.path.stem[:2]}.txt").write_text(text)
        if broken:
            sys.exit("\n".join(broken))
    from book._tools.checked import write

    if given.page or given.store == STORE:
        write()


if __name__ == "__main__":
    main()
