"""Tests that need a GPU, grouped by the operation that they verify.

The GPU report trusts the measurement of an operation only if its tests passed. It runs them by file
name, because other test files import packages that a GPU machine may lack.
"""

import re
from pathlib import Path

from tests.support.environment import ROOT

MARKED = re.compile(r"^(@|pytestmark\b).*pytest\.mark\.gpu\b", re.MULTILINE)
KERNELS = "tests/kernels"
STEP = "tests/training/test_on_gpu.py"
EVERY = tuple(
    f"{KERNELS}/{name}"
    for name in (
        "norms/test_triton.py::test_expanded_gradients_are_read_right",
        "test_triton.py::test_rows_more_than_two_to_the_31_elements_apart",
        "test_triton.py::test_float64_is_refused",
    )
)
"""Tests that cover several operations and count for each of them."""
NAMES = {
    "layer_norm": "layer norms",
    "embedding_layer_norm": "embedding",
    "linear_cross_entropy": "vocabulary head",
    "stable_adamw": "optimizer",
}
"""A report's names of operations; that of another is the name of its file of cases."""
# Tests of one operation besides those of its cases.
OF_ONE_OPERATION = {
    "layer_norm": ("norms/test_triton.py",),
    "embedding_layer_norm": ("test_triton_rows.py::test_scatter_of_runs",),
    "rotary": ("test_triton_rotary.py",),
    "gather_rows": ("test_triton_rows.py",),
    "linear_cross_entropy": ("cross_entropy/test_triton.py",),
    "stable_adamw": ("stable_adamw/test_triton.py",),
}


def report_name(operation: str) -> str:
    """The name in reports and traces of the operation whose file of cases is `operation`.py."""
    return NAMES.get(operation, operation.replace("_", " "))


def _of_cases(root: Path = ROOT) -> dict[str, tuple[str, ...]]:
    """Operation -> the beginnings of the ids of its tests on Triton, by the files of cases."""
    found = {}
    for path in sorted((root / KERNELS / "cases").glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8")
        if "triton_kernels=" not in text:
            continue
        checks = ["values_and_gradients[{}-", "nothing_gives_nothing[{}"]
        if "any_layout=False" not in text:
            checks.append("results_do_not_depend_on_memory_layout[{}")
        own = OF_ONE_OPERATION.get(path.stem, ())
        found[report_name(path.stem)] = (
            *(f"{KERNELS}/test_triton.py::test_{check.format(path.stem)}" for check in checks),
            *(f"{KERNELS}/{name}" for name in own),
            *EVERY,
        )
    return found


# Test ids without parameters. An id also stands for all ids that it is a prefix of.
GROUPS: dict[str, tuple[str, ...]] = {
    **_of_cases(),
    "attention": (f"{KERNELS}/packed_attention/test_gpu_libraries.py::test_attention_on_a_gpu",),
    "attention in float32": (f"{KERNELS}/packed_attention/test_plain_attention.py",),
    "Newton-Schulz": (f"{KERNELS}/test_newton_schulz.py::test_on_a_gpu",),
    "memory": ("tests/model/test_activation_memory.py::test_peak_on_a_gpu",),
    "batches": ("tests/data/loading/test_device_batch.py::test_on_a_gpu_it_is_the_same",),
    "training step": (STEP,),
    "determinism": ("tests/training/test_determinism.py",),
    "evaluation": ("tests/evaluation/test_gpu.py",),
    "packed Hugging Face models": ("tests/hub/live/test_on_gpu.py",),
}
"""Operation -> prefixes of the ids of its tests. Operations are named as in the trace of a step."""


def gpu_test_files(root: Path = ROOT) -> list[str]:
    """Return the test files below `root` that use the `gpu` mark, found by their text."""
    found = (root / "tests").rglob("test_*.py")
    return sorted(str(path.relative_to(root)) for path in found if MARKED.search(path.read_text()))


def operations_of(test: str) -> list[str]:
    """Return the operations that a test id, with its parameters, verifies (possibly none)."""
    return [
        operation
        for operation, beginnings in GROUPS.items()
        if any(test.startswith(beginning) for beginning in beginnings)
    ]
