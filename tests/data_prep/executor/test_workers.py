"""Workers: each task is claimed once; launchers are recognized."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mmbert.errors import UserError
from mmbert_prep.executor.claims import claim_tasks, make_empty_folder
from mmbert_prep.executor.local_workers import run_local
from mmbert_prep.executor.workers import (
    SingleProcess,
    launched_process_count,
    slurm_worker_group,
)


class _Member(SingleProcess):
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


def test_each_start_of_a_job_meets_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A requeued job keeps its id: the barriers of its first start would all be open."""
    for name in [*os.environ]:
        if name.startswith(("OMPI", "PMI", "SLURM", "MPI_")):
            monkeypatch.delenv(name)
    variables = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7"}
    starts = [{"STEP_ID": "0"}, {"STEP_ID": "1"}, {"STEP_ID": "0", "RESTART_COUNT": "1"}]
    for start in starts:
        for name, value in (variables | {f"SLURM_{k}": v for k, v in start.items()}).items():
            monkeypatch.setenv(name, value)
        group = slurm_worker_group(tmp_path)
        assert group is not None
        group.abort()
    assert len([*tmp_path.rglob("failed-0")]) == len(starts)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_task_goes_to_exactly_one_worker(size: int, tmp_path: Path) -> None:
    generator = random.Random(size)
    weights = [generator.randint(1, 100) for _ in range(40)]
    tasks = [f"task-{number}" for number in range(40)]
    make_empty_folder(tmp_path)
    workers = [claim_tasks(_Member(rank, size), tmp_path, tasks, weights) for rank in range(size)]
    taken: list[int] = []
    while workers:  # workers of different speeds
        worker = generator.choice(workers[: 1 + len(workers) // 2])
        try:
            taken.append(next(worker))
        except StopIteration:
            workers.remove(worker)
    assert sorted(taken) == list(range(40))


def test_a_fast_worker_takes_over_what_others_have_not_begun(tmp_path: Path) -> None:
    make_empty_folder(tmp_path)
    tasks = [str(number) for number in range(10)]
    slow = claim_tasks(_Member(1, 2), tmp_path, tasks, [1] * 10)
    first = next(slow)
    fast = list(claim_tasks(_Member(0, 2), tmp_path, tasks, [1] * 10))
    assert sorted([first, *fast]) == list(range(10))
    assert list(slow) == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
        ({"PMI_SIZE": "3"}, 3),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "6"}, 6),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967291", "SLURM_NTASKS": "8"}, 1),
        ({"SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}, 1),
    ],
)
def test_launchers(
    environment: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("OMPI", "PMI", "SLURM", "MPI_")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched_process_count() == expected


def _fail(group: SingleProcess, rank: int) -> int:
    if group.rank == rank:
        raise UserError(f"rank {rank} cannot go on", remedy="mend it")
    group.barrier()
    return group.size


@pytest.mark.parametrize("rank", [0, 2])
def test_a_failing_worker_ends_all_with_its_own_error(rank: int) -> None:
    with pytest.raises(UserError, match=f"rank {rank} cannot go on"):
        run_local(_fail, 3, rank)


def test_local_workers_meet() -> None:
    assert run_local(_fail, 3, -1) == 3
