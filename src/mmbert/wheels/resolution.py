"""Resolution by uv of the missing packages and files of another machine."""

from __future__ import annotations

import re
import tempfile
import tomllib
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmbert.wheels.folder import Wheel, metadata
from mmbert.wheels.pep import requirements, utils, version
from mmbert.wheels.programs import run, uv_environment
from mmbert.wheels.target import Target

_CHANGE = re.compile(r"^\s*([+-])\s+([\w.-]+)==(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Package:
    """A package to collect, with the most specific compatible wheel.

    Attributes:
        name: normalized name.
        version: resolved version.
        wheel: file name of the wheel; None if there is only a source distribution.
        sha256: checksum of the wheel or source distribution; None if the registry has none.
        size: bytes of the wheel or source distribution; None if the registry has no size.
    """

    name: str
    version: str
    wheel: str | None
    sha256: str | None
    size: int | None


def resolve(
    uv: str,
    wanted: Iterable[requirements.Requirement],
    target: Target,
    present: dict[str, version.Version],
    collected: Iterable[Wheel],
    *options: str,
) -> list[Package]:
    """Return the packages to collect for `wanted` and its dependencies.

    Present packages with a satisfying version are kept and assumed to have their dependencies, so
    that the machine's own builds (a torch for its CUDA) are not replaced by newer versions.

    Args:
        uv: path of uv.
        wanted: requirements.
        target: machine to collect for.
        present: packages on that machine.
        collected: wheels already collected for it.
        options: additional uv options that affect the choice of versions.

    Raises:
        UserError: the requirements are unsatisfiable, or the registry is unreachable.
    """
    with tempfile.TemporaryDirectory() as place:
        site = Path(place) / "site"
        there = {
            name: (number, f"Name: {name}\nVersion: {number}\n".encode())
            for name, number in present.items()
        }
        there |= {wheel.name: (wheel.version, metadata(wheel.path)) for wheel in collected}
        for name, (number, text) in there.items():
            _write_metadata(site, name, str(number), text)
        lines = Path(place) / "wanted.txt"
        lines.write_text("".join(f"{requirement}\n" for requirement in wanted), encoding="utf-8")
        python = ".".join(map(str, target.python))
        about = [f"--python-platform={target.uv_platform}", f"--python-version={python}"]
        command = [uv, "pip", "install", "--dry-run", "--target", str(site), *about, *options]
        # Building package metadata must not search for a CUDA compiler.
        environment = {**uv_environment(), "DS_BUILD_OPS": "0", "NO_COLOR": "1"}
        output = run([*command, "-r", str(lines)], "resolving the requirements", environment).stderr
        chosen = [match for match in _CHANGE.findall(output) if match[0] == "+"]
        lines.write_text(
            "".join(f"{name}=={number}\n" for _, name, number in chosen), encoding="utf-8"
        )
        lock = Path(place) / "pylock.toml"
        command = [uv, "pip", "compile", "--quiet", "--no-deps", *about, f"--output-file={lock}"]
        run([*command, str(lines)], "asking for the files", environment)
        packages = tomllib.loads(lock.read_text(encoding="utf-8")).get("packages", [])
    return [_package(entry, target) for entry in packages]


def _write_metadata(site: Path, name: str, number: str, text: bytes) -> None:
    """Write metadata to `site` as if the package were installed there."""
    folder = site / f"{name.replace('-', '_')}-{number}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    head = b"" if text.startswith(b"Metadata-Version") else b"Metadata-Version: 2.1\n"
    (folder / "METADATA").write_bytes(head + text)


def _package(entry: dict, target: Target) -> Package:
    """Convert an entry of pylock.toml (PEP 751), with its best compatible wheel."""
    order = {tag: rank for rank, tag in enumerate(target.tags)}
    ranked = []
    for file in entry.get("wheels", []):
        name = file.get("name") or _file_name(file.get("url") or file.get("path", ""))
        try:
            wheel_tags = utils.parse_wheel_filename(name)[3]
        except utils.InvalidWheelFilename:
            continue
        ranks = [order[tag] for tag in wheel_tags if tag in order]
        if ranks:
            ranked.append((min(ranks), name, file))
    found = min(ranked, key=lambda item: item[:2], default=None)
    file = found[2] if found else entry.get("sdist", {})
    return Package(
        name=utils.canonicalize_name(entry["name"]),
        version=entry["version"],
        wheel=found[1] if found else None,
        sha256=file.get("hashes", {}).get("sha256"),
        size=file.get("size"),
    )


def _file_name(url: str) -> str:
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1])
