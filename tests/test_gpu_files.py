"""GPU tests: collected without the other tests, run on the GPU, assigned to operations."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import ROOT, asks_for_a_gpu, on_a_gpu, with_packages
from tests.support.gpu_files import GROUPS, gpu_test_files, operations_of

# Packages that a GPU machine may lack; GPU tests must not import them.
MISSING = ("babel", "datasets", "kitoken", "langcodes", "language_data", "megatron", "mpi4py",
           "onnx", "onnxruntime", "sentence_transformers")  # fmt: skip
# A pytest plugin that fakes a GPU, hides packages, and writes down what was collected.
PLUGIN = f"""
import json, os, sys
from importlib.machinery import PathFinder
from pathlib import Path

class WithoutThem(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        # None as of a package that is absent: others ask without importing.
        absent = name.partition(".")[0] in {MISSING!r}
        return None if absent else super().find_spec(name, path, target)

sys.meta_path = [WithoutThem if one is PathFinder else one for one in sys.meta_path]
import torch
torch.cuda.is_available, torch.cuda.device_count = (lambda: True), (lambda: 1)

def pytest_collection_finish(session):
    from deepspeed.accelerator import get_accelerator
    told = {{
        "tests": [item.nodeid for item in session.items],
        "accelerator": get_accelerator()._name,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }}
    Path(__file__).with_name("told.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What `pytest -m gpu` collects from the files of gpu_test_files."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "pretended.py").write_text(PLUGIN)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q"]
    command += ["-p", "pretended", "-p", "no:xdist", "-p", "no:cacheprovider"]
    environment = {k: v for k, v in on_a_gpu(folder).items() if not k.startswith("PYTEST")}
    finished = subprocess.run(
        [*command, *gpu_test_files()],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return json.loads((folder / "told.json").read_text())


def test_every_gpu_test_is_found_and_verifies_an_operation(told: dict) -> None:
    """Otherwise a measurement would stay unverified forever."""
    tests = told["tests"]
    assert {test.partition("::")[0] for test in tests} == set(gpu_test_files())
    assert [test for test in tests if not operations_of(test)] == []
    for operation, beginnings in GROUPS.items():
        for beginning in beginnings:
            assert any(test.startswith(beginning) for test in tests), (operation, beginning)


def test_they_run_deepspeed_on_the_gpu(told: dict) -> None:
    """Even though helpers that they import start ranks on CPUs."""
    assert (told["accelerator"], told["threads"]) == ("cuda", None)


def test_other_tests_run_on_the_cpu() -> None:
    assert os.environ["DS_ACCELERATOR"] == "cpu"
    assert [asks_for_a_gpu(marks) for marks in ("", "long", "not long and not gpu")] == [False] * 3
    assert asks_for_a_gpu("gpu")
    assert asks_for_a_gpu("gpu and not long")


def test_gpu_tests_are_found_by_their_text(tmp_path: Path) -> None:
    mark = "pytest.mark.gpu"
    files = {
        "test_one.py": f"@{mark}\ndef test_it(): ...\n",
        "part/test_two.py": f"pytestmark = [] if HERE else [{mark}]\n",
        "test_three.py": f'TEXT = "{mark}"\n@pytest.mark.long\ndef test_it(): ...\n',
        "helper.py": f"@{mark}\ndef test_it(): ...\n",
    }
    for name, text in files.items():
        path = tmp_path / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert gpu_test_files(tmp_path) == ["tests/part/test_two.py", "tests/test_one.py"]


def test_packages_on_the_path_are_found_by_what_tests_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "carried_along.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for environment in (with_packages(), on_a_gpu(tmp_path / "other")):
        subprocess.run(
            [sys.executable, "-S", "-c", "import carried_along, mmbert, mmbert_prep"],
            env=environment,
            check=True,
            timeout=60,
        )


def test_nothing_else_sets_the_path() -> None:
    """Replacing it would hide packages installed there."""
    setting = '"' + "PYTHONPATH" + '"'
    found = {str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("*.py")
             if setting in p.read_text()}  # fmt: skip
    # The benchmark puts its own before the others, and this file tests the helper.
    assert found == {
        "tests/benchmarks/bench_preprocess.py", "tests/support/environment.py",
        "tests/test_gpu_files.py",
    }  # fmt: skip
    for folder in ("slurm", "launch"):
        for path in (ROOT / folder).rglob("*"):
            text = path.read_text(errors="replace") if path.is_file() else ""
            for line in text.splitlines():
                if "PYTHONPATH=" in line and "$PYTHONPATH" not in line:
                    pytest.fail(f"{path} replaces PYTHONPATH")
