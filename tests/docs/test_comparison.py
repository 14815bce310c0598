"""docs/comparison.md: threads have numbers that match their links; named tests exist."""

import re

from tests.support.environment import ROOT

TEXT = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
_LINK = re.compile(r"\[#(\d+)\]\(https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/(\d+)\)")


def test_threads_link_to_their_own_number() -> None:
    links = _LINK.findall(TEXT)
    assert len(links) > 8
    assert [link for link in links if link[0] != link[1]] == []
    assert len(links) == len(re.findall(r"\]\(https://github\.com/", TEXT))


def test_every_thread_of_resumption_has_a_date_or_is_said_to_be_missing() -> None:
    section = TEXT[TEXT.index("\n## Bugs of resumption elsewhere") :]
    lines = [line for line in section.splitlines() if line[:2] == "| "][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(rows) == 7
    for thread, state, says, excludes, tests in rows:
        assert re.match(r"\d{4}-\d\d-\d\d, (closed|merged|open)$", state) or state == "not found"
        assert says, thread
        assert (state == "not found") == (not excludes), thread
        assert (state == "not found") == ("tests/" not in tests), thread


def test_every_named_test_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 7
    missing = [
        f"{path}::{name}"
        for path, name in named
        if f"\ndef {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert missing == []
