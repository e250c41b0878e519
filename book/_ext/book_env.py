"""What _config.yml cannot say: where the book lives, and where MathJax lies.

The address is that of [project.urls] in pyproject.toml (book/_tools/set_address.py writes it). While it is not set the pages have no
repository, issue and Colab buttons, so no dead links. MathJax is copied into the site out of the package sphinx-mathjax-offline:
tex-chtml.js and its fonts, 1.6 MB, and not the other 23 MB of it.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "_tools"))
from notebooks import address  # noqa: E402


def set_address(app, config) -> None:
    options, url = config.html_theme_options, address()
    for name in ("repository_url", "launch_buttons"):  # jupyter-book's own defaults point nowhere
        options.pop(name, None)
    if url:
        options.update(
            repository_url=url, repository_branch="main", path_to_docs="", use_repository_button=True, use_issues_button=True,
            launch_buttons={"colab_url": "https://colab.research.google.com", "notebook_interface": "jupyterlab"},
        )  # fmt: skip


def without_thebe(app, config) -> None:
    """jupyter-book always loads sphinx_thebe (code that runs by way of a server elsewhere). It declares one constant twice on each page,
    which is an error in every reader's console, and the book does not use it: it runs in Jupyter and on Colab."""
    for event in ("env-before-read-docs", "doctree-resolved"):
        for listener in list(app.events.listeners[event]):
            if listener.handler.__module__.startswith("sphinx_thebe"):
                app.disconnect(listener.id)


def copy_mathjax(app) -> None:
    if app.builder.format != "html":
        return
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None:
        raise ExtensionError("sphinx-mathjax-offline is not installed: make book installs it")
    source = Path(package.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    fonts = Path("output/chtml/fonts/woff-v2")
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copy(source / "tex-chtml.js", target)


def setup(app):
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.connect("config-inited", set_address, priority=10)  # before the theme reads its options
    app.connect("config-inited", without_thebe)
    app.connect("builder-inited", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
