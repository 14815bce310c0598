"""Sentence pairs and the sentence-transformers models that train on them, for bench_pack.py.

Pairs come from a file of JSON lines with `anchor` and `positive`, or are generated with the lengths
of verses in 41 languages (38 tokens, log-normal, both texts of a pair alike).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

from mmbert.errors import TextError
from tests.support.live_training import ENCODER, Sizes, build
from tests.support.tokenizers import metaspace_tokenizer, save_tokenizer

Pair = tuple[str, str]
LONGEST = 128
# Of the logarithm of verses' lengths in tokens: mean, deviation, correlation within a pair.
_MEAN, _DEVIATION, _CORRELATION = 3.56, 0.433, 0.65
_ENDS = 2
_WORDS_OF_A_FILE = 24_000


def read_pairs(path: Path) -> list[Pair]:
    """Read pairs. Raises TextError for a line without both texts."""
    pairs = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                pairs.append((str(record["anchor"]), str(record["positive"])))
            except (ValueError, KeyError, TypeError) as error:
                raise TextError(
                    f"{path}, line {number}: no pair ({error})",
                    remedy='write a JSON object with "anchor" and "positive" on each line',
                ) from error
    return pairs


def generate_pairs(count: int, sizes: Sizes, seed: int = 21) -> list[Pair]:
    """Generate pairs of words that are a token each."""
    generator = np.random.default_rng(seed)
    normal = generator.standard_normal((count, 2))
    normal[:, 1] *= np.sqrt(1 - _CORRELATION**2)
    normal[:, 1] += _CORRELATION * normal[:, 0]
    lengths = np.exp(_MEAN + _DEVIATION * normal).round() - _ENDS
    lengths = np.clip(lengths, 1, LONGEST - _ENDS).astype(int)

    def text(length: int) -> str:
        words = np.minimum(generator.zipf(1.2, length), sizes.vocabulary - 6)
        return " ".join(f"w{word}" for word in words)

    return [(text(first), text(second)) for first, second in lengths]


def save_encoder(folder: Path, pairs: Sequence[Pair], sizes: Sizes, *, generated: bool) -> None:
    """Write an encoder with random weights and a tokenizer for the pairs."""
    if generated:
        words = {name: n for n, name in enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))}
        words |= {f"w{n}": n + 4 for n in range(1, sizes.vocabulary - 5)}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
        )
    else:
        size = min(_WORDS_OF_A_FILE, sizes.vocabulary)
        tokenizer = metaspace_tokenizer([text for pair in pairs for text in pair], size)
    build(ENCODER, sizes).save_pretrained(folder)
    save_tokenizer(folder, tokenizer)


def embedder(folder: Path, device: str = "cpu", *, attention: str = "sdpa") -> Any:
    """Return a SentenceTransformer with mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(str(folder), model_kwargs={"attn_implementation": attention})
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[transformer, pooling], device=device)
    model.max_seq_length = LONGEST
    return model.train()


def ranking_loss(model: Any, batch: Sequence[Pair]) -> Tensor:
    """Compute MultipleNegativesRankingLoss of a batch, tokenization included."""
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    columns = [tokenized(model, [pair[side] for pair in batch]) for side in (0, 1)]
    loss: Tensor = MultipleNegativesRankingLoss(model)(columns, torch.empty(0))
    return loss


def tokenized(model: Any, texts: list[str]) -> dict[str, Tensor]:
    """Return the texts as the model takes them, on its device."""
    return {
        name: value.to(model.device) if isinstance(value, Tensor) else value
        for name, value in model.preprocess(texts).items()
    }


def pair_batches(
    pairs: Sequence[Pair], lengths: Sequence[int], size: int, *, grouped: bool, seed: int = 21
) -> list[list[Pair]]:
    """Cut the pairs into full batches, in random order.

    `lengths`: tokens of each pair; `grouped`: whether pairs of similar length meet in a batch.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(pairs))
    if grouped:
        order = order[np.argsort(np.asarray(lengths)[order], kind="stable")]
    batches = [
        [pairs[n] for n in order[first : first + size]]
        for first in range(0, len(order) - size + 1, size)
    ]
    generator.shuffle(batches)
    return batches
