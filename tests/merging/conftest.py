"""A trained run and its export."""

from tests.support.exported_run import exported, run

__all__ = ["exported", "run"]
