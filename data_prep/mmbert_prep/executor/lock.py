"""Exclusive lock of an output folder. The lock of a dead run is taken over."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from mmbert.errors import OutputError
from mmbert.files import write_json

_HEARTBEAT_SECONDS = 20.0
# Heartbeat timeout of a process on another host, whose liveness cannot be checked.
_STALE_SECONDS = 600.0


@contextlib.contextmanager
def output_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path` in a `with` block. Raises OutputError if another run holds it."""
    token = _acquire(path)
    stop = threading.Event()
    heartbeat = threading.Thread(target=_keep_alive, args=(path, stop), daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        stop.set()
        heartbeat.join()
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_bytes()) == token:
                path.unlink()


def _acquire(path: Path) -> dict[str, Any]:
    token = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "slurm_restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
    }
    with _file_lock(path):
        holder = _holder(path)
        if holder is not None and _alive(path, holder):
            raise OutputError(
                f"another run is writing to {path.parent.parent}: process {holder.get('pid')} on "
                f"{holder.get('host')}",
                remedy="wait for it to end, or stop it; if you are sure that it is not running, "
                f"remove {path}",
            )
        write_json(path, token)
    return token


@contextlib.contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Serialize checking and taking the lock."""
    with open(path.with_name(path.name + ".guard"), "a") as guard:
        # Some network file systems lack flock; the lock file is then the only protection.
        with contextlib.suppress(OSError):
            fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _holder(path: Path) -> dict[str, Any] | None:
    try:
        holder = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return holder if isinstance(holder, dict) else None


def _alive(path: Path, holder: dict[str, Any]) -> bool:
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None and holder.get("slurm_job") == job:
        # Slurm requeues a job only after its previous run has ended, even if its host was lost.
        restart = os.environ.get("SLURM_RESTART_COUNT", "0")
        if holder.get("slurm_restart") != restart:
            return False
    if holder.get("host") != socket.gethostname():
        return time.time() - path.stat().st_mtime < _STALE_SECONDS
    try:
        process = psutil.Process(int(holder["pid"]))
        # Process ids are reused: the start time identifies the process.
        same = abs(process.create_time() - float(holder["started"])) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, ValueError, TypeError):
        return False


def _keep_alive(path: Path, stop: threading.Event) -> None:
    while not stop.wait(_HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
