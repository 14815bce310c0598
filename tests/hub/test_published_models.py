"""Import of published configurations and tokenizers at reduced sizes.

Keys and values are from the config.json of the checkpoints, as quoted by public programs and tests:
answerdotai/ModernBERT-base (written for transformers 4.48) and -large (saved by 5.0, with both new
and old keys), jhu-clsp/mmBERT-small and a copy with `rope_parameters` appended, ibm-granite's
embedding models, llm-semantic-router's mmBERT with a context of 32,768 tokens; and the sizes, bases
and layers of jhu-clsp/ettin-encoder-17m. Weights and vocabularies are synthetic.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, AutoTokenizer, ModernBertConfig

from mmbert.errors import UserError
from mmbert.hub.configuration import read_configuration
from mmbert.hub.importing.import_model import import_model
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.hub.weights import parameter_shapes
from tests.support.external_model import stored
from tests.support.tokenizers import (
    gemma_like_tokenizer,
    modernbert_like_tokenizer,
    save_tokenizer,
)
from tests.support.transformers_versions import kinds_of_layers, rotary_bases

COMMON: dict[str, Any] = {
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "decoder_bias": True,
    "deterministic_flash_attn": False,
    "embedding_dropout": 0.0,
    "gradient_checkpointing": False,
    "hidden_activation": "gelu",
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "local_attention": 128,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "tie_word_embeddings": True,
}
MODERNBERT_IDS = {
    "bos_token_id": 50281, "cls_token_id": 50281, "eos_token_id": 50282, "sep_token_id": 50282,
    "pad_token_id": 50283, "vocab_size": 50368,
}  # fmt: skip
GEMMA_IDS = {
    "bos_token_id": 2, "cls_token_id": 1, "eos_token_id": 1, "sep_token_id": 1, "pad_token_id": 0,
    "mask_token_id": 4, "vocab_size": 256000,
}  # fmt: skip
PLAIN = {"rope_type": "default"}
SANS_POS = {"position_embedding_type": "sans_pos"}

MODERNBERT_BASE = COMMON | MODERNBERT_IDS | {
    "_name_or_path": "ModernBERT-base", "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
    "hidden_size": 768, "intermediate_size": 1152, "num_attention_heads": 12,
    "num_hidden_layers": 22, "position_embedding_type": "absolute", "reference_compile": True,
    "torch_dtype": "float32", "transformers_version": "4.48.0",
}  # fmt: skip
MODERNBERT_LARGE = COMMON | MODERNBERT_IDS | {
    "hidden_size": 1024, "intermediate_size": 2624, "num_attention_heads": 16,
    "num_hidden_layers": 28, "global_attn_every_n_layers": 3,
    "layer_types": ["sliding_attention" if i % 3 else "full_attention" for i in range(28)],
    "rope_parameters": {
        "full_attention": PLAIN | {"rope_theta": 160000.0},
        "sliding_attention": PLAIN | {"rope_theta": 10000.0},
    },
    "position_embedding_type": "absolute", "repad_logits_with_grad": False,
    "sparse_pred_ignore_index": -100, "sparse_prediction": False, "dtype": "float32",
    "transformers_version": "5.0.0",
}  # fmt: skip
MMBERT_SMALL = COMMON | GEMMA_IDS | SANS_POS | {
    "global_attn_every_n_layers": 3, "global_rope_theta": 160000, "local_rope_theta": 160000,
    "hidden_size": 384, "intermediate_size": 1152, "num_attention_heads": 6,
    "num_hidden_layers": 22, "torch_dtype": "float32", "transformers_version": "4.47.0.dev0",
}  # fmt: skip
MMBERT_COPY = MMBERT_SMALL | {
    "rope_parameters": {
        "full_attention": PLAIN | {"rope_theta": 160000},
        "sliding_attention": PLAIN | {"rope_theta": 160000},
    },
}
ETTIN = COMMON | MODERNBERT_IDS | SANS_POS | {
    "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 160000.0,
    "hidden_size": 256, "intermediate_size": 384, "num_attention_heads": 4, "num_hidden_layers": 7,
}  # fmt: skip
PUBLISHED = {
    "ModernBERT-base": MODERNBERT_BASE,
    "ModernBERT-large": MODERNBERT_LARGE,
    "mmBERT-small": MMBERT_SMALL,
    "mmBERT-small with rope_parameters": MMBERT_COPY,
    "Ettin-17m": ETTIN,
}
BASES = {
    "ModernBERT-base": (160_000, 10_000),
    "ModernBERT-large": (160_000, 10_000),
    "mmBERT-small": (160_000, 160_000),
    "mmBERT-small with rope_parameters": (160_000, 160_000),
    "Ettin-17m": (160_000, 160_000),
}


def transformers_configuration(folder: Path) -> ModernBertConfig:
    return ModernBertConfig.from_pretrained(folder)


def gemma(folder: Path) -> Tokenizer:
    tokenizer = gemma_like_tokenizer()
    save_tokenizer(folder, tokenizer)
    return tokenizer


def published(folder: Path, name: str, *, unused_rows: int = 0) -> Path:
    """Return the model `name` at reduced sizes, as configured by its config.json."""
    config = dict(PUBLISHED[name])
    is_gemma = config["vocab_size"] == 256_000
    make: Callable[[Path], Tokenizer] = gemma if is_gemma else modernbert_like_tokenizer
    tokenizer = make(folder)
    # As in the original, where the last id is the last row: same distances from the end.
    rows = tokenizer.get_vocab_size()
    if not is_gemma:
        names = {"bos": "[CLS]", "cls": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "pad": "[PAD]"}
        config |= {f"{role}_token_id": tokenizer.token_to_id(t) for role, t in names.items()}
    layers = 7
    config |= {
        "vocab_size": rows + unused_rows, "hidden_size": 64, "intermediate_size": 96,
        "num_attention_heads": 4, "num_hidden_layers": layers, "local_attention": 16,
    }  # fmt: skip
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:layers]
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(transformers_configuration(folder))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))  # as published, not as saved again
    return folder


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForMaskedLM.from_pretrained(folder).eval()(input_ids=ids).logits


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_full_sizes_are_those_that_transformers_reads(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    ours, theirs = read_configuration(tmp_path), transformers_configuration(tmp_path)
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(theirs)
    expected = {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert parameter_shapes(ours.encoder) == expected
    assert (ours.rotary_bases.global_, ours.rotary_bases.local_) == BASES[name]
    assert rotary_bases(theirs) == BASES[name]
    layers = range(theirs.num_hidden_layers)
    pattern = ["full_attention" if ours.encoder.attends_globally(i) else "sliding_attention"
               for i in layers]  # fmt: skip
    assert pattern == kinds_of_layers(theirs)
    assert ours.encoder.global_attention_every == 3
    assert (ours.context, ours.encoder.local_window) == (8192, 128)


@pytest.mark.parametrize("unused_rows", [0, 19], ids=["", "rows that no token uses"])
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_an_imported_model_is_the_published_one(
    tmp_path: Path, name: str, unused_rows: int
) -> None:
    theirs = published(tmp_path / "theirs", name, unused_rows=unused_rows)
    report = import_model(theirs, tmp_path / "imported")
    before, after = stored(theirs), stored(tmp_path / "imported")
    assert all(torch.equal(before[tensor], after[tensor]) for tensor in after)
    assert report.model.encoder.vocab_size == FastTokenizer(theirs).size + unused_rows
    assert any("19 unused" in line for line in report.lines()) == bool(unused_rows)
    # Longer than the window and with all special tokens: only the config determines the result.
    ids = torch.randint(
        report.model.encoder.vocab_size, (1, 90), generator=torch.Generator().manual_seed(2)
    )
    assert torch.equal(logits(tmp_path / "imported", ids), logits(theirs, ids))


@pytest.mark.parametrize("name", ["ModernBERT-base", "mmBERT-small"])
def test_its_tokenizer_is_used_as_it_is(tmp_path: Path, name: str) -> None:
    theirs = published(tmp_path / "theirs", name)
    import_model(theirs, tmp_path / "imported")
    text = "  the old town,\nund sieben brücken   stand 中 "
    first, second = (
        AutoTokenizer.from_pretrained(folder) for folder in (theirs, tmp_path / "imported")
    )
    assert first(text)["input_ids"] == second(text)["input_ids"]
    assert first.mask_token == second.mask_token
    # Neither has a prefix space: a word has one token at the start and another after a space.
    assert first.tokenize("the river")[0] != first.tokenize("river the")[1]
    ids = FastTokenizer(theirs).special_ids
    assert ids is not None
    written = json.loads((tmp_path / "imported" / "config.json").read_text())
    assert written["cls_token_id"] == written["bos_token_id"] == first.cls_token_id == ids.begin
    assert written["sep_token_id"] == written["eos_token_id"] == first.sep_token_id == ids.end
    assert written["pad_token_id"] == first.pad_token_id == ids.pad
    assert written["mask_token_id"] == first.mask_token_id == ids.mask


def test_a_new_tokenizer_leaves_unused_rows_behind(tmp_path: Path) -> None:
    theirs = published(tmp_path / "theirs", "ModernBERT-base", unused_rows=19)
    save_tokenizer(tmp_path / "tokenizer", gemma_like_tokenizer())
    report = import_model(theirs, tmp_path / "imported", tokenizer=tmp_path / "tokenizer")
    assert report.model.encoder.vocab_size == FastTokenizer(tmp_path / "tokenizer").size
    assert report.vocabulary is not None
    assert report.vocabulary.kept > 100
    before, after = (
        stored(folder)["model.embeddings.tok_embeddings.weight"]
        for folder in (theirs, tmp_path / "imported")
    )
    old, new = FastTokenizer(theirs), FastTokenizer(tmp_path / "tokenizer")
    assert torch.equal(after[new.vocabulary["▁the"]], before[old.vocabulary["Ġthe"]])
    assert torch.equal(after[new.vocabulary["<mask>"]], before[old.vocabulary["[MASK]"]])
    assert torch.equal(after[new.vocabulary["<0xF0>"]], before[old.vocabulary["ð"]])


REFUSED = {
    # granite-embedding-97m-multilingual-r2: another gate.
    "granite": ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
    # mmbert-32k-yarn, in the older and in the newer form.
    "yarn": (
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        "unsupported RoPE",
    ),
    "yarn in 5.x": (
        {"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 160000.0}}},
        "unsupported RoPE",
    ),
    # Written by the public converter if the local base has its default.
    "base of -1": ({"local_rope_theta": -1}, "local_rope_theta is -1, not a positive number"),
    "one base for all": ({"rope_parameters": PLAIN | {"rope_theta": 1e4}}, "unsupported RoPE"),
    "backbone alone": ({"architectures": ["ModernBertModel"]}, "ModernBertModel"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_would_compute_something_else_is_refused(tmp_path: Path, case: str) -> None:
    changes, says = REFUSED[case]
    (tmp_path / "config.json").write_text(json.dumps(MMBERT_SMALL | changes))
    with pytest.raises(UserError, match=re.escape(says)):
        read_configuration(tmp_path)


def test_an_eps_that_transformers_does_not_read_is_not_read(tmp_path: Path) -> None:
    """Some configurations only contain `layer_norm_eps`, with an unintended value."""
    config = {key: value for key, value in MMBERT_SMALL.items() if key != "norm_eps"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-12}))
    assert transformers_configuration(tmp_path).norm_eps == 1e-5
    assert read_configuration(tmp_path).encoder.norm_eps == 1e-5
