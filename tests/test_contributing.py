"""Paths named in CONTRIBUTING.md and README.md exist."""

import re

import pytest

from tests.support.environment import ROOT


@pytest.mark.parametrize(("page", "least"), [("CONTRIBUTING.md", 20), ("README.md", 10)])
def test_paths_that_are_named_exist(page: str, least: int) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    first = {entry.name for entry in ROOT.iterdir()}
    named = [
        path for path in re.findall(r"`([\w.]+(?:/[\w.]+)+)`", text) if path.split("/")[0] in first
    ]
    assert len(named) > least
    assert [path for path in named if not (ROOT / path).exists()] == []
