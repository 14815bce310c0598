"""Tests run as if there were no GPU, unless selected; a browser; no deadlines or widths."""

import os

import hypothesis
import pytest

from tests.support.browser import browser
from tests.support.environment import ON_A_CPU, asks_for_a_gpu

__all__ = ["browser"]

# An example that is slow on a busy machine is no failure.
hypothesis.settings.register_profile("mmbert", deadline=None)
hypothesis.settings.load_profile("mmbert")


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before a test file imports DeepSpeed or copies it."""
    os.environ.pop("COLUMNS", None)  # workers may have that of a terminal
    if not asks_for_a_gpu(config.option.markexpr):
        for name, value in ON_A_CPU.items():
            os.environ.setdefault(name, value)
