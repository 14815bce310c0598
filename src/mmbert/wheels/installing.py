"""Installs into this interpreter, without a network, what it lacks, from a folder of wheels."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmbert.errors import UserError
from mmbert.wheels.folder import Contents, Wheel, read_folder
from mmbert.wheels.pep import requirements, specifiers, tags, utils
from mmbert.wheels.programs import run


@dataclass(frozen=True)
class Lack:
    """What an interpreter lacks: the wheels that mend it, and what no wheel mends, with why."""

    wheels: dict[str, Wheel]
    missing: list[str]


def install(folder: Path, wanted: Iterable[requirements.Requirement]) -> None:
    """Install the wheels of `folder` that this interpreter lacks, and no other.

    What is installed in a version that satisfies stays as it is, with its dependencies.

    Raises:
        UserError: `folder` lacks a package, or has it for another machine; all are named.
    """
    contents = read_folder(folder, tags.sys_tags())
    if contents.damaged:
        names = ", ".join(path.name for path in contents.damaged)
        raise UserError(
            f"{folder} has damaged wheels: {names}",
            remedy=f"copy them again, or collect them anew: make wheels DIR={folder}",
        )
    lack = find_lack(wanted, contents)
    if lack.missing:
        python = ".".join(map(str, sys.version_info[:2]))
        raise UserError(
            f"{folder} lacks what {sys.executable} needs: " + ", ".join(lack.missing),
            remedy=f"collect it where there is a network: make wheels DIR={folder} "
            f"PYTHON_VERSION={python} (with MISSING_FROM= the output of this interpreter's "
            "`-m pip list`)",
        )
    if not lack.wheels:
        print(f"{sys.executable} has all that is required")
        return
    files = [str(wheel.path) for wheel in lack.wheels.values()]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["--quiet", "--no-index", "--no-deps"]
    run([*pip, "install", *options, *files], f"installing into {sys.executable}")
    named = ", ".join(f"{wheel.name} {wheel.version}" for wheel in lack.wheels.values())
    print(f"installed into {sys.executable}: {named}")


def find_lack(wanted: Iterable[requirements.Requirement], contents: Contents) -> Lack:
    """Walk the requirements, and those of the wheels that they call for, through both places."""
    wheels: dict[str, Wheel] = {}
    missing: dict[str, tuple[specifiers.SpecifierSet, str]] = {}
    waiting = [(requirement, "") for requirement in wanted]
    seen = set()
    while waiting:
        requirement, extra = waiting.pop()
        key = (str(requirement), extra)
        marker = requirement.marker
        if key in seen or (marker is not None and not marker.evaluate({"extra": extra})):
            continue
        seen.add(key)
        name = utils.canonicalize_name(requirement.name)
        if name not in wheels and _is_installed(requirement):
            continue
        wheel = contents.wheels.get(name)
        if wheel is None or not requirement.specifier.contains(wheel.version, prereleases=True):
            earlier = missing.get(name, (specifiers.SpecifierSet(), ""))[0]
            reason = _reason(wheel, contents.others.get(name))
            missing[name] = (earlier & requirement.specifier, reason)
            continue
        wheels[name] = wheel
        for part in ("", *requirement.extras):
            waiting += [(needed, part) for needed in wheel.requires]
    return Lack(wheels, [f"{name}{bounds}{why}" for name, (bounds, why) in sorted(missing.items())])


def _is_installed(requirement: requirements.Requirement) -> bool:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return requirement.specifier.contains(version, prereleases=False)


def _reason(wheel: Wheel | None, other: str | None) -> str:
    if wheel is not None:
        return f" (the folder has {wheel.version})"
    return f" ({other} is for another machine)" if other is not None else ""
