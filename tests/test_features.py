"""The classifier that is shipped is the one that its card describes, and files that are not it are refused."""

import hashlib
import json
import math
import pickle
import shutil
import sys
import types

import pytest
import torch
from laboratory import generator, randomise
from safetensors.torch import load_file, save_file

from ddpm_core import load_images, to_model_range
from ddpm_core.data import data_folder
from ddpm_core.features import (
    INCEPTION,
    FashionClassifier,
    classify,
    fashion_features,
    inception_features,
)
from experiments import train_classifier

SHIPPED = data_folder() / "checkpoints" / "fashion-classifier"


@pytest.fixture(scope="module")
def classifier():
    return fashion_features()


@pytest.fixture(scope="module")
def thousand():
    """A thousand test images, chosen by a seed, with their labels."""
    images, labels = load_images("fashion-mnist", "test")
    chosen = torch.randperm(len(images), generator=generator(1))[:1000]
    return images[chosen], labels[chosen]


def test_the_card_tells_the_truth(classifier, thousand):
    images, labels = thousand
    p, answer = classify(classifier, images)[1].softmax(1).max(1)
    card = json.loads((SHIPPED / "classifier.json").read_text())
    # 1,000 of 10,000 without replacement: four standard errors, less than the binomial ones by the factor sqrt(0.9)
    for measured, stated in (
        (answer == labels, card["accuracy"]),
        (p > 0.9, card["sure"]),
    ):
        assert abs(float(measured.double().mean()) - stated) <= 4 * math.sqrt(
            stated * (1 - stated) * 0.9 / 1000
        )
    assert card["accuracy"] > 0.92
    right = (answer == labels)[p > 0.9].double()
    stated = card["accuracy_where_sure"]
    assert abs(float(right.mean()) - stated) <= 4 * math.sqrt(
        stated * (1 - stated) / len(right)
    )


def test_the_readme_says_what_the_card_says(classifier):
    card, text = classifier.card, (SHIPPED / "README.md").read_text()
    for fact in (
        card["command"],
        card["sha256"],
        f"{card['accuracy']:.2%}",
        f"{card['sure']:.2%}",
        f"{card['parameters']:,}",
        card["machine"],
        "MIT",
    ):
        assert fact in text
    assert card["parameters"] == sum(p.numel() for p in classifier.parameters())
    assert (
        card["curve"][-1]["test_accuracy"] == card["accuracy"]
        and len(card["curve"]) == card["epochs"]
    )
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 4e6
    assert (
        hashlib.sha256((SHIPPED / "weights.safetensors").read_bytes()).hexdigest()
        == card["sha256"]
    )


def test_shapes_and_ranges(classifier, thousand):
    images = thousand[0][:7]
    features, logits = classifier(images)
    assert (
        features.shape == (7, 64)
        and logits.shape == (7, 10)
        and features.dtype == logits.dtype == torch.float32
    )
    assert features.min() >= 0 and not features.requires_grad
    torch.testing.assert_close(
        classifier(to_model_range(images)), (features, logits), rtol=0, atol=0
    )
    torch.testing.assert_close(
        classifier(to_model_range(images).double()), (features, logits), rtol=0, atol=0
    )


def test_an_answer_depends_on_its_image_only(classifier, thousand):
    """Whatever the mode and the batch: batch normalisation has been folded in. Sums in another order: 1e-5."""
    images = thousand[0][:20]
    alone = torch.cat([classifier(image[None])[1] for image in images])
    classifier.train()
    together = classifier(images)[1]
    classifier.eval()
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    features, logits = classify(classifier, images, batch_size=6)
    torch.testing.assert_close(logits, together, rtol=1e-5, atol=1e-5)
    assert features.shape == (20, 64)


def test_the_fold_is_exact():
    """With statistics that are not 0 and 1, which a fold that forgets one of them would hide."""
    network = train_classifier.in_training(FashionClassifier())
    randomise(network)
    for layer in network:
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(generator=generator(1))
            layer.running_var.uniform_(0.5, 2, generator=generator(2))
    images = torch.randint(
        0, 256, (5, 1, 28, 28), generator=generator(), dtype=torch.uint8
    )
    expected = network.eval()(to_model_range(images))
    torch.testing.assert_close(
        train_classifier.folded(network)(images)[1], expected, rtol=1e-4, atol=1e-5
    )


def test_what_the_script_measures():
    """Two of three right; two sure, one of them right; bins [0.5, 0.6) and [0.9, 1]."""
    p = torch.tensor([[0.99, 0.01], [0.55, 0.45], [0.05, 0.95]], dtype=torch.float64)
    result = train_classifier.measured(p.log(), torch.tensor([0, 0, 0]))
    assert (
        result["accuracy"] == pytest.approx(2 / 3)
        and result["sure"] == pytest.approx(2 / 3)
        and result["accuracy_where_sure"] == pytest.approx(1 / 2)
    )
    assert result["right_by_class"][0] == pytest.approx(2 / 3)
    assert result["mean_top_probability"] == pytest.approx((0.99 + 0.55 + 0.95) / 3)
    assert result["calibration_error"] == pytest.approx(
        (1 * abs(0.55 - 1) + 2 * abs(0.97 - 0.5)) / 3
    )


def test_what_the_script_writes_is_what_is_loaded(tmp_path):
    network = randomise(FashionClassifier()).eval()
    card = {"format": train_classifier.FORMAT, "accuracy": 0.5}
    (tmp_path / "classifier").mkdir()
    (tmp_path / "classifier" / "old").touch()
    train_classifier.write(
        tmp_path / "classifier",
        network,
        card,
        "{accuracy:.0%}, {sha256}, {word}",
        {"word": "yes"},
    )
    loaded = fashion_features(tmp_path / "classifier")
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded.parameters(), network.parameters(), strict=True)
    )
    assert loaded.card["accuracy"] == 0.5
    assert (
        tmp_path / "classifier" / "README.md"
    ).read_text() == f"50%, {loaded.card['sha256']}, yes"
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "README.md",
        "classifier",
        "classifier.json",
        "weights.safetensors",
    ]


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(SHIPPED, tmp_path / "classifier")


def rewrite(folder, packed: bytes) -> None:
    """Other weights, with their own hash, as somebody would publish them."""
    (folder / "weights.safetensors").write_bytes(packed)
    card = json.loads((folder / "classifier.json").read_text())
    (folder / "classifier.json").write_text(
        json.dumps({**card, "sha256": hashlib.sha256(packed).hexdigest()})
    )


class Bomb:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('exploded').touch()",)


def test_damaged_weights_are_noticed_by_their_hash(copy):
    file = copy / "weights.safetensors"
    packed = bytearray(file.read_bytes())
    packed[-5] ^= 1
    file.write_bytes(packed)
    with pytest.raises(
        ValueError,
        match=r"weights\.safetensors \(\d+ bytes\) is damaged: its SHA-256 is not the one in classifier\.json",
    ):
        fashion_features(copy)
    file.write_bytes(packed[:1000])
    with pytest.raises(ValueError, match=r"\(1000 bytes\) is damaged"):
        fashion_features(copy)


def test_hostile_weights_are_not_executed(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for hostile in (
        pickle.dumps(Bomb()),
        b"\xff" * 100,
        (10**12).to_bytes(8, "little") + b"{}",
        b"",
    ):
        rewrite(copy, hostile)
        with pytest.raises(ValueError, match="does not hold the classifier's weights"):
            fashion_features(copy)
    torch.save({"body": Bomb()}, tmp_path / "bomb.pt")
    rewrite(copy, (tmp_path / "bomb.pt").read_bytes())
    with pytest.raises(ValueError, match="does not hold the classifier's weights"):
        fashion_features(copy)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "change", ["other names", "other shapes", "one too many", "one too few"]
)
def test_weights_of_another_network_are_refused(copy, change, tmp_path):
    weights = load_file(SHIPPED / "weights.safetensors")
    if change == "other names":
        weights = {f"net.{name}": tensor for name, tensor in weights.items()}
    elif change == "other shapes":
        weights["head.weight"] = torch.zeros(11, 64)
    elif change == "one too many":
        weights["extra"] = torch.zeros(1)
    else:
        del weights["head.bias"]
    save_file(weights, tmp_path / "other.safetensors")
    rewrite(copy, (tmp_path / "other.safetensors").read_bytes())
    with pytest.raises(
        ValueError, match="does not hold the classifier's weights: Error"
    ):
        fashion_features(copy)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"format": "something else"}', "[" * 100000]
)
def test_a_foreign_card_is_refused(copy, text):
    (copy / "classifier.json").write_text(text)
    with pytest.raises(ValueError, match=r"classifier\.json (is not JSON|says format)"):
        fashion_features(copy)


@pytest.mark.parametrize("name", ["classifier.json", "weights.safetensors"])
def test_missing_files_are_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing; work in a clone"):
        fashion_features(copy)


def test_data_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="set DDPM_DATA"):
        fashion_features()
    shutil.copytree(SHIPPED, tmp_path / "checkpoints" / "fashion-classifier")
    assert fashion_features().card["accuracy"] > 0.9


GREY = torch.zeros(2, 1, 28, 28)


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        (
            GREY.int(),
            TypeError,
            "a tensor of torch.int32; wanted a tensor of uint8, or of floats",
        ),
        ([1, 2], TypeError, "images are list"),
        (GREY[0], ValueError, "shape (1, 28, 28); wanted (N, 1, 28, 28)"),
        (torch.zeros(2, 3, 28, 28), ValueError, "shape (2, 3, 28, 28)"),
        (torch.zeros(2, 1, 32, 32), ValueError, "shape (2, 1, 32, 32)"),
        (GREY + 255, ValueError, "outside [-1, 1]"),
        (GREY / 0, ValueError, "or NaN"),
        (GREY[:0], ValueError, "or there are none"),
    ],
)
def test_bad_images_are_named(images, error, says):
    with pytest.raises(error) as raised:
        FashionClassifier()(images)
    assert says in str(raised.value)


def pretend_torch_fidelity(monkeypatch):
    """torch-fidelity's extractor as its source has it: names of features in, uint8 in three colours in, a tuple of them out."""

    class Extractor(torch.nn.Module):
        def __init__(
            self,
            name,
            features_list,
            feature_extractor_weights_path=None,
            feature_extractor_internal_dtype=None,
        ):
            super().__init__()
            assert features_list == ["2048", "logits_unbiased"]
            self.weight = torch.nn.Parameter(
                torch.load(feature_extractor_weights_path)["weight"]
            )

        def forward(self, x):
            assert x.dtype == torch.uint8 and x.shape[1] == 3
            mean = x.double().mean((1, 2, 3))[:, None].float() * self.weight
            return mean.expand(-1, 2048), -mean.expand(-1, 1008)

    package, module = (
        types.ModuleType("torch_fidelity"),
        types.ModuleType("torch_fidelity.feature_extractor_inceptionv3"),
    )
    module.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(
        sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module
    )


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch.hub, and no network."""

    def unreachable(*_, **__):
        raise OSError("the network is unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    return tmp_path / "hub" / "checkpoints" / INCEPTION


def test_inception_without_torch_fidelity(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(
        FileNotFoundError,
        match="Inception features need torch-fidelity, which is not installed; run: pip install",
    ) as raised:
        inception_features()
    assert str(hub) in str(raised.value)


def test_inception_without_its_weights(hub, monkeypatch):
    pretend_torch_fidelity(monkeypatch)
    with pytest.raises(
        FileNotFoundError,
        match=r"could not be fetched \(the network is unreachable\); where there is a network, download https://",
    ) as raised:
        inception_features()
    assert str(hub) in str(raised.value)


def test_inception_weights_are_compared_and_read_as_tensors_only(
    hub, monkeypatch, tmp_path
):
    pretend_torch_fidelity(monkeypatch)
    monkeypatch.chdir(tmp_path)
    hub.parent.mkdir(parents=True)
    torch.save({"weight": torch.tensor(2.0)}, hub)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 begins with"):
        inception_features()

    digits = hashlib.sha256(hub.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr("ddpm_core.features.INCEPTION", f"weights-{digits}.pth")
    hub.rename(hub.with_name(f"weights-{digits}.pth"))
    extract = inception_features()
    features, logits = classify(
        extract, torch.full((3, 1, 8, 8), 7, dtype=torch.uint8), batch_size=2
    )
    assert features.shape == (3, 2048) and logits.shape == (3, 1008)
    assert (features == 14).all() and (logits == -14).all()
    with pytest.raises(ValueError, match="images have 2 channels; wanted 1 or 3"):
        extract(torch.zeros(1, 2, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match="wanted a uint8 tensor"):
        extract(torch.zeros(1, 3, 8, 8))

    torch.save({"weight": Bomb()}, hub)
    digits = hashlib.sha256(hub.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr("ddpm_core.features.INCEPTION", f"weights-{digits}.pth")
    hub.rename(hub.with_name(f"weights-{digits}.pth"))
    with pytest.raises(ValueError, match="holds more than tensors"):
        inception_features()
    assert not (tmp_path / "exploded").exists()
