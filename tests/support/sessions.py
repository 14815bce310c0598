"""The end of a program that was started with `start_new_session`, and of all it left running."""

import contextlib
import os
import signal

import psutil

# Between the request to end and the kill.
GRACE_SECONDS = 3.0


def end_session(session: int) -> None:
    """End every process of a session: a launcher's ranks, some in process groups of their own."""
    _, alive = psutil.wait_procs(_signalled(session, signal.SIGTERM), timeout=GRACE_SECONDS)
    if alive:
        psutil.wait_procs(_signalled(session, signal.SIGKILL), timeout=GRACE_SECONDS)


def _signalled(session: int, number: signal.Signals) -> list[psutil.Process]:
    """Every process of the session, which has been sent the signal."""
    reached = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session:
                process.send_signal(number)
                reached.append(process)
    return reached
