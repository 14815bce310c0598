"""Paths and links of README and CONTRIBUTING lead somewhere; CITATION.cff names this version."""

import re

import pytest
import yaml

import mmbert
from tests.support.environment import ROOT


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md"])
def test_paths_that_are_named_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    first = {entry.name for entry in ROOT.iterdir()}
    named = [
        path for path in re.findall(r"`([\w.]+(?:/[\w.]+)+)`", text) if path.split("/")[0] in first
    ]
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert len(named) + len(links) > 20
    made = ("build/",)  # by a target that the page names
    paths = [path for path in named + links if not path.startswith(made)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 250


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == mmbert.__version__
    assert citation["cff-version"] == "1.2.0"
