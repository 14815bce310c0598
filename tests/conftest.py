"""Tests run as on a machine without a GPU, unless those that need one are asked for."""

import os

import pytest

from tests.support.environment import ON_A_CPU, asks_for_a_gpu


def pytest_configure(config: pytest.Config) -> None:
    """Before any test file is imported, and DeepSpeed with it."""
    if not asks_for_a_gpu(config.option.markexpr):
        for name, value in ON_A_CPU.items():
            os.environ.setdefault(name, value)
