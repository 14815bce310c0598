"""The page of all recipe keys is current and complete."""

from collections.abc import Iterator
from typing import Any

import pytest

from docs.scripts.recipe_reference import render, undocumented_keys
from mmbert.recipe import load_recipe
from mmbert.recipe.base import Settings
from mmbert.recipe.named import recipe_names
from tests.support.environment import ROOT

PAGE = ROOT / "docs" / "recipe-reference.md"


def test_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `python -m docs.scripts`"


def test_every_key_has_a_meaning() -> None:
    assert undocumented_keys() == []


def test_keys_without_a_meaning_are_found() -> None:
    class Part(Settings):
        known: int = 1
        """Known."""
        unknown: int = 1

    class Whole(Settings):
        parts: tuple[Part, ...] = ()
        """Parts."""

    assert undocumented_keys(Whole) == ["parts.NAME.unknown"]


@pytest.mark.parametrize("name", recipe_names())
def test_keys_of_the_packaged_recipes_are_on_the_page(name: str) -> None:
    documented = {line.split("`")[1] for line in render().splitlines() if line.startswith("| `")}
    values = load_recipe(name).model_dump(mode="json", by_alias=True, exclude_none=True)
    used = set(_keys(values))
    assert len(used) > 40
    assert used <= documented


def test_rows_state_type_range_default_and_unit() -> None:
    rows = render().splitlines()
    for expected in (
        "| `batch.row_tokens` | quantity > 2 | required | tokens |",
        "| `checkpoint.every_minutes` | number > 0 |  | minutes |",
        "| `tokenizer.vocab_size` | quantity > 300 | `256k` | tokens |",
        "| `guard.spike_threshold` | number > 0, or `null` | `8` |  |",
        "| `phases.NAME.rotary_bases.global` | number > 1 | required |  |",
        "| `optimizer.betas` | list of 2 numbers | `[0.9, 0.95]` |  |",
    ):
        assert any(row.startswith(expected) for row in rows), expected


def _keys(values: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a recipe, except names that the user chooses."""
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        yield dotted
        if dotted in ("data.sources.NAME.tokens", "variants.NAME.overrides"):
            continue
        if isinstance(value, dict):
            yield from _keys(value, f"{dotted}.")
        for entry in value if isinstance(value, list) else ():
            if isinstance(entry, dict):
                yield from _keys(entry, f"{dotted}.NAME.")
