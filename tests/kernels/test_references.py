"""Every operation as it runs on a CPU: values and gradients, memory layouts, empty arguments."""

import pytest
import torch

from tests.kernels.case import Case, Sizes
from tests.kernels.cases import all_cases
from tests.kernels.comparison import check_values
from tests.kernels.layouts import check_empty, check_layouts

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
CASES = [pytest.param(case, id=case.name) for case in all_cases()]
ANY_LAYOUT = [pytest.param(case, id=case.name) for case in all_cases() if case.any_layout]
AT_SIZES = [
    pytest.param(case, sizes, id=f"{case.name}-{number}")
    for case in all_cases()
    for number, sizes in enumerate(case.sizes)
]
pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize(("case", "sizes"), AT_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(case: Case, sizes: Sizes, dtype: torch.dtype) -> None:
    check_values(case, sizes, dtype)


@pytest.mark.parametrize("case", ANY_LAYOUT)
def test_results_do_not_depend_on_memory_layout(case: Case) -> None:
    check_layouts(case)


@pytest.mark.parametrize("case", CASES)
def test_nothing_gives_nothing(case: Case) -> None:
    check_empty(case)
