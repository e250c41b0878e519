"""The parts of pictures from words: tokens, losses, encoders, quantisers, control; and the stored networks."""

import hashlib
import json
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import ddpm_core as ddpm
from ddpm_core.after import (
    CLIP,
    Autoencoder,
    Control,
    Decoder,
    Prior,
    Tokenizer,
    VectorQuantizer,
    Whitening,
    Widened,
    clip_guidance,
    clip_loss,
    dynamic_threshold,
    kl_to_standard,
    perplexity,
    shrink,
    slerp,
)
from ddpm_core.cli import main
from ddpm_core.runtime.store import load_network, save_network
from experiments.words import train
from experiments.words.drawings import Drawings

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "data" / "checkpoints" / "words"
RESULTS = ROOT / "data" / "results" / "words"
SMALL = dict(
    image_size=8, channels=3, width=16, multipliers=(1, 2), blocks=1, attention=(4,),
    groups=8, dropout=0.0,
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def shaken(network, seed=0):
    torch.manual_seed(seed)
    for p in network.parameters():
        p.data += torch.randn_like(p) / 20
    return network.eval()


# --- words


def test_a_tokenizer_gives_the_text_back_and_joins_what_is_frequent():
    tokenizer = Tokenizer.learn(["red car", "red cart", "blue car"] * 3, merges=20)
    tokens = tokenizer(["Red cars, blue"])
    assert tokenizer.text(tokens[0].tolist()) == "red cars, blue"
    plain = Tokenizer([])(["red car"])
    assert (tokenizer(["red car"]) != 0).sum() < (plain != 0).sum()
    assert tokens[0, 0] == 1 and (tokens == 2).sum() == 1


def test_any_script_can_be_spelt():
    tokenizer = Tokenizer([])
    assert tokenizer.text(tokenizer(["문어 🐙"])[0].tolist()) == "문어 🐙"


@pytest.mark.parametrize(
    "captions, error, says",
    [
        ("octopus", TypeError, "list of strings"),
        ([3], TypeError, "list of strings"),
        ([""], ValueError, "no words"),
        (["  "], ValueError, "no words"),
        (["word " * 50], ValueError, "at most 22"),
    ],
)
def test_captions_that_do_not_fit(captions, error, says):
    with pytest.raises(error, match=says):
        Tokenizer([])(captions)


def test_a_tokenizer_file_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        Tokenizer.load(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match="is no tokenizer"):
        Tokenizer.load(tmp_path / "x.json")


def test_padding_is_not_read():
    torch.manual_seed(0)
    clip = shaken(CLIP(dict(width=16, multipliers=(1,), groups=8), dict(layers=1)))
    short, long = Tokenizer([], length=8), Tokenizer([], length=24)
    assert torch.allclose(
        clip.encode_texts(short(["red"])), clip.encode_texts(long(["red"])), atol=1e-6
    )
    with pytest.raises(TypeError, match="LongTensor"):
        clip.encode_texts(torch.ones(1, 8))


# --- CLIP


def test_the_loss_of_clip_is_two_cross_entropies():
    f, g = torch.nn.functional.normalize(
        torch.randn(2, 5, 7, generator=generator(), dtype=torch.float64), dim=2
    )
    s = 3 * f @ g.T
    rows = [s[i, i] - s[i].exp().sum().log() for i in range(5)]
    columns = [s[i, i] - s[:, i].exp().sum().log() for i in range(5)]
    wanted = -(sum(rows) + sum(columns)) / 10
    torch.testing.assert_close(clip_loss(f, g, 3.0), wanted)
    torch.testing.assert_close(
        clip_loss(0 * f, 0 * g, 3.0), torch.tensor(math.log(5), dtype=torch.float64)
    )
    with pytest.raises(ValueError, match="pair by pair"):
        clip_loss(f, g[:3], 3.0)


def test_the_scale_starts_at_its_value_and_stops_at_100():
    clip = CLIP(dict(width=16, multipliers=(1,), groups=8), dict(layers=1))
    assert clip.scale.item() == pytest.approx(1 / 0.07)
    clip.log_scale.data += 10
    assert clip.scale.item() == pytest.approx(100)


def test_clip_guidance_is_the_gradient_of_the_score():
    schedule = ddpm.linear_schedule(20)
    encode = lambda x, t: x.flatten(1) ** 2
    text = torch.randn(2, 12, generator=generator(), dtype=torch.float64)
    x = torch.randn(2, 3, 2, 2, generator=generator(1), dtype=torch.float64)
    zero = lambda x, t: 0 * x
    model = clip_guidance(zero, schedule, encode, text, s=2.0, scale=3.0)
    slope = 3 * (2 * x.flatten(1) * text).view_as(x)
    wanted = -2 * (1 - schedule.alpha_bar[7]).sqrt() * slope
    torch.testing.assert_close(model(x, 7), wanted, atol=1e-5, rtol=1e-5)


# --- the first stage


def test_sizes_of_an_autoencoder():
    first = Autoencoder(width=8, multipliers=(1, 2), groups=4)
    mean, log_var = first.encode(torch.zeros(2, 3, 8, 8))
    assert mean.shape == log_var.shape == (2, 4, 4, 4)
    assert first.decode(mean).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="divisible by 2"):
        first.encode(torch.zeros(2, 3, 7, 8))
    with pytest.raises(ValueError, match="wanted \\(B, 4, h, w\\)"):
        first.decode(torch.zeros(2, 3, 4, 4))


def test_the_kl_is_that_of_gaussians():
    mean, log_var = torch.randn(2, 3, 4, generator=generator(), dtype=torch.float64)
    q = torch.distributions.Normal(mean, (log_var / 2).exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    wanted = torch.distributions.kl_divergence(q, p).sum(1)
    torch.testing.assert_close(kl_to_standard(mean, log_var), wanted)


def test_a_quantiser_takes_the_nearest_and_lets_gradients_through():
    torch.manual_seed(0)
    vq = VectorQuantizer(6, 2)
    z = torch.randn(1, 2, 3, 3, requires_grad=True)
    out, k, loss = vq(z)
    flat = z.permute(0, 2, 3, 1)
    far = (flat[..., None, :] - vq.codebook.weight).square().sum(-1)
    assert torch.equal(k, far.argmin(-1))
    (3 * out).sum().backward(retain_graph=True)
    torch.testing.assert_close(z.grad, torch.full_like(z, 3.0))  # straight through
    assert vq.codebook.weight.grad is None or not vq.codebook.weight.grad.any()
    loss.backward()
    assert vq.codebook.weight.grad.abs().sum() > 0
    assert perplexity(torch.tensor([0, 1, 2, 3]), 8).item() == pytest.approx(4)


def test_whitening_and_back():
    z = (
        torch.randn(50, 4, 2, 2, generator=generator())
        * torch.tensor([0.2, 1.0, 3.0, 0.5]).view(4, 1, 1)
        + 1
    )
    white = Whitening.of(z)
    assert white(z).std((0, 2, 3)).sub(1).abs().max() < 1e-5
    torch.testing.assert_close(white.undo(white(z)), z)


# --- prior, decoder, control


def test_words_reach_the_prior_and_a_row_without_any_is_no_caption():
    prior = shaken(Prior(words=6, out=8, width=12, layers=1))
    x, words = torch.randn(2, 8), torch.randn(2, 3, 6)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    whole = torch.randn(2, 8)
    told = prior(x, 5, context=words, mask=mask, pooled=whole)
    none = prior(x, 5)
    torch.testing.assert_close(told[1], none[1])
    assert (told[0] - none[0]).abs().max() > 1e-3
    changed = words.clone()
    changed[0, 2] += 5
    torch.testing.assert_close(
        prior(x, 5, context=changed, mask=mask, pooled=whole), told
    )


def test_a_decoder_with_neither_words_nor_picture_is_one_network():
    net = shaken(Decoder(SMALL | {"context": 6}, out=8))
    x, words = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 6)
    none = net(x, 5)
    masked = torch.zeros(2, 3, dtype=torch.bool)
    torch.testing.assert_close(
        net(x, 5, context=words, mask=masked, pooled=torch.ones(2, 8), z=torch.zeros(2, 8)),
        none, atol=1e-5, rtol=1e-4,
    )  # fmt: skip
    assert (net(x, 5, z=torch.ones(2, 8)) - none).abs().max() > 1e-3
    assert (net(x, 5, context=words, pooled=torch.ones(2, 8)) - none).abs().max() > 1e-3


def test_control_starts_as_the_frozen_network_and_moves_with_the_first_step():
    unet = shaken(ddpm.UNet(**SMALL))
    net, x = Control(unet), torch.randn(2, 3, 8, 8)
    shape = torch.ones(2, 1, 8, 8)
    before = [p.clone() for p in unet.parameters()]
    assert torch.equal(net(x, 5, control=shape), unet(x, 5))
    loss = net(x, 5, control=shape).square().mean()
    loss.backward()
    slopes = [way.weight.grad.abs().sum() for way in net.out]
    assert min(slopes) > 0 and not any(p.grad is not None for p in unet.parameters())
    with torch.no_grad():
        for p in net.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    assert (net(x, 5, control=shape) - unet(x, 5)).abs().max() > 0
    assert all(torch.equal(a, b) for a, b in zip(before, unet.parameters()))
    with pytest.raises(ValueError, match="wanted \\(2, 1, 8, 8\\)"):
        net(x, 5, control=torch.ones(2, 1, 4, 4))


def test_widened_starts_as_the_network_that_it_widens_and_keeps_the_way_up(tmp_path):
    unet = shaken(ddpm.UNet(**SMALL))
    net, x = Widened(unet, 2).eval(), torch.randn(2, 3, 8, 8)
    beside = torch.randn(2, 2, 8, 8)
    assert torch.equal(net(x, 5, condition=beside), unet(x, 5))
    net.train()(x, 5, condition=beside).square().mean().backward()
    assert net.conv_in.weight.grad[:, 3:].abs().sum() > 0
    learned = {n.split(".")[0] for n, p in net.named_parameters() if p.grad is not None}
    assert learned == {"conv_in", "down", "middle"}
    with torch.no_grad():
        for p in net.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    moved = net.eval()(x, 5, condition=beside)
    assert (moved - unet(x, 5)).abs().max() > 0
    assert torch.equal(
        net.up[0].blocks[0].conv_1.weight, unet.up[0].blocks[0].conv_1.weight
    )
    # only what learned is kept; beside another network's way up it answers otherwise
    save_network(tmp_path / "net", net)
    back = load_network(tmp_path / "net", model=Widened(unet, 2)).network
    assert torch.equal(back(x, 5, condition=beside), moved)
    other = shaken(ddpm.UNet(**SMALL), seed=1)
    back = load_network(tmp_path / "net", model=Widened(other, 2)).network
    assert not torch.equal(back(x, 5, condition=beside), moved)
    with pytest.raises(ValueError, match="pass model="):
        load_network(tmp_path / "net")
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict({})


def test_slerp_keeps_the_length_that_the_straight_line_loses():
    a, b = torch.nn.functional.normalize(
        torch.randn(2, 5, 64, generator=generator(), dtype=torch.float64), dim=2
    )
    half = slerp(a, b, 0.5)
    torch.testing.assert_close(half.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert ((a + b) / 2).norm(dim=1).max() < 0.9
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, a, 0.3), a)


def test_dynamic_thresholding():
    x = 1.3 * torch.randn(4, 3, 8, 8, generator=generator())
    once = dynamic_threshold(x, 0.95)
    assert once.abs().max() <= 1
    torch.testing.assert_close(dynamic_threshold(once, 0.95), once)
    inside = x / x.abs().max()
    torch.testing.assert_close(dynamic_threshold(inside, 0.95), inside)
    assert (once.abs() == 1).float().mean() < (x.clamp(-1, 1).abs() == 1).float().mean()
    with pytest.raises(ValueError, match="quantile = 0"):
        dynamic_threshold(x, 0)


# --- the stored networks

STORED = sorted(p.parent.name for p in WEIGHTS.glob("*/weights.safetensors"))


def test_the_weights_fit_into_what_was_promised():
    sizes = [p.stat().st_size for p in WEIGHTS.glob("*/weights.safetensors")]
    assert len(STORED) >= 10 and sum(sizes) <= 35e6


@pytest.mark.parametrize("name", STORED)
def test_a_stored_network_loads_and_its_card_names_its_sum(name):
    network = load_network(WEIGHTS / name, model=train.around(name)).network
    assert all(bool(p.isfinite().all()) for p in network.parameters())
    assert sum(p.numel() for p in network.parameters()) < 3.1e6
    digest = hashlib.sha256((WEIGHTS / name / "weights.safetensors").read_bytes())
    assert digest.hexdigest() in (WEIGHTS / name / "README.md").read_text()


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda p: p.stem)
def test_results_name_the_weights_that_are_there(file):
    about = json.loads(file.read_text())["about"]
    for name, digest in about["weights"].items():
        found = hashlib.sha256((WEIGHTS / name / "weights.safetensors").read_bytes())
        assert found.hexdigest() == digest, name
    assert about["command"].startswith("python -m experiments.words.measure")


def test_what_is_said_of_clip_is_found_again():
    """200 of the held-out pairs: recall at 5 among them, near the stored one among all."""
    clip = load_network(WEIGHTS / "clip").network
    tokenizer = Tokenizer.load(WEIGHTS / "tokenizer.json")
    images, captions, _ = ddpm.load_captioned("emoji", "pair")
    chosen = torch.randperm(len(images), generator=generator())[:200].tolist()
    with torch.no_grad():
        f = clip.encode_images(ddpm.to_model_range(images[chosen]))
        g = clip.encode_texts(tokenizer([captions[i] for i in chosen], cut=True))
    score = f @ g.T
    matched = score.diag()
    stored = json.loads((RESULTS / "clip.json").read_text())["clip"]["pair"]
    # the mean of 200 of 1,574 cosines: within four of its standard errors
    error = matched.std() / math.sqrt(200)
    assert (matched.mean() - stored["matched cosine"]).abs() < 4 * error
    top = (score.topk(5).indices == torch.arange(200)[:, None]).any(1).float().mean()
    assert top > stored["image to text R@5"]  # fewer to be mistaken for


def stored(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_what_is_said_of_guidance_by_words_stands_in_the_tables():
    glide, push, own = stored("glide"), stored("clipguide"), "by the generator's CLIP"
    real, sweep = glide["rows"]["real"], glide["sweep"]
    assert max(r["top5"] for r in sweep.values()) < real["top5"] / 2
    assert (
        sweep["8.0"][own]["top5"]
        > glide["rows"]["real, by the generator's CLIP"]["top5"]
    )
    assert sorted(sweep, key=lambda s: sweep[s]["kid"])[:2] == ["2.0", "3.0"]
    far, near = "nearest training picture", "nearest training picture, real"
    assert sweep["3.0"][far] > glide["training pairs, s = 3"][far] > glide["rows"][near]
    fooled = push["sweep"]["clean, s = 30"]
    assert fooled["by the guiding CLIP"]["top5"] > 0.9 > 10 * fooled["top5"]
    told, clean = (
        {int(k.split("= ")[1]): v for k, v in push["accuracy"].items() if kind in k}
        for kind in ("told t", "clean")
    )
    assert clean[50] > told[50] + 0.06 and abs(clean[100] - told[100]) < 0.06
    assert all(told[t] > clean[t] + 0.1 for t in (200, 300, 500))


def test_what_is_said_of_the_readers_stands_in_the_tables():
    curves = stored("readers")["training loss"]
    clip, along, minilm = (
        curves[f"reader-{name}"] for name in ("clip", "scratch", "minilm")
    )
    for first, last in ((500, 1000), (1000, 1500), (1500, 2000), (2000, 2450)):
        means = [
            sum(loss for step, loss in curve if first < step <= last)
            for curve in (clip, along, minilm)
        ]
        assert means == sorted(means)


def test_what_is_said_of_the_prior_stands_in_the_tables():
    d, scales = stored("dalle2")["decoder"], stored("scales")
    own, drawn, key = (
        d["the text's own"],
        d["prior, s = 2"],
        "R@1 of the true among all",
    )
    assert own[key] > drawn[key] and own["top5"] < drawn["top5"]
    best = scales["words and prior, s = 8"]["top5"]
    error = (best * (1 - best) / 256) ** 0.5
    assert best > scales["words, s = 8"]["top5"] + 2 * error
    assert abs(best - scales["rows"]["real"]["top5"] / 2) < error


def test_what_is_said_of_channels_beside_latents_stands_in_the_tables():
    found = stored("inpaint")
    hidden, fits = found["hidden"], found["map"]
    less = lambda name: hidden[name]["rms less replacement's"]
    # worse than replacement, better than knowing nothing of the rest
    assert less("channels")["mean"] > 3 * less("channels")["error"]
    assert (
        hidden["channels"]["rms"]["mean"] < hidden["the rest not known"]["rms"]["mean"]
    )
    assert less("replacement, three times")["mean"] < 0
    both = hidden["channels and replacement"]["rms"]["mean"]
    alone = (hidden[name]["rms"]["mean"] for name in ("replacement", "channels"))
    assert next(alone) < both < next(alone)
    assert less("channels and map")["mean"] < -2 * less("channels and map")["error"]
    assert less("replacement, latents of the whole")["mean"] > 0
    assert less("replacement, a rim left out")["mean"] > 0
    best = fits["the autoencoder"]["mean"]
    assert best > fits["map"]["mean"] > 0.8 > fits["no map"]["mean"] + 0.1


# --- what the training of these networks takes for granted


def test_the_enlarger_knows_how_far_bicubic_enlargement_is_off():
    """BLUR is "roughly" that: held-out drawings as they are trained on, moved and on grounds, are smoother, and on white rougher."""
    tokenizer = Tokenizer.load(WEIGHTS / "tokenizer.json")
    data = Drawings(("pair",), tokenizer, size=64, things=True)
    torch.manual_seed(0)
    rows = torch.randperm(len(data))[:256]
    errors = []
    for x in (data.batch(256).x, data.place(rows, torch.zeros_like(rows), move=False)):
        large = torch.nn.functional.interpolate(
            shrink(x), scale_factor=2.0, mode="bicubic"
        )
        off = (large - x).square().flatten(1).mean(1)
        errors.append((off.mean(), off.std() / 16))
    (smooth, a), (rough, b) = errors
    assert smooth + 2 * a < train.BLUR < rough - 2 * b


def test_what_is_hidden_is_a_rectangle_or_a_half():
    torch.manual_seed(0)
    hidden = 1 - train.known_part(400, 16, torch.device("cpu"))
    tall, wide = (hidden.amax(side).flatten(1).sum(1) for side in (3, 2))
    assert torch.equal(hidden.flatten(1).sum(1), tall * wide)
    half = (tall * wide == 128) & ((tall == 16) | (wide == 16))
    assert 0.4 < half.float().mean() < 0.6
    assert min(tall.min(), wide.min()) >= 4 and not (tall * wide)[~half].gt(144).any()


def test_channels_beside_latents_are_zero_where_nothing_is_told():
    z, thing = torch.randn(3, 4, 4, 4), torch.ones(3, 1, 4, 4)
    known = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1, 1).expand(-1, -1, 4, 4)
    told = torch.tensor([True, True, False])
    beside = train.beside_latents(z, known, thing, told)
    assert beside.shape == (3, train.BESIDE, 4, 4)
    assert torch.equal(beside[0, :4], z[0]) and not beside[1, :5].any()
    assert torch.equal(beside[:2, 5:], torch.ones(2, 2, 4, 4)) and not beside[2].any()
    x = torch.randn(1, 3, 16, 16)
    part = train.without(x, torch.eye(4).view(1, 1, 4, 4))
    assert (
        torch.equal(part[..., :4, :4], x[..., :4, :4]) and not part[..., :4, 4:].any()
    )


# --- ddpm draw


def test_the_command_draws_what_is_said(tmp_path, capsys):
    out = tmp_path / "octopus.png"
    words = "glossy octopus on a light blue ground"
    said = ["draw", words, "--n", "2", "--steps", "5", "--out", str(out)]
    assert main(said) == 0
    with Image.open(out) as picture:
        assert picture.size == (65, 32)
        corner = picture.convert("RGB").getpixel((1, 1))
    assert corner[2] > corner[0] + 30  # it is on blue
    assert "2 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    "caption, says",
    [
        ("", "no words"),
        ("glossy octopuss", "never read 'octopuss'.*octopus"),
        ("red " * 60, "at most 22"),
    ],
)
def test_captions_that_cannot_be_drawn(caption, says, tmp_path, capsys):
    out = tmp_path / "x.png"
    assert main(["draw", caption, "--out", str(out)]) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not out.exists()
