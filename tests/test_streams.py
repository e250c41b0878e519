"""Images that do not fit into memory: the same training as from memory, resumed where it stopped; what cannot be read is named."""

import os
import re
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratory import SHORT, generator, small_unet
from PIL import Image

from ddpm_core import data, load_checkpoint, load_images, streams, train
from ddpm_core.cli import main
from ddpm_core.streams import (
    Stream,
    load_stream,
    must_stream,
    order,
    stream_folder,
    stream_rows,
)


def write_images(
    folder: Path, n: int = 10, side: int = 8, colour: bool = False, seed: int = 0
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(
        torch.randint(
            0, 256, (n, side, side, 3), generator=generator(seed), dtype=torch.uint8
        ).numpy()
    ):
        Image.fromarray(image if colour else image[..., 0]).save(
            folder / f"{i:02d}.png"
        )
    return folder


def write_rows(
    folder: Path, n: int = 10, files: int = 2, label: str = "label", **feature
) -> Path:
    """Parquet files of n grey images of 8 x 8, image i labelled i % 3."""
    from datasets import ClassLabel, Dataset, Features, config
    from datasets import Image as Picture

    config.SLEEP_TIME_ON_THREADS_SHUTDOWN = (
        0  # else 5 seconds at the end of every pass over several files
    )
    pictures = sorted(write_images(folder / "png", n).iterdir())
    rows = [
        {"image": {"bytes": p.read_bytes(), "path": p.name}, label: i % 3}
        for i, p in enumerate(pictures)
    ]
    features = Features(
        {
            "image": Picture(),
            label: feature.get("kind", ClassLabel(names=["cat", "dog", "owl"])),
        }
    )
    (folder / "rows").mkdir()
    for k in range(files):
        Dataset.from_list(rows[k::files], features=features).to_parquet(
            folder / "rows" / f"train-{k}.parquet"
        )
    return folder / "rows"


def take(stream: Stream, n: int) -> list:
    return [batch for _, batch in zip(range(n), stream)]


def run(model, images, labels=None, **kwargs):
    return train(
        model,
        SHORT,
        images,
        labels,
        **{
            **dict(
                device="cpu",
                precision="float32",
                progress=False,
                warmup=0,
                batch_size=4,
                ema=0.9,
            ),
            **kwargs,
        },
    )


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


def test_a_streamed_folder_trains_the_same_network_as_one_in_memory(tmp_path):
    folder = write_images(tmp_path)
    memory = run(small_unet(), load_images(f"folder:{folder}")[0], steps=6)
    streamed = run(small_unet(), load_stream(f"folder:{folder}", 4), steps=6)
    assert same(memory, streamed)
    assert not same(
        memory, run(small_unet(), load_stream(f"folder:{folder}", 4, seed=1), steps=6)
    )


@pytest.mark.parametrize("source", ["folder", "rows"])
def test_a_resumed_stream_goes_on_exactly(tmp_path, source):
    path = (
        write_images(tmp_path / "images")
        if source == "folder"
        else write_rows(tmp_path)
    )
    stream = lambda: load_stream(
        f"{'folder' if source == 'folder' else 'hub'}:{path}", 4, buffer=3
    )
    model = lambda: small_unet(classes=None if source == "folder" else 3)
    args = dict(lr=1e-2, save_every=100)
    whole = run(model(), stream(), steps=8, out=tmp_path / "whole", **args)
    run(
        model(), stream(), steps=3, out=tmp_path / "parts", **args
    )  # in the second pass: 12 of 10 images
    parts = run(model(), stream(), steps=8, out=tmp_path / "parts", resume=True, **args)
    assert same(whole, parts)
    a, b = (
        load_checkpoint(tmp_path / name, training=True).training
        for name in ("whole", "parts")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)
    if source == "rows":
        assert load_checkpoint(tmp_path / "parts").info["places"] == [
            [3, 2]
        ]  # 32 images: three passes of ten, and two


def test_every_pass_has_each_image_once_in_an_order_of_its_own(tmp_path):
    rows = load_stream(f"hub:{write_rows(tmp_path)}", 5, buffer=4)
    assert (
        rows.shape == (1, 8, 8)
        and rows.classes == 3
        and rows.names == ["cat", "dog", "owl"]
    )
    known = {
        p.read_bytes(): i for i, p in enumerate(sorted((tmp_path / "png").iterdir()))
    }
    index = {
        np.asarray(Image.open(tmp_path / "png" / f"{i:02d}.png")).tobytes(): i
        for i in known.values()
    }
    found = [
        (index[x.numpy().tobytes()], int(label))
        for images, labels in take(rows, 6)
        for x, label in zip(images, labels)
    ]
    passes = [[i for i, _ in found[k : k + 10]] for k in (0, 10, 20)]
    assert (
        all(sorted(p) == list(range(10)) for p in passes)
        and len({tuple(p) for p in passes}) == 3
    )
    assert all(label == i % 3 for i, label in found)


def test_a_data_set_of_ones_own(tmp_path):
    from datasets import load_dataset

    rows = load_dataset(
        "parquet",
        data_files=[str(p) for p in sorted(write_rows(tmp_path).iterdir())],
        split="train",
    )
    for source in (rows, rows.to_iterable_dataset()):
        images, labels = next(iter(stream_rows(source, 4, name="mine")))
        assert (
            images.shape == (4, 1, 8, 8)
            and images.dtype == torch.uint8
            and labels.dtype == torch.int64
        )
        assert next(iter(stream_rows(source, 4, labels=False)))[1] is None
    with pytest.raises(
        ValueError,
        match=re.escape("mine has no column of images; its columns are ['label']"),
    ):
        stream_rows(rows.remove_columns("image"), 4, name="mine")


def test_numbers_that_are_no_labels_are_left_out_of_a_stream(tmp_path):
    from datasets import Value

    stream = load_stream(f"hub:{write_rows(tmp_path, kind=Value('int64'))}", 4)
    assert stream.classes is None and next(iter(stream))[1] is None


def test_a_folder_of_parquet_files_in_memory(tmp_path):
    images, labels = load_images(f"hub:{write_rows(tmp_path, files=1)}")
    assert torch.equal(
        images, load_images(f"folder:{tmp_path / 'png'}")[0]
    ) and labels.tolist() == [i % 3 for i in range(10)]
    assert load_images(f"hub:{tmp_path / 'rows'}", size=4)[0].shape == (10, 1, 4, 4)


def test_order_is_dealt_out_in_parts():
    whole, parts = (
        order(10, 4, 0, 2),
        [order(10, 4, 0, 2, range(0, 2)), order(10, 4, 0, 2, range(2, 4))],
    )
    for _ in range(7):
        assert torch.equal(next(whole), torch.cat([next(p) for p in parts]))


@pytest.mark.parametrize("workers", [0, 1])
def test_worker_processes_change_nothing_and_draw_nothing(tmp_path, workers, untouched):
    stream = stream_folder(write_images(tmp_path), 4, workers=workers)
    chosen = [c for _, c in zip(range(3), order(10, 4, 0))]
    images, _ = load_images(f"folder:{tmp_path}")
    for (x, y), numbers in zip(stream, chosen):
        assert torch.equal(x, images[numbers]) and y is None


def test_workers_outlive_ctrl_c(tmp_path):
    """Ctrl-C reaches all processes of the terminal, and the step that it interrupts may want another batch."""
    batches = iter(stream_folder(write_images(tmp_path), 4, workers=1))
    next(batches)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for child in children(os.getpid()):
            os.kill(child, signal.SIGINT)
            os.kill(child, signal.SIGTERM)
        for _ in range(6):
            next(batches)
    finally:
        signal.signal(signal.SIGINT, before)


def children(pid: int) -> list[int]:
    found = (
        [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        if Path("/proc").is_dir()
        else []
    )
    if not found:
        pytest.skip("this system does not list child processes")
    return found


@pytest.fixture
def damaged(tmp_path):
    """Ten images of which number 3 is cut off and number 7 is no image."""
    folder = write_images(tmp_path / "pictures")
    (folder / "03.png").write_bytes((folder / "03.png").read_bytes()[:60])
    (folder / "07.png").write_text("no image")
    return folder


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_by_a_stream(damaged, workers):
    with pytest.raises(
        ValueError,
        match=r"^\S*0[37].png cannot be read as an image .*mend or remove it, or skip_unreadable=True",
    ):
        take(stream_folder(damaged, 5, workers=workers), 2)


def test_unreadable_images_are_skipped_on_request(damaged):
    good = [
        np.asarray(Image.open(p)).tobytes()
        for p in sorted(damaged.iterdir())
        if p.name not in ("03.png", "07.png")
    ]
    with pytest.warns(UserWarning, match="left out: .*0[37].png cannot be read"):
        images, _ = load_images(f"folder:{damaged}", skip_unreadable=True)
    assert [x.numpy().tobytes() for x in images] == good
    with pytest.warns(UserWarning) as told:
        ((images, _),) = take(stream_folder(damaged, 10, skip_unreadable=True), 1)
        take(stream_folder(damaged, 10, skip_unreadable=True), 3)
    assert images.shape == (10, 1, 8, 8) and {
        x.numpy().tobytes() for x in images
    } == set(good)  # the next one takes the place
    assert (
        len([w for w in told if "left out" in str(w.message)]) == 4
    )  # once for each stream and file, not in every pass


def test_unreadable_rows(tmp_path, damaged):
    from datasets import Dataset, Features
    from datasets import Image as Picture

    rows = [
        {"image": {"bytes": p.read_bytes(), "path": p.name}}
        for p in sorted(damaged.iterdir())
    ]
    (tmp_path / "rows").mkdir()
    Dataset.from_list(rows, features=Features({"image": Picture()})).to_parquet(
        tmp_path / "rows" / "train.parquet"
    )
    name = f"hub:{tmp_path / 'rows'}"
    with pytest.raises(ValueError, match="rows, row 3 cannot be read as an image"):
        load_images(name)
    with pytest.raises(
        ValueError,
        match=r"rows, 0[37].png \(row \d of this pass\) cannot be read as an image",
    ):
        take(load_stream(name, 5), 2)
    with pytest.warns(UserWarning, match="left out"):
        assert len(load_images(name, skip_unreadable=True)[0]) == 8
    with pytest.warns(UserWarning, match="left out"):
        assert (
            sum(len(x) for x, _ in take(load_stream(name, 4, skip_unreadable=True), 4))
            == 16
        )


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(
            FileNotFoundError, match="contains no image that can be read"
        ):
            load_images(f"folder:{tmp_path}", skip_unreadable=True)
        with pytest.raises(
            ValueError, match="none of 1 images can be read, the first of them .*a.png"
        ):
            stream_folder(tmp_path, 4, skip_unreadable=True)


def test_size_resizes_the_shorter_side_and_cuts_out_the_centre(tmp_path):
    wide = np.zeros((20, 40, 3), dtype=np.uint8)
    wide[:, 10:30] = [200, 100, 50]  # exactly the square in the centre
    Image.fromarray(wide).save(tmp_path / "a.png")
    Image.fromarray(wide.transpose(1, 0, 2).copy()).save(tmp_path / "b.png")
    for images in (
        load_images(f"folder:{tmp_path}", size=8)[0],
        next(iter(stream_folder(tmp_path, 2, size=8)))[0],
    ):
        assert images.shape == (2, 3, 8, 8)
        assert (images == torch.tensor([200, 100, 50]).view(3, 1, 1)).all()
    with pytest.raises(ValueError, match="size = 0; wanted None, or the side"):
        load_images(f"folder:{tmp_path}", size=0)


def test_an_image_of_the_wanted_size_is_left_as_it_is(tmp_path):
    folder = write_images(tmp_path, colour=True)
    assert torch.equal(
        load_images(f"folder:{folder}", size=8)[0], load_images(f"folder:{folder}")[0]
    )


def test_photographs_are_turned_upright(tmp_path):
    picture = Image.fromarray(
        np.array([[0, 255]] * 2, dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    )
    exif = Image.Exif()
    exif[0x0112] = (
        6  # taken with the camera turned: to be rotated by 90 degrees clockwise
    )
    picture.save(tmp_path / "a.jpg", exif=exif, quality=95)
    images, _ = load_images(f"folder:{tmp_path}")
    assert (
        images.shape == (1, 1, 16, 16)
        and images[0, 0, 0].float().mean() < 20 < 235 < images[0, 0, -1].float().mean()
    )


@pytest.mark.parametrize(
    "second, grey, phrase",
    [
        (
            Image.new("L", (9, 8)),
            None,
            r"b.png is 9 x 8 pixels but .*a.png is 8 x 8; wanted images of one size: .*pass size= \(--size 64\)",
        ),
        (
            Image.new("RGB", (8, 8)),
            None,
            "b.png is in colour but .*a.png is grey; wanted one kind: grey=False .--no-grey. makes all of them colour",
        ),
        (Image.new("RGB", (8, 8)), True, None),
        (Image.new("RGB", (8, 8)), False, None),
    ],
    ids=["size", "colour", "all grey", "all colour"],
)
def test_images_that_differ(tmp_path, second, grey, phrase):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    second.save(tmp_path / "b.png")
    if phrase:
        with pytest.raises(ValueError, match=phrase):
            take(stream_folder(tmp_path, 2, grey=grey), 1)
    else:
        assert take(stream_folder(tmp_path, 2, grey=grey), 1)[0][0].shape == (
            2,
            1 if grey else 3,
            8,
            8,
        )


def test_rows_read_by_another_number_of_processes_start_a_new_pass_and_say_so(tmp_path):
    stream = load_stream(f"hub:{write_rows(tmp_path)}", 10, buffer=4)
    _, second = take(stream, 2)
    with pytest.warns(
        UserWarning,
        match="goes on with a new pass .* has the places of 2 processes, and now there are 1",
    ):
        images, _ = next(stream.batches(1, [[0, 3], [0, 4]]))
    assert torch.equal(images, second[0])


def test_a_loader_that_cannot_go_on_says_so(tmp_path):
    loader = torch.utils.data.DataLoader(
        torch.zeros(8, 1, 8, 8, dtype=torch.uint8), batch_size=4
    )
    run(small_unet(), loader, steps=1, out=tmp_path / "r")
    with pytest.warns(
        UserWarning,
        match="it starts from its beginning; tensors and folders go on exactly",
    ):
        run(small_unet(), loader, steps=2, out=tmp_path / "r", resume=True)


def test_the_papers_data_sets_by_name(monkeypatch):
    """Sizes: section 4. Flips: appendix B. All training images: CelebA-HQ has 30,000, LSUN church 126,227."""
    asked = []
    monkeypatch.setattr(
        streams,
        "open_hub",
        lambda *args, **kwargs: (
            asked.append((*args, kwargs)) or ("rows", "image", None)
        ),
    )
    monkeypatch.setattr(
        streams, "stream_rows", lambda rows, batch_size, **kwargs: kwargs
    )
    for name, hub, split, size, labels in (
        ("cifar10", "uoft-cs/cifar10", "train", None, True),
        ("celebahq-256", "eurecom-ds/celeba-hq-256", "train", 256, False),
        ("lsun-church-256", "tglcourse/lsun_church_train", "train+test", 256, False),
    ):
        told = load_stream(name, 64)
        assert asked.pop() == (hub, split, {"streaming": True}) and (
            told["size"],
            told["labels"],
        ) == (size, labels)
        assert load_stream(name, 64, size=32)["size"] == 32
    assert {name: flip for name, flip in data.FLIP.items() if name in data.PAPER} == {
        "cifar10": True,
        "celebahq-256": True,
        "lsun-church-256": True,
        "lsun-bedroom-256": False,
        "lsun-cat-256": True,
    }


@pytest.mark.parametrize("name", ["lsun-bedroom-256", "lsun-cat-256"])
def test_what_the_hub_does_not_have_comes_with_a_recipe(tmp_path, name):
    for call in (load_images, lambda name: load_stream(name, 4)):
        with pytest.raises(
            FileNotFoundError,
            match=f'no complete copy of "{name}" is known on the hub; get it with download.py .*"{name}:<path>"',
        ):
            call(name)
    write_images(tmp_path, side=300, n=2, colour=True)
    images, labels = load_images(f"{name}:{tmp_path}")
    assert images.shape == (2, 3, 256, 256) and labels is None
    assert load_stream(f"{name}:{tmp_path}", 2).shape == (3, 256, 256)


def test_what_does_not_fit_into_memory_is_streamed_or_refused(tmp_path, monkeypatch):
    folder = write_images(tmp_path, side=64, n=10, colour=True)  # 123 kB
    assert (
        not must_stream(f"folder:{folder}", None)
        and not must_stream("fashion-mnist", None)
        and not must_stream("hub:any/thing", None)
    )
    pages = lambda name: {"SC_PHYS_PAGES": 60, "SC_PAGE_SIZE": 4096}[name]  # 246 kB
    with monkeypatch.context() as patch:
        patch.setattr(os, "sysconf", pages)
        assert not must_stream(f"folder:{folder}", None)
        write_images(tmp_path, side=64, n=11, colour=True)
        assert must_stream(f"folder:{folder}", None) and not must_stream(
            f"folder:{folder}", 32
        )
        with pytest.raises(
            ValueError,
            match=r'11 images of 64 x 64 pixels do not fit .* wanted load_stream\("folder:.*\(--stream\)',
        ):
            load_images(f"folder:{folder}")
        assert must_stream("lsun-church-256", None) and must_stream("cifar10", None)
    with monkeypatch.context() as patch:
        patch.delattr(os, "sysconf")
        assert (
            must_stream("lsun-church-256", None)
            and not must_stream("cifar10", None)
            and not must_stream("celebahq-256", None)
        )


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_batch_sizes_that_are_none(tmp_path, batch_size):
    with pytest.raises(
        ValueError,
        match=f"batch_size = {batch_size}; wanted a whole number, at least 1",
    ):
        stream_folder(write_images(tmp_path, 1), batch_size)


def command(data: str, out: Path, *more: str) -> list[str]:
    return [
        "train",
        "--data",
        data,
        "--out",
        str(out),
        "--multipliers",
        "1",
        "--attention",
        "--T",
        "4",
        "--batch-size",
        "4",
        "--device",
        "cpu",
        "--precision",
        "float32",
        *more,
    ]


def test_ddpm_train_streams(tmp_path, capfd):
    rows = write_rows(tmp_path)
    assert main(command(f"hub:{rows}", tmp_path / "a", "--steps", "2", "--stream")) == 0
    a = load_checkpoint(tmp_path / "a")
    assert (
        a.model.classes == 3
        and a.info["classes"] == ["cat", "dog", "owl"]
        and a.model.config["image_size"] == 8
    )
    assert (
        main(
            command(
                f"hub:{rows}",
                tmp_path / "b",
                "--steps",
                "2",
                "--stream",
                "--unconditional",
                "--size",
                "4",
            )
        )
        == 0
    )
    b = load_checkpoint(tmp_path / "b")
    assert (
        b.model.classes is None
        and b.info["classes"] is None
        and b.model.config["image_size"] == 4
    )
    write_images(tmp_path / "wide", n=2, side=8)
    (tmp_path / "wide" / "00.png").write_text("no image")
    capfd.readouterr()
    assert (
        main(command(f"folder:{tmp_path / 'wide'}", tmp_path / "c", "--steps", "1"))
        == 2
    )
    assert (
        "00.png cannot be read as an image" in capfd.readouterr().err
        and not (tmp_path / "c").exists()
    )
    with pytest.warns(UserWarning, match="left out"):
        assert (
            main(
                command(
                    f"folder:{tmp_path / 'wide'}",
                    tmp_path / "c",
                    "--steps",
                    "1",
                    "--skip-unreadable",
                    "--no-flip",
                )
            )
            == 0
        )
    assert load_checkpoint(tmp_path / "c").info["training"]["flip"] is False
