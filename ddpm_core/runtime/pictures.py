"""Picture files as a person sees them: found in a folder, read, brought to 8 bits.

read_image answers with "L" (grey) or "RGB" in sRGB, whatever the file holds. What a
file says of its pixels is followed, or the file is refused by name:

    transparency        laid over a ground, white unless said otherwise; what is opaque
                        keeps its pixels, and grey with alpha stays grey
    palette             its colours; grey if all that are seen are grey
    other depths of grey  1 to 16 bits scaled to 8; "white is zero" undone
    16 bits a colour    the upper 8 of them, which is all that PIL hands out
    32 bits, floats     refused: the file does not say which number is white
    turned or mirrored  set upright (EXIF)
    colour profile      converted to sRGB, from CMYK and Lab, too; likewise gamma
    several frames      the first of them, with a warning
"""

import io
import os
import warnings
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SYSTEM = {  # what operating systems put beside a user's files; others begin with a dot
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
}
Ground = str | int | tuple[int, int, int]
WHITE: Ground = "white"


class Found(NamedTuple):
    """The picture files below a folder, in the order of names, and what is none."""

    folder: Path
    paths: list[Path]
    skipped: list[tuple[str, Path]]  # why, what

    def note(self) -> str:
        """How many files were skipped, and why; "" if none."""
        counts = Counter(why for why, _ in self.skipped)
        first = {why: path.name for why, path in reversed(self.skipped)}
        return ", ".join(
            f"{n} {why} ({first[why]}{', ...' if n > 1 else ''})"
            for why, n in counts.items()
        )


def find_images(folder: Path) -> Found:
    """All image files below a folder, hidden ones and the system's litter left out.

    Linked folders are followed, but not in a circle. Raises FileNotFoundError where
    there is no folder or no picture in it, and says what else is there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder; wanted a folder with images "
            f"({', '.join(SUFFIXES)})"
        )
    found = Found(folder, [], [])
    _search(folder, found, ())
    found.paths.sort()
    if not found.paths:
        note = found.note()
        raise FileNotFoundError(
            f"{folder} contains no images; wanted files that end in "
            f"{', '.join(SUFFIXES)}" + (f"; there are {note}" if note else "")
        )
    return found


def _search(folder: Path, found: Found, above: tuple[str, ...]) -> None:
    here = os.path.realpath(folder)
    if here in above:
        found.skipped.append(("linked in a circle", folder))
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            found.skipped.extend(("hidden", file) for file in _inside(path))
        elif path.name.lower() in SYSTEM:
            found.skipped.extend(("the system's own", file) for file in _inside(path))
        elif path.is_dir():
            _search(path, found, (*above, here))
        elif path.suffix.lower() in SUFFIXES:  # a broken link, too: reading it names it
            found.paths.append(path)
        elif not path.exists():
            found.skipped.append(("linked to nothing", path))
        else:
            kind = f"ending in {path.suffix}" if path.suffix else "without an ending"
            found.skipped.append((kind, path))


def _inside(path: Path) -> list[Path]:
    """The file itself, or the files in a folder; a linked one counts as one."""
    if path.is_symlink() or not path.is_dir():
        return [path]
    return [Path(at) / name for at, _, files in os.walk(path) for name in files]


def list_images(folder: Path) -> list[Path]:
    """The picture files below a folder, as find_images finds them."""
    return find_images(folder).paths


def folder_labels(found: Found) -> tuple[tuple[str, ...], list[int]] | None:
    """One folder a class: their names in order, and each picture's number among them.

    None if the pictures are not so arranged: all in one folder, or some of them beside
    the folders. What looks like classes and is not taken for them is told by a warning.
    """
    splits = {"train", "test", "val", "valid", "validation"}
    firsts = [path.relative_to(found.folder).parts for path in found.paths]
    names = sorted({parts[0] for parts in firsts if len(parts) > 1})
    if len(names) < 2:
        return None
    if loose := [parts[0] for parts in firsts if len(parts) == 1]:
        reason = (
            f"{loose[0]} lies beside the folders {_some(names)}; wanted one folder a "
            "class and no picture beside them"
        )
    elif {name.lower() for name in names} <= splits:
        reason = (
            f"{_some(names)} are taken for parts of a data set, not for classes; name "
            f"one of them, such as folder:{found.folder / names[-1]}"
        )
    else:
        number = {name: i for i, name in enumerate(names)}
        return tuple(names), [number[parts[0]] for parts in firsts]
    warnings.warn(f"{found.folder} has no labels: {reason}", stacklevel=3)
    return None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def check_ground(ground: Ground) -> tuple[int, int, int]:
    """A colour as red, green and blue, 0 to 255 each.

    ground  its name ("white"), "#ff8800", one number for a grey, or three numbers
    Raises ValueError for anything else.
    """
    from PIL import ImageColor

    values: Any = ground
    if isinstance(ground, str):
        try:
            values = ImageColor.getrgb(ground)
        except ValueError:
            values = None
    elif isinstance(ground, int):
        values = (ground,) * 3
    if (
        not isinstance(values, (tuple, list))
        or len(values) != 3
        or any(isinstance(v, bool) or not isinstance(v, int) for v in values)
        or not all(0 <= v <= 255 for v in values)
    ):
        raise ValueError(
            f"ground = {ground!r}; wanted a colour without transparency: "
            '"white", "#ff8800", one number or three from 0 to 255'
        )
    red, green, blue = values
    return red, green, blue


def read_image(
    source: "Path | dict[str, Any]", name: str, ground: Ground = WHITE
) -> "Picture":
    """A picture as a person sees it, upright, in 8 bits: mode "L" or "RGB" (sRGB).

    source  a file, or the row {"bytes": ..., "path": ...} of a data set
    name    what errors call it      ground  what transparent pixels let through
    Raises ValueError, which names it, for what cannot be read or says too little of its
    pixels. Warns of what is left out: frames after the first, an unusable profile.
    """
    from PIL import Image

    ground = check_ground(ground)
    try:
        content = None if isinstance(source, Path) else source["bytes"]
        if content is None:
            path = source if isinstance(source, Path) else source["path"]
            content = Path(path).read_bytes()
        # From memory: given a path, PIL maps a turned TIFF with its sides exchanged.
        with Image.open(io.BytesIO(content)) as picture:
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format != "MPO":  # a photograph and its previews
                warnings.warn(
                    f"{name} has {frames} frames or pages; the first is taken",
                    stacklevel=2,
                )
            return _seen(picture, name, ground)
    except Exception as error:  # a damaged file may raise anything
        raise ValueError(
            f"{name} cannot be read as an image ({error}); mend or remove it, or "
            "skip_unreadable=True (--skip-unreadable)"
        ) from error


def _seen(picture: "Picture", name: str, ground: tuple[int, int, int]) -> "Picture":
    from PIL import Image, ImageOps

    info, palette = picture.info, picture.mode in ("P", "PA")
    deep = picture.mode in ("I", "F") or picture.mode.startswith("I;16")
    scale = _scale_of(picture) if deep else (1, False)
    picture = ImageOps.exif_transpose(picture)

    alpha: Picture | None = None
    if deep:
        picture, alpha = _eight_bit(picture, *scale, info.get("transparency"))
    elif "transparency" in info or picture.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        grey = picture.mode in ("1", "L", "LA", "La")
        picture = picture.convert("LA" if grey else "RGBA")
        alpha = picture.getchannel("A")
        picture = picture.convert("L" if grey else "RGB")
    elif picture.mode in ("1", "L"):
        picture = picture.convert("L")
    elif picture.mode not in ("CMYK", "LAB"):
        picture = picture.convert("RGB")

    if profile := info.get("icc_profile"):
        picture = _in_srgb(picture, profile, name)
    elif "gamma" in info and "srgb" not in info and picture.mode in ("L", "RGB"):
        picture = _in_gamma(picture, info["gamma"])
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")

    if alpha is not None and alpha.getextrema() != (255, 255):
        if picture.mode == "L" and len(set(ground)) > 1:
            picture = picture.convert("RGB")
        below: Any = ground if picture.mode == "RGB" else ground[0]
        under = Image.new(picture.mode, picture.size, below)
        under.paste(picture, mask=alpha)
        picture = under
    if palette and picture.mode == "RGB":
        colours: Any = picture.getcolors(picture.width * picture.height)
        if all(red == green == blue for _, (red, green, blue) in colours):
            picture = picture.getchannel(0)
    return picture


def _scale_of(picture: "Picture") -> tuple[int, bool]:
    """What is white in a grey picture of more than 8 bits, and whether it is black."""
    tags: Any = getattr(picture, "tag_v2", {})
    if picture.mode.startswith("I;16"):
        bits = tags.get(258, (16,))  # a TIFF of 12 bits comes in the same mode
        return 2 ** (bits[0] if isinstance(bits, tuple) else bits) - 1, (
            tags.get(262) == 0  # "white is zero"
        )
    if picture.mode == "I" and picture.format in ("PNG", "PPM"):  # scaled to 16 by PIL
        return 65535, False
    kind = "floats" if picture.mode == "F" else "whole numbers of 32 bits, or with sign"
    raise ValueError(
        f"it holds {kind}, and does not say which of them is white; "
        "wanted 8 or 16 bits without sign"
    )


def _eight_bit(
    picture: "Picture", white: int, inverted: bool, transparent: object
) -> "tuple[Picture, Picture | None]":
    """Grey of more than 8 bits -> the same shades in 8, and what of it is transparent.

    PIL's own conversion turns everything above 255 to white.
    """
    import numpy as np
    from PIL import Image

    values = np.asarray(picture)
    shades = (values * (255 / white)).round().clip(0, 255)
    shades = (255 - shades if inverted else shades).astype(np.uint8)
    alpha = None
    if isinstance(transparent, int):  # one of the shades, in a PNG
        alpha = Image.fromarray(
            np.where(values == transparent, 0, 255).astype(np.uint8)
        )
    return Image.fromarray(shades), alpha


def _in_gamma(picture: "Picture", gamma: float) -> "Picture":
    """Values v with light v^(1 / gamma), as a PNG may say, to those of a 2.2 screen."""
    if not 0 < gamma < 10 or abs(2.2 * gamma - 1) < 0.05:  # as good as sRGB
        return picture
    table = [round(255 * (v / 255) ** (1 / (2.2 * gamma))) for v in range(256)]
    return picture.point(table * len(picture.getbands()))


def _in_srgb(picture: "Picture", profile: bytes, name: str) -> "Picture":
    """The picture with its colour profile applied; grey stays grey."""
    from PIL import ImageCms

    try:
        mode, transform = _transform(profile)
        grey = picture.mode == "L"
        if grey and mode == "RGB":
            picture = picture.convert("RGB")
        if picture.mode != mode:
            raise ValueError(f"it is for {mode}, the pixels are {picture.mode}")
        if transform is not None:
            picture = ImageCms.applyTransform(picture, transform) or picture
        return picture.convert("L") if grey else picture
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, KeyError) as error:
        warnings.warn(
            f"{name}: its colour profile cannot be used ({error}); "
            "its numbers are taken for sRGB",
            stacklevel=4,
        )
        return picture


@lru_cache(maxsize=8)  # photographs of one camera share theirs
def _transform(profile: bytes) -> tuple[str, Any]:
    """The mode a profile is for, and the way to sRGB; None if that changes nothing.

    "Nothing" is two grey levels at the most: sRGB itself comes in several editions.
    """
    import numpy as np
    from PIL import Image, ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}[space]
    to = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(source, to, mode, "RGB")
    if mode in ("RGB", "L"):
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(27, 27, 3)
        probe = Image.fromarray(colours).convert(mode)
        after = ImageCms.applyTransform(probe, transform) or probe
        apart = np.asarray(after, int) - np.asarray(probe.convert("RGB"), int)
        if abs(apart).max() <= 2:
            return mode, None
    return mode, transform


def is_grey(picture: "Picture") -> bool:
    return picture.mode in ("L", "1")


def fit(picture: "Picture", size: int) -> "Picture":
    """The square in the centre, resized to `size` (Lanczos).

    So was LSUN prepared for the official code, by StyleGAN2's tool.
    """
    from PIL import Image

    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.convert("L" if is_grey(picture) else "RGB").crop(
        (left, top, left + side, top + side)
    )
    return square.resize((size, size), Image.Resampling.LANCZOS)


def to_tensor(picture: "Picture", grey: bool) -> Tensor:
    """-> uint8 (1, H, W) or (3, H, W)"""
    import numpy as np

    pixels = torch.from_numpy(np.array(picture.convert("L" if grey else "RGB")))
    return pixels.unsqueeze(0) if grey else pixels.permute(2, 0, 1).contiguous()


def check_size(
    picture: "Picture", name: str, size: tuple[int, int], first: str
) -> None:
    """Raise unless the image has the size (width, height) of the first one."""
    if picture.size != size:
        raise ValueError(
            f"{name} is {picture.size[0]} x {picture.size[1]} pixels but {first} is "
            f"{size[0]} x {size[1]}; wanted images of one size: crop or resize them "
            "first, or pass size= (--size 64)"
        )


def stack(pictures: "list[Picture]", grey: bool | None = None) -> Tensor:
    """PIL images of one size -> uint8 (N, C, H, W).

    grey  True or False; None: grey if all are grey, colour otherwise
    """
    if grey is None:
        grey = all(is_grey(picture) for picture in pictures)
    return torch.stack([to_tensor(picture, grey) for picture in pictures])


def too_large(images: int, size: tuple[int, int], channels: int = 3) -> bool:
    """Whether so many images would take more than half of this machine's memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not every system says
        memory = 16 * 2**30
    return images * size[0] * size[1] * channels > memory / 2


def check_memory(
    images: int, picture: "Picture", size: int | None, name: str, grey: bool | None
) -> None:
    """Raise if so many images like this one, or resized to `size`, are too large."""
    sides = (size, size) if size else picture.size
    grey = is_grey(picture) if grey is None else grey
    if too_large(images, sides, 1 if grey else 3):
        raise ValueError(
            f"{images:,} images of {sides[0]} x {sides[1]} pixels do not fit into this "
            f'machine\'s memory; wanted load_stream("{name}", ...) (--stream), or '
            "smaller ones: size= (--size)"
        )
