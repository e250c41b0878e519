"""Each kind of picture file is read as a person sees it, or refused by name; in memory and streamed alike."""

import ast
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from ddpm_core import data, evaluation, load_checkpoint, load_images, streams
from ddpm_core.cli import main
from ddpm_core.commands.sample import _labels
from ddpm_core.data import class_names, load_labelled
from ddpm_core.evaluation import _pictures, evaluate
from ddpm_core.runtime import pictures
from ddpm_core.runtime.pictures import check_ground, find_images, read_image
from ddpm_core.streams import load_stream
from ddpm_core.training import read_log

SIDE = (4, 6)  # height, width
RAMP = np.linspace(0, 255, 24).round().astype(np.uint8).reshape(SIDE)
COLOURS = np.random.default_rng(0).integers(0, 256, (*SIDE, 3), dtype=np.uint8)


def alike(folder: Path, **reading) -> torch.Tensor:
    """The pictures of a folder, which must be the same in memory and streamed."""
    images, _ = load_images(f"folder:{folder}", **reading)
    stream = load_stream(f"folder:{folder}", len(images), **reading)
    streamed, _ = next(iter(stream))
    key = lambda x: x.numpy().tobytes()
    assert sorted(map(key, images)) == sorted(map(key, streamed))
    assert stream.shape == tuple(images.shape[1:])
    return images


def seen(folder: Path, picture: Image.Image, kind="png", ground=None, **saving):
    """One picture, saved and read in both ways: (C, H, W)."""
    folder.mkdir(exist_ok=True)
    picture.save(folder / f"a.{kind}", **saving)
    (image,) = alike(folder, **({} if ground is None else {"ground": ground}))
    return image.numpy()


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_with(picture: Image.Image, kind: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    whole = file.getvalue()
    return whole[:33] + chunk(kind, content) + whole[33:]


# Transparency


def test_what_cannot_be_seen_is_not_read(tmp_path):
    hidden = Image.new("RGBA", (6, 4), (200, 10, 90, 0))
    assert (seen(tmp_path, hidden) == 255).all()
    black = seen(tmp_path, hidden, ground="black")
    assert black.shape == (3, *SIDE) and (black == 0).all()
    some = seen(tmp_path, hidden, ground=(1, 2, 3))
    assert some[:, 0, 0].tolist() == [1, 2, 3]
    assert (seen(tmp_path, hidden, ground="#ff8800")[1] == 0x88).all()


def test_half_transparent_pixels_are_mixed_with_the_ground(tmp_path):
    half = Image.new("RGBA", (6, 4), (200, 10, 90, 128))
    mixed = seen(tmp_path, half)[:, 0, 0].astype(float)
    right = np.array([200, 10, 90]) * 128 / 255 + 255 * 127 / 255
    assert abs(mixed - right).max() <= 1


@pytest.mark.parametrize("kind", ["png", "webp", "tif"])
def test_opaque_pixels_are_kept(tmp_path, kind):
    rgba = np.dstack([COLOURS, np.full(SIDE, 255, np.uint8)])
    saving = {"lossless": True} if kind == "webp" else {}
    image = seen(tmp_path, Image.fromarray(rgba), kind, ground="red", **saving)
    assert (image == COLOURS.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_grey_with_alpha_stays_grey(tmp_path, kind):
    opaque = Image.fromarray(RAMP)
    opaque.putalpha(255)
    assert opaque.mode == "LA"
    assert (seen(tmp_path, opaque, kind) == RAMP).all()
    assert len(seen(tmp_path, opaque, kind, ground="red")) == 1  # none of it is seen
    opaque.putalpha(0)
    assert (seen(tmp_path, opaque, kind) == 255).all()
    assert len(seen(tmp_path, opaque, kind)) == 1
    red = seen(tmp_path, opaque, kind, ground="red")
    assert red[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "mode, transparent", [("1", 0), ("L", 0), ("P", 0), ("RGB", (0, 0, 0))]
)
def test_a_colour_that_stands_for_nothing(tmp_path, mode, transparent):
    """PNG's tRNS chunk, in each of the modes that may have it."""
    half = np.zeros(SIDE, np.uint8)
    half[:, 3:] = 255
    picture = Image.fromarray(half).convert(mode)
    if mode == "P":
        picture = Image.fromarray((half > 0).astype(np.uint8), "P")
        picture.putpalette([9, 9, 200, 255, 255, 255])
    image = seen(tmp_path, picture, ground=77, transparency=transparent)
    assert (image[..., :3] == 77).all() and (image[..., 3:] == 255).all()
    assert len(image) == (3 if mode == "RGB" else 1)


def test_a_transparent_shade_among_sixteen_bits(tmp_path):
    wide = np.array([[0, 65535], [256, 51400]], np.uint16)
    image = seen(tmp_path, Image.fromarray(wide), transparency=256)
    assert image[0].tolist() == [[0, 255], [255, 200]]


def test_a_gif_with_a_hole(tmp_path):
    picture = Image.fromarray(np.eye(4, dtype=np.uint8), "P")
    picture.putpalette([10, 20, 30, 200, 100, 50])
    image = seen(tmp_path, picture, "gif", ground="black", transparency=0)
    assert image[:, 0, 0].tolist() == [200, 100, 50] and (image[:, 0, 1] == 0).all()


@pytest.mark.parametrize(
    "ground", ["no colour", "#12", "#00000080", -1, 256, (1, 2), 1.5, True, None]
)
def test_a_ground_is_a_colour(tmp_path, ground):
    for call in (load_images, lambda name, ground: load_stream(name, 1, ground=ground)):
        Image.new("L", (4, 4)).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match="ground = .*wanted a colour without"):
            call(f"folder:{tmp_path}", ground=ground)


def test_the_remedies_for_a_ground(tmp_path):
    assert [check_ground(g) for g in ("white", "#ff8800", 7, (1, 2, 3))] == [
        (255, 255, 255),
        (255, 136, 0),
        (7, 7, 7),
        (1, 2, 3),
    ]


# Palettes and depths


def test_a_palette_is_its_colours(tmp_path):
    picture = Image.fromarray(np.eye(4, dtype=np.uint8), "P")
    picture.putpalette([10, 20, 30, 200, 100, 50])
    image = seen(tmp_path, picture)
    assert image[:, 0, 0].tolist() == [200, 100, 50]
    assert image[:, 0, 1].tolist() == [10, 20, 30]


def test_a_palette_of_greys_is_grey_whatever_it_does_not_use(tmp_path):
    picture = Image.fromarray(np.eye(4, dtype=np.uint8), "P")
    picture.putpalette([40, 40, 40, 90, 90, 90, 255, 0, 0])
    assert (seen(tmp_path, picture) == 40 + 50 * np.eye(4)).all()


def test_one_bit(tmp_path):
    for kind in ("png", "bmp", "tif", "gif"):
        folder = tmp_path / kind
        image = seen(folder, Image.fromarray(np.eye(4, dtype=bool)), kind)
        assert image.shape == (1, 4, 4) and (image[0] == 255 * np.eye(4)).all()


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits_keep_their_shades(tmp_path, kind):
    wide = RAMP.astype(np.uint16) * 257
    assert (seen(tmp_path, Image.fromarray(wide), kind) == RAMP).all()


def tiff(values: np.ndarray, bits: int, white_is_zero: bool, form: int = 1) -> bytes:
    """A grey TIFF of one strip, written by hand: PIL writes only some of its kinds."""
    height, width = values.shape
    if bits == 12:  # two values in three bytes
        v = values.reshape(-1, 2).astype(int)
        raw = np.stack(
            [v[:, 0] >> 4, (v[:, 0] & 15) << 4 | v[:, 1] >> 8, v[:, 1] & 255], 1
        ).astype(np.uint8)
    else:
        raw = values.astype({8: "u1", 16: "<u2"}[bits])
    strip = raw.tobytes()
    entries = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, 0 if white_is_zero else 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(strip)),
        (339, form),
    ]
    strip += b"\0" * (len(strip) % 2)
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries
    )
    return (
        struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + directory + b"\0" * 4
    )


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_greys_of_a_tiff(tmp_path, bits, white_is_zero):
    if (bits, white_is_zero) == (12, True):
        pytest.skip("PIL reads none")
    values = (RAMP / 255 * (2**bits - 1)).round().astype(int)
    (tmp_path / "a.tif").write_bytes(tiff(values, bits, white_is_zero))
    (image,) = alike(tmp_path).numpy()
    assert (image == (255 - RAMP if white_is_zero else RAMP)).all()


@pytest.mark.parametrize(
    "picture, said",
    [
        (np.ones(SIDE, np.float32), "it holds floats, and does not say which of them"),
        (np.ones(SIDE, np.int32), "it holds whole numbers of 32 bits, or with sign"),
    ],
    ids=["float", "int32"],
)
def test_depths_that_say_too_little_are_refused_by_name(tmp_path, picture, said):
    Image.fromarray(picture).save(tmp_path / "a.tif")
    for call in (load_images, lambda name: load_stream(name, 1)):
        with pytest.raises(ValueError, match=rf"a.tif cannot be .*{said}"):
            call(f"folder:{tmp_path}")


def test_a_tiff_with_signs_is_refused(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(RAMP, 16, False, form=2))
    with pytest.raises(ValueError, match="a.tif cannot be read .*with sign"):
        load_images(f"folder:{tmp_path}")


def test_a_portable_graymap_in_a_row_of_a_data_set():
    """10 bits: PIL scales them to 16, in a mode that may hold 32."""
    values = np.array([[0, 1023], [512, 256]], ">u2")
    row = {"bytes": b"P5 2 2 1023\n" + values.tobytes(), "path": None}
    picture = read_image(row, "row 0")
    assert picture.mode == "L"
    assert abs(np.asarray(picture) - values / 1023 * 255).max() <= 1


# Colour spaces


def test_cmyk_is_colour(tmp_path):
    inks = Image.new("CMYK", (6, 4), (255, 0, 0, 0))
    for kind in ("jpg", "tif"):
        red, green, blue = seen(tmp_path / kind, inks, kind)[:, 2, 2]
        assert red < 60 and green > 100 and blue > 150  # cyan


def test_lab_is_colour(tmp_path):
    red, green, blue = seen(tmp_path, Image.new("LAB", (6, 4), (128, 200, 128)), "tif")[
        :, 2, 2
    ]
    assert red > green + 60  # a > 0


def profile(matrix: list[tuple[float, float, float]], gamma: float | None) -> bytes:
    """An ICC profile of three primaries (XYZ, D50) and one curve, written by hand.

    gamma  of it; None: sRGB's own curve, in 256 points
    """
    fixed = lambda v: struct.pack(">i", round(v * 65536))
    xyz = lambda v: b"XYZ \0\0\0\0" + b"".join(map(fixed, v))
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78
    if gamma is None:
        v = np.arange(256) / 255
        light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
        points = (light * 65535).round().astype(">u2").tobytes()
        curve = b"curv\0\0\0\0" + struct.pack(">I", 256) + points
    else:
        curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = (0.9642, 1.0, 0.8249)
    tags = [(b"desc", text + b"\0" * (-len(text) % 4)), (b"wtpt", xyz(white))]
    tags += [(n, xyz(v)) for n, v in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix)]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, content in tags:
        table += name + struct.pack(">II", at + len(body), len(content))
        body += content
    header = bytearray(128)
    header[4:24] = b"\0\0\0\0\x02\x10\0\0mntrRGB XYZ "
    header[36:40] = b"acsp"
    header[68:80] = b"".join(map(fixed, white))
    whole = bytes(header) + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


SRGB = [(0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]
SWAPPED = [SRGB[1], SRGB[0], SRGB[2]]  # what is red in the file is green to the eye


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_colour_profile_is_followed(tmp_path, kind, mode):
    if (kind, mode) in (("jpg", "RGBA"), ("jpg", "P"), ("webp", "P")):
        pytest.skip("no such file")
    picture = Image.new("RGB", (16, 16), (255, 0, 0)).convert(mode)
    saving = {"quality": 95} if kind == "jpg" else {}
    if kind == "webp":
        saving["lossless"] = True
    saving["icc_profile"] = profile(SWAPPED, 2.2)
    red, green, blue = seen(tmp_path, picture, kind, **saving)[:, 8, 8]
    assert green > 250 and red < 30 and blue < 30


def test_sRGB_itself_changes_nothing(tmp_path):
    """... in any of its editions, some of which a conversion would change by a level."""
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = profile([tuple(v - 0.0003 for v in p) for p in SRGB], None)
    for icc in (own, other):
        image = seen(tmp_path, Image.fromarray(COLOURS), icc_profile=icc)
        assert (image == COLOURS.transpose(2, 0, 1)).all()
    converted = ImageCms.profileToProfile(
        Image.fromarray(COLOURS),
        ImageCms.ImageCmsProfile(io.BytesIO(other)),
        ImageCms.createProfile("sRGB"),
    )
    apart = abs(np.asarray(converted, int) - COLOURS).max()
    assert 0 < apart <= 2  # or the test says nothing
    image = seen(tmp_path, Image.fromarray(COLOURS), icc_profile=profile(SRGB, 1.8))
    assert abs(image.astype(int) - COLOURS.transpose(2, 0, 1)).max() > 9


def test_a_grey_picture_with_a_profile_stays_grey(tmp_path):
    image = seen(tmp_path, Image.fromarray(RAMP), icc_profile=profile(SRGB, 1.0))
    light = (RAMP / 255).astype(float)  # gamma 1: the values are light itself
    right = np.where(
        light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055
    )
    assert image.shape == (1, *SIDE) and abs(image[0] - 255 * right).max() <= 3


@pytest.mark.parametrize("broken", [b"no profile", profile(SRGB, 2.2)[:200]])
def test_a_profile_that_cannot_be_used_is_told(tmp_path, broken):
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=broken)
    with pytest.warns(UserWarning, match="a.png: its colour profile cannot be used"):
        image = read_image(tmp_path / "a.png", "a.png")
    assert (np.asarray(image) == COLOURS).all()


def test_a_profile_for_other_pixels_is_told(tmp_path):
    Image.new("CMYK", (6, 4), (255, 0, 0, 0)).save(
        tmp_path / "a.jpg", icc_profile=profile(SRGB, 2.2)
    )
    with pytest.warns(UserWarning, match="it is for RGB, the pixels are CMYK"):
        assert read_image(tmp_path / "a.jpg", "a.jpg").mode == "RGB"


def test_the_gamma_of_a_png(tmp_path):
    values = Image.fromarray(RAMP)
    gamma = lambda g: png_with(values, b"gAMA", struct.pack(">I", round(g * 100_000)))
    (tmp_path / "a.png").write_bytes(gamma(1))
    (image,) = alike(tmp_path).numpy()
    assert abs(image - 255 * (RAMP / 255) ** (1 / 2.2)).max() <= 1
    (tmp_path / "a.png").write_bytes(gamma(1 / 2.2))
    assert (alike(tmp_path)[0].numpy() == RAMP).all()


# Orientation and frames


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "webp"])
def test_all_eight_orientations(tmp_path, kind, turned):
    upright = np.zeros((32, 48), np.uint8)
    upright[:16, :16], upright[16:, 32:] = 255, 128
    camera = {  # what the sensor saw, so that the EXIF tag sets it upright again
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[turned]
    exif = Image.Exif()
    exif[0x0112] = turned
    saving = {"exif": exif} | ({"quality": 95} if kind == "jpg" else {})
    if kind == "webp":
        saving["lossless"] = True
    image = seen(tmp_path, Image.fromarray(camera.copy()), kind, **saving)
    assert image.shape[1:] == (32, 48)
    assert abs(image[0].astype(int) - upright).mean() < 3


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_of_several_frames_the_first_is_taken_and_that_is_said(tmp_path, kind):
    first, second = (Image.new("RGB", (8, 8), (v, v, 99)) for v in (10, 200))
    more = {"lossless": True} if kind == "webp" else {}
    first.save(
        tmp_path / f"a.{kind}", save_all=True, append_images=[second, first], **more
    )
    with pytest.warns(UserWarning, match=rf"a.{kind} has 3 frames or pages; the first"):
        (image,) = alike(tmp_path)
    assert abs(int(image[0, 0, 0]) - 10) <= 1


# What is in a folder


def write(path: Path, value: int = 7, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (5, 4), value).save(path, "PNG")


def values(folder: Path, **reading) -> list[int]:
    return alike(folder, **reading)[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    "litter, why",
    [
        (".ipynb_checkpoints/a-checkpoint.png", r"1 hidden \(a-checkpoint.png\)"),
        ("._000.png", r"1 hidden \(._000.png\)"),
        (".DS_Store", "1 hidden"),
        (".thumbnails/normal/a.png", "1 hidden"),
        ("Thumbs.db", "1 the system's own"),
        ("desktop.ini", "1 the system's own"),
        ("__MACOSX/x/a.png", "1 the system's own"),
        ("@eaDir/a.png/b.jpg", "1 the system's own"),
        ("notes.txt", r"1 ending in .txt \(notes.txt\)"),
        ("LICENSE", r"1 without an ending \(LICENSE\)"),
        ("sub/.hidden.jpg", "1 hidden"),
    ],
)
def test_litter_is_no_picture_and_is_counted(tmp_path, litter, why):
    write(tmp_path / "a.png")
    write(tmp_path / litter, 99)
    with pytest.warns(UserWarning, match=rf"1 picture; skipped: {why}"):
        assert values(tmp_path) == [7]


def test_a_folder_without_litter_is_silent(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "sub" / "b.PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert values(tmp_path) == [7, 7]


def test_many_skipped_files_are_one_line(tmp_path):
    write(tmp_path / "a.png")
    for i in range(5):
        write(tmp_path / f"._{i}.png")
        (tmp_path / f"{i}.txt").write_text("")
    with pytest.warns(UserWarning) as told:
        load_images(f"folder:{tmp_path}")
    (line,) = (str(w.message) for w in told)
    assert line.endswith(
        "1 picture; skipped: 5 hidden (._0.png, ...), 5 ending in .txt (0.txt, ...)"
    )


def test_a_folder_of_litter_only_says_so(tmp_path):
    write(tmp_path / "._000.png")
    with pytest.raises(
        FileNotFoundError, match=r"contains no images; .*there are 1 hidden \(._000"
    ):
        load_images(f"folder:{tmp_path}")


def test_a_hidden_folder_may_be_named_itself(tmp_path):
    write(tmp_path / ".cache" / "a.png")
    assert values(tmp_path / ".cache") == [7]


def test_linked_folders_are_followed(tmp_path):
    write(tmp_path / "elsewhere" / "deep" / "a.png", 9)
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert values(folder) == [9]
    (folder / "b.png").symlink_to(tmp_path / "elsewhere" / "deep" / "a.png")
    assert values(folder) == [9, 9]
    (tmp_path / "itself").symlink_to(folder)
    assert values(tmp_path / "itself") == [9, 9]


def test_links_in_a_circle_and_to_nothing(tmp_path):
    write(tmp_path / "sub" / "a.png")
    (tmp_path / "sub" / "up").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.warns(
        UserWarning,
        match=r"1 picture; skipped: 1 linked to nothing \(gone\), 1 linked in a circle",
    ):
        assert values(tmp_path) == [7]
    (tmp_path / "gone").unlink()
    (tmp_path / "sub" / "up").unlink()
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="b.png cannot be read as an image"):
        load_images(f"folder:{tmp_path}")


# One folder a class


@pytest.fixture
def classes(tmp_path):
    for i, name in enumerate(["owl", "Cat", "10", "2"]):
        for k in range(3):
            deep = "deep" if k else ""
            write(tmp_path / "classes" / name / deep / f"{k}.png", 10 * i + k)
    return tmp_path / "classes"


def test_one_folder_a_class_makes_labels(classes):
    """In the order of torchvision's ImageFolder: that of Python's strings."""
    names = ("10", "2", "Cat", "owl")
    assert class_names(f"folder:{classes}") == names
    images, labels, found = load_labelled(f"folder:{classes}")
    assert found == names and labels.dtype == torch.int64
    value = {"owl": 0, "Cat": 1, "10": 2, "2": 3}
    right = [value[names[y]] for y in labels]
    assert (images[:, 0, 0, 0] // 10).tolist() == right
    stream = load_stream(f"folder:{classes}", 5)
    assert stream.classes == 4 and stream.names == list(names)
    for _, (x, y) in zip(range(6), stream):
        assert (x[:, 0, 0, 0] // 10).tolist() == [value[names[i]] for i in y]


def test_labels_can_be_left_out(classes):
    assert load_images(f"folder:{classes}", labels=False)[1] is None
    stream = load_stream(f"folder:{classes}", 5, labels=False)
    assert stream.classes is None and next(iter(stream))[1] is None
    assert load_images("fashion-mnist", "test", labels=False)[1] is None
    assert load_images(f"lsun-cat-256:{classes}", size=4)[1] is None  # it has none


def test_an_unreadable_picture_takes_its_label_along(classes):
    (classes / "10" / "deep" / "2.png").write_text("no image")  # next: another class
    with pytest.warns(UserWarning, match="left out"):
        images, labels = load_images(f"folder:{classes}", skip_unreadable=True)
    value = [2, 3, 1, 0]
    assert len(images) == 11
    assert (images[:, 0, 0, 0] // 10).tolist() == [value[y] for y in labels]
    with pytest.warns(UserWarning, match="left out"):
        stream = load_stream(f"folder:{classes}", 12, skip_unreadable=True)
        x, y = next(iter(stream))
    assert (x[:, 0, 0, 0] // 10).tolist() == [value[i] for i in y]


def test_pictures_beside_the_folders_are_told(classes):
    write(classes / "a.png")
    with pytest.warns(
        UserWarning, match="has no labels: a.png lies beside the folders"
    ):
        assert load_images(f"folder:{classes}")[1] is None
    with pytest.warns(UserWarning, match="has no labels: a.png lies beside"):
        assert load_stream(f"folder:{classes}", 2).classes is None
    (classes / "a.png").unlink()  # the remedy
    assert load_images(f"folder:{classes}")[1] is not None


def test_parts_of_a_data_set_are_no_classes(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "owl"):
            write(tmp_path / part / name / "a.png")
    with pytest.warns(UserWarning, match="test, train are taken for parts.* name one"):
        assert load_images(f"folder:{tmp_path}")[1] is None
    assert class_names(f"folder:{tmp_path / 'train'}") == ("cat", "owl")  # the remedy


def test_a_single_folder_is_no_class(tmp_path):
    write(tmp_path / "images" / "a.png")
    assert load_images(f"folder:{tmp_path}")[1] is None
    assert class_names(f"folder:{tmp_path}") is None


def test_an_empty_or_hidden_folder_is_no_class(classes):
    (classes / "empty").mkdir()
    write(classes / ".ipynb_checkpoints" / "a.png")
    with pytest.warns(UserWarning, match="1 hidden"):
        labels = load_images(f"folder:{classes}")[1]
    assert labels.max() == 3


# The hub


def rows(folder: Path, labels: list, kind=None, column: str = "label") -> str:
    from datasets import Dataset, Features, Value, config
    from datasets import Image as Picture

    config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0.1  # seconds; 5 after each look otherwise
    kind = kind or Value("string" if isinstance(labels[0], str) else "int64")
    content = []
    for i, y in enumerate(labels):
        file = io.BytesIO()
        Image.new("RGBA", (4, 4), (i, 0, 0, 255 if i else 0)).save(file, "PNG")
        content.append({"image": {"bytes": file.getvalue(), "path": None}, column: y})
    features = Features({"image": Picture(), column: kind})
    (folder / "rows").mkdir(parents=True)
    Dataset.from_list(content, features=features).to_parquet(
        folder / "rows" / "train.parquet"
    )
    return f"hub:{folder / 'rows'}"


def test_class_names_of_the_hub_are_kept(tmp_path):
    from datasets import ClassLabel

    name = rows(tmp_path, [2, 0, 1], ClassLabel(names=["cat", "dog", "owl"]))
    images, labels, names = load_labelled(name)
    assert names == ("cat", "dog", "owl") and labels.tolist() == [2, 0, 1]
    assert class_names(name) == names == tuple(load_stream(name, 1).names)
    assert load_labelled(name, labels=False)[1:] == (None, None)
    assert images[0, :, 0, 0].tolist() == [255, 255, 255]  # transparent
    black = load_images(name, ground="black")[0]
    assert black[0].max() == 0 and black[1, 0, 0, 0] == 1
    key = lambda x: x.numpy().tobytes()
    streamed, _ = next(iter(load_stream(name, 3, ground="black")))
    assert sorted(map(key, streamed)) == sorted(map(key, black))


def test_labels_that_are_words_or_numbers(tmp_path):
    words = load_labelled(rows(tmp_path / "words", ["owl", "cat", "owl"]))
    assert words.classes == ("cat", "owl") and words.labels.tolist() == [1, 0, 1]
    numbers = load_labelled(rows(tmp_path / "numbers", [4, 0, 1]))
    assert numbers.classes is None and numbers.labels.tolist() == [4, 0, 1]
    nothing = load_labelled(rows(tmp_path / "nothing", [-1, -1]))  # an unlabelled split
    assert nothing.labels is None
    name = rows(tmp_path / "some", [3, -1, 0])
    with pytest.raises(ValueError, match=r"label = -1 \(image 1 .*labels=False"):
        load_images(name)
    assert load_images(name, labels=False)[1] is None  # the remedy


def test_rows_without_a_label_in_a_stream(tmp_path):
    from datasets import ClassLabel

    name = rows(tmp_path, [1, -1, 0], ClassLabel(names=["cat", "dog"]))
    with pytest.raises(ValueError, match=r"row 1 .*label = -1; .*labels=False"):
        next(iter(load_stream(name, 3)))
    assert next(iter(load_stream(name, 3, labels=False)))[1] is None  # the remedy


def test_a_stream_says_that_it_leaves_plain_numbers_out(tmp_path):
    name = rows(tmp_path, [0, 1])
    with pytest.warns(UserWarning, match="labels in its column label have no names"):
        assert load_stream(name, 2).classes is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_stream(name, 2, labels=False)


# Grey or colour: the remedies of the errors are tried


def test_grey_and_colour_together(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png", 9, "RGB")
    name = f"folder:{tmp_path}"
    assert load_images(name)[0].shape[1] == 3  # in memory all can be looked at first
    with pytest.raises(ValueError, match=r"grey=False \(--no-grey\).*\(--grey\)"):
        next(iter(load_stream(name, 2)))
    for grey, channels in ((True, 1), (False, 3)):
        assert alike(tmp_path, grey=grey).shape == (2, channels, 4, 5)


def test_a_grey_folder_in_colour(tmp_path):
    write(tmp_path / "a.png")
    assert alike(tmp_path, grey=False).shape[1] == 3
    assert alike(tmp_path, grey=False, size=2).shape[1:] == (3, 2, 2)


TRAIN = (
    "train --steps 1 --multipliers 1 --attention --T 4 --batch-size 4 --width 8 "
    "--device cpu --precision float32 --no-flip"
).split()


@pytest.mark.parametrize("how", [[], ["--stream"]], ids=["memory", "streamed"])
def test_ddpm_train_knows_classes_and_remedies(tmp_path, classes, how, capfd):
    for path in classes.rglob("*.png"):
        Image.open(path).resize((4, 4)).save(path)
    command = [*TRAIN, *how, "--data", f"folder:{classes}"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    made = load_checkpoint(tmp_path / "run")
    assert made.info["classes"] == ["10", "2", "Cat", "owl"]
    assert made.model.classes == 4 and "reading" not in made.info
    sample = ["sample", str(tmp_path / "run"), "-n", "2", "--out", f"{tmp_path}/a.png"]
    assert main([*sample, "--labels", "owl", "cat"]) == 0
    assert main([*sample, "--labels", "lynx"]) == 2
    assert "wanted 0 to 3 or 10, 2, Cat, owl" in capfd.readouterr().err
    more = ["--unconditional", "--no-grey", "--ground", "black"]
    assert main([*command, "--out", str(tmp_path / "colour"), *more]) == 0
    made = load_checkpoint(tmp_path / "colour")
    assert made.model.classes is None and made.info["shape"] == [3, 4, 4]
    assert made.info["reading"] == {"grey": False, "ground": "black"}
    assert main([*command, "--out", f"{tmp_path}/x", "--ground", "invisible"]) == 2
    assert "ground = 'invisible'" in capfd.readouterr().err


def test_a_label_is_a_name_before_it_is_a_number():
    names = ["10", "2", "Cat", "cat"]
    asked = ["2", "cat", "Cat", "CAT", "1", "10"]
    assert _labels(asked, names, 4, 6).tolist() == [1, 3, 2, 3, 1, 0]


# The house


def test_the_cellar_knows_nothing_above_it():
    for file in Path(pictures.__file__).parent.glob("pictures.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level < 2 and not (node.module or "").startswith("ddpm")


def test_old_import_paths_go_on_working():
    for name in ("SUFFIXES", "list_images", "read_image", "is_grey", "fit"):
        assert getattr(data, name) is getattr(pictures, name)
    for name in ("to_tensor", "check_size", "too_large"):
        assert getattr(data, name) is getattr(pictures, name)
        assert getattr(streams, name) is getattr(pictures, name)


def test_pictures_are_found_in_the_order_of_their_names(tmp_path):
    for name in ("b.png", "a.PNG", "sub/c.png"):
        write(tmp_path / name)
    found = find_images(tmp_path).paths
    assert [os.path.relpath(p, tmp_path) for p in found] == [
        "a.PNG",
        "b.png",
        os.path.join("sub", "c.png"),
    ]


# What was trained on pictures is measured on pictures read alike


@pytest.fixture
def run(classes, tmp_path):
    for path in classes.rglob("*.png"):
        Image.open(path).resize((4, 4)).convert("RGB").save(path)
    command = [*TRAIN, "--data", f"folder:{classes}", "--grey", "--ground", "black"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_an_evaluation_reads_as_the_training_did(run, classes):
    checkpoint = load_checkpoint(run)
    images, labels = _pictures(f"folder:{classes}", "train", checkpoint)
    assert images.shape == (12, 1, 4, 4)  # --grey is remembered
    trained, numbers = load_images(f"folder:{classes}", grey=True, ground="black")
    assert torch.equal(images, trained) and torch.equal(labels, numbers)
    result = evaluate(
        run, unseen=f"folder:{classes}", features="none", bound=2, evaluations=4
    )
    assert result["bits_per_dim"]["test"]["given"] == "label"


def test_labels_of_unseen_pictures_are_matched_by_name(run, classes, tmp_path):
    """Another folder, with other classes missing, numbers its own from 0 on."""
    for name in ("owl", "2"):
        write(tmp_path / "unseen" / name / "a.png")
    some = f"folder:{tmp_path / 'unseen'}"
    assert class_names(some) == ("2", "owl")
    checkpoint = load_checkpoint(run)
    assert _pictures(some, "train", checkpoint)[1].tolist() == [1, 3]
    write(tmp_path / "unseen" / "lynx" / "a.png")
    with pytest.raises(
        ValueError, match="class 'lynx', which the network has not been"
    ):
        evaluate(run, unseen=some, features="none", bound=2, evaluations=4)


def test_too_few_pictures_are_refused_before_any_is_drawn(run, tmp_path, monkeypatch):
    write(tmp_path / "one" / "a.png")
    monkeypatch.setattr(evaluation, "draw", None)  # would be called
    how = evaluation.Sampling(n=4)
    with pytest.raises(ValueError, match="12 pictures of .* and 1 of .*at least 2"):
        evaluate(run, how, unseen=f"folder:{tmp_path / 'one'}", features="inception")
    result = evaluate(  # the remedy
        run,
        how,
        unseen=f"folder:{tmp_path / 'classes'}",
        features="none",
        bound=2,
        evaluations=4,
    )
    assert "frechet" not in result


def test_ddpm_encode_reads_as_the_training_did(run, classes, tmp_path):
    pytest.importorskip("constriction")
    Image.new("RGBA", (4, 4), (9, 9, 9, 0)).save(classes / "2" / "0.png")
    file, out = str(tmp_path / "a.bits"), tmp_path / "out"
    data = ["--data", f"folder:{classes}", "-n", "4"]
    assert main(["encode", str(run), *data, "--out", file, "--steps", "2"]) == 0
    assert main(["decode", str(run), file, "--out", str(out)]) == 0
    back, _ = load_images(f"folder:{out}")
    sent, _ = load_images(f"folder:{classes}", grey=True, ground="black")
    assert torch.equal(back, sent[:4]) and (sent[3] == 0).all()


def test_a_byte_order_mark_is_no_damage_anywhere(run):
    """Editors of some systems put it before a text."""
    checkpoint = load_checkpoint(run)
    (run / "log.jsonl").write_text('{"step": 1}\n')
    for file in (checkpoint.path / "checkpoint.json", run / "log.jsonl"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load_checkpoint(run).info == checkpoint.info
    assert read_log(run / "log.jsonl") == [{"step": 1}]
