"""The box that draws from words, for the reader's browser: write book/words/ out of data/checkpoints/words.

    python -m book._tools.export_words            after every training of clip or decoder
    python -m book._tools.export_words --check    write nothing; fail if what lies there was made from other weights

    text.onnx      CLIP's reader: tokens (1, K) -> what the decoder is told of them, and of no words
    decoder.onnx   eps_theta(x_t, t, context, pooled)
    words.json     the sums of the weights they were made from and of themselves, the tokenizer, the words and things that it knows
    figure.html    the figure of book/words.md, with a run that is stored, for browsers that cannot make one

Kernels and matrices are stored in 8 bits, each row (of a kernel: each channel that comes out) with its own scale: a quarter of their
size. What that costs is measured: python -m experiments.words.measure box.
"""

import base64
import gzip
import html
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto

import ddpm_core as ddpm
from book._tools.export_onnx import (
    RUNTIME,
    Graph,
    normals,
    page_figure,
    run_slider,
    sha256,
)
from ddpm_core.after.clip import CLIP
from ddpm_core.after.prior import Decoder
from ddpm_core.after.reading import known_words, words_network, words_tokenizer
from ddpm_core.after.text import TextEncoder
from ddpm_core.captions import GROUNDS, STYLES, load_captioned
from ddpm_core.data import data_folder

TARGET = Path(__file__).resolve().parents[1] / "words"
MADE_OF = ("clip", "decoder")
STORED: dict[str, Any] = {  # what the page offers first, and the run stored in it
    "artist": "noto",
    "thing": "lemon",
    "ground": "light blue",
    "seed": 1,
    "scale": 5,
    "steps": 25,
}


def eight_bits(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix or a kernel -> whole numbers from -127 to 127, int8, and the scale of each row: w is near their product."""
    rows = w.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    scale = rows.view(-1, *[1] * (w.ndim - 1)).float()
    return (w / scale).round().to(torch.int8), scale


def in_eight_bits(network: torch.nn.Module) -> None:
    """Rounds a network's kernels and matrices, in place, as the files of the page hold them."""
    with torch.no_grad():
        for name, w in network.named_parameters():
            if wide(name, w):
                whole, scale = eight_bits(w)
                w.copy_(whole * scale)


def wide(name: str, w: torch.Tensor) -> bool:
    """Whether a parameter is stored in 8 bits: kernels and matrices are, single rows are not."""
    return w.ndim > 1 and len(w) > 1


class Eight(Graph):
    """A graph whose kernels and matrices are stored in 8 bits and made floats again when the file is loaded."""

    def weight(self, name: str, transpose: bool = False) -> str:
        if name in self.widened:
            return self.widened[name]
        w = self.weights[name]
        if not wide(name, w):
            self.constants[name] = w.numpy()
            self.widened[name] = name
            return name
        whole, scale = (
            np.ascontiguousarray(part.numpy().T if transpose else part.numpy())
            for part in eight_bits(w)
        )
        self.constants[name], self.constants[f"{name}.scale"] = whole, scale
        as_floats = self.op("Cast", name, to=TensorProto.FLOAT)
        self.widened[name] = self.op("Mul", as_floats, f"{name}.scale")
        return self.widened[name]

    def layer_norm(self, name: str, x: str) -> str:
        away = self.op("Sub", x, self.op("ReduceMean", x, axes=[-1], keepdims=1))
        square = self.op("Mul", away, away)
        var = self.op("ReduceMean", square, axes=[-1], keepdims=1)
        std = self.op("Sqrt", self.op("Add", var, self.constant(1e-5)))
        scaled = self.op(
            "Mul", self.op("Div", away, std), self.weight(f"{name}.weight")
        )
        return self.op("Add", scaled, self.weight(f"{name}.bias"))

    def gelu(self, x: str) -> str:
        erf = self.op("Erf", self.op("Mul", x, self.constant(0.5**0.5)))
        half = self.op("Mul", x, self.constant(0.5))
        return self.op("Mul", half, self.op("Add", erf, self.constant(1.0)))

    def layer(self, name: str, x: str, width: int, heads: int) -> str:
        """A layer of the transformer, (1, K, width); all tokens are looked at."""
        each = self.constant([1, -1, heads, width // heads], np.int64)
        qkv = self.linear(f"{name}.qkv", self.layer_norm(f"{name}.norm_1", x))
        q, k, v = (
            self.op("Transpose", self.op("Reshape", part, each), perm=[0, 2, 1, 3])
            for part in self.parts(qkv, [width] * 3)
        )
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Mul", scores, self.constant((width / heads) ** -0.5))
        h = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        h = self.op("Transpose", h, perm=[0, 2, 1, 3])
        h = self.op("Reshape", h, self.constant([1, -1, width], np.int64))
        x = self.op("Add", x, self.linear(f"{name}.out", h))
        h = self.gelu(self.linear(f"{name}.wide", self.layer_norm(f"{name}.norm_2", x)))
        return self.op("Add", x, self.linear(f"{name}.narrow", h))

    def text(self, tokens: str, layers: int) -> tuple[str, str]:
        """TextEncoder: a vector a token (1, K, width), and one for all of them, of length one, (1, out)."""
        width = self.weights["tokens.weight"].shape[1]
        zero, one = (self.constant([n], np.int64) for n in (0, 1))
        K = self.op(
            "Slice", self.op("Shape", tokens), one, self.constant([2], np.int64)
        )
        places = self.op("Slice", self.weight("places"), zero, K, zero)
        x = self.op(
            "Add", self.op("Gather", self.weight("tokens.weight"), tokens), places
        )
        for n in range(layers):
            x = self.layer(f"transformer.layers.{n}", x, width, heads=4)
        x = self.layer_norm("transformer.norm", x)
        end = self.op("Gather", x, self.constant(-1, np.int64), axis=1)
        whole = self.op("MatMul", end, self.weight("project.weight", transpose=True))
        length = self.op("ReduceL2", whole, axes=[-1], keepdims=1)
        return x, self.op("Div", whole, length)


def text_graph(reader: TextEncoder, told: Decoder, sums: str) -> onnx.ModelProto:
    """tokens (1, K) int32, from START to END -> context (1, K, 128), pooled (1, 256); of no words: no_context, no_pooled.

    They are what `Decoder.conditions` makes of a caption without a picture, and what its U-Net puts for "no words".
    """
    weights = dict(reader.state_dict()) | {
        "null.z": told.no_z.detach(),
        "null.words": told.unet.no_words.detach(),
        "null.pooled": told.unet.no_pooled.detach(),
    }
    built = Eight(weights, {})
    words, whole = built.text("tokens", reader.config["layers"])
    size = built.constant(math.sqrt(told.config["out"]))
    pooled = built.op(
        "Concat", built.weight("null.z"), built.op("Mul", whole, size), axis=1
    )
    width, both = weights["null.words"].shape[2], weights["null.pooled"].shape[1]
    return built.model(
        {
            "context": words,
            "pooled": pooled,
            "no_context": built.weight("null.words"),
            "no_pooled": built.weight("null.pooled"),
        },
        {"tokens": (TensorProto.INT32, [1, "K"])},
        {
            "context": [1, "K", width],
            "pooled": [1, both],
            "no_context": [1, 1, width],
            "no_pooled": [1, both],
        },
        sums,
    )


def decoder_graph(unet: ddpm.UNet, sums: str) -> onnx.ModelProto:
    """x_t (1, 3, 32, 32), t (1,), context (1, K, 128), pooled (1, 256) -> eps (1, 3, 32, 32)."""
    c = unet.config
    built = Eight({n: w.detach() for n, w in unet.state_dict().items()}, c)
    image = [1, c["channels"], c["image_size"], c["image_size"]]
    return built.model(
        {"eps": built.unet("x", "t")},
        {
            "x": image,
            "t": [1],
            "context": [1, "K", c["context"]],
            "pooled": [1, c["pooled"]],
        },
        {"eps": image},
        sums,
    )


def sums_of() -> dict[str, str]:
    folder = data_folder() / "checkpoints" / "words"
    return {name: sha256(folder / name / "weights.safetensors") for name in MADE_OF}


def networks() -> tuple[CLIP, Decoder]:
    clip, decoder = (words_network(name) for name in MADE_OF)
    assert isinstance(clip, CLIP) and isinstance(decoder, Decoder)
    return clip, decoder


def caption(artist: str, thing: str, ground: str) -> str:
    """As the captions of training say it; see words.js."""
    on = f" on a {ground} ground" if ground else ""
    return f"{artist} {thing}".strip() + on


class Told(torch.nn.Module):
    """The decoder, its matrices in 8 bits, told words that a tower in 8 bits has read: what the page runs, in torch."""

    def __init__(self) -> None:
        super().__init__()
        clip, decoder = networks()
        self.text = TextEncoder(**clip.text.config)
        self.text.load_state_dict(clip.text.state_dict())
        self.decoder = Decoder(**decoder.config)
        self.decoder.load_state_dict(decoder.state_dict())
        in_eight_bits(self.text)
        in_eight_bits(self.decoder.unet)
        self.eval().requires_grad_(False)

    def read(self, captions: list[str]) -> dict[str, torch.Tensor]:
        tokens = words_tokenizer()(captions)
        words, whole = self.text(tokens)
        whole = torch.nn.functional.normalize(whole, dim=1)
        return dict(context=words, mask=tokens != 0, pooled=whole)


def run(
    model: Told, asked: dict[str, Any]
) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
    """t, x_t and x0_hat of a run as the page makes it."""
    words = model.read([caption(asked["artist"], asked["thing"], asked["ground"])])
    shape = (1, 3, 32, 32)
    x_T = normals(asked["seed"], 3 * 32 * 32).reshape(shape)
    guided = ddpm.guided(model.decoder, asked["scale"] - 1, **words)
    return list(
        ddpm.sample_steps(
            lambda x, t: guided(x, t),
            ddpm.linear_schedule(),
            shape,
            steps=asked["steps"],
            sampler="ddim",
            x_T=x_T,
        )
    )


def stored_run() -> str:
    frames = run(Told(), STORED)
    words = caption(STORED["artist"], STORED["thing"], STORED["ground"])
    return run_slider(
        frames,
        scale=5,
        alt=f"Two squares: on the left coloured static that becomes a small picture as t falls from 1000 to 0, on the right the network's "
        f"guess of the end, at first a blur. Asked for: {words}.",
        caption=f'A stored run: "{words}", seed {STORED["seed"]}, s = {STORED["scale"]}, {STORED["steps"]} steps of DDIM. Left: what '
        "the sampler holds. Right: what the network would answer if it had to answer now.",
    )


def megabytes() -> str:
    """What the button loads: the networks and the runtime, compressed and as base64, and the runtime's script."""
    binary = [
        gzip.compress((TARGET / f"{n}.onnx").read_bytes(), 9, mtime=0)
        for n in ("text", "decoder")
    ]
    binary.append((RUNTIME / "ort-wasm-simd.wasm.gz").read_bytes())
    whole = sum(len(base64.b64encode(data)) for data in binary)
    whole += (RUNTIME / "ort.wasm-core.min.js").stat().st_size
    return f"{whole / 1e6:.1f} MB"


def figure(stored: str, about: dict[str, Any]) -> str:
    def options(names: list[tuple[str, str]], chosen: object) -> str:
        return "".join(
            f'<option value="{html.escape(value)}"{" selected" if value == str(chosen) else ""}>{html.escape(text)}</option>'
            for value, text in names
        )

    plain = lambda values: [(str(v), str(v)) for v in values]
    things = "".join(f'<option value="{html.escape(t)}">' for t in about["things"])
    size, blank = about["image_size"], html.escape(megabytes())
    known = {k: about[k] for k in ("words", "merges", "length")}
    told = json.dumps(known, ensure_ascii=False, separators=(",", ":"))
    told = told.replace("</", "<\\/")
    settings = f"""<label class="words-what">What <input name="thing" type="text" list="words-things" value="{STORED["thing"]}" maxlength="60" required autocomplete="off" autocapitalize="off" spellcheck="false"><datalist id="words-things">{things}</datalist></label>
<label>Artist <select name="artist">{options([*plain(STYLES), ("", "not named")], STORED["artist"])}</select></label>
<label>Ground <select name="ground">{options([("", "white"), *plain(GROUNDS)], STORED["ground"])}</select></label>
<label>Seed <input name="seed" type="number" min="0" max="999999" step="1" value="{STORED["seed"]}" inputmode="numeric"></label>
<label>Guidance s <select name="scale">{options(plain((1, 2, 3, 5, 8)), STORED["scale"])}</select></label>
<label>Steps <select name="steps">{options(plain((10, 25, 50, 100)), STORED["steps"])}</select></label>"""
    more = f"""<script type="application/json" class="words-known">{told}</script>
"""
    opening = 'class="draw words" id="words"'
    return page_figure(
        "words", opening, settings, size, blank, about["T"], stored, more
    )


def current() -> bool:
    """Was book/words made from the weights that lie in data/checkpoints?"""
    paths = {n: TARGET / f"{n}.onnx" for n in ("text", "decoder")}
    if not all(p.exists() for p in (*paths.values(), TARGET / "words.json")):
        return False
    about = json.loads((TARGET / "words.json").read_text())
    inside = [
        {p.key: p.value for p in onnx.load(path).metadata_props}["weights_sha256"]
        for path in paths.values()
    ]
    sums = sums_of()
    return (
        about["weights_sha256"] == sums
        and about["onnx_sha256"] == {n: sha256(p) for n, p in paths.items()}
        and inside == [" ".join(sums.values())] * 2
    )


def main() -> None:
    if "--check" in sys.argv:
        wrong = (
            "book/words was made from other weights: python -m book._tools.export_words"
        )
        sys.exit(0 if current() else wrong)
    (clip, decoder), sums = networks(), sums_of()
    made = {
        "text": text_graph(clip.text, decoder, " ".join(sums.values())),
        "decoder": decoder_graph(decoder.unet, " ".join(sums.values())),
    }
    TARGET.mkdir(exist_ok=True)
    for name, model in made.items():
        (TARGET / f"{name}.onnx").write_bytes(
            model.SerializeToString(deterministic=True)
        )
    _, _, facts = load_captioned(split="train", things=True)
    schedule, read = ddpm.linear_schedule(), words_tokenizer()
    about = {
        "command": "python -m book._tools.export_words",
        "weights_sha256": sums,
        "onnx_sha256": {name: sha256(TARGET / f"{name}.onnx") for name in made},
        "image_size": decoder.unet.config["image_size"],
        "channels": decoder.unet.config["channels"],
        "stored": STORED,
        "T": schedule.T,
        "beta": schedule.beta[1:].tolist(),
        "length": read.length,
        "merges": read.merges,
        "words": " ".join(sorted(known_words())),
        "things": sorted({f.name for f in facts}),
    }
    (TARGET / "words.json").write_text(
        json.dumps(about, ensure_ascii=False, separators=(",", ":")) + "\n"
    )
    (TARGET / "figure.html").write_text(figure(stored_run(), about))
    sizes = [(TARGET / f"{name}.onnx").stat().st_size / 1e6 for name in made]
    print(
        f"book/words: text {sizes[0]:.2f} MB, decoder {sizes[1]:.2f} MB; the button loads {megabytes()}"
    )


if __name__ == "__main__":
    main()
