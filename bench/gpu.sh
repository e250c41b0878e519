#!/usr/bin/env bash
# All that a GPU has to show, in one call:
#
#     bash bench/gpu.sh                  five parts of at most five minutes each; a table after each
#     bash bench/gpu.sh --quick          toy sizes, on whatever is there: shows that the script works
#     bash bench/gpu.sh --carry          on a machine with a network: fetch what the other has not
#
# The GPU's machine needs Python 3.12 with torch, and no network: whatever else is imported
# comes from bench/wheels, which --carry fills. A part that is done (a file in --out) is not
# run again, so a call that was cut short goes on where it was. Options are those of
# python -m bench.gpu --help.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
WHEELS=bench/wheels
SITE=_build/gpu/site
# Not torch, and nothing that wants a torch of its own.
CARRIED=(einops safetensors numpy tqdm pillow matplotlib diffusers)

if [[ ${1:-} == --carry ]]; then
    version=${2:-3.12}
    "$PYTHON" -m pip download --quiet --dest "$WHEELS" --only-binary=:all: \
        --python-version "$version" --platform manylinux2014_x86_64 \
        --platform manylinux_2_28_x86_64 --implementation cp "${CARRIED[@]}" || exit 1
    du -sh "$WHEELS"
    exit 0
fi

"$PYTHON" -c 'import torch' 2>/dev/null || {
    echo "bench/gpu.sh: $PYTHON has no torch; wanted one that has: PYTHON=... bash bench/gpu.sh" >&2
    exit 2
}
export PYTHONPATH="$PWD:$PWD/$SITE${PYTHONPATH:+:$PYTHONPATH}" TQDM_DISABLE=1
if ! "$PYTHON" -c 'import einops, safetensors, numpy, tqdm, PIL' 2>/dev/null; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$SITE" "$WHEELS"/*.whl || {
        echo "bench/gpu.sh: no $WHEELS; fill it where there is a network: bash bench/gpu.sh --carry" >&2
        exit 2
    }
fi

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
