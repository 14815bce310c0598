"""Fenced blocks of README, CONTRIBUTING and docs, and the mark above each.

A mark is an HTML comment on the line above the fence:

- `<!-- run -->`, `<!-- run: long -->`: a test executes the block, after the page's earlier ones.
- `<!-- parsed -->`: a test gives each command to its program's own parser.
- `<!-- shown: REASON -->`: neither; the reason says what the block lacks.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.support.environment import ROOT

_MARK = re.compile(r"<!-- (?P<kind>run|parsed|shown)(?:: (?P<detail>.+))? -->")


@dataclass(frozen=True)
class Block:
    """A fenced block: place, text without the fences, and mark ("" if it has none)."""

    page: Path
    line: int
    text: str
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """README, CONTRIBUTING and all pages of the site."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    lines = text.splitlines()
    found = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type not in ("fence", "code_block") or token.map is None:
            continue
        first = token.map[0]
        mark = _MARK.fullmatch(lines[first - 1].strip()) if first else None
        kind, detail = (mark["kind"], mark["detail"] or "") if mark else ("", "")
        found.append(Block(page, first + 1, token.content, kind, detail))
    return found
