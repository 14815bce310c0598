"""Parser of saved `pip list` or `pip freeze` output, the installed packages of a machine."""

from __future__ import annotations

import re
from pathlib import Path

from mmbert.errors import PackageError
from mmbert.wheels.pep import utils, version

_FREEZE = re.compile(r"([A-Za-z0-9][\w.-]*)\s*===?\s*(\S+)")
_LIST = re.compile(r"([A-Za-z0-9][\w.-]*)\s+(\d\S*)(\s+\S.*)?")
_NAMED = re.compile(r"([A-Za-z0-9][\w.-]*)\s*@\s*\S+|(?:-e|--editable)\s+\S+")
# Other pip output, present if stdout and stderr go to the same file.
_IGNORED_LINES = re.compile(
    r"Package\s+Version\b.*|-[- ]+|#.*|WARNING:.*|DEPRECATION:.*|\[notice\].*|"
)
_WHEEL = re.compile(r"@\s*\S*?([^/\s]+\.whl)(?:#\S*)?$")


def read_list(path: Path) -> dict[str, version.Version]:
    """Read package versions from saved `pip list` or `pip freeze` output.

    Packages without a version (`name @ file:…`, editable installs) are ignored, as they cannot be
    compared.

    Raises:
        PackageError: the file cannot be read, has a line in neither format, or lists no package.
            Names file and line.
    """
    remedy = f"create it on the target machine: python3 -m pip list > {path.name}"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise PackageError(f"cannot read {path}: {reason}", remedy=remedy) from None
    found: dict[str, version.Version] = {}
    for number, line in enumerate(lines, start=1):
        words = line.strip()
        if _IGNORED_LINES.fullmatch(words):
            continue
        pair = _pair(words)
        if pair is None and not _NAMED.fullmatch(words):
            raise PackageError(
                f"{path}, line {number}: {words[:60]!r} is not pip list or pip freeze output",
                remedy=remedy,
            )
        if pair is not None:
            found[pair[0]] = pair[1]
    if not found:
        raise PackageError(f"{path} lists no package with a version", remedy=remedy)
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
