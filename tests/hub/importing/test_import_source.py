"""Imports are checked against the given model, and settings that could change it are refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, ModernBertConfig, PretrainedConfig

import mmbert.hub.model_source
from mmbert.errors import ModelError
from mmbert.hub.configuration import HuggingFaceModel, read_configuration, rotary_bases
from mmbert.hub.importing.import_model import import_model
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.hub.verification import TOLERANCE
from mmbert.recipe import ModelSettings
from tests.support.external_model import external_model, stored
from tests.support.tokenizers import byte_level_tokenizer, save_tokenizer

SIZES: dict[str, Any] = {
    "model_type": "modernbert", "vocab_size": 400, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 512,
}  # fmt: skip
EVERY_SECOND = ["full_attention", "sliding_attention"] * 2
ROTARY = {
    "full_attention": {"rope_type": "default", "rope_theta": 30_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 700.0},
}
OLD_ROTARY = {"global_rope_theta": 30_000.0, "local_rope_theta": 700.0}


def read(folder: Path, **keys: object) -> HuggingFaceModel:
    (folder / "config.json").write_text(json.dumps(SIZES | keys))
    return read_configuration(folder)


@pytest.mark.parametrize(
    "spellings",
    [
        ({"local_attention": 16}, {"sliding_window": 8},
         {"local_attention": 16, "sliding_window": 8}),
        ({"global_attn_every_n_layers": 2}, {"layer_types": EVERY_SECOND},
         {"global_attn_every_n_layers": 2, "layer_types": EVERY_SECOND}),
        (OLD_ROTARY, {"rope_parameters": ROTARY}, OLD_ROTARY | {"rope_parameters": ROTARY}),
        ({"global_rope_theta": 5e4, "local_rope_theta": 5e4},
         {"global_rope_theta": 5e4, "local_rope_theta": None}),
    ],
    ids=["window", "layers", "rotary bases", "one base"],
)  # fmt: skip
def test_all_spellings_mean_the_same(tmp_path: Path, spellings: tuple[dict[str, object]]) -> None:
    found = [read(tmp_path, **keys) for keys in spellings]
    assert found[0] != read(tmp_path)
    assert found[1:] == found[:-1]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        # A half window of 4 beside a window of 16.
        ({"local_attention": 16, "sliding_window": 4}, "sliding_window 4 .* local_attention 16"),
        ({"sliding_window": None}, "sliding_window is None"),
        ({"global_attn_every_n_layers": 3, "layer_types": EVERY_SECOND},
         "layer_types contradicts global_attn_every_n_layers 3"),
        ({"global_rope_theta": 160_000, "rope_parameters": ROTARY},
         "rope_theta 30000 in rope_parameters contradicts global_rope_theta 160000"),
        ({"local_rope_theta": 10_000, "rope_parameters": ROTARY},
         "rope_theta 700 in rope_parameters contradicts local_rope_theta 10000"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}},
         "unsupported RoPE"),
        ({"attention_logit_cap": 30.0}, "attention_logit_cap is 30.0; it is unknown"),
        ({"quantization_config": {"bits": 8}}, "quantization_config is"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is"),
    ],
)  # fmt: skip
def test_contradictions_and_unknown_keys_are_refused(
    tmp_path: Path, keys: dict[str, object], says: str
) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        read(tmp_path, **keys)
    assert str(tmp_path / "config.json") in caught.value.message


def test_every_key_that_transformers_writes_is_known(tmp_path: Path) -> None:
    written = PretrainedConfig().to_dict() | ModernBertConfig(**SIZES).to_dict()
    read(tmp_path, **json.loads(json.dumps(written, default=str)))


def test_logits_of_the_given_model_are_compared(their_folder: Path, tmp_path: Path) -> None:
    report = import_model(their_folder, tmp_path / "out")
    assert 0 < report.source.relative <= TOLERANCE
    (line,) = (line for line in report.lines() if "the given model" in line)
    assert f"maximum difference {report.source.max_difference:.2e}" in line


@pytest.mark.parametrize("kind", ["plain", "new tokenizer", "smaller"])
def test_other_logits_than_the_given_model_has_fail_the_import(
    their_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The written folder agrees with the encoder; only the given model shows the mistake."""
    options: dict[str, Any] = {}
    if kind == "new tokenizer":
        save_tokenizer(tmp_path / "tokenizer", byte_level_tokenizer())
        options["tokenizer"] = tmp_path / "tokenizer"
    elif kind == "smaller":
        options["sizes"] = ModelSettings(
            hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2
        )

    def misread(folder: Path) -> HuggingFaceModel:
        return replace(read_configuration(folder), rotary_bases=rotary_bases(30_000, 600))

    monkeypatch.setattr(mmbert.hub.model_source, "read_configuration", misread)
    with pytest.raises(ModelError, match="has other logits in transformers") as caught:
        import_model(their_folder, tmp_path / "parent" / "out", **options)
    assert str(their_folder) in caught.value.message
    assert not (tmp_path / "parent").exists()


def test_a_model_that_transformers_cannot_load_is_named(their_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(their_folder, tmp_path / "given")
    path = tmp_path / "given" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": 5}))
    with pytest.raises(ModelError, match=r"transformers .* cannot load .*given"):
        import_model(tmp_path / "given", tmp_path / "out")
    assert [folder.name for folder in tmp_path.iterdir()] == ["given"]


def test_saved_padding_and_truncation_are_set_aside(tmp_path: Path) -> None:
    plain = external_model(tmp_path / "plain")
    padded = tmp_path / "padded"
    shutil.copytree(plain, padded)
    tokenizer = AutoTokenizer.from_pretrained(padded)
    tokenizer(["some text"], padding="max_length", max_length=64, truncation=True)
    tokenizer.save_pretrained(padded)
    saved = json.loads((padded / "tokenizer.json").read_text())
    assert saved["padding"] is not None
    assert saved["truncation"] is not None

    extended = byte_level_tokenizer()
    extended.add_tokens(["conscience_of_all", "brotherhood<>"])
    save_tokenizer(tmp_path / "extended", extended)
    for folder, out in ((plain, "one"), (padded, "two")):
        import_model(folder, tmp_path / out, tokenizer=tmp_path / "extended")
    one, two = stored(tmp_path / "one"), stored(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)

    text = "an old bridge over the river " * 20
    assert FastTokenizer(padded).encode(text) == FastTokenizer(plain).encode(text)
    assert FastTokenizer(padded).special_ids == FastTokenizer(plain).special_ids
    report = import_model(padded, tmp_path / "out")
    said = f"{padded / 'tokenizer.json'}: saved padding and truncation set aside"
    assert said in list(report.lines())
    written = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert written["padding"] is written["truncation"] is None
    assert written["model"] == saved["model"]
