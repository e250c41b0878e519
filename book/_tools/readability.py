"""How hard a chapter is to read, counted: a hint where to look, no measure of clarity.

    python -m book._tools.readability             the chapters as they are
    python -m book._tools.readability COMMIT      and, before them, as they were there

Counts the Markdown cells without headings, displayed formulas, code and HTML. A formula in a
line is one word. For each chapter: the median and the 90th percentile of words a sentence;
of a hundred sentences, how many have more than 30 words; of a hundred sentences, how many
have a passive form, by a simple pattern (a form of "to be", at most one adverb, and a word
that ends like a participle: it misses some and takes some adjectives); and of a hundred
words, how many are rare: not among the thousand commonest words of all that is counted.
"""

import argparse
import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LONG, COMMON = 30, 1000
LEFT_OUT = re.compile(
    r"```.*?```|^#.*?$|<summary>.*?</summary>|</?[a-z][^>]*>|^\s*\|.*?$",
    re.DOTALL | re.MULTILINE,
)
IRREGULAR = (
    "built|bought|brought|chosen|cut|done|drawn|found|given|held|kept|known|laid|left|lost"
    "|made|meant|met|paid|put|read|said|seen|sent|set|shown|spent|taken|taught|thought|told"
    "|understood|used|written"
)
PASSIVE = re.compile(
    rf"\b(?:am|is|are|was|were|be|been|being)\s+(?:(?:\w+ly|not|never|also|only|then)\s+)?"
    rf"(?:\w+ed|{IRREGULAR})\b",
    re.IGNORECASE,
)
END = re.compile(
    r"(?<=[.!?])[)\"*_]*\s+(?=[(\"*_]*[A-Z0-9])|\n\s*\n|\n\s*(?:[-*]|\d+\.)\s"
)
WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")


def prose(notebook: str) -> str:
    """The running text of a notebook (its JSON): Markdown, with each formula as one word."""
    cells = [
        "".join(cell["source"])
        for cell in json.loads(notebook)["cells"]
        if cell["cell_type"] == "markdown"
    ]
    text = re.sub(r"\$\$.*?\$\$", " ", "\n\n".join(cells), flags=re.DOTALL)
    text = LEFT_OUT.sub(" ", re.sub(r"\$[^$]+\$", "Formula", text))
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)  # of a link, what is read
    text = re.sub(r"`[^`]*`", "Formula", text)
    return re.sub(r"\b(Eqs?|Fig|al|e\.g|i\.e|vs)\.\s", r"\1 ", text)


def sentences(text: str) -> list[list[str]]:
    """The words of each sentence; what has fewer than three is none."""
    return [words for part in END.split(text) if len(words := WORD.findall(part)) > 2]


def counts(text: str, common: set[str]) -> list[float]:
    """Median, 90th percentile; and of a hundred: long sentences, passive ones, rare words."""
    found = sentences(text)
    lengths = sorted(map(len, found))
    words = [word.lower() for sentence in found for word in sentence]
    words = [word for word in words if word != "formula"]
    share = lambda part, whole: 100 * sum(part) / max(len(whole), 1)
    return [
        lengths[len(lengths) // 2],
        lengths[len(lengths) * 9 // 10],
        share((n > LONG for n in lengths), lengths),
        share((bool(PASSIVE.search(" ".join(s))) for s in found), found),
        share((word not in common for word in words), words),
    ]


def at_commit(commit: str) -> dict[str, str]:
    """The chapters of a commit: name -> JSON."""
    git = lambda *args: (
        subprocess.run(
            ["git", *args], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
    )
    listed = git("ls-tree", "--name-only", commit, "book/").split()
    return {
        Path(name).stem: git("show", f"{commit}:{name}")
        for name in listed
        if name.endswith(".ipynb")
    }


def commonest(texts: Iterable[str]) -> set[str]:
    words = Counter(word.lower() for text in texts for word in WORD.findall(text))
    return {word for word, _ in words.most_common(COMMON)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", nargs="?")
    args = parser.parse_args()
    now = {path.stem: path.read_text() for path in sorted(ROOT.glob("book/*.ipynb"))}
    versions = [at_commit(args.commit)] if args.commit else []
    texts = [{n: prose(t) for n, t in one.items()} for one in (*versions, now)]
    common = commonest(text for one in texts for text in one.values())
    row = "{:26}{:>8}{:>8}{:>8}{:>9}{:>8}"
    for one, which in zip(texts, [*([args.commit] if args.commit else []), "now"]):
        print(row.format(which, "median", "90th", "long", "passive", "rare"))
        everything = "\n\n".join(one.values())
        for name, text in [*sorted(one.items()), ("all", everything)]:
            median, tenth, *shares = counts(text, common)
            print(row.format(name, median, tenth, *(f"{x:.1f}%" for x in shares)))


if __name__ == "__main__":
    main()
