"""Known pixels and known coefficients: bases, resampling times, inpainting; the parts of a cascade."""

import pytest
import torch
from laboratory import generator, randn

from ddpm_core import (
    UNet,
    linear_schedule,
    load_checkpoint,
    load_images,
    q_sample,
    to_model_range,
)
from ddpm_core.after.bases import Basis, grey_basis, haar_basis
from ddpm_core.after.cascade import (
    Enlarger,
    enlarger,
    enlarging,
    noise_condition,
    noised,
    shrink,
    with_condition,
)
from ddpm_core.after.inverse import inpaint_steps, resampling_times
from ddpm_core.data import data_folder
from ddpm_core.exact import gaussian

SCHEDULE = linear_schedule(200, 1e-3, 0.05)


@pytest.mark.parametrize(
    "basis", [grey_basis(), grey_basis((0.299, 0.587, 0.114)), haar_basis()]
)
def test_a_basis_keeps_lengths_and_can_be_undone(basis):
    x = randn(2, 3, 4, 6)
    c = basis.split(x)
    torch.testing.assert_close(basis.join(c), x)
    torch.testing.assert_close(c.square().sum(), x.square().sum())
    eps, t = randn(2, 3, 4, 6, seed=1), 90
    torch.testing.assert_close(  # it commutes with Eq. (4)
        basis.split(q_sample(SCHEDULE, x, t, eps)),
        q_sample(SCHEDULE, c, t, basis.split(eps)),
    )


def test_the_first_coefficient_is_what_the_name_says():
    x, w = randn(2, 3, 4, 4), torch.tensor([0.299, 0.587, 0.114]).double()
    grey = grey_basis(w.tolist()).split(x)[:, 0]
    torch.testing.assert_close(
        grey, torch.einsum("c,bchw->bhw", w, x) / w.norm(), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(haar_basis().split(x)[:, :3], 2 * shrink(x))


def test_bases_that_are_refused():
    yuv = torch.tensor(
        [[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]]
    )
    with pytest.raises(ValueError, match="not orthonormal"):
        Basis(yuv)
    with pytest.raises(ValueError, match="square"):
        Basis(torch.eye(3)[:2])
    with pytest.raises(ValueError, match="wanted 4 rows"):
        Basis(torch.eye(3), block=2)
    with pytest.raises(ValueError, match="not all 0"):
        grey_basis((0, 0, 0))
    with pytest.raises(ValueError, match="channels"):
        grey_basis().split(randn(1, 1, 2, 2))
    with pytest.raises(ValueError, match="blocks"):
        haar_basis().split(randn(1, 1, 3, 2))


def test_resampling_times():
    assert resampling_times(4, 1, 1) == [4, 3, 2, 1, 0]
    assert resampling_times(4, 2, 2) == [4, 3, 2, 1, 2, 3, 2, 1, 0]
    visits = resampling_times(250, 10, 10)
    down = sum(b < a for a, b in zip(visits, visits[1:]))
    assert down == 250 + 9 * 240 and all(
        abs(a - b) == 1 for a, b in zip(visits, visits[1:])
    )
    for bad in ((0, 1, 1), (4, 0, 1), (4, 2, 4), (4, 1.5, 1)):
        with pytest.raises(ValueError, match="wanted"):
            resampling_times(*bad)


def test_what_is_known_comes_back_exactly_and_resampling_helps():
    """Lab G with rho = .9: replacement alone leaves the mean too small, many resamplings reach the truth."""
    world = gaussian(torch.zeros(2), 0.25 * torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    n, y = 4000, 0.6
    # the two numbers of a point are the two channels of a picture of one pixel
    model = lambda x, t: world.model(SCHEDULE)(x.flatten(1), t).reshape(x.shape)
    known = torch.full((n, 2, 1, 1), y, dtype=torch.float64)
    mask = torch.tensor([True, False]).view(1, 2, 1, 1)
    mean = {}
    for resample in (1, 10):
        *_, (t, x, _) = inpaint_steps(
            model, SCHEDULE, known, mask, None, resample, 1,
            clip_x0=False, variance="beta", generator=generator(),
        )  # fmt: skip
        assert t == 0 and torch.equal(x[:, 0], known[:, 0])
        mean[resample] = x[:, 1].mean().item()
    assert mean[1] < 0.45 and abs(mean[10] - 0.54) < abs(mean[1] - 0.54) / 3


def test_known_greys_stay():
    x0, basis = randn(3, 3, 4, 4).clamp(-1, 1), grey_basis()
    known = basis.split(x0)
    mask = torch.tensor([True, False, False]).view(1, 3, 1, 1)
    model = lambda x, t: torch.zeros_like(x)
    *_, (_, x, _) = inpaint_steps(
        model, SCHEDULE, known, mask, basis, steps=5, generator=generator()
    )
    torch.testing.assert_close(basis.split(x)[:, 0], known[:, 0])


def test_masks_that_are_refused():
    model = lambda x, t: torch.zeros_like(x)
    x = randn(2, 1, 4, 4)
    for mask, error, words in (
        (torch.ones(4, 4, dtype=torch.bool), ValueError, "everything"),
        (torch.zeros(4, 4, dtype=torch.bool), ValueError, "nothing"),
        (torch.ones(4, 4), TypeError, "wanted bool"),
        (torch.eye(3) > 0, ValueError, "broadcasts"),
    ):
        with pytest.raises(error, match=words):
            next(inpaint_steps(model, SCHEDULE, x, mask))
    mask = torch.eye(4) > 0
    with pytest.raises(TypeError, match="wanted floats"):
        next(inpaint_steps(model, SCHEDULE, x.long(), mask))
    with pytest.raises(ValueError, match="NaN"):
        next(inpaint_steps(model, SCHEDULE, x / 0 * 0, mask))
    with pytest.raises(ValueError, match="variance"):
        next(inpaint_steps(model, SCHEDULE, x, mask, variance="learned"))
    with pytest.raises(ValueError, match="x_T"):
        next(inpaint_steps(model, SCHEDULE, x, mask, x_T=x[:1]))


def test_an_enlarger_starts_as_the_network_without_a_condition():
    torch.manual_seed(0)
    plain = UNet(8, 1, 16, (1, 2), 1, attention=(), dropout=0, groups=8).double()
    torch.nn.init.normal_(plain.conv_out.weight)
    wide = with_condition(plain, 2).double()
    x, z = (randn(3, 1, n, n) for n in (8, 4))
    beside = noise_condition(SCHEDULE, z, torch.tensor([0, 5, 200]), 0 * z, 8)
    torch.testing.assert_close(enlarger(wide, beside)(x, 7), plain(x, 7))
    assert beside.shape == (3, 2, 8, 8)
    torch.testing.assert_close(shrink(beside[:1, :1]), z[:1])  # s = 0: as it is
    levels = (1 - SCHEDULE.alpha_bar[[0, 5, 200]]).sqrt()
    torch.testing.assert_close(beside[:, 1, 0, 0], levels)
    with pytest.raises(ValueError, match="already"):
        with_condition(wide, 1)
    t, eps = torch.tensor([1, 50, 200]), randn(3, 1, 8, 8)
    loss = enlarging(Enlarger(wide), SCHEDULE, x, t, eps)
    assert loss.shape == (3,) and loss.requires_grad


def test_levels_and_sizes_that_are_refused():
    z = randn(1, 1, 4, 4)
    with pytest.raises(ValueError, match="wanted the paper's time"):
        noised(SCHEDULE, z, 201, z)
    with pytest.raises(ValueError, match="side divides"):
        noise_condition(SCHEDULE, z, 3, z, 10)
    with pytest.raises(ValueError, match="blocks"):
        shrink(randn(1, 1, 5, 4))
    with pytest.raises(ValueError, match="same shape"):
        noised(SCHEDULE, z, 3, z[0])


def test_the_kept_cascade_looks_at_the_small_picture():
    folder = data_folder() / "checkpoints" / "cascade"
    base, big = (load_checkpoint(folder / name) for name in ("base", "enlarger"))
    assert base.model.config["image_size"] == 14
    images, _ = load_images("fashion-mnist", "test")
    x0, g = to_model_range(images[:32]), generator()
    eps = torch.randn(x0.shape, generator=g)
    z, t = shrink(x0), 500
    x_t = q_sample(big.schedule, x0, t, eps)
    error = []
    for small in (z, z.flip(0)):
        told = noise_condition(big.schedule, small, 0, torch.zeros_like(z), 28)
        with torch.no_grad():
            error.append((enlarger(big.model, told)(x_t, t) - eps).square().mean())
    assert error[0] < error[1] / 1.5
