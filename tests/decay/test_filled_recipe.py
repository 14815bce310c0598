"""The recipe of a decay has the model's sizes and bases, and the optimizer of a state."""

from pathlib import Path

import pytest

from mmbert.checkpoint.imported_state import ImportedOptimizer, ImportedState
from mmbert.decay.filled_recipe import describe_changes, fill_recipe, sources_of
from mmbert.decay.layout import DecayFolder
from mmbert.decay.request import DecayRequest, parse_merge, recipe_checksum
from mmbert.errors import RecipeError
from mmbert.hub.configuration import HuggingFaceModel, rotary_bases
from mmbert.model.config import EncoderConfig
from mmbert.recipe import dump_recipe, load_recipe, parse_recipe

MODEL = HuggingFaceModel(
    EncoderConfig(
        vocab_size=1000, hidden_size=64, intermediate_size=96, num_hidden_layers=6,
        num_attention_heads=4, global_attention_every=2, local_window=16, norm_eps=1e-6,
    ),
    rotary_bases(30_000.0, 700.0),
    context=4096,
)  # fmt: skip
STATE = ImportedState(
    source="a state", phase="decay", tokens=0, counted_from="phase",
    optimizer=ImportedOptimizer(
        name="stable_adamw", steps=7, learning_rate=3e-3, next_learning_rate=2e-3,
        betas=(0.8, 0.9), eps=1e-6, weight_decay=1e-5,
    ),
    attention_output_dropout=0.2, files={},
)  # fmt: skip


def request_for(*overrides: str, old: str | None = "old", **changes: object) -> DecayRequest:
    values: dict[str, object] = {
        "model": "m", "state": None, "onto": None,
        "merge": parse_merge(None, state=False, onto=False), "input": "new", "old": old,
        "languages": (), "tokens": None, "recipe": "your-decay", "overrides": overrides,
        "recipe_checksum": recipe_checksum("your-decay", overrides), "preprocess": (),
        "preprocess_old": (),
    }  # fmt: skip
    return DecayRequest.model_validate(values | changes)


FOLDER = DecayFolder(Path("/somewhere/out"))


def test_the_packaged_recipe_is_phase_three_of_mmbert() -> None:
    """Its values are mmBERT's where the file does not say that they are its own."""
    own, theirs = load_recipe("your-decay").phases[0], load_recipe("mmbert-base").phases[-1]
    for key in ("context", "temperature", "mask_ratio", "rotary_bases"):
        assert getattr(own, key) == getattr(theirs, key), key
    assert own.learning_rate.shape == theirs.learning_rate.shape == "one_minus_sqrt"
    assert own.learning_rate.final == theirs.learning_rate.final
    assert load_recipe("your-decay").data.masking == load_recipe("mmbert-base").data.masking


def test_sizes_bases_context_and_tokens_are_filled_in() -> None:
    request = request_for(tokens=10**9, languages=("swh_Latn",))
    recipe = fill_recipe(request, FOLDER, MODEL, None, ["eng_Latn", "swh_Latn"])
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert recipe.initial_checkpoint == Path("/somewhere/out/imported")
    model = recipe.model
    assert (model.preset, model.vocab_size) == (None, None)
    assert (model.hidden_size, model.intermediate_size, model.num_hidden_layers) == (64, 96, 6)
    assert (model.num_attention_heads, model.global_attention_every) == (4, 2)
    assert (model.local_window, model.norm_eps) == (16, 1e-6)
    (phase,) = recipe.phases
    assert phase.rotary_bases == rotary_bases(30_000.0, 700.0)
    assert (phase.tokens, phase.context) == (10**9, 4096)
    assert phase.languages.names == ("eng_Latn", "swh_Latn")
    assert phase.learning_rate.warmup == 100_000_000
    assert [source.name for source in recipe.data.sources] == ["new", "old"]
    assert "context 4,096 instead of 8,192" in " ".join(describe_changes(request, recipe, None))


def test_a_state_sets_its_optimizer_and_omits_the_warmup() -> None:
    recipe = fill_recipe(request_for(state="s.pt"), FOLDER, MODEL, STATE)
    optimizer = recipe.optimizer
    assert (optimizer.learning_rate, optimizer.betas, optimizer.eps) == (3e-3, (0.8, 0.9), 1e-6)
    assert optimizer.weight_decay == 1e-5
    assert recipe.model.attention_output_dropout == 0.2
    assert recipe.phases[0].learning_rate.warmup == 0
    said = " ".join(describe_changes(request_for(state="s.pt"), recipe, STATE))
    assert "learning rate 0.003" in said


def test_overrides_come_last() -> None:
    request = request_for("phases.decay.context=512", "optimizer.weight_decay=0.5", "seed=7")
    recipe = fill_recipe(request, FOLDER, MODEL, STATE)
    assert (recipe.phases[0].context, recipe.optimizer.weight_decay, recipe.seed) == (512, 0.5, 7)


def test_without_old_languages_one_source_is_left() -> None:
    request = request_for("data.sources.old.tokens.decay=50", old=None)
    recipe = fill_recipe(request, FOLDER, MODEL, None)
    assert [source.name for source in recipe.data.sources] == ["new"]
    assert sources_of(request).old is None


def test_any_recipe_of_one_source_serves_without_old_languages() -> None:
    request = request_for(old=None, recipe="adapt", recipe_checksum="")
    assert sources_of(request).new == "text"
    recipe = fill_recipe(request, FOLDER, MODEL, None)
    assert recipe.model.hidden_size == 64
    with pytest.raises(RecipeError, match="adapt has the sources text"):
        sources_of(request_for(recipe="adapt", recipe_checksum=""))
