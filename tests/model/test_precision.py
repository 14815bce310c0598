"""Products of half precision add up in float32 on a GPU, whoever makes the model."""

from collections.abc import Iterator

import pytest
import torch

from mmbert.hub.models import ModelBuilder
from tests.support.prescribed_gradients import prescribed_engine, start
from tests.support.ranks import run_ranks
from tests.support.tiny_models import tiny_config

NAMES = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")


def reduced() -> list[bool]:
    """Whether products of bfloat16 and float16 may add up in their own type."""
    return [getattr(torch.backends.cuda.matmul, name) for name in NAMES]


@pytest.fixture
def allowed() -> Iterator[None]:
    """Both may, as in a fresh process."""
    before = reduced()
    for name in NAMES:
        setattr(torch.backends.cuda.matmul, name, True)
    yield
    for name, value in zip(NAMES, before, strict=True):
        setattr(torch.backends.cuda.matmul, name, value)


def before_and_after(rank: int, world_size: int) -> list[list[bool]]:
    """In a fresh process, and once training has its engine."""
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
