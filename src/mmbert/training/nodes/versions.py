"""Versions of the packages on this node, for the log and to compare nodes."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import xxhash

import mmbert
import mmbert_kernels


def package_versions() -> dict[str, str | None]:
    """Return the versions that a start logs."""
    return {
        "mmbert": mmbert.__version__,
        "torch": torch.__version__,
        "deepspeed": _installed("deepspeed"),
        "python": platform.python_version(),
    }


def compared_versions() -> Mapping[str, str]:
    """Return what the nodes must have in common.

    The last part of Python's version may differ. The sources of our packages are compared as well,
    because two states of a checkout have the same version.
    """
    versions = {name: value or "not installed" for name, value in package_versions().items()}
    versions["python"] = ".".join(platform.python_version_tuple()[:2])
    for package in (mmbert, mmbert_kernels):
        folder = Path(package.__file__ or "").parent
        versions[f"source of {package.__name__}"] = source_digest(folder)
    return versions


def source_digest(package: Path) -> str:
    """Return 16 hexadecimal digits that identify the modules of a package by their contents."""
    digest = xxhash.xxh3_64()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _installed(package: str) -> str | None:
    """Return a package's version without importing it; None if it has no metadata."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
