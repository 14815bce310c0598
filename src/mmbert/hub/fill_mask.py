"""Masked-token prediction with an exported model, through transformers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mmbert.errors import ArgumentError, ModelError, TokenizerError
from mmbert.hub.configuration import OBJECTIVE_KEY
from mmbert.hub.models import load_masked_language_model
from mmbert.hub.tokenizer import FastTokenizer


@dataclass(frozen=True)
class MaskPrediction:
    """A candidate token for a mask: its decoded text and probability."""

    text: str
    probability: float


def fill_masks(
    folder: Path,
    sentences: Sequence[str],
    *,
    top: int = 5,
    say: Callable[[str], None] = lambda line: None,
) -> list[list[list[MaskPrediction]]]:
    """Return the `top` most probable tokens for each mask of each sentence.

    `folder` is an exported Hugging Face folder. A mask is its tokenizer's mask token or "[MASK]".
    Text is encoded as in training and evaluation, so that what the tokenizer has saved (padding, a
    maximum length) changes nothing; `say` is told of it, and of a model whose last phase was
    causal.

    Raises:
        UserError: no model, or a sentence without a mask or longer than the model's context.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} has no config.json", remedy="give a Hugging Face folder, as export writes"
        )
    tokenizer = FastTokenizer(folder)
    if tokenizer.set_aside is not None:
        say(tokenizer.set_aside)
    ids = tokenizer.special_ids
    if ids is None:
        raise TokenizerError(
            f"the tokenizer in {folder} lacks a special token: it needs pad, begin (cls or bos),"
            " end (sep or eos), unknown and mask",
            remedy="set them in its tokenizer_config.json",
        )
    model = load_masked_language_model(folder, torch.float32)
    context = getattr(model.config, "max_position_embeddings", None)
    if getattr(model.config, OBJECTIVE_KEY, "masked") != "masked":
        say(
            f"{folder} ended its training in a causal phase: it has not been trained to predict"
            " masked tokens"
        )
    answers = []
    for sentence in sentences:
        text = sentence.replace("[MASK]", tokenizer.token(ids.mask))
        try:
            encoded = torch.tensor([[ids.begin, *tokenizer.encode(text), ids.end]])
        except TypeError as error:  # the library's, for characters that are not Unicode
            raise ArgumentError(
                f"the sentence {sentence!r} is not UTF-8", remedy="write it in UTF-8"
            ) from error
        masks = (encoded[0] == ids.mask).nonzero()[:, 0]
        if len(masks) == 0:
            raise ArgumentError(
                f"the sentence {sentence!r} has no mask",
                remedy=f"write {tokenizer.token(ids.mask)} or [MASK] for each token to predict",
            )
        if context is not None and encoded.shape[1] > context:
            raise ArgumentError(
                f"the sentence {sentence[:40]!r}… has {encoded.shape[1]} tokens, the model's"
                f" context is {context}",
                remedy="shorten it",
            )
        with torch.no_grad():
            logits = model(input_ids=encoded).logits[0, masks].float()
        best = logits.softmax(-1).topk(min(top, logits.shape[-1]))
        answers.append(
            [
                [
                    MaskPrediction(tokenizer.decode([token]), float(probability))
                    for token, probability in zip(candidates.tolist(), values, strict=True)
                ]
                for candidates, values in zip(best.indices, best.values, strict=True)
            ]
        )
    return answers
