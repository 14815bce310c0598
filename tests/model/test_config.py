"""Configuration: parameters of the presets, the recipe's settings, and unsuitable groups."""

from dataclasses import asdict

import pytest
import torch
from torch import nn

from mmbert.errors import UserError
from mmbert.model.config import check_parallel, encoder_config
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import TensorGroup
from mmbert.recipe import ModelSettings
from tests.support.tiny_models import tiny_config


def parameters(preset: str) -> int:
    settings = ModelSettings.model_validate({"preset": preset})
    with torch.device("meta"):
        model = MaskedLanguageModel(
            encoder_config(settings, 256_000), TensorGroup.single(), sequence_parallel=False
        )
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("preset", "count"), [("small", 140_897_536), ("base", 307_786_240)])
def test_presets_have_the_published_number_of_parameters(preset: str, count: int) -> None:
    assert parameters(preset) == count


@pytest.mark.parametrize(("preset", "low", "high"), [("large", 0.9e9, 1.2e9), ("huge", 6e9, 8e9)])
def test_the_larger_presets_are_of_the_promised_size(preset: str, low: float, high: float) -> None:
    assert low < parameters(preset) < high


@pytest.mark.parametrize("preset", ["large", "huge"])
@pytest.mark.parametrize("tensor_parallel", [2, 4, 8])
def test_tensor_parallelism_divides_the_larger_presets(preset: str, tensor_parallel: int) -> None:
    config = encoder_config(ModelSettings.model_validate({"preset": preset}), 256_000)
    check_parallel(
        config, tensor_parallel=tensor_parallel, sequence_parallel=True, row_tokens=49_152
    )


def test_the_recipe_gives_every_setting_to_the_model() -> None:
    values = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "global_attention_every": 2,
        "local_window": 32,
        "norm_eps": 1e-6,
        "attention_output_dropout": 0.2,
        "initializer_range": 0.03,
        "recompute": "selective",
    }
    config = encoder_config(ModelSettings.model_validate(values), 500)
    assert asdict(config) == {"vocab_size": 500, **values}


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused() -> None:
    settings = ModelSettings.model_validate({"preset": "small", "vocab_size": 1000})
    with pytest.raises(UserError, match=r"model\.vocab_size is 1000, but the tokenizer has 999"):
        encoder_config(settings, 999)
    assert encoder_config(settings, 1000).vocab_size == 1000


@pytest.mark.parametrize(
    ("changes", "tensor_parallel", "row_tokens", "message"),
    [
        ({"num_attention_heads": 4}, 3, 96, "model.num_attention_heads \\(4\\) must .* \\(3\\)"),
        ({"intermediate_size": 98}, 4, 96, "model.intermediate_size \\(98\\) must .* \\(4\\)"),
        ({}, 4, 98, "batch.row_tokens \\(98\\) must .* \\(4\\)"),
        (
            {"vocab_size": 3},
            4,
            96,
            "the vocabulary \\(3\\) is smaller than parallel.tensor \\(4\\)",
        ),
    ],
)
def test_sizes_that_do_not_divide_are_refused_before_anything_starts(
    changes: dict[str, int], tensor_parallel: int, row_tokens: int, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        check_parallel(
            tiny_config(**changes),
            tensor_parallel=tensor_parallel,
            sequence_parallel=True,
            row_tokens=row_tokens,
        )
    assert "parallel.tensor" in error.value.remedy


def test_tokens_need_not_divide_without_sequence_parallelism() -> None:
    check_parallel(tiny_config(), tensor_parallel=4, sequence_parallel=False, row_tokens=98)


def test_layers_attend_globally_one_in_three() -> None:
    config = encoder_config(ModelSettings.model_validate({"preset": "base"}), 256_000)
    is_global = [config.attends_globally(i) for i in range(config.num_hidden_layers)]
    assert [i for i, g in enumerate(is_global) if g] == [0, 3, 6, 9, 12, 15, 18, 21]


def test_the_tree_of_modules_has_hugging_faces_names() -> None:
    with torch.device("meta"):
        model: nn.Module = MaskedLanguageModel(
            tiny_config(num_hidden_layers=2), TensorGroup.single(), sequence_parallel=False
        )
    layer = ("attn.Wqkv", "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo")
    assert [name for name, _ in model.named_parameters()] == [
        "model.embeddings.tok_embeddings.weight",
        "model.embeddings.norm.weight",
        *(f"model.layers.0.{part}.weight" for part in layer),
        "model.layers.1.attn_norm.weight",
        *(f"model.layers.1.{part}.weight" for part in layer),
        "model.final_norm.weight",
        "head.dense.weight",
        "head.norm.weight",
        "decoder.bias",
    ]
