#!/usr/bin/env bash
# All that a GPU has to show, in one call:
#
#     bash bench/gpu.sh                  five parts of at most five minutes each; a table after each
#     bash bench/gpu.sh --quick          toy sizes, on whatever is there: shows that the script works
#     bash bench/gpu.sh --carry          on a machine with a network: fetch what the other has not
#     bash bench/gpu.sh --pack           likewise, and all that the parts read in one file, bench/gpu.tar
#
# The GPU's machine needs Python 3.12 with torch, and no network. Where another package is
# missing, it comes from bench/wheels, which --carry fills; --pack lays them, the package, this
# folder and the pictures of the training part into a file below 64 MiB, to be unpacked
# anywhere. A part that is done (a file in --out) is not run again, so a call that was cut
# short goes on where it was. Options are those of python -m bench.gpu --help.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
WHEELS=bench/wheels
SITE=_build/gpu/site
# Not torch, and nothing that wants a torch of its own.
CARRIED=(einops safetensors numpy tqdm pillow diffusers)
NEEDED='import einops, safetensors, numpy, tqdm, PIL; from diffusers import DDPMScheduler, UNet2DModel'

if [[ ${1:-} == --carry || ${1:-} == --pack ]]; then
    version=${2:-3.12}
    rm -rf "$WHEELS"  # two versions of one package would both be installed
    "$PYTHON" -m pip download --quiet --dest "$WHEELS" --only-binary=:all: \
        --python-version "$version" --platform manylinux2014_x86_64 \
        --platform manylinux_2_27_x86_64 --platform manylinux_2_28_x86_64 \
        --implementation cp "${CARRIED[@]}" || exit 1
    rm -f "$WHEELS"/hf_xet-*  # only for downloads, and large
    du -sh "$WHEELS"
    if [[ $1 == --pack ]]; then
        tar cf bench/gpu.tar --exclude='__pycache__' --exclude='t10k*' --exclude='bench/gpu' \
            --exclude='bench/gpu.tar' --exclude='bench/results' \
            bench ddpm_core data/fashion-mnist pyproject.toml || exit 1
        du -sh bench/gpu.tar
    fi
    exit 0
fi

"$PYTHON" -c 'import torch' 2>/dev/null || {
    echo "bench/gpu.sh: $PYTHON has no torch; wanted one that has: PYTHON=... bash bench/gpu.sh" >&2
    exit 2
}
plain=$PWD${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH="$PWD:$PWD/$SITE${PYTHONPATH:+:$PYTHONPATH}" TQDM_DISABLE=1

# What is there goes first; then it and whatever it lacks; then all that was carried, whose
# versions fit each other.
fits() { "$PYTHON" -c "$NEEDED" 2>/dev/null; }
carried() {
    rm -rf "$SITE"
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$SITE" "$@"
}
lacking() {
    PYTHONPATH=$plain "$PYTHON" - "$WHEELS" <<'END'
import importlib.metadata, pathlib, sys
for wheel in sorted(pathlib.Path(sys.argv[1]).glob("*.whl")):
    try:
        importlib.metadata.version(wheel.name.partition("-")[0])
    except importlib.metadata.PackageNotFoundError:
        print(wheel)
END
}
if ! fits && ls "$WHEELS"/*.whl >/dev/null 2>&1; then
    mapfile -t missing < <(lacking)
    ((${#missing[@]})) && carried "${missing[@]}"
    fits || carried "$WHEELS"/*.whl
fi
fits || {
    echo "bench/gpu.sh: $PYTHON cannot do this: $NEEDED" >&2
    "$PYTHON" -c "$NEEDED" 2>&1 | tail -n 1 >&2
    echo "bench/gpu.sh: fill $WHEELS where there is a network: bash bench/gpu.sh --carry" >&2
    exit 2
}

failed=0
for part in paths waits memory speed training; do
    timeout --signal=INT --kill-after=20 300 "$PYTHON" -m bench.gpu "$part" "$@"
    status=$?
    if ((status != 0)); then
        echo "bench/gpu.sh: $part ended with status $status (124: it took five minutes); the others go on"
        failed=1
    fi
done
exit $failed
