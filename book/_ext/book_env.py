"""What _config.yml cannot say: where the book lives, and where MathJax lies.

The address is that of [project.urls] in pyproject.toml (book._tools.set_address writes it). While it is not set the pages have no
repository, issue and Colab buttons, so no dead links. MathJax is copied into the site out of the package sphinx-mathjax-offline:
tex-chtml.js and its fonts, and what its menu loads when a reader switches the speech on (English); 2.4 MB, and not the other 22 MB of it.
"""

import importlib.util
import re
import shutil
from pathlib import Path

from sphinx.errors import ExtensionError

from book._tools.notebooks import address

# MathJax shows nothing before all formulas of a page are set. The first dozen are set before the others, so that one can begin to read.
FIRST_FORMULAS = """if (window.MathJax) MathJax.startup = {...MathJax.startup, pageReady() {
  const first = [...document.querySelectorAll("article .math")].slice(0, 12);
  return MathJax.typesetPromise(first).then(() => new Promise(requestAnimationFrame)).then(() => MathJax.startup.defaultPageReady());
}};"""
SCRIPTED_ICONS = re.compile(
    r"<(?:script|link)[^>]*scripts/fontawesome\.js[^>]*>(?:</script>)?"
)


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
            repository_branch="main",
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
    """With a known address of the pages: what a link to one looks like where it is shared (a card drawn from the title), and a sitemap."""
    site = pages_address(address())
    if site:
        app.setup_extension("sphinxext.opengraph")
        app.setup_extension("sphinx_sitemap")
        app.config.html_baseurl = app.config.ogp_site_url = site
        app.config.ogp_site_name = "Denoising diffusion, equation by equation"
        app.config.ogp_use_first_image = (
            False  # the figures are part of the pages, not files
        )
        app.config.ogp_social_cards = {"line_color": "#0072b2"}
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
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None:
        raise ExtensionError(
            "sphinx-mathjax-offline is not installed: make book installs it"
        )
    source = Path(package.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    fonts = Path("output/chtml/fonts/woff-v2")
    shutil.copytree(source / fonts, target / fonts, dirs_exist_ok=True)
    shutil.copytree(source / "a11y", target / "a11y", dirs_exist_ok=True)
    (target / "sre" / "mathmaps").mkdir(parents=True, exist_ok=True)
    for file in ("tex-chtml.js", "sre/mathmaps/base.json", "sre/mathmaps/en.json"):
        shutil.copy(source / file, target / file)


def without_scripted_icons(app, error) -> None:
    """The theme carries its icons twice: as a font, which its style sheet names, and as a script of 1.5 MB that draws them as SVG. The font
    does for the dozen that are shown; without the script each page is there sooner and half as heavy."""
    if app.builder.format != "html" or error:
        return
    script = Path(app.outdir) / "_static" / "scripts" / "fontawesome.js"
    if script.exists():
        script.unlink()
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(SCRIPTED_ICONS.sub("", text), encoding="utf-8")


def setup(app):
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    be_shared_and_found(app)
    app.add_js_file(
        None, body=FIRST_FORMULAS, priority=900
    )  # after Sphinx's own words to MathJax
    app.connect(
        "config-inited", set_address, priority=10
    )  # before the theme reads its options
    app.connect("config-inited", without_thebe)
    app.connect("builder-inited", copy_mathjax)
    app.connect("build-finished", without_scripted_icons)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
