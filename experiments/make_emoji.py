"""data/emoji from the published packages: six artists' drawings of the same things.

    cd $(mktemp -d)
    npm pack @iconify-json/fluent-emoji-flat@1.2.6 @iconify-json/fluent-emoji@1.2.7 \
        @iconify-json/fluent-emoji-high-contrast@1.2.6 @iconify-json/noto@1.2.9 \
        @iconify-json/noto-v1@1.2.5 @iconify-json/twemoji@1.2.5 \
        @iconify-json/fxemoji@1.2.2 emojibase-data@17.0.0
    pip install -e '.[emoji]'
    python experiments/make_emoji.py FOLDER_OF_THE_TGZ_FILES --jobs 2

About five minutes of two cores. The packages are checked by their SHA-256. The result is
the same to the bit in decoded pixels (SHA256SUMS has the sums of files and of arrays); the
bytes of a WebP file may change with the version of its encoder. Tests never run this file:
they read the stored sheets. With --check nothing is written: the arrays made anew are
compared with the stored sums.
"""

import argparse
import hashlib
import io
import json
import re
import tarfile
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIZE, COLUMNS = 64, 60  # a tile's side in pixels; tiles in a row of a sheet


class Package(NamedTuple):
    """One artist's drawings, and where their names are found."""

    file: str
    sha256: str
    # whose chars.json gives the icon's name; the own set first, if it has one
    names: tuple[str, ...]


STYLES = {
    "flat": Package(
        "iconify-json-fluent-emoji-flat-1.2.6.tgz",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        ("flat",),
    ),
    "glossy": Package(
        "iconify-json-fluent-emoji-1.2.7.tgz",
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
        ("flat", "ink"),
    ),
    "ink": Package(
        "iconify-json-fluent-emoji-high-contrast-1.2.6.tgz",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        ("ink",),
    ),
    "noto": Package(
        "iconify-json-noto-1.2.9.tgz",
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        ("noto",),
    ),
    "blob": Package(
        "iconify-json-noto-v1-1.2.5.tgz",
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        ("noto", "twemoji"),
    ),
    "twemoji": Package(
        "iconify-json-twemoji-1.2.5.tgz",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        ("twemoji",),
    ),
    # test only; its icons are called by the letters of the code point's name
    "firefox": Package(
        "iconify-json-fxemoji-1.2.2.tgz",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        (),
    ),
}
WORDS = Package(
    "emojibase-data-17.0.0.tgz",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    (),
)
GROUPS = {
    0: "smileys",
    1: "people",
    3: "animals",
    4: "food",
    5: "travel",
    6: "activities",
    7: "objects",
    8: "symbols",
}  # not 2 (components), 9 (flags) and None (letters of flags)
TONES = ("", "light", "medium-light", "medium", "medium-dark", "dark")
# flat, glossy and ink are one drawing: a pair that is held out is held out in all three
FAMILY = {"flat": "fluent", "glossy": "fluent", "ink": "fluent"}


class Entry(NamedTuple):
    """One emoji that is drawn: a sequence of code points with its words."""

    key: str
    name: str
    base: str
    tones: tuple[str, ...]
    group: str
    subgroup: str
    keywords: tuple[str, ...]
    ko: str
    ko_keywords: tuple[str, ...]


def read(folder: Path, package: Package, member: str) -> Any:
    """A JSON file out of a package, whose SHA-256 is checked."""
    packed = (folder / package.file).read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != package.sha256:
        raise ValueError(f"{package.file}: SHA-256 {found}; wanted {package.sha256}")
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        opened = files.extractfile(f"package/{member}")
        assert opened is not None, member
        return json.load(opened)


def key_of(code_points: str) -> str:
    """Code points in lower case without FE0F, which only asks for a coloured picture."""
    return re.sub("-fe0f", "", code_points.lower())


def read_entries(folder: Path) -> list[Entry]:
    """All emoji but flags and components, in the order of Unicode."""
    groups = read(folder, WORDS, "meta/groups.json")["subgroups"]
    korean = {}
    for row in read(folder, WORDS, "ko/data.json"):
        for one in [row, *row.get("skins", [])]:
            korean[key_of(one["hexcode"])] = (one["label"], row.get("tags", []))
    entries = []
    for row in read(folder, WORDS, "en/data.json"):
        if row.get("group") not in GROUPS:
            continue
        for one in [row, *row.get("skins", [])]:
            tone = one.get("tone", [])
            ko, ko_keywords = korean[key_of(one["hexcode"])]
            entry = Entry(
                key_of(one["hexcode"]),
                one["label"],
                row["label"],
                tuple(TONES[i] for i in (tone if isinstance(tone, list) else [tone])),
                GROUPS[row["group"]],
                groups[str(row["subgroup"])],
                tuple(row.get("tags", [])),
                ko,
                tuple(ko_keywords),
            )
            entries.append((one["order"], entry))
    return [entry for _, entry in sorted(entries)]


def find_svgs(folder: Path, style: str, entries: list[Entry]) -> dict[str, str]:
    """{key: SVG} of the entries that an artist drew."""
    icons = read(folder, STYLES[style], "icons.json")
    found = {}
    if style == "firefox":
        # The name of the code point first: their "sunglasses" are a face that wears some.
        unicode_names = read(folder, WORDS, "meta/unicode-names.json")
        names = {key_of(key): name for key, name in unicode_names.items()}
        for entry in entries:
            for name in (entry.name, names.get(entry.key, "")):
                if (letters := re.sub("[^a-z0-9]", "", name.lower())) in icons["icons"]:
                    found[entry.key] = letters
    for neighbour in reversed(STYLES[style].names):
        chars = read(folder, STYLES[neighbour], "chars.json")
        found |= {key_of(key): name for key, name in chars.items()}
    return {e.key: s for e in entries if (s := svg(icons, found.get(e.key, "")))}


def svg(icons: dict[str, Any], name: str) -> str | None:
    """An icon, or an alias of one (which may be mirrored), as a document."""
    flip = False
    while name in icons.get("aliases", {}):
        alias = icons["aliases"][name]
        assert set(alias) <= {"parent", "hFlip"}, alias
        name, flip = alias["parent"], flip ^ alias.get("hFlip", False)
    if name not in icons["icons"]:
        return None
    icon = icons["icons"][name]
    assert set(icon) <= {"body", "width", "height", "left", "top", "hidden"}, set(icon)
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icons["width"])
    height = icon.get("height", icons["height"])
    body = icon["body"]
    if flip:
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def draw(document: str) -> np.ndarray:
    """An SVG -> uint8 (64, 64, 4): drawn at 128, then the mean of 2 x 2 premultiplied."""
    import resvg_py

    drawn = resvg_py.svg_to_bytes(
        svg_string=document, width=2 * SIZE, height=2 * SIZE, skip_system_fonts=True
    )
    large = Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")
    if large.size != (2 * SIZE, 2 * SIZE):  # a drawing that is not square: centred
        square = Image.new("RGBA", (2 * SIZE, 2 * SIZE))
        corner = [(2 * SIZE - side) // 2 for side in large.size]
        square.paste(large, (corner[0], corner[1]))
        large = square
    pixels = np.asarray(large).astype(np.int64)
    alpha = pixels[..., 3:]
    parts = np.concatenate([pixels[..., :3] * alpha, alpha], 2)
    sums = parts.reshape(SIZE, 2, SIZE, 2, 4).sum((1, 3))
    total = sums[..., 3:]
    colour = (2 * sums[..., :3] + total) // np.maximum(2 * total, 1)  # rounded
    small = np.concatenate([colour, (total + 2) // 4], 2)
    small[small[..., 3] == 0] = 0  # what nobody sees has one colour
    return small.astype(np.uint8)


def without_copies(pictures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first of those with the same pixels; empty ones are left out."""
    seen, kept = set(), {}
    for key, picture in pictures.items():
        if picture[..., 3].any() and (data := picture.tobytes()) not in seen:
            seen.add(data)
            kept[key] = picture
    return kept


# Splits: by the SHA-256 of a string, so that they never depend on a generator or on the
# order of the entries.


def number(text: str) -> int:
    """The first 32 bits of the SHA-256 of a string."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def words_in(*texts: str) -> set[str]:
    """Words of some texts, in lower case; a plural in -s counts as its singular."""
    words = re.findall("[^\\W\\d_]+", " ".join(texts).lower())
    return {word[:-1] if re.search("..[^isu]s$", word) else word for word in words}


def withheld_words(entries: list[Entry]) -> list[str]:
    """4% of the words in names that at most 8 bases have in name or keywords."""
    named, bases = set(), Counter[str]()
    for base, keywords in {entry.base: entry.keywords for entry in entries}.items():
        named |= words_in(base)
        bases.update(words_in(base, *keywords))
    rare = (word for word in named if len(word) > 2 and bases[word] <= 8)
    return sorted(word for word in rare if number(f"word {word}") % 100 < 4)


def withheld_tone(base: str, toned: set[str]) -> str:
    """One of the five tones for half of the bases that have all five, "" otherwise."""
    if base not in toned or number(f"tone {base}") % 2:
        return ""
    return TONES[1 + number(f"which tone {base}") % 5]


def withheld_families(base: str, families: set[str]) -> set[str]:
    """10% of (family, base); none if the base would not be left in any family."""
    held = {f for f in families if number(f"pair {f} {base}") % 10 == 0}
    return held if held < families else set()


def split_all(
    entries: list[Entry], keys: dict[str, list[str]]
) -> tuple[dict[str, list[str]], list[str]]:
    """The split of every picture, {style: [split of each key]}, and the words withheld.

    artist   all of firefox
    word     name or keywords have a withheld word, in any style
    tone     the tone that is withheld from this base, in any style
    pair     this base is withheld from this family of styles, in any tone
    train    the rest
    """
    by_key = {entry.key: entry for entry in entries}
    words = withheld_words(entries)
    tones, families = defaultdict(set), defaultdict(set)
    for entry in entries:
        tones[entry.base].add(entry.tones)
    toned = {b for b, t in tones.items() if {(one,) for one in TONES[1:]} <= t}
    for style in keys.keys() - {"firefox"}:
        for key in keys[style]:
            families[by_key[key].base].add(FAMILY.get(style, style))

    def split(style: str, entry: Entry) -> str:
        base = entry.base
        if style == "firefox":
            return "artist"
        if words_in(entry.name, base, *entry.keywords) & set(words):
            return "word"
        if withheld_tone(base, toned) in entry.tones:
            return "tone"
        if FAMILY.get(style, style) in withheld_families(base, families[base]):
            return "pair"
        return "train"

    return {s: [split(s, by_key[k]) for k in some] for s, some in keys.items()}, words


# Files


def sheet(pictures: list[np.ndarray]) -> Image.Image:
    """Tiles in rows of 60, the first one at the upper left."""
    rows = -(-len(pictures) // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, SIZE, SIZE, 4), np.uint8)
    tiles[: len(pictures)] = pictures
    grid = tiles.reshape(rows, COLUMNS, SIZE, SIZE, 4).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(grid.reshape(rows * SIZE, COLUMNS * SIZE, 4), "RGBA")


def describe(
    entries: list[Entry], pictures: dict[str, dict[str, np.ndarray]]
) -> dict[str, Any]:
    """What captions.json holds."""
    keys = {style: list(some) for style, some in pictures.items()}
    drawn = {key for some in keys.values() for key in some}
    entries = [entry for entry in entries if entry.key in drawn]
    splits, words = split_all(entries, keys)
    index = {entry.key: i for i, entry in enumerate(entries)}
    held = ("pair", "tone", "word", "artist")
    return {
        "withheld_words": words,
        "sheets": {
            style: {
                "pixels": hashlib.sha256(np.stack(list(some.values()))).hexdigest(),
                "entries": [index[key] for key in some],
                "splits": {
                    name: [i for i, s in enumerate(splits[style]) if s == name]
                    for name in held
                    if name in splits[style]
                },  # places on the sheet; those not named are "train"
            }
            for style, some in pictures.items()
        },
        "bases": {
            e.base: {
                "group": e.group,
                "subgroup": e.subgroup,
                "keywords": e.keywords,
                "ko_keywords": e.ko_keywords,
            }
            for e in entries
        },
        "entries": [
            {
                "key": e.key,
                "name": e.name,
                "base": e.base,
                "tone": " and ".join(e.tones),
            }
            | {"ko": e.ko}
            for e in entries
        ],
    }


def to_json(facts: dict[str, Any]) -> str:
    """JSON with one entry a line, so that a difference between versions can be read."""
    lines = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))
    parts = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows = [f"{lines(k)}:{lines(v)}" for k, v in value.items()]
            parts.append(f"{lines(name)}:{{\n" + ",\n".join(rows) + "\n}")
        else:
            rows = [lines(v) for v in value]
            parts.append(f"{lines(name)}:[\n" + ",\n".join(rows) + "\n]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def make(folder: Path, jobs: int) -> tuple[list[Entry], dict[str, dict[str, Any]]]:
    """Entries, and {style: {key: uint8 (64, 64, 4)}}."""
    entries, pictures = read_entries(folder), {}
    with ProcessPoolExecutor(jobs) as pool:
        for style in STYLES:
            svgs = find_svgs(folder, style, entries)
            drawn = pool.map(draw, svgs.values(), chunksize=20)
            pictures[style] = without_copies(dict(zip(svgs, drawn, strict=True)))
            print(f"{style}: {len(svgs)} drawn, {len(pictures[style])} differ")
    return entries, pictures


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("folder", type=Path, help="where the .tgz files are")
    arguments.add_argument("--out", type=Path, default=Path("data/emoji"))
    arguments.add_argument("--jobs", type=int, default=2, help="processes that draw")
    arguments.add_argument("--check", action="store_true", help="write nothing")
    options = arguments.parse_args()
    out: Path = options.out
    text = to_json(describe(*(made := make(options.folder, options.jobs))))
    if options.check:
        if text != (out / "captions.json").read_text():
            raise SystemExit(f"{out}/captions.json or its pixels are not these")
        print("the same")
        return
    out.mkdir(parents=True, exist_ok=True)
    (out / "captions.json").write_text(text)
    for style, some in made[1].items():
        sheet(list(some.values())).save(
            out / f"{style}.webp", lossless=True, quality=100, method=6, exact=True
        )  # exact: colours under transparent pixels stay, so that the sums do
    files = sorted([*out.glob("*.webp"), out / "captions.json"])
    files += [out / "minilm/vocab.txt"]  # as the package of the text encoder has it
    sums = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  " for f in files]
    names = [f"{f.relative_to(out)}\n" for f in files]
    (out / "SHA256SUMS").write_text("".join(map(str.__add__, sums, names)))


if __name__ == "__main__":
    main()
