"""Write book/checked.md, "How the checks were checked", from data/results/mutants.json.

    python -m book._tools.mutants --page

Has no figure of its own. A chapter whose code has changed since is marked.
"""

import re

from book._tools.index_pages import chapter
from book._tools.mutants import NOTICED, Chapter, current, load
from book._tools.notebooks import BOOK, notebooks

PAGE = BOOK / "checked.md"
STALE = "\\*"
HEAD = """\
# How the checks were checked

<!-- Written by book/_tools/checked.py from data/results/mutants.json. -->

"""
WHAT = """\
## What a check is

A check compares two ways to the same number and fails when they differ: two computations
(`check`), a formula and zero (`check_zero`), an average and what is expected of it
(`check_mc`). A plain `assert` counts as a check, too, but not one that holds a file to the
hash written beside it: no mistake in the mathematics reaches that. A `check_seen` does not
count. It holds a misprint beside the right formula, and fails only where the two are the
same. But a mistake that makes one fail is noticed.

A check can be worth nothing. It may compare a thing with itself. Its tolerance may be too
wide. It may compare two numbers that were both read from a file. All of these pass, and
look like the others. To see a check fail is the only proof that it can.

## How mistakes were planted

A program edits one line, in memory, and runs the chapter. The edit is a small mistake, as
somebody makes it who types a formula: plus for minus, times for divided by, a root or a
logarithm left out, $t-1$ for $t$, $\\alpha_t$ for $\\bar\\alpha_t$, a sum for a mean,
$x_t$ and $x_0$ exchanged in a list of arguments, 3 for 2, `<` for `<=`, a stored figure from the
wrong column, weights that begin at one and not at zero. It goes into the functions of
`ddpm_core` that the chapter runs, and into the chapter's own cells. Captions, folded
cells, which draw, and what a check is given are left alone. Below, `cell 0` is the first
of a chapter's own code cells.

A mistake is *noticed* if a check fails, if a cell stops with an error, or if it does not
end. It has *no effect* if no number changes that is checked, printed or drawn: a guard
against bad input, say, that never meets any. It is *missed* if numbers change and
everything holds.

"""
LIMITS = """\
## What this does not show

- **A mistake may be right.** The sign of the noise may be turned over, since a normal
  number and its negative are as likely. No check of an average can notice it, nor should
  one.
- **The kinds of mistakes are ours.** A wrong idea is not among them. Numbers in stored
  results are not changed. A check of stored numbers alone is seen to fail only where the
  chapter takes the wrong one of them, or computes with them.
- **Not all were tried.** At the pace so far, all of them would take {hours:.0f} hours of one
  core. The table says how many of those that can be planted; a check that was not seen to
  fail may yet be. Up to two of three are aimed at such a check, so the share that was
  noticed is not that of mistakes drawn blindly.
- **A misprint may stand in the chapter.** Where the program cannot tell that a line is
  wrong on purpose, it plants mistakes in it, too, and these are missed.
- **An error is not a check.** A mistake that stops a cell is easy to notice, and says
  little about the checks. It is counted, and the table says how often.
- **Noticed is not understood.** A check that fails says that something is wrong, not what.

## Do it again

```
make mutants                                         # all chapters, two minutes each
python -m book._tools.mutants posterior --budget 600 # one of them, for longer
```

Both go on where the last run stopped. A chapter begins anew when its code, or a module
that it runs, has changed. Each mistake, and what became of it, is a line of
`data/results/mutants.json`.
"""
# Chapter, place, line before, line after, what it shows. Only those are printed that the
# results say were missed.
TEACHES = (
    (
        "12_other_bound",
        "data.to_model_range",
        "return images.to(torch.float32) / 127.5 - 1",
        "return images.to(torch.float32) / 127.5 - 2",
        "All pictures are too dark by one half of the range. The checks compare two "
        "computations on\nthe same pictures, and both are right about the wrong ones. "
        "*What both sides share, no\ncomparison sees.*",
    ),
    (
        "05_posterior",
        "cell 21",
        "walkers = mean + var.sqrt() * z",
        "walkers = mean + var.sqrt() / z",
        "Divided by small normal numbers, the draws are wild. Two checks of averages over "
        "them hold all\nthe same, the mean and the mean square: both take the standard "
        "error from the same draws.\n*The wilder the draws, the more it allows.* The error "
        "to allow is known beforehand here, for a\nmean square $\\sqrt{2/n}$.",
    ),
    (
        "12_other_bound",
        "forward.q_sample",
        "+ at((1 - schedule.alpha_bar).sqrt(), t, x0) * eps",
        "- at((1 - schedule.alpha_bar).sqrt(), t, x0) * eps",
        "The noise of Eq. (4) is subtracted. The law of $x_t$ stays the same, so nothing "
        "about it is\nwrong. *Some mistakes are none*, until the sign is used: a network "
        "that guesses the noise\nwould learn its negative.",
    ),
    (
        "10_simple_loss",
        "reverse.reverse_mean",
        "return (x_t - at(weight, t, x_t) * eps) / at(schedule.alpha.sqrt(), t, x_t)",
        "return (x_t - at(weight, t, x_t) * eps) * at(schedule.alpha.sqrt(), t, x_t)",
        "Eq. (11) multiplies where it should divide. But $\\alpha_t$ is never below 0.98 "
        "here, so\nthe two differ by at most 2%. *What is wrong by little needs a narrow "
        "check.* A chapter that\nonly uses the equation may pass; the one that derives it "
        "must not.",
    ),
)


def share(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({100 * part / whole:.0f}%)" if whole else "")


def seen(one: Chapter) -> int:
    return sum(check.seen is not None for check in one.must_hold())


def opening(chapters: dict[str, Chapter]) -> str:
    total = lambda count: sum(map(count, chapters.values()))
    checks, failed = total(lambda one: len(one.must_hold())), total(seen)
    tried = total(lambda one: len(one.mistakes))
    possible = total(lambda one: one.possible)
    noticed = total(lambda one: one.count(*NOTICED))
    missed = total(lambda one: one.count("within", "shown"))
    endless = total(lambda one: one.count("time"))
    ended = f", {endless} because one did not end" if endless else ""
    return f"""\
A check that cannot fail proves nothing. So small mistakes were planted in the mathematics,
one at a time, and the chapters were run with each of them. **{share(failed, checks)} checks
were seen to fail.** Of the mistakes that changed a number,
**{share(noticed, noticed + missed)} were noticed**: {total(lambda one: one.count("check"))}
by a check, {total(lambda one: one.count("stop"))} because a cell stopped with an error{ended}.
Another
{total(lambda one: one.count("none"))} had no effect. So far {tried} of {possible} possible
mistakes were tried, in {len(chapters)} of {len(notebooks())} chapters.

"""


def table(chapters: dict[str, Chapter], stale: set[str]) -> str:
    lines = [
        "| chapter | seen | noticed | missed | no effect | tried |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, one in sorted(chapters.items()):
        title = chapter(BOOK / f"{name}.ipynb").title
        row = (
            f"[{title}]({name}.ipynb){' ' + STALE if name in stale else ''}",
            f"{seen(one)}/{len(one.must_hold())}", one.count(*NOTICED),
            one.count("within", "shown"), one.count("none"),
            f"{len(one.mistakes)}/{one.possible}",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, row)) + " |")
    text = (
        "## What came out\n\n*Seen*: checks that were seen to fail, of all of them. "
        "*Noticed*, *missed*, *no effect*:\nmistakes. *Tried*: of those that can be "
        "planted.\n\n" + "\n".join(lines) + "\n\n"
    )
    if stale:
        text += f"{STALE} The chapter, or a module that it runs, has changed since.\n\n"
    return text


def unseen(chapters: dict[str, Chapter]) -> str:
    """The checks that nothing made fail, by name."""
    left = [
        f"- [{chapter(BOOK / f'{name}.ipynb').title}]({name}.ipynb), cell {check.cell}: "
        f"`{check.name}`"
        for name, one in sorted(chapters.items())
        for check in one.must_hold()
        if check.seen is None
    ]
    if not left:
        return ""
    return (
        "## Never seen to fail\n\n" + "\n".join(left) + "\n\nOf these, a check that "
        "what was sent is received, or that a run which was stopped ends\nlike one which "
        "was not, holds whatever both sides compute. A mistake in the mathematics, "
        "which\nboth sides share, does not reach it. It fails where the sides differ. And what is "
        "made zero\nin two places stays zero if one of them is forgotten.\n\n"
    )


def lessons(chapters: dict[str, Chapter]) -> str:
    """The missed mistakes that teach something."""
    shown = []
    for name, place, before, after, says in TEACHES:
        kept = chapters.get(name, Chapter()).mistakes.get((place, before, after))
        if kept and kept[0] in ("within", "shown"):
            title = chapter(BOOK / f"{name}.ipynb").title
            shown.append(
                f"[{title}]({name}.ipynb), `{place}`:\n\n```\n- {before}\n+ {after}\n```\n\n"
                f"{says}\n\n"
            )
        if len(shown) == 3:
            break
    return "## Mistakes that nobody noticed\n\n" + "".join(shown) if shown else ""


def hours(chapters: dict[str, Chapter]) -> float:
    """What all mistakes would take, each as long as those of its chapter so far."""
    return sum(
        one.seconds / len(one.mistakes) * one.possible / 3600
        for one in chapters.values()
        if one.mistakes
    )


def page(chapters: dict[str, Chapter], stale: set[str]) -> str:
    return (
        HEAD
        + opening(chapters)
        + WHAT
        + table(chapters, stale)
        + unseen(chapters)
        + lessons(chapters)
        + LIMITS.format(hours=hours(chapters))
    )


def marked(text: str) -> set[str]:
    """The chapters that a page marks as changed."""
    return set(re.findall(rf"\((\w+)\.ipynb\) {re.escape(STALE)}", text))


def present() -> dict[str, Chapter]:
    """What is kept of chapters that are still there."""
    return {n: one for n, one in load().items() if (BOOK / f"{n}.ipynb").exists()}


def write() -> None:
    chapters = present()
    stale = {name for name, one in chapters.items() if not current(name, one)}
    PAGE.write_text(page(chapters, stale), encoding="utf-8")
    print(f"{PAGE}: written; changed since: {', '.join(sorted(stale)) or 'none'}")
