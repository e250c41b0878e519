"""Fetch ONNX Runtime Web into book/draw/onnxruntime-web: what runs the network in the reader's browser.

    python -m book._tools.vendor_runtime        needs npm and a network; what it writes lies in the repository, so no one else does

Of a package of 100 MB two files are kept: the script without WebGL, and the WebAssembly for one thread with SIMD, compressed. This
is an old version on purpose: 2.0 MB compressed, where the newest takes 3.7 MB and is no faster here. It reads one file, which is ours.
"""

import base64
import gzip
import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "draw" / "onnxruntime-web"
VERSION = "1.10.0"
INTEGRITY = "sha512-9qlhP84AFZRzRxnxh22Q+ynLI7vs2cC6HeovUDc4J+3kU2wFwOYZD3craANMJbbQV+Il0eAH5DbFjJ+symomWQ=="  # of the package, as published
SCRIPT, WASM = "ort.wasm-core.min.js", "ort-wasm-simd.wasm"
SHA256 = {  # of what is kept, before it is compressed
    SCRIPT: "b4b1cd6e51cd97d0a12d1a24096c92ee951884c9856ac3e7d807a4501960807b",
    WASM: "1e9d1928b147829dc6bd6542b5f9cb5eabf85008fd4b97235f74b38cab8eeb57",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                "npm",
                "pack",
                "--silent",
                "--ignore-scripts",
                f"onnxruntime-web@{VERSION}",
            ],
            cwd=folder,
            check=True,
        )
        (package,) = Path(folder).glob("*.tgz")
        found = (
            "sha512-"
            + base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
        )
        if found != INTEGRITY:
            raise SystemExit(
                f"the package has the sum {found}; wanted {INTEGRITY}: it is not the one that was published"
            )
        with tarfile.open(package) as archive:
            files = {
                name: archive.extractfile(f"package/dist/{name}").read()
                for name in (SCRIPT, WASM)
            }
    for name, data in files.items():
        if (found := hashlib.sha256(data).hexdigest()) != SHA256[name]:
            raise SystemExit(f"{name} has the sum {found}; wanted {SHA256[name]}")
    TARGET.mkdir(parents=True, exist_ok=True)
    script = (
        files[SCRIPT].decode().rsplit("\n//# sourceMappingURL", 1)[0] + "\n"
    )  # the map is not here, and a browser would ask for it
    (TARGET / SCRIPT).write_text(script)
    (TARGET / f"{WASM}.gz").write_bytes(gzip.compress(files[WASM], 9, mtime=0))
    print(f"{TARGET}: onnxruntime-web {VERSION}")


if __name__ == "__main__":
    main()
