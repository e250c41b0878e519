"""The drawings as the runs of this part see them: placed on a ground by chance, with one of their captions.

Everything lies on the device, and all chance comes from torch's generator of the moment, which the
loop sets anew in every step.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ddpm_core.after.text import END, PAD, Tokenizer
from ddpm_core.captions import GROUNDS, Drawing, load_drawings

BANK = 20  # tokens of a frozen reader for a name or three keywords
KEYWORDS = 4  # how many draws of three keywords each drawing gets
WHITE = 0.5  # share of pictures on white; the others are on one of the light colours
SAID = 0.85  # share of coloured grounds that the caption names


@dataclass
class Batch:
    """Pictures in [-1, 1], their tokens, which drawing each shows and on which ground (0: white)."""

    x: Tensor  # (B, 3, S, S)
    tokens: Tensor  # (B, length)
    rows: Tensor  # (B,)
    ground: Tensor  # (B,)
    said: Tensor  # (B,) bool: the caption names the ground
    content: Tensor  # (B,) which of the drawing's captions it is


class Drawings:
    """Some drawings, all of their captions, and `batch`, which draws pairs of a picture and a caption.

    splits   of load_drawings, such as ("train",)        things  leave out people and symbols
    tokenizer, size, device                              seed    of the draws of keywords
    """

    def __init__(
        self,
        splits: tuple[str, ...],
        tokenizer: Tokenizer,
        size: int = 32,
        things: bool = False,
        device: str | torch.device = "cpu",
        seed: int = 0,
        bank: "Bank | None" = None,
    ):
        parts = [load_drawings("emoji", split, things=things) for split in splits]
        self.facts = [fact for _, facts in parts for fact in facts]
        rgba = torch.cat([images for images, _ in parts]).to(device)
        self.size, self.tokenizer, self.device = size, tokenizer, torch.device(device)
        alpha = rgba[:, 3:].float() / 255
        # premultiplied, (N, 4, 64, 64): what is transparent has no colour to bleed into its neighbours
        self.layers = torch.cat(
            [rgba[:, :3].float() / 255 * alpha, alpha], dim=1
        ).half()
        colours = torch.tensor(list(GROUNDS.values()), dtype=torch.float32) / 255
        self.grounds = torch.cat([torch.ones(1, 3), colours]).to(device)  # white first
        chance = torch.Generator().manual_seed(seed)
        self.contents = [contents(fact, chance) for fact in self.facts]
        captions = [phrases for several in self.contents for phrases in several]
        rows = [self._pieces(" ".join(phrases)) for phrases in captions]
        table = torch.full((len(rows), tokenizer.length), PAD, dtype=torch.int16)
        for row, pieces in zip(table, rows):
            row[: len(pieces)] = torch.tensor(pieces, dtype=torch.int16)
        self.table = table.view(len(self.facts), -1, tokenizer.length).to(device)
        self.said = ["", *(f"on a {name} ground" for name in GROUNDS)]
        self.suffix = tokenizer([text or "x" for text in self.said])[:, 1:].to(device)
        self.suffix[0] = PAD
        self.suffix[0, 0] = END
        if bank is not None:
            self.bank = bank
            index = bank.index(captions, BANK)
            self.index = index.view(len(self.facts), -1, BANK)
            grounds = [(text,) if text else () for text in self.said]
            self.ground_index = bank.index(grounds, 8)

    def __len__(self) -> int:
        return len(self.facts)

    def _pieces(self, text: str) -> list[int]:
        tokens = self.tokenizer([text], cut=True)[0]
        return tokens[: int((tokens == END).nonzero())].tolist()  # without the end

    def tokens(self, rows: Tensor, content: Tensor, ground: Tensor) -> Tensor:
        """The caption `content` of drawing `rows`, with the ground's words after it where `ground` is not 0; LongTensor (B, length)."""
        tokens = self.table[rows, content].long()
        start = (tokens != PAD).sum(1, keepdim=True)
        suffix, length = self.suffix[ground], tokens.shape[1]
        place = start + torch.arange(suffix.shape[1], device=tokens.device)
        fits = (place < length) & (suffix != PAD)
        tokens = F.pad(tokens, (0, 1)).scatter(
            1, torch.where(fits, place, length), suffix
        )
        tokens = tokens[:, :length]
        full = ~(tokens == END).any(1)
        tokens[full, -1] = END
        return tokens

    def features(
        self, rows: Tensor, content: Tensor, ground: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same captions as the frozen reader has them; see Bank.read."""
        index = self.index[rows, content]
        return self.bank.read(torch.cat([index, self.ground_index[ground]], dim=1))

    def place(self, rows: Tensor, ground: Tensor, move: bool = True) -> Tensor:
        """Drawings on grounds, (B, 3, size, size) in [-1, 1]; with `move` shifted and scaled by chance, never mirrored."""
        layers = self.layers[rows].float()
        if move:
            B = len(rows)
            scale = torch.empty(B, 1, 1, device=self.device).uniform_(0.95, 1.2)
            shift = torch.empty(B, 2, 1, device=self.device).uniform_(-0.08, 0.08)
            eye = torch.eye(2, device=self.device).expand(B, 2, 2)
            grid = F.affine_grid(
                torch.cat([eye * scale, shift], dim=2),
                list(layers.shape),
                align_corners=False,
            )
            layers = F.grid_sample(layers, grid, align_corners=False)
        if self.size < 64:
            layers = F.avg_pool2d(layers, 64 // self.size)
        colour = self.grounds[ground][:, :, None, None]
        return (layers[:, :3] + (1 - layers[:, 3:]) * colour) * 2 - 1

    def batch(self, size: int, move: bool = True) -> Batch:
        """Pairs by chance: any drawing, on white or on a colour, with its name and style or less, or with keywords."""
        device = self.device
        rows = torch.randint(len(self), (size,), device=device)
        coloured = torch.rand(size, device=device) >= WHITE
        ground = torch.randint(1, len(self.grounds), (size,), device=device) * coloured
        # ink is drawn in lines whose white is transparent; it, too, stands on light grounds
        said = coloured & (torch.rand(size, device=device) < SAID)
        content = torch.multinomial(self._weights(), size, replacement=True)
        tokens = self.tokens(rows, content, ground * said)
        return Batch(
            self.place(rows, ground, move), tokens, rows, ground, said, content
        )

    def _weights(self) -> Tensor:
        half = [0.15 / KEYWORDS] * KEYWORDS
        return torch.tensor([0.5, 0.2, *half, *half], device=self.device)


def contents(fact: Drawing, chance: torch.Generator) -> list[tuple[str, ...]]:
    """The captions of a drawing in phrases: style and name, name, then draws of three keywords with the style, and without."""
    words = fact.keywords or (fact.name,)
    draws = [
        tuple(
            words[i] for i in torch.randperm(len(words), generator=chance)[:3].tolist()
        )
        for _ in range(KEYWORDS)
    ]
    with_style = [(fact.style, *draw) for draw in draws]
    return [(fact.style, fact.name), (fact.name,), *with_style, *draws]


class Bank:
    """Features of phrases that a frozen reader made once: one row a token, the rows of a phrase in a run.

    A caption's tokens are its phrases' tokens one after another: each phrase was read by itself.
    """

    def __init__(self, path: Path, device: str | torch.device = "cpu"):
        stored = load_file(path)
        names = json.loads(path.with_suffix(".json").read_text())
        ends = stored["ends"].tolist()
        self.rows = {n: range(a, b) for n, a, b in zip(names, [0, *ends], ends)}
        none = torch.zeros(1, stored["tokens"].shape[1])
        self.tokens = torch.cat([none, stored["tokens"].float()]).to(
            device
        )  # row 0: none

    def index(self, captions: list[tuple[str, ...]], length: int) -> Tensor:
        """Phrases -> (N, length) numbers of rows, 0 where there is none."""
        table = torch.zeros(len(captions), length, dtype=torch.int32)
        for row, phrases in zip(table, captions):
            found = [n + 1 for phrase in phrases for n in self.rows[phrase]][:length]
            row[: len(found)] = torch.tensor(found, dtype=torch.int32)
        return table.to(self.tokens.device)

    def read(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers of rows -> tokens (B, K, d), which count (B, K), and their mean (B, d)."""
        tokens, mask = self.tokens[index.long()], index > 0
        return tokens, mask, tokens.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
