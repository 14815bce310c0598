"""The corpus: all languages of all sources under one folder, opened through their manifests."""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from mmbert.data.shards.continuation_index import ContinuationIndex, read_continuation_index
from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.data.shards.manifest import (
    MANIFEST_NAME,
    Manifest,
    Shard,
    Split,
    manifest_files,
    parse_manifest,
)
from mmbert.data.shards.mapped_file import truncated_error
from mmbert.data.shards.tokenizer_description import (
    TokenizerDescription,
    read_tokenizer_description,
)
from mmbert.errors import UserError

TOKENIZER_FOLDER = "tokenizer"
SplitName = Literal["train", "heldout"]


@dataclass(frozen=True)
class Component:
    """One language of one source: what the mixture draws from.

    `index` is its place in `Corpus.components`; `source` is the folder below the shards.
    """

    index: int
    source: str
    language: str
    folder: Path
    manifest: Manifest

    @property
    def name(self) -> str:
        """`source/language`, the component's lasting name (indices change when data is added)."""
        return f"{self.source}/{self.language}"

    def split(self, name: SplitName) -> Split:
        """The manifest's entry of one split."""
        return self.manifest.train if name == "train" else self.manifest.heldout

    def starts(self, name: SplitName) -> np.ndarray:
        """int64 [shards + 1]: number of the first document of each shard, then their count."""
        return self.train_starts if name == "train" else self.heldout_starts

    @cached_property
    def train_starts(self) -> np.ndarray:
        """`starts` of the train split."""
        return _starts(self.manifest.train.shards)

    @cached_property
    def heldout_starts(self) -> np.ndarray:
        """`starts` of the held-out split."""
        return _starts(self.manifest.heldout.shards)

    def continuations(self, context: int) -> int:
        """Number of continuation pieces at `context`. Raises UserError without an index for it."""
        entry = self.manifest.train.pieces.get(context)
        if entry is None:
            known = ", ".join(str(c) for c in sorted(self.manifest.train.pieces)) or "none"
            raise UserError(
                f"{self.folder / MANIFEST_NAME} has no piece index for context {context} "
                f"(it has: {known})",
                remedy="run the preprocessing again with this recipe (make preprocess … "
                "RECIPE=…): it adds the index without tokenising again",
            )
        return entry.continuations


def _starts(shards: tuple[Shard, ...]) -> np.ndarray:
    counts = np.array([shard.documents for shard in shards], dtype=np.int64)
    return np.concatenate(([0], np.cumsum(counts)))


class ShardPool:
    """Opens shards when they are first read and keeps as many open as the system allows.

    A shard costs two file descriptors and two memory maps; thousands of languages would exceed the
    usual limits, so the least recently used ones are closed. Opening checks a pair's sizes against
    its manifest, so that a replaced or shortened file is named and never read as something else.
    """

    def __init__(self, capacity: int) -> None:
        self._open: OrderedDict[tuple[int, SplitName, int], IndexedDataset] = OrderedDict()
        self._capacity = capacity

    def get(self, component: Component, split: SplitName, number: int) -> IndexedDataset:
        """The pair of shard `number` of a component's split."""
        key = (component.index, split, number)
        dataset = self._open.get(key)
        if dataset is not None:
            self._open.move_to_end(key)
            return dataset
        shard = component.split(split).shards[number]
        dataset = IndexedDataset(component.folder / shard.name)
        if (
            len(dataset) != shard.documents
            or dataset.sequence_count != shard.documents
            or dataset.token_count != shard.tokens
            or dataset.dtype != np.dtype(component.manifest.dtype)
        ):
            raise UserError(
                f"{component.folder / shard.name}.bin/.idx is not the pair that the manifest "
                f"describes ({shard.documents} documents, {shard.tokens} tokens of "
                f"{component.manifest.dtype})",
                remedy="restore the files from a copy, or remove the language's folder and run "
                "the preprocessing again",
            )
        self._open[key] = dataset
        if len(self._open) > self._capacity:
            self._open.popitem(last=False)
        return dataset


# With as many continuation indexes, 49,152 of the 65,530 maps that Linux allows a process.
_MAX_OPEN_SHARDS = 16_384
_READER_THREADS = 16  # manifests


def _open_shard_limit() -> int:
    """How many shards, and as many continuation indexes beside them, may be open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):  # a sandbox may forbid it; then fewer stay open
            pass
    if soft == resource.RLIM_INFINITY:
        return _MAX_OPEN_SHARDS
    # a third each for .bin, .idx and continuation index; 256 for everything else in the process
    return max(16, min(_MAX_OPEN_SHARDS, (soft - 256) // 3))


class Corpus:
    """All components under one folder and random access to their text."""

    def __init__(
        self, root: Path, tokenizer: TokenizerDescription, components: tuple[Component, ...]
    ) -> None:
        self.root = root
        self.tokenizer = tokenizer
        self.components = components
        self._by_name = {component.name: component for component in components}
        self._capacity = _open_shard_limit()
        self._pool = ShardPool(self._capacity)
        self._continuations: OrderedDict[tuple[int, int], ContinuationIndex] = OrderedDict()

    @property
    def tokenizer_folder(self) -> Path:
        """The tokenizer's own files."""
        return self.root / TOKENIZER_FOLDER

    def component(self, source: str, language: str) -> Component:
        """The component of a source's folder and a language; KeyError when there is none."""
        return self._by_name[f"{source}/{language}"]

    def named(self, name: str) -> Component | None:
        """The component called `source/language`, or None."""
        return self._by_name.get(name)

    def shard(self, component: Component, split: SplitName, number: int) -> IndexedDataset:
        """The opened pair of one shard."""
        return self._pool.get(component, split, number)

    def continuation_index(self, component: Component, context: int) -> np.ndarray:
        """The memory-mapped continuation index of a component at `context`."""
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
        """The error that names the first shard whose file is missing or shorter than it should be.

        Asks for the size of every file: for when something has gone wrong already.
        """
        for component in self.components:
            for name, (size, _) in manifest_files(component.manifest).items():
                path = component.folder / name
                found = path.stat().st_size if path.exists() else 0
                if size is not None and found < size:
                    return truncated_error(path, found, size)
        return None

    def locate(self, component: Component, split: SplitName, number: int) -> tuple[int, int]:
        """Shard and place within it of a document of a split; IndexError when there is none."""
        starts = component.starts(split)
        if not 0 <= number < starts[-1]:
            raise IndexError(
                f"{component.name} has {starts[-1]} {split} documents, not {number + 1}"
            )
        shard = int(np.searchsorted(starts, number, side="right")) - 1
        return shard, number - int(starts[shard])

    def document(self, component: Component, split: SplitName, number: int) -> np.ndarray:
        """All tokens of one document of a split (documents are numbered across its shards)."""
        shard, place = self.locate(component, split, number)
        return self.shard(component, split, shard).sequence(place)

    def __getstate__(self) -> dict[str, object]:
        # Maps and descriptors stay behind: a worker process opens what it reads.
        return {"root": self.root, "tokenizer": self.tokenizer, "components": self.components}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def _manifests(shards: Path) -> Iterator[tuple[Path, bytes]]:
    """Every manifest.json under `shards`/source/language with its bytes, in order of names.

    A few are read at once and none is asked for twice: hundreds of ranks do this on one network
    file system.
    """
    paths = [
        Path(language.path) / MANIFEST_NAME
        for source in _folders(shards)
        if source.name != TOKENIZER_FOLDER
        for language in _folders(source)
    ]
    with ThreadPoolExecutor(_READER_THREADS) as pool:
        for path, data in zip(paths, pool.map(_bytes_of, paths), strict=True):
            if data is not None:
                yield path, data


def _folders(parent: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    with os.scandir(parent) as entries:
        found = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(found, key=lambda entry: entry.name)


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # a language that is not finished
        return None


def open_corpus(shards: Path) -> Corpus:
    """Read the tokenizer's description and every manifest under `shards`/source/language.

    Languages without a manifest are unfinished and not seen. No shard is opened. Raises UserError
    when nothing is there, or when a language was made with another tokenizer.
    """
    shards = Path(shards)
    if not shards.is_dir():
        raise UserError(
            f"there is no folder {shards}", remedy="point to the output of `make preprocess`"
        )
    tokenizer = read_tokenizer_description(shards / TOKENIZER_FOLDER)
    components: list[Component] = []
    for path, data in _manifests(shards):
        folder = path.parent
        source, language = folder.parent.name, folder.name
        manifest = parse_manifest(data, path)
        if (manifest.source, manifest.language) != (source, language):
            raise UserError(
                f"{path} describes {manifest.source}/{manifest.language}, "
                f"but lies in {source}/{language}",
                remedy="move the folder back to where it was written",
            )
        if manifest.tokenizer != tokenizer.fingerprint:
            raise UserError(
                f"{path}: the shards were made with tokenizer {manifest.tokenizer[:12]}…, "
                f"the folder's tokenizer is {tokenizer.fingerprint[:12]}…",
                remedy="one corpus has one tokenizer: remove the language's folder and run the "
                "preprocessing again",
            )
        components.append(Component(len(components), source, language, folder, manifest))
    if not components:
        raise UserError(
            f"{shards} holds no finished language",
            remedy="run the same preprocessing command again: it continues where it stopped",
        )
    return Corpus(shards, tokenizer, tuple(components))
