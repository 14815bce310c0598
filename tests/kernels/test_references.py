"""Every operation on a CPU: values and gradients, memory layouts, empty arguments."""

import logging

import pytest
import torch

from mmbert_kernels.support.dispatch import FUSED_OPERATIONS, backend
from tests.kernels.case import SMALL, Case, Sizes
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


def test_every_operation_has_a_case(caplog: pytest.LogCaptureFixture) -> None:
    backend.cache_clear()
    with caplog.at_level(logging.INFO, logger="mmbert.kernels"):
        for case in all_cases():
            problem = case.problem(SMALL, torch.float32)
            problem.call(*problem.arguments)
    chosen = {message.partition(" on ")[0] for message in caplog.messages}
    assert chosen == {*FUSED_OPERATIONS, "attention in float32"}
