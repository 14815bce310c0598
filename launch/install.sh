#!/usr/bin/env bash
# Create .venv and install this project into it, with the build of torch that fits this machine.
# Environment: PYTHON (interpreter, default python3), TORCH_INDEX_URL (index of CPU builds of torch), EXTRAS,
# WHEELS (a folder filled by `make wheels`; everything is installed from it, without a network).
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=${PATH//"$PWD/.venv/bin:"/} # make puts .venv first; PYTHON means the interpreter below it
python=${PYTHON:-python3}
torch_requirement=$(sed -n 's/^ *"\(torch[<>=][^"]*\)",$/\1/p' setup.py)
index=${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: $("$python" --version 2>&1) is too old: Python 3.11 or newer is required; set it with PYTHON=python3.12" >&2
    exit 2
}
if [ ! -w . ] || { [ -e .venv ] && [ ! -w .venv ]; }; then
    echo "error: $PWD or its .venv is not writable; copy the project to a folder that is" >&2
    exit 2
fi
if [ ! -x .venv/bin/python ]; then
    "$python" -m venv .venv || {
        echo "error: this Python cannot create a virtual environment; install its venv package (Debian: python3-venv) or set another with PYTHON=" >&2
        exit 2
    }
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

if [ -n "${WHEELS:-}" ]; then
    # GPU machines often have torch, built for their driver, and other packages in the system's interpreter.
    # That may itself be a virtual environment, which venv's --system-site-packages would skip.
    beneath=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/packages-beneath.pth
    install_wheels() {
        PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" .venv/bin/python -m mmbert.wheels install "$WHEELS" --build --extras "${EXTRAS:-}"
    }
    rm -f "$beneath"
    if ! install_wheels 2>/dev/null; then
        echo "packages missing from $WHEELS are taken from $("$python" -c 'import sys; print(sys.executable)')"
        "$python" -c 'import sys; print(*[p for p in sys.path if p.endswith("-packages")], sep="\n")' >"$beneath"
        install_wheels
    fi
    pip install --quiet --no-index --no-deps --no-build-isolation --editable .
    touch .venv/.installed
    echo "ready; run .venv/bin/mmbert doctor to check"
    exit
fi

if .venv/bin/python -c 'import torch' 2>/dev/null; then
    echo "torch: keeping the one already in .venv"
elif nvidia-smi -L >/dev/null 2>&1; then
    echo "torch: GPU found; installing the CUDA build from the package registry"
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
    echo "torch: no GPU, and $index is unreachable; installed $cpu_build, a CPU build from pip's configured index"
else
    echo "torch: no GPU, and $index is unreachable; installing from the package registry (on Linux usually the CUDA build, several GB)"
    pip install --quiet "$torch_requirement"
fi
.venv/bin/python -W ignore -c '
import torch
print(f"torch: {torch.__version__},", f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build")'

echo "installing mmbert-train and its tools"
pip install --quiet setuptools wheel
pip install --quiet --editable ".[${EXTRAS:-dev}]"
touch .venv/.installed
echo "ready; run .venv/bin/mmbert doctor to check"
