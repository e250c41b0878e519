"""Algorithms 3 and 4: images become bytes, sent step by step, and the other way round.

The paper assumes a procedure that sends a sample of q at a cost of about KL(q || p) bits to somebody who knows p only. Here is one:
`send` and `receive`, the Poisson functional representation (Li and El Gamal 2018) over shared randomness, used on the steps of the
reverse process as Theis, Salimans, Hoffman and Mentzer (2022) propose. `encode` and `decode` make files of it.

A file: a header; for every step a section with the messages of all images; at last the pixels themselves, by an entropy coder with the
probabilities of Eq. (13). A file that ends after any of its sections is a file still: of x_t, from which Eq. (15) makes a picture.

What is guaranteed. On one machine, with the same versions and model, the decoder has the encoder's every bit: both evaluate the network
on one CPU thread, in batches of `BATCH` in the order of the file. Elsewhere sums round differently, by about one part in a million. The
messages name candidates and no numbers, so every x_t is then off by as little; but the entropy coder of the last section needs the
encoder's very numbers, and where it does not get them, the checksum of the pixels tells, and `decode` raises.
"""

import hashlib
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .bound import Model, decoder_log_likelihood
from .data import to_model_range, to_uint8
from .forward import q_posterior
from .reverse import ask, device_of, evaluating, predict_x0
from .schedule import Schedule

MAGIC, VERSION = b"ddpm", 1
BATCH = 8  # images a call of the network
MESSAGE = 8  # bits of divergence that one message is given to carry
LENGTH = 4  # bits of a message that say how many follow
SEARCH = 2 ** 2**LENGTH - 1  # candidates of a message
BLOCK = 4096  # candidates made at a time
TURNED = 64  # dimensions from which on all cyclic shifts of a noise vector are candidates
MOST = 2**27  # values of all images of a file

Numbers = np.ndarray  # of float32 or float64


@dataclass(frozen=True)
class Step:
    """One section of a file, as `encode_steps` yields it."""

    t: int  # where it leads: the receiver of all sections so far has x_t
    data: bytes
    x_t: Tensor  # (B, C, H, W) float32; the images themselves at t = 0
    kl: Tensor  # (B,) bits: KL(q || p_theta) of this step; at t = 0 -log2 of the probability by Eq. (13)
    bits: Tensor  # (B,) bits written for each image; at t = 0, where all share one stream, an equal share


@dataclass(frozen=True)
class Decoded:
    """What `decode` makes of a file."""

    images: Tensor  # (B, C, H, W) uint8: those that were encoded, or, for t > 0, x0_hat
    t: int  # the last time that the file, or `until`, reaches
    x_t: Tensor  # (B, C, H, W) float32
    x0_hat: Tensor  # (B, C, H, W) float32, Eq. (15), clipped to [-1, 1]


def send(shift: Numbers, spread: float, seed: int, place: int, limit: int | None = SEARCH) -> Numbers:
    """Poisson functional representation: the index that tells the receiver a sample of q = N(shift, I), where p = N(0, spread^2 I).

    Candidates z_0, z_1, ... of p and the times T_0 < T_1 < ... of a Poisson process are shared. The index is that of the smallest
    T_i p(z_i) / q(z_i): then z_index has the law q exactly, and log2(index + 1) is at most KL(q || p) + 1 bits on average.

    shift   (B, d): B messages that share their randomness; each has the right law, but they are not independent of each other
    spread  standard deviation of p, that of q being 1
    place   together with the seed it names the randomness: another number for every message that is to be independent
    limit   of the candidates looked at; None: until none that follows can win, which only spread > 1 allows
    -> (B,) int64

    Two approximations. With a limit the law is cut: it differs from q by about the probability under q that q / p > limit. From
    `TURNED` dimensions on, the d cyclic shifts of a noise vector are candidates, each a sample of p, but only nearly independent: so
    all their inner products with `shift` are one convolution.
    Raises ValueError if shift is not finite, or for a search that would not end.
    """
    growth = spread**2 - 1
    if shift.ndim != 2 or not np.isfinite(shift).all() or spread <= 0:
        raise ValueError(f"shift of shape {shift.shape}, finite: {bool(np.isfinite(shift).all())}, spread = {spread}; wanted finite numbers (B, d), spread > 0")
    if limit is None and growth <= 0:
        raise ValueError(f"spread = {spread} and limit = None; wanted a limit, or a spread above 1: q / p has no largest value, so no search is complete")
    squares = np.square(shift, dtype=np.float64).sum(1)
    largest = spread**2 * squares / (2 * growth) if growth > 0 else np.full(len(shift), np.inf)  # of log q / p, up to a constant
    best, index = np.full(len(shift), np.inf), np.zeros(len(shift), np.int64)
    seen, arrived, last = 0, 0.0, math.inf if limit is None else limit
    while seen < last:
        z, gaps = _candidates(seed, place, seen, shift.shape[1])
        times = arrived + np.cumsum(gaps)
        arrived = times[-1]
        cost = np.log(times) + growth / 2 * np.repeat(np.square(z).sum(1), len(gaps) // len(z))
        n = int(min(len(gaps), last - seen))
        for few in np.array_split(np.arange(len(shift)), -(-len(shift) // 32)):  # as many as the processor's cache holds
            score = (cost - spread * _inner(z, shift[few], len(gaps)))[:, :n]
            winner = score.argmin(1)
            score = score[np.arange(len(few)), winner]
            index[few] = np.where(score < best[few], seen + winner, index[few])
            best[few] = np.minimum(score, best[few])
        seen += len(gaps)
        if (math.log(arrived) - largest >= best).all():
            break
    return index


def receive(index: int, d: int, seed: int, place: int) -> Numbers:
    """The candidate that `send` chose, as a sample of N(0, I), (d,) float32: times spread, it is the sample of q."""
    z, gaps = _candidates(seed, place, index, d)
    row, turn = divmod(index % len(gaps), len(gaps) // len(z))
    return np.roll(z[row], turn)


def _generator(seed: int, place: int, block: int = 0) -> np.random.Generator:
    """Philox counts: which numbers it gives depends on seed, place and block alone, on every processor."""
    return np.random.Generator(np.random.Philox(key=[seed, place], counter=[0, 0, 0, block]))


def _candidates(seed: int, place: int, index: int, d: int) -> tuple[Numbers, Numbers]:
    """The block with candidate `index`: noise vectors (rows, d), and the gaps between arrivals, one for each shift of each vector."""
    turns = d if d >= TURNED else 1
    rows = -(-BLOCK // turns)
    rng = _generator(seed, place, index // (rows * turns))
    return rng.standard_normal((rows, d), dtype=np.float32), rng.standard_exponential(rows * turns)


def _inner(z: Numbers, shift: Numbers, n: int) -> Numbers:
    """Inner products (B, n) of the shifts (B, d) with all n candidates that the noise vectors z (rows, d) make."""
    if n == len(z):
        return shift.astype(np.float32) @ z.T
    spectrum = np.fft.rfft(shift.astype(np.float32))[:, None] * np.fft.rfft(z).conj()
    return np.fft.irfft(spectrum, shift.shape[1]).reshape(len(shift), n)


def coding_times(schedule: Schedule, steps: int, last: int) -> tuple[list[int], Schedule]:
    """Times 0 < last < ... < T, evenly spaced in SNR^(1/4), SNR = alpha_bar / (1 - alpha_bar), and the schedule that visits only these.

    On images that spacing gives every step about as many bits; steps evenly spaced in t would leave most of them to the last.
    -> as `respace`; where the grid of times is too coarse there are fewer than `steps`
    Raises ValueError unless 1 <= last <= T and steps >= 1.
    """
    if not 1 <= last <= schedule.T or steps < 1:
        raise ValueError(f"steps = {steps}, last = {last}; wanted at least one step, and 1 <= last <= T = {schedule.T}")
    scale = (schedule.alpha_bar[1:] / (1 - schedule.alpha_bar[1:])) ** 0.25
    wanted = torch.linspace(float(scale[last - 1]), float(scale[-1]), steps, dtype=torch.float64)
    times = [0, *sorted({1 + int((scale - w).abs().argmin()) for w in wanted} | {last, schedule.T})]
    alpha_bar = schedule.alpha_bar[times]
    return times, Schedule(1 - alpha_bar[1:] / alpha_bar[:-1])


def encode(model: Model, schedule: Schedule, images: Tensor, *, until: int = 0, steps: int = 20, last: int | None = None, seed: int = 0,
           progress: bool = False) -> bytes:  # fmt: skip
    """Algorithm 3: the bytes of images uint8 (B, C, H, W). Arguments and errors as in `encode_steps`."""
    from tqdm.auto import tqdm

    sections = encode_steps(model, schedule, images, until=until, steps=steps, last=last, seed=seed)
    return b"".join(step.data for step in tqdm(sections, total=steps + 1, unit="step", desc="encoding", disable=not progress, dynamic_ncols=True))


def encode_steps(model: Model, schedule: Schedule, images: Tensor, *, until: int = 0, steps: int = 20, last: int | None = None,
                 seed: int = 0) -> Iterator[Step]:  # fmt: skip
    """Algorithm 3, section by section: the header (t = T), a section for every step, and at t = 0 the lossless one.

    model   callable (x_t, t) -> eps_hat on the CPU; a Module is in eval mode meanwhile
    until   0: lossless. t > 0: stop at the last step that does not go below t; the receiver then has x_t and its x0_hat
    steps   of the coarse chain, each an evaluation of the network for each image: more steps cost fewer bits
    last    the time from which x_0 is sent by the entropy coder; None: where the noise is 5 grey levels. The messages cost about a
            third more than their divergence, the entropy coder costs nothing more: it is worth leaving it the finest bits
    seed    of the shared randomness, 0 to 2^32 - 1; it is in the file

    p_theta of a step is N(mu_theta, sigma^2 I), mu_theta from x0_hat clipped to [-1, 1]; the number of messages that the step needs,
    n, is in the file and sets sigma^2 = beta_tilde 2^(2 n MESSAGE / D), about beta_tilde plus the mean squared error of mu_theta.
    Raises TypeError or ValueError for images, times or a model that do not fit.
    """
    images = _check_images(images)
    (B, *shape), D = images.shape, images[0].numel()
    if not 0 <= until <= schedule.T or not 0 <= seed < 2**32:
        raise ValueError(f"until = {until}, seed = {seed}; wanted 0 <= until <= T = {schedule.T} and 0 <= seed < 2^32")
    if last is None:
        noise = ((1 - schedule.alpha_bar) / schedule.alpha_bar).sqrt() * 127.5
        last = min(int((noise < 5).sum()), schedule.T)
    times, coarse = coding_times(schedule, steps, last)
    x0, x, counts = to_model_range(images), _start(seed, B, shape), np.ones(B, np.int64)
    yield Step(schedule.T, _header(model, schedule, x, steps, last, seed), x, torch.zeros(B), torch.zeros(B))
    with _alone(model):
        for i in range(coarse.T, 0, -1):
            if times[i - 1] < until:
                return
            x0_hat = _x0_hat(model, coarse, x, i, times[i])
            if i == 1:
                yield _lossless(images, x0, x0_hat)
                return
            (mean, _), (target, _) = q_posterior(coarse, x0_hat.clamp(-1, 1), x, i), q_posterior(coarse, x0, x, i)
            std = float(coarse.beta_tilde[i]) ** 0.5
            shift = _turn(((target - mean) / std).flatten(1).double().numpy(), seed, i)
            squares = (shift**2).sum(1)
            before, counts = counts, np.clip((D / 2 * np.log2(1 + squares / D) / MESSAGE).round().astype(int), 1, D)
            messages: list[list[int]] = [[] for _ in range(B)]
            for n in np.unique(counts):
                chosen = np.flatnonzero(counts == n)
                for c, (start, end) in enumerate(_chunks(D, n)):
                    for b, index in zip(chosen, send(shift[chosen, start:end], _spread(n, D), seed, _place(i, c))):
                        messages[b].append(int(index))
            texts = [_gamma(_zigzag(int(n - was))) + "".join(_message(index) for index in m) for n, was, m in zip(counts, before, messages)]
            x = _arrive(mean, std, messages, seed, i)
            variance = 2.0 ** (2 * counts * MESSAGE / D)
            kl = (D * (1 / variance - 1 + np.log(variance)) + squares / variance) / (2 * math.log(2))
            yield Step(times[i - 1], _seal(_pack("".join(texts)), i), x, torch.from_numpy(kl), torch.tensor([float(len(text)) for text in texts]))


def decode(model: Model, schedule: Schedule, data: bytes, *, until: int = 0, progress: bool = False) -> Decoded:
    """Algorithm 4: images from the bytes that `encode` made, as far as they go, or down to the last time that is not below `until`.

    model, schedule  those that the file was encoded with
    Raises ValueError for what is no such file, is damaged, ends within a section, or was made with another model; and for a lossless
    file from a machine or versions that compute the network differently (with until > 0 it decodes there too).
    """
    from tqdm.auto import tqdm

    head, rest = _parse_header(data)
    if (wanted := fingerprint(model, schedule)) != head.model:
        raise ValueError(f"the file was encoded with model {head.model.hex()}; this is model {wanted.hex()} (weights and schedule): load the checkpoint it was made with")
    times, coarse = coding_times(schedule, head.steps, head.last)
    x, counts = _start(head.seed, head.shape[0], head.shape[1:]), np.ones(head.shape[0], np.int64)
    if zlib.crc32(x.numpy().tobytes()) & 0xFFFF != head.noise:
        raise ValueError("the shared randomness is not the encoder's: numpy draws other numbers here; wanted the version that encoded the file")
    reached, D = schedule.T, x[0].numel()
    with _alone(model):
        for i in tqdm(range(coarse.T, 0, -1), unit="step", desc="decoding", disable=not progress, dynamic_ncols=True):
            x0_hat = _x0_hat(model, coarse, x, i, times[i])
            if not rest or times[i - 1] < until:
                break
            if i == 1:
                images = _lossless_images(rest, x0_hat)
                return Decoded(images, 0, to_model_range(images), to_model_range(images))
            counts, messages, rest = _parse_section(rest, counts, i, D, reached, times[i - 1])
            mean, _ = q_posterior(coarse, x0_hat.clamp(-1, 1), x, i)
            x, reached = _arrive(mean, float(coarse.beta_tilde[i]) ** 0.5, messages, head.seed, i), times[i - 1]
    return Decoded(to_uint8(x0_hat.clamp(-1, 1)), reached, x, x0_hat.clamp(-1, 1))


def sections(schedule: Schedule, data: bytes) -> list[tuple[int, int]]:
    """(t, bytes) for every section of a file: data[:bytes] is a file that leads to x_t. Needs no model. Errors as `decode`."""
    head, rest = _parse_header(data)
    times, _ = coding_times(schedule, head.steps, head.last)
    found, counts = [(schedule.T, len(data) - len(rest))], np.ones(head.shape[0], np.int64)
    for i in range(len(times) - 1, 1, -1):
        if rest:
            counts, _, rest = _parse_section(rest, counts, i, math.prod(head.shape[1:]), times[i], times[i - 1])
            found.append((times[i - 1], len(data) - len(rest)))
    return [*found, (0, len(data))] if rest else found


def fingerprint(model: Model, schedule: Schedule) -> bytes:
    """Four bytes that name a model: of SHA-256 over its schedule and, for a Module, its weights."""
    h = hashlib.sha256(schedule.beta.numpy().tobytes())
    for name, tensor in sorted(model.state_dict().items()) if isinstance(model, nn.Module) else []:
        h.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return h.digest()[:4]


# A step: the network, the turning of the axes, the messages


@contextmanager
def _alone(model: Model) -> Iterator[None]:
    """One thread, no gradients, eval mode: sums are taken in one order, whatever the caller has set."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with evaluating(model), torch.no_grad():
            yield
    finally:
        torch.set_num_threads(threads)


def _start(seed: int, n: int, shape: list[int]) -> Tensor:
    """x_T, a sample of p(x_T) = N(0, I) that both sides draw: q(x_T | x_0) is so nearly the same that nothing need be sent."""
    noise = _generator(seed, 2**32 - 1).standard_normal(math.prod(shape), dtype=np.float32)
    return torch.from_numpy(noise).reshape(1, *shape).repeat(n, 1, 1, 1)


def _x0_hat(model: Model, coarse: Schedule, x: Tensor, i: int, t: int) -> Tensor:
    """Eq. (15) at step i of the coarse chain, the paper's t; in batches whose size the file does not leave to chance."""
    variance = "learned" if getattr(model, "config", {}).get("learn_variance") else "beta"
    eps_hat = torch.cat([ask(model, few, t, variance)[0] for few in x.split(BATCH)]).float()
    if not eps_hat.isfinite().all():
        raise ValueError(f"the model answers NaN or infinity at t = {t}; wanted a trained one")
    return predict_x0(coarse, x, i, eps_hat)


def _turn(x: Numbers, seed: int, i: int, back: bool = False) -> Numbers:
    """(B, D) in other axes: random signs and a Hartley transform, which is orthogonal, so N(m, I) stays N(turned m, I).

    It spreads what there is to say evenly over all coordinates: any chunk of them then has its share of the divergence.
    """
    signs = _generator(seed, _place(i, 2**31)).choice([-1.0, 1.0], x.shape[1])
    f = np.fft.fft(x if back else x * signs)
    turned = (f.real - f.imag) / x.shape[1] ** 0.5
    return turned * signs if back else turned


def _place(i: int, c: int) -> int:
    return i << 32 | c


def _chunks(D: int, n: int) -> list[tuple[int, int]]:
    """n ranges of coordinates, as equal as whole numbers are."""
    return [(D * c // n, D * (c + 1) // n) for c in range(n)]


def _spread(n: int, D: int) -> float:
    """sigma / sqrt(beta_tilde) of a step with n messages: D / 2 log2(spread^2) is the divergence n MESSAGE that they carry."""
    return float(2.0 ** (n * MESSAGE / D))


def _arrive(mean: Tensor, std: float, messages: list[list[int]], seed: int, i: int) -> Tensor:
    """x_{t-1} = mu_theta + sigma times the candidates that the messages name; encoder and decoder both come through here."""
    D, images = mean[0].numel(), []
    for one, indices in zip(mean, messages):
        n = len(indices)
        u = np.concatenate([receive(index, end - start, seed, _place(i, c)) for c, (index, (start, end)) in enumerate(zip(indices, _chunks(D, n)))])
        noise = _turn(u[None].astype(np.float64), seed, i, back=True) * (_spread(n, D) * std)
        images.append(one + torch.from_numpy(noise).to(one.dtype).reshape(one.shape))
    return torch.stack(images)


# The last step: pixels, by Eq. (13)


def _lossless(images: Tensor, x0: Tensor, x0_hat: Tensor) -> Step:
    """The section at t = 0: sigma for each image, the entropy coder's words, the checksum of the pixels."""
    coder, (B, D), bits = _constriction(), (len(images), images[0].numel()), []
    codes = []
    for one, guess in zip(x0, x0_hat):
        error = float((one - guess).double().square().mean().sqrt()) * 127.5
        around = round(16 * math.log2(max(error, 0.25) / 0.25))  # with rare large errors a smaller sigma is better
        tried = {code: -float(decoder_log_likelihood(one, guess, _std(code) / 127.5).sum(dtype=torch.float64)) for code in
                 {min(max(around - k, 0), 255) for k in range(-4, 33, 2)}}  # fmt: skip
        codes.append(min(tried, key=lambda code: tried[code]))
        bits.append(tried[codes[-1]] / math.log(2))
    encoder = coder.stream.queue.RangeEncoder()
    encoder.encode(images.flatten().numpy().astype(np.int32), coder.stream.model.QuantizedGaussian(0, 255), *_laws(codes, x0_hat))
    words = encoder.get_compressed().astype("<u4").tobytes()
    data = _seal(bytes(codes) + words + zlib.crc32(images.numpy().tobytes()).to_bytes(4, "little"), 1)
    return Step(0, data, x0, torch.tensor(bits), torch.full((B,), 8 * len(data) / B))


def _lossless_images(data: bytes, x0_hat: Tensor) -> Tensor:
    B, D = len(x0_hat), x0_hat[0].numel()
    if len(data) < B + 5 or (len(data) - B - 5) % 4 or data[-1] != _check(data[:-1], 1):
        raise ValueError(f"the last section, {len(data)} bytes of pixels, is damaged or incomplete; take another copy, or decode with until > 0")
    coder, codes, words, crc = _constriction(), data[:B], data[B:-5], int.from_bytes(data[-5:-1], "little")
    decoder = coder.stream.queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
    levels = decoder.decode(coder.stream.model.QuantizedGaussian(0, 255), *_laws(list(codes), x0_hat))
    images = torch.from_numpy(levels.astype(np.uint8)).reshape(x0_hat.shape)
    if zlib.crc32(images.numpy().tobytes()) != crc:
        raise ValueError("the pixels do not have the checksum in the file. The file is whole, so the network's answers are not the encoder's: another "
                         "processor, or another version of torch, rounds differently. With until > 0 the file decodes here too, up to its last step")  # fmt: skip
    return images


def _laws(codes: list[int], x0_hat: Tensor) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of every pixel in grey levels, for an entropy coder whose bins are one level wide."""
    mean = (x0_hat.double() + 1) * 127.5
    return mean.flatten().numpy(), np.repeat([_std(code) for code in codes], x0_hat[0].numel())


def _std(code: int) -> float:
    """sigma in grey levels that a byte stands for: 0.25 to 15,600, each 4.4% more than the one before."""
    return float(0.25 * 2 ** (code / 16))


def _constriction():  # type: ignore[no-untyped-def]
    try:
        import constriction
    except ImportError as error:
        raise ValueError("the last, lossless section needs the package constriction: pip install constriction. Without it, until > 0 works") from error
    return constriction


# Bytes and bits


@dataclass(frozen=True)
class _Header:
    model: bytes
    shape: list[int]  # B, C, H, W
    steps: int
    last: int
    seed: int
    noise: int  # checksum of x_T: tells whether both sides draw the same randomness


def _header(model: Model, schedule: Schedule, x: Tensor, steps: int, last: int, seed: int) -> bytes:
    noise = zlib.crc32(x.numpy().tobytes()) & 0xFFFF
    head = MAGIC + bytes([VERSION]) + fingerprint(model, schedule) + b"".join(_varint(n) for n in (*x.shape, steps, last, seed)) + noise.to_bytes(2, "little")
    return head + (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")


def _parse_header(data: bytes) -> tuple[_Header, bytes]:
    """The header and the bytes after it."""
    if not isinstance(data, (bytes, bytearray)):
        raise TypeError(f"data is a {type(data).__name__}; wanted the bytes of a file")
    if data[:4] != MAGIC:
        raise ValueError(f"the file begins with {bytes(data[:4])!r}; wanted {MAGIC!r}, as encode() and `ddpm encode` write it")
    if len(data) > 4 and data[4] != VERSION:
        raise ValueError(f"the file has format {data[4]}; this version of ddpm_core reads format {VERSION}")
    numbers, at = [], 9
    while len(numbers) < 7:
        value = shift = 0
        while True:
            if at >= len(data) or shift > 28:
                raise ValueError(f"the header of the file is damaged or incomplete ({len(data)} bytes in all); take another copy")
            value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
            if data[at - 1] < 128:
                break
        numbers.append(value)
    if len(data) < at + 4 or int.from_bytes(data[at + 2 : at + 4], "little") != zlib.crc32(data[: at + 2]) & 0xFFFF:
        raise ValueError(f"the header of the file is damaged or incomplete ({len(data)} bytes in all); take another copy")
    *shape, steps, last, seed = numbers
    if not 0 < math.prod(shape) <= MOST or seed >= 2**32:
        raise ValueError(f"the file claims {shape[0]} images of shape {tuple(shape[1:])} and seed {seed}; encode() writes at most {MOST:,} values, and seeds below 2^32")
    return _Header(bytes(data[5:9]), shape, steps, last, seed, int.from_bytes(data[at : at + 2], "little")), bytes(data[at + 4 :])


def _parse_section(data: bytes, counts: Numbers, i: int, D: int, t: int, to: int) -> tuple[Numbers, list[list[int]], bytes]:
    """Counts and messages of every image, and the bytes after the section, which says itself where it ends."""
    wrong = f"the section from t = {t} to {to} is damaged, or the file ends within it; take another copy, or decode with until = {t}"
    bits, at = _Bits(data), 0
    try:
        after, messages = [], []
        for was in counts:
            n = int(was) + _unzigzag(bits.gamma())
            if not 1 <= n <= D:
                raise ValueError
            after.append(n)
            messages.append([bits.message() for _ in range(n)])
        at = bits.whole_bytes()
        if data[at] != _check(data[:at], i):
            raise ValueError
    except (ValueError, IndexError):
        raise ValueError(wrong) from None
    return np.array(after), messages, data[at + 1 :]


class _Bits:
    """Reads what `_pack` has packed; IndexError at the end."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def take(self, n: int) -> int:
        value = 0
        for _ in range(n):
            value, self.at = value << 1 | self.data[self.at >> 3] >> 7 - (self.at & 7) & 1, self.at + 1
        return value

    def gamma(self) -> int:
        length = 0
        while not self.take(1):
            length += 1
            if length > 40:
                raise ValueError
        return 1 << length | self.take(length)

    def message(self) -> int:
        length = self.take(LENGTH)
        return (1 << length | self.take(length)) - 1

    def whole_bytes(self) -> int:
        return -(-self.at // 8)


def _message(index: int) -> str:
    """An index as bits: LENGTH bits with the length of index + 1 less its leading one, and then these bits."""
    digits = f"{index + 1:b}"[1:]
    return f"{len(digits):0{LENGTH}b}{digits}"


def _gamma(n: int) -> str:
    """Elias's gamma code of n >= 1: as many zeros as digits follow the leading one."""
    return f"{n:b}".zfill(2 * n.bit_length() - 1)


def _zigzag(n: int) -> int:
    """0, -1, 1, -2, 2, ... -> 1, 2, 3, 4, 5, ..."""
    return 2 * n + 1 if n >= 0 else -2 * n


def _unzigzag(n: int) -> int:
    return n // 2 if n % 2 else -(n // 2)


def _pack(bits: str) -> bytes:
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def _varint(n: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + _varint(n >> 7)


def _check(payload: bytes, i: int) -> int:
    """One byte, by which a damaged or misplaced section is noticed 255 times in 256."""
    return zlib.crc32(payload, i) & 0xFF


def _seal(payload: bytes, i: int) -> bytes:
    return payload + bytes([_check(payload, i)])


def _check_images(images: Tensor) -> Tensor:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        kind = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise TypeError(f"images are {kind}; wanted a uint8 tensor (B, C, H, W), 0 to 255")
    if images.ndim != 4 or not 0 < images.numel() <= MOST:
        raise ValueError(f"images have shape {tuple(images.shape)}; wanted (B, C, H, W), at least one value and at most {MOST:,}")
    return images.cpu().contiguous()
