"""Streaming reader of Hugging Face hub datasets: `hf:NAME[:CONFIG[:SPLIT]]`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmbert.errors import PackageError, TextError, UserError
from mmbert_prep.readers.documents import Document, FileRange, InputFile, Row
from mmbert_prep.readers.file_format import FileFormat
from mmbert_prep.readers.language_columns import ColumnLanguage
from mmbert_prep.readers.rejection import RejectReason, column_names
from mmbert_prep.readers.row_documents import documents_of_rows
from mmbert_prep.readers.where import condition_of
from mmbert_prep.settings import InputSettings

PREFIX = "hf:"
# The size of a dataset is unknown before it is read: planning and progress count its shards.
_SHARD_BYTES = 64_000_000


@dataclass(frozen=True)
class _DatasetName:
    """Dataset, revision, configuration and split."""

    dataset: str
    revision: str
    config: str
    split: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.dataset}@{self.revision}:{self.config}:{self.split}"

    @classmethod
    def parse(cls, text: str) -> _DatasetName:
        dataset, config, split = text.removeprefix(PREFIX).rsplit(":", 2)
        name, _, revision = dataset.rpartition("@")
        return cls(name, revision, config, split)


def list_hub_dataset(settings: InputSettings) -> list[InputFile]:
    """Return one input file per configuration, with the number of dataset shards as its `size`.

    The path includes the current revision: all workers read the same data, and a changed dataset is
    encoded again. Raises UserError if the dataset cannot be read.
    """
    parts = settings.input.removeprefix(PREFIX).split(":")
    name, config, split = (*parts, "", "")[:3]
    datasets = _library()
    try:
        revision = _revision(name)
        options = _revision_argument(revision)
        configs = [config] if config else datasets.get_dataset_config_names(name, **options)
        files = []
        for each in sorted(configs):
            path = str(_DatasetName(name, revision, each, split or "train"))
            count = _shard_count(_load(path))
            files.append(InputFile(path, HUB_DATASET.name, "none", settings.language, count, 0))
        return files
    except Exception as error:  # the library and its transports raise many types
        raise _read_error(settings.input, error) from error


def config_of(file: InputFile) -> str:
    """Return the configuration of a listed dataset, which may be named as a language."""
    return _DatasetName.parse(file.path).config


def _plan(file: InputFile, unit_bytes: int, settings: InputSettings) -> list[FileRange]:
    return [file.range(number, number + 1, _SHARD_BYTES) for number in range(file.size)]


def _read(file_range: FileRange, settings: InputSettings) -> Iterator[Document]:
    # A network error raises UserError: documents are never lost silently.
    try:
        dataset = _load(file_range.path).shard(num_shards=file_range.size, index=file_range.start)
        yield from documents_of_rows(
            map(Row, dataset),
            file_range.language,
            settings,
            lambda row, found: _document(row.values, found, settings),
        )
    except UserError:
        raise
    except Exception as error:  # the library and its transports raise many types
        raise _read_error(file_range.path, error) from error


def _check_conditions(file: InputFile, settings: InputSettings) -> None:
    try:
        rows = _load(file.path).shard(num_shards=file.size, index=0)
        condition_of(settings.where).check_rows(map(Row, rows), file.path)
    except UserError:
        raise
    except Exception as error:  # the library and its transports raise many types
        raise _read_error(file.path, error) from error


def _document(row: dict[str, Any], found: ColumnLanguage, settings: InputSettings) -> Document:
    language, written = found
    text = row.get(settings.text_column)
    if not isinstance(text, str):
        columns = column_names(row) if settings.text_column not in row else ()
        return Document.reject(language, RejectReason.MISSING_TEXT, columns=columns)
    try:
        return Document(text.encode(), language, written_language=written)
    except UnicodeEncodeError:
        return Document.reject(language, RejectReason.INVALID_UTF8)


def _load(path: str) -> Any:
    name = _DatasetName.parse(path)
    datasets = _library()
    return datasets.load_dataset(
        name.dataset,
        name.config,
        split=name.split,
        streaming=True,
        **_revision_argument(name.revision),
    )


def _shard_count(dataset: Any) -> int:
    # The attribute was called n_shards before datasets 3.
    return int(dataset.num_shards if hasattr(dataset, "num_shards") else dataset.n_shards)


def _revision_argument(revision: str) -> dict[str, str]:
    return {"revision": revision} if revision else {}


def _revision(name: str) -> str:
    if os.path.isdir(name):  # a local copy of a hub dataset has no revision
        return ""
    from huggingface_hub import HfApi

    return HfApi().dataset_info(name).sha or ""


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise PackageError(
            "reading a dataset by name needs the datasets library",
            remedy="pip install datasets, or download the files and give their folder",
        ) from error
    return datasets


def _read_error(name: str, error: Exception) -> TextError:
    message = (str(error).splitlines() or [type(error).__name__])[0]
    return TextError(
        f"{name} cannot be read: {message}",
        remedy="check the name, the configuration and the network, and run the same command again; "
        "finished work is kept",
    )


HUB_DATASET = FileFormat(
    name="hub", read=_read, plan=_plan, local=False, check_conditions=_check_conditions
)
