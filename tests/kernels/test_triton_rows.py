"""Triton kernels of gather and scatter: runs of every length, unsorted positions."""

import pytest
import torch

import mmbert_kernels as kernels
from mmbert_kernels.scatter_rows import scatter_rows_triton
from tests.kernels.comparison import assert_close
from tests.kernels.on_triton import DEVICE, INTERPRETED, USE_TRITON, randn

pytestmark = [USE_TRITON, *([] if INTERPRETED else [pytest.mark.gpu])]


@pytest.mark.parametrize("count", [1, 31, 32, 33, 64, 257, 600, 1500])
@pytest.mark.parametrize("ascending", [False, True])
def test_scatter_of_runs_of_every_length(count: int, ascending: bool) -> None:
    """Runs that start and end inside, at and across the edges of blocks, up to 30 blocks long."""
    places = torch.randint(0, 12, (count,), device=DEVICE)
    places[count // 3 :] = places[count // 3 :].clamp(min=5, max=6)
    if count == 1500:
        places[:1300] = 5
    if ascending:
        places = places.sort().values
    grad = randn(count, 20)
    true = torch.zeros(15, 20, dtype=torch.float64, device=DEVICE)
    true.index_add_(0, places, grad.double())
    sums = scatter_rows_triton(grad, places, 15, ascending=ascending)
    assert_close("sums", sums, true, roundings=64)
    assert torch.equal(sums, scatter_rows_triton(grad, places, 15, ascending=ascending))


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 63, 64, 65])
def test_scatter_of_runs_of_one_length(size: int) -> None:
    """Every alignment of runs of one length with the edges of blocks of 32."""
    places = torch.arange(40 * size, device=DEVICE) // size
    grad = randn(40 * size, 8)
    true = torch.zeros(41, 8, dtype=torch.float64, device=DEVICE)
    true.index_add_(0, places, grad.double())
    assert_close("sums", scatter_rows_triton(grad, places, 41, ascending=True), true, roundings=64)


@pytest.mark.skipif(not INTERPRETED, reason="a GPU's assertion would end the process")
def test_gather_rows_that_ascend() -> None:
    positions = torch.arange(5, device=DEVICE)
    with pytest.raises(RuntimeError, match="positions are not sorted"):
        kernels.gather_rows(randn(300, 8), positions.flip(0), ascending=True)
