"""Pictures with captions: six artists' drawings of the same things, embedded in
data/emoji.

data/emoji/README.md says whose they are, how they were made and what they lack. Nothing
is decoded but the sheets that a split needs, and nothing is cached on disk.
"""

import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .data import data_folder
from .runtime import guard
from .runtime.files import read_embedded

STYLES = ("flat", "glossy", "ink", "noto", "blob", "twemoji")  # firefox: test only
SPLITS = ("train", "pair", "tone", "word", "artist", "all")
PEOPLE_AND_SYMBOLS = ("people", "symbols")  # the groups that hold no things
# Light, because the white of an ink drawing is transparent and its lines are black.
GROUNDS = {
    "light red": (255, 176, 168),
    "light orange": (255, 211, 150),
    "light yellow": (255, 246, 158),
    "light green": (178, 236, 168),
    "light turquoise": (160, 236, 228),
    "light blue": (168, 204, 255),
    "light purple": (220, 186, 255),
    "light grey": (208, 208, 208),
}
WHITE = (255, 255, 255)
SIZE, COLUMNS = 64, 60  # a tile's side in pixels; tiles in a row of a sheet


class Drawing(NamedTuple):
    """What is known of one picture."""

    style: str  # its artist: flat, glossy, ink, noto, blob, twemoji, firefox
    name: str  # "clapping hands: dark skin tone", by Unicode
    base: str  # "clapping hands": the name without the tone
    tone: str  # "", "light", "medium-light", ..., "dark"; "light and dark" of a couple
    key: str  # code points: "1f44f-1f3ff"
    keywords: tuple[str, ...]
    group: str  # smileys, people, animals, food, travel, activities, objects, symbols
    subgroup: str
    ko: str  # the name in Korean
    ko_keywords: tuple[str, ...]
    split: str  # train, pair, tone, word, artist
    ground: str = ""  # the colour that it lies on, a key of GROUNDS; "": white, or none

    @property
    def caption(self) -> str:
        """ "{style} {name}", and the ground where it is not white."""
        return f"{self.style} {self.name}{on_a(self.ground)}"

    @property
    def thing(self) -> bool:
        """Whether it is neither of people nor a symbol."""
        return self.group not in PEOPLE_AND_SYMBOLS


def load_captioned(
    name: str = "emoji",
    split: str = "train",
    size: int = 32,
    ground: str | None = None,
    *,
    styles: tuple[str, ...] | list[str] | None = None,
    things: bool = False,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> tuple[Tensor, list[str], list[Drawing]]:
    """Images uint8 (N, 3, size, size), their captions, and what is known of each.

    name    "emoji": the one set that there is
    split   "train", or held out: "pair" (things and styles that are known, but never
            seen together), "tone" (a skin tone never seen on this thing), "word"
            (things with words that no training caption has, keywords neither), "artist"
            (a seventh artist, style "firefox"); "all" of these
    size    64, as stored; 32: the mean of 2 x 2 pixels
    ground  None: white; a name of GROUNDS; "random": one of these eight for each
            picture, by `generator`, or else by `seed`. The caption ends in "on a light
            blue ground".
    styles  only these artists
    things  no people and no symbols: the 1,032 things that are generated

    Raises ValueError for an unknown name, split, size, ground or style and for a
    damaged file, FileNotFoundError for a missing one. For grounds, shifts and sizes of
    your own, see `load_drawings` and `on_ground`.
    """
    if size not in (32, 64):
        raise ValueError(f"size = {size!r}; wanted 32 or 64")
    if ground is not None:
        guard.one_of("ground", ground, ("random", *GROUNDS))
    drawings, facts = load_drawings(name, split, styles=styles, things=things)
    if ground is None:
        return on_ground(drawings, WHITE, size), captions_of(facts), facts
    names = list(GROUNDS)
    if ground == "random":
        if generator is None:
            generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(names), (len(facts),), generator=generator)
    else:
        chosen = torch.full((len(facts),), names.index(ground))
    facts = [f._replace(ground=names[i]) for f, i in zip(facts, chosen, strict=True)]
    colours = torch.tensor(list(GROUNDS.values()), dtype=torch.uint8)[chosen]
    return on_ground(drawings, colours, size), captions_of(facts), facts


def load_drawings(
    name: str = "emoji",
    split: str = "train",
    *,
    styles: tuple[str, ...] | list[str] | None = None,
    things: bool = False,
) -> tuple[Tensor, list[Drawing]]:
    """RGBA uint8 (N, 4, 64, 64), not premultiplied, and what is known of each picture.

    The arguments and errors of `load_captioned`, before anything is laid on a ground.
    The first call unpacks what it needs, in about three seconds for all, and keeps it
    for the next call: 27 MB a style.
    """
    if name != "emoji":
        raise ValueError(f'name = {name!r}; wanted "emoji", the one set with captions')
    guard.one_of("split", split, SPLITS)
    for style in styles if styles is not None else ():
        guard.one_of("style", style, (*STYLES, "firefox"))
    folder = data_folder() / "emoji"
    known = json.loads(read_embedded(folder / "captions.json"))
    parts, facts = [], []
    for style, sheet in known["sheets"].items():
        if styles is not None and style not in styles:
            continue
        splits = ["artist" if style == "firefox" else "train"] * len(sheet["entries"])
        for held, places in sheet["splits"].items():
            for place in places:
                splits[place] = held
        places = []
        for place, entry in enumerate(sheet["entries"]):
            fact = _drawing(known, style, entry, splits[place])
            if split in ("all", fact.split) and (fact.thing or not things):
                places.append(place)
                facts.append(fact)
        if places:
            tiles = _read_sheet(folder / f"{style}.webp", len(sheet["entries"]))
            parts.append(tiles if len(places) == len(tiles) else tiles[places])
    if not parts:
        raise ValueError(
            f"no pictures for split = {split!r}, styles = {styles!r}, things ="
            f' {things}; "artist" has firefox and nothing else, and "tone" has only'
            " people"
        )
    drawings = torch.cat(parts) if len(parts) > 1 else parts[0]
    return drawings.permute(0, 3, 1, 2).contiguous(), facts


def on_ground(
    drawings: Tensor, ground: tuple[int, int, int] | Tensor, size: int = SIZE
) -> Tensor:
    """RGBA uint8 (N, 4, 64, 64) on a ground -> RGB uint8 (N, 3, size, size), rounded
    once.

    (alpha colour + (255 - alpha) ground) / 255, in integers; at size 32 the mean of 2 x
    2 of that, which is the mean of premultiplied pixels. ground: (3,) or one for each,
    (N, 3), whole numbers 0..255. Raises TypeError or ValueError for anything else.
    """
    guard.instance("drawings", drawings, Tensor, "a tensor, as load_drawings gives it")
    if drawings.ndim != 4 or drawings.shape[1] != 4 or drawings.dtype != torch.uint8:
        raise ValueError(
            f"drawings are {drawings.dtype} {tuple(drawings.shape)}; "
            "wanted uint8 (N, 4, H, W), as load_drawings gives them"
        )
    side = drawings.shape[-1]
    if side not in (size, 2 * size):
        raise ValueError(f"size = {size}; wanted {side} or {side // 2}, the half of it")
    colour = torch.as_tensor(ground, device=drawings.device)
    if colour.is_floating_point():
        raise TypeError(
            f"ground has dtype {colour.dtype}; wanted whole numbers, 0..255"
        )
    # Of uint8 nothing is looked at: on a GPU that would wait.
    if colour.dtype != torch.uint8 and colour.numel():
        least, most = int(colour.min()), int(colour.max())
        if least < 0 or most > 255:
            raise ValueError(f"ground runs from {least} to {most}; wanted 0..255")
    colour = colour.to(torch.int32)
    if colour.shape not in ((3,), (len(drawings), 3)):
        raise ValueError(
            f"ground is {tuple(colour.shape)}; wanted (3,), or one colour for each of"
            f" the {len(drawings)} drawings: ({len(drawings)}, 3)"
        )
    colour = colour.expand(len(drawings), 3)[..., None, None]
    out = drawings.new_empty(len(drawings), 3, size, size)
    for i in range(0, len(drawings), 16):  # int32 copies that fit into a cache
        part = drawings[i : i + 16].to(torch.int32)
        rgb, alpha = part[:, :3], part[:, 3:]
        if side == size:
            whole, pixels = 255, rgb * alpha
        else:
            whole, pixels, alpha = 4 * 255, _sum4(rgb * alpha), _sum4(alpha)
        pixels += (whole - alpha) * colour[i : i + 16]
        out[i : i + 16] = (2 * pixels + whole) // (2 * whole)
    return out


def captions_of(
    facts: list[Drawing],
    generator: torch.Generator | None = None,
    *,
    keywords: float = 0.15,
    no_style: float = 0.15,
) -> list[str]:
    """A caption for each picture, "{style} {name}", or with a generator one of several.

    Then three of the keywords stand for the name with probability `keywords`, and the
    style is left out with probability `no_style`, independently of each other. The
    ground is always named, if there is one. Raises TypeError or ValueError for what are
    no Drawings or no probabilities.
    """
    wanted = "wanted the Drawings that load_drawings() returns"
    if not isinstance(facts, (list, tuple)) or isinstance(facts, Drawing):
        raise TypeError(f"facts are a {type(facts).__name__}; {wanted}")
    for fact in facts:
        if not isinstance(fact, Drawing):
            raise TypeError(f"facts hold a {type(fact).__name__}; {wanted}")
    for name, chance in {"keywords": keywords, "no_style": no_style}.items():
        if not guard.is_number(chance) or not 0 <= chance <= 1:
            raise ValueError(f"{name} = {chance!r}; wanted a probability, from 0 to 1")
    if generator is None:
        return [fact.caption for fact in facts]
    dice = torch.rand(len(facts), 2, generator=generator).tolist()
    captions = []
    for fact, (first, second) in zip(facts, dice, strict=True):
        text = fact.name
        if first < keywords and fact.keywords:
            order = torch.randperm(len(fact.keywords), generator=generator)[:3]
            text = ", ".join(fact.keywords[i] for i in order)
        style = "" if second < no_style else f"{fact.style} "
        captions.append(f"{style}{text}{on_a(fact.ground)}")
    return captions


def on_a(ground: str) -> str:
    """The end of a caption: " on a light blue ground", or "" for white."""
    return f" on a {ground} ground" if ground else ""


def _sum4(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H/2, W/2): the sum of 2 x 2 pixels."""
    rows = x[..., ::2, :] + x[..., 1::2, :]
    return rows[..., ::2] + rows[..., 1::2]


def _drawing(known: dict[str, Any], style: str, entry: int, split: str) -> Drawing:
    names = known["entries"][entry]
    base = known["bases"][names["base"]]
    return Drawing(
        style,
        names["name"],
        names["base"],
        names["tone"],
        names["key"],
        tuple(base["keywords"]),
        base["group"],
        base["subgroup"],
        names["ko"],
        tuple(base["ko_keywords"]),
        split,
    )


def _read_sheet(path: Path, number: int) -> Tensor:
    """A sheet in lossless WebP -> its first tiles, uint8 (number, 64, 64, 4)."""
    packed = read_embedded(path)
    try:
        pixels = _decoded(packed)
    except Exception as error:  # WebP missing from Pillow, or not enough memory
        raise ValueError(
            f"{path} cannot be decoded ({error}); wanted a Pillow that reads WebP: "
            "pip install -U pillow"
        ) from error
    tiles = pixels.reshape(-1, SIZE, COLUMNS, SIZE, 4).transpose(1, 2)
    return tiles.reshape(-1, SIZE, SIZE, 4)[:number]


@lru_cache(maxsize=len(STYLES) + 1)
def _decoded(packed: bytes) -> Tensor:
    """A sheet's pixels, (H, W, 4). All sheets are kept, 190 MB: to unpack them takes a
    second and a half, and who asks for one split asks for the next."""
    from PIL import Image

    with Image.open(io.BytesIO(packed)) as picture:
        drawn = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        return torch.from_numpy(np.array(drawn))
