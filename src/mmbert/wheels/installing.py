"""Offline installation into this interpreter from a folder of wheels."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmbert.errors import PackageError
from mmbert.wheels.folder import Contents, Wheel, read_folder
from mmbert.wheels.pep import requirements, specifiers, tags, utils
from mmbert.wheels.programs import run


@dataclass(frozen=True)
class MissingPackages:
    """Wheels to install, and unmet requirements with reasons."""

    wheels: dict[str, Wheel]
    missing: list[str]


def install(folder: Path, wanted: Iterable[requirements.Requirement]) -> None:
    """Install the wheels of `folder` that this interpreter lacks.

    Installed packages with a satisfying version are kept, with their dependencies. If a package is
    missing, all others that do not depend on it are installed.

    Raises:
        PackageError: packages are missing from `folder`, damaged, or for another machine; all are
            named.
    """
    lack = find_missing(wanted, read_folder(folder, tags.sys_tags()))
    if lack.wheels:
        files = [str(wheel.path) for wheel in lack.wheels.values()]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        options = ["--quiet", "--no-index", "--no-deps"]
        run([*pip, "install", *options, *files], f"installing into {sys.executable}")
        named = ", ".join(f"{wheel.name} {wheel.version}" for wheel in lack.wheels.values())
        print(f"installed into {sys.executable}: {named}", flush=True)
    if lack.missing:
        python = ".".join(map(str, sys.version_info[:2]))
        raise PackageError(
            f"{folder} lacks packages for {sys.executable}: " + ", ".join(lack.missing),
            remedy=f"collect them on a machine with a network: make wheels DIR={folder} "
            f"PYTHON_VERSION={python} (with MISSING_FROM= the output of this interpreter's "
            "`-m pip list`)",
        )
    if not lack.wheels:
        print(f"{sys.executable} already satisfies all requirements")


def find_missing(wanted: Iterable[requirements.Requirement], contents: Contents) -> MissingPackages:
    """Resolve requirements and their dependencies from the interpreter and the folder."""
    wheels: dict[str, Wheel] = {}
    missing: dict[str, tuple[specifiers.SpecifierSet, str]] = {}
    needed_by: dict[str, set[str]] = {}
    waiting = [(requirement, "", "") for requirement in wanted]
    seen: dict[tuple[str, str], requirements.Requirement] = {}
    while waiting:
        requirement, extra, by = waiting.pop()
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra}):
            continue
        name = utils.canonicalize_name(requirement.name)
        needed_by.setdefault(name, set()).add(by)
        key = (str(requirement), extra)
        if key in seen:
            continue
        seen[key] = requirement
        if name not in wheels and _is_installed(requirement):
            continue
        wheel = contents.wheels.get(name)
        if wheel is None or not requirement.specifier.contains(wheel.version, prereleases=True):
            earlier = missing.get(name, (specifiers.SpecifierSet(), ""))[0]
            reason = _reason(wheel, contents, name)
            missing[name] = (earlier & requirement.specifier, reason)
            continue
        wheels[name] = wheel
        for part in ("", *requirement.extras):
            waiting += [(needed, part, name) for needed in wheel.requires]
    for requirement in seen.values():  # the version that satisfied one may be replaced by a wheel
        name = utils.canonicalize_name(requirement.name)
        chosen = wheels.get(name)
        if chosen and not requirement.specifier.contains(chosen.version, prereleases=True):
            missing[name] = (requirement.specifier, _reason(chosen, contents, name))
    useless, found = set(missing), set(missing)
    while found:  # skip dependents of missing packages, which would pass as complete
        found = {by for name in found for by in needed_by[name]} - useless - {""}
        useless |= found
    wheels = {name: wheel for name, wheel in wheels.items() if name not in useless}
    return MissingPackages(
        wheels, [f"{name}{bounds}{why}" for name, (bounds, why) in sorted(missing.items())]
    )


def _is_installed(requirement: requirements.Requirement) -> bool:
    try:
        version: str | None = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    # The version of a partly removed package is None. Vendor images contain pre-releases of torch.
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _reason(wheel: Wheel | None, contents: Contents, name: str) -> str:
    if wheel is not None:
        return f" (the folder has {wheel.version})"
    if name in contents.damaged:
        return f" ({contents.damaged[name].name} is damaged)"
    other = contents.others.get(name)
    return f" ({other} is for another machine)" if other is not None else ""
