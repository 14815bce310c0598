"""Find the input files: their format and compression by name, their language by path."""

from __future__ import annotations

import glob
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from mmbert.errors import UserError
from mmbert_prep.readers.documents import Compression, Format, InputFile
from mmbert_prep.readers.hub_dataset import PREFIX, list_hub_dataset
from mmbert_prep.readers.language_codes import is_language_key
from mmbert_prep.settings import PrepSettings

_FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "text",
    ".text": "text",
    ".mds": "mds",
    ".idx": "megatron",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}


@dataclass
class Discovery:
    """What the input consists of; `ignored` says why a file is no input."""

    files: list[InputFile] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    root: str = ""


def discover(settings: PrepSettings) -> Discovery:
    """List the input in a fixed order (by relative path). Raises UserError if there is none."""
    if settings.input.startswith(PREFIX):
        return Discovery(files=list_hub_dataset(settings))
    root, paths = _paths(settings.input)
    found = Discovery(root=root)
    known = set(paths)
    # Beside MDS shards lie an index and statistics, which are no text.
    shard_folders = {os.path.dirname(path) for path in paths if ".mds" in os.path.basename(path)}
    for path in paths:
        if path.endswith(".bin") and f"{path[:-4]}.idx" in known:
            continue  # read with its index
        if path.endswith(".json") and os.path.dirname(path) in shard_folders:
            _ignore(found, "beside MDS shards", os.path.relpath(path, root))
            continue
        unpacked, extension = os.path.splitext(path)
        if unpacked.endswith(".mds") and extension.lower() in _COMPRESSIONS and unpacked in known:
            relative = os.path.relpath(path, root)
            _ignore(found, "packed copy of an MDS shard beside it", relative)
            continue
        _classify(path, root, settings, found)
    if not found.files:
        reasons = "; ".join(f"{why}: {len(names)}" for why, names in sorted(found.ignored.items()))
        raise UserError(
            f"no text to read in {settings.input}" + (f" ({reasons})" if reasons else ""),
            remedy="give a folder or pattern with .parquet, .jsonl, .jsonl.gz, .jsonl.zst or .txt "
            "files whose path names the language (swh_Latn/…, swh_Latn.txt) or that have language "
            "columns; or name the language with --language",
        )
    return found


def _paths(text: str) -> tuple[str, list[str]]:
    """The folder that relative paths start from, and every file below it or of the pattern."""
    path = Path(text)
    if path.is_dir():
        return str(path), sorted(_list_files(path))
    if path.is_file():
        return str(path.parent), [str(path)]
    matches = sorted(glob.glob(text, recursive=True))
    if not matches:
        raise UserError(
            f"input {text} does not exist",
            remedy="give an existing folder or file, or a quoted pattern such as 'web/*/*.parquet'",
        )
    names = []
    for match in matches:
        names += _paths(match)[1] if os.path.isdir(match) else [match]
    # The fixed part of the pattern: what lies before its first wildcard.
    fixed = Path(text.split("*")[0].split("?")[0].split("[")[0])
    return str(fixed if fixed.is_dir() else fixed.parent), sorted(set(names))


def _list_files(root: Path) -> list[str]:
    names: list[str] = []
    visited: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link that leads back up
            folders.clear()
            continue
        visited.add(real)
        names += [os.path.join(folder, name) for name in files]
    return names


def _classify(path: str, root: str, settings: PrepSettings, found: Discovery) -> None:
    relative = os.path.relpath(path, root)
    name = os.path.basename(path)
    stem, extension = os.path.splitext(name)
    compression = _COMPRESSIONS.get(extension.lower(), "none")
    if compression != "none":
        stem, extension = os.path.splitext(stem)
    kind = _FORMATS.get(extension.lower())
    if name.startswith((".", "_")):
        return _ignore(found, "hidden", relative)
    if kind is None or (kind in ("parquet", "megatron") and compression != "none"):
        return _ignore(found, f"unknown kind of file '{extension or name}'", relative)
    try:
        status = os.stat(path)
        with open(path, "rb"):
            pass
    except OSError as error:
        return _ignore(found, f"cannot be opened ({error.strerror})", relative)
    if not stat.S_ISREG(status.st_mode):
        return _ignore(found, "not a regular file", relative)
    language = settings.language or language_of_path(relative) or _language_of_name(root)
    if language is None and kind in ("text", "megatron"):
        return _ignore(found, f"{kind} whose path names no language", relative)
    if status.st_size == 0:
        return _ignore(found, "empty file", relative)
    found.files.append(
        InputFile(path, kind, compression, language, status.st_size, status.st_mtime_ns)
    )


def _ignore(found: Discovery, why: str, relative: str) -> None:
    found.ignored.setdefault(why, []).append(relative)


def language_of_path(relative: str) -> str | None:
    """The language a path names: the beginning of its file's name, else its innermost folder."""
    parts = Path(relative).parts
    for part in reversed(parts):
        language = _language_of_name(part)
        if language is not None:
            return language
    return None


def _language_of_name(path: str) -> str | None:
    name = os.path.basename(os.path.abspath(path)).split(".")[0]
    return name if is_language_key(name) else None
