"""Small Hugging Face tokenizers."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from mmbert.data.shards.tokenizer_description import (
    SpecialIds,
    TokenizerDescription,
    write_tokenizer_description,
)

SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
SPECIAL_IDS = SpecialIds(pad=0, begin=2, end=1, unknown=3, mask=4)

SENTENCES = [
    "the river runs past the old town and under seven bridges",
    "a child reads a book by the window while the rain falls",
    "der fluss fließt an der alten stadt vorbei und unter sieben brücken durch",
    "ein kind liest am fenster ein buch während der regen fällt",
    "река течёт мимо старого города под семью мостами",
    "mto unapita mji wa kale na chini ya madaraja saba",
    "le fleuve passe devant la vieille ville et sous sept ponts",
    "an old bridge over the river stands near the town window",
] * 4


def metaspace_tokenizer(sentences: Sequence[str] = SENTENCES, size: int = 300) -> Tokenizer:
    """Train a BPE with ▁ for spaces, the special ids of Gemma, and begin and end tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _trained(tokenizer, sentences, size)


def byte_level_tokenizer(sentences: Sequence[str] = SENTENCES, size: int = 400) -> Tokenizer:
    """Train a byte-level BPE, like the tokenizer of ModernBERT."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, sentences, size)


def gemma_like_tokenizer(sentences: Sequence[str] = SENTENCES, size: int = 420) -> Tokenizer:
    """Train a BPE like that of mmBERT (Gemma 2): ▁ for spaces, no prefix, byte fallback."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    definition = json.loads(_trained(tokenizer, sentences, size, more=in_bytes).to_str())
    # The trainer makes them special tokens, but they are ordinary ones.
    definition["added_tokens"] = [
        token for token in definition["added_tokens"] if token["content"] not in in_bytes
    ]
    return Tokenizer.from_str(json.dumps(definition))


def modernbert_like_tokenizer(
    folder: Path, sentences: Sequence[str] = SENTENCES, size: int = 390
) -> Tokenizer:
    """Write a tokenizer like those of ModernBERT and Ettin to `folder`.

    Byte-level, with the special tokens of BERT after the ordinary ones, then unused tokens. It has
    no bos or eos token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        sentences, trainers.BpeTrainer(vocab_size=size, show_progress=False, min_frequency=1,
                                       initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )  # fmt: skip
    names = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    tokenizer.add_special_tokens([*names, AddedToken("[MASK]", lstrip=True)])
    tokenizer.add_tokens([f"[unused{number}]" for number in range(8)])
    ids = {name: tokenizer.token_to_id(name) for name in names}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")],
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": True,
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def _trained(
    tokenizer: Tokenizer, sentences: Sequence[str], size: int, more: Sequence[str] = ()
) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=size + len(more),
        special_tokens=[*SPECIAL_TOKENS, *more],
        show_progress=False,
        min_frequency=1,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        pair="<bos> $A <eos> $B <eos>",
        special_tokens=[("<bos>", 2), ("<eos>", 1)],
    )
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the folder as transformers does (with its default of token types)."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "cls_token": "<bos>",
        "sep_token": "<eos>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_described_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the folder as preprocessing does, with a description."""
    save_tokenizer(folder, tokenizer)
    write_tokenizer_description(
        folder,
        TokenizerDescription(
            kind="huggingface",
            vocabulary_size=tokenizer.get_vocab_size(),
            fingerprint="0" * 64,
            special_ids=SPECIAL_IDS,
        ),
    )
