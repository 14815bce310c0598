"""A registry of fake packages, and the `wheels` command restricted to it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbert.wheels.__main__ import main
from tests.environments.fakes import write_pages, write_source, write_tree, write_wheel

Command = Callable[..., tuple[int, str]]
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of the registry. `bound` only has wheels for the platforms of two Pythons."""
    place = tmp_path_factory.mktemp("registry")
    compiled = f"cp{HERE.replace('.', '')}"
    write_wheel(place / "maker", "maker", "2.5")
    for version in ("1.0", "2.0"):
        write_wheel(
            place / "plain", "plain", version, ["below>=1", "elsewhere; python_version<'3'"]
        )
    for version in ("1.0", "1.5"):
        write_wheel(place / "below", "below", version)
    for tag in ("manylinux_2_17_x86_64", "manylinux_2_17_aarch64"):
        write_wheel(place / "bound", "bound", "3.0", tag=f"{compiled}-{compiled}-{tag}")
        write_wheel(place / "bound", "bound", "3.0", tag=f"cp39-cp39-{tag}")
    write_source(place / "pure", "pure", "4.0", "py3-none-any")
    write_source(place / "impure", "impure", "5.0", f"{compiled}-{compiled}-linux_x86_64")
    write_wheel(place / "extra", "extra", "6.0")
    return write_pages(place)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "tree", ["plain>=1.0", "bound>=3", "pure"], ["maker>=2"])


@pytest.fixture
def only_registry(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all other registries and caches from pip and uv."""
    for name in [*os.environ]:
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", registry)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("UV_NO_CACHE", "1")


@pytest.fixture
def collect(
    only_registry: None, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`wheels collect` into `tmp_path/wheels`, returning status and output."""

    def run(*options: str) -> tuple[int, str]:
        given = ["collect", str(tmp_path / "wheels"), f"--root={tree}", *options]
        status = main(given)
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run
