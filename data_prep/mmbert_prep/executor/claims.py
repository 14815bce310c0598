"""Task claims: a worker claims a task by creating a file, which succeeds for only one worker.

Claims need only the shared output folder: no scheduler process and no messages.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mmbert_prep.executor.workers import WorkerGroup


def claim_tasks(
    group: WorkerGroup, folder: Path, tasks: Sequence[str], weights: Sequence[int]
) -> Iterator[int]:
    """Claim tasks for this worker and yield their indices.

    A worker claims its own range of consecutive tasks (often of the same languages), largest
    first, then unclaimed tasks of others, smallest first. `folder` must be empty at the start.
    """
    order = sorted(range(len(tasks)), key=lambda index: (-weights[index], index))
    sizes = np.maximum(np.array(weights, dtype=np.float64), 1)
    middles = np.cumsum(sizes) - sizes / 2
    owners = (middles * group.size / sizes.sum()).astype(np.int64) if tasks else middles
    for index in (index for index in order if owners[index] == group.rank):
        if _claim(folder, tasks[index]):
            yield index
            group.check()
    taken = set(os.listdir(folder))
    for index in reversed(order):  # the owners start with the largest
        name = tasks[index]
        if name in taken:
            continue
        if _claim(folder, name):
            yield index
            group.check()
        # Update the tasks claimed by others; faster than trying each task of a long list.
        taken = set(os.listdir(folder))


def _claim(folder: Path, name: str) -> bool:
    try:
        os.close(os.open(folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def make_empty_folder(folder: Path) -> None:
    """Create `folder`, or remove the files in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
