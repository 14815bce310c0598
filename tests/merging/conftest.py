"""A run and its export, as the tests of hub have them."""

from tests.support.exported_run import exported, run

__all__ = ["exported", "run"]
