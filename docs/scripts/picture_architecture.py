"""Picture of the packages: floors as in the import contract, and who imports whom."""

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import altair as alt

from docs.scripts.drawing import INK, QUIET, Shape, Text, Tile, figure

_ROOT = Path(__file__).parents[2]
_PLACES = {"mmbert": "src", "mmbert_kernels": "kernels", "mmbert_prep": "data_prep"}
_ROW, _COLUMN, _TOP = 22, 11.4, 96
_NAME, _ABOUT = 0, 104
_LONGEST_ABOUT = 62
_FLOORS, _DOT, _GRID = ("#eef3f9", "#f8f6f0"), "#1f4e8c", "#e3e7ec"


@dataclass(frozen=True)
class Package:
    """A package or module of the contract; `floor` counts from the top."""

    name: str
    floor: int

    @property
    def label(self) -> str:
        """Name without `mmbert.`, which most have in common."""
        return self.name.removeprefix("mmbert.")

    @property
    def files(self) -> list[Path]:
        """Its Python files, the package's own first."""
        path = _ROOT / _PLACES[self.name.partition(".")[0]] / self.name.replace(".", "/")
        return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]

    @property
    def about(self) -> str:
        """First line of its docstring, cut at a clause if it is long."""
        docstring = ast.get_docstring(_parse(self.files[0])) or ""
        line = docstring.partition("\n")[0].partition(". ")[0].removesuffix(".").replace("`", "")
        for sign in (";", ":", ","):
            if len(line) > _LONGEST_ABOUT:
                line = line.rpartition(sign)[0] or line
        return line


def packages() -> tuple[Package, ...]:
    """Return the packages in the layers of pyproject.toml, from the top."""
    settings = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]
    return tuple(
        Package(name.strip(), floor)
        for floor, layer in enumerate(contract["layers"])
        for name in layer.split("|")
    )


def imports(package: Package, known: tuple[Package, ...]) -> set[Package]:
    """Return the other packages that a package imports anywhere in its files."""
    modules = {name for file in package.files for name in _imported(file)}
    return {
        other
        for other in known
        if other != package and any(f"{name}.".startswith(f"{other.name}.") for name in modules)
    }


def chart() -> alt.LayerChart:
    """Return the picture: a row per package, with a dot under each package that it imports."""
    known = packages()
    left = _ABOUT + 336
    width = left + round(_COLUMN * len(known))
    height = _TOP + _ROW * len(known) + 26
    shapes: list[Shape] = []
    for row, package in enumerate(known):
        shapes.append(Tile(0, _TOP + row * _ROW, width, _ROW, _FLOORS[package.floor % 2]))
    for column in range(len(known)):
        line = left + _COLUMN * (column + 0.5)
        shapes.append(Tile(line, _TOP, 0.6, _ROW * len(known), _GRID))
    for row, package in enumerate(known):
        x, y = left + _COLUMN * (row + 0.5), _TOP + (row + 0.5) * _ROW
        shapes.append(Tile(x - 6, y - 0.5, 12, 1, _GRID))
        shapes.append(Text(_NAME + 8, y, package.label, 11.5, INK, bold=True))
        shapes.append(Text(_ABOUT + 8, y, package.about, 10.5, QUIET))
        shapes.append(Text(x, _TOP - 8, package.label, 10.5, INK, angle=-60))
        used = imports(package, known)
        for column, other in enumerate(known):
            if other in used:
                place = left + _COLUMN * (column + 0.5)
                shapes.append(Tile(place - 4, y - 4, 8.6, 8.6, _DOT))
    heading = "Packages by floor: each imports only from floors below"
    shapes.append(Text(8, 14, heading, 13, INK, bold=True))
    shapes.append(Text(8, 34, "■  the package of the row imports that of the column", 10.5, QUIET))
    shapes.append(Text(8, height - 12, "Names without a prefix are in mmbert.", 10.5, QUIET))
    return figure(
        width, height, shapes, description="Packages of the project by floor, and their imports"
    )


@cache
def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _imported(file: Path) -> Iterator[str]:
    """Yield the modules that a file imports, also within functions."""
    for node in ast.walk(_parse(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
