"""A model on disk of either kind: a training checkpoint, or a Hugging Face folder."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mmbert.checkpoint.format import INDEX_NAME, Index
from mmbert.checkpoint.reader import CheckpointReader, problem_with
from mmbert.data.shards.tokenizer_description import SpecialIds, read_tokenizer_description
from mmbert.errors import UserError
from mmbert.hub.configuration import HuggingFaceModel, read_configuration
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.hub.weights import EMBEDDING, HuggingFaceWeights, parameter_shapes
from mmbert.model.config import encoder_config
from mmbert.recipe import Recipe, parse_recipe

PROVENANCE_NAME = "provenance.json"


class ModelSource(ABC):
    """Sizes, rotary bases and tokenizer of a model, and its parameters one at a time.

    `model` describes it; `tokenizer` is the folder with its tokenizer's files; `special_ids` the
    tokenizer's ids by role; `provenance` (JSON-able) says where it came from.
    """

    path: Path
    model: HuggingFaceModel
    tokenizer: Path
    special_ids: SpecialIds
    provenance: dict[str, Any]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's name and full shape, in the order of the forward pass."""
        return parameter_shapes(self.model.encoder)

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """The full parameter `name`, float32 on the CPU."""

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every (name, full float32 tensor), one in memory at a time."""
        for name in self.shapes:
            yield name, self.read(name)


class CheckpointSource(ModelSource):
    """A checkpoint of a training run (RUN/checkpoints/step-…); checksums are compared on opening.

    The rotary bases are those of the phase it was trained in last, and the context is the longest
    it has seen; `recipe` is the resolved recipe and `index` the checkpoint's own description.
    """

    def __init__(self, path: Path) -> None:
        problem = problem_with(path)
        if problem is not None:
            raise problem
        self.path = path
        self.reader = CheckpointReader(path)
        self.index: Index = self.reader.index
        state = self.index.state
        self.recipe: Recipe = parse_recipe(state.recipe, origin=f"{path}/{INDEX_NAME}")
        vocabulary_size = self.index.parameters[EMBEDDING].shape[0]
        names = [phase.name for phase in self.recipe.phases]
        last = names.index(state.phase)
        self.model = HuggingFaceModel(
            encoder=encoder_config(self.recipe.model, vocabulary_size),
            rotary_bases=self.recipe.phases[last].rotary_bases,
            context=max(phase.context for phase in self.recipe.phases[: last + 1]),
        )
        saved = {name: entry.shape for name, entry in self.index.parameters.items()}
        if saved != self.shapes:
            differing = sorted(
                name
                for name in saved.keys() | self.shapes.keys()
                if saved.get(name) != self.shapes.get(name)
            )
            raise UserError(
                f"{path}/{INDEX_NAME}: the parameters are not those of its recipe's model:"
                f" {', '.join(differing[:5])}",
                remedy="the checkpoint was not written by this program as it is; restore it",
            )
        self.tokenizer = path.parent.parent / (state.tokenizer or "tokenizer")
        if not self.tokenizer.is_dir():
            raise UserError(
                f"{path} belongs to a run whose tokenizer is not at {self.tokenizer}",
                remedy="keep checkpoints in their run's folder (RUN/checkpoints/step-…), beside"
                " RUN/tokenizer",
            )
        description = read_tokenizer_description(self.tokenizer)
        self.special_ids = description.special_ids
        self.provenance = {
            "kind": "checkpoint",
            "path": _without_folders(path),
            "recipe": self.recipe.name,
            "step": state.step,
            "tokens": state.tokens,
            "phase": state.phase,
            "writer": self.index.writer,
            "tokenizer": description.fingerprint,
        }
        if self.recipe.initial_checkpoint is not None:
            self.provenance["started_from"] = _origin_of_initial_checkpoint(
                self.recipe.initial_checkpoint
            )

    def read(self, name: str) -> torch.Tensor:
        """The full master weight."""
        return self.reader.full(name)


class HuggingFaceSource(ModelSource):
    """A Hugging Face folder with a ModernBERT masked language model, every tensor checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = read_configuration(path)
        self.weights = HuggingFaceWeights(path, self.model.encoder)
        self.tokenizer = path
        special_ids = FastTokenizer(path).special_ids
        if special_ids is None:
            raise UserError(
                f"the tokenizer in {path} does not name all of its pad, begin (cls or bos), end"
                " (sep or eos), unknown and mask tokens",
                remedy="set them in its tokenizer_config.json",
            )
        self.special_ids = special_ids
        self.provenance = {"kind": "hugging_face", "path": path.resolve().name}
        if (path / PROVENANCE_NAME).is_file():
            self.provenance["made_from"] = _read_provenance(path)

    def read(self, name: str) -> torch.Tensor:
        """The stored weight as float32; UserError if it is not finite."""
        return self.weights.read(name)


def _read_provenance(folder: Path) -> Any:
    return json.loads((folder / PROVENANCE_NAME).read_text(encoding="utf-8"))


def _origin_of_initial_checkpoint(imported: Path) -> Any:
    """What the folder that training began from says of itself; its name if it is elsewhere now."""
    if (imported / PROVENANCE_NAME).is_file():
        return _read_provenance(imported)
    return {"kind": "import", "path": imported.name}


def _without_folders(checkpoint: Path) -> str:
    """RUN/checkpoints/step-…: provenance is published, the folders above it are not."""
    return "/".join(checkpoint.resolve().parts[-3:])


def open_model(path: Path) -> CheckpointSource | HuggingFaceSource:
    """The model at `path`; UserError says what is wrong with it, or that there is none."""
    if (path / INDEX_NAME).is_file():
        return CheckpointSource(path)
    if (path / "checkpoints").is_dir():
        newest = sorted((path / "checkpoints").glob("step-*"))
        hint = f", such as {newest[-1]}" if newest else ""
        raise UserError(
            f"{path} is a run, not one of its checkpoints",
            remedy=f"name a checkpoint folder{hint}",
        )
    if not path.is_dir():
        raise UserError(
            f"there is no folder {path}",
            remedy="give a checkpoint (RUN/checkpoints/step-…) or a Hugging Face folder",
        )
    return HuggingFaceSource(path)
