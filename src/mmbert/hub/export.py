"""Export of a checkpoint as a Hugging Face folder, verified before it appears."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mmbert.data.shards.tokenizer_description import SpecialIds
from mmbert.hub.configuration import HuggingFaceModel, hugging_face_config
from mmbert.hub.for_libraries.sentence_transformers_files import write_sentence_transformers_files
from mmbert.hub.model_card import CardParts, model_card
from mmbert.hub.model_source import (
    PROVENANCE_NAME,
    CheckpointSource,
    open_model,
    refuse_causal,
)
from mmbert.hub.models import ModelBuilder
from mmbert.hub.output_folder import atomic_folder, write_json
from mmbert.hub.tokenizer import copy_tokenizer
from mmbert.hub.verification import LogitComparison, compare_logits
from mmbert.hub.weights import WEIGHTS_FILE, parameter_shapes, write_weights
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.recipe import Recipe, dump_recipe

Dtype = Literal["float32", "bfloat16"]
DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Addition = Callable[[Path, MaskedLanguageModel, LogitComparison], CardParts]
"""Adds files to the verified folder, from this project's model; returns parts of its card."""


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    dtype: Dtype = "float32",
    say: Callable[[str], None] = lambda line: None,
    add: Addition | None = None,
    *,
    allow_causal: bool = False,
) -> LogitComparison:
    """Export the model of `checkpoint` as the Hugging Face folder `out`.

    The folder contains model.safetensors (without the tied decoder), config.json, the tokenizer of
    the run, what sentence-transformers reads, a model card and provenance.json. It is written to a
    temporary folder and renamed once its logits in transformers match those of this project's
    model, and `add`, if given, has added to it.

    Args:
        allow_causal: export also a model whose last phase was causal.

    Raises:
        UserError: no valid checkpoint, one of a causal phase, `out` exists, or no space.
        ExportMismatchError: the logits differ.
    """
    source = open_model(checkpoint)
    if not allow_causal:
        refuse_causal(source)
    recipe, language_tokens, name = None, {}, out.name
    if isinstance(source, CheckpointSource):
        recipe = dump_recipe(_without_folders(source.recipe))
        language_tokens = dict(source.index.state.language_tokens)
        name = source.recipe.name
    return write_hugging_face_folder(
        out,
        name=name,
        model=source.model,
        parameters=source.items(),
        special_ids=source.special_ids,
        tokenizer=source.tokenizer,
        dtype=dtype,
        provenance=source.provenance,
        language_tokens=language_tokens,
        recipe=recipe,
        say=say,
        add=add,
    )


def _without_folders(recipe: Recipe) -> Recipe:
    """Return the recipe for publication: no copy_to, and of paths only the last component."""
    tokenizer, start = recipe.tokenizer, recipe.initial_checkpoint
    if tokenizer.path is not None:
        tokenizer = tokenizer.model_copy(update={"path": Path(tokenizer.path.name)})
    if start is not None:
        start = Path(start.name)
    return recipe.model_copy(
        update={
            "tokenizer": tokenizer,
            "initial_checkpoint": start,
            "data": recipe.data.without_place(),
        }
    )


def write_hugging_face_folder(
    out: Path,
    *,
    name: str,
    model: HuggingFaceModel,
    parameters: Iterable[tuple[str, Tensor]],
    special_ids: SpecialIds,
    tokenizer: Path,
    dtype: Dtype,
    provenance: dict[str, Any],
    language_tokens: dict[str, int],
    recipe: str | None,
    write_more: Callable[[Path], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
    add: Addition | None = None,
) -> LogitComparison:
    """Write a folder and verify it.

    Args:
        parameters: every (name, full float32 tensor), once.
        say: is told what of the tokenizer is left out or added.
        add: adds what depends on the verified model.
        write_more: writes further files to the folder, before it appears.
    """
    shapes = parameter_shapes(model.encoder)
    target = DTYPES[dtype]
    with atomic_folder(out) as folder:
        # Reference model from the source tensors, rounded to the file's dtype, to detect a wrong
        # file.
        builder = ModelBuilder(model.encoder)
        copied = _copy_to_builder(builder, parameters, target)
        write_weights(folder / WEIGHTS_FILE, shapes, copied, target)
        config = hugging_face_config(model, special_ids, dtype=dtype)
        write_json(folder / "config.json", config)
        write_json(folder / PROVENANCE_NAME, provenance)
        write_sentence_transformers_files(folder, model)
        for line in copy_tokenizer(
            tokenizer, folder, context=model.context, special_ids=special_ids
        ):
            say(line)
        ours = builder.finish()
        comparison = compare_logits(folder, ours, model)
        parts = CardParts() if add is None else add(folder, ours, comparison)
        card = model_card(
            name=name,
            model=model,
            parameters=sum(math.prod(shape) for shape in shapes.values()),
            dtype=dtype,
            mask_token=_mask_token(folder),
            comparison=comparison,
            provenance=provenance,
            language_tokens=language_tokens,
            recipe=recipe,
            parts=parts,
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        if write_more is not None:
            write_more(folder)
    return comparison


def _copy_to_builder(
    builder: ModelBuilder, parameters: Iterable[tuple[str, Tensor]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Pass the parameters through, copying each into the builder's model."""
    for name, tensor in parameters:
        builder.fill(name, tensor.to(dtype))
        yield name, tensor


def _mask_token(folder: Path) -> str:
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    token = config.get("mask_token", "[MASK]")
    return str(token["content"] if isinstance(token, dict) else token)
