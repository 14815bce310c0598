"""The encoder's ONNX graph with 8-bit weights, and how near its vectors are to the model's own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmbert.hub.configuration import HuggingFaceModel
from mmbert.hub.for_libraries.onnx_graphs import GraphSession, quiet
from mmbert.hub.models import pack
from mmbert.model.modernbert import MaskedLanguageModel

LEAST_COSINE = 0.98
"""Mean cosine below which an int8 graph is not published."""
TEXTS = 200
"""Held-out texts that the cosine is taken over."""
_BATCH = 8


@dataclass(frozen=True)
class VectorComparison:
    """Cosines between the vectors of a graph and those of the model, over some texts."""

    texts: int
    mean_cosine: float
    lowest_cosine: float


def write_int8_graph(float32: Path, out: Path) -> None:
    """Quantize the weights of the graph `float32` to 8 bits, as the graph `out`.

    Matrices have a scale for each output channel, the embedding has one. Activations are quantized
    as they come. Weights take 7 bits of range: on processors without VNNI the sums of full 8 bits
    would saturate, and a graph that was checked on one machine would be worse on another.
    """
    with quiet():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            float32, out, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
        )


def compare_vectors(
    path: Path,
    ours: MaskedLanguageModel,
    model: HuggingFaceModel,
    documents: Sequence[Tensor],
    pad: int,
) -> VectorComparison:
    """Compare the vectors (mean hidden state of a text) of the graph `path` with those of `ours`.

    `documents` (int64 [T] with begin and end) go through the graph in padded batches of 8 of
    similar lengths, and through `ours`, in float32, in packed rows.
    """
    session = GraphSession(path)
    cosines = []
    for batch in _batches(documents):
        row = ours.hidden_states(pack(batch), rotary_bases=model.rotary_bases)
        expected = row.split([len(document) for document in batch])
        found = session.hidden_states(batch, pad)
        for theirs, mine in zip(found, expected, strict=True):
            cosine = torch.cosine_similarity(theirs.double().mean(0), mine.double().mean(0), dim=0)
            cosines.append(float(cosine))
    values = torch.tensor(cosines, dtype=torch.float64)
    return VectorComparison(len(cosines), float(values.mean()), float(values.min()))


def _batches(documents: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    ordered = sorted(documents, key=len)
    for first in range(0, len(ordered), _BATCH):
        yield ordered[first : first + _BATCH]
