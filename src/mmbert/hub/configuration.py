"""Conversion between EncoderConfig and the Hugging Face `config.json` of ModernBERT."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbert.data.shards.tokenizer_description import SpecialIds
from mmbert.errors import ModelError
from mmbert.model.config import FIXED_BY_ARCHITECTURE, EncoderConfig
from mmbert.recipe import RotaryBases


@dataclass(frozen=True)
class HuggingFaceModel:
    """Configuration of a ModernBERT model, read from or written to a Hugging Face folder.

    `context` is the maximum document length in training, in tokens including special tokens.
    """

    encoder: EncoderConfig
    rotary_bases: RotaryBases
    context: int


def hugging_face_config(
    model: HuggingFaceModel, special_ids: SpecialIds, *, dtype: str
) -> dict[str, Any]:
    """Build the `config.json` of `model`, for transformers 4.48 to 5.x.

    Rotary bases, window and layer pattern have the keys of 4.48, which 5.x also reads; 4.48 does
    not read those of 5.x. `classifier_activation` must be gelu, since the masked-language-model
    head uses it. `dtype` is "float32" or "bfloat16".
    """
    encoder = model.encoder
    return {
        "architectures": ["ModernBertForMaskedLM"],
        "model_type": "modernbert",
        "vocab_size": encoder.vocab_size,
        "hidden_size": encoder.hidden_size,
        "intermediate_size": encoder.intermediate_size,
        "num_hidden_layers": encoder.num_hidden_layers,
        "num_attention_heads": encoder.num_attention_heads,
        **FIXED_BY_ARCHITECTURE,
        "max_position_embeddings": model.context,
        "norm_eps": encoder.norm_eps,
        # The output dropout of training has no counterpart, and is inactive in inference.
        "attention_dropout": 0.0,
        "mlp_dropout": 0.0,
        "embedding_dropout": 0.0,
        "global_attn_every_n_layers": encoder.global_attention_every,
        "local_attention": encoder.local_window,
        "global_rope_theta": model.rotary_bases.global_,
        "local_rope_theta": model.rotary_bases.local_,
        "classifier_dropout": 0.0,
        "classifier_pooling": "mean",
        "initializer_range": encoder.initializer_range,
        "initializer_cutoff_factor": 2.0,
        "pad_token_id": special_ids.pad,
        "bos_token_id": special_ids.begin,
        "cls_token_id": special_ids.begin,
        "eos_token_id": special_ids.end,
        "sep_token_id": special_ids.end,
        "mask_token_id": special_ids.mask,
        "torch_dtype": dtype,
    }


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
)


def read_configuration(folder: Path) -> HuggingFaceModel:
    """Read `folder`/config.json.

    Raises:
        ModelError: missing file, invalid JSON, another architecture, a value of the wrong type, or
            a variant of ModernBERT that this encoder does not support.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no config.json",
            remedy="give the folder of a Hugging Face model (config.json and model.safetensors)",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(
            f"{path} is not valid JSON: {error}", remedy="download the file again"
        ) from error
    if not isinstance(config, dict) or config.get("model_type") != "modernbert":
        kind = config.get("model_type") if isinstance(config, dict) else None
        raise ModelError(
            f"{path}: model_type is {kind!r}, not 'modernbert'",
            remedy="only ModernBERT checkpoints (ModernBERT, mmBERT, Ettin encoders, …) can be"
            " imported",
        )
    architectures = config.get("architectures") or ["ModernBertForMaskedLM"]
    if "ModernBertForMaskedLM" not in architectures:
        raise ModelError(
            f"{path}: {architectures[0]} has no masked-language-model head",
            remedy="import the pretrained model (ModernBertForMaskedLM) that it was derived from",
        )
    for key, wanted in FIXED_BY_ARCHITECTURE.items():
        if config.get(key, wanted) != wanted:
            raise ModelError(
                f"{path}: {key} is {config[key]!r}; this encoder only supports {wanted!r}",
                remedy="the model cannot be imported: its logits would differ",
            )
    sizes = {key: _integer(config, key, path) for key in _SIZES}
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise ModelError(
            f"{path}: hidden_size {sizes['hidden_size']} is not a multiple of"
            f" num_attention_heads {sizes['num_attention_heads']}",
            remedy="download or correct the file",
        )
    encoder = EncoderConfig(
        **sizes,
        global_attention_every=_read_global_attention_every(config, path),
        local_window=_integer(config, "local_attention", path, 128),
        norm_eps=_number(config, "norm_eps", path, 1e-5),
        attention_output_dropout=0.0,
        initializer_range=_number(config, "initializer_range", path, 0.02),
        recompute="none",
    )
    context = _integer(config, "max_position_embeddings", path, 8192)
    return HuggingFaceModel(encoder, _read_rotary_bases(config, path), context)


def _integer(config: dict[str, Any], key: str, path: Path, default: int | None = None) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ModelError(
            f"{path}: {key} is {value!r}, not a positive integer",
            remedy="download or correct the file",
        )
    return value


def _number(config: dict[str, Any], key: str, path: Path, default: float) -> float:
    value = config.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise ModelError(
            f"{path}: {key} is {value!r}, not a positive number",
            remedy="download or correct the file",
        )
    return float(value)


def _read_global_attention_every(config: dict[str, Any], path: Path) -> int:
    layer_types = config.get("layer_types")
    if layer_types is None:
        return _integer(config, "global_attn_every_n_layers", path, 3)
    layers = _integer(config, "num_hidden_layers", path)
    # With few layers, several periods match: prefer the configured one.
    named = _integer(config, "global_attn_every_n_layers", path, 3)
    for every in (named, *range(1, layers + 1)):
        pattern = ["sliding_attention" if i % every else "full_attention" for i in range(layers)]
        if layer_types == pattern:
            return every
    raise ModelError(
        f"{path}: layer_types is not a global layer every n layers",
        remedy="only models with global attention in every n-th layer can be imported",
    )


def _read_rotary_bases(config: dict[str, Any], path: Path) -> RotaryBases:
    """Read `rope_parameters` (5.x) or the two older keys, with the defaults of transformers."""
    parameters = config.get("rope_parameters") or {}
    full = parameters.get("full_attention") or {}
    sliding = parameters.get("sliding_attention") or {}
    scaled = config.get("rope_scaling") is not None or any(
        part.get("rope_type", "default") != "default" for part in (full, sliding)
    )
    if scaled or parameters.keys() - {"full_attention", "sliding_attention"}:
        raise ModelError(
            f"{path}: unsupported RoPE configuration",
            remedy="only models with one unscaled RoPE base per layer type can be imported",
        )
    global_base = _number({**config, **_base(full)}, "global_rope_theta", path, 160_000.0)
    legacy = "global_rope_theta" in config and config.get("local_rope_theta", 0) is None
    if legacy and not sliding:
        # 4.48: a local base of null means the global base.
        return rotary_bases(global_base, global_base)
    local = {"local_rope_theta": config.get("local_rope_theta", 10_000.0)}
    if "rope_theta" in sliding:
        local = {"local_rope_theta": sliding["rope_theta"]}
    local_base = _number(local, "local_rope_theta", path, 10_000.0)
    return rotary_bases(global_base, local_base)


def rotary_bases(global_base: float, local_base: float) -> RotaryBases:
    """Build RotaryBases from the two values."""
    return RotaryBases.model_validate({"global": global_base, "local": local_base})


def _base(part: dict[str, Any]) -> dict[str, Any]:
    return {"global_rope_theta": part["rope_theta"]} if "rope_theta" in part else {}
