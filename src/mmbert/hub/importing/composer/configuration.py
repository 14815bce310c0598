"""FlexBERT's configuration in a Composer checkpoint, as that of this project's encoder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmbert.errors import ModelError
from mmbert.hub.configuration import HuggingFaceModel, read_configuration, rotary_bases
from mmbert.model.config import EncoderConfig

# Maximum input length of models whose checkpoint does not state one; limits export and evaluation.
DEFAULT_CONTEXT = 8192

# Supported values. The first group has other defaults in FlexBERT, so that the keys must be there.
_REQUIRED: dict[str, object] = {
    "attention_layer": "rope",
    "mlp_layer": "glu",
    "embedding_layer": "sans_pos",
    "normalization": "layernorm",
    "final_norm": True,
    "skip_first_prenorm": True,
    "hidden_act": "gelu",
    "head_pred_act": "gelu",
}
_DEFAULTS: dict[str, object] = {
    "bert_layer": "prenorm",
    "embed_norm": True,
    "head_pred_norm": True,
    "head_pred_bias": False,
    "decoder_bias": True,
    "attn_qkv_bias": False,
    "attn_out_bias": False,
    "mlp_in_bias": False,
    "mlp_out_bias": False,
    "rotary_emb_dim": None,
    "local_attn_rotary_emb_dim": None,
    "rotary_emb_scale_base": None,
    "rotary_emb_interleaved": False,
    "causal_mask": False,
    "tie_word_embeddings": True,
}
# Layers of another kind at the bottom of the model; None: none.
_INITIAL = ("attention_layer", "bert_layer", "mlp_layer")
_OTHER_DROPOUTS = ("attention_probs_dropout_prob", "mlp_dropout_prob", "embed_dropout_prob")


@dataclass(frozen=True)
class ComposerModel:
    """Configuration of the model, and of its training where Hugging Face's has no key for it.

    Attributes:
        model: configuration without dropout.
        dropout: attention output dropout of the training; None if unknown.
        notes: statements for the user.
    """

    model: HuggingFaceModel
    dropout: float | None
    notes: tuple[str, ...] = ()


def read_model(
    path: Path, state: Mapping[str, Any], rows: int, files: Path | None, context: int | None
) -> ComposerModel:
    """Read the configuration in the checkpoint or, if it has none, in the folder `files`.

    Args:
        state: state of the checkpoint at `path`.
        rows: rows of the embedding.
        files: Hugging Face folder of the same model.
        context: maximum input length; default: that of `files`, or DEFAULT_CONTEXT.

    Raises:
        ModelError: no configuration, or a variant that this encoder does not support; names the
            key.
    """
    content = _config(state)
    if content is not None:
        return _flex_bert(path, content, rows, context or DEFAULT_CONTEXT)
    if files is None:
        raise ModelError(
            f"{path} holds no model configuration (integrations.huggingface)",
            remedy="give a Hugging Face folder of the same model, with config.json and tokenizer:"
            " --tokenizer-files FOLDER",
        )
    model = read_configuration(files)
    if context is not None:
        model = HuggingFaceModel(model.encoder, model.rotary_bases, context)
    note = f"configuration from {files}: the checkpoint holds none"
    return ComposerModel(model, None, (note,))


def _config(state: Mapping[str, Any]) -> dict[str, Any] | None:
    entry: Any = state
    for key in ("integrations", "huggingface", "model", "config", "content"):
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    return entry if isinstance(entry, dict) else None


def _flex_bert(path: Path, config: Mapping[str, Any], rows: int, context: int) -> ComposerModel:
    if config.get("model_type") != "bert":
        raise ModelError(
            f"{path}: model_type is {config.get('model_type')!r}, not 'bert' (FlexBERT)",
            remedy="only checkpoints of ModernBERT's trainer can be imported",
        )
    for key, wanted in (_REQUIRED | _DEFAULTS).items():
        found = config.get(key, _DEFAULTS.get(key))
        if found != wanted:
            raise _unsupported(path, key, found, wanted)
    for key in _INITIAL:
        found = config.get(f"initial_{key}")
        if found is not None and found != config.get(key, _DEFAULTS.get(key)):
            raise _unsupported(path, f"initial_{key}", found, None)
    norm = config.get("norm_kwargs") or {}
    if norm.get("bias", True) is not False:
        raise _unsupported(path, "norm_kwargs.bias", norm.get("bias"), False)
    every, window = _attention_pattern(path, config)
    global_base = _number(path, config, "rotary_emb_base", 10_000.0)
    local_base = global_base
    if config.get("local_attn_rotary_emb_base", -1) not in (-1, None):  # -1: as global
        local_base = _number(path, config, "local_attn_rotary_emb_base", -1)
    encoder = EncoderConfig(
        vocab_size=rows,
        hidden_size=_integer(path, config, "hidden_size"),
        intermediate_size=_integer(path, config, "intermediate_size"),
        num_hidden_layers=_integer(path, config, "num_hidden_layers"),
        num_attention_heads=_integer(path, config, "num_attention_heads"),
        global_attention_every=every,
        local_window=window,
        norm_eps=_number(path, norm, "eps", 1e-5),
        attention_output_dropout=0.0,
        initializer_range=_number(path, config, "initializer_range", 0.02),
    )
    if encoder.hidden_size % encoder.num_attention_heads:
        raise _unsupported(
            path, "num_attention_heads", encoder.num_attention_heads, "a divisor of hidden_size"
        )
    model = HuggingFaceModel(encoder, rotary_bases(global_base, local_base), context)
    return ComposerModel(model, float(config.get("attn_out_dropout_prob") or 0.0),
                         tuple(_notes(config, context)))  # fmt: skip


def _attention_pattern(path: Path, config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the interval of global layers and the width of local attention."""
    every = config.get("global_attn_every_n_layers", -1)
    window = config.get("sliding_window", -1)
    if window == -1:
        return 1, EncoderConfig.local_window  # every layer is global
    if every == -1:
        raise _unsupported(path, "global_attn_every_n_layers", every, "positive: no local-only")
    pattern = {"every": every, "window": window}
    return _integer(path, pattern, "every"), _integer(path, pattern, "window")


def _notes(config: Mapping[str, Any], context: int) -> Iterator[str]:
    yield (
        f"maximum input length {context:,} (--context): the checkpoint does not state it; training"
        " takes the recipe's"
    )
    others = {key: config[key] for key in _OTHER_DROPOUTS if config.get(key)}
    if others:
        text = ", ".join(f"{key} {value:g}" for key, value in others.items())
        yield f"dropout that this project does not have: {text}"


def _unsupported(path: Path, key: str, found: object, wanted: object) -> ModelError:
    return ModelError(
        f"{path}: {key} is {found!r}; this encoder only supports {wanted!r}",
        remedy="the model cannot be imported: its logits would differ",
    )


def _integer(path: Path, config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _unsupported(path, key, value, "a positive integer")
    return value


def _number(path: Path, config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
        raise _unsupported(path, key, value, "a positive number")
    return float(value)
