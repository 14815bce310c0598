"""Tests that need a GPU, grouped by the operation that they verify.

The GPU report trusts the measurement of an operation only if its tests passed. It runs them by file
name, because other test files import packages that a GPU machine may lack.
"""

import re
from pathlib import Path

from tests.support.environment import ROOT

MARKED = re.compile(r"^(@|pytestmark\b).*pytest\.mark\.gpu\b", re.MULTILINE)
KERNELS = "tests/kernels/test_triton.py"
STEP = "tests/training/test_on_gpu.py"
DRAWING = f"{KERNELS}::test_dropout_has_the_masks_of_the_reference"
EVERY = tuple(
    f"{KERNELS}::{name}"
    for name in (
        "test_results_do_not_depend_on_memory_layout",
        "test_expanded_gradients_are_read_right",
        "test_nothing_gives_nothing",
        "test_rows_more_than_two_to_the_31_elements_apart",
        "test_float64_is_refused",
    )
)
"""Tests that cover several operations and count for each of them."""


def _of(*names: str) -> tuple[str, ...]:
    return tuple(f"{KERNELS}::{name}" for name in names)


# Test ids without parameters. An id also stands for all ids that it is a prefix of.
GROUPS: dict[str, tuple[str, ...]] = {
    "layer norms": (
        *_of("test_layer_norm", "test_add_layer_norm", "test_branching_layer_norm"),
        *_of("test_the_norm_is_that_of_the_sum_that_is_given"),
        DRAWING,
        *EVERY,
    ),
    "embedding": (*_of("test_embedding_layer_norm", "test_scatter_of_runs"), *EVERY),
    "geglu": (*_of("test_geglu"), *EVERY),
    "rotary": (*_of("test_rotary"), *EVERY),
    "attention": ("tests/kernels/test_implementation.py::test_attention_on_a_gpu",),
    "attention in float32": ("tests/kernels/test_plain_attention.py",),
    "gather rows": (*_of("test_gather_rows", "test_scatter_of_runs"), *EVERY),
    "vocabulary head": (
        *_of("test_linear_cross_entropy", "test_a_chunk_of_more_than_two_to_the_31_logits"),
        *EVERY,
    ),
    "optimiser": _of("test_stable_adamw"),
    "memory": ("tests/model/test_activation_memory.py::test_peak_on_a_gpu",),
    "batches": ("tests/data/loading/test_device_batch.py::test_on_a_gpu_it_is_the_same",),
    "training step": (STEP,),
    "determinism": ("tests/training/test_determinism.py",),
    "evaluation": ("tests/evaluation/test_gpu.py",),
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
