"""What _config.yml cannot say: where the book lives, and where MathJax lies.

The address is that of [project.urls] in pyproject.toml (book._tools.set_address writes it). While it is not set the pages have no
repository, issue and Colab buttons, so no dead links. MathJax is copied into the site out of the package sphinx-mathjax-offline:
its fonts, which formulas.py needs; and for the reader who asks for its menu tex-chtml.js and the English speech; 2.4 MB of 24.
"""

import html
import os
import re
import shutil
from pathlib import Path

from docutils import nodes

from book._ext.formulas import mathjax
from book._tools.notebooks import address

# Where a host has set the address, its notebooks lie on a branch of their own, and Colab opens those: see .github/workflows/book.yml.
BRANCH = "BOOK_NOTEBOOKS_BRANCH"


def set_address(app, config) -> None:
    options, url = config.html_theme_options, address()
    for name in (
        "repository_url",
        "launch_buttons",
    ):  # jupyter-book's own defaults point nowhere
        options.pop(name, None)
    if url:
        options.update(
            repository_url=url,
            repository_branch=os.environ.get(BRANCH) or "main",
            path_to_docs="",
            use_repository_button=True,
            use_issues_button=True,
            launch_buttons={
                "colab_url": "https://colab.research.google.com",
                "notebook_interface": "jupyterlab",
            },
        )


def pages_address(repository: str) -> str:
    """Where GitHub serves the pages of a repository; "" for one elsewhere."""
    found = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+)", repository)
    return f"https://{found[1].lower()}.github.io/{found[2]}/" if found else ""


def be_shared_and_found(app) -> None:
    """With a known address of the pages: what a link to one looks like where it is shared, and a sitemap."""
    site = pages_address(address())
    if site:
        app.setup_extension("sphinxext.opengraph")
        app.setup_extension("sphinx_sitemap")
        app.config.html_baseurl = app.config.ogp_site_url = site
        app.config.ogp_site_name = "Denoising diffusion, equation by equation"
        app.config.ogp_use_first_image = (
            False  # the figures are part of the pages, not files
        )
        app.config.ogp_image = f"{site}_static/share.png"
        app.config.ogp_social_cards = {"enable": False}  # one picture for all pages
        app.config.sitemap_url_scheme = "{link}"


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
    source = mathjax()
    target = Path(app.outdir) / "_static" / "mathjax"
    fonts = Path("output/chtml/fonts/woff-v2")
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copytree(source / "a11y", target / "a11y", dirs_exist_ok=True)
    (target / "sre" / "mathmaps").mkdir(parents=True, exist_ok=True)
    (target / "input").mkdir(exist_ok=True)  # the speech reads MathML
    for file in (
        "tex-chtml.js",
        "input/mml.js",
        "sre/mathmaps/base.json",
        "sre/mathmaps/en.json",
    ):
        shutil.copy(source / file, target / file)


def say_colab(name, rawtext, text, lineno, inliner, options=None, content=None):
    """{colab}`how`: where to find Colab's button, or, while the address is not set, what to do instead."""
    if address():
        words = "The rocket at the top of each chapter opens it on Colab."
        return [nodes.Text(words)], []
    command = "python -m book._tools.set_address https://github.com/OWNER/REPOSITORY"
    return [
        nodes.Text("On Colab: put this repository on GitHub and say where, by "),
        nodes.literal(command, command),
        nodes.Text(
            "; each chapter then has a button that opens it there. Without that, upload a chapter to Colab, and the "
            "repository beside it to /content/ddpm-book."
        ),
    ], []


def clone_line(app, page: str, source: list[str]) -> None:
    """On the landing page, before the verbs: where the repository is to be had."""
    if page == "index" and address():
        line = f"git clone {address()} ddpm-book && cd ddpm-book\n"
        source[0] = source[0].replace("```\nmake book ", f"```\n{line}make book ", 1)


def describe(app, page: str, template: str, context, doctree) -> None:
    """What a search engine and whoever shares a page show of it: its first sentence."""
    tags = context.get("metatags", "")
    if doctree is not None and 'name="description"' not in tags:
        first = next(
            (
                p.astext()
                for p in doctree.findall(nodes.paragraph)
                if len(p.astext()) > 60 and not any(p.findall(nodes.math))
            ),
            "",
        )
        words = " ".join(first.split())
        words = (
            words if len(words) <= 180 else words[:180].rsplit(" ", 1)[0] + " \u2026"
        )
        if words:
            tags += f'<meta name="description" content="{html.escape(words)}"/>'
    if "og:title" not in tags and page != "search":
        title = re.sub("<[^>]*>", "", context.get("title", ""))
        up = "../" * page.count("/")
        tags += (
            f'<meta property="og:title" content="{html.escape(html.unescape(title))}"/>'
            '<meta property="og:type" content="book"/>'
            f'<meta property="og:image" content="{up}_static/share.png"/>'
        )
    context["metatags"] = tags


def setup(app):
    app.add_role("colab", say_colab)
    app.connect("html-page-context", describe, priority=900)
    be_shared_and_found(app)
    app.connect(
        "config-inited", set_address, priority=10
    )  # before the theme reads its options
    app.connect("config-inited", without_thebe)
    app.connect("source-read", clone_line)
    app.connect("builder-inited", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
