"""`python -m docs.scripts`, and the pictures that it writes."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from docs.scripts import __main__ as generators
from docs.scripts.picture_architecture import imports, packages
from docs.scripts.pictures import render
from tests.support.environment import ROOT

PICTURES = ROOT / "docs" / "pictures"


def test_committed_pages_are_current() -> None:
    assert generators.stale_pages() == []


def test_check_names_pages_that_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generators, "_DOCS", tmp_path)
    monkeypatch.setattr("sys.argv", ["docs.scripts", "--check"])
    for path, text in list(generators.rendered_pages()):
        path.write_text(text, encoding="utf-8")
    assert generators.main() == 0
    (tmp_path / "commands.md").write_text("old", encoding="utf-8")
    assert generators.main() == 1
    assert "docs/commands.md differs" in capsys.readouterr().err


def test_committed_pictures_have_the_present_texts() -> None:
    """Texts only: positions may differ between releases of Vega."""
    for name, svg in render().items():
        committed = (PICTURES / name).read_text(encoding="utf-8")
        assert _texts(committed) == _texts(svg), f"{name}: run `python -m docs.scripts`"
        assert 'fill="white"' in committed.partition("<g")[0], name


def test_pictures_fit_a_page() -> None:
    committed = sorted(PICTURES.glob("*.svg"))
    assert len(committed) >= 4
    for path in committed:
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert float(root.attrib["width"]) <= 860, path.name


def test_packages_import_only_from_floors_below() -> None:
    known = packages()
    assert {"cli", "training", "mmbert_kernels", "errors"} <= {package.label for package in known}
    used = {package.label: imports(package, known) for package in known}
    for package in known:
        assert all(other.floor > package.floor for other in used[package.label]), package
        assert package.about, package
    assert used["mmbert_kernels"] == set()
    assert {other.label for other in used["schedule"]} == {"recipe"}
    assert {"checkpoint", "data", "model", "mmbert_kernels"} <= {o.label for o in used["training"]}


def _texts(svg: str) -> list[str]:
    return [text for text in ElementTree.fromstring(svg).itertext() if re.search(r"\S", text)]
