"""Pretraining of multilingual encoders with annealed language learning (the mmBERT system)."""

from importlib import import_module
from typing import Any, TypeVar

__version__ = "0.2.0"

Model = TypeVar("Model")


def pack(model: Model, *, validate: Any = None) -> Model:
    """Put this project's packed encoder into a live Hugging Face ModernBERT, in place.

    Afterwards the model computes the real tokens of a padded batch alone, in training and
    inference. Weights, parameter names, signature, inputs and outputs stay what they were: padded
    batches in, padded outputs out. At padding outputs are 0, where the unpacked model has numbers
    without meaning. What the packed way cannot compute (masks with holes, `position_ids`,
    attention outputs, labels at padding, the loss of question answering over padding, queries that
    PyLate expands without attending to them) goes the unpacked way, logged once for each reason by
    the logger `mmbert.pack`.

    A masked language model in training mode, called with labels, returns a loss and no logits
    (None): they are never computed for all tokens. Its loss can be differentiated once. In
    evaluation mode logits are returned as ever. No packed model has second derivatives
    (`create_graph=True` is refused).

    Pack before handing the model to a trainer, DistributedDataParallel or torch.compile. Copies
    and pickles of a packed model are packed.

    Args:
        model: transformers' ModernBertModel, ModernBertForMaskedLM, -ForSequenceClassification,
            -ForTokenClassification or -ForQuestionAnswering, with weights of any dtype on any
            device; or a SentenceTransformer, CrossEncoder or PyLate model that holds one.
        validate: a batch, a dictionary as the model is called with (labels included, if any), or a
            list of texts for a SentenceTransformer. Packed and unpacked are compared on it: in
            float32 loss within 1e-6, outputs 2e-6 and gradients 5e-6 of the largest entry; in half
            precision errors at most 1.5 times the unpacked model's own.

    Returns:
        `model`.

    Raises:
        mmbert.errors.ModelError: the model is unknown, packed already, or has inside what would be
            computed wrongly: LoRA layers, exchanged layers, hooks, dropout, weights sharded by ZeRO
            3 or FSDP. Or `validate` found a difference. The model is then as it was. Calls raise it
            too, for what was changed after packing, and for a batch without a real token.
    """
    packed: Model = import_module("mmbert.hub.live").pack(model, validate=validate)
    return packed


def unpack(model: Model) -> Model:
    """Take the packed encoder out of `model`, in place, and return it.

    Raises mmbert.errors.ModelError if it is not packed.
    """
    unpacked: Model = import_module("mmbert.hub.live").unpack(model)
    return unpacked
