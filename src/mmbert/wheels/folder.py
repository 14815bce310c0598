"""Folder of wheels: compatibility with a machine, and metadata."""

from __future__ import annotations

import email.parser
import email.policy
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmbert.errors import PackageError
from mmbert.wheels.pep import requirements, tags, utils, version


@dataclass(frozen=True)
class Wheel:
    """A wheel file with its normalized name, version and requirements."""

    path: Path
    name: str
    version: version.Version
    requires: tuple[requirements.Requirement, ...]


@dataclass(frozen=True)
class Contents:
    """Wheels of a folder by name: compatible (newest version each), others and damaged."""

    wheels: dict[str, Wheel]
    others: dict[str, str]  # file names of incompatible wheels
    damaged: dict[str, Path]


def read_folder(folder: Path, accepted: Iterable[tags.Tag]) -> Contents:
    """Read the wheels in `folder` for a machine with the accepted tags `accepted`.

    Files without a valid wheel name are ignored.

    Raises:
        PackageError: `folder` is not a folder, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise PackageError(
            f"{folder} is not a folder",
            remedy=f"collect the wheels on a machine with a network: make wheels DIR={folder}",
        )
    taken = frozenset(accepted)
    wheels: dict[str, Wheel] = {}
    others: dict[str, str] = {}
    damaged: dict[str, Path] = {}
    for path in sorted(folder.glob("*.whl")):
        try:
            name, number, _, wheel_tags = utils.parse_wheel_filename(path.name)
        except utils.InvalidWheelFilename:
            continue
        try:
            if taken.isdisjoint(wheel_tags):
                others[name] = path.name
                continue
            wheel = Wheel(path, name, number, _requires(path))
        except (zipfile.BadZipFile, zlib.error, KeyError, requirements.InvalidRequirement):
            damaged[name] = path
            continue
        except OSError as error:
            raise PackageError(
                f"cannot read {path}: {error.strerror}", remedy="copy it again"
            ) from None
        if name not in wheels or wheels[name].version < number:
            wheels[name] = wheel
    return Contents(wheels, others, damaged)


def is_pure(path: Path) -> bool:
    """Whether a wheel is platform-independent, according to its tags and metadata."""
    _, _, _, wheel_tags = utils.parse_wheel_filename(path.name)
    anywhere = all((tag.abi, tag.platform) == ("none", "any") for tag in wheel_tags)
    return anywhere and _message(path, "WHEEL").get("Root-Is-Purelib", "").strip() == "true"


def metadata(path: Path) -> bytes:
    """Return the METADATA file of a wheel."""
    return _read(path, "METADATA")


def _requires(path: Path) -> tuple[requirements.Requirement, ...]:
    lines = _message(path, "METADATA").get_all("Requires-Dist", [])
    return tuple(requirements.Requirement(str(line)) for line in lines)


def _message(path: Path, file: str) -> email.message.Message:
    parser = email.parser.BytesParser(policy=email.policy.compat32)
    return parser.parsebytes(_read(path, file), headersonly=True)


def _read(path: Path, file: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.count("/") == 1 and name.endswith(f".dist-info/{file}"):
                return archive.read(name)
    raise KeyError(f"{path.name} has no {file}")
