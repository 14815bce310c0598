"""Structure: import contracts of pyproject.toml, size of packages, lists of modules."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.environment import FOLDERS, ROOT, with_packages


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    paths = [folder / place for place in FOLDERS]
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=folder,
        env=with_packages(*paths),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_each_floor_imports_only_from_below() -> None:
    result = _lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


MOST_FILES = 12


def test_a_room_is_taken_in_at_a_glance() -> None:
    rooms = [path.parent for place in FOLDERS for path in (ROOT / place).rglob("__init__.py")]
    sizes = {room: len([*room.glob("*.py")]) - 1 for room in rooms}
    assert len(sizes) > 20
    assert {str(room): size for room, size in sizes.items() if size > MOST_FILES} == {}


def test_a_room_names_what_is_in_it_and_nothing_else() -> None:
    """Modules listed in a package docstring ("- `a`, `b`: …") must exist."""
    listed = 0
    for place in FOLDERS:
        for path in (ROOT / place).rglob("__init__.py"):
            lines = re.findall(r"^- (`[\w`, ]+`)(?::|; `)", path.read_text(), re.MULTILINE)
            named = {name for line in lines for name in re.findall(r"`(\w+)`", line)}
            if named:
                listed += 1
                there = {entry.stem for entry in path.parent.iterdir() if entry.suffix == ".py"}
                there |= {entry.parent.name for entry in path.parent.glob("*/__init__.py")}
                assert named <= there, f"{path} names {named - there}"
    assert listed > 8


def test_an_import_from_above_would_be_noticed(tmp_path: Path) -> None:
    for place in ("src", "kernels", "data_prep", "pyproject.toml"):
        (tmp_path / place).symlink_to(ROOT / place)
    (tmp_path / "src").unlink()
    package = tmp_path / "src" / "mmbert"
    package.mkdir(parents=True)
    for entry in (ROOT / "src" / "mmbert").iterdir():
        (package / entry.name).symlink_to(entry)
    errors = package / "errors.py"
    source = errors.read_text(encoding="utf-8")
    errors.unlink()
    errors.write_text(f"{source}\nimport mmbert.training\n", encoding="utf-8")
    result = _lint_imports(tmp_path)
    assert result.returncode != 0
    assert "mmbert.errors -> mmbert.training" in result.stdout, result.stdout
