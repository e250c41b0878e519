import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_core import data, embedded, load_images, to_model_range, to_uint8


def test_all_256_values_come_back_exactly():
    grid = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    x = to_model_range(grid)
    assert x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert torch.equal(to_uint8(x), grid)
    assert torch.allclose(x.double(), grid.double() / 127.5 - 1, rtol=0, atol=1e-7)
    for dtype in (torch.float64, torch.float32):
        assert torch.equal(to_model_range(to_uint8(x.to(dtype))), x)
    assert torch.equal(to_uint8(x.to(torch.float64)), grid)


def test_to_uint8_rounds_to_the_nearest_and_clamps():
    step = 2 / 255
    x = torch.tensor(
        [
            -7.0,
            -1 - step,
            -1 + 0.49 * step,
            -1 + 0.51 * step,
            0.0,
            1 - 0.51 * step,
            1 - 0.49 * step,
            1.5,
            float("inf"),
            -float("inf"),
        ]
    )
    assert to_uint8(x).tolist() == [0, 0, 0, 1, 128, 254, 255, 255, 255, 0]


def test_fashion_mnist_test_split():
    images, labels = load_images("fashion-mnist", "test")
    assert (
        images.shape == (10_000, 1, 28, 28)
        and images.dtype == torch.uint8
        and labels.dtype == torch.int64
    )
    assert torch.bincount(labels).tolist() == [1000] * 10
    assert (
        images.min() == 0
        and images.max() == 255
        and abs(images.double().mean() - 73.15) < 0.05
    )
    widths = [(images[labels == c] > 0).any(2).sum(2).double().mean() for c in (1, 9)]
    assert (
        widths[0] < 15 < widths[1]
    )  # trousers are narrow and boots are wide: rows are rows, and labels belong to their images


def test_fashion_mnist_training_split():
    images, labels = load_images("fashion-mnist")
    assert (
        images.shape == (60_000, 1, 28, 28)
        and torch.bincount(labels).tolist() == [6000] * 10
    )
    assert abs(images.double().mean() - 72.94) < 0.01


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(
        bytes([0, 0, 8, array.ndim])
        + b"".join(n.to_bytes(4, "big") for n in array.shape)
        + array.tobytes()
    )


@pytest.fixture
def little(tmp_path, monkeypatch):
    """A data folder like the real one with 3 + 2 images of 4 x 5 pixels."""
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for stem, n in (("train", 3), ("t10k", 2)):
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(
            idx(np.arange(n * 20, dtype=np.uint8).reshape(n, 4, 5))
        )
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(
            idx(np.arange(n, dtype=np.uint8))
        )
    sums = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}"
        for p in sorted(folder.glob("*.gz"))
    ]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    monkeypatch.setenv("DDPM_DATA", str(tmp_path))
    return folder


def test_DDPM_DATA_says_where_the_data_are(little):
    images, labels = load_images("fashion-mnist")
    assert torch.equal(
        images, torch.arange(60, dtype=torch.uint8).view(3, 1, 4, 5)
    ) and labels.tolist() == [0, 1, 2]
    images, labels = load_images("fashion-mnist", "test")
    assert images.shape == (2, 1, 4, 5) and labels.tolist() == [0, 1]
    images += 1  # writable, and not shared with anything


@pytest.mark.parametrize(
    "name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]
)
@pytest.mark.parametrize(
    "damage", ["flip a bit", "truncate", "empty", "append", "other sum", "no sum"]
)
def test_damage_is_noticed_and_the_remedy_named(little, name, damage):
    file, sums = little / name, little / "SHA256SUMS"
    content = bytearray(file.read_bytes())
    if damage == "flip a bit":
        content[len(content) // 2] ^= 1
    elif damage == "other sum":
        line = next(line for line in sums.read_text().splitlines() if name in line)
        sums.write_text(sums.read_text().replace(line, "0" * 64 + "  " + name))
    elif damage == "no sum":
        sums.write_text(
            "".join(
                line + "\n"
                for line in sums.read_text().splitlines()
                if name not in line
            )
        )
    else:
        content = {"truncate": content[:-10], "empty": b"", "append": content + b"\0"}[
            damage
        ]
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"{name} \(\d+ bytes\) is damaged.*SHA256SUMS.*git checkout"
    ):
        load_images("fashion-mnist")


@pytest.mark.parametrize(
    "content", ["", "\n\n", "one two three\n", "nonsense\n"], ids=repr
)
def test_damaged_sums(little, content):
    (little / "SHA256SUMS").write_text(content)
    with pytest.raises(ValueError, match="SHA256SUMS"):
        load_images("fashion-mnist")


def test_what_is_missing_is_named(little, monkeypatch, tmp_path):
    (little / "t10k-labels-idx1-ubyte.gz").unlink()
    load_images("fashion-mnist")
    with pytest.raises(
        FileNotFoundError,
        match="t10k-labels-idx1-ubyte.gz is missing; restore it with: git checkout",
    ):
        load_images("fashion-mnist", "test")
    monkeypatch.setenv("DDPM_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(
        FileNotFoundError, match="no Fashion-MNIST in .*elsewhere.*DDPM_DATA"
    ):
        load_images("fashion-mnist")


def test_the_embedded_files_are_listed_with_their_sums():
    folder = Path(data.__file__).parents[1] / "data" / "fashion-mnist"
    if not folder.is_dir():
        folder = data.data_folder() / "fashion-mnist"
    listed = [
        line.split()[1] for line in (folder / "SHA256SUMS").read_text().splitlines()
    ]
    assert (
        sorted(listed) == sorted(p.name for p in folder.glob("*.gz"))
        and len(listed) == 4
    )


def picture(path: Path, mode: str = "L", size=(5, 4), value: int = 7) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_a_folder_of_grey_images_in_order_of_their_names(tmp_path):
    for i, name in enumerate(["b.png", "a.PNG", "sub/c.png"]):
        picture(tmp_path / name, value=i)
    (tmp_path / "notes.txt").write_text("no image")
    images, labels = load_images(f"folder:{tmp_path}")
    assert (
        images.shape == (3, 1, 4, 5) and images.dtype == torch.uint8 and labels is None
    )
    assert images[:, 0, 0, 0].tolist() == [1, 0, 2]


def test_a_folder_of_colour_images_keeps_channels_and_pixels_in_place(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    images, _ = load_images(f"folder:{tmp_path}")
    assert torch.equal(images[0], torch.from_numpy(array.transpose(2, 0, 1).copy()))
    picture(tmp_path / "b.png")  # a grey one among them becomes colour
    assert load_images(f"folder:{tmp_path}")[0][1].unique().tolist() == [7]


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    Image.fromarray(
        np.array([[0, 256 * 100], [256 * 200, 65535]], dtype=np.uint16)
    ).save(tmp_path / "a.png")
    images, _ = load_images(f"folder:{tmp_path}")
    assert (
        images.shape == (1, 1, 2, 2)
        and (images.flatten().int() - torch.tensor([0, 100, 200, 255])).abs().max() <= 1
    )


def test_images_of_two_sizes(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", size=(6, 4))
    with pytest.raises(
        ValueError, match="b.png is 6 x 4 pixels but .*a.png is 5 x 4; .*crop or resize"
    ):
        load_images(f"folder:{tmp_path}")


@pytest.mark.parametrize("content", ["nothing", "text", "half", "a bit"])
def test_an_unreadable_image_is_named(tmp_path, content):
    Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    ).save(tmp_path / "a.png")
    whole = bytearray((tmp_path / "a.png").read_bytes())
    whole[60] ^= 255
    (tmp_path / "b.png").write_bytes(
        {
            "nothing": b"",
            "text": b"no image",
            "half": whole[: len(whole) // 2],
            "a bit": bytes(whole),
        }[content]
    )
    with pytest.raises(
        ValueError, match="b.png cannot be read as an image.*mend or remove it"
    ):
        load_images(f"folder:{tmp_path}")


def test_digits():
    pytest.importorskip("sklearn")
    (train, labels), (test, _) = load_images("digits"), load_images("digits", "test")
    assert (
        train.shape == (1437, 1, 8, 8)
        and test.shape == (360, 1, 8, 8)
        and len(labels) == 1437
    )
    assert (
        train.dtype == torch.uint8
        and train.max() == 255
        and set(labels.tolist()) == set(range(10))
    )


@pytest.mark.parametrize(
    "name, module",
    [
        ("digits", "sklearn.datasets"),
        ("hub:someone/something", "datasets"),
        ("cifar10", "datasets"),
    ],
)
def test_what_is_not_installed_is_named(name, module, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(FileNotFoundError, match="is not installed; run: pip install"):
        load_images(name)


def test_class_names_are_as_many_as_the_classes():
    assert {name: len(names) for name, names in data.CLASSES.items()} == {
        "fashion-mnist": 10,
        "digits": 10,
        "cifar10": 10,
    }


def test_a_copy_of_the_package_without_data_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("DDPM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "site" / "ddpm_core" / "embedded.py"
    monkeypatch.setattr(embedded, "__file__", str(elsewhere))
    with pytest.raises(FileNotFoundError, match="work in a clone of the repository"):
        load_images("fashion-mnist")
