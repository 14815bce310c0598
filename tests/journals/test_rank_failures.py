"""Failures of ranks: their kinds, and files that a full disk cuts short."""

import errno
from pathlib import Path

import pytest

from mmbert.errors import RecipeError
from mmbert.files import explained_write_errors
from mmbert.journals.rank_failures import (
    FOLDER_VARIABLE,
    FailureKind,
    read_failures,
    report_failure,
)


def no_space() -> BaseException:
    try:
        with explained_write_errors(Path("x")):
            raise OSError(errno.EDQUOT, "quota")
    except Exception as error:
        return error


def wrapped() -> BaseException:
    try:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:
            raise RuntimeError("in a thread") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (no_space(), FailureKind.NO_SPACE, "no space left while writing x"),
        (wrapped(), FailureKind.NO_SPACE, "RuntimeError: in a thread"),
        (RecipeError("a", remedy="b"), FailureKind.USER, "a"),
        (ValueError("a\nb"), FailureKind.OTHER, "ValueError: a"),
        (OSError(errno.EIO, "broken"), FailureKind.OTHER, "OSError: [Errno 5] broken"),
    ],
)
def test_a_failure_is_read_as_it_was_reported(
    error: BaseException, kind: FailureKind, text: str, tmp_path: Path
) -> None:
    environment = {FOLDER_VARIABLE: str(tmp_path / "failures")}
    report_failure(3, error, environment=environment)
    report_failure(1, ValueError(), of_peer=True, environment=environment)
    first, second = read_failures(tmp_path / "failures")
    assert (first.rank, first.kind) == (1, FailureKind.PEER)
    assert (second.rank, second.kind, second.text) == (3, kind, text)


def test_an_empty_file_still_tells_rank_and_kind(tmp_path: Path) -> None:
    (tmp_path / "rank-00012.NO_SPACE.json").touch()
    (tmp_path / "rank-odd.WHAT.json").touch()
    found = read_failures(tmp_path)
    assert [(one.rank, one.kind) for one in found] == [(12, FailureKind.NO_SPACE)]


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    report_failure(0, ValueError(), environment={})
    report_failure(0, ValueError(), environment={FOLDER_VARIABLE: "/proc/nowhere"})
    assert read_failures(tmp_path / "missing") == []
