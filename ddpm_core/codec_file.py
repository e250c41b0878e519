"""The files of the codec: a header, the length of each picture's message, the messages,
a checksum."""

import struct
import zlib
from dataclasses import dataclass

import numpy as np

# fingerprint, steps, bits, lossless, t, seed; images, C, H, W; checksum of the pictures
MAGIC, HEADER = (b"DDPMC1", "<8sBBBHIIBHHI")
# noise pictures a step, as a power of two: from one block to what a patient sender
# makes
BITS = (6, 20)


@dataclass(frozen=True)
class About:
    """What stands at the head of a file."""

    fingerprint: bytes  # of the network and its schedule
    steps: int
    bits: int
    lossless: bool
    t: int
    seed: int
    shape: tuple[int, int, int, int]  # B, C, H, W
    checksum: int  # of the pictures
    messages: list[bytes]  # one a picture


def read_header(data: bytes) -> About:
    """What a file says about itself, without the network. Raises ValueError if it is
    truncated, damaged or foreign.
    """
    start = len(MAGIC) + struct.calcsize(HEADER)
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(
            f"the data begin with {data[: len(MAGIC)]!r}; wanted {MAGIC!r}, a file that"
            " `ddpm encode` made"
        )
    if (
        len(data) < start + 4
        or zlib.crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]
    ):
        raise ValueError(
            f"the file ({len(data)} bytes) is truncated or damaged: its checksum does"
            " not fit; take another copy"
        )
    mark, steps, bits, lossless, t, seed, B, C, H, W, checksum = struct.unpack(
        HEADER, data[len(MAGIC) : start]
    )
    lengths = [
        int.from_bytes(data[at : at + 3], "little")
        for at in range(start, min(start + 3 * B, len(data) - 4), 3)
    ]
    if (
        len(lengths) != B
        or start + 3 * B + sum(lengths) + 4 != len(data)
        or not (BITS[0] <= bits <= BITS[1] and steps >= 2 and B and lossless < 2)
    ):
        raise ValueError(
            f"the file says that it holds {B} pictures, and has {len(data)} bytes,"
            " which do not fit; it is damaged: take another copy"
        )
    ends = np.cumsum([start + 3 * B, *lengths]).tolist()
    messages = [data[first:last] for first, last in zip(ends, ends[1:])]
    return About(
        mark, steps, bits, bool(lossless), t, seed, (B, C, H, W), checksum, messages
    )


def write(about: About) -> bytes:
    """The bytes that read_header takes apart again."""
    head = MAGIC + struct.pack(
        HEADER,
        about.fingerprint,
        about.steps,
        about.bits,
        about.lossless,
        about.t,
        about.seed,
        *about.shape,
        about.checksum,
    )
    lengths = [len(message).to_bytes(3, "little") for message in about.messages]
    body = head + b"".join(lengths) + b"".join(about.messages)
    return body + struct.pack("<I", zlib.crc32(body))
