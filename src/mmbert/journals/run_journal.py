"""Journals of a run folder: the starts of its processes, and what was noticed about nodes.

Files of JSON lines that several processes append to, each line with one write. A line that was cut
short, by a full disk for example, is passed over by readers.
"""

import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

STARTS_NAME = "starts.jsonl"
NODE_REPORTS_NAME = "nodes.jsonl"


class StartEvent(BaseModel):
    """Begin or end of one start of all processes of a run, within a job.

    The end repeats the fields of the begin. A begin without an end was killed with its job.
    """

    model_config = ConfigDict(frozen=True)

    unix_time: float
    job: str
    """Slurm job; empty without Slurm."""
    restart: int = 0
    """Restart count of the Slurm job."""
    start: int = 0
    """Number of the start within this execution of the job, from 0."""
    hosts: tuple[str, ...]
    tasks: int
    gpus: int
    """GPUs of all hosts; 0 on CPUs."""
    step: int
    """Step of the newest sound checkpoint at this time; 0 if there is none."""
    status: int | None = None
    """Exit status; None for the begin."""
    cause: str | None = None
    """Cause of a failure in a few words; None if there was none."""
    idle: str | None = None
    """What of the job's nodes had no rank, because the recipe cannot use it; None if all had."""


class NodeProblem(StrEnum):
    """Problem of a node."""

    SLOW = "slow"
    WRONG = "wrong results"
    DEAD = "dead"


class NodeReport(BaseModel):
    """Something noticed about a node."""

    model_config = ConfigDict(frozen=True)

    unix_time: float
    host: str
    problem: NodeProblem
    detail: str
    """One sentence with figures, for people."""
    step: int | None = None
    rank: int | None = None
    exclude: bool = False
    """Whether the evidence suffices to leave the node out of the next start."""


Record = TypeVar("Record", bound=BaseModel)


def append_record(path: Path, record: BaseModel) -> None:
    """Append `record` to the journal at `path`."""
    line = record.model_dump_json(exclude_none=True) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read_records(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the records of the journal at `path`, oldest first; none if it does not exist."""
    if not path.exists():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                yield kind.model_validate_json(line)
            except ValidationError:
                continue
