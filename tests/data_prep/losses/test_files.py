"""Files of other columns, files cut short, and files that cannot be opened."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mmbert.errors import TextError
from mmbert_prep.shards.summary import Summary
from tests.data_prep.losses.inputs import lines, write
from tests.support.sample_files import TEXT_FILES
from tests.support.texts import command_line, documents, tree


@pytest.mark.parametrize("suffix", sorted(set(TEXT_FILES) - {".txt"}))
def test_nineteen_of_twenty_files_have_another_column(
    suffix: str, tmp_path: Path, start: Callable[..., Summary]
) -> None:
    folder = tmp_path / "in" / "eng_Latn"
    folder.mkdir(parents=True)
    for number in range(20):
        path = folder / f"{number:02}{suffix}"
        TEXT_FILES[suffix](path, documents("eng_Latn", 20))
        if number:
            _rename_column(path, suffix)
    with pytest.raises(TextError, match=r"unread: at least [1-9]") as error:
        start(unit_bytes=None)
    text = str(error.value)
    assert "--text-column" in error.value.remedy
    assert "content" in error.value.remedy
    assert f"01{suffix}: " in text
    assert len(text.splitlines()) < 20
    assert tree(tmp_path / "out" / "text") == {}


def _rename_column(path: Path, suffix: str) -> None:
    if suffix.endswith("parquet"):
        pq.write_table(_renamed(pq.read_table(path)), path)
        return
    if suffix in (".arrow", ".feather"):
        is_stream = suffix == ".arrow"
        opened, new = (
            (pa.ipc.open_stream, pa.ipc.new_stream)
            if is_stream
            else (pa.ipc.open_file, pa.ipc.new_file)
        )
        table = _renamed(opened(path.read_bytes()).read_all())
        with new(path, table.schema) as writer:
            writer.write_table(table)
        return
    if suffix == ".1.jsonl":  # UTF-16
        text = path.read_text("utf-16")
        path.write_text(text.replace('"text"', '"content"'), "utf-16")
        return
    modules = {".gz": gzip, ".zst": zstandard, ".bz2": bz2, ".xz": lzma}
    packed = modules.get(path.suffix)
    data = path.read_bytes() if packed is None else packed.decompress(path.read_bytes())
    data = data.replace(b'"text"', b'"content"')
    if suffix in (".csv", ".tsv"):
        data = data.replace(b"text", b"content", 1)
    path.write_bytes(data if packed is None else packed.compress(data))


def _renamed(table: pa.Table) -> pa.Table:
    names = ["content" if name == "text" else name for name in table.column_names]
    return table.rename_columns(names)


@pytest.mark.parametrize(
    "suffix", [".jsonl.gz", ".jsonl.zst", ".jsonl.bz2", ".jsonl.xz", ".json", ".arrow", ".parquet"]
)
def test_nineteen_of_twenty_files_are_cut_short(
    suffix: str, tmp_path: Path, start: Callable[..., Summary]
) -> None:
    folder = tmp_path / "in" / "eng_Latn"
    folder.mkdir(parents=True)
    for number in range(20):
        path = folder / f"{number:02}{suffix}"
        TEXT_FILES[suffix](path, documents("eng_Latn", 20))
        if number:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TextError, match=r"files that lose some or all: 19 of 20") as error:
        start(unit_bytes=None)
    assert "get them again" in error.value.remedy


def test_the_command_ends_with_status_2_and_leaves_nothing(tmp_path: Path) -> None:
    """Not even a tokenizer, which would be one of what remains of the text."""
    folder = tmp_path / "in" / "eng_Latn"
    folder.mkdir(parents=True)
    for number in range(20):
        rows = [f"file {number} line {line}" for line in range(200)]
        name = "content" if number else "text"
        pq.write_table(pa.table({"id": rows, name: rows}), folder / f"{number:02}.parquet")
    result = command_line("--input", tmp_path / "in", "--output", tmp_path / "out", "--workers", 2)
    assert result.returncode == 2
    assert tree(tmp_path / "out") == {}
    for part in (
        "loses more of its input than is allowed",
        ".parquet: ",  # of the worker that was first
        "no column 'text' among content, id",
        "--text-column (there: content, id)",
        "--maximum-unread-fraction",
    ):
        assert part in result.stderr
    assert len(result.stderr.splitlines()) < 24
    assert "Traceback" not in result.stderr


def test_files_that_cannot_be_opened_are_unread(
    tmp_path: Path, start: Callable[..., Summary], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links to nowhere, and folders that cannot be listed, count with the mean size of a file."""
    write(tmp_path, web__eng_Latn=lines(1000), forum__eng_Latn=lines(100))
    (tmp_path / "in" / "web" / "swh_Latn.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TextError, match=r"(?s)swh_Latn 100\.0%.*cannot be opened \(No such file"):
        start()
    (tmp_path / "in" / "web" / "swh_Latn.jsonl").unlink()
    locked = tmp_path / "in" / "locked"
    (locked / "eng_Latn").mkdir(parents=True)
    listed = os.scandir

    def scandir(path: str) -> object:
        if os.path.basename(path) == "locked":
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(TextError, match=r"in/locked: 55,000 bytes: cannot be opened \(Permission"):
        start()


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl.gz", ".txt.zst", ".mds"])
def test_downloads_that_never_began_are_unread(
    suffix: str, tmp_path: Path, start: Callable[..., Summary]
) -> None:
    """Files of no bytes, where a sound file has some, count with the mean size of the others."""
    write(tmp_path, eng_Latn__a=lines(100))
    (tmp_path / "in" / "eng_Latn" / f"b{suffix}").touch()
    with pytest.raises(TextError, match=r"(?s)unread: at least 50\.0%.*10,000 bytes: empty file"):
        start()


def test_parts_without_documents_are_no_loss(tmp_path: Path, start: Callable[..., Summary]) -> None:
    write(tmp_path, eng_Latn__a=lines(100), eng_Latn__b=b"", eng_Latn__c=b"\n\n")
    assert start().losses == []


def test_files_that_can_name_no_language_count(
    tmp_path: Path, start: Callable[..., Summary]
) -> None:
    write(tmp_path, web__eng_Latn=lines(100))
    (tmp_path / "in" / "LICENSE.txt").write_text("x" * 1000)
    (tmp_path / "in" / "table.xyz").write_text("x" * 100_000)  # of unknown kind: listed only
    summary = start()
    assert summary.unnamed_bytes == 1000
    shutil.rmtree(tmp_path / "out" / "text")
    (tmp_path / "in" / "English").mkdir()
    (tmp_path / "in" / "English" / "a.txt").write_text("x" * 1000)
    with pytest.raises(
        TextError, match=r"(?s)without a language: at least 16\.7%.*names no language"
    ):
        start()
