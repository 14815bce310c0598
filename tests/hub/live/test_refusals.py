"""What a packed model would compute wrongly is refused by name, when packing or when called."""

import contextlib
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

import mmbert
from mmbert.errors import ModelError
from tests.support.live_models import (
    ENCODER,
    MASKED_LM,
    SEQUENCE,
    TOKENS,
    assert_same,
    live_model,
    padded,
    train,
    with_labels,
)


class LoraLinear(nn.Module):
    """What peft puts in place of a linear."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.lora_A = base, nn.ModuleDict({"default": nn.Linear(64, 4)})


class WideMLP(nn.Module):
    """Somebody's own layer."""


def _hook(*_: Any) -> None:
    pass


def _lora(model: Any) -> None:
    model.layers[1].attn.Wqkv = LoraLinear(model.layers[1].attn.Wqkv)


def _exchanged(model: Any) -> None:
    model.layers[2].mlp = WideMLP()


def _another_norm(model: Any) -> None:
    model.layers[1].mlp_norm = nn.Identity()


def _another_activation(model: Any) -> None:
    model.layers[1].mlp.act = nn.ReLU()


def _with_bias(model: Any) -> None:
    model.layers[1].mlp.Wo = nn.Linear(96, 64)


def _forward_hook(model: Any) -> None:
    model.layers[0].mlp.register_forward_hook(_hook)


def _forward_pre_hook(model: Any) -> None:
    model.embeddings.register_forward_pre_hook(_hook)


def _backward_hook(model: Any) -> None:
    model.final_norm.register_full_backward_hook(_hook)


def _patched_forward(model: Any) -> None:
    model.layers[3].attn.forward = _hook


def _zero_3(model: Any) -> None:
    model.layers[1].mlp.Wi.weight.ds_id = 5


def _quantized(model: Any) -> None:
    class Int4Parameter(nn.Parameter):
        pass

    weight = model.layers[1].mlp.Wi.weight
    model.layers[1].mlp.Wi.weight = Int4Parameter(weight.detach())


def _fsdp(model: Any) -> None:
    class DTensor(nn.Parameter):
        pass

    model.final_norm.weight = DTensor(model.final_norm.weight.detach())


def _mlp_dropout(model: Any) -> None:
    model.layers[2].mlp.drop.p = 0.1


def _embedding_dropout(model: Any) -> None:
    model.embeddings.drop.p = 0.1


def _attention_dropout(model: Any) -> None:
    model.layers[0].attn.attention_dropout = 0.1


def _replaced(model: Any) -> None:
    model.layers[1].mlp.Wi.weight = nn.Parameter(torch.zeros(100, 64))


def _narrower_embeddings(model: Any) -> None:
    model.embeddings.tok_embeddings.weight = nn.Parameter(torch.zeros(200, 32))


def _fewer_layers(model: Any) -> None:
    del model.layers[3]


def _norm_of_embeddings(model: Any) -> None:
    model.embeddings.tok_embeddings.max_norm = 1.0


CHANGES: dict[Callable[[Any], None], str] = {
    _lora: r"layers\.1\.attn\.Wqkv .*LoRA(.|\n)*merge_and_unload",
    _exchanged: r"layers\.2\.mlp is a .*WideMLP",
    _another_norm: r"layers\.1\.mlp_norm is a Identity|layers\.1\.mlp_norm is an? Identity",
    _another_activation: r"layers\.1\.mlp\.act is a .*ReLU",
    _with_bias: r"layers\.1\.mlp\.Wo is a Linear with a bias",
    _forward_hook: r"layers\.0\.mlp has a hook \(_hook\)(.|\n)*remove the hook",
    _forward_pre_hook: r"embeddings has a hook",
    _backward_hook: r"final_norm has a hook",
    _patched_forward: r"layers\.3\.attn has a `forward` of its own",
    _zero_3: r"layers\.1\.mlp\.Wi\.weight is sharded by ZeRO 3(.|\n)*ZeRO 1 or 2",
    _quantized: r"layers\.1\.mlp\.Wi\.weight is a .*Int4Parameter, not a plain parameter",
    _fsdp: r"final_norm\.weight is sharded by FSDP",
    _mlp_dropout: r"layers\.2\.mlp\.drop is 0\.1(.|\n)*mlp_dropout=0\.0",
    _embedding_dropout: r"embeddings\.drop is 0\.1",
    _attention_dropout: r"layers\.0\.attn\.attention_dropout is 0\.1",
    _replaced: r"layers\.1\.mlp\.Wi\.weight has shape \[100, 64\]; .*\[192, 64\]",
    _narrower_embeddings: r"tok_embeddings\.weight has shape \[200, 32\]",
    _fewer_layers: r"the model has 3 layers; it was packed with 4",
    _norm_of_embeddings: r"tok_embeddings is an embedding with max_norm",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_changes_inside(change: Callable[[Any], None]) -> None:
    model = live_model()
    change(model)
    with pytest.raises(ModelError, match=CHANGES[change]):
        mmbert.pack(model)
    assert "forward" not in model.__dict__

    model = mmbert.pack(live_model())
    model(**padded([5, 3]))
    change(model)
    with pytest.raises(ModelError, match=CHANGES[change]):
        model(**padded([5, 3]))


@pytest.mark.parametrize(
    ("kind", "path"), [(MASKED_LM, "head.dense"), (MASKED_LM, "decoder"), (TOKENS, "model")]
)
def test_hooks_on_parts_that_a_head_does_not_call(kind: str, path: str) -> None:
    model = mmbert.pack(live_model(kind))
    handle = model.get_submodule(path).register_forward_hook(_hook)
    with pytest.raises(ModelError, match=f"{path} has a hook"):
        model(**with_labels(kind, padded([5, 3])))
    handle.remove()
    model(**with_labels(kind, padded([5, 3])))


def test_hooks_on_the_model_and_on_heads_that_are_called_run() -> None:
    seen = []
    model = mmbert.pack(live_model(SEQUENCE))
    for module in (model, model.model, model.classifier):
        module.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    model(**padded([5, 3]))
    assert seen == ["ModernBertModel", "Linear", SEQUENCE]


def test_hooks_that_transformers_leaves_behind_are_no_obstacle() -> None:
    model = live_model()
    model(**padded([5, 3]), output_hidden_states=True)  # 5.x keeps its hooks
    expected = train(model, padded([5, 3]))
    assert_same(train(mmbert.pack(model), padded([5, 3])), expected)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_dropout": 0.1}, r"mlp\.drop is 0\.1"),
        ({"attention_dropout": 0.1}, r"is 0\.1"),
        ({"embedding_dropout": 0.1}, r"embeddings\.drop is 0\.1"),
        ({"other_key": 3}, "other_key is 3"),
    ],
)
def test_configurations(changes: dict[str, Any], named: str) -> None:
    model = live_model(**changes)
    with pytest.raises(ModelError, match=named):
        mmbert.pack(model)
    assert "forward" not in model.__dict__


def test_a_head_of_another_activation_is_ours_only_in_masked_models() -> None:
    with pytest.raises(ModelError, match="classifier_activation is 'silu'"):
        mmbert.pack(live_model(MASKED_LM, classifier_activation="silu"))
    model = live_model(TOKENS, classifier_activation="silu")
    batch = with_labels(TOKENS, padded([9, 4]))
    expected = train(model, batch)
    assert_same(train(mmbert.pack(model), batch), expected)


def test_other_models() -> None:
    small = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"BertModel is not a model that can be packed(.|\n)*give"):
        mmbert.pack(BertModel(small))
    with pytest.raises(ModelError, match=r"int is not a model"):
        mmbert.pack(3)

    class Own(type(live_model(SEQUENCE))):  # type: ignore[misc]
        pass

    own = live_model(SEQUENCE)
    own.__class__ = Own
    with pytest.raises(ModelError, match=r"mmbert\.pack\(model\.model\)"):
        mmbert.pack(own)
    mmbert.pack(own.model)

    wrapped = nn.DataParallel(live_model())
    with pytest.raises(ModelError, match=r"module inside it is(.|\n)*before wrapping"):
        mmbert.pack(wrapped)


def test_packed_twice_or_not_at_all() -> None:
    model = mmbert.pack(live_model(MASKED_LM))
    for part in (model, model.model):
        with pytest.raises(ModelError, match=r"packed already(.|\n)*unpack"):
            mmbert.pack(part)
    with pytest.raises(ModelError, match="not packed"):
        mmbert.unpack(live_model())


def test_a_model_that_accelerate_has_prepared() -> None:
    model = live_model()
    model.forward = contextlib.nullcontext()
    with pytest.raises(ModelError, match=r"has a `forward` of its own(.|\n)*pack the model first"):
        mmbert.pack(model)


def test_a_packed_model_that_accelerate_has_prepared_since() -> None:
    model = mmbert.pack(live_model())
    packed = model.forward
    model.forward = torch.autocast("cpu", torch.bfloat16)(model.forward)
    model(**padded([5, 3]))
    with pytest.raises(ModelError, match=r"wrapped since(.|\n)*unwrap_model"):
        mmbert.unpack(model)
    # What accelerator.unwrap_model(model, keep_fp32_wrapper=False) leaves.
    model.forward = MethodType(packed, model)
    assert model(**padded([5, 3])).last_hidden_state.shape == (2, 5, 64)
    mmbert.unpack(model)
    assert "forward" not in model.__dict__


@pytest.mark.parametrize("kind", [ENCODER, MASKED_LM, SEQUENCE, TOKENS])
def test_no_real_token(kind: str) -> None:
    model = mmbert.pack(live_model(kind))
    batch = padded([4, 4])
    batch["attention_mask"][:] = 0
    with pytest.raises(ModelError, match=r"no real token(.|\n)*mask"):
        model(**batch)


def test_a_batch_on_another_device() -> None:
    model = mmbert.pack(live_model())
    batch = {name: value.to("meta") for name, value in padded([4, 4]).items()}
    with pytest.raises(ModelError, match=r"on meta, .* on cpu(.|\n)*DataParallel"):
        model(batch["input_ids"])


@pytest.mark.parametrize("kind", [ENCODER, MASKED_LM])
def test_second_derivatives(kind: str) -> None:
    model = mmbert.pack(live_model(kind)).train()
    found = model(**with_labels(kind, padded([5, 3])))[0].sum()
    with pytest.raises(ModelError, match="no second derivatives"):
        found.backward(create_graph=True)
