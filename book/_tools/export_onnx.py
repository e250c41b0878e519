"""The trained network for the reader's browser: write book/draw/ out of data/checkpoints/fashion-mnist.

    python -m book._tools.export_onnx            after every training: the page's network, its stored run, its button
    python -m book._tools.export_onnx --check    write nothing; fail if what lies there was made from other weights

    eps.onnx      eps_theta(x_t, t, y) as a graph of ONNX operators; its kernels and matrices rounded to float16, half the size
    eps.json      the sums of the weights it was made from and of itself, beta, the classes
    figure.html   the figure of book/draw.md, with a run that is stored, for browsers that cannot make one

The graph is written from the weights' names and the network's arguments, not traced: it has the U-Net's own lines, one for one, in
operators that old runtimes know (version 14), and does not change when unet.py finds a faster way to say the same.
"""

import gzip
import hashlib
import html
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

import ddpm_core as ddpm
from ddpm_core.figures import FrameSlider, image_grid

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT, TARGET = (
    ROOT / "data" / "checkpoints" / "fashion-mnist",
    ROOT / "book" / "draw",
)
RUNTIME = TARGET / "onnxruntime-web"
OPSET = 14
STORED = {
    "label": 9,
    "seed": 1,
    "steps": 50,
}  # what the page offers first, and the run that is stored in it


class Graph:
    """ONNX nodes, written in the order in which they are computed. Every method takes and returns names of tensors."""

    def __init__(self, weights: dict[str, torch.Tensor], config: dict):
        self.weights, self.config, self.nodes, self.constants, self.widened = (
            weights,
            config,
            [],
            {},
            {},
        )

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value, dtype=np.float32) -> str:
        array = np.asarray(value, dtype)
        name = f"constant_{hashlib.sha256(array.tobytes() + str((array.shape, array.dtype)).encode()).hexdigest()[:12]}"
        self.constants[name] = array
        return name

    def weight(self, name: str, transpose: bool = False) -> str:
        """A weight by the name that the checkpoint gives it. Kernels and matrices are stored as float16 and widened when loaded."""
        if name in self.widened:
            return self.widened[name]
        array = self.weights[name].numpy()
        array = np.ascontiguousarray(array.T) if transpose else array
        self.constants[name] = array.astype(np.float16) if array.ndim > 1 else array
        self.widened[name] = (
            self.op("Cast", name, to=TensorProto.FLOAT) if array.ndim > 1 else name
        )
        return self.widened[name]

    def linear(self, name: str, x: str) -> str:
        return self.op(
            "Add",
            self.op("MatMul", x, self.weight(f"{name}.weight", transpose=True)),
            self.weight(f"{name}.bias"),
        )

    def conv(self, name: str, x: str, **attributes) -> str:
        side = self.weights[f"{name}.weight"].shape[-1]
        attributes = {
            "kernel_shape": [side, side],
            "pads": [side // 2] * 4,
        } | attributes
        return self.op(
            "Conv",
            x,
            self.weight(f"{name}.weight"),
            self.weight(f"{name}.bias"),
            **attributes,
        )

    def parts(self, x: str, sizes: list[int]) -> list[str]:
        """A tensor (1, K, C), cut along its last axis."""
        names = [f"part_{len(self.nodes)}_{i}" for i in range(len(sizes))]
        split = self.constant(sizes, np.int64)
        self.nodes.append(helper.make_node("Split", [x, split], names, axis=2))
        return names

    def silu(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def norm(self, name: str, x: str, side: int) -> str:
        """GroupNorm, which these operators lack: each group as one long channel of an InstanceNormalization, then scale and shift."""
        groups, channels = self.config["groups"], len(self.weights[f"{name}.weight"])
        h = self.op("Reshape", x, self.constant([1, groups, -1], np.int64))
        h = self.op(
            "InstanceNormalization",
            h,
            self.constant(np.ones(groups)),
            self.constant(np.zeros(groups)),
            epsilon=1e-6,
        )
        h = self.op("Reshape", h, self.constant([1, channels, side, side], np.int64))
        for kind, part in (("Mul", "weight"), ("Add", "bias")):
            self.constants[f"{name}.{part}"] = (
                self.weights[f"{name}.{part}"].numpy().reshape(1, channels, 1, 1)
            )
            h = self.op(kind, h, f"{name}.{part}")
        return h

    def time(self, t: str) -> str:
        half = self.config["width"] // 2
        frequency = np.exp(
            np.arange(half, dtype=np.float32) * np.float32(-np.log(10000) / (half - 1))
        )
        angle = self.op(
            "Mul",
            self.op(
                "Reshape",
                self.op("Sub", t, self.constant(1.0)),
                self.constant([1, 1], np.int64),
            ),
            self.constant(frequency),
        )
        waves = self.op("Concat", self.op("Sin", angle), self.op("Cos", angle), axis=1)
        return self.linear(
            "embed_time.linear_2", self.silu(self.linear("embed_time.linear_1", waves))
        )

    def block(self, name: str, x: str, emb: str, side: int) -> str:
        h = self.conv(f"{name}.conv_1", self.silu(self.norm(f"{name}.norm_1", x, side)))
        shift = self.op(
            "Reshape",
            self.linear(f"{name}.embed", emb),
            self.constant([1, -1, 1, 1], np.int64),
        )
        h = self.silu(self.norm(f"{name}.norm_2", self.op("Add", h, shift), side))
        shortcut = (
            self.conv(f"{name}.shortcut", x)
            if f"{name}.shortcut.weight" in self.weights
            else x
        )
        return self.op("Add", shortcut, self.conv(f"{name}.conv_2", h))

    def attention(self, name: str, x: str, side: int) -> str:
        channels = len(self.weights[f"{name}.norm.weight"])
        rows = self.op(
            "Reshape",
            self.norm(f"{name}.norm", x, side),
            self.constant([1, channels, side * side], np.int64),
        )
        tokens = self.op("Transpose", rows, perm=[0, 2, 1])  # (1, HW, C)
        q, k, v = (self.linear(f"{name}.{part}", tokens) for part in "qkv")
        if f"{name}.context.weight" in self.weights:  # words join the pixels
            words = self.linear(f"{name}.context", "context")  # (1, K, 2 C)
            first, second = self.parts(words, [channels, channels])
            k = self.op("Concat", first, k, axis=1)
            v = self.op("Concat", second, v, axis=1)
        scores = self.op(
            "Mul",
            self.op("MatMul", q, self.op("Transpose", k, perm=[0, 2, 1])),
            self.constant(channels**-0.5),
        )
        h = self.linear(
            f"{name}.out", self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        )
        return self.op(
            "Add",
            x,
            self.op(
                "Reshape",
                self.op("Transpose", h, perm=[0, 2, 1]),
                self.constant([1, channels, side, side], np.int64),
            ),
        )

    def unet(self, x: str, t: str) -> str:
        """The U-Net; of "y", "context" and "pooled", which are its inputs' names, it is told what it has weights for."""
        emb = self.time(t)
        if "embed_label.weight" in self.weights:
            label = self.op("Gather", self.weight("embed_label.weight"), "y")
            emb = self.op("Add", emb, label)
        if "embed_pooled.weight" in self.weights:
            emb = self.op("Add", emb, self.linear("embed_pooled", "pooled"))
        emb, side, levels = (
            self.silu(emb),
            self.config["image_size"],
            len(self.config["multipliers"]),
        )

        def step(level: str, j: int, h: str) -> str:
            h = self.block(f"{level}.blocks.{j}", h, emb, side)
            return (
                self.attention(f"{level}.attention.{j}", h, side)
                if f"{level}.attention.{j}.norm.weight" in self.weights
                else h
            )

        h = self.conv("conv_in", x)
        skips = [h]
        for i in range(levels):
            for j in range(self.config["blocks"]):
                h = step(f"down.{i}", j, h)
                skips.append(h)
            if i < levels - 1:
                h, side = (
                    self.conv(
                        f"down.{i}.resample.conv", h, pads=[0, 0, 1, 1], strides=[2, 2]
                    ),
                    side // 2,
                )  # below and right only
                skips.append(h)
        h = self.block("middle.0", h, emb, side)
        h = self.block("middle.2", self.attention("middle.1", h, side), emb, side)
        for i in range(levels):
            for j in range(self.config["blocks"] + 1):
                h = step(f"up.{i}", j, self.op("Concat", h, skips.pop(), axis=1))
            if i < levels - 1:
                twice = self.op(
                    "Resize",
                    h,
                    "",
                    self.constant([1, 1, 2, 2]),
                    mode="nearest",
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )
                h, side = self.conv(f"up.{i}.resample.conv", twice), side * 2
        return self.conv("conv_out", self.silu(self.norm("norm_out", h, side)))

    def model(
        self, answers: dict, inputs: dict, outputs: dict, weights_sha256: str
    ) -> onnx.ModelProto:
        """The file. answers: outputs' names to tensors of the graph; inputs, outputs: names to shapes, or to a type and a shape."""
        for name, tensor in answers.items():
            self.nodes.append(helper.make_node("Identity", [tensor], [name]))

        def typed(named: dict) -> list:
            return [
                helper.make_tensor_value_info(
                    name, *(s if isinstance(s, tuple) else (TensorProto.FLOAT, s))
                )
                for name, s in named.items()
            ]

        whole = helper.make_graph(
            self.nodes,
            "eps_theta",
            typed(inputs),
            typed(outputs),
            [
                numpy_helper.from_array(array, name)
                for name, array in self.constants.items()
            ],
        )
        made = helper.make_model(
            whole,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=7,
            producer_name="ddpm_core",
        )
        helper.set_model_props(made, {"weights_sha256": weights_sha256})
        onnx.checker.check_model(made, full_check=True)
        return made


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def graph(model: ddpm.UNet, weights_sha256: str) -> onnx.ModelProto:
    """x_t (1, C, H, W) float32, t (1,) float32 in 1..T, y (1,) int32 -> eps (1, C, H, W)."""
    c = model.config
    if not c["classes"] or c["learn_variance"]:
        raise ValueError(
            f"the network has classes = {c['classes']} and learn_variance = {c['learn_variance']}; the page wants classes and a fixed variance"
        )
    built = Graph({name: w.detach() for name, w in model.state_dict().items()}, c)
    image = [1, c["channels"], c["image_size"], c["image_size"]]
    return built.model(
        {"eps": built.unet("x", "t")},
        {"x": image, "t": [1], "y": (TensorProto.INT32, [1])},
        {"eps": image},
        weights_sha256,
    )


def rounded(model: ddpm.UNet) -> ddpm.UNet:
    """The same network with its kernels and matrices rounded to float16, as eps.onnx holds them."""
    copy = ddpm.UNet(**model.config)
    copy.load_state_dict(
        {
            name: w.half().float() if w.ndim > 1 else w
            for name, w in model.state_dict().items()
        }
    )
    return copy.eval()


def mulberry32(seed: int):
    """The page's uniform numbers in [0, 1): 32 bits of state, the same in JavaScript, see draw.js."""
    state, mask = seed & 0xFFFFFFFF, 0xFFFFFFFF
    while True:
        state = (state + 0x6D2B79F5) & mask
        z = ((state ^ (state >> 15)) * (state | 1)) & mask
        z ^= (z + ((z ^ (z >> 7)) * (z | 61))) & mask
        yield ((z ^ (z >> 14)) & mask) / 2**32


def normals(seed: int, n: int) -> torch.Tensor:
    """The page's x_T for that seed: (n,) float32, standard normal by Box and Muller from pairs of uniform numbers."""
    uniform, out = mulberry32(seed), []
    while len(out) < n:
        radius, angle = (
            np.sqrt(-2 * np.log(1 - next(uniform))),
            2 * np.pi * next(uniform),
        )
        out += [radius * np.cos(angle), radius * np.sin(angle)]
    return torch.tensor(out[:n], dtype=torch.float32)


def run_slider(
    run: list[tuple[int, torch.Tensor, torch.Tensor]],
    scale: int,
    alt: str,
    caption: str,
) -> str:
    """The frames of a run, (t, x_t, x0_hat), side by side in a slider over t."""
    frames = [
        image_grid(
            torch.cat(
                [x.clamp(-2, 2) / 2 if t else x.clamp(-1, 1), x0_hat.clamp(-1, 1)]
            ),
            columns=2,
            gap=2,
        )
        for t, x, x0_hat in run
    ]
    return FrameSlider(
        frames,
        [t for t, _, _ in run],
        name="t",
        scale=scale,
        start=len(frames) - 1,
        alt=alt,
        caption=caption,
    )._repr_html_()


def stored_run(checkpoint: ddpm.Checkpoint) -> str:
    """The run that the page's first setting makes, as frames: on the left x_t, on the right x0_hat."""
    c = checkpoint.model.config
    shape = (1, c["channels"], c["image_size"], c["image_size"])
    x_T = normals(STORED["seed"], int(np.prod(shape))).reshape(shape)
    # A function of our own is asked in its own precision, whatever is the fastest on this machine.
    network, name = (
        rounded(checkpoint.model),
        checkpoint.info["classes"][STORED["label"]],
    )
    run = list(
        ddpm.sample_steps(
            lambda x, t, y: network(x, t, y),
            checkpoint.schedule,
            shape,
            steps=STORED["steps"],
            sampler="ddim",
            x_T=x_T,
            labels=torch.tensor([STORED["label"]]),
        )
    )
    return run_slider(
        run,
        scale=6,
        alt=f"Two squares: on the left static that becomes a {name} as t falls from {checkpoint.schedule.T} to 0, on the right the "
        "network's guess of the end, at first black and white speckle, then a grey cloud, then an outline.",
        caption=f"A stored run: a {name}, seed {STORED['seed']}, {STORED['steps']} steps of DDIM. Left: what the sampler holds. "
        "Right: what the network would answer if it had to answer now, Eq. (15).",
    )


def megabytes() -> str:
    """What the button loads: both files, compressed and as base64, which is 4/3 of their bytes, and the runtime's script."""
    binary = sum(
        (len(data) + 2) // 3 * 4
        for data in (
            gzip.compress((TARGET / "eps.onnx").read_bytes(), 9, mtime=0),
            (RUNTIME / "ort-wasm-simd.wasm.gz").read_bytes(),
        )
    )
    return (
        f"{(binary + (RUNTIME / 'ort.wasm-core.min.js').stat().st_size) / 1e6:.1f} MB"
    )


def figure(stored: str, about: dict) -> str:
    options = "".join(
        f'<option value="{i}"{" selected" if i == STORED["label"] else ""}>{name}</option>'
        for i, name in enumerate(about["classes"])
    )
    steps = "".join(
        f"<option{' selected' if n == STORED['steps'] else ''}>{n}</option>"
        for n in (10, 20, 50, 100, 250, 1000)
    )
    side, size = about["image_size"], html.escape(megabytes())
    settings = f"""<label>What <select name="label">{options}<option value="{len(about["classes"])}">whatever comes</option></select></label>
<label>Seed <input name="seed" type="number" min="0" max="999999" step="1" value="{STORED["seed"]}" inputmode="numeric"></label>
<label>Steps <select name="steps">{steps}</select></label>
<label>Sampler <select name="sampler"><option value="ddim">DDIM</option><option value="ddpm">Algorithm 2</option></select></label>"""
    opening = f'class="draw" id="draw" data-side="{side}"'
    return page_figure("draw", opening, settings, side, size, about["T"], stored)


def page_figure(
    name: str,
    opening: str,
    settings: str,
    side: int,
    size: str,
    T: int,
    stored: str,
    more: str = "",
) -> str:
    """The figure of a page that draws: its settings, two canvases, the way through t, and a stored run for browsers that cannot."""
    return f"""<div {opening}>
<form class="draw-live" hidden>
<div class="draw-settings">
{settings}
</div>
<div class="draw-pair">
<figure><canvas class="draw-x" width="{side}" height="{side}" role="img" aria-label="What the sampler holds: static"></canvas><figcaption>what the sampler holds, x<sub>t</sub></figcaption></figure>
<figure><canvas class="draw-x0" width="{side}" height="{side}" role="img" aria-label="The network's guess of the end: nothing yet"></canvas><figcaption>what the network sees in it, x&#770;<sub>0</sub></figcaption></figure>
</div>
<div class="draw-controls"><button type="submit">Draw (loads {size}, once)</button><div class="draw-way"><label>t <input class="draw-time" type="range" min="0" max="0" value="0" disabled></label><output class="draw-t">{T}</output></div></div>
<p class="draw-said" role="status" data-size="{size}">Nothing leaves your device, and after the first press nothing more is loaded.</p>
<div class="draw-shelf" aria-label="What you have drawn" role="group"></div>
</form>
<p class="draw-cannot">This browser cannot run the network (it lacks script, WebAssembly or decompression), so here is a run from the book's own machine.</p>
<details class="draw-stored" open><summary>A stored run</summary>
{stored}
</details>
{more}<script>if (typeof WebAssembly === "object" && typeof DecompressionStream === "function") {{
  const root = document.getElementById("{name}");
  root.querySelector("form").hidden = false; root.querySelector(".draw-stored").open = false; root.querySelector(".draw-cannot").remove(); }}</script>
</div>
"""


def current() -> bool:
    """Was book/draw made from the weights that lie in data/checkpoints?"""
    if not (TARGET / "eps.json").exists() or not (TARGET / "eps.onnx").exists():
        return False
    about = json.loads((TARGET / "eps.json").read_text())
    inside = {p.key: p.value for p in onnx.load(TARGET / "eps.onnx").metadata_props}[
        "weights_sha256"
    ]
    return about["onnx_sha256"] == sha256(TARGET / "eps.onnx") and about[
        "weights_sha256"
    ] == inside == sha256(CHECKPOINT / "weights.safetensors")


def main() -> None:
    if "--check" in sys.argv:
        sys.exit(
            0
            if current()
            else "book/draw was made from other weights: python -m book._tools.export_onnx"
        )
    checkpoint = ddpm.load_checkpoint(CHECKPOINT)
    weights = sha256(CHECKPOINT / "weights.safetensors")
    TARGET.mkdir(exist_ok=True)
    (TARGET / "eps.onnx").write_bytes(
        graph(checkpoint.model, weights).SerializeToString(deterministic=True)
    )
    about = {
        "command": "python -m book._tools.export_onnx",
        "weights_sha256": weights,
        "onnx_sha256": sha256(TARGET / "eps.onnx"),
        "image_size": checkpoint.model.config["image_size"],
        "channels": checkpoint.model.config["channels"],
        "classes": checkpoint.info["classes"],
        "stored": STORED,
        "T": checkpoint.schedule.T,
        "beta": checkpoint.schedule.beta[1:].tolist(),
    }
    (TARGET / "eps.json").write_text(json.dumps(about, indent=1) + "\n")
    (TARGET / "figure.html").write_text(figure(stored_run(checkpoint), about))
    print(
        f"book/draw: network of {(TARGET / 'eps.onnx').stat().st_size / 1e6:.2f} MB from weights {weights[:16]}; the button loads {megabytes()}"
    )


if __name__ == "__main__":
    main()
