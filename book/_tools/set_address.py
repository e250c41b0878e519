"""Tell the book where it lives, in one place, and everything that follows from it.

    python -m book._tools.set_address https://github.com/OWNER/REPOSITORY
    python -m book._tools.set_address --unset
    python -m book._tools.set_address --host      what the host that builds the book says of itself; an address set by hand stays

Writes [project.urls] of pyproject.toml, from which the site takes its buttons (book/_ext/book_env.py), and the set-up cell of every
notebook, with which it runs on Colab. Stored outputs stay valid.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from book._tools.notebooks import ROOT, address, put_setup_cell, read, write

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


def of_host(environ: Mapping[str, str] = os.environ) -> str:
    """The repository that GitHub or GitLab builds; "" elsewhere."""
    if name := environ.get("GITHUB_REPOSITORY"):
        return f"{environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    return environ.get("CI_PROJECT_URL", "")


def host_says(root: Path = ROOT, environ: Mapping[str, str] = os.environ) -> str:
    """Set the address that the host says, unless there is one; what was done, as a sentence."""
    there, url = address(root), of_host(environ)
    if there:
        return f"the address stays {there}, as it was set"
    if not url:
        return "no host says where this repository is (GITHUB_REPOSITORY and CI_PROJECT_URL are empty): the address stays unset"
    set_address(url, root)
    return f"the address is {url}"


if __name__ == "__main__":
    given = sys.argv[1].rstrip("/").removesuffix(".git") if len(sys.argv) == 2 else ""
    if given == "--unset":
        set_address("")
    elif given == "--host":
        print(host_says())
    elif re.fullmatch(r"https://[\w.-]+/[\w./-]+", given):
        set_address(given)
    else:
        sys.exit(__doc__)
