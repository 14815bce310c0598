"""Index of a checkpoint, changed and signed again, so that only its contents tell."""

import json
from pathlib import Path
from typing import Any

import xxhash


def write_signed_index(path: Path, values: dict[str, Any]) -> None:
    """Write an index with the checksum of its contents."""
    values.pop("xxh3_128", None)
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    values["xxh3_128"] = xxhash.xxh3_128_hexdigest(text.encode())
    path.write_text(json.dumps(values))
