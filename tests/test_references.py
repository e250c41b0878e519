"""Every paper that a chapter, a page or a docstring names with its year is in the list of references; the reference says what is public."""

import pkgutil
import re

import pytest

import ddpm_core
from book._tools.notebooks import BOOK, ROOT, notebooks, read

BIB = (BOOK / "references.bib").read_text(encoding="utf-8")
# "Song and Ermon 2019", "Lu et al. 2022", "Salimans and Ho (2022", "Song, Meng and Ermon, 2021"
NAMED = re.compile(
    r"\b([A-Z](?![A-Z])[\w\u00c0-\u017f-]+)(?:, [A-Z][\w-]+)*(?:,? et al\.?| and (?:El )?[A-Z][\w-]+)'?s?,? [\(\[]{0,2}((?:19|20)\d\d)\b"
)


def entries() -> list[tuple[str, str]]:
    """First author's surname, year."""
    found = []
    for entry in re.split(r"(?m)^@", BIB)[1:]:
        author = re.search(r"author = \{([^,}]+)", entry)[1]
        found.append((plain(author), re.search(r"year = \{(\d+)", entry)[1]))
    return found


def plain(name: str) -> str:
    return re.sub(r"[{}\\'\"]|^(van den|Van|El) ", "", name).lower()


def named(text: str) -> set[tuple[str, str]]:
    text = re.sub(r"\s+", " ", text)
    return {(plain(m[1]), m[2]) for m in NAMED.finditer(text)}


def missing(text: str) -> set[tuple[str, str]]:
    """A preprint's year may be one before or after that of its printing."""
    known = entries()
    return {
        (name, year)
        for name, year in named(text)
        if not any(name == n and abs(int(year) - int(y)) <= 1 for n, y in known)
    }


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)
def test_of_each_chapter(path):
    cells = read(path).cells
    assert not missing("\n".join(c.source for c in cells if c.cell_type == "markdown"))


def test_of_pages_and_docstrings():
    pages = [ROOT / "index.md", *BOOK.glob("*.md")]
    files = [*pages, *(ROOT / "ddpm_core").rglob("*.py")]
    assert not missing("\n".join(f.read_text(encoding="utf-8") for f in files))


def test_what_is_named_is_found():
    found = named(
        "Lu et al. 2022; Ho and\nSalimans (2022), and Song, Meng and Ermon, 2021. In June 2020."
    )
    assert found == {("lu", "2022"), ("ho", "2022"), ("song", "2021")}
    assert missing("Nobody et al. 2022") == {("nobody", "2022")}
    assert {("lu", "2022"), ("ho", "2022"), ("saharia", "2022")} <= set(entries())


def test_the_reference_says_of_each_module_whether_it_is_public():
    page = (BOOK / "reference.md").read_text(encoding="utf-8")
    public = set(re.findall(r"automodule:: (\S+)", page))
    inside = set(
        re.findall(r"`(ddpm_core\.\w+)`", page.split("**Inside**")[1].split("```")[0])
    )
    assert inside and not inside & public
    for module in pkgutil.walk_packages(ddpm_core.__path__, "ddpm_core."):
        hidden = module.name.split(".")[-1].startswith("_")
        within = any(
            module.name == i or module.name.startswith(f"{i}.") for i in inside
        )
        package = module.ispkg and any(p.startswith(f"{module.name}.") for p in public)
        assert hidden or within or package or module.name in public, module.name
