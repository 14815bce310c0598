"""Calls of a packed model that go the unpacked way, logged once for each reason."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

logger = logging.getLogger("mmbert.pack")

_UNPACKED: ContextVar[bool] = ContextVar("unpacked", default=False)


class DetourError(Exception):
    """The packed way cannot compute this call; the message is the reason, a noun phrase."""


class DetourLog:
    """Calls of one model that went the unpacked way, counted by reason."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.counts: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        """Count a call, and log the first one of its reason."""
        self.counts[reason] += 1
        if self.counts[reason] == 1:
            logger.warning(
                "%s goes the unpacked way, padding and all, for %s (said once)", self.model, reason
            )


@contextmanager
def unpacked_calls() -> Iterator[None]:
    """Send every call of packed models inside, in this thread, the unpacked way, unlogged."""
    token = _UNPACKED.set(True)
    try:
        yield
    finally:
        _UNPACKED.reset(token)


def calls_go_unpacked() -> bool:
    """Whether `unpacked_calls` is in effect."""
    return _UNPACKED.get()
