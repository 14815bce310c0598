"""Import of a Composer checkpoint: weights, and the training state to continue from.

The output is the folder that `import_model` writes. Unless only weights are wanted, it also has
training_state.json and optimizer.safetensors, with which a run continues instead of starting anew.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmbert.checkpoint.format import file_entry
from mmbert.checkpoint.imported_state import MOMENTS_NAME, ImportedOptimizer, ImportedState
from mmbert.errors import ModelError, TokenizerError
from mmbert.hub.configuration import HuggingFaceModel
from mmbert.hub.export import write_hugging_face_folder
from mmbert.hub.importing.composer.configuration import ComposerModel, read_model
from mmbert.hub.importing.composer.optimizer import MOMENTS, OptimizerState
from mmbert.hub.importing.composer.progress import Progress, read_progress
from mmbert.hub.importing.composer.reading import read_checkpoint
from mmbert.hub.importing.composer.tokenizer_files import write_tokenizer
from mmbert.hub.importing.composer.weights import ComposerWeights, renamed_tensors
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.hub.verification import LogitComparison
from mmbert.hub.weights import EMBEDDING, WEIGHTS_FILE, write_weights


@dataclass(frozen=True)
class ComposerImportOptions:
    """Statements about the checkpoint that it may lack.

    Attributes:
        weights_only: leave out the training state.
        phase: phase of the recipe that the state is from.
        tokens: tokens of that phase so far; default: the file's.
        files: Hugging Face folder with tokenizer and, if the file has none, config.json.
        context: maximum input length of the model.
    """

    weights_only: bool = False
    phase: str | None = None
    tokens: int | None = None
    files: Path | None = None
    context: int | None = None


@dataclass(frozen=True)
class ComposerImportReport:
    """Result of the import of a Composer checkpoint.

    Attributes:
        model: configuration of the written model, with notes.
        unused_rows: embedding rows without a token.
        optimizer: the optimizer's state; None with weights alone.
        progress: position in the training; None with weights alone.
        phase: phase of the state, if stated.
        comparison: verification against transformers.
    """

    model: ComposerModel
    unused_rows: int
    optimizer: ImportedOptimizer | None
    progress: Progress | None
    phase: str | None
    comparison: LogitComparison

    def lines(self) -> Iterator[str]:
        """Yield the report as lines for the user."""
        yield _describe(self.model.model)
        yield from self.model.notes
        if self.model.dropout is not None:
            yield f"trained with attention output dropout {self.model.dropout:g}"
        if self.unused_rows:
            yield f"keeping {self.unused_rows:,} unused embedding rows"
        if self.optimizer is None or self.progress is None:
            yield "weights alone: training starts with new moments"
        else:
            yield from _describe_state(self.optimizer, self.progress, self.phase)
        yield f"verified against transformers: {self.comparison}"


def import_composer_checkpoint(
    path: Path, out: Path, options: ComposerImportOptions
) -> ComposerImportReport:
    """Import the Composer checkpoint `path` to the folder `out`, which is created atomically.

    Weights and moments are copied bit for bit.

    Raises:
        UserError: the file cannot be imported; names what is wrong with it.
    """
    state = read_checkpoint(path)
    stored = renamed_tensors(path, state["model"])
    if EMBEDDING not in stored:
        raise ModelError(
            f"{path}: tensor {EMBEDDING} is missing",
            remedy="only checkpoints of ModernBERT's trainer can be imported",
        )
    model = read_model(path, state, len(stored[EMBEDDING]), options.files, options.context)
    weights = ComposerWeights(path, state["model"], model.model.encoder)
    optimizer = progress = training = None
    if not options.weights_only:
        optimizer = OptimizerState(path, state, weights.shapes)
        progress = read_progress(path, state, optimizer.steps, options.tokens)
        training = _imported_optimizer(optimizer)

    def write_state(folder: Path) -> None:
        if optimizer is None or progress is None or training is None:
            return
        shapes = {f"{n}/{m}": shape for n, shape in weights.shapes.items() for m in MOMENTS}
        write_weights(folder / MOMENTS_NAME, shapes, _moments(optimizer, weights), torch.float32)
        ImportedState(
            source=f"Composer checkpoint {path.name}",
            phase=options.phase,
            tokens=progress.tokens,
            counted_from=progress.counted_from,
            optimizer=training,
            attention_output_dropout=model.dropout,
            files={name: file_entry(folder / name) for name in (WEIGHTS_FILE, MOMENTS_NAME)},
        ).write(folder)

    with tempfile.TemporaryDirectory(prefix="mmbert-tokenizer-") as temporary:
        folder = _tokenizer_folder(path, state, options.files, Path(temporary))
        tokenizer = FastTokenizer(folder)
        where = folder if folder == options.files else path
        if tokenizer.special_ids is None:
            raise TokenizerError(
                f"the tokenizer in {where} lacks a special token: it needs pad, begin (cls or bos),"
                " end (sep or eos), unknown and mask",
                remedy="give a folder of the same tokenizer with them: --tokenizer-files FOLDER",
            )
        unused_rows = model.model.encoder.vocab_size - tokenizer.size
        if unused_rows < 0:
            raise TokenizerError(
                f"{where}: the tokenizer has {tokenizer.size} ids, the embedding of {path}"
                f" {model.model.encoder.vocab_size} rows",
                remedy="give the model's own tokenizer: --tokenizer-files FOLDER",
            )
        said: list[str] = []
        comparison = write_hugging_face_folder(
            out,
            name=out.name,
            model=model.model,
            parameters=((name, weights.read(name)) for name in weights.shapes),
            special_ids=tokenizer.special_ids,
            tokenizer=folder,
            dtype="float32",
            provenance={"kind": "import", "from": _provenance(path, state, training, progress)},
            language_tokens={},
            recipe=None,
            write_more=write_state,
            say=said.append,
        )
        model = replace(model, notes=(*model.notes, *said))
    return ComposerImportReport(model, unused_rows, training, progress, options.phase, comparison)


def _tokenizer_folder(
    path: Path, state: Mapping[str, Any], files: Path | None, temporary: Path
) -> Path:
    """Return `files`, or `temporary` with the file's tokenizer."""
    if files is not None:
        return files
    if not write_tokenizer(path, state, temporary):
        raise TokenizerError(
            f"{path} holds no tokenizer (integrations.huggingface)",
            remedy="give a Hugging Face folder with the model's tokenizer: --tokenizer-files"
            " FOLDER",
        )
    return temporary


def _moments(optimizer: OptimizerState, weights: ComposerWeights) -> Iterator[tuple[str, Tensor]]:
    for name in weights.shapes:
        for moment in MOMENTS:
            yield f"{name}/{moment}", optimizer.read(name, moment)


def _imported_optimizer(state: OptimizerState) -> ImportedOptimizer:
    return ImportedOptimizer(
        name="stable_adamw",
        steps=state.steps,
        learning_rate=state.peak_learning_rate,
        next_learning_rate=state.next_learning_rate,
        betas=state.betas,
        eps=state.eps,
        weight_decay=state.weight_decay,
    )


def _provenance(
    path: Path,
    state: Mapping[str, Any],
    optimizer: ImportedOptimizer | None,
    progress: Progress | None,
) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": "composer_checkpoint", "path": path.name}
    name, metadata = state.get("run_name"), state.get("metadata")
    if isinstance(name, str):
        found["run_name"] = name
    if isinstance(metadata, Mapping) and isinstance(metadata.get("composer_env_info"), Mapping):
        found["composer_version"] = str(metadata["composer_env_info"].get("composer_version"))
    if optimizer is not None and progress is not None:
        found |= {"optimizer_steps": optimizer.steps, "tokens": progress.tokens}
        found["tokens_counted_from"] = progress.counted_from
    return found


def _describe(model: HuggingFaceModel) -> str:
    encoder = model.encoder
    return (
        f"{encoder.num_hidden_layers} layers of width {encoder.hidden_size}, vocabulary"
        f" {encoder.vocab_size:,}, rotary bases {model.rotary_bases.global_:g} (global) and"
        f" {model.rotary_bases.local_:g} (local); a rotary schedule's current base is not in"
        " the file"
    )


def _describe_state(
    optimizer: ImportedOptimizer, progress: Progress, phase: str | None
) -> Iterator[str]:
    beta1, beta2 = optimizer.betas
    yield (
        f"StableAdamW at step {optimizer.steps:,}: learning_rate {optimizer.learning_rate:g}, betas"
        f" [{beta1:g}, {beta2:g}], eps {optimizer.eps:g}, weight decay {optimizer.weight_decay:g}"
    )
    where = f"phase '{phase}'" if phase is not None else "phase not stated (--phase)"
    yield f"{progress.tokens:,} tokens, {progress.source}; {where}"
    yield (
        f"next learning rate in the file {optimizer.next_learning_rate:.6g}: Composer's rate lags"
        " one step; a continued run takes the recipe's rate without the lag"
    )
    yield (
        "in no file, so not continued: data order (sampler and packer), masks, dropout's random"
        " numbers"
    )
