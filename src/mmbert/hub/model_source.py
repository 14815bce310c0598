"""Models on disk behind one interface: training checkpoints and Hugging Face folders."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mmbert.checkpoint.format import INDEX_NAME, Index
from mmbert.checkpoint.reader import CheckpointReader, verify_checkpoint
from mmbert.data.shards.tokenizer_description import SpecialIds, read_tokenizer_description
from mmbert.errors import CheckpointError, ModelError, TokenizerError
from mmbert.files import parse_json
from mmbert.hub.configuration import HuggingFaceModel, read_configuration
from mmbert.hub.hub_name import cached_model
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.hub.weights import EMBEDDING, HuggingFaceWeights, parameter_shapes
from mmbert.model.config import encoder_config
from mmbert.recipe import Recipe, parse_recipe
from mmbert.training.run_folder import ORIGIN_NAME, variant_of

PROVENANCE_NAME = "provenance.json"


class ModelSource(ABC):
    """Configuration and tokenizer of a model, and its parameters one at a time.

    Attributes:
        path: the checkpoint or folder.
        model: its configuration.
        tokenizer: the folder of its tokenizer files.
        special_ids: token ids by role.
        provenance: origin of the model, JSON-serializable.
    """

    path: Path
    model: HuggingFaceModel
    tokenizer: Path
    special_ids: SpecialIds
    provenance: dict[str, Any]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Full shape by parameter name, in the order of the forward pass."""
        return parameter_shapes(self.model.encoder)

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """Return the full parameter `name`, float32 on the CPU."""

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every (name, full float32 tensor), with one in memory at a time."""
        for name in self.shapes:
            yield name, self.read(name)


class CheckpointSource(ModelSource):
    """A checkpoint of a training run (RUN/checkpoints/step-…), verified on opening.

    The rotary bases and the objective are those of its phase, and the context is the longest of the
    phases so far.
    `recipe` is the resolved recipe and `index` the index of the checkpoint.
    """

    def __init__(self, path: Path) -> None:
        problem = verify_checkpoint(path)
        if problem is not None:
            raise problem
        self.path = path
        self.reader = CheckpointReader(path)
        self.index: Index = self.reader.index
        state = self.index.state
        self.recipe: Recipe = parse_recipe(state.recipe, origin=f"{path}/{INDEX_NAME}")
        embedding = self.index.parameters.get(EMBEDDING)
        names = [phase.name for phase in self.recipe.phases]
        if embedding is None or not embedding.shape or state.phase not in names:
            raise CheckpointError(
                f"{path}/{INDEX_NAME}: no embedding, or no phase {state.phase!r} in its recipe",
                remedy="restore it from a copy, or use another checkpoint",
            )
        vocabulary_size, last = embedding.shape[0], names.index(state.phase)
        self.model = HuggingFaceModel(
            encoder=encoder_config(self.recipe.model, vocabulary_size),
            rotary_bases=self.recipe.phases[last].rotary_bases,
            context=max(phase.context for phase in self.recipe.phases[: last + 1]),
            objective=self.recipe.phases[last].objective,
        )
        saved = {name: entry.shape for name, entry in self.index.parameters.items()}
        if saved != self.shapes:
            differing = sorted(
                name
                for name in saved.keys() | self.shapes.keys()
                if saved.get(name) != self.shapes.get(name)
            )
            raise CheckpointError(
                f"{path}/{INDEX_NAME}: parameters do not match the model of its recipe:"
                f" {', '.join(differing[:5])}",
                remedy="the checkpoint was modified; restore it from a copy",
            )
        self.tokenizer = path.parent.parent / (state.tokenizer or "tokenizer")
        if not self.tokenizer.is_dir():
            raise CheckpointError(
                f"{self.tokenizer}, the tokenizer of {path}, does not exist",
                remedy="keep checkpoints in their run folder (RUN/checkpoints/step-…) with"
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
        variant = variant_of(path.parent.parent)
        if variant is not None:
            self.provenance["variant"] = variant
        if self.model.objective != "masked":
            self.provenance["objective"] = self.model.objective
        if self.recipe.initial_checkpoint is not None:
            self.provenance["started_from"] = _origin_of_initial_checkpoint(
                self.recipe.initial_checkpoint, path.parent.parent
            )

    def read(self, name: str) -> torch.Tensor:
        """Return the full master weight `name`."""
        return self.reader.full(name)


class HuggingFaceSource(ModelSource):
    """A Hugging Face folder of a ModernBERT masked language model, with all tensors checked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = read_configuration(path)
        self.weights = HuggingFaceWeights(path, self.model.encoder)
        self.tokenizer = path
        special_ids = FastTokenizer(path).special_ids
        if special_ids is None:
            raise TokenizerError(
                f"the tokenizer in {path} lacks a special token: it needs pad, begin (cls or bos),"
                " end (sep or eos), unknown and mask",
                remedy="set them in its tokenizer_config.json",
            )
        self.special_ids = special_ids
        self.provenance = {"kind": "hugging_face", "path": path.resolve().name}
        cached = cached_model(path)
        if cached is not None:
            self.provenance |= dict(zip(("path", "commit"), cached, strict=True))
        if (path / PROVENANCE_NAME).is_file():
            self.provenance["made_from"] = _read_provenance(path / PROVENANCE_NAME)

    def read(self, name: str) -> torch.Tensor:
        """Return the stored weight as float32. Raises UserError if quantized or not finite."""
        return self.weights.read(name)


def _read_provenance(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise ModelError(
            f"{path} is not valid JSON: {error}", remedy="restore it from a copy, or remove it"
        ) from error


def _origin_of_initial_checkpoint(imported: Path, run: Path) -> Any:
    """Return the provenance of the initial checkpoint: the run's copy, or that in its folder.

    Earlier runs and variants have no copy; if the folder has been moved, return its name.
    """
    if (run / ORIGIN_NAME).is_file():
        return _read_provenance(run / ORIGIN_NAME)
    if (imported / PROVENANCE_NAME).is_file():
        return _read_provenance(imported / PROVENANCE_NAME)
    return {"kind": "import", "path": imported.name}


def _without_folders(checkpoint: Path) -> str:
    """Return RUN/checkpoints/step-… without its parent folders, since provenance is published."""
    return "/".join(checkpoint.resolve().parts[-3:])


def refuse_causal(source: ModelSource) -> None:
    """Raise ModelError if the last phase of a model was causal."""
    if source.model.objective != "masked":
        raise ModelError(
            f"{source.path} ended its training in a causal phase: it predicts next tokens, and not"
            " masked ones",
            remedy="train a masked phase after it; or give --allow-causal, with which config.json"
            " and model card say so",
        )


def open_model(path: Path) -> CheckpointSource | HuggingFaceSource:
    """Open the model at `path`. Raises UserError if it is missing or damaged."""
    if (path / INDEX_NAME).is_file():
        return CheckpointSource(path)
    if (path / "checkpoints").is_dir():
        newest = sorted((path / "checkpoints").glob("step-*"))
        hint = f", such as {newest[-1]}" if newest else ""
        raise ModelError(
            f"{path} is a run, not a checkpoint",
            remedy=f"give one of its checkpoints{hint}",
        )
    if not path.is_dir():
        raise ModelError(
            f"{path} is not a folder",
            remedy="give a checkpoint (RUN/checkpoints/step-…) or a Hugging Face folder",
        )
    return HuggingFaceSource(path)
