"""Reading of the file of `--language-map`."""

from __future__ import annotations

from pathlib import Path

from mmbert.errors import ArgumentError
from mmbert_prep.languages.keys import is_language_key
from mmbert_prep.languages.nearest import nearest_keys
from mmbert_prep.languages.overrides import NO_LANGUAGE, LanguageMap
from mmbert_prep.languages.resolution import resolve


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
    return LanguageMap(keys=dict(sorted(keys.items())), lines=lines, file=path.name)


def _check_key(key: str, name: str, place: str) -> None:
    found = resolve(key)
    if key == NO_LANGUAGE or (is_language_key(key) and found.certain):
        return
    known = (found.key,) if found.key else found.candidates or nearest_keys(key)
    meant = " or ".join(f"'{name}: {each}'" for each in known)
    raise ArgumentError(
        f"{place}: '{key}' is not a language key",
        remedy=f"write {meant or 'a key such as swh_Latn'}, or '{name}: {NO_LANGUAGE}' if it is no "
        "language",
    )
