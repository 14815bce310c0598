"""Ending a program that was started with `start_new_session`, with all of its processes."""

import contextlib
import os
import signal

import psutil

# Between the request to end and the kill.
GRACE_SECONDS = 3.0


def end_session(session: int) -> None:
    """End every process of a session, also those in process groups of their own."""
    _, alive = psutil.wait_procs(_signalled(session, signal.SIGTERM), timeout=GRACE_SECONDS)
    if alive:
        psutil.wait_procs(_signalled(session, signal.SIGKILL), timeout=GRACE_SECONDS)


def _signalled(session: int, number: signal.Signals) -> list[psutil.Process]:
    """Send a signal to every process of the session and return them."""
    reached = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session:
                process.send_signal(number)
                reached.append(process)
    return reached
