"""The wheel: complete, and of use in an empty folder, without the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

USE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import ddpm_core as ddpm
from ddpm_core.features import fashion_features
assert ddpm.__file__.startswith(sys.argv[1]), ddpm.__file__
model = ddpm.UNet(8, 1, width=8, multipliers=(1,), attention=(), groups=4)
model = ddpm.train(model, ddpm.linear_schedule(10), torch.zeros(4, 1, 8, 8, dtype=torch.uint8), steps=1, batch_size=2, out="run", progress=False)
print(tuple(ddpm.sample(ddpm.load_checkpoint("run").model, ddpm.linear_schedule(10), (2, 1, 8, 8)).shape))
for wanted in (lambda: ddpm.load_images("fashion-mnist"), fashion_features):
    try:
        wanted()
    except FileNotFoundError as error:
        print(error)
from ddpm_core.cli import main, train
assert train.__file__.startswith(sys.argv[1]), train.__file__
assert main(["sample", "run", "-n", "1", "--steps", "2", "--out", "one.png"]) == 0
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = (
        folder / "source"
    )  # a copy: setuptools leaves its build folder beside the source
    source.mkdir()
    for name in ("ddpm_core", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "--quiet",
            "-w",
            str(folder),
            str(source),
        ],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-2000:]
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_the_wheel_has_every_module_its_types_and_the_licence(unpacked: Path) -> None:
    """Those in its folders as well, each of which pyproject.toml has to name."""
    here = (ROOT / "ddpm_core").rglob("*")
    wanted = {file for file in here if file.suffix in (".py", ".typed")}
    assert len({file.parent for file in wanted}) > 3
    for file in wanted:
        assert (unpacked / file.relative_to(ROOT)).is_file(), file
    assert list(unpacked.glob("*.dist-info/licenses/LICENSE"))


def test_it_works_without_the_repository_and_says_where_data_is_expected(
    unpacked: Path, tmp_path: Path
) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name != "DDPM_DATA"
    }
    done = subprocess.run(
        [sys.executable, "-c", USE, str(unpacked)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shape, images, classifier, *command = done.stdout.splitlines()
    assert shape == "(2, 1, 8, 8)"
    assert "DDPM_DATA" in images and "DDPM_DATA" in classifier
    assert command == ["one.png: 1 images of 8 x 8"]
