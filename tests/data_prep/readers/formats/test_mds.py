"""Reading of MDS shards written by MosaicML's own writer (mds/write.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mmbert_prep.readers import plan_ranges, read_range
from mmbert_prep.readers.discovery import discover
from tests.support.texts import settings

SHARDS = Path(__file__).parent / "mds"
# From mds/write.py, which cannot be imported without mosaicml-streaming.
LENGTHS = (1, 7, 255, 256, 300, 70_000)
FORMS = {folder.name: list(range(6)) for folder in sorted(SHARDS.iterdir()) if folder.is_dir()}
FORMS["fixed_plain"] = [4]  # encodings with a shape have documents of one length


def ids(number: int) -> list[int]:
    return ((np.arange(LENGTHS[number]) * 31 + number * 389) % 1000 + 5).tolist()


def read(folder: Path) -> list[list[int]]:
    options = settings(folder, folder / "out", unit_bytes=1000)
    found = []
    for file in discover(options).files:
        assert file.language == "eng_Latn"
        for file_range in plan_ranges(file, 1000, options):
            for document in read_range(file_range, options):
                assert document.rejected is None, document.rejected
                assert document.tokens is not None
                found.append(document.tokens.tolist())
    return found


def test_all_forms_are_there() -> None:
    assert len(FORMS) == 8


@pytest.mark.parametrize("form", FORMS)
def test_shards_of_the_real_writer(form: str, tmp_path: Path) -> None:
    shutil.copytree(SHARDS / form, tmp_path / "eng_Latn")
    assert read(tmp_path) == [ids(number) for number in FORMS[form]]


def test_a_shard_beside_its_packed_self_is_read_once(tmp_path: Path) -> None:
    """Training directly on MDS needs unpacked shards, and users may keep both."""
    folder = tmp_path / "eng_Latn"
    shutil.copytree(SHARDS / "fixed_plain", folder)
    (folder / "shard.00000.mds.zstd").write_bytes(b"never read")
    assert read(tmp_path) == [ids(4)]
    ignored = discover(settings(tmp_path, tmp_path / "out")).ignored
    assert ignored["packed copy of an MDS shard beside it"] == ["eng_Latn/shard.00000.mds.zstd"]


def test_missing_shards_are_told_by_their_index(tmp_path: Path) -> None:
    """A download that stopped in between."""
    for folder in ("eng_Latn", "eng_Latn-none", "eng_Latn-packed"):
        shutil.copytree(SHARDS / "int64_gzip", tmp_path / folder)
    (tmp_path / "eng_Latn" / "shard.00001.mds.gz").unlink()
    for path in (tmp_path / "eng_Latn-none").glob("*.mds.gz"):
        path.rename(path.with_name(f"{path.name}.incomplete"))
    found = discover(settings(tmp_path, tmp_path / "out"))
    assert sorted(Path(file.path).parent.name for file in found.files) == [
        "eng_Latn", "eng_Latn-packed", "eng_Latn-packed",
    ]  # fmt: skip
    found.ignored = {reason: sorted(names) for reason, names in found.ignored.items()}
    assert found.ignored == {
        "index of MDS shards of which some are missing": [
            "eng_Latn-none/index.json", "eng_Latn/index.json",
        ],
        "beside MDS shards": ["eng_Latn-packed/index.json"],
        "unknown kind of file '.incomplete'": [
            f"eng_Latn-none/shard.0000{number}.mds.gz.incomplete" for number in (0, 1)
        ],
    }  # fmt: skip
