"""Groups and log lines by the number of ranks: `python -m tests.benchmarks.bench_messages`.

Real processes on this machine, without engine. Of a group of all ranks: the sockets of a rank, and
what it asks of the rendezvous store, which rank 0 serves. Of a log line (1,846 components): bytes
and packets of all ranks together, counted by a network namespace of the processes' own (`unshare`;
without the right to make one, they are not counted), and of the same line with objects, as it was.
Bytes and sockets are exact; on two cores, times of many ranks say little and are not printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import multiprocessing

from mmbert.parallel.host_group import HostGroup
from mmbert.training.metrics.step_timer import REGIONS

COMPONENTS = 1846
RANKS = (2, 4, 8, 16)
LINES = 10
PORT = 29_500  # in a network namespace of its own


class CountingStore(distributed.Store):
    """Counts what a group asks of the store, and the bytes of the answers."""

    def __init__(self, store: distributed.Store) -> None:
        super().__init__()
        self._store = store
        self.requests = self.received = 0

    def set(self, key: str, value: Any) -> None:
        """Publish this rank's addresses."""
        self.requests += 1
        self._store.set(key, value)

    def get(self, key: str) -> bytes:
        """Read another rank's addresses."""
        value = self._store.get(key)
        self.requests, self.received = self.requests + 1, self.received + len(value)
        return value

    def wait(self, keys: list[str], timeout: timedelta = timedelta(minutes=1)) -> None:
        """Wait for another rank's addresses."""
        self.requests += 1
        self._store.wait(keys, timeout)


def sockets() -> int:
    """Return the number of this process' sockets."""
    found = 0
    for file in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(file).startswith("socket:")
        except OSError:  # the folder's own descriptor, closed meanwhile
            continue
    return found


def loopback() -> tuple[int, int]:
    """Return the bytes and packets that this network namespace's loopback has carried."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        if line.strip().startswith("lo:"):
            fields = line.split(":")[1].split()
            return int(fields[0]), int(fields[1])
    return 0, 0


def tensor_line(group: HostGroup) -> None:
    """Exchange what a log line needs."""
    group.sum([1.0] * (2 * COMPONENTS + 2 + len(REGIONS)))
    group.maximum([1.0])


def object_line(group: HostGroup) -> None:
    """Exchange the same with objects."""
    group.broadcast(dict.fromkeys(REGIONS, 1.0))
    group.sum([1.0] * (2 * COMPONENTS + 2 + len(REGIONS)))
    group.gather(1.0)


def traffic(group: HostGroup, line: Callable[[HostGroup], None]) -> tuple[float, float]:
    """Return bytes and packets of all ranks in one line, without those of a barrier."""
    line(group)
    counts = []
    for lines in (0, LINES):
        group.barrier()
        before = loopback()
        group.barrier()
        for _ in range(lines):
            line(group)
        group.barrier()
        after = loopback()
        counts.append((after[0] - before[0], after[1] - before[1]))
    (bytes0, packets0), (bytes1, packets1) = counts
    return (bytes1 - bytes0) / LINES, (packets1 - packets0) / LINES


def rank(number: int, world_size: int) -> None:
    """Be one rank; rank 0 prints."""
    store = distributed.TCPStore("127.0.0.1", PORT, world_size, number == 0)
    counting = CountingStore(store)
    before = sockets()
    direct = distributed.ProcessGroupGloo(counting, number, world_size, timedelta(minutes=1))
    of_a_group = sockets() - before
    distributed.init_process_group(
        "gloo", store=distributed.PrefixStore("x", store), rank=number, world_size=world_size
    )
    group = HostGroup.build(timedelta(minutes=1))
    lines = [traffic(group, line) for line in (tensor_line, object_line)]
    group.barrier()
    if number == 0:
        print(
            json.dumps([of_a_group, counting.requests, counting.received, *lines[0], *lines[1]]),
            flush=True,
        )
    group.barrier()
    del direct  # not before the others have connected
    os._exit(0)


def measure(world_size: int) -> list[float]:
    """Run the ranks in a network namespace of their own, if allowed; return rank 0's figures."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_messages", "--child", str(world_size)]
    if shutil.which("unshare") and shutil.which("ip"):
        script = 'ip link set lo up && exec "$@"'
        command = ["unshare", "--net", "--map-root-user", "sh", "-c", script, "sh", *command]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
    figures: list[float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Print a line for each number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        torch.set_num_threads(1)
        multiprocessing.start_processes(
            rank, (options.child,), nprocs=options.child, start_method="fork"
        )
        return
    print(
        "| ranks | a group: sockets a rank | store: requests a rank | bytes a rank "
        "| log line: MB, packets, all ranks | with objects: MB, packets |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for world_size in options.ranks:
        found = measure(world_size)
        print(
            f"| {world_size} | {found[0]} | {found[1]:,} | {found[2]:,} "
            f"| {found[3] / 1e6:.2f}, {found[4]:,.0f} | {found[5] / 1e6:.2f}, {found[6]:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
