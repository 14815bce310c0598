"""Triton kernels of StableAdamW over several steps, on split partitions and with padding."""

import pytest
import torch

from tests.kernels.on_triton import DEVICE, INTERPRETED, USE_TRITON
from tests.kernels.stable_adamw.steps import (
    check_no_elements,
    check_padding,
    check_squares_elsewhere,
    check_steps,
    run_steps,
    spiking_gradients,
)

pytestmark = [USE_TRITON, *([] if INTERPRETED else [pytest.mark.gpu])]


def test_stable_adamw() -> None:
    start = torch.randn(73005, device=DEVICE)
    gradients = [gradient.to(DEVICE) for gradient in spiking_gradients()[-3:]]
    parameters, rms = run_steps((), gradients, start)
    check_steps(parameters, rms, gradients, start)
    cut, _ = run_steps((2, 3005, 40_000), gradients, start)
    torch.testing.assert_close(cut, parameters, rtol=1e-6, atol=1e-7)


def test_stable_adamw_leaves_padding_alone_and_takes_nothing() -> None:
    check_padding(DEVICE)
    check_no_elements(DEVICE)


def test_squares_may_lie_in_a_tensor_of_their_own() -> None:
    check_squares_elsewhere(DEVICE)
