"""The ddpm command: the package without writing Python. Also python -m ddpm_core.

Each verb is a module of commands/: what it is asked for, and what it does.
"""

import argparse
import shlex
import sys

from . import distributed
from .commands import decode, draw, encode, evaluate, sample, train

COMMANDS = {
    train: "Algorithm 1: train a network on images",
    sample: "Algorithm 2: draw images from a trained network",
    evaluate: "bits per dimension, FID, IS: measure a trained network",
    encode: "Algorithm 3: pictures to a file that the network has made short",
    decode: "Algorithm 4: the pictures of such a file",
    draw: "pictures from words, by the stored network",
}


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Say the default, where there is one to say."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return (
            action.help
            if action.default is None or action.default is False
            else super()._get_help_string(action)
        )


def parser() -> argparse.ArgumentParser:
    """The whole command line; `run` of what it parses is the command to carry out."""
    whole = argparse.ArgumentParser(
        prog="ddpm",
        description="Denoising diffusion probabilistic models: train, sample.",
    )
    commands = whole.add_subparsers(dest="command", required=True)
    for command, about in COMMANDS.items():
        verb = command.__name__.rpartition(".")[2]
        one = commands.add_parser(verb, help=about, formatter_class=_Help)
        one.set_defaults(run=command.run)
        command.add_arguments(one)
    return whole


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    Errors that a user can mend are one line, without a traceback.
    """
    options = parser().parse_args(arguments)
    options.typed = shlex.join(
        ["ddpm", *(sys.argv[1:] if arguments is None else arguments)]
    )
    try:
        return int(options.run(options))
    except KeyboardInterrupt as stop:
        if distributed.rank() == 0:
            print(f"\n{stop or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, TypeError, OSError) as error:
        who = f" (rank {distributed.rank()})" if distributed.rank() else ""
        notes = "".join(f"; {note}" for note in getattr(error, "__notes__", []))
        print(f"ddpm {options.command}{who}: {error}{notes}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
