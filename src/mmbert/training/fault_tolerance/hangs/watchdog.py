"""Hang detection from per-rank heartbeats; reports the ranks that fell behind.

When a rank hangs, all others wait in a collective, and only they report errors. A thread in each
rank therefore publishes the progress of its main thread to a store. When a main thread has made no
progress for the recipe's timeout, the ranks publish their stacks; the lowest responsive rank
reports the stragglers, and all ranks exit with a failure.

The thread cannot run in a rank whose main thread holds the GIL, or that is suspended. Such a rank
is identified by its missing heartbeats; `faulthandler`, which does not need the GIL, dumps the
stacks of the former.
"""

import faulthandler
import json
import os
import socket
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from mmbert.errors import EXIT_FAILURE
from mmbert.parallel import host_group
from mmbert.training.engine import host_sync
from mmbert.training.fault_tolerance.hangs.activity import Activity, section_of
from mmbert.training.fault_tolerance.hangs.guarded_store import NoAnswerError, check_interval
from mmbert.training.fault_tolerance.hangs.hang_report import describe_own, report_stragglers
from mmbert.training.fault_tolerance.hangs.section_limits import Section, SectionLimits

# A main thread with one of these files in its stack waits for other ranks or for the device.
_COLLECTIVE_FILES = (
    "torch/distributed/",
    "deepspeed/comm/",
    host_group.__file__,
    host_sync.__file__,
)


# Seconds between heartbeats until the name of rank 0's host is known.
_FIRST_PAUSE = 0.05
_REPORT = "hang"
# Of the timeout: with the detection, all ranks have left after 1.5 times the timeout.
_REPORT_SHARE = 0.35


@dataclass(frozen=True)
class Heartbeat:
    """Last published state of a rank."""

    rank: int
    host: str
    process: int
    count: int
    """Number of publications; it increases as long as the watchdog thread runs."""
    progress: int
    """Number of activities begun by the main thread; their sequence is the same on all ranks."""
    step: int
    activity: str
    in_collective: bool
    """Whether the main thread waits for other ranks or for the device."""
    idle_seconds: float
    store_seconds: float = 0.0
    """Longest time of a question to rank 0's host since the last progress; long on a network that
    loses packets, where a single one may be lucky."""


class Watchdog:
    """Publishes and checks heartbeats; one per process."""

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        timeout_seconds: float,
        run_folder: Path,
        store: Any = None,
        limits: SectionLimits | None = None,
    ) -> None:
        """Start watching.

        Args:
            timeout_seconds: time without a heartbeat after which a rank counts as hanging.
            limits: shorter times for parts of the run, from what was seen before.
            store: dedicated `torch.distributed.Store` (see `open_store`); None for one process.
        """
        self._rank, self._world_size, self._host = rank, world_size, socket.gethostname()
        self.limits, self._store = limits or SectionLimits(timeout_seconds), store
        self._interval = check_interval(timeout_seconds)
        self._store_host = os.environ.get("MASTER_ADDR", "")
        self._store_seconds, self._asked_at, self._store_host_read = 0.0, 0, False
        folder = run_folder / "stacks"
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        own = folder / f"rank-{rank}.txt"
        # A new file: a former owner of the folder that still runs must not write to this one.
        own.unlink(missing_ok=True)
        self._stack_file = own.open("w", encoding="utf-8")
        if rank == 0:
            for report in folder.glob(f"{_REPORT}*.txt"):
                report.unlink(missing_ok=True)
        self._main_thread = threading.main_thread().ident
        self._position = (0, 0, Activity.START)
        self._since = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.heartbeat(0, Activity.START)
        # Publish immediately, so that a hang within the first interval can be attributed.
        self._publish(0, 0.0)
        self._thread.start()

    @property
    def _section(self) -> Section | None:
        """Section of the run that the main thread is in."""
        return section_of(self._position[2])

    @property
    def _timeout(self) -> float:
        return self.limits.limit(self._section)

    def heartbeat(self, step: int, activity: Activity) -> None:
        """Record progress of the main thread and its next activity."""
        self._observe()
        self._position = (self._position[0] + 1, step, activity)
        faulthandler.dump_traceback_later(self._timeout, file=self._stack_file)

    def keep_alive(self) -> None:
        """Restart the timeout without counting progress, whose count must match on all ranks."""
        self._observe()
        faulthandler.dump_traceback_later(self._timeout, file=self._stack_file)

    def _observe(self) -> None:
        """Add the time since the last progress to what was seen; restart the timeout."""
        now = time.monotonic()
        self.limits.observe(self._section, now - self._since)
        self._since = now

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        faulthandler.cancel_dump_traceback_later()
        self._thread.join(timeout=2 * self._interval)
        own, file = self._folder / f"rank-{self._rank}.txt", os.fstat(self._stack_file.fileno())
        self._stack_file.close()
        # Another start may have replaced it.
        if file.st_size == 0 and own.exists() and os.path.samestat(own.stat(), file):
            own.unlink()

    def _watch(self) -> None:
        count = 0
        while not self._closed.wait(self._pause):
            count += 1
            idle = time.monotonic() - self._since
            try:
                self._publish(count, idle)
                if idle > self._timeout or self._alarm_raised():
                    self._report_and_exit(count, idle)
                self._remember_host_of_store()
            except NoAnswerError:
                if idle > self._timeout and not self._closed.is_set():
                    self._exit(self._describe_no_answer(), report=f"{_REPORT}-{self._host}")
            except Exception as error:  # the rank that hosts the store has exited
                if self._closed.is_set():
                    return
                if idle > self._timeout:
                    self._exit(f"rank 0, which hosts the store, has exited ({error})")

    @property
    def _pause(self) -> float:
        """Seconds until the next heartbeat; few until the name of rank 0's host is known."""
        unknown = self._store is not None and not self._store_host_read
        return min(self._interval, _FIRST_PAUSE) if unknown else self._interval

    def _publish(self, count: int, idle: float) -> None:
        if self._store is None:
            return
        progress, step, activity = self._position
        heartbeat = Heartbeat(
            self._rank,
            self._host,
            os.getpid(),
            count,
            progress,
            step,
            activity,
            any(name in self._main_stack() for name in _COLLECTIVE_FILES),
            idle,
            self._store_seconds,
        )
        self._store.set(f"heartbeat/{self._rank}", json.dumps(asdict(heartbeat)))

    def _alarm_raised(self) -> bool:
        begin = time.monotonic()
        try:
            return self._store is not None and bool(self._store.check(["alarm"]))
        finally:
            if self._asked_at != self._position[0]:
                self._asked_at, self._store_seconds = self._position[0], 0.0
            self._store_seconds = max(self._store_seconds, time.monotonic() - begin)

    def _remember_host_of_store(self) -> None:
        """Read the name of rank 0's host while it can be read."""
        if self._store is not None and not self._store_host_read:
            text = self._read("heartbeat/0")
            if text:
                self._store_host, self._store_host_read = json.loads(text)["host"], True

    def _describe_no_answer(self) -> str:
        host = f" (host {self._store_host})" if self._store_host else ""
        return (
            f"rank 0{host} does not answer rank {self._rank} (host {self._host}): it is suspended, "
            "its node is lost, or the network between them is cut or loses packets"
        )

    def _main_stack(self) -> str:
        frame = sys._current_frames().get(self._main_thread or 0)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    def _report_and_exit(self, count: int, idle: float) -> None:
        """Publish this rank's stack; the lowest responsive rank reports the stragglers."""
        if self._store is None:
            _, step, activity = self._position
            self._exit(describe_own(step, activity, idle, self._main_stack()))
        # On a network that loses packets each message may take long.
        limit = threading.Timer(_REPORT_SHARE * self._timeout, self._give_up)
        limit.daemon = True
        limit.start()
        self._store.set("alarm", str(self._rank))
        self._store.set(f"stack/{self._rank}", self._main_stack())
        before = self._read_heartbeats()
        # Every responsive rank publishes again within two intervals.
        for _ in range(3):
            time.sleep(self._interval)
            count += 1
            self._publish(count, time.monotonic() - self._since)
            self._store.set(f"stack/{self._rank}", self._main_stack())
        after = self._read_heartbeats()
        responsive = [
            rank
            for rank, heartbeat in after.items()
            if rank not in before or heartbeat.count > before[rank].count
        ]
        if self._rank == min(responsive, default=self._rank):
            stacks = {rank: self._read(f"stack/{rank}") or "" for rank in responsive}
            self._exit(report_stragglers(after, responsive, stacks, self._world_size))
        time.sleep(2 * self._interval)  # let the reporting rank finish
        os._exit(EXIT_FAILURE)

    def _give_up(self) -> None:
        if self._rank == 0:
            self._exit("the ranks' reports did not arrive in time: the network is cut or slow")
        self._exit(self._describe_no_answer(), report=f"{_REPORT}-{self._host}")

    def _read_heartbeats(self) -> dict[int, Heartbeat]:
        heartbeats = {}
        for rank in range(self._world_size):
            text = self._read(f"heartbeat/{rank}")
            if text is not None:
                heartbeats[rank] = Heartbeat(**json.loads(text))
        return heartbeats

    def _read(self, key: str) -> str | None:
        return self._store.get(key).decode() if self._store.check([key]) else None

    def _exit(self, message: str, *, report: str = _REPORT) -> NoReturn:
        """Write the report unless another rank has, and exit.

        Args:
            report: name of the file. Hosts that cannot reach rank 0 write one each, because rank 0
                names them and they name rank 0.
        """
        text = f"no progress for {self._timeout:.0f} s: {message}\n"
        try:
            with (self._folder / f"{report}.txt").open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            os._exit(EXIT_FAILURE)  # another rank has reported; once it exits, all others look late
        sys.stderr.write(
            f"\n{text}  → see {self._folder}; the same command resumes from the last checkpoint; "
            "guard.hang_minutes is the longest timeout\n"
        )
        sys.stderr.flush()
        os._exit(EXIT_FAILURE)
