"""Folders that appear whole, also when two processes write the same one."""

from pathlib import Path

import pytest

from mmbert.errors import OutputError
from mmbert.hub.output_folder import atomic_folder


def test_of_two_that_write_one_folder_the_first_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write(text: str) -> None:
        with atomic_folder(out) as folder:
            (folder / "file").write_text(text)
            if text == "second":
                write("first")

    with pytest.raises(OutputError, match=f"{out} already exists"):
        write("second")
    assert (out / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
