"""Requirements of setup.py, the single source of versions, parsed without running it."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

from mmbert.errors import ArgumentError, PackageError
from mmbert.wheels.pep import requirements

ROOT = Path(__file__).parents[3]


def required(
    extras: tuple[str, ...] = (), *, build: bool = False, root: Path = ROOT
) -> list[requirements.Requirement]:
    """Return the requirements of setup.py and of `extras`, without evaluating markers.

    Args:
        extras: names from `extras_require`.
        build: whether to include the build requirements of pyproject.toml.
        root: root of the repository.

    Raises:
        UserError: no setup.py in `root`, or an unknown extra.
    """
    lists = _lists(root / "setup.py")
    optional = lists["extras_require"]
    assert isinstance(optional, dict)
    texts = list(lists["install_requires"])
    for extra in extras:
        if extra not in optional:
            raise ArgumentError(
                f"unknown extra {extra!r}", remedy=f"choose from {', '.join(sorted(optional))}"
            )
        texts += optional[extra]
    if build:
        settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        texts += settings["build-system"]["requires"]
    return [requirements.Requirement(text) for text in texts]


def _lists(path: Path) -> dict[str, list[str] | dict[str, list[str]]]:
    """Parse the literal requirement arguments of `setup(…)`."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PackageError(
            f"cannot read the requirements from {path}: {error.strerror}",
            remedy="run this in the repository",
        ) from None
    return {
        node.arg: ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in ("install_requires", "extras_require")
    }
