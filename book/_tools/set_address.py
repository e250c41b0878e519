"""Tell the book where it lives, in one place, and everything that follows from it.

    python -m book._tools.set_address https://github.com/OWNER/REPOSITORY
    python -m book._tools.set_address --unset

Writes [project.urls] of pyproject.toml, from which the site takes its buttons (book/_ext/book_env.py), and the set-up cell of every
notebook, with which it runs on Colab. Stored outputs stay valid.
"""

import re
import sys
from pathlib import Path

from book._tools.notebooks import ROOT, put_setup_cell, read, write

LINE = re.compile(r'(?m)^Repository = ".*"\n')


def set_address(url: str, root: Path = ROOT) -> None:
    file = root / "pyproject.toml"
    text = LINE.sub("", file.read_text())
    if url:
        text = text.replace(
            "[project.urls]\n", f'[project.urls]\nRepository = "{url}"\n'
        )
    file.write_text(text)
    for path in sorted((root / "book").glob("*.ipynb")):
        nb = read(path)
        put_setup_cell(nb, url)
        write(path, nb)


if __name__ == "__main__":
    given = sys.argv[1].rstrip("/").removesuffix(".git") if len(sys.argv) == 2 else ""
    if given == "--unset":
        set_address("")
    elif re.fullmatch(r"https://[\w.-]+/[\w./-]+", given):
        set_address(given)
    else:
        sys.exit(__doc__)
