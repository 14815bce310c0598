"""The tiny run's inputs, as tests/launch has them."""

from tests.launch.conftest import inputs

__all__ = ["inputs"]
