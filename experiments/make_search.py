"""The words of data/emoji for a search box: English and Korean, small enough for a page.

    python -m experiments.make_search

Writes book/_static/emoji-search.json, of the 1,640 things without their tones, in the
order of Unicode: [emoji, name, Korean name, other keywords, other Korean keywords]. A page
opened from a file cannot fetch it, so it is put into the page where that is built. `find`
says how it is searched; a test compares the file with data/emoji.
"""

import json
from pathlib import Path

from ddpm_core import load_drawings
from ddpm_core.captions import Drawing

OUT = Path("book/_static/emoji-search.json")
Row = list[str]  # emoji, name, ko, keywords, ko_keywords


def rows_of(facts: list[Drawing]) -> list[Row]:
    """One row for each thing; keywords joined by ";", without those that the name has."""
    things: dict[str, Drawing] = {}
    for fact in facts:
        if fact.name == fact.base:
            things.setdefault(fact.base, fact)
    return [
        [
            _emoji(fact.key),
            fact.name,
            fact.ko,
            ";".join(w for w in fact.keywords if w.lower() not in fact.name.lower()),
            ";".join(w for w in fact.ko_keywords if w not in fact.ko),
        ]
        for fact in things.values()
    ]


def _emoji(key: str) -> str:
    """The characters; FE0F asks for the coloured form of one that is text as well."""
    points = [chr(int(point, 16)) for point in key.split("-")]
    return "".join(points) + ("\ufe0f" if len(points) == 1 else "")


def find(query: str, rows: list[Row]) -> list[Row]:
    """The things that every word of the query speaks of, the nearest first.

    A word speaks of a thing by being its name (0), a word of its name (1) or a keyword (2),
    or by beginning one of these (3, 4, 5); in Korean also by beginning with one of at least two
    letters, since particles follow the noun. Ranks are added; ties keep Unicode's order.
    """
    found = []
    for row in rows:
        ranks = [_rank(word, row) for word in query.lower().split()]
        if ranks and None not in ranks:
            exact = query.strip().lower() in (row[1].lower(), row[2].lower())
            found.append((-1 if exact else sum(r for r in ranks if r is not None), row))
    return [row for _, row in sorted(found, key=lambda each: each[0])]


def _rank(word: str, row: Row) -> int | None:
    names = [row[1].lower(), row[2].lower()]
    parts = [part for name in names for part in name.replace("-", " ").split()]
    keywords = [k for text in row[3:] for k in text.lower().split(";") if k]
    for rank, some in enumerate((names, parts, keywords)):
        if word in some:
            return rank
    for rank, some in ((3, names), (4, parts), (5, keywords)):
        if any(one.startswith(word) or _inflected(word, one) for one in some):
            return rank
    return None


def _inflected(word: str, noun: str) -> bool:
    """Whether a Korean word is this noun with a particle: 고양이가, 고양이."""
    return "가" <= noun[:1] <= "힣" and len(noun) > 1 and word.startswith(noun)


def to_json(rows: list[Row]) -> str:
    lines = [json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in rows]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def main() -> None:
    rows = rows_of(load_drawings("emoji", "all")[1])
    OUT.write_text(to_json(rows))
    print(f"{OUT}: {len(rows)} things, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
