"""The encoder of a Hugging Face folder as an ONNX graph, compared with this project's model."""

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmbert.errors import PackageError
from mmbert.hub.configuration import HuggingFaceModel
from mmbert.hub.models import load_masked_language_model, pack
from mmbert.hub.verification import Difference, probe_documents
from mmbert.model.modernbert import MaskedLanguageModel

TOLERANCE = 1e-4
"""Of the largest value of a hidden state. Measured: 1e-6."""
INPUTS = ("input_ids", "attention_mask")
OUTPUT = "last_hidden_state"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# A protobuf file ends at 2 GiB. Weights beside a graph have the suffix that optimum looks for.
_LARGEST_FILE = 3 * 2**29
_DATA_SUFFIX = "_data"


class GraphMismatchError(RuntimeError):
    """The hidden states of a graph differ from those of its source: a bug, not a user error."""


def require_onnx_packages() -> None:
    """Raise PackageError, with the extra to install, unless the packages of ONNX are installed."""
    missing = []
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise PackageError(
            f"ONNX graphs need {', '.join(missing)}, which cannot be imported",
            remedy="pip install 'mmbert-train[publish]', or leave the graphs out with"
            " --without-onnx",
        )


def write_encoder_graph(folder: Path, out: Path) -> None:
    """Write the encoder in `folder`, in float32, as the ONNX graph `out`.

    Inputs are `input_ids` and `attention_mask`, int64 [batch, sequence] of any sizes; the output is
    `last_hidden_state`, float32 [batch, sequence, d], after the final norm: what sentence-
    transformers pools. Weights of more than 1.5 GiB lie beside it, in `<out>_data`.
    """
    body = load_masked_language_model(folder, torch.float32).model
    assert isinstance(body, nn.Module)
    example = {name: torch.ones(2, 16, dtype=torch.int64) for name in INPUTS}
    with quiet():
        program = torch.onnx.export(
            _Encoder(body).eval(),
            kwargs=example,
            dynamic_shapes={name: {0: "batch", 1: "sequence"} for name in INPUTS},
            output_names=[OUTPUT],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with paths of this machine
    out.parent.mkdir(parents=True, exist_ok=True)
    _save(program.model, out)


def _save(graph: Any, out: Path) -> None:
    import onnx_ir

    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values())
    beside = out.name + _DATA_SUFFIX if size > _LARGEST_FILE else None
    onnx_ir.save(graph, out, external_data=beside)


class _Encoder(nn.Module):
    """The body alone, with the inputs and the output of the graph."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.body(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True
        ).last_hidden_state
        return hidden


class GraphSession:
    """A graph in onnxruntime, on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def hidden_states(self, documents: Sequence[Tensor], pad: int) -> list[Tensor]:
        """Return the float32 [T, d] of each document (int64 [T]), run as one padded batch."""
        lengths = torch.tensor([len(document) for document in documents])
        ids = nn.utils.rnn.pad_sequence(list(documents), batch_first=True, padding_value=pad)
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        values = dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True))
        (found,) = self._session.run([OUTPUT], values)
        return [
            torch.from_numpy(states[:length])
            for states, length in zip(found, lengths.tolist(), strict=True)
        ]


def compare_hidden_states(
    path: Path, ours: MaskedLanguageModel, model: HuggingFaceModel, pad: int
) -> Difference:
    """Compare the hidden states of the float32 graph `path` with those of `ours`.

    The documents are those of the logits, one of them longer than the local window: together in a
    padded batch, and each alone. Raises GraphMismatchError beyond TOLERANCE.
    """
    documents = probe_documents(model)
    packed = ours.hidden_states(pack(documents), rotary_bases=model.rotary_bases)
    expected = packed.split([len(document) for document in documents])
    session = GraphSession(path)
    found = [
        *session.hidden_states(documents, pad),
        *(session.hidden_states([document], pad)[0] for document in documents),
    ]
    difference = max(
        float((theirs - mine).abs().max())
        for theirs, mine in zip(found, [*expected, *expected], strict=True)
    )
    result = Difference(difference, float(packed.abs().max()))
    if not difference <= TOLERANCE * result.max_value:  # also if NaN
        raise GraphMismatchError(
            f"hidden states of {path} differ from the trained model by {difference:.2e}"
            f" ({result.relative:.1e} of the largest)"
        )
    return result


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the warnings of the exporters, which are about other models, and their log handler."""
    handlers = logging.root.handlers[:]
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        logging.root.handlers[:] = handlers  # `logging.warning` adds one where there is none
