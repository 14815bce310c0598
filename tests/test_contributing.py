"""Paths named in CONTRIBUTING.md exist."""

import re

from tests.support.environment import ROOT


def test_paths_named_in_contributing_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    first = {entry.name for entry in ROOT.iterdir()}
    named = [
        path for path in re.findall(r"`([\w.]+(?:/[\w.]+)+)`", text) if path.split("/")[0] in first
    ]
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []
