"""A ModernBERT trained elsewhere: written by transformers, with its own tokenizer."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import ModernBertConfig, ModernBertForMaskedLM

from tests.support.tokenizers import byte_level_tokenizer, save_tokenizer

EMBEDDING = "model.embeddings.tok_embeddings.weight"


def external_model(folder: Path, dtype: torch.dtype = torch.float32, **changes: object) -> Path:
    """Write a ModernBERT with transformers, with a byte-level tokenizer."""
    tokenizer = byte_level_tokenizer()
    save_tokenizer(folder, tokenizer)
    values: dict = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "local_attention": 16,
        "global_rope_theta": 30_000.0,
        "local_rope_theta": 700.0,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "cls_token_id": 2,
        "eos_token_id": 1,
        "sep_token_id": 1,
    }
    torch.manual_seed(3)
    model = ModernBertForMaskedLM(ModernBertConfig(**(values | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(folder)
    return folder


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")
