"""What the pages that draw load when their button is pressed: networks and the runtime, written into the site as scripts.

A page that lies on the reader's disk may load scripts but fetch nothing, so all files come as text inside of scripts: compressed, then
base64. Whoever serves the site may compress them on the way, to about their binary size.
"""

import base64
import gzip
import json
import shutil
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1]
RUNTIME = BOOK / "draw" / "onnxruntime-web"
# of each page: its scripts, and where its networks and what is to be known of them lie
PAGES = {
    "book/draw": (["draw.js"], "draw/eps.json", {"network": "draw/eps.onnx"}),
    "book/words": (
        ["draw.js", "words.js"],
        "words/words.json",
        {"text": "words/text.onnx", "decoder": "words/decoder.onnx"},
    ),
}


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def write_scripts(app, error) -> None:
    if app.builder.format != "html" or error:
        return
    target = Path(app.outdir) / "_static" / "draw"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("ort.wasm-core.min.js", "LICENSE"):
        shutil.copy(RUNTIME / name, target)
    wasm = packed((RUNTIME / "ort-wasm-simd.wasm.gz").read_bytes())
    (target / "runtime.js").write_text(f'Draw.files.runtime = "{wasm}";\n')
    for _, known, networks in PAGES.values():
        everything = json.loads((BOOK / known).read_text())
        about = {name: everything[name] for name in ("beta", "image_size", "channels")}
        for name, file in networks.items():
            network = packed(gzip.compress((BOOK / file).read_bytes(), 9, mtime=0))
            (target / f"{name}.js").write_text(
                f"Draw.files.about = {json.dumps(about)};\n"
                f'Draw.files.{name} = "{network}";\n'
            )


def load_on_its_page(app, pagename: str, templatename: str, context, doctree) -> None:
    scripts, *_ = PAGES.get(pagename, ([],))
    for name in scripts:
        app.add_js_file(name, loading_method="defer")


def setup(app):
    app.connect("build-finished", write_scripts)
    app.connect("html-page-context", load_on_its_page)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
