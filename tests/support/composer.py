"""The Composer checkpoints of tests/fixtures/composer, and changed copies of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmbert.hub.importing.composer.reading import read_checkpoint
from tests.support.environment import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "composer"
EARLIER = FIXTURES / "tiny-ep0-ba10-rank0.pt"
LATER = FIXTURES / "tiny-ep0-ba12-rank0.pt"
EXTENSION = FIXTURES / "tiny-extension-ep0-ba2-rank0.pt"


def composer_state(path: Path = EARLIER) -> dict[str, Any]:
    """Return the state in a checkpoint, without what the reader leaves out."""
    return read_checkpoint(path)


def changed_checkpoint(
    path: Path, change: Callable[[dict[str, Any]], object], source: Path = EARLIER
) -> Path:
    """Write a copy of `source` to `path` after `change` of its state."""
    state = composer_state(source)
    state.pop("callbacks", None)
    for key in [key for key in state["timestamp"]["Timestamp"] if key.endswith("_wct")]:
        del state["timestamp"]["Timestamp"][key]
    state.pop("metadata", None)
    change(state)
    torch.save({"state": state}, path)
    return path
