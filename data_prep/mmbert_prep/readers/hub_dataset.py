"""Hugging Face `datasets` by name, streamed: `hf:NAME[:CONFIG[:SPLIT]]`, where a network exists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmbert.errors import UserError
from mmbert_prep.readers.documents import Document, FileRange, InputFile
from mmbert_prep.readers.language_codes import is_language_key
from mmbert_prep.readers.language_columns import language_of
from mmbert_prep.settings import PrepSettings

PREFIX = "hf:"
# A dataset does not tell its bytes before it is read: work and progress count its shards.
_SHARD_BYTES = 64_000_000


@dataclass(frozen=True)
class _DatasetName:
    """A dataset at a revision, one of its configurations and splits."""

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


def list_hub_dataset(settings: PrepSettings) -> list[InputFile]:
    """Every wanted configuration of the dataset as an input; its `size` counts its shards.

    The revision is looked up once and kept, so that all units and a continued run see the same
    data. Configurations named by a language (`swh_Latn`, as in FineWeb2) are of that language.
    """
    parts = settings.input.removeprefix(PREFIX).split(":")
    name, config, split = (*parts, "", "")[:3]
    datasets = _library()
    try:
        revision = _revision(name)
        configs = (
            [config]
            if config
            else datasets.get_dataset_config_names(name, **_revision_argument(revision))
        )
        files = []
        for each in sorted(configs):
            language = settings.language or (each if is_language_key(each) else None)
            path = str(_DatasetName(name, revision, each, split or "train"))
            count = _shard_count(_load(path))
            files.append(InputFile(path, "hub", "none", language, count, 0))
        return files
    except Exception as error:  # the library and its transports have many kinds
        raise _read_error(settings.input, error) from error


def hub_ranges(file: InputFile) -> list[FileRange]:
    """One segment per shard of the dataset."""
    return [
        FileRange(
            path=file.path,
            format="hub",
            compression="none",
            language=file.language,
            size=file.size,
            modified=file.modified,
            start=number,
            stop=number + 1,
            input_bytes=_SHARD_BYTES,
        )
        for number in range(file.size)
    ]


def read_hub_dataset(file_range: FileRange, settings: PrepSettings) -> Iterator[Document]:
    """Documents of one shard. A failing network raises UserError: nothing is missed silently."""
    try:
        rows = _load(file_range.path).shard(num_shards=file_range.size, index=file_range.start)
        for row in rows:
            yield _document(row, file_range.language, settings)
    except UserError:
        raise
    except Exception as error:  # the library and its transports have many kinds
        raise _read_error(file_range.path, error) from error


def _document(row: dict[str, Any], language: str | None, settings: PrepSettings) -> Document:
    language = language or language_of([row.get(name) for name in settings.language_columns])
    text = row.get(settings.text_column)
    if not isinstance(text, str):
        return Document(None, language, "missing_text")
    try:
        return Document(text.encode(), language)
    except UnicodeEncodeError:
        return Document(None, language, "invalid_utf8")


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
    # Before version 3 the attribute had another name.
    return int(dataset.num_shards if hasattr(dataset, "num_shards") else dataset.n_shards)


def _revision_argument(revision: str) -> dict[str, str]:
    return {"revision": revision} if revision else {}


def _revision(name: str) -> str:
    if os.path.isdir(name):  # a local copy in the hub's layout has no revision
        return ""
    from huggingface_hub import HfApi

    return HfApi().dataset_info(name).sha or ""


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "reading a dataset by name needs the datasets library",
            remedy="pip install datasets, or download the files and give their folder",
        ) from error
    return datasets


def _read_error(what: str, error: Exception) -> UserError:
    reported = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"{what} cannot be read: {reported}",
        remedy="check the name, the configuration and the network, and run the same command again: "
        "what is done is kept",
    )
