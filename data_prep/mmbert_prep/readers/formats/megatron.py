"""Megatron pairs (`.idx` and `.bin`) of token ids."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.data.shards.manifest import MANIFEST_NAME
from mmbert.errors import UserError
from mmbert_prep.readers.documents import Document, FileRange, InputFile
from mmbert_prep.readers.file_format import FileFormat, no_languages
from mmbert_prep.readers.streams import DamagedFileError
from mmbert_prep.settings import InputSettings


def _open_pair(path: str) -> IndexedDataset:
    try:
        return IndexedDataset(Path(path).with_suffix(""))
    except UserError as error:
        raise DamagedFileError(error.message) from error


def _plan(file: InputFile, unit_bytes: int, settings: InputSettings) -> list[FileRange]:
    input_bytes = 1
    try:
        input_bytes = max(1, os.path.getsize(f"{file.path[:-4]}.bin"))
        documents = len(_open_pair(file.path))
    except (DamagedFileError, OSError) as error:
        return file.unreadable(str(error), input_bytes)
    count = max(1, min(documents, -(-input_bytes // unit_bytes)))
    bounds = [documents * number // count for number in range(count + 1)]
    return [
        file.range(start, stop, max(1, input_bytes // count))
        for start, stop in itertools.pairwise(bounds)
    ]


def _read(file_range: FileRange, settings: InputSettings) -> Iterator[Document]:
    pair = _open_pair(file_range.path)
    for number in range(file_range.start, file_range.stop):
        try:
            tokens = pair.document(number)
        except UserError as error:
            left = file_range.stop - number
            unread = file_range.input_bytes * left // (file_range.stop - file_range.start)
            raise DamagedFileError(error.message, unread=unread) from error
        yield Document.from_tokens(tokens, file_range.language)


def _companions(paths: Sequence[str]) -> Mapping[str, str | None]:
    known = set(paths)
    pairs = {f"{path[:-4]}.bin" for path in paths if path.endswith(".idx")} & known
    found: dict[str, str | None] = dict.fromkeys(sorted(pairs))
    # The counts of shards that this program wrote.
    folders = {os.path.dirname(path) for path in pairs}
    above = {os.path.dirname(folder) for folder in folders}
    for path in paths:
        folder, name = os.path.split(path)
        if (name == MANIFEST_NAME and folder in folders) or (
            name == "summary.json" and folder in above
        ):
            found[path] = "beside Megatron pairs"
    return found


MEGATRON = FileFormat(
    name="megatron",
    read=_read,
    plan=_plan,
    suffixes=(".idx",),
    compressible=False,
    has_languages=no_languages,
    companions=_companions,
)
