"""The commands that make the paper's figures and its Table 2 on a GPU, run here on the smallest network and images there are."""

import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from laboratory import SHORT, generator, randomise, small_unet
from PIL import Image

import ddpm_core as ddpm
from ddpm_core.figures import image_grid
from experiments import ablation, paper_figures


@pytest.fixture
def run(tmp_path):
    """A run of 20 steps' schedule and a folder of pictures of its size."""
    pixels = torch.randint(0, 256, (8, 8, 8), generator=generator(), dtype=torch.uint8)
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image.numpy()).save(tmp_path / "pictures" / f"{i}.png")
    ddpm.save_checkpoint(
        tmp_path / "run", randomise(small_unet()).eval(), SHORT, step=1
    )
    return tmp_path


def test_figures_5_to_8_of_any_run(run):
    main = lambda out: paper_figures.main(
        [
            str(run / "run"),
            "--data",
            f"folder:{run}/pictures",
            "--out",
            str(run / out),
            "--rows",
            "2",
            "--bound",
            "4",
            "--batch-size",
            "3",
            "--device",
            "cpu",
        ]
    )
    main("figures")
    about = json.loads((run / "figures" / "figure5.json").read_text())
    images, _ = ddpm.load_images(f"folder:{run}/pictures")
    x0 = ddpm.to_model_range(
        images[torch.randperm(8, generator=torch.Generator().manual_seed(0))[:4]]
    )
    model = ddpm.load_checkpoint(run / "run").model
    one = [
        ddpm.bits_per_dim(
            model,
            SHORT,
            x,
            clip_x0=True,
            generator=paper_figures.seeds(0, len(x), "bound", i),
        )
        for i, x in enumerate(x0.split(3))
    ]
    assert about["bits_per_dim"] == pytest.approx(
        torch.cat([part.total for part in one]).mean().item(), rel=1e-5
    )
    assert about["rate"][0] == pytest.approx(
        torch.cat([part.total - part.terms[:, 0] for part in one]).mean().item(),
        rel=1e-4,
    )
    assert len(about["rate"]) == len(about["rmse"]) == SHORT.T and all(
        a >= b for a, b in zip(about["rate"], about["rate"][1:])
    )
    pages = {
        name: np.array(Image.open(run / "figures" / f"{name}.png"))
        for name in ("figure6", "figure7", "figure8")
    }
    assert [page.shape for page in pages.values()] == [
        (17, 11 * 9 - 1),
        (17, 17 * 9 - 1),
        (17, 11 * 9 - 1),
    ]
    ends = ddpm.to_uint8(x0)[:, 0].numpy()
    assert (
        (pages["figure8"][:8, :8] == ends[0]).all()
        and (pages["figure8"][:8, -8:] == ends[2]).all()
        and (pages["figure7"][:8, -8:] == ends[0]).all()
    )
    draws = [pages["figure7"][:8, 9 * k : 9 * k + 8] for k in range(16)]
    assert not any((a == b).all() for i, a in enumerate(draws) for b in draws[:i]), (
        "sixteen different draws"
    )
    main("again")
    assert all(
        (run / "again" / f"{name}.png").read_bytes()
        == (run / "figures" / f"{name}.png").read_bytes()
        for name in pages
    )


def test_the_network_may_be_one_of_diffusers(run):
    ddpm.to_diffusers(randomise(small_unet()).eval(), run / "theirs")
    paper_figures.main(
        [
            str(run / "theirs"),
            "--data",
            f"folder:{run}/pictures",
            "--out",
            str(run / "figures"),
            "--rows",
            "1",
            "--bound",
            "2",
            "--steps",
            "3",
            "--device",
            "cpu",
        ]
    )
    assert (
        len(json.loads((run / "figures" / "figure5.json").read_text())["rate"]) == 1000
    )
    with pytest.raises(
        SystemExit, match="has 8 images; wanted 9: lower --bound or --rows"
    ):
        paper_figures.main(
            [
                str(run / "theirs"),
                "--data",
                f"folder:{run}/pictures",
                "--out",
                str(run / "figures"),
                "--rows",
                "1",
                "--bound",
                "9",
            ]
        )


@pytest.mark.parametrize("row", list(ablation.ROWS))
def test_a_row_of_table_2(row, tmp_path):
    o = Namespace(
        T=25,
        paper=False,
        width=8,
        steps=2,
        batch_size=2,
        lr=1e-3,
        ema=0.9,
        data="folder",
        samples=100,
        bound=2,
        out=tmp_path,
    )
    images = torch.randint(
        0, 256, (4, 1, 8, 8), generator=generator(), dtype=torch.uint8
    )
    result = ablation.measure(
        row,
        1,
        o,
        images,
        images,
        lambda samples: (float(samples.float().mean()), len(samples) / 100),
    )
    assert (
        result["row"] == row
        and result["sure"] == 1.0
        and 0 < result["frechet"] < 255
        and len(result["loss"]) == 2
    )
    bound = ddpm.bits_per_dim(
        ddpm.load_checkpoint(tmp_path / f"{row}-1").model,
        ddpm.linear_schedule(25, 0.1 / 25, 20 / 25),
        ddpm.to_model_range(images[:2]),
        ablation.ROWS[row][2],
        clip_x0=True,
        generator=[
            torch.Generator().manual_seed(ablation.mix(1, "bound", i)) for i in range(2)
        ],
    )
    assert result["bits"] == pytest.approx(bound.total.mean().item(), rel=1e-4)


def test_the_ablation_goes_on_from_what_is_stored(tmp_path):
    stored = json.loads((ablation.RESULTS / "ablation.json").read_text())
    runs = stored["runs"]
    first = tmp_path / "eps-simple-0"
    first.mkdir()
    (first / "result.json").write_text('{"row": "eps-simple"}')  # made here: kept
    taken = ablation.take_stored(tmp_path, stored["settings"])
    assert len(taken) == len(runs) - 1 and ("eps-simple", 0) not in taken
    assert (first / "result.json").read_text() == '{"row": "eps-simple"}'
    for run in runs:
        made = tmp_path / f"{run['row']}-{run['seed']}"
        assert made == first or json.loads((made / "result.json").read_text()) == run
    sheet = np.array(Image.open(ablation.RESULTS / "ablation.png").convert("L"))
    rows = [row for row in stored["rows"] if row != "eps-simple"]
    for row in rows:
        drawn = torch.load(tmp_path / f"{row}-0" / "samples.pt", weights_only=True)
        k = list(stored["rows"]).index(row)
        assert (image_grid(drawn, 10, gap=0) == sheet[14 * k : 14 * k + 14]).all()
    with pytest.raises(SystemExit, match=r"steps 1500, not 900; give the same"):
        ablation.take_stored(tmp_path, {**stored["settings"], "steps": 900})
