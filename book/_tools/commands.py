"""Write book/commands.md, the page of the command line, from the parser itself.

    python -m book._tools.commands            run the examples and write the page
    python -m book._tools.commands --check    run nothing, write nothing; fail if a help
                                              text has changed since

Each command has an example that was run, one after the other in a new folder; what it
printed stands below it. The options and their help are the parser's.
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
import warnings
from pathlib import Path

from book._tools.notebooks import BOOK
from ddpm_core.cli import main as ddpm
from ddpm_core.cli import parser

PAGE = BOOK / "commands.md"
HEAD = """\
# The command line

<!-- Written by book/_tools/commands.py: change the help texts in ddpm_core/commands/. -->

`ddpm` does without Python what the chapters do with it. `pip install .` in a clone brings
it; `python -m ddpm_core` is the same. The examples below were run one after the other, as
they stand; their networks are toys that learn nothing. An error is one line that says what
was given, what is wanted and what to do; the exit status is then 2.

"""
EXAMPLES = {
    "train": (
        "ddpm train --data fashion-mnist --width 8 --multipliers 1 --steps 3 --batch-size 8 --T 100 --beta-1 0.001 --beta-T 0.2 --out run",
    ),
    "sample": (
        "ddpm sample run -n 10 --steps 10 --sampler ddim --out sheet.png",
        "ddpm sample run -n 3 --steps 10 --labels sneaker bag --each --out pictures",
    ),
    "evaluate": (
        "ddpm evaluate run --features none --bound 4 --evaluations 4 --out bits.json",
    ),
    "encode": (
        "ddpm encode run --data folder:pictures --steps 8 --bits 10 --out three.ddpm",
    ),
    "decode": ("ddpm decode run three.ddpm --out decoded",),
    "draw": (
        "ddpm draw 'glossy octopus on a light blue ground' --n 4 --steps 10 --out octopus.png",
    ),
}


def commands() -> dict[str, argparse.ArgumentParser]:
    (actions,) = (
        action
        for action in parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(actions.choices)


def about(name: str) -> str:
    (actions,) = (
        action
        for action in parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return next(c.help for c in actions._choices_actions if c.dest == name)


def option(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    """One line of the list: names, what it takes, what it does."""
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    takes = "" if action.nargs == 0 else formatter._format_args(action, action.dest)
    if action.choices:
        takes = " | ".join(map(str, action.choices))
    elif action.option_strings:
        takes = takes.replace(action.dest, action.dest.upper())
    says = formatter._expand_help(action) if action.help else ""
    parts = [names or f"`{action.dest}`", f"`{takes}`" if takes and names else ""]
    says = re.sub(r"(?<![\w`-])--?[A-Za-z][\w-]*", r"`\g<0>`", says)  # or -- is a dash
    required = ". *Required.*" if action.required and names else ""
    words = says.replace("<", "&lt;") + required
    return (
        "- " + " ".join(filter(None, parts)) + (f": {words.strip()}" if words else "")
    )


def options(name: str) -> str:
    """The options of a command as a list, places first."""
    one = commands()[name]
    formatter = one._get_formatter()
    listed = [a for a in one._actions if not isinstance(a, argparse._HelpAction)]
    return "\n".join(option(action, formatter) for action in listed)


def run(folder: Path) -> dict[str, str]:
    """What each example prints, run in `folder`."""
    here, said = os.getcwd(), {}
    os.chdir(folder)
    try:
        for lines in EXAMPLES.values():
            for line in lines:
                out = io.StringIO()
                with contextlib.redirect_stdout(out), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    status = ddpm(shlex.split(line)[1:])
                if status:
                    raise SystemExit(f"{line}: status {status}")
                said[line] = out.getvalue().rstrip()
    finally:
        os.chdir(here)
    return said


def page(said: dict[str, str]) -> str:
    parts = [HEAD]
    for name in commands():
        first = about(name)
        parts.append(f"## ddpm {name}\n\n{first[0].upper()}{first[1:]}.\n\n")
        for line in EXAMPLES[name]:
            parts.append(f"```\n$ {line}\n{said[line]}\n```\n\n")
        parts.append(options(name) + "\n\n")
    return "".join(parts).rstrip() + "\n"


def stored() -> dict[str, str]:
    """The examples' outputs as the page has them."""
    blocks = re.findall(r"```\n\$ (.*?)\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
    return dict(blocks)


def main() -> None:
    given = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given.add_argument("--check", action="store_true")
    if given.parse_args().check:
        if page(stored()) != PAGE.read_text():
            sys.exit("commands.md is stale: python -m book._tools.commands")
        return
    os.environ["TQDM_DISABLE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page(run(Path(folder))))
    print(f"{PAGE}: written")


if __name__ == "__main__":
    main()
