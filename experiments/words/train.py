"""The networks of the last part, one command each; every run can be stopped and goes on.

    python -m experiments.words.train clip --out runs/words/clip --steps 6000
    python -m experiments.words.train decoder --out runs/words/decoder --resume

What a run needs of others it takes from runs/words/NAME, or from data/checkpoints/words/NAME. The
order: clip; autoencoder, noisy, prior, decoder, reader (after clip); latent (after autoencoder);
inpaint (after latent); control (after decoder); judge and enlarger need nothing.
"""

import argparse
import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ddpm_core as ddpm
from ddpm_core import fast
from ddpm_core.after.autoencoder import Autoencoder, Whitening, kl_to_standard
from ddpm_core.after.cascade import noise_condition, shrink
from ddpm_core.after.clip import CLIP, ImageEncoder, clip_loss
from ddpm_core.after.controlnet import Control
from ddpm_core.after.prior import Decoder, Prior
from ddpm_core.after.text import PAD, TextEncoder, Tokenizer
from ddpm_core.after.widened import Widened
from ddpm_core.captions import GROUNDS, load_drawings
from ddpm_core.data import data_folder
from ddpm_core.runtime.loop import descend
from ddpm_core.runtime.store import find_checkpoint, load_network, read_about
from ddpm_core.schedule import at

from .drawings import Bank, Batch, Drawings

SCHEDULE = ddpm.linear_schedule()
RUNS = Path("runs/words")
TEXT: dict[str, Any] = dict(layers=3)
IMAGE: dict[str, Any] = dict(width=32, multipliers=(1, 2, 4), blocks=2)
PIXELS: dict[str, Any] = dict(
    image_size=32,
    channels=3,
    width=32,
    multipliers=(1, 2, 4),
    blocks=1,
    attention=(8,),
    dropout=0.0,
    groups=8,
)
LATENT: dict[str, Any] = dict(
    image_size=16,
    channels=4,
    width=64,
    multipliers=(1, 2),
    blocks=1,
    attention=(8,),
    dropout=0.0,
    groups=8,
)
LARGE: dict[str, Any] = dict(
    image_size=64,
    channels=3,
    width=16,
    multipliers=(1, 2, 4, 4),
    blocks=1,
    attention=(8,),
    dropout=0.0,
    groups=2,  # of eight channels at least: a group of two loses how bright they are
)
BESIDE = 7  # channels: four of latents, what is known, a map, whether there is one
JUDGE_SEED = 1
SIZE = 128**0.5  # a unit vector of 128 entries times this has entries of size one


@dataclass
class Task:
    """A network, its loss of a batch, and where batches come from."""

    network: nn.Module
    loss: Callable[[Any, Batch], Tensor]
    drawings: Drawings
    batch: int
    lr: float
    ema: float = 0.9995
    weight_decay: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)


def tokenizer() -> Tokenizer:
    """The one tokenizer, learned from the captions of the training drawings; kept beside the weights."""
    path = data_folder() / "checkpoints" / "words" / "tokenizer.json"
    if not path.exists():
        _, facts = load_drawings("emoji", "train")
        captions = [f.caption for f in facts]
        captions += [
            f"{f.style} on a {ground} ground" for f in facts for ground in GROUNDS
        ][::50]
        captions += [" ".join(f.keywords) for f in facts]
        path.parent.mkdir(parents=True, exist_ok=True)
        Tokenizer.learn(captions).save(path)
    return Tokenizer.load(path)


def place_of(name: str) -> Path:
    """Where a run's checkpoint lies. Raises FileNotFoundError."""
    places = [RUNS / name, data_folder() / "checkpoints" / "words" / name]
    place = next((p for p in places if p.is_dir()), None)
    if place is None:
        raise FileNotFoundError(f"{name} is needed first; wanted it in {places[0]}")
    return find_checkpoint(place)


USED: set[str] = set()  # networks of other runs that this process has asked for


def around(name: str) -> nn.Module | None:
    """What a checkpoint is loaded into that holds only what was learned beside a frozen network; None for a whole one."""
    if name == "control":
        return Control(trained("decoder", "cpu").unet)
    if name == "inpaint":
        return Widened(trained("latent", "cpu"), BESIDE)
    return None


def trained(name: str, device: str | torch.device) -> Any:
    """The average of another run, frozen."""
    USED.add(name)
    network = load_network(place_of(name), model=around(name)).network
    return network.to(device).eval().requires_grad_(False)


def noised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t and eps by chance: Eq. (4)."""
    t = torch.randint(1, SCHEDULE.T + 1, (len(x),), device=x.device)
    eps = torch.randn_like(x)
    return ddpm.q_sample(SCHEDULE, x, t, eps), t, eps


def chosen(share: float, n: int, device: torch.device) -> Tensor:
    return torch.rand(n, device=device) < share


class Words(nn.Module):
    """What reads a caption for a network: CLIP's tower, frozen or not, or a frozen sentence encoder's features."""

    def __init__(self, kind: str, drawings: Drawings, clip: CLIP | None):
        super().__init__()
        self.kind = kind
        self.drawings = drawings if kind.startswith("minilm") else None
        self.text = {
            "clip": lambda: clip.text if clip is not None else None,
            "random": lambda: TextEncoder(**TEXT).requires_grad_(False),
            "scratch": lambda: TextEncoder(**TEXT),
        }.get(kind, lambda: None)()
        self.width = 384 if kind.startswith("minilm") else 128

    def forward(self, b: Batch) -> dict[str, Tensor]:
        if self.text is not None:
            tokens, pooled = self.text(b.tokens)
            return dict(
                context=tokens,
                mask=b.tokens != PAD,
                pooled=F.normalize(pooled, dim=1) * SIZE,
            )
        assert self.drawings is not None
        tokens, mask, mean = self.drawings.features(
            b.rows, b.content, b.ground * b.said
        )
        # Entries of MiniLM have a standard deviation of 0.5, so 2 would give 1; the run
        # that was measured took 3 for tokens and 5 for their mean.
        if self.kind == "minilm-mean":
            return dict(
                context=mean[:, None] * 5,
                mask=mask.any(1, keepdim=True),
                pooled=mean * 5,
            )
        return dict(context=tokens * 3, mask=mask, pooled=mean * 5)


class Reading(nn.Module):
    """A U-Net and its reader, trained together where the reader learns."""

    def __init__(self, unet: ddpm.UNet, words: Words):
        super().__init__()
        self.unet, self.words = unet, words


def told(words: Words, b: Batch, drop: float) -> dict[str, Tensor]:
    """A caption's tokens, of which a share is dropped, whole."""
    given = words(b)
    keep = ~chosen(drop, len(b.x), b.x.device)
    return given | {"mask": given["mask"] & keep[:, None]}


def clip(a: argparse.Namespace) -> Task:
    network = CLIP(IMAGE, TEXT)
    data = Drawings(("train",), tokenizer(), device=a.device)
    return Task(
        network, lambda n, b: n(b.x, b.tokens), data, a.batch or 1024, 1e-3, 0.999, 0.2
    )


def judge(a: argparse.Namespace) -> Task:
    """Another seed, other layout, also trained on the held-out pairs and words: for measuring only."""
    torch.manual_seed(JUDGE_SEED)
    network = CLIP(dict(layers=4), TEXT, patches=True)
    data = Drawings(
        ("train", "pair", "word", "tone"), tokenizer(), device=a.device, seed=JUDGE_SEED
    )
    return Task(
        network, lambda n, b: n(b.x, b.tokens), data, a.batch or 1024, 7e-4, 0.999, 0.2
    )


def autoencoder(a: argparse.Namespace) -> Task:
    """--size 64 or 32, --codes for a codebook; --perceptual weighs the distance in CLIP's features."""
    network = Autoencoder(codes=a.codes or None)
    data = Drawings(("train",), tokenizer(), size=a.size, device=a.device)
    eye = trained("clip", a.device) if a.perceptual else None

    def loss(n: Autoencoder, b: Batch) -> Tensor:
        mean, log_var = n.encode(b.x)
        if n.quantizer is not None:
            z, _, more = n.quantizer(mean)
        else:
            z = mean + (log_var / 2).exp() * torch.randn_like(mean)
            # a sum over the picture's numbers, beside a mean over its pixels: nats / D
            more = a.beta * kl_to_standard(mean, log_var).mean() / b.x[0].numel()
        out = n.decode(z)
        error = (out - b.x).square().mean() + more
        if eye is not None:
            small = [
                shrink(each, a.size // 32) if a.size > 32 else each
                for each in (out, b.x)
            ]
            far = eye.encode_images(small[0]) - eye.encode_images(small[1])
            error = error + a.perceptual * far.square().sum(1).mean()
        return error

    return Task(network, loss, data, a.batch or 128, 1e-3, 0.999)


def latents(first: Autoencoder, x: Tensor) -> Tensor:
    mean, log_var = first.encode(x)
    return mean + (log_var / 2).exp() * torch.randn_like(mean)


def listed(white: Whitening) -> dict[str, list[float]]:
    return {key: getattr(white, key).flatten().tolist() for key in ("mean", "std")}


def as_listed(lists: dict[str, list[float]]) -> Whitening:
    white = Whitening(len(lists["mean"]))
    for key, values in lists.items():
        getattr(white, key).copy_(torch.tensor(values)[:, None, None])
    return white


def latent(a: argparse.Namespace) -> Task:
    """Diffusion on whitened latents of 64 x 64 pictures, told CLIP's words."""
    data = Drawings(("train",), tokenizer(), size=64, things=True, device=a.device)
    first, eye = trained("autoencoder", a.device), trained("clip", a.device)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        z = torch.cat([latents(first, data.batch(64).x) for _ in range(32)])
    white = Whitening.of(z)
    words = Words("clip", data, eye)
    network = ddpm.UNet(**LATENT, context=128, pooled=128)

    def loss(n: ddpm.UNet, b: Batch) -> Tensor:
        with torch.no_grad():
            z = white(latents(first, b.x).float())
            given = told(words, b, 0.15)
        z_t, t, eps = noised(z)
        return (n(z_t, t, **given) - eps).square().mean()

    info = {"whitening": listed(white)}
    return Task(network, loss, data, a.batch or 256, 5e-4, info=info)


def pixels(a: argparse.Namespace) -> Task:
    """The same pictures of 64 x 64 without the detour, for the comparison at equal seconds."""
    data = Drawings(("train",), tokenizer(), size=64, things=True, device=a.device)
    words = Words("clip", data, trained("clip", a.device))
    network = ddpm.UNet(
        **(LARGE | {"multipliers": (1, 2, 4, 6)}), context=128, pooled=128
    )

    def loss(n: ddpm.UNet, b: Batch) -> Tensor:
        with torch.no_grad():
            given = told(words, b, 0.15)
        x_t, t, eps = noised(b.x)
        return (n(x_t, t, **given) - eps).square().mean()

    return Task(network, loss, data, a.batch or 128, 5e-4)


def decoder(a: argparse.Namespace) -> Task:
    """One network told words, a picture's embedding, both or neither: GLIDE and DALL-E 2's decoder."""
    data = Drawings(("train",), tokenizer(), things=True, device=a.device)
    eye = trained("clip", a.device)
    words = Words("clip", data, eye)
    network = Decoder(PIXELS | {"context": 128})

    def loss(n: Decoder, b: Batch) -> Tensor:
        with torch.no_grad():
            given = words(b)
            tokens, pooled = given["context"], given["pooled"] / SIZE
            z = eye.encode_images(b.x)
        case = torch.rand(len(b.x), 1, device=b.x.device)
        text, picture = (case < 0.4) | (case >= 0.85), (case >= 0.4) & (case < 0.85)
        both = (case >= 0.65) & (case < 0.85)  # words only, z only, both, neither
        text = ((case < 0.4) | both) & text.logical_or(both)
        mask = given["mask"] & text
        x_t, t, eps = noised(b.x)
        guess = n(x_t, t, context=tokens, mask=mask, pooled=pooled, z=z * picture)
        return (guess - eps).square().mean()

    return Task(network, loss, data, a.batch or 256, 5e-4)


def reader(a: argparse.Namespace) -> Task:
    """The same U-Net told by different readers: --reader minilm, minilm-mean, clip, random, scratch."""
    bank = Bank(a.bank, a.device) if a.reader.startswith("minilm") else None
    data = Drawings(("train",), tokenizer(), things=True, device=a.device, bank=bank)
    words = Words(
        a.reader, data, trained("clip", a.device) if a.reader == "clip" else None
    )
    words.to(a.device)
    learns = a.reader == "scratch"
    unet = ddpm.UNet(**PIXELS, context=words.width, pooled=words.width)
    network: Any = Reading(unet, words) if learns or a.reader == "random" else unet

    def loss(n: Any, b: Batch) -> Tensor:
        with torch.set_grad_enabled(learns):
            given = told(n.words if learns else words, b, 0.15)
        x_t, t, eps = noised(b.x)
        return ((n if n is unet else n.unet)(x_t, t, **given) - eps).square().mean()

    return Task(network, loss, data, a.batch or 256, 5e-4, info={"reader": a.reader})


BLUR = 0.012  # mean squared error of bicubic enlargement: between 0.008, drawings moved and on grounds, and 0.015, as they are on white


def without_network(beside: Tensor, x: Tensor, t: Tensor | int) -> tuple[Tensor, ...]:
    """The mean and the variance of x_0 given x_t, if x_0 were N(b, v) with b the small picture, enlarged.

    b = sqrt(alpha_bar_s) z_s by bicubic interpolation; v = BLUR + 1 - alpha_bar_s: what it is off by, roughly
    """
    level = beside[:, 3:].square()  # 1 - alpha_bar_s
    b = F.interpolate(beside[:, :3, ::2, ::2], scale_factor=2.0, mode="bicubic")
    v, bar = BLUR + level, at(SCHEDULE.alpha_bar, t, x)
    var = 1 / (1 / v + bar / (1 - bar))
    return var * ((1 - level).sqrt() * b / v + bar.sqrt() / (1 - bar) * x), var


def larger(unet: ddpm.UNet, beside: Tensor) -> Callable[..., Tensor]:
    """x0_hat of the enlarger: what one would say without a network, and the network's answer in units of what that is off by."""

    def answer(x: Tensor, t: Tensor | int) -> Tensor:
        mean, var = without_network(beside, x, t)
        return mean + var.sqrt() * unet(x, t, condition=beside)

    return answer


def enlarger(a: argparse.Namespace) -> Task:
    """32 to 64: told the small picture, spoilt to a level that it is told as well; it predicts x_0."""
    data = Drawings(("train",), tokenizer(), size=64, things=True, device=a.device)
    network = ddpm.UNet(**LARGE, condition=4)

    def loss(n: ddpm.UNet, b: Batch) -> Tensor:
        small = shrink(b.x)
        s = torch.randint(1, 401, (len(b.x),), device=b.x.device)
        s = s * ~chosen(0.25, len(s), s.device)
        beside = noise_condition(SCHEDULE, small, s, torch.randn_like(small), 64)
        x_t, t, _ = noised(b.x)
        _, var = without_network(beside, x_t, t)
        return ((larger(n, beside)(x_t, t) - b.x).square() / var).mean()

    return Task(network, loss, data, a.batch or 128, 5e-4)


def prior(a: argparse.Namespace) -> Task:
    """From words to a picture's embedding; the clean embedding is predicted."""
    data = Drawings(("train",), tokenizer(), device=a.device)
    eye = trained("clip", a.device)
    words, network = Words("clip", data, eye), Prior(width=128 + 16, layers=4)

    def loss(n: Prior, b: Batch) -> Tensor:
        with torch.no_grad():
            given = told(words, b, 0.1)
            z = eye.encode_images(b.x) * n.scale
        z_t, t, _ = noised(z)
        given["pooled"] = given["pooled"] / SIZE
        return (n(z_t, t, **given) - z).square().mean()

    return Task(network, loss, data, a.batch or 512, 5e-4)


def noisy(a: argparse.Namespace) -> Task:
    """CLIP's image encoder on x_t, beside the frozen text tower."""
    data = Drawings(("train",), tokenizer(), device=a.device)
    eye = trained("clip", a.device)
    network = ImageEncoder(**(IMAGE | {"blocks": 1, "width": 24}))

    def loss(n: ImageEncoder, b: Batch) -> Tensor:
        x_t, t, _ = noised(b.x)
        with torch.no_grad():
            g = eye.encode_texts(b.tokens)
        return clip_loss(F.normalize(n(x_t, t).float(), dim=1), g, eye.scale)

    return Task(network, loss, data, a.batch or 512, 1e-3, 0.999, 0.05)


def control(a: argparse.Namespace) -> Task:
    """A silhouette tells the frozen decoder where the thing is."""
    data = Drawings(("train",), tokenizer(), things=True, device=a.device)
    words = Words("clip", data, trained("clip", a.device))
    whole = trained("decoder", a.device)
    network = Control(whole.unet).to(a.device)

    def loss(n: Control, b: Batch) -> Tensor:
        with torch.no_grad():
            given = told(words, b, 0.3)
            given["pooled"] = given["pooled"] / SIZE
            given = whole.conditions(len(b.x), **given)
        x_t, t, eps = noised(b.x)
        guess = n(x_t, t, control=silhouette(b.x, data.grounds[b.ground]), **given)
        return (guess - eps).square().mean()

    return Task(
        network, loss, data, a.batch or 128, 3e-4, info={"control": "silhouette"}
    )


def silhouette(x: Tensor, ground: Tensor) -> Tensor:
    """Where a picture differs from its ground: (B, 3, H, W) and colours (B, 3) in [0, 1] -> (B, 1, H, W), 1 or -1."""
    far = (x - (ground * 2 - 1)[:, :, None, None]).abs().amax(1, keepdim=True)
    return (far > 0.1).float() * 2 - 1


def known_part(n: int, side: int, device: torch.device) -> Tensor:
    """What of n pictures is known: 0 in a rectangle or in a half, by chance, else 1; (n, 1, side, side)."""
    size = torch.randint(side // 4, 3 * side // 4 + 1, (2, n), device=device)
    start = (torch.rand(2, n, device=device) * (side + 1 - size)).long()
    way, half = torch.randint(0, 4, (n,), device=device), side // 2
    halves = chosen(0.5, n, device)
    for axis in (0, 1):  # a half is a rectangle from rim to rim
        across = way % 2 == axis
        size[axis] = torch.where(halves, torch.where(across, side, half), size[axis])
        begin = torch.where(across, 0, half * (way // 2))
        start[axis] = torch.where(halves, begin, start[axis])
    places = torch.arange(side, device=device)
    inside = (places >= start[..., None]) & (places < (start + size)[..., None])
    hidden = inside[0][:, :, None] & inside[1][:, None, :]
    return (~hidden)[:, None].float()


def without(x: Tensor, known: Tensor) -> Tensor:
    """The pictures, grey where a cell is not known: hidden before anything looks at them."""
    return x * F.interpolate(known, size=x.shape[-1])


def beside_latents(
    z: Tensor, known: Tensor, thing: Tensor, mapped: Tensor | bool = True
) -> Tensor:
    """What is told beside z_t: latents of the picture without its hidden part, what is known, the map, whether there is one.

    z (B, 4, h, w) whitened; known (B, 1, h, w), 1 or 0; thing (B, 1, h, w) from -1, ground, to 1; mapped (B,) bool or one for all.
    Where nothing of a picture is known its latents are zero, and where there is no map it is: then these channels add nothing.
    """
    some = known.flatten(1).any(1)[:, None, None, None]
    flag = torch.zeros_like(known)
    flag[torch.as_tensor(mapped, device=z.device).expand(len(z))] = 1
    return torch.cat([z * some, known, thing * flag, flag], dim=1)


def inpaint(a: argparse.Namespace) -> Task:
    """The latent network told a part of the picture, a map of thing and ground, both or neither."""
    data = Drawings(("train",), tokenizer(), size=64, things=True, device=a.device)
    first, whole = trained("autoencoder", a.device), trained("latent", a.device)
    whitening = read_about(place_of("latent"))[0]["info"]["whitening"]
    white = as_listed(whitening).to(a.device)
    words = Words("clip", data, trained("clip", a.device))
    network = Widened(whole, BESIDE)

    def loss(n: Widened, b: Batch) -> Tensor:
        B, device = len(b.x), b.x.device
        with torch.no_grad():
            z = white(latents(first, b.x).float())
            known = known_part(B, z.shape[-1], device)
            known = known * chosen(2 / 3, B, device)[:, None, None, None]
            part = white(first.encode(without(b.x, known))[0].float())
            thing = shrink(silhouette(b.x, data.grounds[b.ground]), 4)
            beside = beside_latents(part, known, thing, chosen(0.5, B, device))
            given = told(words, b, 0.15)
        z_t, t, eps = noised(z)
        return (n(z_t, t, condition=beside, **given) - eps).square().mean()

    info = {"whitening": whitening, "beside": "known part, silhouette"}
    return Task(network, loss, data, a.batch or 64, 5e-4, 0.999, info=info)


def within(loss: Callable[..., Tensor], seconds: float) -> Callable[..., Tensor]:
    """The same loss, and Ctrl-C when this process has computed for so many seconds since the first batch."""
    end = float("inf")

    def timed(n: Any, b: Any) -> Tensor:
        nonlocal end
        end = min(end, time.process_time() + seconds)
        if time.process_time() > end:
            signal.raise_signal(signal.SIGINT)
        return loss(n, b)

    return timed


TASKS = {
    task.__name__: task
    for task in (
        clip,
        judge,
        autoencoder,
        latent,
        pixels,
        decoder,
        reader,
        enlarger,
        prior,
        noisy,
        control,
        inpaint,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--steps", type=int, default=10**6, help="Ctrl-C ends it sooner"
    )
    parser.add_argument("--batch", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.0)
    parser.add_argument("--decay", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--codes", type=int, default=0)
    parser.add_argument("--perceptual", type=float, default=0.0)
    parser.add_argument("--beta", type=float, default=1e-3)
    parser.add_argument("--reader", default="minilm")
    parser.add_argument("--bank", type=Path, default=RUNS / "minilm.safetensors")
    parser.add_argument("--save-every", type=int, default=1000)
    parser.add_argument(
        "--seconds", type=float, default=0.0, help="of the processor; then as Ctrl-C"
    )
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    task = TASKS[given.task](given)
    told_to = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items()}
    name = torch.cuda.get_device_name() if given.device != "cpu" else "processor"
    loss = within(task.loss, given.seconds) if given.seconds else task.loss
    try:
        descend(
            task.network,
            loss,
            lambda n: task.batch,
            draw=task.drawings.batch,
            steps=given.steps,
            lr=given.lr or task.lr,
            warmup=200,
            decay=given.decay,
            weight_decay=task.weight_decay,
            ema=task.ema,
            seed=given.seed,
            device=given.device,
            precision="auto",
            compile=False,
            quicker=fast.training,
            out=given.out,
            resume=given.resume,
            save_every=given.save_every,
            info=task.info | {"command": told_to, "batch": task.batch, "device": name},
        )
    except KeyboardInterrupt as stopped:
        print(json.dumps({"task": given.task, "stopped": str(stopped)}))


if __name__ == "__main__":
    main()
