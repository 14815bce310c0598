"""JSON files of the pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmbert.errors import ShardsError


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ShardsError if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ShardsError(
            f"{path} is not valid JSON: {error}",
            remedy="remove this file and run the same command again; its work is redone",
        ) from error
