"""peft's LoRA is refused around a model, inside one and in a packed one; merged it works."""

from importlib.util import find_spec
from typing import Any

import pytest

import mmbert
from mmbert.errors import ModelError
from tests.support.live_models import MASKED_LM, assert_same, live_model, padded, train, with_labels

if find_spec("peft") is None:
    pytest.skip("peft is tested by `make test-versions`", allow_module_level=True)
from peft import LoraConfig, get_peft_model


def with_adapters(model: Any) -> Any:
    settings = LoraConfig(r=4, target_modules=["Wqkv", "Wi"], init_lora_weights=False)
    return get_peft_model(model, settings)


def test_refused_around_and_inside() -> None:
    model = with_adapters(live_model(MASKED_LM))
    with pytest.raises(ModelError, match=r"PeftModel is an adapter(.|\n)*merge_and_unload"):
        mmbert.pack(model)
    with pytest.raises(ModelError, match=r"layers\.0\.attn\.Wqkv \(Linear\) is an adapter"):
        mmbert.pack(model.base_model.model)


def test_adapters_put_into_a_packed_model() -> None:
    model = with_adapters(mmbert.pack(live_model(MASKED_LM)))
    with pytest.raises(ModelError, match=r"Wqkv \(Linear\) is an adapter(.|\n)*merge_and_unload"):
        model(**with_labels(MASKED_LM, padded([9, 4])))


def test_merged_weights() -> None:
    batch = with_labels(MASKED_LM, padded([9, 4]))
    model = with_adapters(live_model(MASKED_LM)).merge_and_unload()
    model.requires_grad_(True)
    expected = train(model, batch)
    assert_same(train(mmbert.pack(model), batch), expected)
    assert not model.forward.detours.counts
