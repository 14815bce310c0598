#!/usr/bin/env bash
# Makes .venv and installs the system into it; picks the build of torch that fits this machine.
# Environment: PYTHON (interpreter, default python3), TORCH_INDEX_URL (index of CPU builds of torch), EXTRAS,
# WHEELS (a folder that `make wheels` filled: everything comes from there, nothing from a network).
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=${PATH//"$PWD/.venv/bin:"/} # make puts it first, and the interpreter beneath is meant here
python=${PYTHON:-python3}
torch_requirement=$(sed -n 's/^ *"\(torch[<>=][^"]*\)",$/\1/p' setup.py)
index=${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" --version 2>&1) is too old: Python 3.11 or newer is needed; name one with PYTHON=python3.12" >&2
    exit 2
}
[ -w . ] && { [ ! -e .venv ] || [ -w .venv ]; } || {
    echo "error: $PWD or its .venv cannot be written; copy the tree to a place that can" >&2
    exit 2
}
if [ ! -x .venv/bin/python ]; then
    "$python" -m venv .venv || {
        echo "error: this Python cannot make a virtual environment; install its venv package (Debian: python3-venv) or name another with PYTHON=" >&2
        exit 2
    }
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

if [ -n "${WHEELS:-}" ]; then
    # On a machine with a GPU torch often lies in the system's interpreter, built for its driver, and other
    # packages beside it. That may be a virtual environment, which venv's --system-site-packages would pass over.
    beneath=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/packages-beneath.pth
    install_wheels() {
        PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" .venv/bin/python -m mmbert.wheels install "$WHEELS" --build --extras "${EXTRAS:-}"
    }
    rm -f "$beneath"
    if ! install_wheels 2>/dev/null; then
        echo "what $WHEELS lacks is looked for among the packages of $("$python" -c 'import sys; print(sys.executable)')"
        "$python" -c 'import sys; print(*[p for p in sys.path if p.endswith("-packages")], sep="\n")' >"$beneath"
        install_wheels
    fi
    pip install --quiet --no-index --no-deps --no-build-isolation --editable .
    touch .venv/.installed
    echo "ready: .venv/bin/mmbert doctor shows what is here"
    exit
fi

if .venv/bin/python -c 'import torch' 2>/dev/null; then
    echo "torch: one is already in .venv; it stays"
elif nvidia-smi -L >/dev/null 2>&1; then
    echo "torch: found a GPU; installing the CUDA build from the package registry"
    pip install --quiet "$torch_requirement"
elif .venv/bin/python - "$index" <<'PY'
import sys, urllib.request
try:
    urllib.request.urlopen(sys.argv[1].rstrip("/") + "/torch/", timeout=10)
except Exception:
    sys.exit(1)
PY
then
    echo "torch: no GPU; installing the CPU build from $index"
    pip install --quiet --index-url "$index" "$torch_requirement"
elif cpu_build=$(pip index versions torch 2>/dev/null | grep -o '[0-9.]*+cpu' | head -n 1) &&
    pip install --quiet "$torch_requirement,==$cpu_build"; then
    echo "torch: no GPU, and $index cannot be reached; $cpu_build is the CPU build that pip's settings lead to"
else
    echo "torch: no GPU, and $index cannot be reached; installing from the package registry (on Linux usually the CUDA build, several GB)"
    pip install --quiet "$torch_requirement"
fi
.venv/bin/python -W ignore -c '
import torch
print(f"torch: {torch.__version__},", f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build")'

echo "installing the system and its tools"
pip install --quiet setuptools wheel
pip install --quiet --editable ".[${EXTRAS:-dev}]"
touch .venv/.installed
echo "ready: .venv/bin/mmbert doctor shows what is here"
