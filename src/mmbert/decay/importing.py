"""Import of a decay's start: the model, or the training state after a comparison with the model."""

import shutil
from collections.abc import Callable
from pathlib import Path

from mmbert.decay.filled_recipe import first_phase
from mmbert.decay.layout import DecayFolder
from mmbert.decay.pinned_models import pinned_model
from mmbert.decay.request import DecayRequest
from mmbert.errors import ModelError, TokenizerError
from mmbert.hub.configuration import HuggingFaceModel
from mmbert.hub.importing.composer.configuration import read_model
from mmbert.hub.importing.composer.import_checkpoint import (
    ComposerImportOptions,
    import_composer_checkpoint,
)
from mmbert.hub.importing.composer.reading import read_checkpoint
from mmbert.hub.importing.composer.tokenizer_files import write_tokenizer
from mmbert.hub.importing.composer.weights import renamed_tensors
from mmbert.hub.importing.import_model import import_model
from mmbert.hub.model_source import ModelSource, open_model
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.hub.weights import EMBEDDING
from mmbert.merging.merge import check_compatible

Say = Callable[[str], None]


def import_start(request: DecayRequest, folder: DecayFolder, say: Say) -> None:
    """Import the request's state, or else its model, to `folder.imported`.

    Raises:
        ModelError: state or `onto` are of another architecture or tokenizer than the model, or the
            model to merge with ended in a causal phase.
        UserError: a model or the state cannot be imported.
    """
    model = pinned_model(folder, request.model, say)
    # Imported beside and moved once it has been compared: the folder's name says that it is done.
    temporary = folder.path / ".importing"
    shutil.rmtree(temporary, ignore_errors=True)
    out = temporary / folder.imported.name
    try:
        if request.state is None:
            lines = import_model(model, out).lines()
        else:
            own, state = open_model(model), Path(request.state)
            _check_state(state, own, temporary / "tokenizer")
            options = ComposerImportOptions(
                phase=first_phase(request), tokens=0, files=model, context=own.model.context
            )
            lines = import_composer_checkpoint(state, out, options).lines()
        for line in lines:
            say(line)
        merged = open_model(model)
        if request.onto is not None:
            merged = open_model(pinned_model(folder, request.onto, say))
            _check_onto(merged, open_model(model))
        if request.merge.method != "none":
            _check_masked(merged)
        out.rename(folder.imported)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def start_configuration(request: DecayRequest, folder: DecayFolder, say: Say) -> HuggingFaceModel:
    """Return the configuration to train with: that of the model, also if a state was imported.

    A state's file has the rotary bases that its training began with.
    """
    source = folder.imported
    if request.state is not None:
        source = pinned_model(folder, request.model, say)
    return open_model(source).model


def _check_state(path: Path, model: ModelSource, temporary: Path) -> None:
    """Raise UserError unless both have the same sizes, window, layer pattern and vocabulary."""
    state = read_checkpoint(path)
    rows = len(renamed_tensors(path, state["model"]).get(EMBEDDING, ()))
    ours = read_model(path, state, rows, model.path, None).model.encoder
    theirs = model.model.encoder
    remedy = "give the state that the model was made from, or the model that belongs to it"
    for key in _COMPARED:
        first, second = getattr(ours, key), getattr(theirs, key)
        if first != second:
            raise ModelError(
                f"{path} is not a state of {model.path}: its {key} is {first}, not {second}",
                remedy=remedy,
            )
    temporary.mkdir(parents=True)
    if write_tokenizer(path, state, temporary):
        own = FastTokenizer(temporary).vocabulary
        if own != FastTokenizer(model.tokenizer).vocabulary:
            raise TokenizerError(
                f"{path} is not a state of {model.path}: their tokenizers differ", remedy=remedy
            )


_COMPARED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "local_window",
    "global_attention_every",
)


def _check_masked(merged: ModelSource) -> None:
    """Check before the training that the merge after it will be of encoders."""
    if merged.model.objective != "masked":
        raise ModelError(
            f"{merged.path} ended its training in a causal phase: the result cannot be merged with "
            "it",
            remedy="leave out --merge, or give --onto a model that ended in a masked phase",
        )


def _check_onto(onto: ModelSource, model: ModelSource) -> None:
    """Check before the training what the merge after it will require."""
    check_compatible(onto, model)
    if onto.model.rotary_bases != model.model.rotary_bases:
        raise ModelError(
            f"{onto.path} and {model.path} have different rotary bases",
            remedy="merge onto a model that ended in the same phase",
        )
