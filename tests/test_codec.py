"""Algorithms 3 and 4: the law of what is received, the length of what is sent, exact round trips, and files that are not what they seem."""

import copy
import math
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from laboratory import SHORT, assert_moments, generator, randn, randomise, small_unet
from PIL import Image
from scipy import stats

from ddpm_core import (
    Schedule,
    codec,
    codec_file,
    coding,
    decoder_log_likelihood,
    q_posterior,
    q_sample,
    save_checkpoint,
)
from ddpm_core.cli import main
from ddpm_core.exact import exact_chain
from ddpm_core.gaussian import kl_divergence

M, D, BLOCK = 1200, 3, 16
CHAIN = exact_chain(SHORT, 0.3, 0.7)


def lab_g(t: int) -> tuple[np.ndarray, float, float, np.ndarray]:
    """Lab G at t: shifts of the means (M, D) of q(x_{t-1} | x_t, x_0) against p_theta, both variances, the KLs (M,) in bits."""
    x0 = 0.3 + 0.7 * randn(M, D)
    x_t = q_sample(SHORT, x0, t, randn(M, D, seed=1))
    mean_q, var_q = q_posterior(SHORT, x0, x_t, t)
    mean_p, var_p = CHAIN.A[t, 0, 0] * x_t + CHAIN.b[t, 0], CHAIN.var[t]
    bits = kl_divergence(mean_q, var_q, mean_p, var_p).sum(1) / math.log(2)
    return (mean_q - mean_p).numpy(), float(var_q), float(var_p), bits.numpy()


def draws(message: int, block: int) -> np.ndarray:
    return np.random.default_rng([message, block]).standard_normal((BLOCK, D))


def send(t: int, choose=codec.choose) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every message of lab_g(t): the numbers K (M,), what is received, standardised under q (M, D), and the KLs."""
    shifts, var_q, var_p, bits = lab_g(t)
    numbers, received = np.empty(M, dtype=int), np.empty((M, D))
    for m, shift in enumerate(shifts):
        numbers[m], proven = choose(
            lambda z: codec.log_ratio(z, shift, var_q, var_p),
            lambda block: draws(m, block),
            np.random.default_rng([1, m]),
            codec.largest_log_ratio(shift, var_q, var_p),
        )
        assert proven
        z = draws(m, (numbers[m] - 1) // BLOCK)[
            (numbers[m] - 1) % BLOCK
        ]  # all that the receiver needs
        received[m] = (math.sqrt(var_p) * z - shift) / math.sqrt(var_q)
    return numbers, received, bits


@pytest.mark.parametrize("t", [2, 3, 8])
def test_what_is_received_is_a_draw_from_q(t):
    _, received, bits = send(t)
    assert bits.mean() > 0.15
    assert_moments(torch.from_numpy(received), 0.0, 1.0)
    assert stats.kstest(received.ravel(), "norm").pvalue > 6e-5  # four standard errors


def nearest(
    log_w, draws, rng, log_w_max
):  # the most probable of a few: no draw from q, but nearer to its mean
    return int(np.concatenate([log_w(draws(b)) for b in range(20)]).argmax()) + 1, True


def first(log_w, draws, rng, log_w_max):  # a draw from p
    return 1, True


@pytest.mark.parametrize("wrong", [nearest, first])
def test_another_choice_is_noticed(wrong):
    _, received, _ = send(2, wrong)
    assert stats.kstest(received.ravel(), "norm").pvalue < 6e-5


def test_a_message_costs_about_the_divergence():
    for t in (2, 3, 8):
        numbers, _, bits = send(t)
        log2, error = np.log2(numbers), (np.log2(numbers) - bits).std() / M**0.5
        assert (log2 - bits).mean() <= 1 + 4 * error, "E log2 K <= KL + 1"
        coder = coding.stream().queue.RangeEncoder()
        for number, kl in zip(numbers.tolist(), bits.tolist()):
            codec.put(coder, number, kl)
        length = coder.num_bits() / M
        assert bits.mean() - 4 * error < length < (bits + np.log2(bits + 1) + 3).mean()
        reader = coding.stream().queue.RangeDecoder(coder.get_compressed())
        assert [codec.take(reader, kl) for kl in bits.tolist()] == numbers.tolist()


def test_a_number_costs_what_its_law_says():
    numbers = [1, 2, 3, 7, 1000, 65535, 65536, 2**17 - 1, 2**33 + 12345, 2**47 + 5]
    for bits in (0.0, 3.5, 40.0):
        coder = coding.stream().queue.RangeEncoder()
        for number in numbers * 20:
            codec.put(coder, number, bits)
        weights = coding.octaves(bits)
        octaves = [number.bit_length() - 1 for number in numbers]
        promised = 20 * sum(
            octave - math.log2(weights[octave] / weights.sum())
            for octave in octaves
            if weights[octave] / weights.sum() > 2**-20
        )
        rare = 20 * sum(
            octave + 24
            for octave in octaves
            if weights[octave] / weights.sum() <= 2**-20
        )  # the least probability of constriction
        assert (
            promised - 1
            < coder.num_bits()
            < promised + rare + 64 + 0.01 * len(numbers) * 20
        )
        reader = coding.stream().queue.RangeDecoder(coder.get_compressed())
        assert [codec.take(reader, bits) for _ in numbers * 20] == numbers * 20


def test_the_largest_ratio_is_never_exceeded():
    shift = randn(D).numpy()
    peak = codec.largest_log_ratio(shift, 0.5, 0.8)
    z = randn(20000, D, seed=2).numpy() * 3
    highest = codec.log_ratio(
        math.sqrt(0.8) * shift[None] / (0.8 - 0.5), shift, 0.5, 0.8
    )[0]  # where its gradient is zero
    assert codec.log_ratio(z, shift, 0.5, 0.8).max() <= peak + 1e-9
    assert abs(highest - peak) < 1e-9
    assert (
        codec.largest_log_ratio(shift, 0.5, 0.5) == math.inf
        and codec.largest_log_ratio(0 * shift, 0.5, 0.5) == 0
    )
    assert (
        codec.choose(
            lambda z: np.zeros(len(z)),
            lambda block: draws(0, block),
            np.random.default_rng(0),
            limit=64,
        )[1]
        is False
    )


def test_eq_13_in_whole_numbers():
    looks = torch.tensor([-1.0, -0.9031, 0.0, 0.4, 1.0], dtype=torch.float64)
    rounded = ((looks + 1) * 127.5 * 16).round() / (127.5 * 16) - 1
    grid = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for level in (0, 40, 80, 120):
        table = codec.grey_probabilities(looks, level)
        assert (table.sum(1) == 2**22 + 256).all() and table.min() >= 1
        sigma = 128 * 2 ** (-level / 16) / 127.5
        exact = torch.stack(
            [
                decoder_log_likelihood(grid, mean.expand(256), sigma).exp()
                for mean in rounded
            ]
        )
        torch.testing.assert_close(
            torch.from_numpy(table - 1) / 2**22, exact, atol=2**-22, rtol=0
        )


# ------------------------------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def network():
    return randomise(small_unet(classes=3))


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (3, 1, 8, 8), generator=generator(), dtype=torch.uint8)


STOPS = [(t, lossless) for t in (1, 4, 20) for lossless in (True, False)]


@pytest.fixture(scope="module")
def files(network, images):
    return dict(
        zip(STOPS, codec.encode_all(network, SHORT, images, STOPS, steps=8, bits=8))
    )


def test_lossless_files_give_the_images_back(network, images, files):
    for (_, lossless), data in files.items():
        received = codec.decode(network, SHORT, data)
        assert received.dtype == torch.uint8 and received.shape == images.shape
        assert torch.equal(received, images) == lossless


def test_a_lossy_file_holds_the_first_look(network, images, files):
    """The receiver's picture is x0_hat of Eq. (15), and comes nearer to x_0 with every step."""
    wrong = [
        (codec.decode(network, SHORT, files[t, False]).float() - images).square().mean()
        for t in (20, 4, 1)
    ]
    assert wrong[0] > 4 * wrong[1] > 4 * wrong[2]


def test_a_stop_later_is_a_longer_file_with_the_same_beginning(files):
    short, long = (codec.read_header(files[t, False]).messages for t in (4, 1))
    for a, b in zip(short, long):
        assert len(a) < len(b) and b.startswith(
            a[:-8]
        )  # the end of a range coder's message settles it


def test_an_image_does_not_depend_on_its_neighbours(network, images, files):
    alone = codec.encode(network, SHORT, images[1:2], t=1, steps=8, bits=8)
    assert (
        codec.read_header(alone).messages[0]
        == codec.read_header(files[1, True]).messages[1]
    )
    other = codec.encode(network, SHORT, images[1:2], t=1, steps=8, bits=8, seed=1)
    assert codec.read_header(other).messages != codec.read_header(alone).messages
    assert torch.equal(codec.decode(network, SHORT, other), images[1:2])


def test_the_default_stop(network, images):
    assert (
        codec.read_header(codec.encode(network, SHORT, images[:1], steps=4, bits=6)).t
        == 20
    )
    assert (
        codec.read_header(
            codec.encode(network, SHORT, images[:1], steps=4, bits=6, lossless=False)
        ).t
        == 1
    )
    assert (
        codec.coding_times(1000)[:6] == [0, 1, 2, 3, 4, 6]
        and codec.coding_times(1000)[-1] == 1000
    )
    assert codec.coding_times(5, 2) == [0, 1, 5] and codec.coding_times(1, 9) == [0, 1]


def test_the_search_is_the_poisson_representation(network, images):
    """Among the same draws and with the same arrivals, the matrix product names what `choose` names."""
    party = codec.Party(network, SHORT, 64, 8, 9, 0)
    i, kinds = 3, [party.step(3, 36)[:2] + (3,), party.step(3, 40)[:2] + (2,)]
    shift = np.stack(
        [
            math.sqrt(var_p - var_q) * randn(64, seed=seed).numpy()
            for seed, (var_q, var_p, _) in enumerate(kinds)
        ]
    )
    found = codec._search(party, i, shift, kinds)
    for b, (var_q, var_p, n) in enumerate(kinds):
        for j, pixels in enumerate(party.patches(i, n)):
            number, _ = codec.choose(
                lambda z: codec.log_ratio(
                    z[:, pixels].astype(float), shift[b, pixels], var_q, var_p
                ),
                lambda block: party.noise(i, block),
                party._rng(i, 2**31 + j),
                limit=2**9,
            )
            assert number == found[b][j]


def test_the_variance_is_the_one_of_least_divergence():
    party = codec.Party(torch.nn.Identity(), SHORT, 64, 8, 8, 0)
    for i in (2, 5):
        level = 30
        var_q, var_p, _, _ = party.step(i, level)
        squares = 64 * (
            var_p - var_q
        )  # || mean_q - mean_p ||^2, if the mean squared error is m; see below

        def kl(var):
            return (64 * (math.log(var / var_q) + var_q / var - 1) + squares / var) / 2

        assert kl(var_p) < min(kl(0.98 * var_p), kl(1.02 * var_p))
        assert abs(kl(var_p) - 64 * math.log(var_p / var_q) / 2) < 1e-9
        look, x0 = (
            torch.zeros(1, 64).double(),
            torch.full((1, 64), 2 * 2 ** (-level / 8), dtype=torch.float64),
        )
        apart = (
            q_posterior(party.few, x0, look, i)[0]
            - q_posterior(party.few, look, look, i)[0]
        )
        assert abs(float(apart.square().sum()) - squares) < 1e-9 * squares


# ------------------------------------------------------------------------------------------------ files that are something else


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", zlib.crc32(body))


def with_header(data: bytes, **changes) -> bytes:
    names = [
        "mark",
        "steps",
        "bits",
        "lossless",
        "t",
        "seed",
        "B",
        "C",
        "H",
        "W",
        "checksum",
    ]
    end = len(codec_file.MAGIC) + struct.calcsize(codec_file.HEADER)
    values = (
        dict(
            zip(
                names,
                struct.unpack(codec_file.HEADER, data[len(codec_file.MAGIC) : end]),
            )
        )
        | changes
    )
    return sealed(
        codec_file.MAGIC
        + struct.pack(codec_file.HEADER, *values.values())
        + data[end:-4]
    )


def refused(network, data, schedule=SHORT) -> str:
    with pytest.raises(ValueError) as error:
        codec.decode(network, schedule, data)
    return str(error.value)


def test_truncated_and_damaged_files(network, files):
    data = files[4, True]
    for length in (6, 20, 45, 60, len(data) - 1):
        assert "truncated or damaged" in refused(network, data[:length])
    for where in (10, 30, 50, len(data) - 20, len(data) - 1):
        assert "truncated or damaged" in refused(
            network, data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]
        )
    assert "truncated or damaged" in refused(network, data + b"\0")


@pytest.mark.parametrize(
    "data", [b"", b"DDPM", b"\x89PNG\r\n\x1a\n" + bytes(100), b"\x80\x04N."], ids=repr
)
def test_foreign_files(network, data):
    assert "a file that `ddpm encode` made" in refused(network, data)


def test_another_network_or_schedule(network, files):
    assert "another network or schedule" in refused(
        randomise(small_unet(classes=3), seed=1), files[1, True]
    )
    assert "another network or schedule" in refused(
        network, files[1, True], Schedule(SHORT.beta * 0.999)
    )


@pytest.mark.parametrize(
    "changes, phrase",
    [
        (dict(bits=200), "do not fit"),
        (dict(bits=3), "do not fit"),
        (dict(steps=1), "do not fit"),
        (dict(lossless=7), "do not fit"),
        (dict(B=2**32 - 1), "do not fit"),
        (dict(B=2), "do not fit"),
        (dict(B=0), "do not fit"),
        (dict(H=65535, W=65535), "pictures have shape (1, 65535, 65535)"),
        (dict(C=3), "pictures have shape"),
        (dict(t=3), "stops at t = 3"),
        (dict(t=0), "stops at t = 0"),
        (dict(t=30000), "stops at t = 30000"),
        (dict(seed=5), "decodes to other pictures"),
        (dict(checksum=1), "decodes to other pictures"),
        (dict(lossless=0), "decodes to other pictures"),
    ],
    ids=lambda v: str(v),
)
def test_headers_that_lie(network, files, changes, phrase):
    assert phrase in refused(network, with_header(files[4, True], **changes))


def test_messages_that_say_something_else(network, files):
    data = files[1, True]
    start = len(data) - 4 - sum(map(len, codec.read_header(data).messages))
    for noise in (
        bytes(len(data) - 4 - start),
        b"\xff" * (len(data) - 4 - start),
        np.random.default_rng(0).bytes(len(data) - 4 - start),
    ):
        assert "decodes to other pictures" in refused(
            network, sealed(data[:start] + noise)
        )


def test_a_machine_that_computes_differently_is_noticed(
    network, images, files, monkeypatch
):
    look = codec.Party.look
    monkeypatch.setattr(
        codec.Party, "look", lambda self, x, i: (look(self, x, i) + 1e-2).clamp(-1, 1)
    )
    assert "computes differently" in refused(network, files[1, True])


def test_what_processors_differ_by_is_not_seen(network, images, files, monkeypatch):
    """Answers of the network that are off by 1e-12, a hundred times what processors differ by, and no pixel is."""
    in_float64 = codec._in_float64

    def elsewhere(model):
        inside = in_float64(model)
        return lambda x, t: (
            inside(x, t)
            * (
                1
                + 1e-12
                * torch.randn(x.shape, generator=generator(), dtype=torch.float64)
            )
        )

    monkeypatch.setattr(codec, "_in_float64", elsewhere)
    assert torch.equal(codec.decode(network, SHORT, files[1, True]), images)
    coarse = copy.deepcopy(network).bfloat16()  # 16 bits are too few
    monkeypatch.setattr(
        codec,
        "_in_float64",
        lambda model: lambda x, t: coarse(x.bfloat16(), t).double(),
    )
    with pytest.raises(ValueError, match="computes differently"):
        codec.decode(network, SHORT, files[1, True])


# --------------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "change, error, phrase",
    [
        (dict(images=torch.zeros(1, 1, 8, 8)), TypeError, "wanted uint8"),
        (
            dict(images=torch.zeros(1, 1, 8, 4, dtype=torch.uint8)),
            ValueError,
            "(B, 1, 8, 8)",
        ),
        (
            dict(images=torch.zeros(0, 1, 8, 8, dtype=torch.uint8)),
            ValueError,
            "at least one",
        ),
        (dict(t=2), ValueError, "1, 3, 7, 20"),
        (dict(t=0), ValueError, "1, 3, 7, 20"),
        (dict(t=True), ValueError, "1, 3, 7, 20"),
        (dict(steps=1), ValueError, "from 2 to 255"),
        (dict(steps=True), ValueError, "from 2 to 255"),
        (dict(bits=5), ValueError, "from 6 to 20"),
        (dict(bits=64), ValueError, "from 6 to 20"),
        (dict(seed=-1), ValueError, "from 0 to 2^32"),
        (dict(model=lambda x, t: x), TypeError, "nn.Module"),
        (dict(model=torch.nn.Identity()), ValueError, "image_size"),
    ],
)
def test_arguments_that_do_not_fit(network, images, change, error, phrase):
    given = dict(model=network, schedule=SHORT, images=images, t=1, steps=4) | change
    with pytest.raises(
        error,
        match="(?s).*"
        + phrase.replace("(", r"\(").replace(")", r"\)").replace("^", r"\^"),
    ):
        codec.encode(
            given.pop("model"), given.pop("schedule"), given.pop("images"), **given
        )
    with pytest.raises(ValueError, match="no stops"):
        codec.encode_all(network, SHORT, images, [])


def test_without_constriction(network, images, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    for call in (
        lambda: codec.encode(network, SHORT, images, bits=6),
        lambda: codec.decode(network, SHORT, files[1, True]),
    ):
        with pytest.raises(FileNotFoundError, match="pip install constriction"):
            call()


# ------------------------------------------------------------------------------------------------------------ command line


def test_encode_and_decode_by_command(tmp_path, network, images, capfd):
    save_checkpoint(tmp_path / "run", network, SHORT)
    (tmp_path / "in").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(tmp_path / "in" / f"{i}.png")
    run, file, out = (
        str(tmp_path / name) for name in ("run", "new/pictures.ddpm", "out")
    )
    fast = ["--data", f"folder:{tmp_path}/in", "--steps", "4", "--bits", "8"]
    assert main(["encode", run, "--out", file, *fast]) == 0
    printed = capfd.readouterr()
    assert (
        "3 pictures in" in printed.out
        and "lossless at t = 20" in printed.out
        and "sending" in printed.err
    )
    assert main(["decode", run, file, "--out", out]) == 0
    for i, image in enumerate(images):
        assert np.array_equal(
            np.asarray(Image.open(tmp_path / "out" / f"{i:05d}.png")), image[0].numpy()
        )
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    capfd.readouterr()
    assert (
        main(["decode", run, file, "--out", out]) == 2
        and "nothing is overwritten" in capfd.readouterr().err
    )
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert (
        main(["encode", run, "--out", file, *fast, "--lossy", "-n", "1", "--t", "3"])
        == 0
    )
    assert (
        "1 pictures in" in (said := capfd.readouterr().out) and "lossy at t = 3" in said
    )
    assert (
        main(["encode", run, "--out", file, *fast, "-n", "9"]) == 2
        and "from 1 to the 3 pictures" in capfd.readouterr().err
    )
    save_checkpoint(tmp_path / "other", randomise(small_unet(classes=3), seed=9), SHORT)
    assert main(["decode", str(tmp_path / "other"), file, "--out", f"{out}2"]) == 2
    assert (
        "ddpm decode: the file was made with another network" in capfd.readouterr().err
        and not (tmp_path / "out2").exists()
    )
