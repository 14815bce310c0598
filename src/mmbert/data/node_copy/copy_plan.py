"""Plan of a copy: which files a run reads, and the folder for them on a node's own disk."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

import xxhash
from tqdm import tqdm

from mmbert.data.shards.continuation_index import CONTINUATION_DTYPE
from mmbert.data.shards.corpus import Component, Corpus
from mmbert.data.shards.manifest import manifest_files
from mmbert.errors import OutputError, RecipeError

PREFIX = "mmbert-shards-"
"""Begin of the names of copies' folders."""
PARTIAL = ".partial"
"""End of the name of a file that is being copied."""
_NPY_HEADER_BYTES = 128  # of an index, whose size no manifest has; for estimates only


@dataclass(frozen=True)
class CopiedFile:
    """A file of the shards; `path` is relative to the source's parent."""

    path: str
    size: int | None
    """Bytes by the manifest; None: the manifest has no size."""
    estimate: int
    """`size`, or an estimate of it."""
    checksum: str
    """XXH3-128."""


@dataclass(frozen=True)
class CopyPlan:
    """Files to copy, in the order of the components, and the name of their folder."""

    origin: Path
    files: tuple[CopiedFile, ...]
    sources: frozenset[str]

    @property
    def bytes(self) -> int:
        """Size of all files, estimated where manifests have none."""
        return sum(file.estimate for file in self.files)

    @property
    def size(self) -> str:
        """Size of all files, for people."""
        return tqdm.format_sizeof(self.bytes, "B")

    @property
    def folder_name(self) -> str:
        """Name that no other files have: it identifies paths, sizes and checksums."""
        digest = xxhash.xxh3_64()
        for file in self.files:
            digest.update(f"{file.path}/{file.size}/{file.checksum}\n".encode())
        return f"{PREFIX}{digest.hexdigest()}"


def plan_copy(corpus: Corpus, sources: Collection[str], context: int) -> CopyPlan:
    """List the files of `sources`, with the piece indexes of `context`, the run's longest."""
    files = []
    for component in corpus.components:
        if component.source in sources:
            files += _files_of(component, context)
    return CopyPlan(corpus.root, tuple(files), frozenset(sources))


def _files_of(component: Component, context: int) -> list[CopiedFile]:
    pieces = component.manifest.train.pieces
    unread = {entry.file for other, entry in pieces.items() if other != context}
    indexes = {
        entry.file: _NPY_HEADER_BYTES + CONTINUATION_DTYPE.itemsize * entry.continuations
        for entry in pieces.values()
    }
    return [
        CopiedFile(
            f"{component.source}/{component.language}/{name}",
            size,
            indexes[name] if size is None else size,
            checksum,
        )
        for name, (size, checksum) in manifest_files(component.manifest).items()
        if name not in unread
    ]


def corpus_at(corpus: Corpus, plan: CopyPlan, folder: Path) -> Corpus:
    """Return the corpus with the copied files in `folder`; its root stays the original."""
    components = tuple(
        replace(component, folder=folder / component.source / component.language)
        if component.source in plan.sources
        else component
        for component in corpus.components
    )
    return Corpus(corpus.root, corpus.tokenizer, components)


def expand_folder(text: str, environment: Mapping[str, str], node: str) -> Path:
    """Fill in the environment variables of `data.copy_to` on a node.

    An unset or empty variable is an error: `$TMPDIR/shards` would become `/shards`.

    Raises:
        RecipeError: a variable is not set, or the folder is not absolute.
    """
    remedy = "set it on every node, or name another folder on the nodes' own disks"
    try:
        filled = Template(text).substitute({k: v for k, v in environment.items() if v})
    except KeyError as error:
        raise RecipeError(
            f"data.copy_to is '{text}', but ${error.args[0]} is not set on {node}", remedy=remedy
        ) from error
    except ValueError as error:
        raise RecipeError(
            f"data.copy_to '{text}' has a $ that begins no variable",
            remedy="write $NAME or ${NAME} for a variable, and $$ for a dollar",
        ) from error
    folder = Path(filled)
    if not folder.is_absolute():
        raise RecipeError(
            f"data.copy_to is '{text}', on {node} '{filled}', which is no absolute path",
            remedy="begin it with / or with a variable that does",
        )
    return folder


def make_copy_folder(parent: Path, plan: CopyPlan, node: str) -> Path:
    """Create the plan's folder in `parent`, for this user only, and check the free space.

    Raises:
        OutputError: it cannot be created, belongs to another user, or has too little space.
    """
    folder = parent / plan.folder_name
    remedy = "name another folder in data.copy_to, or leave it out"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise OutputError(
            f"cannot create {folder} on {node} for data.copy_to: {error.strerror}", remedy=remedy
        ) from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise OutputError(f"{folder} on {node} is not a folder of this user", remedy=remedy)
    missing = sum(_missing_bytes(folder, file) for file in plan.files)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise OutputError(
            f"{parent} on {node} has {tqdm.format_sizeof(free, 'B')} free, but data.copy_to has "
            f"{tqdm.format_sizeof(missing, 'B')} left to copy there, of {plan.size}",
            remedy="free space there, name another folder in data.copy_to, or leave it out",
        )
    return folder


def other_copies(folder: Path) -> list[str]:
    """Return the names of the copies of other shards beside `folder`, which stay as they are."""
    found = [path.name for path in folder.parent.glob(f"{PREFIX}*") if path.is_dir()]
    return sorted(name for name in found if name != folder.name)


def _missing_bytes(folder: Path, file: CopiedFile) -> int:
    path = folder / file.path
    if path.is_file() and (file.size is None or path.stat().st_size == file.size):
        return 0
    partial = path.with_name(path.name + PARTIAL)
    begun = partial.stat().st_size if partial.is_file() else 0
    return max(0, file.estimate - begun)
