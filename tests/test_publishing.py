"""What a host needs to publish the book: the workflow, the citation, the licences of what the pages carry, cards and sitemap, the PDF."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from site_pages import PAGES, SITE, built

from book._tools import print_pdf
from book._tools.browser import CHROMIUM
from book._tools.notebooks import BOOK, ROOT

WORKFLOW, CITATION = ROOT / ".github" / "workflows" / "book.yml", ROOT / "CITATION.cff"


def valid(schema: str, file: Path) -> subprocess.CompletedProcess:
    """Held to a schema that check-jsonschema carries, so without a network."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            f"vendor.{schema}",
            file,
        ],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "schema, file, plant",
    [
        ("github-workflows", WORKFLOW, ("runs-on:", "runs-at:")),
        (
            "citation-file-format",
            CITATION,
            ("given-names: Jonathan", "first-name: Jonathan"),
        ),
    ],
)
def test_follows_its_schema(schema, file, plant, tmp_path):
    done = valid(schema, file)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / file.name
    broken.write_text(file.read_text().replace(*plant))
    assert valid(schema, broken).returncode == 1, "a mistake in it is not seen"


def test_citation_and_package_agree():
    cited, package = (
        yaml.safe_load(CITATION.read_text()),
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"],
    )
    assert (cited["version"], cited["license"]) == (
        package["version"],
        package["license"],
    )
    page = (BOOK / "cite.md").read_text()
    assert cited["title"] in page and f"{{{cited['version']}}}" in page
    assert cited["references"][0]["title"] in page


def verbs() -> set[str]:
    return set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    )


@pytest.mark.parametrize(
    "file",
    [
        WORKFLOW,
        ROOT / ".ci" / "run",
        ROOT / "README.md",
        ROOT / "index.md",
        BOOK / "cite.md",
    ],
    ids=lambda p: p.name,
)
def test_commands_exist(file):
    named = set(
        re.findall(
            r"(?:^|run: |`)make ([a-z]+)\b", file.read_text(), flags=re.MULTILINE
        )
    )
    assert named and named <= verbs()


def test_hosted_tests():
    """The Pythons that pyproject.toml admits and PyTorch serves, every push and every week."""
    flow = yaml.safe_load(WORKFLOW.read_text())
    assert flow["jobs"]["test"]["strategy"]["matrix"]["python"] == [
        "3.11",
        "3.12",
        "3.13",
    ]
    assert {"push", "pull_request", "schedule"} <= set(
        flow[True]
    )  # YAML reads the word "on" as true
    assert set(flow["jobs"]["publish"]["needs"]) == {"test", "build"}


LICENCES = {
    "mathjax": "MathJax.txt",
    "draw": "ONNX-Runtime-Web.txt",
    "fonts": "Source-Serif-4.txt",
}


@built
def test_licences_go_with_the_site():
    static = SITE / "_static"
    for folder, licence in LICENCES.items():
        assert (static / folder).is_dir() and len(
            (static / "licences" / licence).read_text()
        ) > 900
        assert licence in (SITE / "book" / "cite.html").read_text()
    assert "Apache License" in (static / "licences" / "MathJax.txt").read_text()
    assert (
        "SIL Open Font License"
        in (static / "licences" / "Source-Serif-4.txt").read_text()
    )


BUILD = """
import sys
from book._tools import notebooks; notebooks.address = lambda root=None: {address!r}
from sphinx.cmd.build import build_main; sys.exit(build_main(["-q", "-W", "-b", "html", {source!r}, {target!r}]))"""


def small_site(folder: Path, address: str) -> Path:
    """One page with the book's extension, as if the book had this address."""
    (folder / "index.rst").write_text("Title\n=====\n\nSome words on noise.\n")
    (folder / "conf.py").write_text(
        'extensions = ["sphinx.ext.mathjax", "book._ext.book_env"]\nhtml_theme = "sphinx_book_theme"\n'
    )
    script = BUILD.format(
        address=address, source=str(folder), target=str(folder / "out")
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    return folder / "out"


def test_cards_and_sitemap_with_an_address(tmp_path):
    site = small_site(tmp_path, "https://github.com/Someone/book")
    page = (site / "index.html").read_text()
    image = "https://someone.github.io/book/_static/share.png"
    assert '<meta property="og:title" content="Title"' in page
    assert f'<meta property="og:image" content="{image}"' in page
    assert (
        "<loc>https://someone.github.io/book/index.html</loc>"
        in (site / "sitemap.xml").read_text()
    )


def test_buttons_and_the_line_that_clones_follow_the_address(monkeypatch):
    from types import SimpleNamespace

    from book._ext import book_env

    text = "```\nmake book     # this book\n```"
    for url, branch in (
        ("", ""),
        ("https://github.com/A/b", ""),
        ("https://github.com/A/b", "colab"),
    ):
        monkeypatch.setattr(book_env, "address", lambda: url)
        monkeypatch.setenv(book_env.BRANCH, branch)
        config = SimpleNamespace(html_theme_options={"launch_buttons": {}})
        book_env.set_address(None, config)
        source = [text]
        book_env.clone_line(None, "index", source)
        if not url:
            assert config.html_theme_options == {} and source == [text]
            continue
        options = config.html_theme_options
        assert options["repository_url"] == url and options["launch_buttons"]
        assert options["repository_branch"] == (branch or "main")
        assert source[0].startswith(
            f"```\ngit clone {url} ddpm-book && cd ddpm-book\nmake book"
        )
    assert "```\nmake book " in (ROOT / "index.md").read_text(), "where the line is put"


def test_no_cards_and_no_sitemap_without(tmp_path):
    site = small_site(tmp_path, "")
    page = (site / "index.html").read_text()
    assert "og:url" not in page and "https://someone" not in page
    assert not (site / "sitemap.xml").exists()


@pytest.mark.skipif(
    not CHROMIUM, reason="no browser here: install chromium to print pages"
)
def test_printing_notices_what_is_wrong(tmp_path):
    """`make pdf` as a whole takes minutes; here a page with each fault that it looks for, and links of all kinds."""
    page = tmp_path / "index.html"
    page.write_text("""<!doctype html><meta charset=utf-8><article><p id="eq-1">(1)</p><span class=math>\\(x\\)</span><div style="width:2000px">wide</div>
        <details><summary>Solution</summary>here</details><h1 id=a>One</h1><a href="other.html">other</a></article>""")
    other = tmp_path / "other.html"
    other.write_text("""<!doctype html><meta charset=utf-8><article><h1>Two</h1><a href="index.html#a">back</a> <a href="#a">below</a>
        <p id=a style="break-before: page">below</p></article>""")
    wrong = print_pdf.print_book([page, other], tmp_path / "book.pdf")
    assert [
        w for w in wrong if w.startswith("index.html: too wide")
    ] and "index.html: 1 formulas are not set" in wrong
    assert "Eq. (16) is missing" in wrong and "Eq. (1) is missing" not in wrong
    book = print_pdf.PdfReader(tmp_path / "book.pdf")
    assert [item["/Title"] for item in book.outline if not isinstance(item, list)] == [
        "One",
        "Two",
    ] and len(book.pages) == 3
    assert [sheet.extract_text().split()[-1] for sheet in book.pages] == [
        "1",
        "2",
        "3",
    ]  # through both pages
    targets = [
        book.get_page_number(link["/Dest"][0].get_object())
        for link in print_pdf.links(book.pages)
    ]
    assert (
        targets == [1, 0, 2]
    )  # the other page; back; and the second sheet of that one, by a name that both have


# ---- the reference, the equations and the questions lead to the chapters, and the chapters back


def leads(html: str) -> str:
    """The lines below a chapter."""
    return (
        html[html.index('<div class="leads') :].split("</div>")[0]
        if '<div class="leads' in html
        else ""
    )


@built
def test_links_go_both_ways():
    """What leads to a chapter is led to from it: functions, equations, questions."""
    text = {page.name: page.read_text() for page in PAGES}
    chapters = [name for name in text if name[0].isdigit()]
    chapter = re.compile(r'href="(\d\d_\w+\.html)(?:#[^"]*)?"')
    pairs = {"reference.html": set(), "equations.html": set(), "questions.html": set()}
    for entry in re.split(
        r'<dt class="sig [^>]*id="', text["reference.html"].split("<article")[1]
    )[1:]:
        pairs["reference.html"] |= {
            (name, entry.split('"')[0])
            for uses in re.findall(r"<p>In the chapters: .*?</p>", entry, re.DOTALL)
            for name in chapter.findall(uses)
        }
    for section in re.split(r'<section id="', text["equations.html"])[1:]:
        if number := re.match(r"(equation-\d+)", section):
            pairs["equations.html"] |= {
                (name, number[1])
                for name in re.findall(
                    r'Derived in</em> <a[^>]*href="(\d\d_\w+\.html)', section
                )
            }
    pairs["questions.html"] = {
        (name, "")
        for name in chapter.findall(
            text["questions.html"].split("<article")[1].split("</article>")[0]
        )
    }
    for index, there in pairs.items():
        back = {
            (name, to)
            for name in chapters
            for to in re.findall(
                rf'href="{re.escape(index)}#?([^"]*)"', leads(text[name])
            )
        }
        assert len(there) >= 16 and back == there, (index, back ^ there)
