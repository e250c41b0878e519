"""ddpm evaluate on a tiny network: its figures against those taken by hand, a stop and what follows, and everything it refuses."""

import hashlib
import json
import math
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from laboratory import generator, randomise
from PIL import Image
from test_training import ENVIRONMENT

import ddpm_core
from ddpm_core import (
    Schedule,
    bits_per_dim,
    evaluation,
    frechet_distance,
    inception_score,
    load_checkpoint,
    load_images,
    save_checkpoint,
    to_model_range,
)
from ddpm_core import samples as drawing
from ddpm_core.bits import bits_per_dim_estimate
from ddpm_core.cli import main
from ddpm_core.data import CLASSES, Labelled, load_labelled
from ddpm_core.distributed import mix
from ddpm_core.evaluation import (
    Sampling,
    draw,
    evaluate,
    measure_bound,
    measure_pictures,
    table,
)
from ddpm_core.features import classify, fashion_features
from ddpm_core.unet import UNet

QUIET = dict(progress=False, device="cpu")


@pytest.fixture(scope="module")
def real():
    """Fashion-MNIST in small: 300 training images and 240 test images, with their labels."""
    picked = {}
    for split, n in (("train", 300), ("test", 240)):
        images, labels = load_images("fashion-mnist", split)
        chosen = torch.randperm(len(images), generator=generator(1))[:n]
        picked[split] = images[chosen], labels[chosen]
    return picked


@pytest.fixture
def small(real, monkeypatch):
    """The first 60 of each, where the figures themselves do not matter."""
    first = {
        split: (images[:60], labels[:60]) for split, (images, labels) in real.items()
    }
    monkeypatch.setattr(
        evaluation,
        "load_labelled",
        lambda name, split="train", size=None: (
            Labelled(*first[split], CLASSES[name])
            if name == "fashion-mnist"
            else load_labelled(name, split, size=size)
        ),
    )


def network(size: int = 28, classes: int | None = 10) -> UNet:
    return randomise(UNet(size, 1, 8, (1,), 1, (), 0.0, classes, groups=4))


@pytest.fixture
def run(tmp_path):
    save_checkpoint(
        tmp_path / "run",
        network(),
        Schedule([0.1, 0.2, 0.3, 0.5]),
        step=7,
        info={"data": "fashion-mnist"},
    )
    return tmp_path / "run"


def evaluated(run, *more: str) -> dict:
    assert (
        main(
            [
                "evaluate",
                str(run),
                "-n",
                "30",
                "--device",
                "cpu",
                "--batch-size",
                "16",
                *more,
            ]
        )
        == 0
    )
    return json.loads(
        (
            run.parent / "results.json" if "--out" in more else run / "evaluation.json"
        ).read_text()
    )


def test_the_command(run, small, real, capsys):
    result = evaluated(
        run,
        "--bound",
        "3",
        "--keep-samples",
        "--out",
        f"{run.parent}/results.json",
        "--sampler",
        "ddim",
        "--steps",
        "2",
        "--seed",
        "5",
    )
    out = capsys.readouterr().out

    assert (
        shlex.split(result["command"])[:3] == ["ddpm", "evaluate", str(run)]
        and "--seed 5" in result["command"]
    )
    assert result["sampling"] == {
        "n": 30,
        "steps": 2,
        "sampler": "ddim",
        "variance": "beta",
        "guidance": 0,
        "seed": 5,
    }
    assert result["step"] == 7 and result["data"] == "fashion-mnist"
    assert (
        result["weights_sha256"]
        == hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()
    )
    assert (
        result["versions"]["torch"] == torch.__version__
        and result["versions"]["ddpm_core"] == ddpm_core.__version__
    )

    # The figures again, by hand, from the samples that were kept.
    with np.load(run.parent / "results.npz") as file:
        samples = torch.from_numpy(file["images"])
    assert samples.shape == (30, 1, 28, 28) and samples.dtype == torch.uint8
    features, logits = classify(fashion_features(), samples)
    train, test_labels = real["train"][0][:60], real["test"][1][:60]
    known, _ = classify(fashion_features(), train)
    assert result["frechet"]["samples"] == pytest.approx(
        frechet_distance(features, known), rel=1e-6
    )
    assert result["frechet"]["images"] == [30, 30, 60]
    assert result["score"]["samples"] == pytest.approx(
        inception_score(logits, 10)[0], rel=1e-6
    )
    p, answer = logits.softmax(1).max(1)
    assert result["classes"]["sure"] == pytest.approx(float((p > 0.9).double().mean()))
    assert result["classes"]["shares"] == pytest.approx(
        [float((answer == k).double().mean()) for k in range(10)]
    )
    labels = torch.arange(30) * 10 // 30
    assert result["classes"]["as_asked"] == pytest.approx(
        float((answer == labels).double().mean())
    )
    assert result["classes"]["shares_real"] == pytest.approx(
        [float((test_labels == k).double().mean()) for k in range(10)]
    )
    pixels = (
        torch.cdist(
            to_model_range(samples).flatten(1).double(),
            to_model_range(train).flatten(1).double(),
        )
        .min(1)
        .values
    )
    assert result["memorisation"]["pixels"]["samples"][2] == pytest.approx(
        float(pixels.median()), rel=0.02
    )  # of 30, between two
    assert result["memorisation"]["pixels"]["nearest_sample"] == pytest.approx(
        float(pixels.min()), rel=1e-5
    )

    assert "Frechet distance, Fashion features" in out and "FID" not in out
    for shown in (
        f"{result['frechet']['samples']:.3f}",
        f"{result['frechet']['floor']:.3f}",
        f"{result['bits_per_dim']['test']['mean']:.3f}",
        f"{result['classes']['sure']:.1%}",
        "share of trouser",
        "results.json: written; the samples are in",
    ):
        assert shown in out
    assert max(len(line) for line in out.splitlines()[1:-1]) <= 100
    assert np.asarray(Image.open(run.parent / "results.png")).shape == (
        3 * 28 + 2,
        10 * 28 + 9,
    )
    assert sorted(p.name for p in run.parent.iterdir()) == [
        "results.json",
        "results.npz",
        "results.png",
        "run",
    ]


def test_a_seed_gives_the_same_figures(run, small):
    first, again, other = (evaluated(run, "--seed", seed) for seed in "112")
    for result in (first, again, other):
        del result["seconds"], result["command"], result["sampling"]["seed"]
    assert first == again and first["frechet"]["samples"] != other["frechet"]["samples"]


def test_the_samples_are_those_of_ddpm_sample(run, tmp_path):
    images, labels = draw(load_checkpoint(run), Sampling(6, seed=3), batch_size=4)
    assert labels.tolist() == [0, 1, 3, 5, 6, 8]
    assert (
        main(
            [
                "sample",
                str(run),
                "-n",
                "6",
                "--columns",
                "6",
                "--labels",
                *map(str, labels.tolist()),
                "--seed",
                "3",
                "--out",
                f"{tmp_path}/grid.png",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    grid = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    ours = np.concatenate(
        [
            np.pad(image[0], ((0, 0), (0, 1)), constant_values=255)
            for image in images.numpy()
        ],
        axis=1,
    )[:, :-1]
    assert np.abs(grid - ours).max() <= 1  # sums in another order, then rounded


def test_a_stopped_run_goes_on_from_what_was_kept(run, small, monkeypatch, capsys):
    whole, _ = draw(load_checkpoint(run), Sampling(30), batch_size=16)
    drawn, real_steps = [], drawing.sample_steps

    def stops_in_the_second_batch(model, schedule, shape, *how, **more):
        drawn.append(shape[0])
        for i, step in enumerate(real_steps(model, schedule, shape, *how, **more)):
            if len(drawn) == 2 and i == 1:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(drawing, "sample_steps", stops_in_the_second_batch)
    command = [
        "evaluate",
        str(run),
        "-n",
        "30",
        "--device",
        "cpu",
        "--batch-size",
        "16",
        "--keep-samples",
    ]
    assert main(command) == 130
    assert "the same command goes on from the samples in" in capsys.readouterr().err
    assert not (run / "evaluation.json").exists()
    with np.load(run / "evaluation.npz") as file:
        assert np.array_equal(file["images"], whole[:16].numpy())
    assert main(command) == 0 and drawn == [16, 14, 14]
    with np.load(run / "evaluation.npz") as file:
        assert np.abs(file["images"].astype(int) - whole.numpy()).max() <= 1
    assert main(command) == 0 and drawn == [
        16,
        14,
        14,
    ]  # all there: nothing is drawn again
    assert not list(run.glob(".*.partial"))


def test_kept_samples_of_other_settings_or_from_a_stranger_are_refused(
    run, small, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", str(run), "-n", "30", "--device", "cpu", "--keep-samples"]
    assert main(command) == 0
    kept = (run / "evaluation.npz").read_bytes()
    assert main([*command, "--seed", "1"]) == 2
    assert (
        "evaluation.npz holds other samples (seed = 0, not 1); remove it"
        in capsys.readouterr().err
    )
    assert main([*command[:3], "20", *command[4:]]) == 2
    assert "(n = 30, not 20)" in capsys.readouterr().err
    save_checkpoint(
        run,
        randomise(network(), seed=1),
        Schedule([0.1, 0.2, 0.3, 0.5]),
        info={"data": "fashion-mnist"},
    )
    (run / "evaluation.npz").write_bytes(kept)
    assert main(command) == 2
    assert "holds other samples (weights_sha256 = " in capsys.readouterr().err
    assert (run / "evaluation.npz").read_bytes() == kept

    class Bomb:
        def __reduce__(self):
            return exec, ("import pathlib; pathlib.Path('exploded').touch()",)

    for write in (
        lambda: (run / "evaluation.npz").write_bytes(kept[:500]),
        lambda: (run / "evaluation.npz").write_text("no zip"),
        lambda: np.savez(
            run / "evaluation.npz",
            images=np.array([Bomb()], dtype=object),
            settings=np.array("{}"),
        ),
    ):
        write()
        assert main(command) == 2
        assert "is no file of kept samples, or damaged" in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()


def test_real_images_reach_the_floor_and_are_no_copies(real):
    """Test images in the place of samples: everything beside agrees, up to chance. Four of its own spreads."""
    (train, _), (test, labels) = real["train"], real["test"]
    result = measure_pictures(
        fashion_features(), test[:80], labels[:80], train, test[80:], labels[80:]
    )
    f, c = result["frechet"], result["classes"]
    assert f["images"] == [80, 80, 300]
    assert abs(f["samples"] - f["floor"]) < 4 * max(f["floor_spread"], 0.1 * f["floor"])
    assert abs(c["sure"] - c["sure_real"]) < 4 * math.sqrt(
        0.2 * 0.8 * (1 / 80 + 1 / 160)
    )
    assert c["as_asked"] > 0.8 and c["right_real"] > 0.8
    assert sum(c["shares"]) == pytest.approx(1) and sum(
        c["shares_real"]
    ) == pytest.approx(1)
    for m in result["memorisation"].values():
        assert abs(m["nearer"] - 0.5) < 4 * m["nearer_error"] and m["suspect"] < 0.1


def test_copies_of_training_images_are_caught(real):
    (train, labels), (test, _) = real["train"], real["test"]
    result = measure_pictures(fashion_features(), train[:60], labels[:60], train, test)
    for m in result["memorisation"].values():
        assert m["nearer"] == 1 and m["suspect"] == 1 and m["nearest_sample"] == 0


def test_noise_is_far_away_and_one_class_scores_low(real):
    (train, _), (test, _) = real["train"], real["test"]
    noise = torch.randint(
        0, 256, (80, 1, 28, 28), generator=generator(), dtype=torch.uint8
    )
    far = measure_pictures(fashion_features(), noise, None, train, test)
    assert (
        far["frechet"]["samples"] > 5 * far["frechet"]["floor"]
        and far["classes"]["as_asked"] is None
    )
    bags = train[real["train"][1] == 8]
    one = measure_pictures(fashion_features(), bags, None, train, test)
    assert (
        one["score"]["samples"] < one["score"]["real"] / 2
        and one["classes"]["shares"][8] > 0.8
    )


def test_figures_of_another_network_are_called_fid_and_have_no_classes(real):
    def some_network(images):
        pixels = images.flatten(1).float()[:, ::50]
        return pixels, pixels[:, :5] / 50

    result = measure_pictures(
        some_network, real["test"][0][:40], None, real["train"][0], real["test"][0]
    )
    assert (
        result["frechet"]["name"] == "FID"
        and result["score"]["name"] == "Inception Score"
    )
    assert "classes" not in result and "classifier" not in result


def test_the_bound_is_that_of_bits_per_dim(run, real):
    checkpoint, (images, labels) = load_checkpoint(run), real["test"]
    result = measure_bound(checkpoint, images, None, 6, seed=2, batch_size=4)
    chosen = torch.randperm(
        len(images), generator=torch.Generator().manual_seed(mix(2, "bound"))
    )[:6]
    noise = [torch.Generator().manual_seed(mix(2, "bound", int(i))) for i in chosen]
    total = bits_per_dim(
        checkpoint.model,
        checkpoint.schedule,
        to_model_range(images[chosen]),
        clip_x0=True,
        generator=noise,
    ).total
    assert result == {
        "mean": pytest.approx(float(total.mean())),
        "error": pytest.approx(float(total.std()) / 6**0.5),
        "images": 6,
        "evaluations": None,
        "given": None,
    }
    told = measure_bound(checkpoint, images, labels, 6, seed=2, batch_size=4)
    assert told["given"] == "label" and told["mean"] != pytest.approx(
        result["mean"], rel=1e-4
    )
    wrong = measure_bound(
        checkpoint, images, (labels + 1) % 10, 6, seed=2, batch_size=4
    )
    assert wrong["mean"] != pytest.approx(told["mean"], rel=1e-4)


def test_an_estimate_of_the_bound_is_that_of_its_function(run, real):
    checkpoint, (images, labels) = load_checkpoint(run), real["test"]
    result = measure_bound(checkpoint, images, labels, 6, seed=2, evaluations=4)
    chosen = torch.randperm(
        len(images), generator=torch.Generator().manual_seed(mix(2, "bound"))
    )[:6]
    noise = [torch.Generator().manual_seed(mix(2, "bound", int(i))) for i in chosen]
    total = bits_per_dim_estimate(
        checkpoint.model,
        checkpoint.schedule,
        to_model_range(images[chosen]),
        clip_x0=True,
        generator=noise,
        labels=labels[chosen],
        evaluations=4,
    ).total
    assert (
        result["mean"] == pytest.approx(float(total.mean()))
        and result["evaluations"] == 4
    )


def test_the_bound_alone_draws_nothing(run, small, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "draw", None)
    result = evaluated(run, "--features", "none", "--bound", "2")
    assert (
        set(result["bits_per_dim"]) == {"test", "train"}
        and "sampling" not in result
        and "frechet" not in result
    )
    assert "bits/dim given the label, train" in capsys.readouterr().out
    assert table(result).count("\n") == 2


def test_folders_and_networks_without_classes(tmp_path, capsys, monkeypatch):
    for name, n in (("seen", 12), ("unseen", 9)):
        (tmp_path / name).mkdir()
        for i, image in enumerate(
            torch.randint(0, 256, (n, 8, 8), generator=generator(n), dtype=torch.uint8)
        ):
            Image.fromarray(image.numpy()).save(tmp_path / name / f"{i}.png")
    save_checkpoint(
        tmp_path / "run",
        network(8, None),
        Schedule([0.1, 0.4]),
        info={"data": f"folder:{tmp_path}/seen"},
    )
    assert (
        main(
            [
                "evaluate",
                f"{tmp_path}/run",
                "--features",
                "none",
                "--bound",
                "4",
                "--unseen",
                f"folder:{tmp_path}/unseen",
                "--device",
                "cpu",
            ]
        )
        == 0
    )
    assert "bits/dim, test" in capsys.readouterr().out
    images, labels = draw(load_checkpoint(tmp_path / "run"), Sampling(3))
    assert labels is None and images.shape == (3, 1, 8, 8)

    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setattr(evaluation, "draw", None)
    assert (
        main(
            [
                "evaluate",
                f"{tmp_path}/run",
                "--unseen",
                f"folder:{tmp_path}/unseen",
                "--device",
                "cpu",
            ]
        )
        == 2
    )  # auto: Inception
    assert (
        "Inception features need torch-fidelity, which is not installed; run: pip install"
        in capsys.readouterr().err
    )


def test_two_processes_measure_what_one_does(tmp_path, real):
    """Under torchrun: the samples, the bound and all figures, to rounding; rank 0 alone writes and speaks."""
    for split, (images, _) in real.items():
        (tmp_path / split).mkdir()
        for i, image in enumerate(images[:21]):
            Image.fromarray(image[0].numpy()).save(tmp_path / split / f"{i:02d}.png")
    save_checkpoint(
        tmp_path / "run",
        network(),
        Schedule([0.1, 0.4]),
        info={"data": f"folder:{tmp_path}/train"},
    )
    command = [
        "evaluate",
        f"{tmp_path}/run",
        "--unseen",
        f"folder:{tmp_path}/test",
        "--features",
        "fashion",
        "-n",
        "7",
        "--batch-size",
        "3",
        "--bound",
        "5",
        "--keep-samples",
        "--device",
        "cpu",
    ]
    assert main([*command, "--out", f"{tmp_path}/one/results.json"]) == 0
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "ddpm_core",
            *command,
            "--out",
            f"{tmp_path}/two/results.json",
        ],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Frechet") == done.stdout.count("written") == 1
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        "results.json",
        "results.npz",
        "results.png",
    ]
    one, two = (
        json.loads((tmp_path / name / "results.json").read_text())
        for name in ("one", "two")
    )
    pixels = [
        np.load(tmp_path / name / "results.npz")["images"].astype(int)
        for name in ("one", "two")
    ]
    assert (
        pixels[0].shape == pixels[1].shape == (7, 1, 28, 28)
        and np.abs(pixels[0] - pixels[1]).max() <= 1
    )
    for path in (
        ("bits_per_dim", "test", "mean"),
        ("bits_per_dim", "train", "error"),
        ("frechet", "floor"),
        ("score", "real"),
    ):
        a, b = one, two
        for key in path:
            a, b = a[key], b[key]
        assert a == pytest.approx(b, rel=1e-4), path
    assert one["frechet"]["samples"] == pytest.approx(
        two["frechet"]["samples"], rel=0.02
    )  # pixels may be rounded up or down
    assert one["memorisation"]["pixels"]["samples"] == pytest.approx(
        two["memorisation"]["pixels"]["samples"], rel=0.01
    )


def test_a_learned_variance_is_used(run, monkeypatch):
    checkpoint = load_checkpoint(run)
    assert drawing.settled(Sampling(), checkpoint).variance == "beta"
    checkpoint.model.config["learn_variance"] = True
    assert drawing.settled(Sampling(), checkpoint).variance == "learned"
    assert (
        drawing.settled(Sampling(variance="beta_tilde"), checkpoint).variance
        == "beta_tilde"
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["-n", "1"], "n = 1 samples; wanted at least 2"),
        (["--batch-size", "0"], "batches of 0"),
        (
            ["--bound", "1"],
            "bound of 1 images; wanted at least 1, and 0 or from 2 to 60",
        ),
        (["--bound", "61"], "bound of 61 images"),
        (["--bound", "-3"], "bound of -3 images"),
        (["--features", "none"], "nothing to measure"),
        (["--steps", "0"], "steps = 0; wanted None, or a whole number from 1 to T = 4"),
        (["--steps", "5"], "steps = 5"),
        (["--out", "results.txt"], "wanted a file name that ends in .json"),
        (["--data", "nonsense"], "unknown data set 'nonsense'"),
        (
            ["--bound", "4", "--features", "none", "--evaluations", "3"],
            "evaluations = 3; wanted an even number",
        ),
        (
            ["--data", "folder:somewhere"],
            "is a folder and has no test split; name images that the network has not seen with --unseen",
        ),
        (["--unseen", "folder:somewhere"], "somewhere is not a folder"),
    ],
)
def test_what_does_not_fit_is_one_line(
    run, small, more, says, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["evaluate", str(run), "-n", "30", "--device", "cpu", *more]) == 2
    err = capsys.readouterr().err
    assert says in err and "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_run_leaves_no_folder(tmp_path, capsys):
    assert main(["evaluate", f"{tmp_path}/nowhere"]) == 2
    assert (
        "no checkpoint in" in capsys.readouterr().err
        and not (tmp_path / "nowhere").exists()
    )


def test_a_place_that_cannot_be_written_is_found_out_first(
    run, small, capsys, monkeypatch
):
    monkeypatch.setattr(evaluation, "draw", None)
    (run.parent / "file").touch()
    assert main(["evaluate", str(run), "--out", f"{run.parent}/file/results.json"]) == 2
    assert "file" in capsys.readouterr().err


def test_data_of_another_size_and_data_unknown(run, small, tmp_path, capsys):
    save_checkpoint(
        tmp_path / "small",
        network(8),
        Schedule([0.1, 0.4]),
        info={"data": "fashion-mnist"},
    )
    assert main(["evaluate", f"{tmp_path}/small", "--device", "cpu"]) == 2
    assert (
        "draws images of shape (1, 8, 8), those of fashion-mnist are (1, 28, 28)"
        in capsys.readouterr().err
    )
    save_checkpoint(tmp_path / "silent", network(), Schedule([0.1, 0.4]))
    assert main(["evaluate", f"{tmp_path}/silent", "--device", "cpu"]) == 2
    assert (
        "does not say which data it was trained on; say it with --data"
        in capsys.readouterr().err
    )


def test_fashion_features_refuse_other_pictures_before_anything_is_drawn(
    tmp_path, monkeypatch
):
    (tmp_path / "grey").mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8), 40 * i, dtype=np.uint8)).save(
            tmp_path / "grey" / f"{i}.png"
        )
    save_checkpoint(tmp_path / "run", network(8, None), Schedule([0.1, 0.4]))
    monkeypatch.setattr(evaluation, "draw", None)
    grey = f"folder:{tmp_path}/grey"
    with pytest.raises(
        ValueError, match=r"wanted \(N, 1, 28, 28\), as those of Fashion-MNIST"
    ):
        evaluate(tmp_path / "run", data=grey, unseen=grey, features="fashion", **QUIET)
    with pytest.raises(ValueError, match="features = 'pixels'; wanted"):
        evaluate(tmp_path / "run", features="pixels", **QUIET)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["-n", "1"], "wanted at least 2"),
        (["--bound", "4", "--evaluations", "3"], "evaluations = 3"),
        (["--bound", "4", "--evaluations", "2"], "evaluations = 2"),
        (["--bound", "61"], "bound of 61"),
        (["--unseen", "folder:one"], "1 of folder:one; wanted at least 2"),
        (["--features", "inception"], "torch-fidelity"),
        (["--out", "there.json/x.json"], "cannot be written"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_what_can_be_known_is_asked_before_a_sample_is_drawn(
    run, small, more, says, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    (tmp_path / "one").mkdir()
    (tmp_path / "there.json").touch()
    grey = Image.fromarray(np.full((28, 28), 40, dtype=np.uint8))
    grey.save(tmp_path / "one" / "0.png")
    drawn = []
    draw = evaluation.draw
    monkeypatch.setattr(
        evaluation, "draw", lambda *a, **k: drawn.append(1) or draw(*a, **k)
    )
    command = ["evaluate", str(run), "-n", "30", "--device", "cpu"]
    assert main([*command, *more]) == 2
    assert says in capsys.readouterr().err and not drawn
    assert main(command) == 0 and drawn  # else nothing is drawn, whatever is asked
