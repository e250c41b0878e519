"""The page of the command line is what the parser says, and its examples run."""

import re

import pytest

from book._tools import commands
from book._tools.notebooks import ROOT


def test_the_page_is_current():
    assert commands.PAGE.read_text() == commands.page(commands.stored()), (
        "python -m book._tools.commands"
    )
    assert "book/commands" in (ROOT / "_toc.yml").read_text()


def test_every_option_says_what_it_is_for():
    for name, one in commands.commands().items():
        assert not [a.dest for a in one._actions if not a.help], name
        assert commands.EXAMPLES[name], f"no example of ddpm {name}"


def test_the_examples_run(tmp_path):
    """They print what the page says, but for what another processor rounds otherwise."""
    alike = lambda text: re.sub(r"\b[0-9a-f]{12}\b|\d+ bytes|\d+\.\d+", "#", text)
    said = commands.run(tmp_path)
    assert list(said) == list(commands.stored())
    for line, text in commands.stored().items():
        assert alike(said[line]) == alike(text), line
    for made in ("sheet.png", "pictures/00002.png", "bits.json", "decoded/00002.png"):
        assert (tmp_path / made).is_file()


def test_an_example_that_fails_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        commands, "EXAMPLES", {"sample": ("ddpm sample no -n 1 --out x.png",)}
    )
    with pytest.raises(SystemExit, match="status 2"):
        commands.run(tmp_path)
