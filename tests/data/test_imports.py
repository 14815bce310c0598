"""Reading, sampling and packing do not import torch, and so start fast."""

from __future__ import annotations

import subprocess
import sys


def test_only_tensors_import_torch() -> None:
    program = (
        "import importlib, pkgutil, sys\n"
        "import mmbert.data\n"
        "names = {m.name for m in pkgutil.walk_packages(mmbert.data.__path__, 'mmbert.data.')}\n"
        "tensors = {f'mmbert.data.loading.device_{name}' for name in ('batch', 'inputs')}\n"
        "assert tensors < names and 'mmbert.data.loading.worker_processes' in names\n"
        "for name in names - tensors:\n"
        "    importlib.import_module(name)\n"
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
