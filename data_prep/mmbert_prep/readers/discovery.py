"""Discovery of input files: format and compression from the name, language from the path."""

from __future__ import annotations

import glob
import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmbert.errors import TextError
from mmbert_prep.languages.report import NamedLanguage, add_name, describe_names
from mmbert_prep.readers.documents import Compression, InputFile
from mmbert_prep.readers.file_format import FileFormat
from mmbert_prep.readers.formats.hub_dataset import PREFIX, config_of, list_hub_dataset
from mmbert_prep.readers.layout.saved_datasets import held_out
from mmbert_prep.readers.layout.splits import held_out_files
from mmbert_prep.readers.layout.unread_kinds import unread_reason
from mmbert_prep.readers.path_language import (
    PathLanguage,
    PathLanguages,
    folders_without_language,
)
from mmbert_prep.readers.registry import FORMAT_OF_SUFFIX, FORMATS
from mmbert_prep.readers.streams import COMPRESSIONS
from mmbert_prep.settings import InputSettings


@dataclass(frozen=True)
class UnopenedFile:
    """File, or folder, that cannot be opened, or has no bytes where its format needs some."""

    path: str
    language: str | None
    size: int | None
    """Size in bytes; None if it is unknown."""
    reason: str


@dataclass
class Discovery:
    """Input files, and ignored files by reason."""

    files: list[InputFile] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> paths relative to the root of the input."""
    root: str = ""
    """Folder that the input lies in; "" for a dataset of the hub."""
    unopened: list[UnopenedFile] = field(default_factory=list)
    unnamed: dict[str, int] = field(default_factory=dict)
    """Path -> size in bytes of the ignored files that can name no language."""
    without_language: list[str] = field(default_factory=list)
    """Folders, or single files, below the root that were ignored for want of a language."""
    names: dict[str, NamedLanguage] = field(default_factory=dict)
    """Names in paths that are no keys -> the language for which they were taken, or none."""
    doubtful: dict[str, NamedLanguage] = field(default_factory=dict)
    """Names in paths without a language that may be ordinary ones as well as languages."""
    by_key: set[str] = field(default_factory=set)
    """Languages that paths name by their keys."""
    unused_overrides: dict[str, str] = field(default_factory=dict)
    """Names of the language map that are in no path -> their lines."""

    def add_language(self, language: PathLanguage) -> None:
        """Count the name that gives a path its language, or none."""
        if language.use is not None and language.name:
            names = self.doubtful if language.doubtful else self.names
            name = language.name.encode(errors="backslashreplace").decode()  # not all are UTF-8
            add_name(names, name, language.use)
        elif language.key is not None:
            self.by_key.add(language.key)

    def about_languages(self) -> list[str]:
        """Return lines about the names that were, or could not be, taken for a language."""
        return describe_names({**self._beside_others(), **self.names}, self.by_key)

    def all_names(self, without_language: bool) -> dict[str, NamedLanguage]:
        """Return the names in paths for the summary.

        Refused ones are there only if other names were mapped, or `without_language`: documents or
        files that have no language. Columns may have languages where paths name none.
        """
        if without_language or self.is_mapped:
            return {**self.doubtful, **self.names}
        return {}

    @property
    def is_mapped(self) -> bool:
        """Whether any name in a path was taken for a language whose key is another."""
        return any(use.language is not None for use in self.names.values())

    def _beside_others(self) -> dict[str, NamedLanguage]:
        """Return the doubtful names where others were mapped, so that languages are not keys."""
        return self.doubtful if self.is_mapped else {}


def discover(settings: InputSettings) -> Discovery:
    """List the input files in a fixed order (by path). Raises TextError if there are none."""
    if settings.input.startswith(PREFIX):
        return _discover_hub_dataset(settings)
    found = Discovery()
    unlisted: list[OSError] = []
    root, paths = _paths(settings.input, unlisted)
    found.root = root
    companions: dict[str, str | None] = {}
    companions.update(
        {path: held_out(split) for path, split in held_out_files(paths, root).items()}
    )
    for file_format in FORMATS.values():
        companions.update(file_format.companions(paths))
    relatives = [os.path.relpath(path, root) for path in paths if path not in companions]
    readable = [path for path in relatives if _format_of(path) is not None]
    languages = PathLanguages(root, readable, settings.language_map)
    for error in unlisted:
        folder = str(error.filename)
        inside = os.path.relpath(os.path.join(folder, "-"), root)
        named = _language_of(inside, settings, languages)
        _unopened(found, folder, root, None, error, named.key)
    for path in paths:
        if path not in companions:
            _classify(path, root, settings, languages, found)
        elif (reason := companions[path]) is not None:
            _ignore(found, reason, os.path.relpath(path, root))
    found.without_language = folders_without_language(
        [
            name
            for reason, names in found.ignored.items()
            if _NO_LANGUAGE in reason
            for name in names
        ],
        [os.path.relpath(file.path, root) for file in found.files],
    )
    found.unused_overrides = languages.unused()
    if not found.files:
        raise _nothing_to_read(settings, found)
    return found


def _discover_hub_dataset(settings: InputSettings) -> Discovery:
    files = list_hub_dataset(settings)
    found = Discovery()
    languages = PathLanguages(None, [config_of(file) for file in files], settings.language_map)
    for file in files:
        if settings.language is None:
            named = languages.find(config_of(file))
            found.add_language(named)
            file = replace(file, language=named.key)
        found.files.append(file)
    found.unused_overrides = languages.unused()
    return found


_NO_LANGUAGE = "whose path names no language"


def _nothing_to_read(settings: InputSettings, found: Discovery) -> TextError:
    reasons = "; ".join(
        f"{reason}: {len(names)}" for reason, names in sorted(found.ignored.items())
    )
    message = f"no text to read in {settings.input}" + (f" ({reasons})" if reasons else "")
    message = "\n".join([message, *describe_names({**found.doubtful, **found.names})])
    if len(found.without_language) > 1:  # one alone is read with --language
        return TextError(message, remedy=language_remedy(found.without_language))
    suffixes = ", ".join(each.suffixes[0] for each in FORMATS.values() if each.suffixes)
    return TextError(
        message,
        remedy=f"give a folder or pattern with {suffixes} files (of some formats also .gz, .zst, "
        ".bz2 and .xz) whose path names the language (swh_Latn/…, swh_Latn.txt) or that have "
        "language columns; or name the language with --language",
    )


def language_remedy(folders: list[str], most: int = 10) -> str:
    """Say how to read `folders`, whose paths name no language."""
    more = f", … {len(folders) - most} more" if len(folders) > most else ""
    return (
        "preprocess each of these in a run of its own, with its --input, --language (such as "
        f"eng_Latn) and --source: {', '.join(folders[:most])}{more}"
    )


def _paths(text: str, unlisted: list[OSError]) -> tuple[str, list[str]]:
    """Return the root for relative paths, and all files below it or matching the pattern.

    Folders that cannot be listed are added to `unlisted`.
    """
    path = Path(text)
    if path.is_dir():
        return str(path), sorted(_list_files(path, unlisted))
    if path.is_file():
        return str(path.parent), [str(path)]
    matches = sorted(glob.glob(text, recursive=True))
    if not matches:
        raise TextError(
            f"input {text} does not exist",
            remedy="give an existing folder or file, or a quoted pattern such as 'web/*/*.parquet'",
        )
    names = []
    for match in matches:
        names += _paths(match, unlisted)[1] if os.path.isdir(match) else [match]
    # The part of the pattern before its first wildcard.
    fixed = Path(text.split("*")[0].split("?")[0].split("[")[0])
    return str(fixed if fixed.is_dir() else fixed.parent), sorted(set(names))


def _list_files(root: Path, unlisted: list[OSError]) -> list[str]:
    names: list[str] = []
    visited: set[str] = set()
    for folder, folders, files in os.walk(root, onerror=unlisted.append, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # a link to a parent folder
            folders.clear()
            continue
        visited.add(real)
        if "lost+found" in folders:  # of the file system, and for its owner alone
            folders.remove("lost+found")
        names += [os.path.join(folder, name) for name in files]
    return names


def _suffixes(name: str) -> tuple[str, Compression]:
    """Return the extension of a file's name that tells its format, and its compression."""
    stem, extension = os.path.splitext(name)
    compression = COMPRESSIONS.get(extension.lower(), "none")
    if compression != "none":
        extension = os.path.splitext(stem)[1]
    return extension, compression


def _is_hidden(relative: str) -> bool:
    parts = Path(relative).parts
    return parts[-1].startswith("_") or any(part.startswith(".") for part in parts)


def _format_of(relative: str) -> FileFormat | None:
    """Return the format of a file by its name, or None for one that is not read."""
    extension, _ = _suffixes(os.path.basename(relative))
    return None if _is_hidden(relative) else FORMAT_OF_SUFFIX.get(extension.lower())


def _classify(
    path: str, root: str, settings: InputSettings, languages: PathLanguages, found: Discovery
) -> None:
    relative = os.path.relpath(path, root)
    name = os.path.basename(path)
    extension, compression = _suffixes(name)
    file_format = FORMAT_OF_SUFFIX.get(extension.lower())
    if _is_hidden(relative):
        return _ignore(found, "hidden", relative)
    if file_format is None:
        return _ignore(found, unread_reason(extension, name), relative)
    if compression != "none" and not file_format.compressible:
        return _ignore(found, f"unknown kind of file '{extension}' (decompress it)", relative)
    status = None
    named = _language_of(relative, settings, languages)
    language = named.key
    try:
        status = os.stat(path)
        with open(path, "rb"):
            pass
    except OSError as error:
        size = None if status is None else status.st_size
        return _unopened(found, path, root, size, error, language)
    if not stat.S_ISREG(status.st_mode):
        return _ignore(found, "not a regular file", relative)
    if status.st_size > 0:
        found.add_language(named)
    if language is None and not file_format.has_languages(path, compression, settings):
        found.unnamed[path] = status.st_size
        return _ignore(found, f"{file_format.name} {_NO_LANGUAGE}", relative)
    if status.st_size == 0:
        if compression != "none" or not file_format.may_be_empty:
            found.unopened.append(UnopenedFile(path, language, None, "empty file"))
        return _ignore(found, "empty file", relative)
    found.files.append(
        InputFile(path, file_format.name, compression, language, status.st_size, status.st_mtime_ns)
    )


def _language_of(relative: str, settings: InputSettings, languages: PathLanguages) -> PathLanguage:
    return PathLanguage(settings.language) if settings.language else languages.find(relative)


def _unopened(
    found: Discovery,
    path: str,
    root: str,
    size: int | None,
    error: OSError,
    language: str | None,
) -> None:
    relative = os.path.relpath(path, root)
    reason = f"cannot be opened ({error.strerror})"
    found.unopened.append(UnopenedFile(path, language, size, reason))
    _ignore(found, reason, relative)


def _ignore(found: Discovery, reason: str, relative: str) -> None:
    found.ignored.setdefault(reason, []).append(relative)
