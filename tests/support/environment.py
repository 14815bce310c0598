"""Environment variables of the tests and of the processes that they start.

DeepSpeed selects its accelerator once per process, from the environment. Tests run as if there were
no GPU (conftest.py), unless the GPU tests are selected; then nothing is set.
"""

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "kernels", "data_prep")
# One thread per process, and no compiler: importing DeepSpeed would load all of inductor.
ON_A_CPU = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}


def asks_for_a_gpu(marks: str) -> bool:
    """Return whether `marks` (the -m option of pytest) selects the tests that need a GPU."""
    return "gpu" in marks and "not gpu" not in marks


def python_path(*first: Path | str, environment: Mapping[str, str] = os.environ) -> str:
    """Return PYTHONPATH with `first` and this project's packages before its present entries.

    The entries are kept because an offline machine may have its other packages there.
    """
    own = [*map(str, first), *(str(ROOT / folder) for folder in FOLDERS)]
    return os.pathsep.join([*own, *filter(None, [environment.get("PYTHONPATH")])])


def with_packages(*first: Path | str, **changes: str) -> dict[str, str]:
    """Return the environment of this process with `python_path` and `changes`."""
    return {**os.environ, "PYTHONPATH": python_path(*first), **changes}


def on_a_gpu(*first: Path | str) -> dict[str, str]:
    """Return `with_packages` for a process that uses the GPU."""
    kept = with_packages(*first)
    return {name: value for name, value in kept.items() if name not in ON_A_CPU}
