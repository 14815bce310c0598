"""Offline installation: `make setup WHEELS=`, and into a given interpreter."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments.fakes import source_files, write_tree, write_wheel
from tests.support.environment import ROOT, with_packages

# An index that is unreachable, in case anything queries it.
NO_NETWORK = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
PROXY = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")


def make_setup(tree: Path, wheels: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHON": sys.executable, "WHEELS": str(wheels), "EXTRAS": ""}
    return subprocess.run(
        ["bash", tree / "launch" / "install.sh"],
        env={**os.environ, **NO_NETWORK, **PROXY, **environment, "PIP_CONFIG_FILE": os.devnull},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository like this one that requires fake packages, set up from wheels."""
    tree = write_tree(tmp_path_factory.mktemp("tree"), ["plain>=1", "choice[more]>=1", "torch"])
    (tree / "src").symlink_to(ROOT / "src")
    (tree / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "install.sh", tree / "launch")
    for name, text in source_files("tiny", "0.1", "py3-none-any").items():
        (tree / name).write_text(text)
    wheels = tree / "wheels"
    refused = make_setup(tree, wheels)
    assert refused.returncode == 2, refused.stdout
    assert f"{wheels} is not a folder" in refused.stdout
    write_wheel(wheels, "plain", "1.0", ["below>=1", "elsewhere; python_version<'3'"])
    write_wheel(wheels, "choice", "1.0", ["unasked; extra == 'less'", "asked; extra == 'more'"])
    refused = make_setup(tree, wheels)
    assert refused.returncode == 2, refused.stdout
    assert "asked, below>=1" in refused.stdout
    assert f"make wheels DIR={wheels}" in refused.stdout
    assert not (tree / ".venv" / ".installed").exists()
    write_wheel(wheels, "asked", "1.0")
    write_wheel(wheels, "below", "1.0")
    done = make_setup(tree, wheels)
    assert done.returncode == 0, done.stdout
    return tree


def version_in(tree: Path, name: str) -> str:
    command = [tree / ".venv/bin/python", "-c", f"import {name}; print({name}.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def install_into(tree: Path, wheels: Path, requirements: list[str]) -> tuple[int, str]:
    """Run `wheels install` for a tree with other requirements, in the first tree's Python."""
    other = write_tree(wheels.parent / "other", requirements)
    command = [tree / ".venv/bin/python", "-m", "mmbert.wheels", "install", wheels]
    result = subprocess.run(
        [*command, f"--root={other}"],
        env=with_packages(**NO_NETWORK, **PROXY),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout


def test_a_fresh_environment_without_a_network(tree: Path) -> None:
    assert (tree / ".venv" / ".installed").exists()
    assert [version_in(tree, name) for name in ("plain", "below", "asked")] == ["1.0"] * 3
    assert version_in(tree, "tiny") == "0.1"
    assert version_in(tree, "unasked") == ""


def test_torch_of_the_interpreter_beneath_is_used(tree: Path) -> None:
    """Also for a virtual environment, as `python3` is in many images."""
    program = "import importlib.metadata; print(importlib.metadata.version('torch'))"
    command = [tree / ".venv/bin/python", "-c", program]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert found == importlib.metadata.version("torch")


def test_what_satisfies_stays_and_the_rest_comes(tree: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "plain", "1.7", ["never"])
    write_wheel(wheels, "choice", "2.5")
    status, printed = install_into(tree, wheels, ["plain>=1", "choice>=2"])
    assert status == 0, printed
    assert printed.rstrip().endswith("choice 2.5")
    assert printed.count("\n") == 1
    assert version_in(tree, "plain") == "1.0"
    assert version_in(tree, "choice") == "2.5"
    status, printed = install_into(tree, wheels, ["plain>=1", "choice>=2"])
    assert status == 0
    assert "already satisfies all requirements" in printed


def test_every_missing_package_is_named_with_why(tree: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "old", "1.0")
    write_wheel(wheels, "foreign", "1.0", tag="cp39-cp39-win_amd64")
    needed = ["old>=2", "foreign", "absent>=3,<4", "plain>=1", "elsewhere; sys_platform=='win32'"]
    status, printed = install_into(tree, wheels, needed)
    assert status == 2
    assert "absent<4,>=3" in printed
    assert "old>=2 (the folder has 1.0)" in printed
    assert "foreign (foreign-1.0-cp39-cp39-win_amd64.whl is for another machine)" in printed
    assert "plain" not in printed
    assert "elsewhere" not in printed
    assert "→" in printed


def test_a_damaged_wheel_is_named(tree: Path, tmp_path: Path) -> None:
    path = write_wheel(tmp_path / "wheels", "plain", "2.0")
    path.write_bytes(path.read_bytes()[:50])
    status, printed = install_into(tree, tmp_path / "wheels", ["plain>=2"])
    assert status == 2
    assert f"plain>=2 ({path.name} is damaged)" in printed


def test_what_is_there_comes_though_something_is_missing(tree: Path, tmp_path: Path) -> None:
    """The same command then installs the rest."""
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "here", "1.0")
    bad = write_wheel(wheels, "unneeded", "1.0")
    bad.write_bytes(bad.read_bytes()[:50])
    (wheels / "my notes.whl").write_text("not a wheel")
    status, printed = install_into(tree, wheels, ["here", "absent"])
    assert status == 2
    assert ": absent\n" in printed
    assert version_in(tree, "here") == "1.0"


def test_what_a_wheel_replaces_must_still_satisfy_all(tree: Path, tmp_path: Path) -> None:
    """In any order: `plain` 1.0 is installed, `needs` requires 2, which the folder has."""
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "plain", "2.0")
    write_wheel(wheels, "needs", "1.0", ["plain>=2"])
    for order in (["plain<2", "needs"], ["needs", "plain<2"]):
        status, printed = install_into(tree, wheels, order)
        assert status == 2, order
        assert "(the folder has 2.0)" in printed
        assert version_in(tree, "plain") == "1.0"


def test_a_vendors_pre_release_satisfies(tree: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "vendored", "2.12.0a0+nv25.12")
    assert install_into(tree, wheels, ["vendored>=2.11,<2.16"])[0] == 0
    (wheels / "vendored-2.12.0a0+nv25.12-py3-none-any.whl").unlink()
    status, printed = install_into(tree, wheels, ["vendored>=2.11,<2.16"])
    assert status == 0, printed
    assert "already satisfies all requirements" in printed


def test_a_bare_interpreter_is_enough() -> None:
    """Only the standard library and pip are imported, not torch and the rest."""
    program = "import sys; sys.modules['packaging'] = None; import mmbert.wheels.__main__\n"
    program += "print(*{n.split('.')[0] for n in sys.modules})"
    command = [sys.executable, "-c", program]
    modules = subprocess.run(
        command, env=with_packages(), capture_output=True, text=True, check=True
    ).stdout.split()
    foreign = set(modules) - set(sys.stdlib_module_names)
    assert not foreign & {"torch", "numpy", "typer", "pydantic", "rich", "yaml", "setuptools"}
