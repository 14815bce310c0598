"""The complete recipe, with validation across its sections."""

import difflib
from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from mmbert.recipe.base import Name, NamedPath, Settings, require_distinct
from mmbert.recipe.data_sections import DataSettings
from mmbert.recipe.division import not_divided_by_tensor
from mmbert.recipe.optimizers import OptimizerSettings
from mmbert.recipe.phases import MergeSettings, Phase, Variant
from mmbert.recipe.sections import (
    BatchSettings,
    CheckpointSettings,
    EvaluationSettings,
    GuardSettings,
    LoggingSettings,
    ModelSettings,
    ParallelSettings,
    TokenizerSettings,
)

MAIN_VARIANT = "main"
"""Name of the run itself in `merge.variants`."""


class Recipe(Settings):
    """All settings of a training run, with checks across sections."""

    name: Name
    """Name of the recipe, in logs, plans and model cards."""
    seed: int = Field(default=21, ge=0, lt=1 << 63)
    """Seed of initial weights, data order, masks and dropout."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Data type of weights and activations in the passes; master weights and sums stay float32."""
    deterministic: bool = False
    """Fixed summation order on GPUs: bitwise equal losses and weights for runs with the same GPU
    model, grid and versions, at a lower speed. No effect on a CPU."""
    model: ModelSettings
    """Sizes of the encoder."""
    initial_checkpoint: NamedPath | None = None
    """Folder written by `mmbert import` with initial weights; default: random initialization. It
    contains model.safetensors, with every parameter in float32 under its own name, and config.json
    and tokenizer.json, which must match recipe and shards. If it has training_state.json, training
    continues with its optimizer state from its place in the plan. Only the first start reads it:
    once the run has a checkpoint, it may be deleted. Relative paths start from the working
    directory."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    """Tokenizer that preprocessing uses or trains."""
    data: DataSettings = DataSettings()
    """Sources of text and masking."""
    batch: BatchSettings
    """Batch sizes."""
    optimizer: OptimizerSettings
    """Optimizer and its peak learning rate."""
    parallel: ParallelSettings = ParallelSettings()
    """Tensor parallelism and ZeRO."""
    checkpoint: CheckpointSettings = CheckpointSettings()
    """Checkpoint interval and retention."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Validation loss during training."""
    logging: LoggingSettings = LoggingSettings()
    """Interval of log lines, and loggers."""
    guard: GuardSettings = GuardSettings()
    """Handling of bad steps and hanging ranks."""
    phases: tuple[Phase, ...] = Field(min_length=1)
    """Phases, in order of training."""
    variants: tuple[Variant, ...] = ()
    """Alternative ends of the run."""
    merge: MergeSettings | None = None
    """Merge of the run, for `mmbert merge RUN`. Default: none."""

    def dropout_in(self, phase: Phase) -> float:
        """Return the attention output dropout in `phase`."""
        own = phase.dropout
        return self.model.attention_output_dropout if own is None else own

    @property
    def longest_context(self) -> int:
        """Longest context of any phase, at which pieces are cut; shorter ones cut them further."""
        return max(phase.context for phase in self.phases)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        names = [phase.name for phase in self.phases]
        require_distinct("phases", names)
        require_distinct("variants", [variant.name for variant in self.variants])
        for phase in self.phases:
            key = f"phases.{phase.name}"
            if phase.context > self.batch.row_tokens:
                raise ValueError(
                    f"{key}.context {phase.context} is longer than batch.row_tokens "
                    f"{self.batch.row_tokens}"
                )
            if phase.rows is not None and phase.rows % self.batch.quantum:
                raise ValueError(
                    f"{key}.rows {phase.rows} is not a multiple of batch.quantum "
                    f"{self.batch.quantum}"
                )
        self._causal_phases_first()
        for source in self.data.sources:
            for name in source.tokens or {}:
                if name not in names:
                    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
                    raise ValueError(
                        f"unknown phase '{name}' in data.sources.{source.name}.tokens; "
                        f"did you mean '{nearest}'?"
                    )
        for phase_name in names:
            if not any(s.tokens is None or s.tokens.get(phase_name) for s in self.data.sources):
                raise ValueError(f"no source has tokens for phase '{phase_name}'")
        for variant in self.variants:
            if variant.branch_from not in names:
                raise ValueError(
                    f"unknown phase '{variant.branch_from}' in "
                    f"variants.{variant.name}.branch_from; "
                    f"phases: {', '.join(names)}"
                )
        self._merge_fits()
        self._parallel_divides()
        return self

    def _causal_phases_first(self) -> None:
        for before, phase in pairwise(self.phases):
            if phase.causal and not before.causal:
                raise ValueError(
                    f"phases.{phase.name} is causal after the masked phase '{before.name}': an "
                    "encoder ends masked; move causal phases to the front, or set its objective to "
                    "masked"
                )

    def _merge_fits(self) -> None:
        """Check that the merged variants exist, and their number."""
        merge = self.merge
        if merge is None or merge.method == "ema":
            return
        known = [MAIN_VARIANT, *(variant.name for variant in self.variants)]
        for name in merge.variants:
            if name not in known:
                raise ValueError(
                    f"unknown variant '{name}' in merge.variants; variants: {', '.join(known)}"
                )
        if len(merge.variants) < 2:
            raise ValueError(f"merge.variants needs at least two of: {', '.join(known)}")
        if merge.weights and len(merge.weights) != len(merge.variants):
            raise ValueError(
                f"merge.weights has {len(merge.weights)} weights for {len(merge.variants)} variants"
            )

    def _parallel_divides(self) -> None:
        tensor = self.parallel.tensor
        found = not_divided_by_tensor(
            tensor,
            num_attention_heads=self.model.num_attention_heads,
            intermediate_size=self.model.intermediate_size,
            row_tokens=self.batch.row_tokens,
        )
        if found is not None:
            key, value = found
            raise ValueError(f"{key} ({value}) must be divisible by parallel.tensor ({tensor})")
