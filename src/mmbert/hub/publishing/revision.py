"""The folder of one revision: an export with ONNX graphs, and how they were checked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmbert import __version__
from mmbert.files import write_json
from mmbert.hub.export import export_checkpoint
from mmbert.hub.for_libraries.int8_graph import (
    LEAST_COSINE,
    TEXTS,
    compare_vectors,
    write_int8_graph,
)
from mmbert.hub.for_libraries.onnx_graphs import compare_hidden_states, write_encoder_graph
from mmbert.hub.model_card import CardParts
from mmbert.hub.model_source import CheckpointSource
from mmbert.hub.publishing.card_sections import FLOAT32_GRAPH, INT8_GRAPH, card_sections
from mmbert.hub.publishing.losses import RunLosses
from mmbert.hub.publishing.publication import PUBLICATION_NAME, Publication, identity_of
from mmbert.hub.verification import Difference, LogitComparison
from mmbert.model.modernbert import MaskedLanguageModel


@dataclass(frozen=True)
class Contents:
    """What goes into every revision of a run beside its checkpoint."""

    losses: RunLosses
    onnx: bool = True
    documents: Sequence[np.ndarray] | None = None
    """Ids of the held-out documents that an int8 graph is checked on; None: no int8 graph."""
    license: str | None = None
    allow_causal: bool = False
    """Whether checkpoints of causal phases are among the revisions."""


def write_revision(
    out: Path, checkpoint: Path, contents: Contents, say: Callable[[str], None]
) -> Publication:
    """Write the revision of `checkpoint` as the folder `out`, which appears once it is checked.

    A float32 graph or logits beyond their tolerance are an error. An int8 graph below LEAST_COSINE
    over TEXTS held-out texts, or with fewer texts, is left out, and the reason is in the result.

    Raises:
        UserError: the checkpoint is damaged, `out` exists, or no space.
        ExportMismatchError: the logits differ.
        GraphMismatchError: the hidden states of the float32 graph differ.
    """
    written: list[Publication] = []

    def add(folder: Path, ours: MaskedLanguageModel, logits: LogitComparison) -> CardParts:
        publication = _add_graphs(folder, ours, logits, checkpoint, contents)
        write_json(folder / PUBLICATION_NAME, publication.model_dump())
        written.append(publication)
        return CardParts(card_sections(out.name, publication), contents.license)

    export_checkpoint(checkpoint, out, "float32", say, add, allow_causal=contents.allow_causal)
    return written[0]


def _add_graphs(
    folder: Path,
    ours: MaskedLanguageModel,
    logits: LogitComparison,
    checkpoint: Path,
    contents: Contents,
) -> Publication:
    source = CheckpointSource(checkpoint)
    model, ids = source.model, source.special_ids
    hidden_states = int8 = None
    left_out: dict[str, str] = {}
    if contents.onnx:
        graph = folder / FLOAT32_GRAPH
        write_encoder_graph(folder, graph)
        hidden_states = compare_hidden_states(graph, ours, model, ids.pad)
    if contents.onnx and contents.documents is not None:
        documents = [
            torch.tensor([ids.begin, *document[: model.context - 2].tolist(), ids.end])
            for document in contents.documents
        ]
        if len(documents) < TEXTS:
            left_out[INT8_GRAPH] = (
                f"it is checked on {TEXTS} held-out texts, and the shards have {len(documents)}"
            )
        else:
            quantized = folder / INT8_GRAPH
            write_int8_graph(graph, quantized)
            int8 = compare_vectors(quantized, ours, model, documents, ids.pad)
            if not int8.mean_cosine >= LEAST_COSINE:  # also if NaN
                quantized.unlink()
                left_out[INT8_GRAPH] = (
                    f"the mean cosine of its vectors over {int8.texts} held-out texts is"
                    f" {int8.mean_cosine:.4f}, below {LEAST_COSINE}"
                )
    return Publication(
        writer=f"mmbert {__version__}",
        recipe=source.recipe.name,
        variant=source.provenance.get("variant"),
        step=source.index.state.step,
        objective=model.objective,
        checkpoint=identity_of(checkpoint),
        logits=Difference(logits.max_difference, logits.max_value),
        hidden_states=hidden_states,
        int8=int8,
        left_out=left_out,
        losses=contents.losses.at(source.index.state.step),
    )
