"""Cross-lingual retrieval: does a sentence's vector find its translation among all others?

Aligned texts are TSV files, one per language: an identifier (of a verse, say), a tab, the text.
Lines with the same identifier in two files are translations of each other.
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
    """Of `sentences` aligned ones, the share whose nearest neighbour is the right one.

    `forward` looks from the pivot into the language, `backward` the other way; `chance` is what
    guessing gives.
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
    """Accuracy between the first file (the pivot) and each of the others, by cosine similarity.

    The first `max_sentences` identifiers that a pair shares are used. `centered` subtracts each
    language's mean vector first, which takes out much of what merely tells languages apart.
    UserError: fewer than two files, a malformed line, a pair that shares fewer than two lines.
    """
    if len(files) < 2:
        raise UserError(
            "retrieval needs at least two aligned files", remedy="name one TSV file per language"
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
    """{identifier: text} of one file; UserError names file and line of whatever is wrong."""
    found: dict[str, str] = {}
    for number, key, text in read_lines(path, "identifier"):
        if key in found:
            raise UserError(
                f"{path}:{number}: the identifier {key!r} came before",
                remedy="identifiers must be unique within a file",
            )
        found[key] = text
    return found


def nearest_neighbor_accuracy(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Shares of rows of `first` whose nearest row of `second` has its number, and the reverse.

    Both [n, d], rows of length 1. A tie counts as wrong unless the right row comes first.
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
    """One line per language, and their mean."""
    table = Table(title=f"Retrieval from and to {pivot}", title_justify="left")
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
