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


def without_what_published_files_lack(state: dict[str, Any]) -> None:
    """ModernBERT's files have neither timestamp nor generators nor metadata."""
    for key in ("timestamp", "rng", "metadata", "integrations"):
        state.pop(key, None)


def integer_keys(state: dict[str, Any]) -> None:
    """Number the optimizer's parameters as torch before 2.3 did."""
    saved = state["optimizers"]["StableAdamW"]
    names = [name for group in saved["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    saved["state"] = {numbers[name]: saved["state"][name] for name in numbers}
    for group in saved["param_groups"]:
        group["params"] = [numbers[name] for name in group["params"]]


def with_prefixes(state: dict[str, Any]) -> None:
    """Add the prefixes of DDP and torch.compile."""

    def renamed(name: str) -> str:
        return f"module.{name}".replace("model.bert.", "model._orig_mod.bert.")

    state["model"] = {renamed(name): tensor for name, tensor in state["model"].items()}
    saved = state["optimizers"]["StableAdamW"]
    saved["state"] = {renamed(name): value for name, value in saved["state"].items()}
    for group in saved["param_groups"]:
        group["params"] = [renamed(name) for name in group["params"]]


def configured(**changes: Any) -> Callable[[dict[str, Any]], object]:
    """Return a change of keys of the model's configuration."""

    def change(state: dict[str, Any]) -> None:
        state["integrations"]["huggingface"]["model"]["config"]["content"] |= changes

    return change
