"""Each format accounts for its input bytes: every sample file, sound, damaged and of other columns.

A new format is covered once `tests/support/sample_files.py` has a file of it.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mmbert_prep.executor.work_units import plan_work_units
from mmbert_prep.filters.cleaning import Cleaner
from mmbert_prep.losses.plan import planned_input
from mmbert_prep.readers import Document, FileRange, Rejected, RejectReason, read_range
from mmbert_prep.readers.accounting import FileLoss, RangeAccount
from mmbert_prep.readers.discovery import discover
from tests.support.sample_files import SAMPLE_FILES, TEXT_FILES
from tests.support.texts import documents, json_lines, settings

TEXTS = [f"{text} {number:x}" * 4 for number, text in enumerate(documents("eng_Latn", 60))]


def account(path: Path, **changes: object) -> tuple[int, dict[str, int], FileLoss]:
    """Read all of a path; return its input bytes, the unread ones by language, and the loss."""
    options = settings(path, path / "out", **changes)
    found = discover(options)
    plan = plan_work_units(found, options)
    cleaner = Cleaner(options)
    total = 0
    unread: dict[str, int] = {}
    loss = FileLoss(path="")
    for file_range in (each for unit in plan.units for each in unit.file_ranges):
        ledger = RangeAccount(file_range)
        for document in read_range(file_range, options):
            clean = document.tokens if document.tokens is not None else cleaner.clean(document)
            if isinstance(clean, Rejected):
                ledger.reject(document, clean)
            else:
                ledger.keep(document)
        result = ledger.finish()
        assert sum(result.input_bytes.values()) == file_range.accounted_bytes
        assert all(size <= result.input_bytes[key] for key, size in result.unread_bytes.items())
        total += file_range.accounted_bytes
        for language, size in result.unread_bytes.items():
            unread[language] = unread.get(language, 0) + size
        loss.add(result.loss or FileLoss(path=""))
    assert total == planned_input(found, plan).input_bytes
    return total, unread, loss


@pytest.mark.parametrize("suffix", SAMPLE_FILES)
def test_a_sound_file_is_read(suffix: str, tmp_path: Path) -> None:
    SAMPLE_FILES[suffix](tmp_path / f"eng_Latn{suffix}", TEXTS)
    total, unread, loss = account(tmp_path, unit_bytes=1000)
    assert unread == {}
    assert loss.lost_bytes == 0
    if suffix not in (".idx", ".1.parquet", ".parquet"):
        assert total == (tmp_path / f"eng_Latn{suffix}").stat().st_size


@pytest.mark.parametrize("suffix", sorted(set(SAMPLE_FILES) - {".txt"}))
def test_a_file_cut_short_loses_bytes(suffix: str, tmp_path: Path) -> None:
    """Plain text that ends early cannot be told from text that ends there."""
    path = tmp_path / f"eng_Latn{suffix}"
    SAMPLE_FILES[suffix](path, TEXTS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10 + 1])
    total, unread, loss = account(tmp_path)
    assert list(unread) == ["eng_Latn"]
    if suffix in (".jsonl", ".1.jsonl"):
        assert 0 < unread["eng_Latn"] < total // 10, "one line"
    elif suffix == ".mds":
        assert total // 2 < unread["eng_Latn"] < total * 9 // 10, "the missing samples"
    else:
        assert unread["eng_Latn"] == total, "what is missing is unknown"
        assert loss.problem


@pytest.mark.parametrize("suffix", sorted(set(TEXT_FILES) - {".txt"}))
def test_a_file_without_the_text_column_loses_all_and_names_its_columns(
    suffix: str, tmp_path: Path
) -> None:
    TEXT_FILES[suffix](tmp_path / f"eng_Latn{suffix}", TEXTS)
    total, unread, loss = account(tmp_path, text_column="content", unit_bytes=1000)
    assert unread == {"eng_Latn": total}
    assert "text" in loss.columns


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".jsonl.gz": gzip.compress,
    ".jsonl.zst": zstandard.compress,
    ".jsonl.bz2": bz2.compress,
    ".jsonl.xz": lzma.compress,
}
BROKEN_START = {
    ".jsonl.gz": b"\x1f\x8b\x99\x99",
    ".jsonl.zst": b"\xff\xff\xff\xff",
    ".jsonl.bz2": b"BZ\xff\xff",
    ".jsonl.xz": b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("suffix", PACK)
def test_damage_inside_a_compressed_file_loses_what_follows(suffix: str, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    lines = [json_lines([{"text": random.bytes(300).hex()}]) for _ in range(8000)]
    members = [bytearray(PACK[suffix](b"".join(part))) for part in (lines[:6000], lines[6000:])]
    members[1][:4] = BROKEN_START[suffix]
    (tmp_path / f"eng_Latn{suffix}").write_bytes(b"".join(members))
    total, unread, loss = account(tmp_path)
    assert len(members[1]) <= unread["eng_Latn"] <= len(members[1]) + (1 << 20)
    assert unread["eng_Latn"] < total
    assert loss.reasons == {"damaged_file": 1}


@pytest.mark.parametrize("suffix", PACK)
def test_a_wrong_checksum_loses_the_whole_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"eng_Latn{suffix}"
    text = json_lines({"text": text} for text in TEXTS)
    if suffix == ".jsonl.zst":
        data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(text))
    else:
        data = bytearray(PACK[suffix](text))
    # The checksum: before the length in gzip; before the index and the footer in xz.
    place = {".jsonl.gz": -8, ".jsonl.xz": -12 - _xz_index(data) - 8}.get(suffix, -2)
    data[place] ^= 1 << 3
    path.write_bytes(data)
    total, unread, _ = account(tmp_path)
    assert unread == {"eng_Latn": total}


def _xz_index(data: bytes) -> int:
    """Return the size of the index, which the footer of xz data has."""
    return 4 * (int.from_bytes(data[-8:-4], "little") + 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("unit", ["json", "csv"])
def test_damage_inside_a_text_file_loses_what_follows(
    unit: str, encoding: str, tmp_path: Path
) -> None:
    """What follows a broken value of an array, or a misplaced quotation mark, is not read."""
    if unit == "json":
        rows = [f'{{"text": "a text {number:03}"}}' for number in range(100)]
        rows[70] = '{"text": a text 070  }'
        text = "[" + ",\n".join(rows) + "]"
    else:
        rows = [f'"a text {number:03}"\n' for number in range(100)]
        rows[70] = '"a text" 070\n'
        text = "text\n" + "".join(rows)
    (tmp_path / f"eng_Latn.{unit}").write_text(text, encoding)
    total, unread, loss = account(tmp_path)
    assert unread == {"eng_Latn": pytest.approx(total * 0.3, rel=0.03)}
    assert loss.reasons == {"damaged_file": 1}


def test_broken_rows_lose_their_share(tmp_path: Path) -> None:
    rows = [f"{number:02},a text" for number in range(99)] + ["99,a,text"]
    (tmp_path / "eng_Latn.csv").write_text("id,text\n" + "\n".join(rows) + "\n")
    total, unread, loss = account(tmp_path)
    assert unread == {"eng_Latn": pytest.approx(total / 100, abs=2)}
    assert loss.reasons == {"broken_row": 1}


@pytest.mark.parametrize("suffix", [".arrow", ".feather"])
def test_a_damaged_batch_loses_what_follows(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"eng_Latn{suffix}"
    texts = [f"{number:03} " * 50 for number in range(60)]
    SAMPLE_FILES[suffix](path, texts)
    data = bytearray(path.read_bytes())
    opened = pa.ipc.open_stream if suffix == ".arrow" else pa.ipc.open_file
    column = opened(bytes(data)).read_all()["text"]
    chunk = len(column.chunks) // 2
    offsets = column.chunk(chunk).buffers()[1].to_pybytes()[:16]
    place = -1
    for _ in range(chunk + 1):  # equal in each batch
        place = data.index(offsets, place + 1)
    data[place : place + 16] = b"\xff" * 16
    path.write_bytes(data)
    total, unread, loss = account(tmp_path, unit_bytes=1 << 30)
    assert 0.35 * total < unread["eng_Latn"] < 0.65 * total
    assert loss.reasons == {"damaged_file": 1}


def test_rows_that_are_not_selected_are_no_loss(tmp_path: Path) -> None:
    rows = [{"text": f"a text {number}", "score": number} for number in range(20)]
    (tmp_path / "eng_Latn.jsonl").write_bytes(json_lines([*rows, {"text": "b"}]))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "swh_Latn.parquet")
    _, unread, loss = account(tmp_path, where=("score > 4",))
    assert unread == {}
    assert loss.lost_bytes == 0


def test_an_unreadable_row_group_loses_the_rows_from_it_on(tmp_path: Path) -> None:
    path = tmp_path / "eng_Latn.parquet"
    TEXT_FILES[".1.parquet"](path, TEXTS)  # groups of 13 of 60 rows, uncompressed
    group = pq.read_metadata(path).row_group(3)
    start = group.column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    total, unread, _ = account(tmp_path, unit_bytes=1 << 30)
    # A batch that holds rows of a damaged group is lost as a whole.
    assert total * (60 - 39) // 60 <= unread["eng_Latn"] <= total


@pytest.mark.parametrize(
    ("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress)]
)
def test_damaged_lines_lose_their_share(
    suffix: str, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    """Of equally long lines, compressed or not, each is the same part of the file."""
    bad = [b'{"text": "cut', b'{"other": 1}', b'{"text": null}', b'{"text": "\xff"}', b"[1, 2, 3]"]
    bad.append(b'{"text": "\\ud83d"}')
    lines = [line.ljust(99) for line in [b'{"text": "a good line"}'] * 294 + bad]
    data = b"\n".join(lines) + b"\n"
    (tmp_path / f"eng_Latn.jsonl{suffix}").write_bytes(pack(data))
    total, unread, loss = account(tmp_path, unit_bytes=1 << 30)
    assert unread == {"eng_Latn": pytest.approx(total * 6 / 300, abs=1)}
    assert sum(loss.reasons.values()) == 6


def test_overlong_documents_lose_their_bytes(tmp_path: Path) -> None:
    long = "x" * 3_000_000
    lines = [*(["short one"] * 10), long, *(["short two"] * 10)]
    (tmp_path / "eng_Latn.jsonl").write_bytes(json_lines({"text": line} for line in lines))
    (tmp_path / "swh_Latn.txt").write_text("\n\n".join(lines))
    total, unread, loss = account(tmp_path, maximum_bytes=2_000_000, unit_bytes=1 << 30)
    assert loss.reasons == {"too_long": 2}
    assert unread["eng_Latn"] == pytest.approx(3_000_000, abs=500)
    assert unread["swh_Latn"] == pytest.approx(3_000_000, abs=500)
    assert total > sum(unread.values())


def test_documents_without_a_language_are_counted_apart(tmp_path: Path) -> None:
    named = [{"text": "a text", "language": "swh_Latn"}] * 3
    (tmp_path / "mixed.jsonl").write_bytes(
        json_lines([*named, {"text": "a text", "language": "?"}])
    )
    total, unread, loss = account(tmp_path)
    assert unread == {}
    assert 0 < loss.unnamed_bytes < total // 3
    assert loss.reasons == {"missing_language": 1}


@given(
    records=st.lists(
        st.tuples(
            st.sampled_from(["swh_Latn", "yor_Latn", None]),
            st.sampled_from([None, *RejectReason]),
            st.one_of(st.none(), st.integers(0, 1000)),
        ),
        max_size=30,
    ),
    input_bytes=st.integers(1, 10**12),
    complete=st.booleans(),
)
def test_every_byte_is_read_or_lost(
    records: list[tuple[str | None, RejectReason | None, int | None]],
    input_bytes: int,
    complete: bool,
) -> None:
    file_range = FileRange(
        path="a", format="jsonl", compression="none", language=None, size=input_bytes,
        modified=0, start=0, stop=1, input_bytes=input_bytes,
    )  # fmt: skip
    ledger = RangeAccount(file_range)
    for language, reason, size in records:
        if reason is None:
            ledger.keep(Document(b"text", language or "swh_Latn", size=size))
        else:
            document = Document.reject(language, reason, "a: problem", size=size)
            assert document.rejected is not None
            ledger.reject(document, document.rejected)
    result = ledger.finish(complete=complete)
    assert sum(result.input_bytes.values()) == input_bytes
    assert all(size > 0 for size in result.input_bytes.values())
    assert all(size <= result.input_bytes[key] for key, size in result.unread_bytes.items())
    lost = [
        reason
        for _, reason, _ in records
        if reason is not None and (reason.damage or reason is RejectReason.MISSING_LANGUAGE)
    ]
    assert (result.loss is not None) == bool(lost)
    if records and len(lost) == len(records) and complete:
        assert result.loss is not None
        assert result.loss.lost_bytes == input_bytes
