"""The recipe as a whole, and what of its parts cannot go together."""

import difflib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from mmbert.recipe.base import Settings, require_distinct
from mmbert.recipe.division import not_divided_by_tensor
from mmbert.recipe.phases import MergeSettings, Phase, Variant
from mmbert.recipe.sections import (
    BatchSettings,
    CheckpointSettings,
    DataSettings,
    EvaluationSettings,
    GuardSettings,
    LoggingSettings,
    ModelSettings,
    OptimizerSettings,
    ParallelSettings,
    TokenizerSettings,
)


class Recipe(Settings):
    """All of a training run; see DESIGN in the README for how the parts work together."""

    name: str
    seed: int = Field(default=21, ge=0)
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    deterministic: bool = False
    """On GPUs, add in the same order in every run: two runs on the same kind of GPU, grid and
    versions then have the same losses and weights to the bit, but more slowly. On a CPU it
    changes nothing."""
    model: ModelSettings
    initial_checkpoint: Path | None = None
    """A folder that `mmbert import` wrote: the weights that training starts from, instead of those
    that the seed would give. It holds model.safetensors, with every parameter in float32 under its
    own name, and config.json and tokenizer.json, which recipe and shards must agree with. A
    relative path is looked for where the command is run."""
    tokenizer: TokenizerSettings = TokenizerSettings()
    data: DataSettings = DataSettings()
    batch: BatchSettings
    optimizer: OptimizerSettings
    parallel: ParallelSettings = ParallelSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    logging: LoggingSettings = LoggingSettings()
    guard: GuardSettings = GuardSettings()
    phases: tuple[Phase, ...] = Field(min_length=1)
    variants: tuple[Variant, ...] = ()
    merge: MergeSettings | None = None

    def phase(self, name: str) -> Phase:
        """The phase called `name`; KeyError when there is none."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise KeyError(name)

    def dropout_in(self, phase: Phase) -> float:
        """Share of attention's outputs dropped in `phase`."""
        own = phase.dropout
        return self.model.attention_output_dropout if own is None else own

    @property
    def longest_context(self) -> int:
        """The context that pieces are cut to: every phase cuts them further."""
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
        for source in self.data.sources:
            for name in source.tokens or {}:
                if name not in names:
                    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
                    raise ValueError(
                        f"data.sources.{source.name}.tokens names phase '{name}', which does not "
                        f"exist; did you mean '{nearest}'?"
                    )
        for phase_name in names:
            if not any(s.tokens is None or s.tokens.get(phase_name) for s in self.data.sources):
                raise ValueError(f"no source has tokens for phase '{phase_name}'")
        for variant in self.variants:
            if variant.branch_from not in names:
                raise ValueError(
                    f"variants.{variant.name}.branch_from names phase '{variant.branch_from}', "
                    f"which does not exist; phases: {', '.join(names)}"
                )
        self._parallel_divides()
        return self

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
            raise ValueError(f"parallel.tensor {tensor} does not divide {key} {value}")
