"""Every key of a recipe with values at and beyond its ends: refused with the key, or accepted."""

import typing
from collections.abc import Iterator
from typing import Any

import annotated_types
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mmbert.errors import RecipeError
from mmbert.recipe import Recipe, load_recipe
from tests.support.environment import ROOT

RECIPE = ROOT / "tests" / "fixtures" / "kept" / "recipe.yaml"
NOT_NUMBERS = [".nan", ".inf", "-.inf", "-1", "1e400", "9" * 30, "''", "x", "[]", "{}"]
# An entry of each list of sections, and what a section needs besides the key.
BESIDE = {
    "data.sources.text": ["data.sources=[{name: text}]"],
    "data.masking.spans": ["data.masking.spans={mean: 3, limit: 10}"],
    "batch.growth": ["batch.growth={tokens: 3k, from_rows: 4}", "batch.rows=8"],
    "phases.pretrain.predicted_share": [
        "phases.pretrain.objective=causal", "phases.pretrain.mask_ratio=null"
    ],
    "merge": ["variants=[{name: v, branch_from: pretrain, overrides: {}}]",
              "merge={method: linear, variants: [main, v]}"],
}  # fmt: skip
NAMES = {"phases": "phases.pretrain", "data.sources": "data.sources.text"}


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    for part in (annotation, *typing.get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield part


def _holds_number(annotation: Any) -> bool:
    parts = (annotation, *typing.get_args(annotation))
    return any(part in (int, float) for part in parts) or any(
        _holds_number(part) for part in parts[1:]
    )


def _numbers(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted key and the field of every number of a recipe."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        sections = list(_sections(field.annotation))
        if sections and key != "variants":
            for section in sections:
                yield from _numbers(section, f"{NAMES.get(key, key)}.")
        elif _holds_number(field.annotation) and not isinstance(field.annotation, dict):
            yield key, field


KEYS = dict(_numbers())


def _beside(key: str) -> list[str]:
    return next((given for start, given in BESIDE.items() if f"{key}.".startswith(f"{start}.")), [])


def _error(key: str, value: str) -> str | None:
    """Return the message for a value of a key; None if it is accepted."""
    if KEYS[key].annotation == tuple[float, ...] or "betas" in key or "weights" in key:
        value = f"[{value}, 0.5]"
    elif key.endswith("sources.text.tokens"):
        value = f"{{pretrain: {value}, extension: 1, decay: 1}}"
    try:
        load_recipe(RECIPE, [*_beside(key), f"{key}={value}"])
    except RecipeError as error:
        return error.message
    return None


def test_keys_are_found() -> None:
    assert len(KEYS) > 50
    assert {"phases.pretrain.mask_ratio", "data.sources.text.tokens", "merge.density"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_what_is_not_a_number_of_the_range_is_refused(key: str) -> None:
    for value in NOT_NUMBERS:
        message = _error(key, value)
        if value == "9" * 30 and not _has_upper_end(key):
            continue
        assert message is not None, f"{key}={value} is accepted"
        assert key.removesuffix("s") in message or key.rpartition(".")[0] in message, message


def _has_upper_end(key: str) -> bool:
    """Return whether a number has an upper end; some rates and bases have none but infinity."""
    open_ended = ("clipping", "threshold", "bases", "group_learning_rates")
    ends = ("learning_rate", "peak", "merge.weights", "max_epochs")
    return not key.endswith(ends) and all(word not in key for word in open_ended)


@pytest.mark.parametrize("key", KEYS)
def test_an_end_is_inside_or_outside_as_stated(key: str) -> None:
    parts = typing.get_args(KEYS[key].annotation)
    inner = [entry for part in parts for entry in getattr(part, "__metadata__", ())]
    inner = [limit for entry in inner if isinstance(entry, FieldInfo) for limit in entry.metadata]
    for limit in [*KEYS[key].metadata, *inner]:
        for kind, attribute, step, inside in (
            (annotated_types.Gt, "gt", 0, False),
            (annotated_types.Lt, "lt", 0, False),
            (annotated_types.Ge, "ge", -1, False),
            (annotated_types.Le, "le", 1, False),
        ):
            if isinstance(limit, kind):
                value = getattr(limit, attribute) + step
                message = _error(key, str(value))
                assert (message is None) == inside, f"{key}={value}: {message}"
                assert key in str(message)


@pytest.mark.parametrize(
    "override",
    [
        "phases.pretrain=[", "seed=" + "9" * 5000, "phases.pretrain.tokens=1e999999999",
        "variants=3",
        "phases.pretrain.languages={names: 3, file: mmbert-60}", "model.preset=[1]",
        "model.preset={}", "seed=\x00", "x=" + "[" * 2000, "name=''", "tokenizer.path=''",
        "initial_checkpoint=' '", "data.sources.text.path=/x",
        "variants=[{name: ../a, branch_from: pretrain, overrides: {}}]", "phases=[]", "phases=x",
        "merge={method: ties, variants: [nothing, main]}", "merge={method: linear}", "a.b.c=1",
        "phases.pretrain.languages.file=[1]", "data.sources=[{}]", "=1", "seed", "1=2",
    ],
    ids=lambda text: text[:30].replace("\x00", "NUL"),
)  # fmt: skip
def test_odd_overrides_are_refused(override: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(RECIPE, [override])
    assert error.value.remedy
    assert len(error.value.message) < 600
