"""Corpus of all languages of all sources in one folder, opened through their manifests."""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmbert.data.shards.component import Component, SplitName
from mmbert.data.shards.continuation_index import ContinuationIndex, read_continuation_index
from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.data.shards.manifest import (
    MANIFEST_NAME,
    manifest_files,
    parse_manifest,
)
from mmbert.data.shards.mapped_file import truncated_error
from mmbert.data.shards.shard_pool import ShardPool
from mmbert.data.shards.tokenizer_description import (
    TokenizerDescription,
    read_tokenizer_description,
)
from mmbert.errors import ShardsError, TokenizerError, UserError

TOKENIZER_FOLDER = "tokenizer"


# With two maps each and as many continuation indexes: 49,152 of Linux's 65,530 maps per process.
_MAX_OPEN_SHARDS = 16_384
_READER_THREADS = 16  # manifests


def _open_shard_limit() -> int:
    """Return the limit of open shards, and of open continuation indexes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):  # forbidden in some sandboxes; then fewer stay open
            pass
    if soft == resource.RLIM_INFINITY:
        return _MAX_OPEN_SHARDS
    # A quarter each for .bin, .idx, continuation index and the rest of the process: among a
    # thousand ranks, its connections are thousands.
    return max(16, min(_MAX_OPEN_SHARDS, soft // 4))


class Corpus:
    """All components in one folder, with random access to their text."""

    def __init__(
        self, root: Path, tokenizer: TokenizerDescription, components: tuple[Component, ...]
    ) -> None:
        self.root = root
        self.tokenizer = tokenizer
        self.components = components
        self._by_name = {component.name: component for component in components}
        self._capacity = _open_shard_limit()
        self.shards = ShardPool(components, self._capacity)
        self._continuations: OrderedDict[tuple[int, int], ContinuationIndex] = OrderedDict()

    @property
    def tokenizer_folder(self) -> Path:
        """Folder with the tokenizer's files."""
        return self.root / TOKENIZER_FOLDER

    def component(self, source: str, language: str) -> Component:
        """Return the component of a source's folder and a language. Raises KeyError if missing."""
        return self._by_name[f"{source}/{language}"]

    def named(self, name: str) -> Component | None:
        """Return the component named `source/language`, or None."""
        return self._by_name.get(name)

    def shard(self, component: Component, split: SplitName, number: int) -> IndexedDataset:
        """Return the open pair of a shard."""
        return self.shards.get(component, split, number)

    def continuation_index(self, component: Component, context: int) -> np.ndarray:
        """Return the memory-mapped continuation index of a component at `context`."""
        key = (component.index, context)
        index = self._continuations.get(key)
        if index is not None:
            self._continuations.move_to_end(key)
            index.file.check_not_truncated()
            return index.entries
        entries = component.continuations(context)
        path = component.folder / component.manifest.train.pieces[context].file
        index = read_continuation_index(path, entries, component.manifest.train.documents)
        self._continuations[key] = index
        if len(self._continuations) > self._capacity:
            self._continuations.popitem(last=False)
        return index.entries

    def find_truncated_shard(self) -> UserError | None:
        """Return the error for the first missing or truncated shard file, or None.

        Queries the size of every file: only for use after a failure.
        """
        for component in self.components:
            for name, (size, _) in manifest_files(component.manifest).items():
                path = component.folder / name
                found = path.stat().st_size if path.exists() else 0
                if size is not None and found < size:
                    return truncated_error(path, found, size)
        return None

    def locate(self, component: Component, split: SplitName, number: int) -> tuple[int, int]:
        """Return a document's shard and its position there. Raises IndexError if out of range."""
        starts = component.starts(split)
        if not 0 <= number < starts[-1]:
            raise IndexError(
                f"document {number} of {component.name}: it has {starts[-1]} {split} documents"
            )
        shard = int(np.searchsorted(starts, number, side="right")) - 1
        return shard, number - int(starts[shard])

    def document(self, component: Component, split: SplitName, number: int) -> np.ndarray:
        """Return all tokens of document `number` of a split, numbered across its shards."""
        shard, place = self.locate(component, split, number)
        return self.shard(component, split, shard).sequence(place)

    def __getstate__(self) -> dict[str, object]:
        # Excludes maps and descriptors: a worker process opens its own.
        return {"root": self.root, "tokenizer": self.tokenizer, "components": self.components}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]


@dataclass(frozen=True)
class CorpusFiles:
    """What is read of a folder of shards to open it; the ranks of a node hand it on as it is.

    The manifests are bytes: parsing them takes less time than unpickling parsed ones.
    """

    tokenizer: TokenizerDescription
    manifests: tuple[tuple[str, str, bytes], ...]
    """Source, language and manifest.json, sorted by name."""


def read_corpus_files(shards: Path) -> CorpusFiles:
    """Read the tokenizer's description and every manifest.json in `shards`/source/language.

    Reads several concurrently and each only once, since hundreds of nodes do this on one network
    file system. Skips languages without a manifest, which are unfinished.

    Raises:
        UserError: the folder or its tokenizer is missing.
    """
    if not shards.is_dir():
        raise ShardsError(
            f"folder {shards} does not exist", remedy="give the output of `make preprocess`"
        )
    tokenizer = read_tokenizer_description(shards / TOKENIZER_FOLDER)
    folders = [
        (source.name, language.name)
        for source in _folders(shards)
        if source.name != TOKENIZER_FOLDER
        for language in _folders(source)
    ]
    paths = [shards / source / language / MANIFEST_NAME for source, language in folders]
    with ThreadPoolExecutor(_READER_THREADS) as pool:
        found = zip(folders, pool.map(_bytes_of, paths), strict=True)
        manifests = tuple((*names, data) for names, data in found if data is not None)
    return CorpusFiles(tokenizer, manifests)


def _folders(parent: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    with os.scandir(parent) as entries:
        found = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(found, key=lambda entry: entry.name)


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # unfinished language
        return None


def open_corpus(shards: Path, files: CorpusFiles | None = None) -> Corpus:
    """Open the corpus in `shards`, but none of its shards.

    Args:
        files: what another rank of the node has read there; None: read it.

    Raises:
        UserError: the folder is empty, or a language was preprocessed with another tokenizer.
    """
    shards = Path(shards)
    files = read_corpus_files(shards) if files is None else files
    tokenizer = files.tokenizer
    components: list[Component] = []
    for source, language, data in files.manifests:
        folder = shards / source / language
        path = folder / MANIFEST_NAME
        manifest = parse_manifest(data, path)
        if (manifest.source, manifest.language) != (source, language):
            raise ShardsError(
                f"{path} describes {manifest.source}/{manifest.language}, "
                f"but is in {source}/{language}",
                remedy="move the folder back to its original location",
            )
        if manifest.tokenizer != tokenizer.fingerprint:
            raise TokenizerError(
                f"{path}: the shards were made with tokenizer {manifest.tokenizer[:12]}…, "
                f"the folder's tokenizer is {tokenizer.fingerprint[:12]}…",
                remedy="remove summary.json from the source's folder and run the same "
                "preprocessing command again: a corpus has one tokenizer",
            )
        components.append(Component(len(components), source, language, folder, manifest))
    if not components:
        raise ShardsError(
            f"{shards} has no finished language",
            remedy="run the same preprocessing command again: it continues where it stopped",
        )
    return Corpus(shards, tokenizer, tuple(components))
