"""Small JSON files of the pipeline, read with a clear error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmbert.errors import UserError


def read_json(path: Path) -> Any:
    """Read JSON; a damaged file raises UserError naming it."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}",
            remedy="remove this file and run the same command again: what it described is redone",
        ) from error
