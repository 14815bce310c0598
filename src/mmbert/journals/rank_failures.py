"""Failures of ranks, each in a small file of its own, for the loop that restarts the ranks.

The exit status that a launcher reports is one for all ranks; it does not tell the rank that failed
first from those that failed because of it. The loop names a folder in an environment variable;
without it nothing is written.
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mmbert.errors import UserError
from mmbert.files import lacks_space

FOLDER_VARIABLE = "MMBERT_FAILURES"
"""Environment variable with the folder that ranks report their failures in."""


class FailureKind(StrEnum):
    """What made a rank fail, as far as the rank itself can tell."""

    USER = "error that the user can fix"
    NO_SPACE = "no space on the disk"
    PEER = "another rank left"
    OTHER = "unexpected error"


class RankFailure(BaseModel):
    """Failure of one rank."""

    model_config = ConfigDict(frozen=True)

    rank: int
    kind: FailureKind
    host: str = ""
    text: str = ""
    """First line of the error."""
    unix_time: float = 0.0


def kind_of(error: BaseException, *, of_peer: bool = False) -> FailureKind:
    """Return the kind of an error.

    Args:
        of_peer: whether the error comes from the connection to another rank.
    """
    if lacks_space(error):
        return FailureKind.NO_SPACE
    if isinstance(error, UserError):
        return FailureKind.USER
    return FailureKind.PEER if of_peer else FailureKind.OTHER


def report_failure(
    rank: int,
    error: BaseException,
    *,
    of_peer: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Write the failure of `rank`, if the environment names a folder for it.

    The name of the file has the kind, because a full disk may take an empty file only. What cannot
    be written is left out: the error itself is in the log.
    """
    folder = environment.get(FOLDER_VARIABLE)
    if not folder:
        return
    kind = kind_of(error, of_peer=of_peer)
    text = (str(error).strip().splitlines() or [""])[0]
    if not isinstance(error, UserError):
        text = f"{type(error).__name__}: {text}"
    failure = RankFailure(
        rank=rank, kind=kind, host=socket.gethostname(), text=text, unix_time=time.time()
    )
    path = Path(folder) / f"rank-{rank:05d}.{kind.name}.json"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(failure.model_dump_json(), encoding="utf-8")


def read_failures(folder: Path) -> list[RankFailure]:
    """Return the failures reported in `folder`, by rank; an empty file tells rank and kind."""
    found = []
    for path in sorted(folder.glob("rank-*.json")) if folder.is_dir() else []:
        rank, kind = path.name.removeprefix("rank-").split(".")[:2]
        try:
            found.append(RankFailure.model_validate_json(path.read_bytes()))
        except (ValidationError, OSError):
            if rank.isdecimal() and kind in FailureKind.__members__:
                found.append(RankFailure(rank=int(rank), kind=FailureKind[kind]))
    return found
