"""The environment of tests, and of the processes that they start.

DeepSpeed chooses its accelerator once in a process, by the environment. Tests run as on a machine
without a GPU (conftest.py), unless those that need one are asked for: then nothing is set here.
"""

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "kernels", "data_prep")
# One core a process, and no compiler: DeepSpeed's import otherwise pulls in all of inductor.
ON_A_CPU = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"}


def asks_for_a_gpu(marks: str) -> bool:
    """Whether pytest's expression `marks` (its option -m) selects the tests that need a GPU."""
    return "gpu" in marks and "not gpu" not in marks


def python_path(*first: Path | str, environment: Mapping[str, str] = os.environ) -> str:
    """PYTHONPATH with `first` and the project's packages before whatever it holds already: on a
    machine without a network the others may lie there."""
    own = [*map(str, first), *(str(ROOT / folder) for folder in FOLDERS)]
    return os.pathsep.join([*own, *filter(None, [environment.get("PYTHONPATH")])])


def with_packages(*first: Path | str, **changes: str) -> dict[str, str]:
    """This process's environment with `python_path` and `changes`."""
    return {**os.environ, "PYTHONPATH": python_path(*first), **changes}


def on_a_gpu(*first: Path | str) -> dict[str, str]:
    """`with_packages` for a process that is to use the GPU."""
    kept = with_packages(*first)
    return {name: value for name, value in kept.items() if name not in ON_A_CPU}
