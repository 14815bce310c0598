"""The test_triton*.py files in Triton's interpreter, which must be on before Triton's import."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_are_right_in_the_interpreter() -> None:
    root = Path(__file__).parents[2]
    files = [str(path) for path in sorted(Path(__file__).parent.rglob("test_triton*.py"))]
    files.remove(__file__)
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    environment["PYTEST_ADDOPTS"] = "-p no:xdist -p no:cacheprovider"
    environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *files],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=570,
    )
    assert run.returncode == 0, f"{run.stdout[-8000:]}\n{run.stderr[-2000:]}"
    # pytest ends with 0 too if all tests were deselected
    assert " passed" in run.stdout
    assert "deselected" not in run.stdout
