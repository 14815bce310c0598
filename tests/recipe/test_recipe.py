"""Accepted and rejected recipes, and the error messages."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.errors import UserError
from mmbert.recipe import (
    Phase,
    Recipe,
    dump_recipe,
    format_quantity,
    load_recipe,
    override_recipe,
    parse_quantity,
    parse_recipe,
)
from mmbert.schedule import training_plan
from tests.support.environment import ROOT

RECIPES = ROOT / "src" / "mmbert" / "recipes"

MINIMAL = """
name: minimal
model: {hidden_size: 64, intermediate_size: 96, num_hidden_layers: 2, num_attention_heads: 2}
batch: {row_tokens: 1024, rows: 4, quantum: 2}
optimizer: {learning_rate: 1e-3}
phases:
  - name: pretrain
    tokens: 1M
    context: 128
    languages: all
    temperature: 0.7
    mask_ratio: 0.3
    rotary_bases: {global: 10000, local: 10000}
  - name: decay
    tokens: 100k
    context: 256
    languages: [eng_Latn, deu]
    temperature: {start: 0.5, end: 0.3}
    mask_ratio: 0.05
    rotary_bases: {global: 160000, local: 10000}
"""


def phase_of(recipe: Recipe, name: str) -> Phase:
    return next(phase for phase in recipe.phases if phase.name == name)


@given(st.integers(min_value=0, max_value=10**15))
def test_quantities_are_written_and_read_back_exactly(value: int) -> None:
    assert parse_quantity(format_quantity(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("2.3T", 2_300_000_000_000), ("600B", 600_000_000_000), ("4.5k", 4500), ("1_000", 1000)],
)
def test_quantities_as_people_write_them(text: str, value: int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "abc", "-3", "1.5", "3X", "1.2345k", True, None, [1]])
def test_what_is_no_whole_quantity_is_refused(text: object) -> None:
    with pytest.raises(ValueError):
        parse_quantity(text)


def test_a_dumped_recipe_reads_back_equal() -> None:
    recipe = parse_recipe(MINIMAL)
    assert parse_recipe(dump_recipe(recipe)) == recipe


def test_a_phase_has_the_models_dropout_or_its_own() -> None:
    recipe = parse_recipe(MINIMAL, ["phases.decay.dropout=0"])
    assert [recipe.dropout_in(phase) for phase in recipe.phases] == [0.1, 0.0]
    assert parse_recipe(dump_recipe(recipe)) == recipe
    with pytest.raises(UserError, match=r"phases\.decay\.dropout: .*less than 1"):
        parse_recipe(MINIMAL, ["phases.decay.dropout=1"])


def test_overrides_reach_nested_keys_and_named_entries() -> None:
    recipe = parse_recipe(
        MINIMAL,
        [
            "phases.decay.mask_ratio=0.07",
            "phases.0.tokens=2M",
            "parallel.zero_stage=3",
            "phases.decay.languages=[swh_Latn]",
        ],
    )
    assert phase_of(recipe, "decay").mask_ratio == 0.07
    assert phase_of(recipe, "pretrain").tokens == 2_000_000
    assert recipe.parallel.zero_stage == 3
    assert phase_of(recipe, "decay").languages.names == ("swh_Latn",)


CAUSAL = ["objective=causal", "mask_ratio=null", "predicted_share=0.25"]


def test_a_causal_phase_before_masked_ones_on_the_command_line() -> None:
    recipe = parse_recipe(MINIMAL, [f"phases.pretrain.{override}" for override in CAUSAL])
    first, last = recipe.phases
    assert (first.causal, first.predicted_fraction, first.mask_ratio) == (True, 0.25, None)
    assert (last.causal, last.predicted_fraction) == (False, last.mask_ratio)
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert dump_recipe(recipe).count("objective: causal") == 1
    assert "objective" not in dump_recipe(parse_recipe(MINIMAL))
    for name in ("pretrain", "decay"):
        recipe = override_recipe(
            recipe,
            {f"phases.{name}.{key}": value for key, value in
             {"objective": "causal", "mask_ratio": None, "predicted_share": 1}.items()},
        )  # fmt: skip
    assert all(phase.causal for phase in recipe.phases)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("phases.decay.mask_ration=0.1", ["phases.decay", "mask_ration", "'mask_ratio'"]),
        ("phases.dekay.mask_ratio=0.1", ["dekay", "'decay'"]),
        ("modle.hidden_size=3", ["modle", "'model'"]),
        ("batch.rows=7", ["batch", "rows 7", "quantum 2"]),
        ("model.num_attention_heads=3", ["hidden_size 64", "num_attention_heads 3"]),
        ("parallel.tensor=4", ["parallel.tensor (4)", "num_attention_heads (2)"]),
        ("phases.decay.context=2048", ["phases.decay.context 2048", "row_tokens 1024"]),
        ("phases.decay.tokens=many", ["phases.decay.tokens", "'many'"]),
        ("phases.decay.name=pretrain", ["two entries named 'pretrain'"]),
        ("phases.decay.languages={}", ["phases.decay.languages", "selects no language"]),
        ("data.sources=[{name: a}, {name: b}]", ["'a'", "tokens"]),
        ("data.sources=[{name: a, tokens: {dekay: 1}}]", ["dekay", "'decay'"]),
        ("phases.decay.objective=casual", ["phases.decay.objective", "'masked' or 'causal'"]),
        (
            "phases.pretrain.objective=causal",
            ["phases.pretrain", "mask_ratio is not of", "mask_ratio=null predicted_share="],
        ),
        (
            "phases.pretrain.predicted_share=0.2",
            [
                "phases.pretrain",
                "predicted_share is not of",
                "objective masked",
                "write mask_ratio",
            ],
        ),
        ("phases.decay.mask_ratio=null", ["phases.decay", "requires mask_ratio"]),
        (
            "phases.decay={name: decay, tokens: 1M, context: 512, languages: all, "
            "temperature: 0.3, rotary_bases: {global: 10000, local: 10000}, objective: causal, "
            "predicted_share: 0.2}",
            ["phases.decay is causal after the masked phase 'pretrain'", "to the front"],
        ),
        ("nonsense", ["nonsense", "key=value"]),
        ('initial_checkpoint="a\\0b"', ["zero byte"]),
    ],
)
def test_mistakes_name_the_key_and_the_remedy(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        parse_recipe(MINIMAL, [override])
    for word in words:
        assert word in str(error.value)


def test_a_mistake_in_the_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL.replace("mask_ratio: 0.3", "mask_ratio: 30"), encoding="utf-8")
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if ": 30" in text)
    with pytest.raises(UserError, match=rf"r\.yaml:{line}: phases\.pretrain\.mask_ratio"):
        load_recipe(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe at .*absent"):
        load_recipe(tmp_path / "absent.yaml")
    path = tmp_path / "r.yaml"
    path.write_text(MINIMAL.replace("languages: all", "languages: {file: l.txt}"))
    with pytest.raises(UserError, match=r"language file .*l\.txt"):
        load_recipe(path)
    path.write_text(MINIMAL.replace("languages: all", f"languages: {{file: {'l' * 300}}}"))
    with pytest.raises(UserError, match=r"language file .*lll: File name too long"):
        load_recipe(path)
    path.write_text(MINIMAL.replace("languages: all", "languages: {file: l.txt}"))
    (tmp_path / "l.txt").write_text("# a comment\neng_Latn\nfra  # bare\n")
    assert load_recipe(path).phases[0].languages.names == ("eng_Latn", "fra")


def test_a_bare_code_stands_for_all_scripts() -> None:
    selection = phase_of(parse_recipe(MINIMAL), "decay").languages
    assert selection.includes("deu_Latn", tokens=1, size_bytes=1)
    assert selection.includes("eng_Latn", tokens=1, size_bytes=1)
    assert not selection.includes("eng_Dsrt", tokens=1, size_bytes=1)
    by_size = parse_recipe(MINIMAL, ["phases.decay.languages={minimum_bytes: 2k}"])
    assert phase_of(by_size, "decay").languages.includes("x_Latn", tokens=0, size_bytes=2000)
    assert not phase_of(by_size, "decay").languages.includes("x_Latn", tokens=9, size_bytes=1999)


def test_every_shipped_recipe_loads() -> None:
    for path in RECIPES.glob("*.yaml"):
        training_plan(load_recipe(path))


def test_a_resolved_recipe_needs_no_other_file(tmp_path: Path) -> None:
    """A run's recipe.yaml holds language lists, also of variants, and the tokenizer's full path."""
    path = tmp_path / "mine" / "r.yaml"
    path.parent.mkdir()
    (path.parent / "l.txt").write_text("eng_Latn\nfra\n")
    variants = "variants: [{name: few, branch_from: pretrain, overrides: {%s: l.txt}}]\n"
    path.write_text(
        MINIMAL.replace("languages: all", "languages: {file: l.txt}")
        + "tokenizer: {path: ../tokenizer}\n"
        + variants % "phases.decay.languages.file"
    )
    recipe = load_recipe(path)
    kept = tmp_path / "run" / "recipe.yaml"
    kept.parent.mkdir()
    kept.write_text(dump_recipe(recipe))
    shutil.rmtree(path.parent)
    again = load_recipe(kept)
    assert again == recipe
    assert again.tokenizer.path == tmp_path / "tokenizer"
    few = override_recipe(again, again.variants[0].overrides)
    assert phase_of(few, "decay").languages.names == ("eng_Latn", "fra")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_recipes_and_language_files_with_byte_order_marks(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    text = MINIMAL.replace("languages: all", "languages: {file: l.txt}")
    path.write_bytes(text.encode(encoding))
    (tmp_path / "l.txt").write_bytes("swh_Latn\r\nyor_Latn\r\n".encode(encoding))
    assert load_recipe(path).phases[0].languages.names == ("swh_Latn", "yor_Latn")
