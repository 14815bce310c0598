"""What a rank does to itself at a step: a signal, a limit of file size, its connections cut.

It needs no rights beyond those of the process, and touches no other one.
"""

import os
import resource
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from unittest import mock

from pydantic import BaseModel, ConfigDict

from mmbert.training.fault_tolerance.hangs.watchdog import Activity, Watchdog

_DESCRIPTORS = Path("/proc/self/fd") if Path("/proc/self/fd").exists() else Path("/dev/fd")


class Action(StrEnum):
    """What is done."""

    NONE = "none"
    SIGNAL = "signal"
    LIMIT_FILE_SIZE = "limit_file_size"
    CUT_CONNECTIONS = "cut_connections"


class Injection(BaseModel):
    """An action of one rank of the small run, in the forward and backward pass of a step."""

    model_config = ConfigDict(frozen=True)

    action: Action = Action.NONE
    step: int = 0
    value: int = 0
    """Number of the signal, or bytes of the largest file."""

    def prepare(self) -> None:
        """Arrange for the action in this process. A limit of file size applies at once."""
        if self.action is Action.LIMIT_FILE_SIZE:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.value, self.value))
        elif self.action is Action.SIGNAL:
            _at(self.step, lambda: os.kill(os.getpid(), self.value))
        elif self.action is Action.CUT_CONNECTIONS:
            _at(self.step, cut_connections)


UNDISTURBED = Injection()


def cut_connections() -> None:
    """Shut down all TCP connections of this process in both directions."""
    for name in os.listdir(_DESCRIPTORS):
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    connection.getpeername()  # listens, if it has none: gloo aborts without
                    connection.shutdown(socket.SHUT_RDWR)


def _at(step: int, action: Callable[[], None]) -> None:
    original = Watchdog.heartbeat

    def heartbeat(watchdog: Watchdog, now: int, activity: Activity) -> None:
        original(watchdog, now, activity)
        if (now, activity) == (step, Activity.TRAIN_STEP):
            action()

    mock.patch.object(Watchdog, "heartbeat", heartbeat).start()
