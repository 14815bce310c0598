"""Claims of tasks: each task goes to one worker, which claims it by creating a file.

Workers share only the file system of the output folder: no process hands out work, and no data
passes between processes.
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
    """Yield the indices of tasks for this worker, largest first; each task goes to one worker.

    A worker starts with its own range of neighboring tasks (often of the same languages), then
    takes tasks that others have not started. `folder` must be empty when the first worker starts.
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
    for index in reversed(order):  # their owners start with the largest
        name = tasks[index]
        if name in taken:
            continue
        if _claim(folder, name):
            yield index
            group.check()
        # Skip what others have taken meanwhile, instead of trying each task of a long list.
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
