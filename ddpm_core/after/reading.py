"""The stored networks of pictures from words, and captions as they read them."""

import difflib
import json
import re
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..captions import GROUNDS, PEOPLE_AND_SYMBOLS, STYLES
from ..data import data_folder
from ..runtime.files import read_embedded
from ..runtime.store import load_network
from .clip import CLIP
from .text import PAD, Tokenizer


@lru_cache
def words_network(name: str) -> nn.Module:
    """A network of data/checkpoints/words, such as "clip", "decoder", "prior"; frozen.

    Raises FileNotFoundError for one that is not there.
    """
    folder = data_folder() / "checkpoints" / "words" / name
    return load_network(folder).network.eval().requires_grad_(False)


@lru_cache
def words_tokenizer() -> Tokenizer:
    """The tokenizer that all of these networks were trained with."""
    return Tokenizer.load(data_folder() / "checkpoints" / "words" / "tokenizer.json")


@torch.no_grad()
def read_captions(captions: Sequence[str]) -> dict[str, Tensor]:
    """N captions -> context (N, K, 128), mask (N, K) bool, pooled (N, 128) of length 1.

    As CLIP's tower reads them; what `Decoder` and `Prior` are told by name.
    Raises TypeError or ValueError for captions that are none, empty or too long.
    """
    tokens = words_tokenizer()(captions)
    clip = words_network("clip")
    assert isinstance(clip, CLIP)
    words, whole = clip.text(tokens)
    return dict(context=words, mask=tokens != PAD, pooled=F.normalize(whole, dim=1))


def check_known(caption: str) -> None:
    """Raises ValueError for words of a caption that the decoder was never told in training.

    An empty caption has none, and is refused where it is read.
    """
    known = known_words()
    unknown = [w for w in re.findall(r"\w+", caption.lower()) if w not in known]
    if unknown:
        like = difflib.get_close_matches(unknown[0], sorted(known), n=3)
        raise ValueError(
            f"the network has never read {unknown[0]!r}; wanted a style "
            f"({', '.join(STYLES)}), a thing, and perhaps 'on a light blue ground'"
            + (f". Alike are: {', '.join(like)}" if like else "")
        )


@lru_cache
def known_words() -> frozenset[str]:
    """The words of the decoder's training captions: styles, grounds, names and keywords of things, but no withheld word.

    No picture is decoded.
    """
    known = json.loads(read_embedded(data_folder() / "emoji" / "captions.json"))
    texts = [*STYLES, *GROUNDS, "on a ground"]
    for style in STYLES:
        sheet = known["sheets"][style]
        held = {place for places in sheet["splits"].values() for place in places}
        for place, entry in enumerate(sheet["entries"]):
            names = known["entries"][entry]
            base = known["bases"][names["base"]]
            if place not in held and base["group"] not in PEOPLE_AND_SYMBOLS:
                texts += [names["name"], *base["keywords"]]
    return frozenset(re.findall(r"\w+", " ".join(texts).lower()))
