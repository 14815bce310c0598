"""Reading, sampling and packing start fast: no torch but in `batch`."""

from __future__ import annotations

import subprocess
import sys


def test_only_batch_imports_torch() -> None:
    program = (
        "import importlib, pkgutil, sys\n"
        "import mmbert.data\n"
        "names = [m.name for m in pkgutil.iter_modules(mmbert.data.__path__)]\n"
        "assert 'batch' in names and 'workers' in names\n"
        "for name in names:\n"
        "    if name != 'batch':\n"
        "        importlib.import_module(f'mmbert.data.{name}')\n"
        "assert 'torch' not in sys.modules\n"
        "importlib.import_module('mmbert.data.loading.device_batch')\n"
        "assert 'torch' in sys.modules\n"
    )
    path = [entry for entry in sys.path if entry]
    setup = f"import sys; sys.path[:0] = {path!r}\n"
    result = subprocess.run(
        [sys.executable, "-c", setup + program], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
