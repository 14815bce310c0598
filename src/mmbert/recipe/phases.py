"""Phases of the annealed schedule, variants of the last phase, and merging."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mmbert.recipe.base import Settings
from mmbert.recipe.quantities import Quantity


class LanguageSelection(Settings):
    """Languages to sample: all, by name, or by minimum size.

    A name is `iso639-3_Script`, or an ISO 639-3 code for all of its scripts. If names and a minimum
    are given, a language must satisfy both.
    """

    all: bool = False
    names: tuple[str, ...] = ()
    file: Path | None = None
    """File with one name per line, `#` for comments; read when the recipe is loaded."""
    minimum_tokens: Quantity | None = None
    minimum_bytes: Quantity | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if value == "all":
            return {"all": True}
        if isinstance(value, str):
            raise ValueError(f"{value!r}: write `all`, a list of languages, or file:/minimum_…:")
        if isinstance(value, list | tuple):
            return {"names": value}
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        minimum = self.minimum_tokens is not None or self.minimum_bytes is not None
        if self.all and (self.names or self.file or minimum):
            raise ValueError("`all` cannot be combined with names, a file or a minimum size")
        if not (self.all or self.names or self.file or minimum):
            raise ValueError("selects no language; write `all`, names, a file or a minimum size")
        return self

    def includes(self, language: str, *, tokens: int, size_bytes: int) -> bool:
        """Return whether a language is selected, given its training tokens and UTF-8 bytes."""
        if self.all:
            return True
        if self.names and language not in self.names and language.split("_")[0] not in self.names:
            return False
        if self.minimum_tokens is not None and tokens < self.minimum_tokens:
            return False
        return self.minimum_bytes is None or size_bytes >= self.minimum_bytes


class RotaryBases(Settings):
    """RoPE bases (theta) of global and local attention."""

    global_: float = Field(alias="global", gt=1)
    local_: float = Field(alias="local", gt=1)


class Temperature(Settings):
    """Sampling exponent, constant or changing linearly within a phase."""

    start: float = Field(ge=0, le=1)
    end: float = Field(ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _constant(cls, value: Any) -> Any:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return {"start": value, "end": value}
        return value


class LearningRate(Settings):
    """Learning rate of a phase: linear warm-up, plateau at `peak`, decay to `final · peak`."""

    peak: float | None = Field(default=None, gt=0)
    """Default: the optimizer's learning_rate."""
    warmup: Quantity = Field(default=0, ge=0)
    shape: Literal["constant", "linear", "cosine", "one_minus_sqrt"] = "constant"
    final: float = Field(default=0.0, ge=0, le=1)
    decay_tokens: Quantity | None = None
    """Tokens of the decay at the end of the phase. Default: everything after the warm-up."""


class Phase(Settings):
    """One phase of the annealed schedule."""

    name: str
    tokens: Quantity = Field(gt=0)
    context: Quantity = Field(gt=2)
    languages: LanguageSelection
    temperature: Temperature
    mask_ratio: float = Field(gt=0, lt=1)
    rotary_bases: RotaryBases
    learning_rate: LearningRate = LearningRate()
    weight_decay: float | None = Field(default=None, ge=0)
    """Default: the optimizer's weight_decay."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Attention output dropout. Default: the model's attention_output_dropout."""
    rows: int | None = Field(default=None, gt=0)
    """Rows per step in this phase. Default: batch.rows."""


class Variant(Settings):
    """Alternative end of the run: branches off after `branch_from`, with recipe overrides."""

    name: str
    branch_from: str
    """Phase at the end of which the variant branches off."""
    overrides: dict[str, Any]
    """Overrides by dotted key, as on the command line: `phases.decay.languages: …`."""


class MergeSettings(Settings):
    """Settings for merging finished variants into one model."""

    method: Literal["ties", "linear", "ema"]
    variants: tuple[str, ...] = ()
    density: float = Field(default=0.5, gt=0, le=1)
    weights: tuple[float, ...] = ()
    decay: float = Field(default=0.9, gt=0, lt=1)
    """Weight of a checkpoint relative to the next newer one, for an exponential average (ema)."""
