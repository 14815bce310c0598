"""What the system requires, read from setup.py without running it: versions are said only there."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

from mmbert.errors import UserError
from mmbert.wheels.pep import requirements

ROOT = Path(__file__).parents[3]


def required(
    extras: tuple[str, ...] = (), *, build: bool = False, root: Path = ROOT
) -> list[requirements.Requirement]:
    """The requirements of setup.py, with those of `extras`; markers are not evaluated here.

    Args:
        extras: names from `extras_require`.
        build: with what pyproject.toml's build system needs, too.
        root: the repository.

    Raises:
        UserError: no setup.py in `root`, or no extra of that name in it.
    """
    lists = _lists(root / "setup.py")
    optional = lists["extras_require"]
    assert isinstance(optional, dict)
    texts = list(lists["install_requires"])
    for extra in extras:
        if extra not in optional:
            raise UserError(
                f"setup.py has no extra {extra!r}", remedy=f"one of {', '.join(sorted(optional))}"
            )
        texts += optional[extra]
    if build:
        settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        texts += settings["build-system"]["requires"]
    return [requirements.Requirement(text) for text in texts]


def _lists(path: Path) -> dict[str, list[str] | dict[str, list[str]]]:
    """The literal keyword arguments of `setup(…)`."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}), and the requirements stand there",
            remedy="run this in the repository",
        ) from None
    return {
        node.arg: ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in ("install_requires", "extras_require")
    }
