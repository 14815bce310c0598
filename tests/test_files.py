"""Tests of atomic writes, memory-mapped files, checksums, and the message for a full disk."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from mmbert.data.shards.mapped_file import MappedFile
from mmbert.errors import UserError
from mmbert.files import atomic_write, checksum_file, make_folder


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with atomic_write(path) as file:
        file.write(b"old")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]
    with atomic_write(path) as file:
        file.write(b"newer")
    assert path.read_bytes() == b"newer"


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "shards").touch()
    with pytest.raises(UserError, match="shards is a file, not a folder"):
        make_folder(tmp_path / "shards" / "tokenizer")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_explained_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("mmbert.files.os.fsync", full)
    with (
        pytest.raises(UserError, match=r"no space left while writing .*pieces\.npy"),
        atomic_write(tmp_path / "pieces.npy") as file,
    ):
        file.write(b"x")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "folder") as file:
        file.write(b"x")


def test_maps_and_checksums(tmp_path: Path) -> None:
    path = tmp_path / "data"
    content = bytes(range(256)) * 20_000  # more than one read of the checksum
    path.write_bytes(content)
    file = MappedFile(path)
    mapped = file.data
    assert mapped.tobytes() == content
    file.read_ahead(5, len(content))
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1
    before = checksum_file(path)
    path.write_bytes(content[:-1] + b"\x00")
    assert checksum_file(path) != before
    (tmp_path / "empty").touch()
    empty = MappedFile(tmp_path / "empty")
    empty.read_ahead(0, 0)
    assert empty.data.dtype == np.uint8
    assert len(empty.data) == 0


def test_a_folder_that_another_process_makes_meanwhile_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of the preprocessing create the same folders at the same time."""
    exists = Path.exists

    def made_by_another(path: Path) -> bool:
        if path == tmp_path / "shared":
            os.makedirs(path, exist_ok=True)
        return exists(path)

    monkeypatch.setattr(Path, "exists", made_by_another)
    make_folder(tmp_path / "shared")
    assert (tmp_path / "shared").is_dir()


def test_what_is_no_regular_file_is_written_to_and_stays(tmp_path: Path) -> None:
    """As root, a rename would replace /dev/null."""
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    with atomic_write(pipe) as file:
        file.write(b"text")
    reader.join(60)
    assert read == [b"text"]
    assert pipe.is_fifo()
