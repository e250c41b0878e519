"""Which data sets have a name, where they are found, and what their classes are called."""

from typing import NamedTuple

from .runtime.guard import kind_of

CLASSES = {
    "fashion-mnist": (
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "boot",
    ),
    "digits": tuple("0123456789"),
    "cifar10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
}


class Source(NamedTuple):
    """Where a data set of the paper is found, and how it is brought to size."""

    # its id on the hub, in parquet files; None: no complete copy is known there
    hub: str | None
    split: str  # all that the paper trained on
    images: int
    # shorter side resized to this, centre cut out; None: they have their size already
    size: int | None
    labels: bool  # whether the labels found there are labels
    recipe: str = ""  # how to bring a folder of them


LSUN = (
    "get it with download.py of github.com/fyu/lsun and write the images of its "
    "database into a folder"
)
# CIFAR-10: section 4. CelebA-HQ and LSUN at 256 x 256: section 4 and appendix B;
# celeb_a_hq/256 has 30,000 images, all for training (datasets.py of the official code),
# and LSUN's training sets hold as many as its publication says.
PAPER = {
    "cifar10": Source("uoft-cs/cifar10", "train", 50_000, None, True),
    "celebahq-256": Source(
        "eurecom-ds/celeba-hq-256",
        "train",
        30_000,
        256,
        False,
        "bring its 30,000 images as files",
    ),
    "lsun-church-256": Source(
        "tglcourse/lsun_church_train",
        "train+test",
        126_227,
        256,
        False,
        f"{LSUN}: category church_outdoor",
    ),
    "lsun-bedroom-256": Source(
        None,
        "train",
        3_033_042,
        256,
        False,
        f'{LSUN}: category bedroom; a tenth of them is "hub:pcuenq/lsun-bedrooms"',
    ),
    "lsun-cat-256": Source(
        None, "train", 1_657_266, 256, False, f"{LSUN}: category cat"
    ),
}
# "We used random horizontal flips during training for CIFAR10 ... We also used random
# horizontal flips for all other datasets except LSUN Bedroom." (Appendix B.) They are
# wrong where left and right mean something: all shoes of Fashion-MNIST point to the
# left, and a mirrored digit is no digit. Other data sets are flipped unless told
# otherwise.
FLIP = {
    "fashion-mnist": False,
    "digits": False,
    "cifar10": True,
    "celebahq-256": True,
    "lsun-church-256": True,
    "lsun-bedroom-256": False,
    "lsun-cat-256": True,
}


def find_source(
    name: str, split: str, size: int | None
) -> tuple[str, str, str, int | None, bool]:
    """A name -> "hub" or "folder", its id or path, split, size, if it has labels."""
    check_name(name, split)
    check_side(size)
    kind, _, path = name.partition(":")
    if kind in ("hub", "folder") and path:
        return kind, path, split, size, True
    if kind not in PAPER:
        names = ", ".join(f'"{known}"' for known in ("fashion-mnist", "digits", *PAPER))
        raise ValueError(
            f'unknown data set {name!r}; wanted {names}, "hub:<data set id>" or '
            '"folder:<path>"'
        )
    source = PAPER[kind]
    if path:
        return "folder", path, split, size or source.size, False
    if source.hub is None:
        raise FileNotFoundError(
            f'no complete copy of "{kind}" is known on the hub; {source.recipe}. Then '
            f'name it "{kind}:<path>"'
        )
    return (
        "hub",
        source.hub,
        source.split if split == "train" else split,
        size or source.size,
        source.labels,
    )


def check_name(name: str, split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f'split = {split!r}; wanted "train" or "test"')
    if not isinstance(name, str):
        raise TypeError(
            f'name is {kind_of(name)}; wanted a string, such as "fashion-mnist" or '
            '"folder:<path>"'
        )


def check_side(size: int | None) -> None:
    if size is not None and (
        isinstance(size, bool) or not isinstance(size, int) or size < 1
    ):
        raise ValueError(
            f"size = {size!r}; wanted None, or the side of the images in pixels"
        )
