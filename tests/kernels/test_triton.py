"""Every Triton kernel: values and gradients, memory layouts, empty arguments, large offsets.

For the device see on_triton.py. Output memory is filled with NaN before every test.
"""

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.scatter_rows import scatter_rows_triton
from tests.kernels.case import Case, Sizes, cumulative
from tests.kernels.cases import all_cases
from tests.kernels.comparison import check_values
from tests.kernels.layouts import check_empty, check_layouts
from tests.kernels.on_triton import DEVICE, DTYPES, INTERPRETED, USE_TRITON, randn

# Attention has no Triton kernels; see packed_attention/test_gpu_libraries.py.
ON_TRITON = [case for case in all_cases() if case.triton_kernels]
CASES = [pytest.param(case, id=case.name) for case in ON_TRITON]
ANY_LAYOUT = [pytest.param(case, id=case.name) for case in ON_TRITON if case.any_layout]
AT_SIZES = [
    pytest.param(case, sizes, id=f"{case.name}-{number}")
    for case in ON_TRITON
    for number, sizes in enumerate(case.sizes)
]
pytestmark = [USE_TRITON, *([] if INTERPRETED else [pytest.mark.gpu])]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("case", "sizes"), AT_SIZES)
def test_values_and_gradients(case: Case, sizes: Sizes, dtype: torch.dtype) -> None:
    with DEVICE:
        check_values(case, sizes, dtype)


@pytest.mark.parametrize("case", ANY_LAYOUT)
def test_results_do_not_depend_on_memory_layout(case: Case) -> None:
    with DEVICE:
        check_layouts(case)


@pytest.mark.parametrize("case", CASES)
def test_nothing_gives_nothing(case: Case) -> None:
    with DEVICE:
        check_empty(case)


@pytest.mark.skipif(not INTERPRETED, reason="takes 9 GB that only the interpreter leaves untouched")
def test_rows_more_than_two_to_the_31_elements_apart() -> None:
    """Offsets are 64 bits wide: the third row is 2^31 elements after the first."""
    torch.utils.deterministic.fill_uninitialized_memory = False  # touch only the rows' pages
    try:
        far = torch.empty(2**31 + 256, dtype=torch.float16).as_strided((3, 96), (2**30, 1))
        far.copy_(randn(3, 96))
        near, other, weight = far.contiguous(), randn(3, 96).half(), randn(96).half()
        for function in (
            lambda x: kernels.layer_norm(x, weight, 1e-5),
            lambda x: kernels.add_layer_norm(x, other, weight, 1e-5)[0],
            lambda x: kernels.add_layer_norm(other, x, weight, 1e-5)[0],
            lambda x: kernels.embedding_layer_norm(torch.arange(3), x, weight, 1e-5),
            lambda x: kernels.add_layer_norm(x, other, weight, 1e-5, kernels.Dropout(0.3, 7))[0],
            kernels.geglu,
            lambda x: scatter_rows_triton(x, torch.arange(3), 3),
            lambda x: kernels.rotary(x.unflatten(1, (3, 2, 16)), cumulative((3,)), 1e4),
        ):
            expected = function(near.clone())
            assert torch.equal(function(far), expected)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True


def test_float64_is_refused() -> None:
    x = torch.zeros(2, 8, dtype=torch.float64, device=DEVICE)
    with pytest.raises(
        ValueError, match="MMBERT_KERNELS=reference supports any floating-point dtype"
    ):
        kernels.geglu(x)
