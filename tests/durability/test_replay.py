"""Recorder and replay find all states that the other durability tests rely on."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.durability.replay import Files, Replay
from tests.support.write_recorder import Recorder

Step = Callable[[Path], None]


def put(name: str, content: str) -> Step:
    def step(folder: Path) -> None:
        (folder / name).write_text(content)

    return step


def flush(name: str) -> Step:
    def step(folder: Path) -> None:
        descriptor = os.open(folder / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    return step


def move(name: str, target: str) -> Step:
    def step(folder: Path) -> None:
        (folder / name).rename(folder / target)

    return step


def left(steps: list[Step], folder: Path, before: Files) -> tuple[set[object], set[object]]:
    """Return possible contents of "file" after a crash at any call, and after the last (None: no
    file)."""
    for name, content in before.items():
        (folder / name).write_bytes(content or b"")
    recorder = Recorder(folder)
    with pytest.MonkeyPatch.context() as patch:
        recorder.patch(patch)
        for step in steps:
            step(folder)
    replay = Replay(before, recorder.events, recorder.contents())
    found = list(replay.crashes())
    last = [files for done, files in found if done == len(replay.events)]
    return {files.get("file") for _, files in found}, {files.get("file") for files in last}


OLD: Files = {"file": b"old!"}


def test_a_file_written_in_place_may_be_lost(tmp_path: Path) -> None:
    anywhere, _ = left([put("file", "new!")], tmp_path, OLD)
    assert anywhere == {b"old!", b"", b"ne", b"new!"}


def test_a_rename_of_what_was_not_flushed_may_leave_nothing(tmp_path: Path) -> None:
    anywhere, _ = left([put("draft", "new!"), move("draft", "file"), flush("")], tmp_path, OLD)
    assert anywhere == {b"old!", b"", b"ne", b"new!"}


def test_flushed_and_renamed_it_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    steps = [put("draft", "new!"), flush("draft"), move("draft", "file")]
    anywhere, _ = left(steps, tmp_path, OLD)
    assert anywhere == {b"old!", b"new!"}


def test_it_is_the_new_one_for_certain_when_the_folder_is_flushed(tmp_path: Path) -> None:
    steps = [put("draft", "new!"), flush("draft"), move("draft", "file")]
    for number, (more, expected) in enumerate([([], {b"old!", b"new!"}), ([flush("")], {b"new!"})]):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert left([*steps, *more], folder, OLD)[1] == expected


@pytest.mark.parametrize("flushed", [False, True])
def test_a_folder_that_is_not_in_its_parent_is_lost_with_what_is_in_it(
    tmp_path: Path, flushed: bool
) -> None:
    def make(folder: Path) -> None:
        (folder / "inner").mkdir()

    recorder = Recorder(tmp_path)
    steps = [make, put("inner/x", "new!"), flush("inner/x"), flush("inner")]
    with pytest.MonkeyPatch.context() as patch:
        recorder.patch(patch)
        for step in [*steps, flush("")] if flushed else steps:
            step(tmp_path)
    replay = Replay({}, recorder.events, recorder.contents())
    at_the_end = [files for done, files in replay.crashes() if done == len(replay.events)]
    assert ({} in at_the_end) is not flushed
    assert {"inner": None, "inner/x": b"new!"} in at_the_end


def test_what_is_written_past_the_recorder_is_noticed(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    (tmp_path / "file").write_text("unseen")
    with pytest.raises(AssertionError, match="did not see"):
        Replay({}, recorder.events, recorder.contents())
