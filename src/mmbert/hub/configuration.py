"""Conversion between EncoderConfig and the Hugging Face `config.json` of ModernBERT."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mmbert.data.shards.tokenizer_description import SpecialIds
from mmbert.errors import ModelError
from mmbert.files import parse_json
from mmbert.model.config import FIXED_BY_ARCHITECTURE, LARGEST_NUMBER, EncoderConfig
from mmbert.recipe import Objective, RotaryBases


@dataclass(frozen=True)
class HuggingFaceModel:
    """Configuration of a ModernBERT model, read from or written to a Hugging Face folder.

    `context` is the maximum document length in training, in tokens including special tokens.
    `objective` is that of the last phase of training; `causal` is written as `mmbert_objective`.
    """

    encoder: EncoderConfig
    rotary_bases: RotaryBases
    context: int
    objective: Objective = "masked"


def hugging_face_config(
    model: HuggingFaceModel, special_ids: SpecialIds, *, dtype: str
) -> dict[str, Any]:
    """Build the `config.json` of `model`, for transformers 4.48 to 5.x.

    Rotary bases, window and layer pattern have the keys of 4.48, which 5.x also reads; 4.48 does
    not read those of 5.x. `classifier_activation` must be gelu, since the masked-language-model
    head uses it. `dtype` is "float32" or "bfloat16".
    """
    encoder = model.encoder
    causal = {OBJECTIVE_KEY: model.objective} if model.objective != "masked" else {}
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
        **causal,
    }


OBJECTIVE_KEY = "mmbert_objective"
"""Key of config.json with the objective of the last phase, if that was causal."""
# Added to the rotary parameters if all layers are of one type.
_UNREAD_BY_5_3 = {"rope_type": "default", "rope_theta": None}

_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
)  # fmt: skip
# Keys that say what the model computes, in the spellings of transformers 4.48 to 5.x.
_COMPUTED = {
    *_SIZES, *FIXED_BY_ARCHITECTURE, "model_type", "architectures", "norm_eps", "layer_types",
    "global_attn_every_n_layers", "local_attention", "sliding_window", "rope_parameters",
    "rope_scaling", "global_rope_theta", "local_rope_theta", "max_position_embeddings",
    "initializer_range",
}  # fmt: skip
# Keys that change no logits in inference.
_NEUTRAL = {
    # Origin and tokens.
    "_name_or_path", "_commit_hash", "auto_map", "transformers_version", "torch_dtype", "dtype",
    "tokenizer_class", "pad_token_id", "bos_token_id", "cls_token_id", "eos_token_id",
    "sep_token_id", "mask_token_id", "unk_token_id", "decoder_start_token_id",
    # Training.
    OBJECTIVE_KEY, "attention_dropout", "mlp_dropout", "embedding_dropout", "classifier_dropout",
    "initializer_cutoff_factor", "gradient_checkpointing", "repad_logits_with_grad",
    "sparse_prediction", "sparse_pred_ignore_index",
    # Classification; the last two are a CrossEncoder's activation, after the logits.
    "classifier_pooling", "problem_type", "id2label", "label2id", "num_labels", "finetuning_task",
    "task_specific_params", "sentence_transformers", "sbert_ce_default_activation_function",
    # Implementation and form of outputs.
    "deterministic_flash_attn", "reference_compile", "_attn_implementation", "attn_implementation",
    "_attn_implementation_autoset", "use_cache", "chunk_size_feed_forward", "torchscript",
    "use_bfloat16", "tf_legacy_loss", "output_attentions", "output_hidden_states", "output_scores",
    "return_dict", "return_dict_in_generate",
    # BERT's, which ModernBERT does not read.
    "layer_norm_eps", "position_embedding_type",
    # Generation.
    "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
    "forced_eos_token_id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size",
    "num_beam_groups", "num_beams", "num_return_sequences", "prefix", "remove_invalid_values",
    "repetition_penalty", "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
}  # fmt: skip
# Keys that change no logits as long as they are false, null or empty.
_NEUTRAL_IF_EMPTY = {
    "add_cross_attention", "causal_mask", "cross_attention_hidden_size", "is_causal", "is_decoder",
    "is_encoder_decoder", "pruned_heads", "tie_encoder_decoder",
}  # fmt: skip


def read_configuration(folder: Path) -> HuggingFaceModel:
    """Read `folder`/config.json.

    Raises:
        ModelError: missing file, invalid JSON, another architecture, a value of the wrong type, a
            variant of ModernBERT that this encoder does not support, an unknown key, or two keys
            that contradict each other.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder} has no config.json",
            remedy="give the folder of a Hugging Face model (config.json and model.safetensors)",
        )
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"{path} is not valid JSON: {error}", remedy="download the file again"
        ) from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "modernbert":
        raise ModelError(
            f"{path}: model_type is {kind!r}, not 'modernbert'",
            remedy="only ModernBERT checkpoints (ModernBERT, mmBERT, Ettin encoders, …) can be"
            " imported",
        )
    where = str(path)
    architectures = config.get("architectures") or ["ModernBertForMaskedLM"]
    if not isinstance(architectures, list):
        raise _malformed(where, "architectures", "a list")
    if "ModernBertForMaskedLM" not in architectures:
        raise ModelError(
            f"{path}: {architectures[0]} has no masked-language-model head",
            remedy="import the pretrained model (ModernBertForMaskedLM) that it was derived from",
        )
    return model_of(config, where, FIXED_BY_ARCHITECTURE)


def model_of(config: dict[str, Any], where: str, fixed: Mapping[str, object]) -> HuggingFaceModel:
    """Read the values of a `config.json` of ModernBERT, whatever head it has.

    `where` begins the messages. `fixed` are keys with the only value that is supported, also the
    default. Raises the ModelErrors of `read_configuration` that concern values.
    """
    for key, wanted in fixed.items():
        if config.get(key, wanted) != wanted:
            raise ModelError(
                f"{where}: {key} is {config[key]!r}; this encoder only supports {wanted!r}",
                remedy="the model cannot be imported: its logits would differ",
            )
    _check_keys(config, where)
    sizes = {key: _integer(config, key, where) for key in _SIZES}
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise _wrong(
            f"{where}: hidden_size {sizes['hidden_size']} is not a multiple of"
            f" num_attention_heads {sizes['num_attention_heads']}"
        )
    encoder = EncoderConfig(
        **sizes,
        global_attention_every=_read_global_attention_every(config, where),
        local_window=_read_local_window(config, where),
        norm_eps=_number(config, "norm_eps", where, 1e-5),
        attention_output_dropout=0.0,
        initializer_range=_number(config, "initializer_range", where, 0.02),
        recompute="none",
    )
    context = _integer(config, "max_position_embeddings", where, 8192)
    objective = config.get(OBJECTIVE_KEY, "masked")
    if objective not in get_args(Objective):
        raise _wrong(f"{where}: {OBJECTIVE_KEY} is {objective!r}, not masked or causal")
    return HuggingFaceModel(encoder, _read_rotary_bases(config, where), context, objective)


def _check_keys(config: dict[str, Any], where: str) -> None:
    """Raise ModelError for a key that could change the logits in a way unknown here."""
    for key, value in config.items():
        if key in _COMPUTED | _NEUTRAL or (key in _NEUTRAL_IF_EMPTY and not value):
            continue
        raise ModelError(
            f"{where}: {key} is {value!r}; it is unknown here whether that changes the logits",
            remedy="use the model as its authors published it; if the key has no effect in"
            " transformers, remove it from a copy of the file",
        )


def _wrong(message: str) -> ModelError:
    return ModelError(message, remedy="download or correct the file")


def _malformed(where: str, key: str, wanted: str) -> ModelError:
    return _wrong(f"{where}: {key} is not {wanted}")


def _contradiction(where: str, one: str, other: str) -> ModelError:
    return ModelError(
        f"{where}: {one} contradicts {other}",
        remedy="versions of transformers read different keys: correct the one that is wrong, or"
        " download the file again",
    )


def _integer(config: dict[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise _wrong(f"{where}: {key} is {value!r}, not a positive 32-bit integer")
    return value


def _number(config: dict[str, Any], key: str, where: str, default: float) -> float:
    value = config.get(key, default)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < LARGEST_NUMBER:
        raise _wrong(f"{where}: {key} is {value!r}, not a positive number")
    return float(value)


def _read_global_attention_every(config: dict[str, Any], where: str) -> int:
    """Read `layer_types` (5.x) or `global_attn_every_n_layers`."""
    layer_types = config.get("layer_types")
    named = _integer(config, "global_attn_every_n_layers", where, 3)
    if layer_types is None:
        return named
    layers = _integer(config, "num_hidden_layers", where)
    # With few layers, several periods match: prefer the configured one.
    for every in (named, *range(1, layers + 1)):
        pattern = ["sliding_attention" if i % every else "full_attention" for i in range(layers)]
        if layer_types != pattern:
            continue
        if every != named and "global_attn_every_n_layers" in config:
            raise _contradiction(where, "layer_types", f"global_attn_every_n_layers {named}")
        return every
    raise ModelError(
        f"{where}: layer_types is not a global layer every n layers",
        remedy="only models with global attention in every n-th layer can be imported",
    )


def _read_local_window(config: dict[str, Any], where: str) -> int:
    """Read `local_attention`, the whole window, or `sliding_window`, which in 5.x is half of it."""
    window = _integer(config, "local_attention", where, 128)
    if "sliding_window" not in config:
        return window
    half = _integer(config, "sliding_window", where)
    if "local_attention" in config and window // 2 != half:
        named = f"sliding_window {half} (half a window)"
        raise _contradiction(where, named, f"local_attention {window}")
    return 2 * half


def _read_rotary_bases(config: dict[str, Any], where: str) -> RotaryBases:
    """Read `rope_parameters` (5.x) or the two older keys, with the defaults of transformers."""
    parameters = config.get("rope_parameters") or {}
    kinds = ("full_attention", "sliding_attention")
    if not isinstance(parameters, dict) or not all(
        isinstance(parameters.get(kind) or {}, dict) for kind in kinds
    ):
        raise _malformed(where, "rope_parameters", "a mapping of mappings")
    parts = {kind: parameters.get(kind) or {} for kind in kinds}
    plain = {"rope_type": "default", "type": "default", "partial_rotary_factor": 1}
    scaled = config.get("rope_scaling") is not None or any(
        key != "rope_theta" and (key not in plain or value != plain[key])
        for part in parts.values()
        for key, value in part.items()
    )
    more = {key: value for key, value in parameters.items() if key not in parts}
    if scaled or more not in ({}, _UNREAD_BY_5_3):
        raise ModelError(
            f"{where}: unsupported RoPE configuration",
            remedy="only models with one unscaled RoPE base per layer type can be imported",
        )
    older = {"global_rope_theta": 160_000.0, "local_rope_theta": 10_000.0, **config}
    if older["local_rope_theta"] is None:  # 4.48: the global base
        older["local_rope_theta"] = older["global_rope_theta"]
    bases = []
    for key, part in zip(("global_rope_theta", "local_rope_theta"), parts.values(), strict=True):
        base = _number(older, key, where, 0)
        if "rope_theta" in part:
            newer = _number(part, "rope_theta", where, 0)
            if key in config and newer != base:
                raise _contradiction(where, f"rope_theta {newer:g} in rope_parameters",
                                     f"{key} {base:g}")  # fmt: skip
            base = newer
        if base <= 1:
            raise _malformed(where, key, "above 1")
        bases.append(base)
    return rotary_bases(*bases)


def rotary_bases(global_base: float, local_base: float) -> RotaryBases:
    """Build RotaryBases from the two values."""
    return RotaryBases.model_validate({"global": global_base, "local": local_base})
