"""What a machine has already: the output of `pip list` or `pip freeze`, read line by line."""

from __future__ import annotations

import re
from pathlib import Path

from mmbert.errors import UserError
from mmbert.wheels.pep import utils, version

_FREEZE = re.compile(r"([A-Za-z0-9][\w.-]*)\s*===?\s*(\S+)")
_LIST = re.compile(r"([A-Za-z0-9][\w.-]*)\s+(\d\S*)(\s+\S.*)?")
_NAMED = re.compile(r"([A-Za-z0-9][\w.-]*)\s*@\s*\S+|(?:-e|--editable)\s+\S+")
# pip writes these around its lists when both its streams go to one file.
_IGNORED_LINES = re.compile(
    r"Package\s+Version\b.*|-[- ]+|#.*|WARNING:.*|DEPRECATION:.*|\[notice\].*|"
)
_WHEEL = re.compile(r"@\s*\S*?([^/\s]+\.whl)(?:#\S*)?$")


def read_list(path: Path) -> dict[str, version.Version]:
    """The packages of a saved `pip list` or `pip freeze` and their versions.

    A line that names a package but no version (`name @ file:…`, an editable install) does not
    count: what it stands for cannot be compared.

    Raises:
        UserError: the file cannot be read, has a line of neither format, or no package at all;
            file and line are named.
    """
    remedy = f"make it on that machine with: python3 -m pip list > {path.name}"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path} cannot be read: {reason}", remedy=remedy) from None
    found: dict[str, version.Version] = {}
    for number, line in enumerate(lines, start=1):
        words = line.strip()
        if _IGNORED_LINES.fullmatch(words):
            continue
        pair = _pair(words)
        if pair is None and not _NAMED.fullmatch(words):
            raise UserError(
                f"{path}, line {number}: {words[:60]!r} is no line of pip list or pip freeze",
                remedy=remedy,
            )
        if pair is not None:
            found[pair[0]] = pair[1]
    if not found:
        raise UserError(f"{path} names no package with a version", remedy=remedy)
    return found


def _pair(words: str) -> tuple[str, version.Version] | None:
    if wheel := _WHEEL.search(words):
        try:
            name, number, _, _ = utils.parse_wheel_filename(wheel[1].replace("%2B", "+"))
        except utils.InvalidWheelFilename:
            return None
        return name, number
    match = _FREEZE.fullmatch(words) or _LIST.fullmatch(words)
    if match is None:
        return None
    try:
        return utils.canonicalize_name(match[1]), version.Version(match[2])
    except version.InvalidVersion:
        return None
