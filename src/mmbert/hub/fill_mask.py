"""Masked-token prediction with an exported model, through transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from mmbert.errors import ArgumentError
from mmbert.hub.models import load_masked_language_model, without_code_of


@dataclass(frozen=True)
class MaskPrediction:
    """A candidate token for a mask: its decoded text and probability."""

    text: str
    probability: float


def fill_masks(
    folder: Path, sentences: Sequence[str], *, top: int = 5
) -> list[list[list[MaskPrediction]]]:
    """Return the `top` most probable tokens for each mask of each sentence.

    `folder` is an exported Hugging Face folder. A mask is its tokenizer's mask token or "[MASK]".
    Raises ArgumentError for a sentence without a mask.
    """
    with without_code_of(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = load_masked_language_model(folder, torch.float32)
    answers = []
    for sentence in sentences:
        text = sentence.replace("[MASK]", tokenizer.mask_token)
        inputs = tokenizer(text, return_tensors="pt", truncation=True)
        masks = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
        if len(masks) == 0:
            raise ArgumentError(
                f"the sentence {sentence!r} has no mask",
                remedy=f"write {tokenizer.mask_token} or [MASK] for each token to predict",
            )
        with torch.no_grad():
            logits = model(**inputs).logits[0, masks].float()
        best = logits.softmax(-1).topk(min(top, logits.shape[-1]))
        answers.append(
            [
                [
                    MaskPrediction(str(tokenizer.decode([token])), float(probability))
                    for token, probability in zip(ids.tolist(), values, strict=True)
                ]
                for ids, values in zip(best.indices, best.values, strict=True)
            ]
        )
    return answers
