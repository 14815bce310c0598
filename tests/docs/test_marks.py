"""Every fenced block says whether a test runs it, parses it, or why neither."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import blocks, pages
from tests.support.environment import ROOT


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_block_has_a_mark(page: Path) -> None:
    found = blocks(page)
    assert [str(block) for block in found if not block.kind] == []
    assert [str(block) for block in found if block.kind == "shown" and not block.detail] == []
    assert [str(b) for b in found if b.kind == "run" and b.detail not in ("", "long")] == []
    assert [str(b) for b in found if b.kind == "parsed" and b.detail] == []


def test_every_mark_is_above_a_block() -> None:
    """A mark with a blank line below it would mark nothing."""
    for page in pages():
        marks = re.findall(r"^\s*<!-- (?:run|parsed|shown)\b", page.read_text("utf-8"), re.M)
        assert len(marks) == len(blocks(page)), page.relative_to(ROOT)
