"""Cards of the networks of this part, and the sums of their weights in what was measured with them.

    python -m experiments.words.cards [--keep enlarger]

--keep puts the average of a run into data/checkpoints/words, in float16.
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

from ddpm_core.runtime.store import load_network, read_about, save_network

from .train import around

RUNS = Path("runs/words")
HERE = Path("data/checkpoints/words")
RESULTS = Path("data/results/words")
# What each is for, what it is good at and what it is not; the figures are in data/results/words.
CARDS = {
    "clip": (
        "CLIP: an image encoder and a text encoder that agree.",
        "finding and naming held-out pairs of a known thing and a known artist, and skin tones",
        "words that it never read (`word`), and the seventh artist",
    ),
    "judge": (
        "A second CLIP, of patches, with another seed, trained on the held-out pairs and words as well. For measuring only.",
        "naming what is drawn: 0.97 of the real held-out pictures",
        "the seventh artist; and it has seen the held-out pictures, so it does not measure what a drawing costs to recognise",
    ),
    "autoencoder": (
        "64 x 64 x 3 numbers to 16 x 16 x 4 and back (KL, with a perceptual term).",
        "everything but the thinnest lines", "faces of a few pixels",
    ),
    "vq": (
        "The same with a codebook of 512 vectors.",
        "bits that can be counted: 2,304 a picture", "colour: 2.7 dB behind the Gaussian one",
    ),
    "ae32": ("32 x 32 x 3 numbers to 8 x 8 x 4 and back.", "the comparison with principal directions", "fine lines"),
    "latent": (
        "Diffusion on whitened latents, told words: the arrangement of Stable Diffusion.",
        "faces, simple shapes, the artist's hand", "naming: most things are not recognised, pale ones fade",
    ),
    "inpaint": (
        "What the latent network learned in addition, told a part of a picture, a map of thing and ground, both or neither: its first convolution, its way down and its middle. Of use beside `latent` only.",
        "a map: things stand where it says", "a known part: what it fills in belongs to the rest less than by replacement with the frozen network",
    ),
    "decoder": (
        "One U-Net told words, a picture's embedding, both or neither: GLIDE and DALL-E 2's decoder.",
        "the artist, the ground, faces, colours of things", "contours of things with parts; letters and digits",
    ),
    "prior": (
        "From words to a picture's embedding.", "the distribution of embeddings", "the one embedding that belongs to a caption",
    ),
    "noisy": (
        "CLIP's image encoder on noisy pictures.", "t below 300", "t above 500, where nothing can be named",
    ),
    "control": (
        "A silhouette for the decoder.", "the place and the outline", "what lies inside the outline",
    ),
    "enlarger": (
        "32 to 64, told the small picture and how much it is spoilt.", "true small pictures: three decibels nearer than bicubic enlargement", "drawn small pictures, whose faults it keeps; spoilt ones, where it leaves grain",
    ),
}  # fmt: skip


def card(name: str) -> str:
    """The card of one network, from its checkpoint, its log and what is said of it above."""
    about = json.loads((HERE / name / "checkpoint.json").read_text())
    lines = (HERE / name / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line) for line in lines]
    info, digest = about["info"], sha(name)
    told, steps = info["command"], about["step"]
    words = [f"--{key.replace('_', '-')} {value}" for key, value in told.items()]
    shown = [
        w for w, (key, value) in zip(words, told.items()) if key in SHOWN and value
    ]
    command = (
        f"python -m experiments.words.train {told['task']} --out runs/words/{name}"
    )
    curve = [losses[len(losses) * k // 6] for k in range(1, 6)] + [losses[-1]]
    title, good, bad = CARDS[name]
    return f"""# {name}

{title}

- Command: `{" ".join([command, *shown])} --steps {steps}`
- {steps:,} steps of {info["batch"]}, seed {told["seed"]}, {losses[-1]["seconds"]:,.0f} seconds on
  {info["device"].replace("processor", "one thread of a processor")}, beside other runs; stopped by the clock
- Loss: {", ".join(f"{row['loss']:.3g} ({row['step']:,})" for row in curve)}
- Good at: {good}
- Bad at: {bad}
- Weights: the moving average in float16, SHA-256 `{digest}`
- Licences of the drawings: data/emoji/LICENSES.md
"""


SHOWN = {"batch", "lr", "seed", "size", "codes", "perceptual"}


def sha(name: str) -> str:
    return hashlib.sha256(
        (HERE / name / "weights.safetensors").read_bytes()
    ).hexdigest()


def keep(name: str) -> None:
    about, _ = read_about(RUNS / name)
    network = load_network(RUNS / name, model=around(name)).network
    save_network(
        HERE / name, network, step=about["step"], info=about["info"], half=True
    )
    shutil.copy(RUNS / name / "log.jsonl", HERE / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", default="")
    if name := parser.parse_args().keep:
        keep(name)
    there = [name for name in CARDS if (HERE / name / "weights.safetensors").exists()]
    for name in there:
        (HERE / name / "README.md").write_text(card(name))
    for file in sorted(RESULTS.glob("*.json")):
        found = json.loads(file.read_text())
        used = [name for name in found["about"]["weights"] if name in there]
        found["about"]["weights"] = {name: sha(name) for name in used}
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
