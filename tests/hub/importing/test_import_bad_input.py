"""Failed imports name the file and tensor and leave no output."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM

from mmbert.errors import UserError
from mmbert.hub.importing.import_model import import_model
from tests.support.external_model import EMBEDDING, stored
from tests.support.tokenizers import byte_level_tokenizer, save_tokenizer


def _rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = stored(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _configure(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _training_state_only(folder: Path) -> None:
    torch.save(stored(folder), folder / "optimizer.pt")
    (folder / "model.safetensors").unlink()


def _cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _add_a_token(folder: Path) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(["makubwa"])
    save_tokenizer(folder, tokenizer)


def _set_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.Wi.weight"][3, 4] = float("nan")


ODD_LAYERS = ["full_attention"] * 5 + ["sliding_attention"]
SCALED = {"full_attention": {"rope_type": "yarn", "rope_theta": 1e4}}
BAD_INPUT: list[tuple[str, Callable[[Path], object], str]] = [
    ("no config", lambda f: (f / "config.json").unlink(), "has no config.json"),
    ("config not JSON", lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
    ("other architecture", lambda f: _configure(f, model_type="bert"), "model_type is 'bert'"),
    ("other activation", lambda f: _configure(f, hidden_activation="silu"), "hidden_activation"),
    ("head activation", lambda f: _configure(f, classifier_activation="silu"), "classifier_act"),
    ("biases", lambda f: _configure(f, norm_bias=True), "norm_bias is True"),
    ("untied", lambda f: _configure(f, tie_word_embeddings=False), "tie_word_embeddings"),
    ("no width", lambda f: _configure(f, hidden_size="wide"), "hidden_size is 'wide'"),
    ("odd layers", lambda f: _configure(f, layer_types=ODD_LAYERS), "layer_types"),
    ("scaled rotary", lambda f: _configure(f, rope_parameters=SCALED), "unsupported RoPE"),
    ("no weights", lambda f: (f / "model.safetensors").unlink(), "has no weights"),
    ("training state", _training_state_only, "no weights .*; optimizer.pt is not one of"),
    ("cut short", _cut_short, r"cannot read .*model.safetensors"),
    (
        "missing tensor",
        lambda f: _rewrite(f, lambda t: t.pop("model.layers.2.attn.Wo.weight")),
        "tensor model.layers.2.attn.Wo.weight is missing",
    ),
    (
        "wrong shape",
        lambda f: _rewrite(f, lambda t: t.update({"head.norm.weight": torch.ones(63)})),
        r"head.norm.weight has shape \[63\]; config.json requires \[64\]",
    ),
    (
        "foreign tensor",
        lambda f: _rewrite(f, lambda t: t.update({"classifier.weight": torch.ones(2, 64)})),
        "unexpected tensor classifier.weight",
    ),
    (
        "decoder differs from embedding",
        lambda f: _rewrite(f, lambda t: t.update({"decoder.weight": t[EMBEDDING] + 1})),
        "decoder.weight differs from model.embeddings.tok_embeddings.weight",
    ),
    ("not a number", lambda f: _rewrite(f, _set_nan), r"layers.1.mlp.Wi.weight has 1 non-finite"),
    (
        "quantized",
        lambda f: _rewrite(f, lambda t: t.update({"head.norm.weight": torch.ones(64).char()})),
        "dtype torch.int8",
    ),
    (
        "more tokens than rows",
        _add_a_token,
        r"the tokenizer has \d+ ids, the embedding \d+ rows",
    ),
    (
        "tokenizer's configuration cut short",
        lambda f: (f / "tokenizer_config.json").write_text("{"),
        "tokenizer_config.json cannot be read",
    ),
    ("no tokenizer", lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
    ("no mask", lambda f: (f / "tokenizer_config.json").write_text("{}"), "lacks a special token"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "says"), [case[1:] for case in BAD_INPUT], ids=[case[0] for case in BAD_INPUT]
)
def test_bad_input_is_named_and_nothing_is_left(
    their_folder: Path, tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    shutil.copytree(their_folder, tmp_path / "spoilt")
    spoil(tmp_path / "spoilt")
    with pytest.raises(UserError, match=says) as caught:
        import_model(tmp_path / "spoilt", tmp_path / "out")
    assert "spoilt" in caught.value.message
    assert caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["spoilt"]


def test_a_tied_weight_stored_twice_with_equal_values_is_fine(
    their_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(their_folder, tmp_path / "twice")
    _rewrite(tmp_path / "twice", lambda t: t.update({"decoder.weight": t[EMBEDDING].clone()}))
    import_model(tmp_path / "twice", tmp_path / "out")
    assert "decoder.weight" not in stored(tmp_path / "out")


def test_sharded_weights_and_a_missing_shard(their_folder: Path, tmp_path: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(their_folder)
    save_tokenizer(tmp_path / "sharded", byte_level_tokenizer())
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 1
    import_model(tmp_path / "sharded", tmp_path / "out")
    ours, theirs = stored(tmp_path / "out"), stored(their_folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    missing = sorted((tmp_path / "sharded").glob("model-*.safetensors"))[0]
    missing.unlink()
    with pytest.raises(UserError, match=missing.name):
        import_model(tmp_path / "sharded", tmp_path / "again")
