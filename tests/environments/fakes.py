"""Fake packages of a few hundred bytes, and a registry in a folder."""

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

# A build system without requirements that writes the wheel described in WHEEL_TO_MAKE.
BACKEND = """
import pathlib, sys
sys.path.insert(0, str(pathlib.Path(__file__).parent))
from making import write_wheel
def get_requires_for_build_wheel(config_settings=None):
    return []
def build_wheel(folder, config_settings=None, metadata_directory=None):
    here = pathlib.Path(__file__).parent
    name, version, tag = (here / "WHEEL_TO_MAKE").read_text().split()
    return write_wheel(pathlib.Path(folder), name, version, tag=tag).name
get_requires_for_build_editable, build_editable = get_requires_for_build_wheel, build_wheel
"""
SYSTEM = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def write_wheel(
    folder: Path, name: str, version: str, requires: Iterable[str] = (), tag: str = "py3-none-any"
) -> Path:
    """Write a wheel with one module `name`, which defines `version`."""
    information = f"{name}-{version}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"]
    lines += [f"Requires-Dist: {requirement}\n" for requirement in requires]
    pure = "true" if tag.endswith("-none-any") else "false"
    wheel = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: {pure}\nTag: {tag}\n"
    contents = {
        f"{name}.py": f"version = {version!r}\n",
        f"{information}/METADATA": "".join(lines),
        f"{information}/WHEEL": wheel,
    }
    record = "".join(f"{file},,\n" for file in (*contents, f"{information}/RECORD"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**contents, f"{information}/RECORD": record}.items():
            archive.writestr(file, text)
    return path


def write_source(folder: Path, name: str, version: str, tag: str) -> Path:
    """Write a source archive that builds into a wheel with the tag."""
    metadata = f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n"
    files = {"PKG-INFO": metadata, **source_files(name, version, tag)}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{file}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def source_files(name: str, version: str, tag: str) -> dict[str, str]:
    """Return the files of a project that builds into a wheel with the tag."""
    return {
        "pyproject.toml": SYSTEM + f'[project]\nname = "{name}"\nversion = "{version}"\n',
        "backend.py": BACKEND,
        "making.py": Path(__file__).read_text(encoding="utf-8"),
        "WHEEL_TO_MAKE": f"{name} {version} {tag}",
    }


def write_pages(registry: Path) -> str:
    """Write a page per folder of `registry` (PEP 503) and return its URL."""
    for folder in sorted(path for path in registry.iterdir() if path.is_dir()):
        files = sorted(path.name for path in folder.iterdir() if path.name != "index.html")
        links = "".join(f'<a href="{file}">{file}</a>\n' for file in files)
        (folder / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return registry.as_uri()


def write_tree(root: Path, requirements: Iterable[str], build: Iterable[str] = ()) -> Path:
    """Write setup.py and pyproject.toml of a repository."""
    root.mkdir(parents=True, exist_ok=True)
    text = f"setup(install_requires={list(requirements)!r}, extras_require={{'more': ['extra']}})\n"
    (root / "setup.py").write_text(text)
    (root / "pyproject.toml").write_text(f"[build-system]\nrequires = {list(build)!r}\n")
    return root
