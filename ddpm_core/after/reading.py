"""The stored networks of pictures from words, and captions as they read them."""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import data_folder
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
