"""Half-precision products accumulate in float32 on a GPU, for every creator of the model."""

from collections.abc import Iterator

import pytest
import torch

from mmbert.hub.models import ModelBuilder
from tests.support.prescribed_gradients import prescribed_engine, start
from tests.support.ranks import run_ranks
from tests.support.tiny_models import tiny_config

NAMES = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")


def reduced() -> list[bool]:
    """Whether bfloat16 and float16 products may be reduced in their own dtype."""
    return [getattr(torch.backends.cuda.matmul, name) for name in NAMES]


@pytest.fixture
def allowed() -> Iterator[None]:
    """Allow reduced precision for both, as in a new process."""
    before = reduced()
    for name in NAMES:
        setattr(torch.backends.cuda.matmul, name, True)
    yield
    for name, value in zip(NAMES, before, strict=True):
        setattr(torch.backends.cuda.matmul, name, value)


def before_and_after(rank: int, world_size: int) -> list[list[bool]]:
    """Return the settings in a new process and after training created its engine."""
    grid = start(rank, world_size, 1)
    before = reduced()
    prescribed_engine(grid).close()
    return [before, reduced()]


def test_in_training() -> None:
    assert run_ranks(before_and_after, 1)[0] == [[True, True], [False, False]]


def test_in_evaluation(allowed: None) -> None:
    assert reduced() == [True, True]
    ModelBuilder(tiny_config())
    assert reduced() == [False, False]
