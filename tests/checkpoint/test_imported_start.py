"""Step of the plan at which a run continues from an imported training state."""

from pathlib import Path
from typing import Any

import pytest

from mmbert.checkpoint.imported_start import ImportedStart, imported_start
from mmbert.checkpoint.imported_state import ImportedState, read_imported_state
from mmbert.errors import UserError
from mmbert.recipe import Recipe
from mmbert.schedule import training_plan

PHASE = {
    "context": 64, "languages": "all", "temperature": 0.5, "mask_ratio": 0.3,
    "rotary_bases": {"global": 160_000, "local": 10_000},
}  # fmt: skip


def recipe_with(**changes: Any) -> Recipe:
    """Two phases of 16 and 8 steps of 256 tokens, the first with a batch-size warm-up."""
    values: dict[str, Any] = {
        "name": "tiny",
        "precision": "float32",
        "model": {
            "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 4,
            "num_attention_heads": 2, "attention_output_dropout": 0.0,
        },
        "batch": {"row_tokens": 64, "rows": 4, "quantum": 2},
        "optimizer": {"learning_rate": 8e-3, "weight_decay": 8e-5},
        "phases": [
            {"name": "pretrain", "tokens": 4096, **PHASE},
            {"name": "decay", "tokens": 2048, **PHASE},
        ],
    }  # fmt: skip
    return Recipe.model_validate(values | changes)


def state_with(**changes: Any) -> ImportedState:
    optimizer = {
        "name": "stable_adamw", "steps": 10, "learning_rate": 8e-3, "next_learning_rate": 8e-3,
        "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 8e-5,
    } | changes.pop("optimizer", {})  # fmt: skip
    values = {
        "source": "Composer checkpoint ep0-ba10-rank0.pt", "phase": "pretrain", "tokens": 2560,
        "counted_from": "run", "attention_output_dropout": 0.0, "files": {},
    } | changes  # fmt: skip
    return ImportedState.model_validate(values | {"optimizer": optimizer})


def start_with(recipe: Recipe | None = None, **changes: Any) -> ImportedStart:
    recipe = recipe or recipe_with()
    return imported_start(recipe, training_plan(recipe), Path("imported"), state_with(**changes))


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"tokens": 0}, 0),
        ({"tokens": 2560}, 10),
        ({"tokens": 2560 + 127}, 10),
        ({"tokens": 2560 + 129}, 11),
        ({"tokens": 4096}, 16),  # the end of a phase: the next one begins
        ({"tokens": 4096 + 200}, 16),  # the last batch went over
        ({"phase": "decay", "tokens": 4096 + 512}, 18),
        ({"phase": "decay", "tokens": 512, "counted_from": "phase"}, 18),
        ({"phase": "decay", "tokens": 0, "counted_from": "phase"}, 16),
    ],
)
def test_the_nearest_step_within_the_phase(changes: dict[str, Any], step: int) -> None:
    assert start_with(**changes).step == step


def test_steps_of_a_batch_size_warm_up_are_smaller() -> None:
    batch = {"row_tokens": 64, "rows": 4, "quantum": 2, "growth": {"tokens": 512, "from_rows": 2}}
    recipe = recipe_with(batch=batch)
    assert training_plan(recipe).at(4).tokens_before == 512
    assert start_with(recipe, tokens=500).step == 4
    assert start_with(recipe, tokens=512 + 256).step == 5


def test_the_difference_is_said() -> None:
    start = start_with(tokens=2600)
    assert "at step 10 of 24 (phase 'pretrain')" in start.description
    assert "2,560 tokens of phase 'pretrain' by the plan, 2,600 in the state (-40)" in (
        start.description
    )
    assert "optimizer step 10" in start.description
    assert start.warnings == ()


def test_the_end_of_the_last_phase_leaves_nothing_to_train() -> None:
    with pytest.raises(UserError, match="nothing is left to train"):
        start_with(phase="decay", tokens=2048, counted_from="phase")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"phase": None}, "does not say from which phase; the recipe's phases: pretrain, decay"),
        ({"phase": "extension"}, "is from 'extension'; the recipe's phases: pretrain, decay"),
        ({"tokens": 4096 + 300}, "4,396 tokens, counted from the start of the run"),
        ({"phase": "decay", "tokens": 512}, "-3,584 in phase 'decay', which has 2,048"),
        ({"optimizer": {"learning_rate": 4e-3}}, r"optimizer.learning_rate is 0.008, but .* 0.004"),
        ({"optimizer": {"betas": (0.9, 0.98)}}, r"optimizer.betas is \(0.9, 0.95\)"),
        ({"optimizer": {"eps": 1e-6}}, "optimizer.eps is 1e-08"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        start_with(**changes)
    assert "imported" in caught.value.message
    assert caught.value.remedy


def test_another_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match=r"optimizer\.name is adamw"):
        start_with(recipe_with(optimizer={"name": "adamw", "learning_rate": 8e-3}))


def test_settings_that_may_differ_are_warned_of() -> None:
    start = start_with(
        attention_output_dropout=0.1, optimizer={"next_learning_rate": 7e-3, "weight_decay": 1e-5}
    )
    rate, decay, dropout = start.warnings
    assert "learning rate 0.008 of the plan at step 10" in rate
    assert "had 0.007 (Composer's rate lags one step; here it does not)" in rate
    assert "weight decay 8e-05 of the recipe; the imported state had 1e-05" in decay
    assert "attention output dropout 0 of the recipe" in dropout


def test_rates_of_groups_are_no_hindrance_but_said() -> None:
    """The moments depend on no rate; the one that scales the decay must be the state's."""
    rates = {"matrices": 2e-3, "embedding": 1e-2}
    grouped = recipe_with(optimizer={"learning_rate": 8e-3, "weight_decay": 8e-5,
                                     "group_learning_rates": rates})  # fmt: skip
    (warning,) = start_with(grouped).warnings
    assert "the recipe's groups of parameters (matrices, embedding)" in warning
    other = recipe_with(optimizer={"learning_rate": 2e-3, "group_learning_rates": {"rest": 8e-3}})
    with pytest.raises(UserError, match=r"optimizer\.learning_rate is 0\.002"):
        start_with(other)


def test_the_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    state_with().write(tmp_path)
    assert read_imported_state(tmp_path) == state_with()
    (tmp_path / "training_state.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"training_state\.json is invalid"):
        read_imported_state(tmp_path)
