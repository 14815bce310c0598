"""Initial checkpoints that do not match recipe or shards are rejected before training starts."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbert.errors import UserError
from mmbert.model.initial_checkpoint import InitialCheckpoint
from mmbert.training.run_config import RunConfig, print_plan, resolve_run_config
from tests.support import small_run
from tests.support.small_run import options_for, write_initial_checkpoint

# Phases of so few steps that the recipe itself is warned of would hide other warnings.
LONG = ("phases.extension.tokens=12k", "phases.decay.tokens=12k")
SAME_BASES = "phases.pretrain.rotary_bases={global: 160000, local: 160000}"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run.write_inputs(tmp_path_factory.mktemp("inputs"))


def resolve(
    inputs: Path, tmp_path: Path, *overrides: str, rows: int = 256, **changes: Any
) -> RunConfig:
    """Prepare a run from initial weights whose config.json has `changes`."""
    table = {"model.embeddings.tok_embeddings.weight": torch.zeros(rows, 32)}
    folder = tmp_path / "imported"
    if not folder.exists():
        write_initial_checkpoint(folder, inputs, table, **changes)
    options = options_for(
        inputs, tmp_path / "run", f"initial_checkpoint={folder}", SAME_BASES, *LONG, *overrides
    )
    return resolve_run_config(options, 1)


def test_what_suits_begins_without_a_word(inputs: Path, tmp_path: Path) -> None:
    ready = resolve(inputs, tmp_path)
    assert ready.warnings == ()
    assert ready.encoder.vocab_size == 256


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"local_attention": 18}, "local_window is 16 instead of 18"),
        ({"norm_eps": 1e-6}, "norm_eps is 1e-05 instead of 1e-06"),
        ({"global_attn_every_n_layers": 2}, "global_attention_every is 3 instead of 2"),
        ({"num_attention_heads": 4}, "num_attention_heads is 2 instead of 4"),
        ({"hidden_activation": "silu"}, "hidden_activation is gelu instead of silu"),
        ({"classifier_activation": "silu"}, "classifier_activation is gelu instead of silu"),
        (
            {"hidden_size": 64, "norm_bias": True},
            "hidden_size is 32 instead of 64; norm_bias is False",
        ),
        ({"global_rope_theta": 10**400}, "global_rope_theta is not a positive number"),
        ({"local_rope_theta": True}, "local_rope_theta is not a positive number"),
        ({"vocab_size": -1}, "vocab_size is not a positive number"),
        ({"mask_token_id": 3}, "mask_token_id is 3, but the shards' mask token is 4"),
    ],
)
def test_another_function_is_refused(
    inputs: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says) as error:
        resolve(inputs, tmp_path, **changes)
    assert str(tmp_path / "imported") in error.value.message
    assert error.value.remedy


def test_other_rotary_bases_are_warned_of(inputs: Path, tmp_path: Path) -> None:
    """They may be intended: a phase with a longer context has larger bases."""
    ready = resolve(inputs, tmp_path, local_rope_theta=10_000.0)
    (warning,) = ready.warnings
    assert "rotary_bases.local of the first phase is 160000" in warning
    assert "trained with 10000" in warning
    text = io.StringIO()
    print_plan(ready, 1, text)
    assert f"# warning: {warning}" in text.getvalue()


def test_another_tokenizer_of_the_same_size_is_refused(inputs: Path, tmp_path: Path) -> None:
    """The shapes match but the ids differ, which nothing else would detect."""
    resolve(inputs, tmp_path)
    path = tmp_path / "imported" / "tokenizer.json"
    definition = json.loads(path.read_text())
    vocabulary = definition["model"]["vocab"]
    vocabulary["token 7"], vocabulary["token 9"] = 9, 7
    path.write_text(json.dumps(definition))
    with pytest.raises(UserError, match=r"different tokenizers: .* differ in id 7") as error:
        resolve(inputs, tmp_path)
    assert "TOKENIZER=" in error.value.remedy
    assert "--tokenizer" in error.value.remedy


def test_rows_that_no_token_uses_stay(inputs: Path, tmp_path: Path) -> None:
    """Many published models pad their vocabulary."""
    assert resolve(inputs, tmp_path, rows=320).encoder.vocab_size == 320


def test_a_vocabulary_size_in_the_recipe_must_be_the_number_of_rows(
    inputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="vocab_size is 256 instead of 320"):
        resolve(inputs, tmp_path, "model.vocab_size=256", rows=320)


def test_fewer_rows_than_tokens_are_refused(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has the id 255, .* only 200 rows"):
        resolve(inputs, tmp_path, rows=200)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", None, "cannot read"),
        ("config.json", "{", "cannot read"),
        ("config.json", "[]", "is not a JSON object"),
        ("config.json", '{"model_type": "modernbert"}', "lacks the key"),
        ("tokenizer.json", None, "cannot read"),
        ("tokenizer.json", '{"model": {}}', "no vocabulary in"),
    ],
)
def test_a_folder_that_import_did_not_write(
    inputs: Path, tmp_path: Path, file: str, content: str | None, says: str
) -> None:
    resolve(inputs, tmp_path)
    path = tmp_path / "imported" / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=says) as error:
        resolve(inputs, tmp_path)
    assert str(path) in error.value.message
    assert "mmbert import" in error.value.remedy


def test_a_unigram_tokenizers_list_is_a_vocabulary_too(tmp_path: Path, inputs: Path) -> None:
    resolve(inputs, tmp_path)
    definition = {
        "model": {"vocab": [["a", -1.0], ["b", -2.0]]},
        "added_tokens": [{"content": "<mask>", "id": 2}],
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(definition))
    given = InitialCheckpoint(tmp_path / "imported")
    assert given._vocabulary(path) == {"a": 0, "b": 1, "<mask>": 2}
