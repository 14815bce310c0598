"""State of its last use that a tokenizer.json keeps, and that none of the programs uses.

Padding and truncation are settings of a call; the dropout of a BPE model makes every encoding of a
text another one, which is meant for training with it.
"""

from __future__ import annotations

from typing import Any


def saved_state(definition: dict[str, Any]) -> list[str]:
    """Return which of padding, truncation and dropout the content of a tokenizer.json has saved."""
    names = [name for name in ("padding", "truncation") if definition.get(name) is not None]
    return [*names, "dropout"] if _model(definition).get("dropout") else names


def without_state(definition: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a tokenizer.json without `saved_state`; the order of keys stays."""
    changed = dict(definition)
    for name in ("padding", "truncation"):
        if name in changed:
            changed[name] = None
    if _model(definition).get("dropout"):
        changed["model"] = {**_model(definition), "dropout": None}
    return changed


def joined(names: list[str]) -> str:
    """Join names as in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _model(definition: dict[str, Any]) -> dict[str, Any]:
    model = definition.get("model")
    return model if isinstance(model, dict) else {}
