"""What the page "Draw one yourself" loads when its button is pressed: the network and the runtime, written into the site as scripts.

A page that lies on the reader's disk may load scripts but fetch nothing, so both files come as text inside of scripts: compressed, then
base64. Whoever serves the site may compress them on the way, to about their binary size.
"""

import base64
import gzip
import json
import shutil
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "draw"
PAGE = "book/draw"


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def write_scripts(app, error) -> None:
    if app.builder.format != "html" or error:
        return
    target, runtime = Path(app.outdir) / "_static" / "draw", SOURCE / "onnxruntime-web"
    about = {
        name: value
        for name, value in json.loads((SOURCE / "eps.json").read_text()).items()
        if name in ("beta", "image_size", "channels")
    }
    target.mkdir(parents=True, exist_ok=True)
    for name in ("ort.wasm-core.min.js", "LICENSE"):
        shutil.copy(runtime / name, target)
    (target / "runtime.js").write_text(
        f'Draw.files.runtime = "{packed((runtime / "ort-wasm-simd.wasm.gz").read_bytes())}";\n'
    )
    network = packed(gzip.compress((SOURCE / "eps.onnx").read_bytes(), 9, mtime=0))
    (target / "network.js").write_text(
        f'Draw.files.about = {json.dumps(about)};\nDraw.files.network = "{network}";\n'
    )


def load_on_its_page(app, pagename: str, templatename: str, context, doctree) -> None:
    if pagename == PAGE:
        app.add_js_file("draw.js", loading_method="defer")


def setup(app):
    app.connect("build-finished", write_scripts)
    app.connect("html-page-context", load_on_its_page)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
