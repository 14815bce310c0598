"""Folders of small models with a tokenizer of words."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.support.live_models import ENCODER, SEQUENCE, live_model


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An encoder and a classifier of one label, with a tokenizer of words w4 to w199."""
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3, **{f"w{n}": n for n in range(4, 200)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    found = {}
    for kind, changes in ((ENCODER, {}), (SEQUENCE, {"num_labels": 1})):
        found[kind] = tmp_path_factory.mktemp("live") / kind
        live_model(kind, **changes).save_pretrained(found[kind])
        fast.save_pretrained(found[kind])
    return found
