"""`make wheels`: collected and kept wheels, and error messages."""

from pathlib import Path

import pytest

from mmbert.wheels.collecting import describe_size
from mmbert.wheels.folder import is_pure
from mmbert.wheels.installed import read_list
from mmbert.wheels.programs import find_uv
from mmbert.wheels.required import required
from mmbert.wheels.resolution import Package, resolve
from mmbert.wheels.target import Target, parse_target
from tests.environments.conftest import HERE, Command
from tests.environments.fakes import write_tree, write_wheel

NEEDED = {"below-1.5", "bound-3.0", "maker-2.5", "plain-2.0", "pure-4.0"}
FROM_PIP_LIST = "Package  Version   Editable project location\n-------- -------\n{lines}"


def collected(tmp_path: Path) -> set[str]:
    """Return names and versions of the collected wheels."""
    return {"-".join(p.name.split("-")[:2]) for p in (tmp_path / "wheels").glob("*.whl")}


def test_everything_with_its_dependencies_for_that_machine(
    collect: Command, tmp_path: Path
) -> None:
    status, printed = collect()
    assert status == 0, printed
    assert collected(tmp_path) == NEEDED
    (bound,) = (tmp_path / "wheels").glob("bound*")
    assert bound.name.endswith("-manylinux_2_17_x86_64.whl")
    assert f"cp{HERE.replace('.', '')}" in bound.name
    (pure,) = (tmp_path / "wheels").glob("pure*")
    assert is_pure(pure)
    assert "[5/5]" in printed
    assert "size unknown" in printed

    (plain,) = (tmp_path / "wheels").glob("plain*")
    before = plain.stat().st_mtime_ns
    pure.unlink()
    bound.write_bytes(bound.read_bytes()[:100])
    status, printed = collect()
    assert status == 0, printed
    assert "[2/2]" in printed, "collects only what is missing"
    assert "damaged" in printed
    assert plain.stat().st_mtime_ns == before
    assert collected(tmp_path) == NEEDED
    assert "is complete" in collect()[1]


def test_one_version_of_each(collect: Command, tmp_path: Path, tree: Path) -> None:
    write_wheel(tmp_path / "wheels", "plain", "1.0", ["below>=1"])
    write_wheel(tmp_path / "wheels", "below", "1.5")
    write_tree(tree, ["plain"])
    assert "is complete" in collect()[1], "existing wheels are used"
    write_tree(tree, ["plain>=2"])
    collect()
    assert collected(tmp_path) == {"plain-2.0", "below-1.5"}


@pytest.mark.usefixtures("only_registry")
def test_another_machine(tree: Path) -> None:
    def wheel_of(name: str, target: Target) -> str | None:
        wanted = required(root=tree)
        return {p.name: p.wheel for p in resolve(find_uv(), wanted, target, {}, [])}[name]

    elsewhere = parse_target(HERE, "manylinux_2_17_aarch64")
    assert str(wheel_of("bound", elsewhere)).endswith("manylinux_2_17_aarch64.whl")
    assert wheel_of("pure", elsewhere) is None


@pytest.mark.parametrize(
    ("lines", "needed"),
    [
        ("plain 1.0\nmaker 2.0", {"bound-3.0", "pure-4.0"}),  # with its dependencies
        ("plain    0.9\nmaker 2.0", {"bound-3.0", "pure-4.0", "plain-2.0", "below-1.5"}),
        ("plain==0.9\nbelow==1.2+cu130\npure==4", {"bound-3.0", "plain-2.0", "maker-2.5"}),
        (
            "maker @ file:///x/maker-2.0-py3-none-any.whl#sha256=0\nbound==3.1",
            {"plain-2.0", "below-1.5", "pure-4.0"},
        ),
    ],
)
@pytest.mark.usefixtures("only_registry")
def test_what_the_list_has_in_a_version_that_satisfies_stays_away(
    tree: Path, tmp_path: Path, lines: str, needed: set[str]
) -> None:
    saved = tmp_path / "pip-list.txt"
    head = FROM_PIP_LIST if "==" not in lines else "# a comment\n-e /somewhere\n{lines}"
    saved.write_text(head.format(lines=lines) + "\n[notice] A new release of pip\n")
    wanted, target = required(build=True, root=tree), parse_target(None, "manylinux_2_28_x86_64")
    packages = resolve(find_uv(), wanted, target, read_list(saved), [])
    assert {f"{package.name}-{package.version}" for package in packages} == needed


def test_a_source_that_builds_for_this_machine_only_is_named(
    collect: Command, tmp_path: Path, tree: Path
) -> None:
    write_tree(tree, ["impure", "below"])
    status, printed = collect()
    assert status == 2
    assert "impure==5.0 has no wheel for Python" in printed
    assert "is specific to this platform" in printed
    assert collected(tmp_path) == {"below-1.5"}, "collects only what is missing"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--python-version=3"], ["PYTHON_VERSION '3'", "PYTHON_VERSION=3.12"]),
        (["--python-version=3.9"], ["PYTHON_VERSION '3.9'", "3.11"]),
        (["--platform=linux_x86_64"], ["PLATFORM 'linux_x86_64'", "manylinux_2_28_x86_64"]),
        (["--platform=manylinux_2_28_amd64"], ["PLATFORM", "x86_64, aarch64"]),
        (["--missing-from={place}/absent.txt"], ["absent.txt", "pip list >"]),
        (["--missing-from={place}/recipe.txt"], ["recipe.txt, line 2", "optimizer: {", "pip list"]),
        (["--missing-from={place}/empty.txt"], ["empty.txt lists no package"]),
        (["--missing-from={place}/bytes.txt"], ["bytes.txt: not UTF-8"]),
        (["--extras=moer"], ["unknown extra 'moer'", "more"]),
    ],
)
def test_wrong_input_ends_with_a_remedy(
    collect: Command, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    (tmp_path / "recipe.txt").write_text("torch 2.11.0\noptimizer: {name: adam}\n")
    (tmp_path / "empty.txt").write_text("Package Version\n------- -------\n")
    (tmp_path / "bytes.txt").write_bytes("torch 2.11.0".encode("utf-16"))
    status, printed = collect(*(option.format(place=tmp_path) for option in options))
    assert status == 2
    for word in [*words, "→"]:
        assert word in printed
    assert not (tmp_path / "wheels").exists()


def test_extras_and_what_the_build_needs(tree: Path) -> None:
    assert "extra" in {requirement.name for requirement in required(("more",), root=tree)}
    assert "maker" in {requirement.name for requirement in required(build=True, root=tree)}
    assert {requirement.name for requirement in required(root=tree)} == {"plain", "bound", "pure"}


def test_what_the_registry_lacks_is_named(collect: Command, tree: Path) -> None:
    write_tree(tree, ["plain>=3", "nowhere"])
    status, printed = collect()
    assert status == 2
    assert "plain" in printed
    assert "→" in printed


def test_without_a_network(collect: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nothing listens there
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    status, printed = collect()
    assert status == 2
    assert "the package registry cannot be reached" in printed


def test_a_folder_that_cannot_be_written(collect: Command, tmp_path: Path) -> None:
    (tmp_path / "wheels").write_text("a file")
    status, printed = collect()
    assert status == 2
    assert "cannot write to" in printed


def test_sizes_are_said_as_far_as_the_registry_says_them() -> None:
    def package(name: str, size: int | None) -> Package:
        return Package(name, "1", "a.whl", None, size)

    cuda = [package("torch", 500 << 20), package("nvidia-cublas", 400 << 20)]
    some = describe_size([*cuda, package("small", 3000), package("dark", None)])
    assert some.startswith("900.0 MiB (torch and its CUDA libraries: 900.0 MiB)")
    assert "dark of unknown size" in some
    assert describe_size([package("small", 3000)]) == "3 KiB"
