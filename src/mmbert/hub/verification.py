"""Verification of a Hugging Face folder: logits in transformers against this project's model."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from mmbert.hub.configuration import HuggingFaceModel
from mmbert.hub.models import load_masked_language_model, pack
from mmbert.model.modernbert import MaskedLanguageModel

# Relative to the largest logit. Both models compute in float32 from the same weights and differ in
# the order of summation: by 6e-7 to 9e-7 in random models of 22 layers of widths 384 and 768.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Difference:
    """Largest difference between what two models compute in float32, and the largest value."""

    max_difference: float
    max_value: float

    @property
    def relative(self) -> float:
        """Difference relative to the largest value."""
        if self.max_value == 0:
            return math.inf if self.max_difference else 0.0
        return self.max_difference / self.max_value


@dataclass(frozen=True)
class LogitComparison(Difference):
    """Difference of the logits over all compared documents."""

    documents: int
    tokens: int

    def __str__(self) -> str:
        return (
            f"{self.documents} documents, {self.tokens} tokens: maximum difference"
            f" {self.max_difference:.2e} ({self.relative:.1e} of the largest logit,"
            f" {self.max_value:.2f})"
        )


class ExportMismatchError(RuntimeError):
    """The logits of the folder differ from those of its source model: a bug, not a user error."""

    def __init__(self, folder: Path, comparison: LogitComparison) -> None:
        super().__init__(f"logits of {folder} differ from the trained model: {comparison}")
        self.comparison = comparison


def compare_logits(
    folder: Path, ours: MaskedLanguageModel, model: HuggingFaceModel
) -> LogitComparison:
    """Compare the logits of AutoModelForMaskedLM from `folder` with those of `ours`.

    The documents have fixed random ids; one is longer than the local attention window. They are
    packed in one row for `ours`, and separate for transformers. Raises ExportMismatchError if the
    logits differ by more than TOLERANCE of the largest logit.
    """
    documents = probe_documents(model)
    packed = ours.logits(pack(documents), rotary_bases=model.rotary_bases, all_tokens=True)
    theirs = load_masked_language_model(folder, torch.float32)
    difference = largest = 0.0
    start = 0
    for document in documents:
        with torch.no_grad():
            logits = theirs(
                input_ids=document[None],
                attention_mask=torch.ones_like(document)[None],
                return_dict=True,
            ).logits[0]
        mine = packed[start : start + len(document)]
        start += len(document)
        difference = max(difference, float((logits - mine).abs().max()))
        largest = max(largest, float(logits.abs().max()))
    result = LogitComparison(difference, largest, len(documents), start)
    if not difference <= TOLERANCE * largest:  # also if NaN
        raise ExportMismatchError(folder, result)
    return result


def probe_documents(model: HuggingFaceModel) -> list[torch.Tensor]:
    """Return documents of random ids: short, about the window's size, and longer than it."""
    window = model.encoder.local_window
    lengths = (5, window // 2 + 3, 2 * window + 37)
    generator = torch.Generator().manual_seed(4)
    return [
        torch.randint(0, model.encoder.vocab_size, (min(n, model.context),), generator=generator)
        for n in lengths
    ]
