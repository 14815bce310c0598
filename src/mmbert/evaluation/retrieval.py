"""Cross-lingual sentence retrieval: nearest-neighbor search for translations.

Aligned texts are TSV files, one per language, with columns identifier (for example, of a verse) and
text. Lines with the same identifier are translations of each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmbert.command_line.tables import WholeTable
from mmbert.errors import ArgumentError, EvaluationDataError
from mmbert.evaluation.loaded_model import LoadedModel
from mmbert.evaluation.tsv import read_lines


@dataclass(frozen=True)
class RetrievalAccuracy:
    """Fraction of `sentences` aligned sentences whose nearest neighbor is their translation.

    `forward` is the accuracy from the pivot to the language, `backward` from the language to the
    pivot, `chance` that of random guessing.
    """

    language: str
    sentences: int
    forward: float
    backward: float

    @property
    def chance(self) -> float:
        """Accuracy of random guessing: 1 / sentences."""
        return 1 / self.sentences


def retrieval_accuracies(
    model: LoadedModel,
    files: Sequence[Path],
    *,
    max_sentences: int = 1000,
    centered: bool = True,
    max_length: int | None = 256,
) -> list[RetrievalAccuracy]:
    """Measure retrieval by cosine similarity between the first file (pivot) and each other file.

    Args:
        model: model to evaluate.
        files: aligned files, one per language.
        max_sentences: maximum number of sentences per pair, in the order of the pivot file.
        centered: whether to subtract each language's mean vector, which reduces the
            language-specific part of the vectors.
        max_length: maximum tokens per sentence; longer ones are truncated.

    Raises:
        UserError: fewer than two files, a malformed line, a duplicate identifier, or a pair with
            fewer than two shared identifiers.
    """
    if len(files) < 2:
        raise ArgumentError(
            "retrieval needs at least two aligned files", remedy="give one TSV file per language"
        )
    texts = {path: read_aligned(path) for path in files}
    pivot, *others = files
    accuracies = []
    for other in others:
        shared = [key for key in texts[pivot] if key in texts[other]][:max_sentences]
        if len(shared) < 2:
            raise EvaluationDataError(
                f"{pivot} and {other} share {len(shared)} identifiers",
                remedy="aligned files must use the same identifiers for the same sentences",
            )
        vectors = [
            _unit_vectors(
                model.sentence_vectors([texts[path][key] for key in shared], max_length=max_length),
                centered,
            )
            for path in (pivot, other)
        ]
        forward, backward = nearest_neighbor_accuracy(*vectors)
        accuracies.append(RetrievalAccuracy(other.stem, len(shared), forward, backward))
    return accuracies


def read_aligned(path: Path) -> dict[str, str]:
    """Read {identifier: text}; a UserError names file and line of the first error."""
    found: dict[str, str] = {}
    for number, key, text in read_lines(path, "identifier"):
        if key in found:
            raise EvaluationDataError(
                f"{path}:{number}: duplicate identifier {key!r}",
                remedy="identifiers must be unique within a file",
            )
        found[key] = text
    return found


def nearest_neighbor_accuracy(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Return the fraction of rows of `first` nearest to the same row of `second`, and vice versa.

    Both are [n, d] with unit rows. In a tie, the first row counts as the nearest.
    """
    similarity = first @ second.T
    numbers = torch.arange(len(first))
    forward = (similarity.argmax(1) == numbers).double().mean()
    backward = (similarity.argmax(0) == numbers).double().mean()
    return float(forward), float(backward)


def _unit_vectors(vectors: Tensor, centered: bool) -> Tensor:
    if centered:
        vectors = vectors - vectors.mean(0)
    return torch.nn.functional.normalize(vectors, dim=1)


def render_retrieval(pivot: str, accuracies: Sequence[RetrievalAccuracy]) -> WholeTable:
    """Build a table with one row per language and their mean."""
    table = WholeTable(title=f"Retrieval accuracy from and to {pivot}", title_justify="left")
    table.add_column("language")
    for heading in ("sentences", f"{pivot} → it", f"it → {pivot}", "chance"):
        table.add_column(heading, justify="right")
    for entry in accuracies:
        table.add_row(
            entry.language,
            f"{entry.sentences:,}",
            f"{entry.forward:.1%}",
            f"{entry.backward:.1%}",
            f"{entry.chance:.1%}",
        )
    count = len(accuracies)
    table.add_row(
        "mean",
        "",
        f"{sum(entry.forward for entry in accuracies) / count:.1%}",
        f"{sum(entry.backward for entry in accuracies) / count:.1%}",
        f"{sum(entry.chance for entry in accuracies) / count:.1%}",
        style="bold",
    )
    return table
