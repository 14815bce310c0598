"""Top fillings of masked sentences by an exported model, through transformers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer

from mmbert.errors import UserError
from mmbert.hub.models import load_masked_language_model


@dataclass(frozen=True)
class MaskPrediction:
    """One candidate for a mask: the text that the tokenizer gives it, and its probability."""

    text: str
    probability: float


def fill_masks(
    folder: Path, sentences: Sequence[str], *, top: int = 5
) -> list[list[list[MaskPrediction]]]:
    """For each sentence and each mask token in it, the `top` most probable fillings.

    `folder` is an exported Hugging Face folder; a mask is written as its tokenizer's mask token
    or as "[MASK]". UserError for a sentence without a mask.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = load_masked_language_model(folder, torch.float32)
    answers = []
    for sentence in sentences:
        text = sentence.replace("[MASK]", tokenizer.mask_token)
        inputs = tokenizer(text, return_tensors="pt", truncation=True)
        masks = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0]
        if len(masks) == 0:
            raise UserError(
                f"the sentence {sentence!r} has no mask",
                remedy=f"write {tokenizer.mask_token} or [MASK] where a token is to be filled in",
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
