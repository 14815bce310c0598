"""The same documents from every format, compression and encoding."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from mmbert_prep.readers.streams import read_blocks
from tests.support.reading import damage, read, reasons
from tests.support.sample_files import TEXT_FILES
from tests.support.texts import documents

TEXTS = [*documents("eng_Latn", 20), "καλημέρα, κόσμε", '"语言", 文字; \U00020000 "', "a|b\tc,d"]
TEXT_LIKE = [".jsonl", ".json", ".1.json", ".txt", ".csv", ".tsv"]
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be with a mark", "utf-32"]
FORMATS = [suffix for suffix in TEXT_FILES if not suffix.endswith((".gz", ".zst", ".bz2", ".xz"))]


def encode(data: bytes, encoding: str) -> bytes:
    if encoding == "utf-16-be with a mark":
        return ("\ufeff" + data.decode()).encode("utf-16-be")
    return data.decode().encode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("suffix", TEXT_LIKE)
def test_texts_of_any_encoding_and_compression(suffix: str, encoding: str, tmp_path: Path) -> None:
    plain = tmp_path / f"plain{suffix}"
    TEXT_FILES[suffix](plain, TEXTS)
    for extension, pack in PACKED.items():
        folder = tmp_path / f"packed{extension}"
        folder.mkdir()
        data = pack(encode(plain.read_bytes(), encoding))
        (folder / f"ell_Grek{suffix}{extension}").write_bytes(data)
        for unit_bytes in (100, 1 << 40):
            found = read(folder, unit_bytes)
            assert [document.rejected for document in found] == [None] * len(TEXTS)
            data_found = [document.data for document in found]
            assert data_found == [text.encode() for text in TEXTS], (extension, unit_bytes)


@pytest.mark.parametrize("extension", [".bz2", ".xz"])
def test_several_members_padding_and_bombs(extension: str, tmp_path: Path) -> None:
    pack = PACKED[extension]
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [json.dumps({"text": text}).encode() + b"\n" for text in TEXTS]
    members = [pack(b"".join(lines[:7])), pack(b""), b"\0" * 8, pack(b"".join(lines[7:]))]
    path = folder / f"ell_Grek.jsonl{extension}"
    path.write_bytes(b"".join(members) + b"\0" * 512)
    assert [document.data for document in read(folder)] == [text.encode() for text in TEXTS]
    path.write_bytes(b"".join(members) + b"garbage")
    found = read(folder)
    assert [document.data for document in found[:-1]] == [text.encode() for text in TEXTS]
    assert reasons(found) == ["damaged_file"]
    bomb = pack(b'{"text": "' + b"a" * 8_000_000 + b'"}\n' + lines[0])
    assert len(bomb) < 30_000
    path.write_bytes(bomb)
    found = read(folder, maximum_bytes=10_000)
    assert [d.data or (d.rejected and d.rejected.reason) for d in found] == [
        "too_long",
        TEXTS[0].encode(),
    ]
    kind = "bzip2" if extension == ".bz2" else "xz"
    assert max(len(block) for block in read_blocks(str(path), kind, 0, 0)) <= 1 << 20


def test_xz_that_needs_much_memory_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    data = bytearray(lzma.compress(b'{"text": "a"}\n', filters=filters))
    (tmp_path / "ell_Grek.jsonl.xz").write_bytes(data)
    assert "Memory usage limit" in damage(read(tmp_path))


CUT_TEXTS = ["one\ntext", 'two "quoted", 文字', "three\nlines\nhere", "four; 4", "five", "six 6"]
UNTELLABLE = {".txt", ".csv", ".tsv", ".jsonl", ".1.jsonl"}
"""Formats of which a cut at the end of a document cannot be told."""


@pytest.mark.parametrize("suffix", [*FORMATS, ".jsonl.bz2", ".jsonl.xz", ".txt.bz2", ".csv.xz"])
def test_a_cut_at_any_byte_invents_no_text(suffix: str, tmp_path: Path) -> None:
    """Each document is one of the file, the last one perhaps its beginning; and the cut is told."""
    inner, packed = suffix, ""
    if suffix.endswith((".bz2", ".xz")):
        inner, _, packed = suffix.rpartition(".")
    plain, path = tmp_path / f"plain{inner}", tmp_path / f"eng_Latn{suffix}"
    TEXT_FILES[inner](plain, CUT_TEXTS)
    whole = PACKED[f".{packed}" if packed else ""](plain.read_bytes())
    plain.unlink()
    expected = [text.encode() for text in CUT_TEXTS]
    ends = range(len(whole) - 12, len(whole))
    for size in [*range(1, len(whole), max(1, len(whole) // 40)), *ends]:
        path.write_bytes(whole[:size])
        found = read(tmp_path)
        *before, last = [d.data for d in found if d.data is not None] or [b""]
        assert before == expected[: len(before)]
        kept = last.decode(errors="ignore").rstrip("\r").encode()  # cut inside a character
        assert expected[len(before)].startswith(kept)
        if suffix not in UNTELLABLE:
            assert found[-1].rejected is not None, size


def test_blocks_of_any_size_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that end inside characters, lines, quotes, escapes and numbers change nothing."""
    for suffix, encoding in itertools.product(TEXT_LIKE, ENCODINGS):
        path = tmp_path / f"ell_Grek{suffix}"
        TEXT_FILES[suffix](path, TEXTS)
        path.write_bytes(encode(path.read_bytes(), encoding))
        for size in (1, 3, 4097):
            with monkeypatch.context() as patch:
                patch.setattr("mmbert_prep.readers.streams.BLOCK", size)
                assert [d.data for d in read(path)] == [text.encode() for text in TEXTS]
