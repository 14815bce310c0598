"""Small inputs in tmp_path/in that lose some of their text."""

from __future__ import annotations

import json
from pathlib import Path

TEXT = "one of many documents of equal length, number "


def lines(good: int, bad: int = 0, unnamed: int = 0) -> bytes:
    """Return equally long lines: documents, damaged ones, and ones without a language."""
    found = [
        json.dumps({"text": f"{TEXT}{number:05}", "language": "eng_Latn"}) for number in range(good)
    ]
    found += [json.dumps({"text": f"{TEXT}{number:05}"}) for number in range(unnamed)]
    found += ['{"text": "cut'] * bad
    return "".join(line.ljust(99) + "\n" for line in found).encode()


def write(tmp_path: Path, **files: bytes) -> None:
    """Write files below tmp_path/in; `__` in a name is a folder's end."""
    for name, data in files.items():
        path = tmp_path / "in" / (name.replace("__", "/") + ".jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
