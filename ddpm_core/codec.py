"""Algorithms 3 and 4 as a program: a sender and a receiver, files of bytes between
them.

Both hold the same network and draw the same noise from a seed. The sender wants the
receiver to have x_T ~ q(x_T | x_0), then x_{t-1} ~ q(x_{t-1} | x_t, x_0), step by step,
though the receiver can draw from p_theta(x_{t-1} | x_t) only. Relative entropy coding:
of many draws from p_theta the sender names one, so chosen that it is a draw from q; its
number is the message.

    choose             the Poisson functional representation (Li and El Gamal 2018):
                       exact, the message costs about KL(q || p)
    put, take          a number in a range coder, at most KL + log2(KL + 1) + 3 bits on
                       average
    encode, decode     images to bytes and back, in steps and patches of pixels (Theis
                       et al. 2022); decode(encode(x)) == x, bit by bit

Files. A large step of a picture costs hundreds of bits and needs 2^KL draws, so it is
cut into patches of a few bits, of which each picks its own draw from 2^bits noise
pictures. Where the number that `choose` would name lies beyond them, the best of them
is taken: the law is then nearly q, not q. The network runs in float64, where processors
differ by 1e-14 or so; the receiver reads nothing by its answers but the pixels of the
last step, and for these they are rounded to sixteenths of a grey level. So sender and
receiver agree on any processor, given the same versions of torch and numpy; a checksum
of the pictures notices it if they do not.

Departure: sigma_t^2 is neither beta_t nor beta_tilde_t. With few steps both waste bits,
and the least KL has sigma_t^2 = beta_tilde_t + w_t^2 m, with w_t the weight of x_0 in
Eq. (7) and m the mean squared error of x0_hat. The sender knows m and says it first, to
a quarter of a factor of two. So both know the KL too, and cut alike.
"""

import copy
import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .codec_file import BITS, write
from .codec_file import HEADER as HEADER
from .codec_file import MAGIC as MAGIC
from .codec_file import About as About
from .codec_file import read_header as read_header
from .coding import OCTAVES as OCTAVES
from .coding import Array as Array
from .coding import categorical, put, stream, take
from .coding import choose as choose
from .coding import largest_log_ratio as largest_log_ratio
from .coding import log_ratio as log_ratio
from .data import to_model_range, to_uint8
from .forward import q_posterior
from .model import evaluating
from .reverse import predict_x0
from .schedule import Schedule, visiting

LEVELS = 96  # of m = 4 * 2^(-level / 4)
FIRST_LEVEL = 6  # before the first, which is mostly 8: m = 1, that of an empty picture
SIGMAS = 128  # of sigma = 128 * 2^(-level / 16) grey levels, for Eq. (13)
BLOCK = 16  # noise pictures made from one seed


def coding_times(T: int, steps: int = 24) -> list[int]:
    """0, and the times at which a file can stop: 1 to T in even ratios, rounded, each
    once; `steps` of them, or fewer.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 2 <= steps <= 255:
        raise ValueError(f"steps = {steps!r}; wanted a whole number from 2 to 255")
    return [0, *sorted({round(T ** (i / (steps - 1))) for i in range(steps)})]


@dataclass
class Party:
    """Sender or receiver: everything that they must do alike. D is the number of values
    of a picture, every pixel and colour.
    """

    model: nn.Module  # in float64
    schedule: Schedule
    D: int
    steps: int
    bits: int
    seed: int

    def __post_init__(self) -> None:
        self.times = coding_times(self.schedule.T, self.steps)
        # its step i leads from times[i] to times[i - 1]
        self.few = visiting(self.schedule, self.times)

    def look(self, x: Tensor, i: int) -> Tensor:
        """x0_hat of Eq. (15) at times[i], clipped; pictures a few at a time, which is
        fastest in float64.
        """
        looks = []
        for part in x.split(4):
            t = torch.full((len(part),), self.times[i])
            looks.append(
                predict_x0(
                    self.schedule, part, self.times[i], self.model(part, t)
                ).clamp(-1, 1)
            )
        return torch.cat(looks)

    def step(self, i: int, level: int) -> tuple[float, float, int, float]:
        """From times[i] to times[i - 1], for a picture of this level: var_q, var_p, the
        number of patches, bits for each of them.
        """
        var_q = float(self.few.beta_tilde[i])
        weight = float(
            self.few.alpha_bar[i - 1].sqrt()
            * self.few.beta[i]
            / (1 - self.few.alpha_bar[i])
        )  # of x_0 in Eq. (7)
        var_p = var_q + weight**2 * 4 * 2 ** (-level / 4)
        total = self.D * math.log2(var_p / var_q) / 2  # the KL, if m is right
        patches = min(max(1, math.ceil(total / max(self.bits - 5, 1))), self.D)
        return var_q, var_p, patches, total / patches

    def patches(self, i: int, number: int) -> list[Array]:
        """The pixels of each patch: drawn by lot, so that every patch has its share of
        the edges.
        """
        return np.array_split(self._rng(i, 0).permutation(self.D), number)

    def noise(self, i: int, block: int) -> Array:
        """BLOCK pictures of standard normal noise, (BLOCK, D): the draws that step i
        can be made of, the same for all images of a file.
        """
        return self._rng(i, 1 + block).standard_normal(
            (BLOCK, self.D), dtype=np.float32
        )

    def noise_of(self, i: int, numbers: list[int]) -> Array:
        """The noise of a picture whose patches name these noise pictures, from 1 on;
        (D,) float64.
        """
        z = np.empty(self.D)
        for pixels, number in zip(self.patches(i, len(numbers)), numbers):
            z[pixels] = self.noise(i, (number - 1) // BLOCK)[
                (number - 1) % BLOCK, pixels
            ]
        return z

    def arrive(
        self,
        i: int,
        x: Tensor | None,
        looks: Tensor | None,
        levels: Sequence[int],
        numbers: list[list[int]],
        shape: Sequence[int],
    ) -> Tensor:
        """x_{t-1} = mu_theta + sigma_t z; with i = len(times) it is x_T = z."""
        z = torch.from_numpy(
            np.stack([self.noise_of(i, chosen) for chosen in numbers])
        ).view(-1, *shape)
        if x is not None and looks is not None:
            sigma = torch.tensor(
                [math.sqrt(self.step(i, level)[1]) for level in levels],
                dtype=torch.float64,
            ).view(-1, 1, 1, 1)
            z = q_posterior(self.few, looks, x, i)[0] + sigma * z
        return z

    def _rng(self, i: int, what: int) -> np.random.Generator:
        return np.random.Generator(np.random.SFC64([self.seed, i, what]))


def grey_probabilities(looks: Tensor, level: int) -> Array:
    """Eq. (13) for the 256 levels of every pixel, as whole numbers that sum to the
    same: (D, 256), the same on every processor.

    looks  x0_hat, any shape, D pixels       level  of sigma
    The mean is rounded to a sixteenth of a grey level, so all borders of bins lie on
    one grid, and one table of the normal law serves.
    """
    sigma, last = 128 * 2 ** (-level / 16), 255 * 16 + 8
    border = torch.arange(-last, last + 1, dtype=torch.float64) / 16
    table = (torch.special.ndtr(border / sigma) * 2**22).round().numpy()
    mean = ((looks.flatten() + 1) * 127.5 * 16).round().long().numpy()
    below = np.concatenate(
        [
            np.zeros((len(mean), 1)),
            table[16 * np.arange(255) + 8 - mean[:, None] + last],
            np.full((len(mean), 1), 2.0**22),
        ],
        axis=1,
    )
    return np.diff(below, axis=1) + 1  # none is impossible


def _level_law(before: int) -> Array:
    """P(level), given that of the step before: a picture's error falls step by step,
    mostly by one, two or three levels.
    """
    law: Array = np.exp2(-np.abs(np.arange(LEVELS) - before - 2.0))
    return law


def encode(
    model: nn.Module,
    schedule: Schedule,
    images: Tensor,
    *,
    t: int | None = None,
    lossless: bool = True,
    steps: int = 24,
    bits: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> bytes:
    """Algorithm 3: images to a file that `decode` turns back.

    images    uint8 (B, C, H, W), of the size that the network draws
    t         where to stop, one of coding_times(T, steps); default: 1, or for a
              lossless file the one nearest to 40, where patches and the range coder
              share the picture best
    lossless  send x_0 given x_t by Eq. (13), exactly. False: stop there, and the
              receiver shows x0_hat of Eq. (15)
    steps     from T to 1; fewer make larger steps, which cost more bits in all and less
              time
    bits      every patch picks one of 2^bits noise pictures: more make a shorter file,
              and double the sender's work each
    seed      of the noise; the file holds it
    Raises TypeError or ValueError for arguments that do not fit, FileNotFoundError
    where `constriction` is missing.
    """
    if t is None:
        t = (
            min(
                coding_times(schedule.T, steps)[1:],
                key=lambda visited: abs(visited - 40),
            )
            if lossless
            else 1
        )
    return encode_all(
        model,
        schedule,
        images,
        [(t, lossless)],
        steps=steps,
        bits=bits,
        seed=seed,
        progress=progress,
    )[0]


@torch.no_grad()
def encode_all(
    model: nn.Module,
    schedule: Schedule,
    images: Tensor,
    stops: Sequence[tuple[int, bool]],
    *,
    steps: int = 24,
    bits: int = 16,
    seed: int = 0,
    progress: bool = False,
) -> list[bytes]:
    """A file for each (t, lossless) of `stops`, as `encode` would make it, from one
    walk down the steps. Arguments as there.
    """
    from tqdm.auto import tqdm

    times = coding_times(schedule.T, steps)
    _check(model, images, times, stops, bits, seed)
    x0, shape = to_model_range(images).double(), images.shape[1:]
    party, mark = (
        Party(_in_float64(model), schedule, x0[0].numel(), steps, bits, seed),
        fingerprint(model, schedule),
    )
    coders: list[Any] = [stream().queue.RangeEncoder() for _ in images]
    files: dict[tuple[int, bool], bytes] = {}
    alpha_bar, lowest = (
        float(schedule.alpha_bar[-1]),
        min(times.index(t) for t, _ in stops),
    )

    with (
        evaluating(party.model),
        tqdm(
            total=len(times) - lowest,
            unit="step",
            desc="sending",
            disable=not progress,
            dynamic_ncols=True,
        ) as bar,
    ):
        numbers = _search(
            party,
            len(times),
            math.sqrt(alpha_bar) * x0.flatten(1).numpy(),
            [(1 - alpha_bar, 1.0, 1)] * len(x0),
        )
        for coder, chosen in zip(coders, numbers):
            put(coder, chosen[0], 0.0)  # L_T: next to nothing, in one patch
        x = party.arrive(len(times), None, None, [], numbers, shape)
        bar.update()
        levels = [FIRST_LEVEL] * len(x0)
        for i in range(len(times) - 1, 0, -1):
            looks = party.look(x, i)
            for t, lossless in stops:
                if t == times[i]:
                    files[t, lossless] = _file(
                        party, mark, t, lossless, images, looks, coders
                    )
            if i == lowest:
                break
            error = (x0 - looks).square().flatten(1).mean(1)
            now = (
                (-4 * (error / 4).clamp(min=1e-12).log2())
                .round()
                .clamp(0, LEVELS - 1)
                .long()
                .tolist()
            )
            kinds = [party.step(i, level) for level in now]
            means = [q_posterior(party.few, start, x, i)[0] for start in (x0, looks)]
            numbers = _search(
                party,
                i,
                (means[0] - means[1]).flatten(1).numpy(),
                [kind[:3] for kind in kinds],
            )
            for coder, level, before, chosen, kind in zip(
                coders, now, levels, numbers, kinds
            ):
                coder.encode(level, categorical(_level_law(before)))
                for number in chosen:
                    put(coder, number, kind[3])
            x, levels = party.arrive(i, x, looks, now, numbers, shape), now
            bar.update()
    return [files[stop] for stop in stops]


def _search(
    party: Party, i: int, shift: Array, kinds: list[tuple[float, float, int]]
) -> list[list[int]]:
    """What `choose` would name for every patch of every picture, among the first 2^bits
    draws: one matrix product for many pictures.

    shift  (B, D) mean_q - mean_p
    kinds  var_q, var_p, number of patches, for each picture
    Of log_ratio only what depends on z matters: (var_p / var_q - 1) |z|^2 / 2 and -
    sqrt(var_p) / var_q z . shift, in T / w.
    """
    groups = {
        n: [b for b, kind in enumerate(kinds) if kind[2] == n]
        for n in {kind[2] for kind in kinds}
    }
    best = [np.full(kind[2], np.inf, dtype=np.float32) for kind in kinds]
    index = [np.zeros(kind[2], dtype=int) for kind in kinds]
    pixels = {n: party.patches(i, n) for n in groups}
    weights = {
        (n, j): (
            np.stack(
                [
                    np.append(
                        -math.sqrt(kinds[b][1]) / kinds[b][0] * shift[b, where],
                        [(kinds[b][1] / kinds[b][0] - 1) / 2, 1.0],
                    )
                    for b in group
                ]
            ).astype(np.float32)
        )
        for n, group in groups.items()
        for j, where in enumerate(pixels[n])
    }
    clocks = [
        party._rng(i, 2**31 + j) for j in range(max(groups))
    ]  # T of each patch; the receiver has no need of them
    arrivals = [np.zeros(1) for _ in clocks]
    for first in range(0, 2**party.bits, 128 * BLOCK):
        z = np.concatenate(
            [
                party.noise(i, block)
                for block in range(
                    first // BLOCK, min(first + 128 * BLOCK, 2**party.bits) // BLOCK
                )
            ]
        )
        arrivals = [
            arrival[-1] + clock.exponential(size=len(z)).cumsum()
            for arrival, clock in zip(arrivals, clocks)
        ]
        for (n, j), weight in weights.items():
            patch = z[:, pixels[n][j]]
            score = (
                weight
                @ np.concatenate(
                    [
                        patch,
                        (patch * patch).sum(1, keepdims=True),
                        np.log(arrivals[j])[:, None],
                    ],
                    axis=1,
                    dtype=np.float32,
                ).T
            )
            for b, k, value in zip(groups[n], score.argmin(1), score.min(1)):
                if value < best[b][j]:
                    best[b][j], index[b][j] = value, first + k + 1
    return [row.tolist() for row in index]


def _file(
    party: Party,
    mark: bytes,
    t: int,
    lossless: bool,
    images: Tensor,
    looks: Tensor,
    coders: list[Any],
) -> bytes:
    """The file that stops here: a header, the length of every picture's message, the
    messages, a checksum.
    """
    messages = []
    for image, look, coder in zip(images, looks, coders):
        coder = coder.clone()
        if lossless:
            sent = image.flatten().numpy().astype(np.int32)
            error = float((image - (look + 1) * 127.5).square().mean().sqrt())
            near = min(max(0, round(-16 * math.log2(max(error, 0.1) / 128))), SIGMAS)
            tables = {
                level: grey_probabilities(look, level)
                for level in range(max(near - 24, 0), min(near + 9, SIGMAS), 4)
            }
            level = max(
                tables,
                key=lambda level: float(
                    np.log(tables[level][np.arange(len(sent)), sent]).sum()
                ),
            )
            coder.encode(level, stream().model.Uniform(SIGMAS))
            coder.encode(sent, stream().model.Categorical(perfect=False), tables[level])
        messages.append(coder.get_compressed().astype(">u4").tobytes().rstrip(b"\0"))
    shown = images if lossless else to_uint8(looks)
    return write(
        About(
            mark,
            party.steps,
            party.bits,
            lossless,
            t,
            party.seed,
            (len(images), *_shape(party.model)),
            zlib.crc32(shown.numpy().tobytes()),
            messages,
        )
    )


@torch.no_grad()
def decode(
    model: nn.Module, schedule: Schedule, data: bytes, *, progress: bool = False
) -> Tensor:
    """Algorithm 4: the images of a file that `encode` made with the same network: uint8
    (B, C, H, W).

    Raises ValueError for a file that is truncated, damaged or foreign, was made with
    another network, or decodes to other pictures than were sent, as it may where the
    libraries of this machine compute differently. What it returns is what the sender
    had.
    """
    from tqdm.auto import tqdm

    about = read_header(data)
    shape, want = about.shape[1:], _shape(model)
    if about.fingerprint != fingerprint(model, schedule):
        raise ValueError(
            "the file was made with another network or schedule; wanted the checkpoint"
            " that it was encoded with"
        )
    if shape != want:
        raise ValueError(
            f"the file says that its pictures have shape {shape}, but the network draws"
            f" {want}; the file is damaged: take another copy"
        )
    party = Party(
        _in_float64(model),
        schedule,
        math.prod(shape),
        about.steps,
        about.bits,
        about.seed,
    )
    if about.t not in party.times[1:]:
        raise ValueError(
            f"the file says that it stops at t = {about.t}, which is none of its times;"
            " it is damaged: take another copy"
        )
    stop, steps = party.times.index(about.t), len(party.times)
    padded = [message + bytes(-len(message) % 4) for message in about.messages]
    coders = [
        stream().queue.RangeDecoder(
            np.frombuffer(message, dtype=">u4").astype(np.uint32)
        )
        for message in padded
    ]
    try:
        with (
            evaluating(party.model),
            tqdm(
                total=steps - stop,
                unit="step",
                desc="receiving",
                disable=not progress,
                dynamic_ncols=True,
            ) as bar,
        ):
            x = party.arrive(
                steps, None, None, [], [[take(coder, 0.0)] for coder in coders], shape
            )
            levels = [FIRST_LEVEL] * len(coders)
            bar.update()
            for i in range(steps - 1, stop, -1):
                levels = [
                    int(coder.decode(categorical(_level_law(before))))
                    for coder, before in zip(coders, levels)
                ]
                kinds = [party.step(i, level) for level in levels]
                numbers = [
                    [take(coder, kind[3]) for _ in range(kind[2])]
                    for coder, kind in zip(coders, kinds)
                ]
                x = party.arrive(i, x, party.look(x, i), levels, numbers, shape)
                bar.update()
            looks = party.look(x, stop)
            images = to_uint8(looks)
            if about.lossless:
                for image, look, coder in zip(images, looks, coders):
                    table = grey_probabilities(
                        look, int(coder.decode(stream().model.Uniform(SIGMAS)))
                    )
                    image.copy_(
                        torch.from_numpy(
                            coder.decode(
                                stream().model.Categorical(perfect=False), table
                            )
                        ).view(shape)
                    )
        agrees = zlib.crc32(images.numpy().tobytes()) == about.checksum
    except AssertionError:  # constriction: no message of this model reads so
        agrees = False
    if not agrees:
        raise ValueError(
            "the file is whole, but decodes to other pictures than were sent: this"
            " machine's torch or numpy computes differently from the sender's; decode"
            " it with the versions that it was encoded with"
        )
    return images


def fingerprint(model: nn.Module, schedule: Schedule) -> bytes:
    """Eight bytes that depend on every weight, their names, the network's arguments and
    beta.
    """
    h = hashlib.sha256(repr(sorted(getattr(model, "config", {}).items())).encode())
    for name, tensor in [*sorted(model.state_dict().items()), ("beta", schedule.beta)]:
        h.update(
            repr((name, tuple(tensor.shape))).encode()
            + tensor.detach().cpu().double().numpy().tobytes()
        )
    return h.digest()[:8]


def _in_float64(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("cpu").double()


def _shape(model: nn.Module) -> tuple[int, int, int]:
    """C, H, W of what the network draws."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}; wanted an nn.Module, whose weights"
            " mark the file, such as load_checkpoint(...).model"
        )
    config = cast(dict[str, Any], getattr(model, "config", {}))
    if (
        config.get("learn_variance")
        or "image_size" not in config
        or "channels" not in config
    ):
        raise ValueError(
            f"the network has config {config}; wanted image_size and channels, as a"
            " UNet has them, and no learned variance"
        )
    return config["channels"], config["image_size"], config["image_size"]


def _check(
    model: nn.Module,
    images: Tensor,
    times: list[int],
    stops: Sequence[tuple[int, bool]],
    bits: int,
    seed: int,
) -> None:
    """Raise for arguments of `encode_all` that do not fit."""
    want = _shape(model)
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        raise TypeError(
            f"images are {getattr(images, 'dtype', type(images).__name__)}; wanted"
            " uint8 (B, C, H, W), as load_images returns them"
        )
    if images.ndim != 4 or not len(images) or tuple(images.shape[1:]) != want:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; wanted at least one of those"
            f" that the network draws, (B, {', '.join(map(str, want))})"
        )
    if not stops:
        raise ValueError("no stops; wanted at least one (t, lossless)")
    for t, _ in stops:
        if isinstance(t, bool) or t not in times[1:]:
            raise ValueError(
                f"t = {t!r}; wanted one of the times at which these steps can stop:"
                f" {', '.join(map(str, times[1:]))}"
            )
    if (
        isinstance(bits, bool)
        or not isinstance(bits, int)
        or not BITS[0] <= bits <= BITS[1]
    ):
        raise ValueError(
            f"bits = {bits!r}; wanted a whole number from {BITS[0]} to {BITS[1]}: the"
            " sender makes 2^bits noise pictures a step"
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed = {seed!r}; wanted a whole number from 0 to 2^32 - 1")
