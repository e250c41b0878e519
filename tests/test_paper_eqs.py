"""The extension that links equations (book/_ext/paper_eqs.py), on small books of its own: what it links and what it refuses."""

import re
import subprocess
import sys

import pytest

from book._tools.notebooks import ROOT

ONE = "# One\n\n$$\na = b \\\\\n\n= c \\tag{4}\n$$\n\n$$\nd \\tag{7}\n$$\n"


@pytest.fixture
def build(tmp_path):
    """Pages -> (the built pages, what was said on the way, strictly)."""

    def build(**pages):
        (tmp_path / "conf.py").write_text(
            "extensions = ['myst_parser', 'sphinx.ext.mathjax', 'book._ext.paper_eqs']\n"
            "myst_enable_extensions = ['dollarmath', 'amsmath']\nroot_doc = 'one'\nhtml_theme = 'basic'\n"
        )
        toc = (
            "\n\n```{toctree}\n" + "\n".join(p for p in pages if p != "one") + "\n```\n"
        )
        for page, text in pages.items():
            (tmp_path / f"{page}.md").write_text(text + (toc if page == "one" else ""))
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-b",
            "html",
            "-W",
            "--keep-going",
            "-q",
            str(tmp_path),
            str(tmp_path / "out"),
        ]
        said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        html = {page: (tmp_path / "out" / f"{page}.html").read_text() for page in pages}
        return html, said.stderr, said.returncode

    return build


def links(html):
    return re.findall(
        r'class="equation-link[^"]*" href="([^"]+)">([^<]+)<', html.replace("\n", " ")
    )


def test_links(build):
    two = "# Two\n\nBy Eq. (4), Eqs. (4) and (7), Eqs. (4)-(7), Eq.\n(7), *Eq. (4)*; `Eq. (4)` and $(4)$ and (4) are not.\n\n## On Eq. (4)\n"
    html, said, code = build(one=ONE + "\nSee Eq. (7).\n", two=two)
    assert (said, code) == ("", 0)
    assert links(html["one"]) == [("#eq-7", "Eq. (7)")]
    there = "one.html#eq-4", "one.html#eq-7"
    assert links(html["two"]) == [
        (there[0], "Eq. (4)"),
        (there[0], "Eqs. (4)"),
        (there[1], "(7)"),
        (there[0], "Eqs. (4)"),
        (there[1], "(7)"),
        (there[1], "Eq. (7)"),
        (there[0], "Eq. (4)"),
    ]
    assert 'id="eq-4"' in html["one"] and 'id="eq-7"' in html["one"]
    assert (
        r"\begin{split}" not in html["one"]
        and "\\[a = b \\\\\n= c \\tag{4}\\]" in html["one"]
    ), "MathJax refuses a tag in split"


@pytest.mark.parametrize(
    "text", ["See Eq. (99).", "See Eqs. (4) and (99).", "## On Eq. (99)"]
)
def test_a_number_that_no_equation_carries(build, text):
    _, said, code = build(one=ONE, two=f"# Two\n\n{text}\n")
    assert code and "no equation is tagged (99)" in said


@pytest.mark.parametrize(
    "one, two, pages",
    [
        (ONE, "$$\ne \\tag{7}\n$$", "one, two"),
        (ONE + "\n$$\ne \\tag{7}\n$$\n", "nothing", "one, one"),
    ],
)
def test_a_number_that_two_equations_carry(build, one, two, pages):
    _, said, code = build(one=one, two=f"# Two\n\n{two}\n")
    assert code and f"equation (7) is tagged 2 times: in {pages}" in said
