"""Differences between recipes."""

from mmbert.recipe.flat import flatten
from mmbert.report.recipe_changes import Change, changes


def test_entries_of_lists_go_by_name() -> None:
    before = {"phases": [{"name": "a", "tokens": 1}, {"name": "b", "tokens": 2}], "betas": [1, 2]}
    assert flatten(before) == {
        "phases.a.name": "a", "phases.a.tokens": 1, "phases.b.name": "b", "phases.b.tokens": 2,
        "betas": [1, 2],
    }  # fmt: skip
    after = {"phases": [{"name": "b", "tokens": 3}], "betas": [1, 3]}
    assert changes(before, after) == [
        Change("phases.b.tokens", "2", "3"),
        Change("betas", "[1, 2]", "[1, 3]"),
        Change("phases.a.name", "a", "–"),
        Change("phases.a.tokens", "1", "–"),
    ]
    assert changes(before, before) == []


def test_of_long_lists_only_the_difference_is_shown() -> None:
    names = [f"l{number}" for number in range(1000)]
    (change,) = changes({"languages": names}, {"languages": [*names[1:], "new"]})
    assert change.before == "1000 entries, 1 of them only here: l0"
    assert change.after == "1000 entries, 1 of them only here: new"


def test_long_values_are_cut() -> None:
    (change,) = changes({"a": 1}, {"a": "x" * 5000})
    assert len(change.after) < 400
