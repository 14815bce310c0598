"""Cross-lingual retrieval: nearest-neighbor search for the translation of a sentence.

Aligned texts are TSV files, one per language: identifier (of a verse, for example), tab, text.
Lines with the same identifier are translations of each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor

from mmbert.errors import UserError
from mmbert.evaluation.loaded_model import LoadedModel
from mmbert.evaluation.tsv import read_lines


@dataclass(frozen=True)
class RetrievalAccuracy:
    """Fraction of `sentences` aligned sentences whose nearest neighbor is their translation.

    `forward` searches from the pivot in the language, `backward` the other way; `chance` is the
    accuracy of guessing.
    """

    language: str
    sentences: int
    forward: float
    backward: float

    @property
    def chance(self) -> float:
        """1 / sentences."""
        return 1 / self.sentences


def retrieval_accuracies(
    model: LoadedModel,
    files: Sequence[Path],
    *,
    max_sentences: int = 1000,
    centered: bool = True,
    max_length: int | None = 256,
) -> list[RetrievalAccuracy]:
    """Measure retrieval between the first file (the pivot) and each other, by cosine similarity.

    Args:
        model: the model.
        files: aligned files, one per language.
        max_sentences: use this many of the first identifiers that a pair shares.
        centered: subtract the mean vector of each language first, which removes much of what only
            distinguishes languages.
        max_length: truncate sentences to this many tokens.

    Raises:
        UserError: fewer than two files, a malformed line, or a pair with fewer than two shared
            identifiers.
    """
    if len(files) < 2:
        raise UserError(
            "retrieval needs at least two aligned files", remedy="give one TSV file per language"
        )
    texts = {path: read_aligned(path) for path in files}
    pivot, *others = files
    accuracies = []
    for other in others:
        shared = [key for key in texts[pivot] if key in texts[other]][:max_sentences]
        if len(shared) < 2:
            raise UserError(
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
    """Read {identifier: text}; UserError names file and line of the first problem."""
    found: dict[str, str] = {}
    for number, key, text in read_lines(path, "identifier"):
        if key in found:
            raise UserError(
                f"{path}:{number}: duplicate identifier {key!r}",
                remedy="identifiers must be unique within a file",
            )
        found[key] = text
    return found


def nearest_neighbor_accuracy(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Return the fraction of rows of `first` nearest to the same row of `second`, and vice versa.

    Both are [n, d] with unit rows. A tie counts as wrong unless the correct row comes first.
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


def render_retrieval(pivot: str, accuracies: Sequence[RetrievalAccuracy]) -> Table:
    """Build a table with one row per language and their mean."""
    table = Table(title=f"Retrieval accuracy from and to {pivot}", title_justify="left")
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
