"""The user's own keys for names, from the file of `--language-map`."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mmbert.errors import ArgumentError
from mmbert_prep.languages.nearest import nearest_keys
from mmbert_prep.languages.resolution import resolve

NO_LANGUAGE = "-"
"""Written instead of a key: the name is no language."""


class LanguageMap(BaseModel):
    """Names of files, folders and values of columns, with their keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: dict[str, str] = {}
    """Name -> key, or NO_LANGUAGE."""
    lines: dict[str, int] = Field(default={}, exclude=True)
    """Name -> its line in the file."""
    file: str = Field(default="", exclude=True)

    def get(self, name: str) -> str | None:
        """Return the key of a name, NO_LANGUAGE, or None where the file does not have it."""
        return self.keys.get(name)

    def line(self, name: str) -> str:
        """Return where a name stands in the file, for messages."""
        return f"{self.file}, line {self.lines.get(name, 0)}: {name}"


def read_language_map(path: Path) -> LanguageMap:
    """Read a file of `name: key` lines, or of names and keys with a tab between them.

    Text after `#`, blank lines, and quotes around a name are left out. Raises ArgumentError for a
    line that is neither, an unknown key, or a name that has two lines.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ArgumentError(
            f"--language-map {path} cannot be read: {reason}",
            remedy="give a text file with lines such as 'no: nob_Latn'",
        ) from error
    keys: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        name, separator, key = content.rpartition("\t" if "\t" in content else ":")
        name, key = name.strip().strip("\"'"), key.strip().strip("\"'")
        place = f"{path}, line {number}"
        if not separator or not name or not key:
            raise ArgumentError(
                f"{place}: '{content}' is not 'name: key'",
                remedy="write a name, a colon and a key, such as 'no: nob_Latn'",
            )
        if name in keys:
            raise ArgumentError(
                f"{place}: '{name}' is already in line {lines[name]}",
                remedy="keep one of the two lines",
            )
        _check_key(key, name, place)
        keys[name], lines[name] = key, number
    return LanguageMap(keys=dict(sorted(keys.items())), lines=lines, file=str(path))


def _check_key(key: str, name: str, place: str) -> None:
    found = resolve(key)
    if key == NO_LANGUAGE or (found.certain and "_" in key and found.key is not None):
        return
    known = (found.key,) if found.key else found.candidates or nearest_keys(key)
    meant = " or ".join(f"'{name}: {each}'" for each in known)
    raise ArgumentError(
        f"{place}: '{key}' is not a language key",
        remedy=f"write {meant or 'a key such as swh_Latn'}, or '{name}: {NO_LANGUAGE}' if it is no "
        "language",
    )
