"""TSV files of evaluation, as spreadsheets save them."""

from pathlib import Path

import pytest

from mmbert.errors import EvaluationDataError
from mmbert.evaluation.tsv import read_lines


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_marks(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes("pos\tein schöner Film\r\n\r\nneg\tschlecht\u2028!\r\n".encode(encoding))
    assert [*read_lines(path, "label")] == [
        (1, "pos", "ein schöner Film"),
        (3, "neg", "schlecht\u2028!"),
    ]


def test_a_mark_of_utf16_be(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes("\ufeffpos\tgood\n".encode("utf-16-be"))
    assert [*read_lines(path, "label")] == [(1, "pos", "good")]


@pytest.mark.parametrize(
    "data", [b"pos\tsch\xf6n\n", b"\xff\xfep\0o\0s", b"\xff\xfe\x00\xd8", b"p\0\t\0t\0"]
)
def test_other_encodings_are_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_bytes(data)
    with pytest.raises(EvaluationDataError, match=r"train\.tsv"):
        [*read_lines(path, "label")]
