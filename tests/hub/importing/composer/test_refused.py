"""Composer checkpoints that cannot be imported: the cause is named and nothing is left."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmbert.errors import UserError
from mmbert.hub.importing.composer.import_checkpoint import (
    ComposerImportOptions,
    import_composer_checkpoint,
)
from tests.support.composer import EARLIER, changed_checkpoint, configured, integer_keys

State = dict[str, Any]


def _in_tensor(key: str, change: Callable[[torch.Tensor], object]) -> Callable[[State], object]:
    def changed(state: State) -> None:
        state["model"][key] = state["model"][key].clone()
        change(state["model"][key])

    return changed


def _in_optimizer(change: Callable[[State], object]) -> Callable[[State], object]:
    return lambda state: change(state["optimizers"]["StableAdamW"])


def _moment(name: str, moment: str, value: torch.Tensor | None) -> Callable[[State], object]:
    return _in_optimizer(lambda saved: saved["state"][name].update({moment: value}))


def _group(number: int, **changes: Any) -> Callable[[State], object]:
    return _in_optimizer(lambda saved: saved["param_groups"][number].update(changes))


NORM, DENSE = "model.bert.final_norm.weight", "model.head.dense.weight"
BAD: list[tuple[str, Callable[[State], object], str]] = [
    ("other architecture", configured(model_type="mpt"), "model_type is 'mpt'"),
    ("other attention", configured(attention_layer="base"), "attention_layer is 'base'"),
    ("plain BERT", lambda s: s["integrations"]["huggingface"]["model"]["config"].update(
        content={"model_type": "bert"}), "attention_layer is None"),
    ("a decoder", configured(causal_mask=True), "causal_mask is True"),
    ("post-norm", configured(bert_layer="postnorm"), "bert_layer is 'postnorm'"),
    ("no glu", configured(mlp_layer="mlp"), "mlp_layer is 'mlp'"),
    ("RMS norm", configured(normalization="rmsnorm"), "normalization is 'rmsnorm'"),
    ("biased norms", configured(norm_kwargs={"eps": 1e-5}), "norm_kwargs.bias"),
    ("biased layers", configured(attn_qkv_bias=True), "attn_qkv_bias is True"),
    ("head's activation", configured(head_pred_act="silu"), "head_pred_act is 'silu'"),
    ("partial rotary", configured(rotary_emb_dim=8), "rotary_emb_dim is 8"),
    ("first norm", configured(skip_first_prenorm=False), "skip_first_prenorm is False"),
    ("untied", configured(tie_word_embeddings=False), "tie_word_embeddings is False"),
    ("other first layer", configured(initial_mlp_layer="mlp"), "initial_mlp_layer is 'mlp'"),
    ("local layers alone", configured(global_attn_every_n_layers=-1), "global_attn_every_n"),
    ("no width", configured(hidden_size="wide"), "hidden_size is 'wide'"),
    ("missing tensor", lambda s: s["model"].pop(NORM), "model.final_norm.weight is missing"),
    ("no embedding", lambda s: s["model"].pop("model.bert.embeddings.tok_embeddings.weight"),
     "tok_embeddings.weight is missing"),
    ("foreign tensor", lambda s: s["model"].update({"model.pooler.weight": torch.ones(2)}),
     "unexpected tensor pooler.weight"),
    ("wrong shape", lambda s: s["model"].update({NORM: torch.ones(31)}),
     r"final_norm.weight has shape \[31\]"),
    ("quantized", lambda s: s["model"].update({NORM: torch.ones(32).char()}), "torch.int8"),
    ("not tied", _in_tensor("model.decoder.weight", lambda t: t[3, 4].add_(1)),
     "decoder.weight differs from model.embeddings.tok_embeddings.weight"),
    ("not finite", _in_tensor(DENSE, lambda t: t[0, 0].fill_(math.nan)),
     "head.dense.weight has 1 non-finite"),
    ("other optimizer", lambda s: s.update(optimizers={"DecoupledAdamW": {}}),
     "the optimizer is DecoupledAdamW, not StableAdamW"),
    ("malformed optimizer", lambda s: s["optimizers"].update(StableAdamW={"state": {}}),
     "optimizer state is malformed"),
    ("no state", _in_optimizer(lambda saved: saved["state"].pop(NORM)),
     "no state of model.final_norm.weight"),
    ("moment of another shape", _moment(NORM, "exp_avg", torch.ones(3)),
     r"exp_avg of model.final_norm.weight is torch.float32\[3\]"),
    ("moment in half", _moment(NORM, "exp_avg_sq", torch.ones(32).half()), r"torch.float16\[32\]"),
    ("no moment", _moment(NORM, "exp_avg", None), "exp_avg of model.final_norm.weight is NoneType"),
    ("infinite moment", _moment(NORM, "exp_avg", torch.full((32,), math.inf)),
     "exp_avg of model.final_norm.weight has 32 non-finite"),
    ("negative square", _moment(NORM, "exp_avg_sq", -torch.ones(32)), "has negative values"),
    ("decayed norms", _group(0, weight_decay=1e-5), "weight decay 1e-05 applies to"),
    ("steps differ", _group(1, step=torch.tensor(9)), "optimizer's step differs between groups"),
    ("no beta", _group(1, beta1=None), "optimizer's beta1 is None"),
    ("optimizer started anew", _in_optimizer(lambda saved: [
        group.update(step=torch.tensor(4)) for group in saved["param_groups"]]),
     "at batch 10, but its optimizer at step 4"),
    ("numbers that do not fit", lambda s: (integer_keys(s), s["optimizers"]["StableAdamW"][
        "param_groups"][0]["params"].pop()), r"numbers 10 \+ 18 parameters"),
    ("a tokenizer of bytes", lambda s: s["integrations"]["huggingface"]["tokenizer"][
        "tokenizer.json"].update(content=3), "tokenizer.json is int"),
    ("no mask token", lambda s: [s["integrations"]["huggingface"]["tokenizer"].pop(name) for name in
     ("special_tokens_map.json", "tokenizer_config.json")], "lacks a special token"),
    ("no tokenizer", lambda s: s["integrations"]["huggingface"].pop("tokenizer"),
     "holds no tokenizer"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spoil", "says"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_what_cannot_be_imported_is_named_and_nothing_is_left(
    tmp_path: Path, spoil: Callable[[State], object], says: str
) -> None:
    path = changed_checkpoint(tmp_path / "spoilt.pt", spoil)
    with pytest.raises(UserError, match=says) as caught:
        import_composer_checkpoint(path, tmp_path / "out", ComposerImportOptions(phase="decay"))
    assert "spoilt.pt" in caught.value.message
    assert caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["spoilt.pt"]


def test_more_tokens_than_rows(imported: Path, tmp_path: Path) -> None:
    files = tmp_path / "more"
    shutil.copytree(imported, files)
    definition = json.loads((files / "tokenizer.json").read_text())
    definition["model"]["vocab"]["w1000"] = 128
    (files / "tokenizer.json").write_text(json.dumps(definition))
    options = ComposerImportOptions(weights_only=True, files=files)
    with pytest.raises(UserError, match="the tokenizer has 129 ids"):
        import_composer_checkpoint(EARLIER, tmp_path / "out", options)
