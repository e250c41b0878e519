"""What the networks of the last part can do, in numbers and pictures.

    python -m experiments.words.measure glide --out OUT [--n 512] [--steps 25]

Writes OUT/NAME.json and OUT/NAME.png. Pictures are drawn for held-out pairs of a style and a thing, as they come,
nothing selected. The judge is a network that took part in no training and no drawing but its own.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import ddpm_core as ddpm
from ddpm_core.after.cascade import noise_condition, shrink
from ddpm_core.after.clip import CLIP, clip_guidance
from ddpm_core.after.inverse import inpaint_steps
from ddpm_core.after.prior import slerp
from ddpm_core.after.text import PAD
from ddpm_core.captions import GROUNDS, STYLES, Drawing, load_drawings
from ddpm_core.metrics import kid
from ddpm_core.runtime.store import read_about

from .drawings import Bank, Drawings
from .train import (
    RUNS,
    SCHEDULE,
    SIZE,
    USED,
    as_listed,
    beside_latents,
    known_part,
    larger,
    place_of,
    silhouette,
    tokenizer,
    trained,
    without,
)

Model = Callable[..., Tensor]
STORED = Path("data/checkpoints/words")
# two pictures, and the words whose difference turns them
PAD_ENDS = (
    ["noto red apple", "twemoji tropical fish"],
    ["flat octopus", "ink octopus"],
)


class Judge:
    """Names, styles and grounds of pictures, (N, 3, 32, 32) in [-1, 1]."""

    def __init__(self, device: str, network: str = "judge"):
        self.device, self.clip = device, trained(network, device)
        _, facts = load_drawings("emoji", "all", things=True)
        self.names = sorted({f.name for f in facts if f.style != "firefox"})
        self.place = {name: n for n, name in enumerate(self.names)}
        self.words = self.texts(self.names)
        colours = torch.tensor([(255,) * 3, *GROUNDS.values()]).float() / 127.5 - 1
        self.colours = colours.to(device)

    @torch.no_grad()
    def texts(self, captions: list[str]) -> Tensor:
        tokens = tokenizer()(captions, cut=True).to(self.device)
        return torch.cat([self.clip.encode_texts(part) for part in tokens.split(512)])

    @torch.no_grad()
    def look(self, x: Tensor) -> Tensor:
        x = shrink(x, x.shape[-1] // 32) if x.shape[-1] > 32 else x
        x = x.clamp(-1, 1).to(self.device)
        return torch.cat([self.clip.encode_images(part) for part in x.split(512)])

    def __call__(
        self, x: Tensor, facts: list[Drawing], ground: Tensor | None = None
    ) -> dict[str, float]:
        seen = self.look(x)
        right = torch.tensor([self.place[f.name] for f in facts], device=self.device)
        top = (seen @ self.words.T).topk(5).indices
        hit = top == right[:, None]
        styles = self.texts([f"{s} {f.name}" for f in facts for s in STYLES])
        style = (seen[:, None] * styles.view(len(facts), len(STYLES), -1)).sum(-1)
        wanted = torch.tensor(
            [STYLES.index(f.style) for f in facts], device=self.device
        )
        styled = style.argmax(1) == wanted
        found = {
            "top1": hit[:, 0].float().mean().item(),
            "top5": hit.any(1).float().mean().item(),
            "style": styled.float().mean().item(),
            "n": len(facts),
        }
        if ground is not None:
            grounded = self.ground(x) == ground.to(self.device)
            found["ground"] = grounded.float().mean().item()
            both = styled & grounded & hit.any(1)
            found["style, ground and top5 together"] = both.float().mean().item()
        return found

    def ground(self, x: Tensor) -> Tensor:
        """The nearest of the nine grounds to the median colour of the rim."""
        return torch.cdist(rim(x.to(self.device)), self.colours).argmin(1)


def rim(x: Tensor) -> Tensor:
    """The median colour of the outermost pixels: (B, 3, H, W) -> (B, 3)."""
    edge = torch.cat([x[..., 0, :], x[..., -1, :], x[..., 0], x[..., -1]], dim=2)
    return edge.median(2).values


def held_out(
    n: int, device: str, size: int = 32, split: str = "pair"
) -> tuple[Drawings, Tensor]:
    """Held-out things, and which of them are drawn: the first n of a fixed shuffle."""
    data = Drawings((split,), tokenizer(), size, things=True, device=device)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return data, order[:n].to(device)


def captions(
    data: Drawings, rows: Tensor, ground: Tensor, eye: CLIP
) -> dict[str, Tensor]:
    """Style, name and ground as CLIP's tower reads them: tokens, mask, the unit vector."""
    content = torch.zeros_like(rows)
    tokens = data.tokens(rows, content, ground)
    with torch.no_grad():
        words, whole = eye.text(tokens)
    return dict(context=words, mask=tokens != PAD, pooled=F.normalize(whole, dim=1))


def draw(
    model: Model,
    shape: tuple[int, ...],
    steps: int,
    seed: int,
    device: str,
    same: bool = False,
    **how: Any,
) -> Tensor:
    """Samples of a model by DDIM, from noise that is the same for every model, and with `same` for every sample."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    noise = noise[:1].expand(shape) if same else noise
    with torch.autocast("cuda", torch.bfloat16, enabled=device != "cpu"):
        return ddpm.sample(
            model, SCHEDULE, shape, steps=steps, sampler="ddim", x_T=noise, **how
        ).float()


def spread(judge: Judge, x: Tensor, each: int) -> float:
    """1 - cosine of the judge's features, over pairs of the `each` pictures of one caption."""
    f = judge.look(x).view(-1, each, 128)
    cos = f @ f.mT
    off = ~torch.eye(each, dtype=torch.bool, device=cos.device)
    return 1 - cos[:, off].mean().item()


def nearest(x: Tensor, train: Drawings) -> Tensor:
    """The smallest root mean squared distance of each picture to a training picture on white."""
    rows = torch.arange(len(train), device=train.device)
    all_x = torch.cat(
        [train.place(r, torch.zeros_like(r), move=False) for r in rows.split(1024)]
    ).flatten(1)
    far = [torch.cdist(part.flatten(1), all_x).amin(1) for part in x.split(256)]
    return torch.cat(far) / x[0].numel() ** 0.5


def sheet(rows: list[Tensor], columns: int, path: Path) -> None:
    """Pictures as a PNG, one list of rows after the other."""
    grids = [ddpm_grid(x, columns) for x in rows]
    Image.fromarray(np.concatenate(grids)).save(path, optimize=True)


def ddpm_grid(x: Tensor, columns: int) -> Any:
    from ddpm_core.figures import image_grid

    grid = image_grid(ddpm.to_uint8(x.cpu().float()), columns)
    return np.pad(grid, ((0, 1), (0, 0), (0, 0)), constant_values=255)


def real_rows(
    judge: Judge, data: Drawings, rows: Tensor
) -> dict[str, dict[str, float]]:
    """What real held-out pictures get, and what they get for another's caption."""
    facts = [data.facts[i] for i in rows.tolist()]
    white = torch.zeros_like(rows)
    x = data.place(rows, white, move=False)
    return {"real": judge(x, facts), "wrong captions": judge(x, facts[1:] + facts[:1])}


def distance(judge: Judge, x: Tensor, data: Drawings, rows: Tensor) -> float:
    real = data.place(rows, torch.zeros_like(rows), move=False)
    return float(kid(judge.look(x).cpu().double(), judge.look(real).cpu().double()))


def measure_clip(a: argparse.Namespace) -> dict[str, Any]:
    """Retrieval and zero-shot of CLIP and judge, beside the nearest neighbour in pixels."""
    found: dict[str, Any] = {}
    for name in ("clip", "judge"):
        eye, tok = trained(name, a.device), tokenizer()
        here: dict[str, Any] = {}
        for split in ("pair", "word", "tone", "artist"):
            data = Drawings((split,), tok, device=a.device)
            rows = torch.arange(len(data), device=a.device)
            x = data.place(rows, torch.zeros_like(rows), move=False)
            with torch.no_grad():
                f = torch.cat([eye.encode_images(part) for part in x.split(512)])
                texts = tok([f.caption for f in data.facts], cut=True).to(a.device)
                g = torch.cat([eye.encode_texts(part) for part in texts.split(512)])
            score = f @ g.T
            right = torch.arange(len(score), device=score.device)[:, None]
            here[split] = {
                "candidates": len(score),
                "image to text R@1": (score.topk(1).indices == right)
                .any(1)
                .float()
                .mean()
                .item(),
                "image to text R@5": (score.topk(5).indices == right)
                .any(1)
                .float()
                .mean()
                .item(),
                "text to image R@1": (score.T.topk(1).indices == right)
                .any(1)
                .float()
                .mean()
                .item(),
                "text to image R@5": (score.T.topk(5).indices == right)
                .any(1)
                .float()
                .mean()
                .item(),
                "matched cosine": score.diag().mean().item(),
            }
            _, every = load_drawings("emoji", "all")
            bases = sorted({f.base for f in every})
            tokens = tok(bases, cut=True).to(a.device)
            with torch.no_grad():
                words = torch.cat(
                    [eye.encode_texts(part) for part in tokens.split(512)]
                )
            want = torch.tensor(
                [bases.index(f.base) for f in data.facts], device=a.device
            )
            top = (f @ words.T).topk(5).indices
            here[split]["names"] = len(bases)
            here[split]["zero-shot top1"] = (top[:, 0] == want).float().mean().item()
            here[split]["zero-shot top5"] = (
                (top == want[:, None]).any(1).float().mean().item()
            )
            if name == "clip":
                train = Drawings(("train",), tok, device=a.device)
                r = torch.arange(len(train), device=a.device)
                known = torch.cat(
                    [
                        train.place(p, torch.zeros_like(p), move=False)
                        for p in r.split(1024)
                    ]
                ).flatten(1)
                near = torch.cat(
                    [torch.cdist(p.flatten(1), known).argmin(1) for p in x.split(256)]
                )
                same = [
                    train.facts[i].base == f.base
                    for i, f in zip(near.tolist(), data.facts)
                ]
                here[split]["pixel neighbour top1"] = sum(same) / len(same)
                if split == "pair":
                    with torch.no_grad():
                        z = torch.cat(
                            [
                                eye.encode_images(
                                    train.place(p, torch.zeros_like(p), False)
                                )
                                for p in r.split(512)
                            ]
                        )
                        t = tok([f.caption for f in train.facts], cut=True).to(a.device)
                        c = torch.cat([eye.encode_texts(p) for p in t.split(512)])
                    here["matched cosine, training"] = (z * c).sum(1).mean().item()
        found[name] = here
    return found


def measure_autoencoder(a: argparse.Namespace) -> dict[str, Any]:
    """PSNR on held-out pairs, and what the judge still recognises."""
    judge, found = Judge(a.device), {}
    for name in a.names.split(","):
        first = trained(name, a.device)
        size = 32 if name.endswith("32") else 64
        data, rows = held_out(a.n, a.device, size)
        facts = [data.facts[i] for i in rows.tolist()]
        x = data.place(rows, torch.zeros_like(rows), move=False)
        with torch.no_grad():
            mean, log_var = first.encode(x)
            z, more = mean, {}
            if first.quantizer is not None:
                z, k, _ = first.quantizer(mean)
                codes = first.config["codes"]
                share = (
                    torch.bincount(k.flatten(), minlength=codes).double() / k.numel()
                )
                more["perplexity"] = torch.special.entr(share).sum().exp().item()
                more["bits a picture"] = k[0].numel() * float(np.log2(codes))
            back = first.decode(z).clamp(-1, 1)
        error = (back - x).square().flatten(1).mean(1)
        psnr = 10 * torch.log10(4 / error)
        found[name] = more | {
            "psnr of the mean error": (10 * torch.log10(4 / error.mean())).item(),
            "psnr, median": psnr.median().item(),
            "numbers": z[0].numel(),
            "latent std": mean.std((0, 2, 3)).tolist(),
            "posterior std": (log_var / 2).exp().mean((0, 2, 3)).tolist(),
            "judge": judge(back, facts),
        }
        sheet([x[:16], back[:16]], 16, a.out / f"{name}.png")
    found["real"] = real_rows(judge, *held_out(a.n, a.device))["real"]
    return found


def measure_glide(a: argparse.Namespace) -> dict[str, Any]:
    """Words in attention: the sweep over s, on white and on coloured grounds."""
    judge, eye = Judge(a.device), trained("clip", a.device)
    own, net = Judge(a.device, "clip"), trained("decoder", a.device)
    data, rows = held_out(a.n, a.device)
    facts = [data.facts[i] for i in rows.tolist()]
    chance = torch.Generator().manual_seed(1)
    coloured = torch.randint(0, 9, (len(rows),), generator=chance).to(a.device)
    found: dict[str, Any] = {"rows": real_rows(judge, data, rows), "sweep": {}}
    found["rows"]["real, by the generator's CLIP"] = real_rows(own, data, rows)["real"]
    x_real = data.place(rows, coloured, move=False)
    found["rows"]["real, grounds"] = judge(x_real, facts, coloured)
    train = Drawings(("train",), tokenizer(), things=True, device=a.device)
    found["rows"]["nearest training picture, real"] = (
        nearest(data.place(rows, torch.zeros_like(rows), move=False), train)
        .mean()
        .item()
    )
    shape, grids = (len(rows), 3, 32, 32), []
    for s in (0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0):
        given = captions(data, rows, torch.zeros_like(rows), eye)
        model = ddpm.guided(net, s - 1, **given)
        x = draw(model, shape, a.steps, 0, a.device)
        row = judge(x, facts) | {
            "kid": distance(judge, x, data, rows),
            "nearest training picture": nearest(x, train).mean().item(),
            "by the generator's CLIP": own(x, facts),
        }
        four = rows[: len(rows) // 4].repeat_interleave(4)
        given4 = captions(data, four, torch.zeros_like(four), eye)
        model4 = ddpm.guided(net, s - 1, **given4)
        row["spread"] = spread(
            judge, draw(model4, (len(four), 3, 32, 32), a.steps, 2, a.device), 4
        )
        found["sweep"][s] = row
        grids.append(x[:32])
        if s == 3.0:
            sheet([x[:64]], 16, a.out / "glide-64.png")
    given = captions(data, rows, coloured, eye)
    model = ddpm.guided(net, 2.0, **given)
    x = draw(model, shape, a.steps, 1, a.device)
    found["on nine grounds, s = 3"] = judge(x, facts, coloured)
    swapped = captions(data, rows.roll(1), coloured, eye)
    model = ddpm.guided(net, 2.0, **swapped)
    found["captions shuffled, s = 3"] = judge(
        draw(model, shape, a.steps, 1, a.device), facts
    )
    sheet([x[:64]], 16, a.out / "glide-grounds.png")
    sheet(grids, 32, a.out / "glide-sweep.png")
    known = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[
        : a.n
    ].to(a.device)
    given = captions(train, known, torch.zeros_like(known), eye)
    model = ddpm.guided(net, 2.0, **given)
    x = draw(model, (len(known), 3, 32, 32), a.steps, 0, a.device)
    found["training pairs, s = 3"] = judge(
        x, [train.facts[i] for i in known.tolist()]
    ) | {"nearest training picture": nearest(x, train).mean().item()}
    found["prompts"] = [f.caption for f in facts[:64]]
    return found


def measure_clipguide(a: argparse.Namespace) -> dict[str, Any]:
    """The decoder told nothing, pushed by CLIP that saw noise and by CLIP that did not."""
    judge, eye, net = (
        Judge(a.device),
        trained("clip", a.device),
        trained("decoder", a.device),
    )
    own, noisy = Judge(a.device, "clip"), trained("noisy", a.device)
    data, rows = held_out(min(a.n, 256), a.device)
    facts = [data.facts[i] for i in rows.tolist()]
    g = captions(data, rows, torch.zeros_like(rows), eye)["pooled"]
    encoders = {
        "told t": lambda x, t: F.normalize(noisy(x, t).float(), dim=1),
        "clean": lambda x, t: eye.encode_images(x),
    }
    found: dict[str, Any] = {"sweep": {}, "accuracy": {}}
    grids = []
    for kind, encode in encoders.items():
        for s in (0.0, 1.0, 3.0, 10.0, 30.0):
            model = clip_guidance(
                lambda x, t: net(x, t), SCHEDULE, encode, g, s, float(eye.scale)
            )
            x = draw(model, (len(rows), 3, 32, 32), 2 * a.steps, 0, a.device)
            found["sweep"][f"{kind}, s = {s:g}"] = judge(x, facts) | {
                "by the guiding CLIP": own(x, facts),
                "cosine to the caption": (own.look(x) * g).sum(1).mean().item(),
            }
            grids.append(x[:32])
        real = data.place(rows, torch.zeros_like(rows), move=False)
        words = own.words
        right = torch.tensor([own.place[f.name] for f in facts], device=a.device)
        for t in (1, 50, 100, 200, 300, 500, 700, 900):
            eps = torch.randn(
                real.shape, generator=torch.Generator().manual_seed(t)
            ).to(real)
            x_t = ddpm.q_sample(SCHEDULE, real, t, eps)
            with torch.no_grad():
                f = encode(x_t, torch.full((len(x_t),), t, device=x_t.device))
            top = (f @ words.T).topk(5).indices
            found["accuracy"][f"{kind}, t = {t}"] = (
                (top == right[:, None]).any(1).float().mean().item()
            )
    sheet(grids, 32, a.out / "clipguide.png")
    return found


def measure_dalle2(a: argparse.Namespace) -> dict[str, Any]:
    """The decoder given nothing, z_t, a linear map of it, the prior's draws, the true z_i."""
    judge, eye, net = (
        Judge(a.device),
        trained("clip", a.device),
        trained("decoder", a.device),
    )
    prior = trained("prior", a.device)
    data, rows = held_out(a.n, a.device)
    facts = [data.facts[i] for i in rows.tolist()]
    given = captions(data, rows, torch.zeros_like(rows), eye)
    train = Drawings(("train",), tokenizer(), things=True, device=a.device)
    every = torch.arange(len(train), device=a.device)
    with torch.no_grad():
        z_train = torch.cat(
            [
                eye.encode_images(train.place(r, torch.zeros_like(r), move=False))
                for r in every.split(512)
            ]
        )
        t_train = torch.cat(
            [
                captions(train, r, torch.zeros_like(r), eye)["pooled"]
                for r in every.split(512)
            ]
        )
        z_true = eye.encode_images(data.place(rows, torch.zeros_like(rows), move=False))
    ones = torch.ones(len(t_train), 1, device=a.device)
    ridge = 1e-2 * torch.eye(129, device=a.device)
    A = torch.cat([t_train, ones], 1)
    linear = torch.linalg.solve(A.T @ A + ridge, A.T @ z_train)
    z_linear = F.normalize(
        torch.cat([given["pooled"], ones[: len(rows)]], 1) @ linear, dim=1
    )
    near = z_train[(given["pooled"] @ t_train.T).argmax(1)]

    def from_prior(s: float, seed: int) -> Tensor:
        return imagined(prior, given, s, seed, a.device)

    def best_of_two(s: float) -> Tensor:
        two = torch.stack([from_prior(s, 3), from_prior(s, 4)])
        pick = (two * given["pooled"]).sum(-1).argmax(0)
        return two[pick, torch.arange(len(rows), device=a.device)]

    choices: dict[str, Tensor | None] = {
        "nothing": None,
        "the text's own": given["pooled"],
        "linear map": z_linear,
        "nearest training text's picture": near,
        "prior, s = 1": from_prior(1.0, 3),
        "prior, s = 2": from_prior(2.0, 3),
        "prior, s = 2, better of two": best_of_two(2.0),
        "true": z_true,
    }
    found: dict[str, Any] = {"decoder": {}, "rows": real_rows(judge, data, rows)}
    grids = [data.place(rows[:32], torch.zeros_like(rows[:32]), move=False)]
    for name, z in choices.items():
        for words in (False, True):
            more = given if words else {}
            w = 1.0 if z is not None or words else -1.0
            model = ddpm.guided(net, w, z=z, **more)
            x = draw(model, (len(rows), 3, 32, 32), a.steps, 0, a.device)
            row = judge(x, facts) | {"kid": distance(judge, x, data, rows)}
            if z is not None:
                row |= {
                    "cosine to the true": (z * z_true).sum(1).mean().item(),
                    "kid of embeddings": float(
                        kid(z.cpu().double(), z_true.cpu().double())
                    ),
                    "R@1 of the true among all": (
                        (z @ z_true.T).argmax(1)
                        == torch.arange(len(z), device=z.device)
                    )
                    .float()
                    .mean()
                    .item(),
                }
            found["decoder"][f"{name}{' and words' if words else ''}"] = row
            if not words:
                grids.append(x[:32])
    sheet(grids, 32, a.out / "dalle2.png")
    centred = z_train - z_train.mean(0)
    power = torch.linalg.svdvals(centred).square()
    found["principal directions for 98.8% of the variance"] = int(
        ((power.cumsum(0) / power.sum()) < 0.988).sum() + 1
    )
    return found


def imagined(
    prior: Model, given: dict[str, Tensor], s: float, seed: int, device: str
) -> Tensor:
    """Unit embeddings that the prior draws for captions, in 50 steps."""
    model = ddpm.as_eps_model(ddpm.guided(prior, s - 1, **given), SCHEDULE, "x0")
    shape = tuple(given["pooled"].shape)
    z = draw(model, shape, 50, seed, device, clip_x0=False)
    return F.normalize(z, dim=1)


def measure_box(a: argparse.Namespace) -> dict[str, Any]:
    """What 8 bits cost the networks of the page: the same captions and the same noise, beside the stored float16."""
    from book._tools.export_words import Told

    judge, page = Judge(a.device), Told().to(a.device)
    eye, net = trained("clip", a.device), trained("decoder", a.device)
    data, rows = held_out(a.n, a.device)
    facts = [data.facts[i] for i in rows.tolist()]
    white = torch.zeros_like(rows)
    found: dict[str, Any] = {"rows": real_rows(judge, data, rows)}
    for s in (5.0,):  # what the page offers first
        drawn = []
        for name, tower, decoder in (("16", eye, net), ("8", page, page.decoder)):
            given = captions(data, rows, white, tower)
            model = ddpm.guided(decoder, s - 1, **given)
            x = draw(model, (len(rows), 3, 32, 32), a.steps, 0, a.device)
            found[f"{name} bits, s = {s:g}"] = judge(x, facts) | {
                "kid": distance(judge, x, data, rows)
            }
            drawn.append(x.clamp(-1, 1))
        apart = (drawn[0] - drawn[1]).square().flatten(1).mean(1).sqrt()
        found[f"difference, s = {s:g}"] = {
            "grey levels, median": 127.5 * apart.median().item(),
            "grey levels, nine of ten below": 127.5 * apart.quantile(0.9).item(),
        }
    return found


def measure_scales(a: argparse.Namespace) -> dict[str, Any]:
    """Words alone, and words with the prior's embedding, at stronger guidance of the decoder."""
    judge, eye = Judge(a.device), trained("clip", a.device)
    net, prior = trained("decoder", a.device), trained("prior", a.device)
    own = Judge(a.device, "clip")
    data, rows = held_out(a.n, a.device)
    facts = [data.facts[i] for i in rows.tolist()]
    given = captions(data, rows, torch.zeros_like(rows), eye)
    z = imagined(prior, given, 2.0, 3, a.device)
    found: dict[str, Any] = {"rows": real_rows(judge, data, rows)}
    grids = [data.place(rows[:32], torch.zeros_like(rows[:32]), move=False)]
    for name, more in (("words", {}), ("words and prior", {"z": z})):
        for s in (3.0, 5.0, 8.0):
            model = ddpm.guided(net, s - 1, **given, **more)
            x = draw(model, (len(rows), 3, 32, 32), a.steps, 0, a.device)
            found[f"{name}, s = {s:g}"] = judge(x, facts) | {
                "kid": distance(judge, x, data, rows),
                "by the generator's CLIP": own(x, facts),
            }
            grids.append(x[:32])
    sheet(grids, 32, a.out / "scales.png")
    return found


def measure_pad(a: argparse.Namespace) -> dict[str, Any]:
    """9 x 9 pictures between two pictures (across) and, by a difference of words, towards another thing (down)."""
    eye, net = trained("clip", a.device), trained("decoder", a.device)
    data = Drawings(("train",), tokenizer(), things=True, device=a.device)
    place = {f"{f.style} {f.name}": n for n, f in enumerate(data.facts)}
    ends, words = PAD_ENDS
    rows = torch.tensor([place[name] for name in ends], device=a.device)
    with torch.no_grad():
        white = torch.zeros_like(rows)
        first, second = eye.encode_images(data.place(rows, white, move=False))[:, None]
        tokens = tokenizer()(list(words)).to(a.device)
        before, after = eye.encode_texts(tokens)[:, None]
    turn = F.normalize(after - before, dim=1)
    shares = torch.linspace(0, 1, 9).tolist()
    across = torch.cat([slerp(first, second, p) for p in shares])
    z = torch.cat([slerp(across, turn.expand(9, -1), p / 2) for p in shares])
    x = draw(
        ddpm.guided(net, 2.0, z=z), (81, 3, 32, 32), a.steps, 0, a.device,
        same=True,
    )  # fmt: skip
    sheet([x], 9, a.out / "pad.png")
    return {"pictures": ends, "words": words, "shares": shares, "largest angle": 0.5}


def measure_readers(a: argparse.Namespace) -> dict[str, Any]:
    """The same U-Net told by other readers: held-out pairs, held-out words."""
    from ddpm_core.runtime.store import load_network, read_about

    from .train import PIXELS, TEXT, Reading, Words  # noqa: F401

    judge = Judge(a.device)
    eye, bank = trained("clip", a.device), Bank(a.bank, a.device)
    found: dict[str, Any] = {}
    for name in a.names.split(","):
        kind = name.removeprefix("reader-")
        place = RUNS / name
        found[name] = {"steps": read_about(place)[0]["step"]}
        for split in ("pair", "word"):
            data = Drawings(
                (split,),
                tokenizer(),
                things=True,
                device=a.device,
                bank=bank if kind.startswith("minilm") else None,
            )
            order = torch.randperm(
                len(data), generator=torch.Generator().manual_seed(0)
            )
            rows = order[: a.n].to(a.device)
            facts = [data.facts[i] for i in rows.tolist()]
            words = Words(kind.split("@")[0], data, eye).to(a.device)
            unet = ddpm.UNet(**PIXELS, context=words.width, pooled=words.width)
            if kind.split("@")[0] in ("scratch", "random"):
                load_network(
                    place, model=(both := Reading(unet, words)), device=a.device
                )
                words = both.words
            else:
                load_network(place, model=unet, device=a.device)
            unet.to(a.device).eval().requires_grad_(False)
            white = torch.zeros_like(rows)
            from .drawings import Batch

            batch = Batch(
                data.place(rows, white, False),
                data.tokens(rows, white, white),
                rows,
                white,
                white.bool(),
                white,
            )
            with torch.no_grad():
                given = words(batch)
            for s in (1.0, 3.0):
                model = ddpm.guided(unet, s - 1, **given)
                x = draw(model, (len(rows), 3, 32, 32), a.steps, 0, a.device)
                row = judge(x, facts) | {"kid": distance(judge, x, data, rows)}
                found[name][f"{split}, s = {s:g}"] = row
            sheet([x[:64]], 16, a.out / f"{name}-{split}.png")
            found.setdefault("real", {})[split] = real_rows(judge, data, rows)
    return found


def measure_latent(a: argparse.Namespace) -> dict[str, Any]:
    """Latent diffusion: the sweep over s."""
    judge, eye = Judge(a.device), trained("clip", a.device)
    own, first = Judge(a.device, "clip"), trained("autoencoder", a.device)
    data, rows = held_out(a.n, a.device, 64)
    facts = [data.facts[i] for i in rows.tolist()]
    real = data.place(rows, torch.zeros_like(rows), move=False)
    with torch.no_grad():
        coded = first.decode(first.encode(real)[0])
    found: dict[str, Any] = {
        "rows": real_rows(judge, data, rows)
        | {
            "autoencoded": judge(coded, facts),
            "real, by the generator's CLIP": own(real, facts),
        }
    }
    given = captions(data, rows, torch.zeros_like(rows), eye)
    given["pooled"] = given["pooled"] * SIZE
    net, about = trained("latent", a.device), about_run("latent")
    found["latent"] = {"steps": about["step"], "seconds": about["info"]["seconds"]}
    grids = []
    for scale in (1.0, 2.0, 4.0, 7.5):
        x = drawn_at_64(net, about, given, scale, len(rows), a)
        found["latent"][f"s = {scale:g}"] = judge(x, facts) | {
            "kid": distance(judge, x, data, rows),
            "by the generator's CLIP": own(x, facts),
            "contrast": x.std().item(),
        }
        grids.append(x[:16])
        if scale == 4.0:
            sheet([x[:64]], 16, a.out / "latent-64.png")
    sheet(grids, 16, a.out / "latent-sweep.png")
    found["prompts"] = [f.caption for f in facts[:64]]
    return found


def about_run(name: str) -> dict[str, Any]:
    """What a run noted: its steps, its seconds, its command, and the sum of its weights."""
    about, place = read_about(place_of(name))
    weights = place / "weights.safetensors"
    return about | {"sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}


def drawn_at_64(
    net: Model,
    about: dict[str, Any],
    given: dict[str, Tensor],
    s: float,
    n: int,
    a: argparse.Namespace,
) -> Tensor:
    """n pictures of 64 x 64 for captions, by a network of latents or of pixels."""
    model = ddpm.guided(net, s - 1, **given)
    if "whitening" not in about["info"]:
        return draw(model, (n, 3, 64, 64), a.steps, 0, a.device)
    white = as_listed(about["info"]["whitening"]).to(a.device)
    first = trained("autoencoder", a.device)
    z = draw(model, (n, 4, 16, 16), a.steps, 0, a.device, clip_x0=False)
    with torch.no_grad():
        parts = [first.decode(white.undo(part)) for part in z.split(128)]
    return torch.cat(parts).clamp(-1, 1)


def measure_seconds(a: argparse.Namespace) -> dict[str, Any]:
    """Latents against pixels of 64 x 64: two runs of as many seconds on one core, --names latent-core,pixels-core."""
    judge, eye = Judge(a.device), trained("clip", a.device)
    data, rows = held_out(a.n, a.device, 64)
    facts = [data.facts[i] for i in rows.tolist()]
    found: dict[str, Any] = {"rows": real_rows(judge, data, rows)}
    real = data.place(rows, torch.zeros_like(rows), move=False)
    half = len(rows) // 2
    halves = [judge.look(part).cpu().double() for part in (real[:half], real[half:])]
    found["rows"]["kid of two halves of the real"] = float(kid(*halves))
    given = captions(data, rows, torch.zeros_like(rows), eye)
    given["pooled"] = given["pooled"] * SIZE
    grids = [real[:16]]
    for name in a.names.split(","):
        net, about = trained(name, a.device), about_run(name)
        found[name] = noted(about)
        for s in (1.0, 4.0):
            x = drawn_at_64(net, about, given, s, len(rows), a)
            found[name][f"s = {s:g}"] = judge(x, facts) | {
                "kid": distance(judge, x, data, rows)
            }
            grids.append(x[:16])
    sheet(grids, 16, a.out / "seconds.png")
    return found


def noted(about: dict[str, Any]) -> dict[str, Any]:
    """Of a run whose weights are not kept in the repository: how to make it again."""
    told = about["info"]["command"]
    return {
        "steps": about["step"],
        "batch": about["info"]["batch"],
        "seed": told["seed"],
        "command": {k: v for k, v in told.items() if v and k not in ("out", "bank")},
        "sha256": about["sha256"],
    }


def measure_cascade(a: argparse.Namespace) -> dict[str, Any]:
    """32 to 64: the error and the distance against the level s, for true and for drawn small pictures; thresholds."""
    judge, eye, net = (
        Judge(a.device),
        trained("clip", a.device),
        trained("decoder", a.device),
    )
    large = trained("enlarger", a.device)
    data, rows = held_out(min(a.n, 256), a.device, 64)
    facts = [data.facts[i] for i in rows.tolist()]
    real = data.place(rows, torch.zeros_like(rows), move=False)
    small_data, _ = held_out(min(a.n, 256), a.device)
    given = captions(small_data, rows, torch.zeros_like(rows), eye)
    model = ddpm.guided(net, 2.0, **given)
    drawn = draw(model, (len(rows), 3, 32, 32), a.steps, 0, a.device)
    found: dict[str, Any] = {"true": {}, "drawn": {}}
    eps = torch.randn(drawn.shape, generator=torch.Generator().manual_seed(5)).to(drawn)
    grids = [F.interpolate(drawn[:16], scale_factor=2)]
    for kind, small in (("true", shrink(real)), ("drawn", drawn)):
        up = F.interpolate(small, size=64, mode="bicubic").clamp(-1, 1)
        for name, x in (("nearest", F.interpolate(small, size=64)), ("bicubic", up)):
            found[kind][name] = score64(judge, x, real, facts, kind)
        for s in (0, 25, 50, 100, 150, 200, 300, 400):
            beside = noise_condition(SCHEDULE, small, s, eps, 64)
            answer = larger(large, beside)
            x = draw(
                ddpm.as_eps_model(answer, SCHEDULE, "x0"),
                tuple(real.shape),
                a.steps,
                6,
                a.device,
            )
            found[kind][f"s = {s}"] = row = score64(judge, x, real, facts, kind)
            if kind == "true":  # one answer at t = T is the mean of the draws
                static = torch.randn(
                    real.shape, generator=torch.Generator().manual_seed(6)
                )
                with torch.no_grad():
                    mean = answer(static.to(real), SCHEDULE.T)
                row["psnr of the mean"] = psnr(mean, real)
            if s in (0, 100):
                grids.append(x[:16])
    sheet(grids, 16, a.out / "cascade.png")
    return found


def score64(
    judge: Judge, x: Tensor, real: Tensor, facts: list[Drawing], kind: str
) -> dict[str, float]:
    found = judge(x, facts)
    edges = lambda y: shrink(
        (y - F.interpolate(shrink(y), scale_factor=2)).square(), 64
    ).sqrt()
    found["roughness"] = edges(x).mean().item()
    found["roughness, real"] = edges(real).mean().item()
    patches = lambda y: F.unfold(y, 8, stride=8).transpose(1, 2).reshape(-1, 192)[::3]
    found["kid of 8 x 8 patches"] = float(
        kid(patches(x).cpu().double()[:4000], patches(real).cpu().double()[:4000])
    )
    if kind == "true":
        found["psnr"] = psnr(x, real)
    return found


def psnr(x: Tensor, real: Tensor) -> float:
    """Of the mean error of all pictures, in dB."""
    return (10 * torch.log10(4 / (x.clamp(-1, 1) - real).square().mean())).item()


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of silhouettes, (B, 1, H, W), 1 or -1; the mean over pictures."""
    both = ((a > 0) & (b > 0)).flatten(1).sum(1)
    return (both / ((a > 0) | (b > 0)).flatten(1).sum(1).clamp(min=1)).mean().item()


def measure_control(a: argparse.Namespace) -> dict[str, Any]:
    """The wanted silhouette against the one drawn, with and without control."""
    judge, eye, whole, net = (
        Judge(a.device),
        *(trained(name, a.device) for name in ("clip", "decoder", "control")),
    )
    data, rows = held_out(min(a.n, 256), a.device)
    facts = [data.facts[i] for i in rows.tolist()]
    white = torch.zeros_like(rows)
    real = data.place(rows, white, move=False)
    wanted = silhouette(real, data.grounds[white])
    given = captions(data, rows, white, eye)
    inside, free = whole.conditions(len(rows), **given), whole.conditions(len(rows))
    found: dict[str, Any] = {}
    grids = [real[:32], wanted[:32].expand(-1, 3, -1, -1)]
    for strength in (0.0, 0.5, 1.0, 1.5):
        held = dict(control=wanted, strength=strength)
        model = ddpm.guided(net, 2.0, null=held | free, **held, **inside)
        x = draw(model, (len(rows), 3, 32, 32), a.steps, 0, a.device)
        found[f"strength {strength:g}"] = judge(x, facts) | {
            "iou": overlap(silhouette(x, data.grounds[white]), wanted),
            "iou, the ground by the rim": overlap(
                silhouette(x, (rim(x) + 1) / 2), wanted
            ),
        }
        grids.append(x[:32])
    sheet(grids, 32, a.out / "control.png")
    return found


def measure_inpaint(a: argparse.Namespace) -> dict[str, Any]:
    """What is drawn in a hidden part: by channels beside the latents, by replacement, by nobody who knows the rest; and a map's overlap.

    All are told the caption, which names no ground, and begin with the same noise; Algorithm 2 in so many steps, without guidance.
    """
    eye, first = trained("clip", a.device), trained("autoencoder", a.device)
    frozen, net = trained("latent", a.device), trained("inpaint", a.device)
    white = as_listed(about_run("latent")["info"]["whitening"]).to(a.device)
    data, rows = held_out(min(a.n, 64), a.device, 64)
    n, shape = len(rows), (len(rows), 4, 16, 16)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        known = known_part(n, 16, torch.device("cpu")).to(a.device)
        ground = torch.randint(1, 9, (n,)) * (torch.rand(n) < 0.5)  # the others: white
        ground = ground.to(a.device)
    real, pixels = data.place(rows, ground, move=False), F.interpolate(known, size=64)
    wanted = silhouette(real, data.grounds[ground])
    given = captions(data, rows, torch.zeros_like(rows), eye)
    given["pooled"] = given["pooled"] * SIZE
    with torch.no_grad():
        whole, part = (white(first.encode(x)[0]) for x in (real, without(real, known)))
    inner = -F.max_pool2d(-known, 3, stride=1, padding=1)  # a cell from what is hidden
    thing, nothing = shrink(wanted, 4), torch.zeros_like(known)

    def decoded(z: Tensor) -> Tensor:
        with torch.no_grad():
            return first.decode(white.undo(z)).clamp(-1, 1)

    def begun(seed: int) -> dict[str, Any]:
        chance = torch.Generator().manual_seed(seed)
        x_T = torch.randn(shape, generator=chance).to(a.device)
        how = dict(steps=a.steps, variance="beta_tilde", clip_x0=False)
        return how | dict(x_T=x_T, generator=chance)

    def drawn(model: Model, seed: int) -> Tensor:
        how = dict(precision="float32") | begun(seed)
        return decoded(ddpm.sample(model, SCHEDULE, shape, **how))

    def told(known: Tensor, mapped: bool) -> Model:
        beside = beside_latents(part, known, thing, mapped)
        return ddpm.guided(net, 0.0, condition=beside, **given)

    untold = ddpm.guided(frozen, 0.0, **given)

    def replaced(
        seed: int, z: Tensor, mask: Tensor, resample: int = 1, model: Model = untold
    ) -> Tensor:
        how = begun(seed) | dict(resample=resample)
        *_, (_, x, _) = inpaint_steps(model, SCHEDULE, z, mask > 0, **how)
        return decoded(x)

    def one_colour(seed: int) -> Tensor:
        seen = [x[:, m[0] > 0].median(1).values for x, m in zip(real, pixels)]
        return torch.stack(seen)[:, :, None, None].expand_as(real)

    ways: dict[str, Callable[[int], Tensor]] = {
        "the autoencoder": lambda k: decoded(whole),
        "channels": lambda k: drawn(told(known, False), k),
        "channels and map": lambda k: drawn(told(known, True), k),
        "replacement": lambda k: replaced(k, part, known),
        "replacement, a rim left out": lambda k: replaced(k, part, inner),
        "replacement, three times": lambda k: replaced(k, part, known, 3),
        "replacement, latents of the whole": lambda k: replaced(k, whole, known),
        "channels and replacement": lambda k: replaced(
            k, part, known, model=told(known, False)
        ),
        "the rest not known": lambda k: drawn(untold, k),
        "one colour": one_colour,
    }
    found: dict[str, Any] = {"pictures": n, "seeds": [0, 1], "hidden": {}}
    kept, errors = {}, {}
    for name, way in ways.items():
        kept[name] = [torch.where(pixels > 0, real, way(k)) for k in (0, 1)]
        errors[name] = torch.stack([off(x, real, pixels) for x in kept[name]]).mean(0)
        steps = torch.stack([seam(x, pixels) for x in kept[name]]).mean(0)
        found["hidden"][name] = {
            "rms": mean_and_error(errors[name]),
            "step at the rim, less the real one": mean_and_error(
                steps - seam(real, pixels)
            ),
        }
    for name, row in found["hidden"].items():
        less = errors[name] - errors["replacement"]
        row["rms less replacement's"] = mean_and_error(less)
        row["nearer than replacement"] = int((less < 0).sum())
    by_map, no_map = (drawn(told(nothing, mapped), 0) for mapped in (True, False))
    found["map"] = {
        "the autoencoder": fits(decoded(whole), wanted),
        "map": fits(by_map, wanted),
        "no map": fits(no_map, wanted),
        "the frozen network": fits(drawn(untold, 0), wanted),
    }
    filled = [*kept["channels"], kept["replacement"][0], kept["the rest not known"][0]]
    as_seen = F.interpolate(thing, size=64).expand_as(real)
    grids = [real, without(real, known), *filled, as_seen, by_map, no_map]
    sheet([x[:8] for x in grids], 8, a.out / "inpaint.png")
    found["prompts"] = [data.facts[i].caption for i in rows.tolist()]
    return found


def off(x: Tensor, real: Tensor, known: Tensor) -> Tensor:
    """The root mean squared error of each picture where it is not known, (B,)."""
    error = (x - real).square().mean(1, keepdim=True) * (1 - known)
    return (error.flatten(1).sum(1) / (1 - known).flatten(1).sum(1)).sqrt()


def seam(x: Tensor, known: Tensor) -> Tensor:
    """The mean step between two neighbouring pixels of which one is known, (B,)."""
    steps, pairs = 0.0, 0.0
    for axis in (2, 3):
        crossed = known.diff(dim=axis).abs()
        steps = steps + (x.diff(dim=axis).abs() * crossed).flatten(1).sum(1) / 3
        pairs = pairs + crossed.flatten(1).sum(1)
    return steps / pairs


def mean_and_error(values: Tensor) -> dict[str, float]:
    """The mean over pictures and its standard error."""
    return {
        "mean": values.mean().item(),
        "error": (values.std() / len(values) ** 0.5).item(),
    }


def fits(x: Tensor, wanted: Tensor) -> dict[str, float]:
    """Each picture's silhouette, against its ground by the rim, and the wanted one: intersection over union."""
    own = silhouette(x, (rim(x) + 1) / 2)
    pairs = zip(own.split(1), wanted.split(1))
    return mean_and_error(torch.tensor([overlap(one, other) for one, other in pairs]))


TASKS = {
    name.removeprefix("measure_"): f
    for name, f in globals().items()
    if name.startswith("measure_")
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--out", type=Path, default=Path("data/results/words"))
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--names", default="")
    parser.add_argument("--bank", type=Path, default=RUNS / "minilm.safetensors")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    began = time.time()
    found = TASKS[given.task](given)
    device = torch.cuda.get_device_name() if given.device != "cpu" else "processor"
    about = {
        "command": f"python -m experiments.words.measure {given.task} --n {given.n} --steps "
        f"{given.steps}" + (f" --names {given.names}" if given.names else ""),
        "device": device,
        "seconds": round(time.time() - began),
        "weights": {
            name: hashlib.sha256(
                (place_of(name) / "weights.safetensors").read_bytes()
            ).hexdigest()
            for name in sorted(USED)
            if (STORED / name).is_dir()
        },
    }
    (given.out / f"{given.task}.json").write_text(
        json.dumps({"about": about} | found, indent=1) + "\n"
    )
    print(json.dumps(found, indent=1)[:3000])


if __name__ == "__main__":
    main()
