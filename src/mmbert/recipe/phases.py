"""Phases of the annealed schedule, variants of the last phase, and merging."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from mmbert.recipe.base import Name, Settings
from mmbert.recipe.units import Bytes, Exponent, Fraction, Rows, RowTokens, Tokens

Objective = Literal["masked", "causal"]


class LanguageSelection(Settings):
    """Languages to sample: all, by name, or by minimum size.

    A name is `iso639-3_Script`, or an ISO 639-3 code for all of its scripts. If names and a minimum
    are given, a language must satisfy both.
    """

    all: bool = False
    """Every language of the shards."""
    names: tuple[Name, ...] = ()
    """Languages by name. Default: any name."""
    file: Path | None = None
    """File with one name per line, `#` for comments; read when the recipe is loaded."""
    minimum_tokens: Tokens | None = Field(default=None, ge=0)
    """Minimum training tokens of a language, held-out documents excluded."""
    minimum_bytes: Bytes | None = Field(default=None, ge=0)
    """Minimum training text of a language in UTF-8, held-out documents excluded."""

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
    """Base of layers with global attention."""
    local_: float = Field(alias="local", gt=1)
    """Base of layers with local attention."""


class Temperature(Settings):
    """Sampling exponent, constant or changing linearly within a phase."""

    start: Exponent = Field(ge=0, le=1)
    """Exponent at the start of the phase: 1 samples languages in proportion to their size, 0 all
    equally."""
    end: Exponent = Field(ge=0, le=1)
    """Exponent at the end of the phase."""

    @model_validator(mode="before")
    @classmethod
    def _constant(cls, value: Any) -> Any:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return {"start": value, "end": value}
        return value


class MaskRatioRange(Settings):
    """Range of mask ratios; each document of a row is masked by its own, drawn from the range.

    A row as a whole is masked by the mean of the range, exactly, so that its mask slots are fixed.
    A row with one document therefore has the mean.
    """

    low: Fraction = Field(gt=0, lt=1)
    """Smallest ratio of a document."""
    high: Fraction = Field(gt=0, lt=1)
    """Largest ratio of a document; above `low`."""

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self

    @property
    def mean(self) -> float:
        """Middle of the range, the ratio of a whole row."""
        return (self.low + self.high) / 2

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


UNION_TAGS = NUMBER, RANGE = "<number>", "<range>"
"""Forms of a mask ratio, in the locations of validation errors."""


def _form(value: Any) -> str:
    return RANGE if isinstance(value, dict | MaskRatioRange) else NUMBER


MaskRatio = Annotated[
    Annotated[Fraction, Field(gt=0, lt=1), Tag(NUMBER)] | Annotated[MaskRatioRange, Tag(RANGE)],
    Discriminator(_form),
]
"""Fraction of the tokens of a row that are masked: a number, or a range for its documents."""


def mean_mask_ratio(ratio: float | MaskRatioRange) -> float:
    """Return the mask ratio of whole rows."""
    return ratio.mean if isinstance(ratio, MaskRatioRange) else ratio


class LearningRate(Settings):
    """Learning rate of a phase: linear warm-up, plateau at `peak`, decay to `final · peak`."""

    peak: float | None = Field(default=None, gt=0)
    """Peak rate of the phase. Default: the optimizer's learning_rate."""
    warmup: Tokens = Field(default=0, ge=0)
    """Tokens of the linear warm-up at the start of the phase."""
    shape: Literal["constant", "linear", "cosine", "one_minus_sqrt"] = "constant"
    """Shape of the decay; `constant`: none. `one_minus_sqrt` is 1 − √progress."""
    final: Fraction = Field(default=0.0, ge=0, le=1)
    """Rate at the end of the decay, relative to the peak."""
    decay_tokens: Tokens | None = Field(default=None, gt=0)
    """Tokens of the decay at the end of the phase. Default: everything after the warm-up."""


class Phase(Settings):
    """One phase of the annealed schedule."""

    name: Name
    """Name of the phase, unique in the recipe."""
    tokens: Tokens = Field(gt=0)
    """Length of the phase, which ends on the first step that reaches it."""
    context: RowTokens = Field(gt=2)
    """Longest segment, begin and end tokens included; longer documents are split."""
    languages: LanguageSelection
    """Languages of temperature-sampled sources."""
    temperature: Temperature
    """Sampling exponent: tokens of a language in proportion to `size ** temperature`."""
    objective: Objective = "masked"
    """What is predicted: `masked`, masked tokens from both sides; `causal`, the next token from
    those before it. Causal phases come before masked ones."""
    mask_ratio: MaskRatio | None = None
    """Fraction of tokens selected for prediction in a masked phase, which requires it, or a range
    to draw each document's from."""
    predicted_share: Fraction | None = Field(default=None, gt=0, le=1)
    """Fraction of tokens that are predicted in a causal phase, which requires it: drawn like masks,
    so that head and decoder cost as much as at this mask ratio."""
    rotary_bases: RotaryBases
    """RoPE bases."""
    learning_rate: LearningRate = LearningRate()
    """Learning rate schedule within the phase."""
    weight_decay: float | None = Field(default=None, ge=0, lt=1)
    """Weight decay in this phase. Default: the optimizer's weight_decay."""
    dropout: Fraction | None = Field(default=None, ge=0, lt=1)
    """Attention output dropout. Default: the model's attention_output_dropout."""
    rows: Rows | None = Field(default=None, gt=0)
    """Rows per step in this phase; a multiple of `batch.quantum`. Default: batch.rows."""

    @property
    def causal(self) -> bool:
        """Whether next tokens are predicted from those before them."""
        return self.objective == "causal"

    @property
    def predicted(self) -> float | MaskRatioRange:
        """Fraction of tokens that are predicted: `mask_ratio`, or `predicted_share`."""
        ratio = self.predicted_share if self.causal else self.mask_ratio
        assert ratio is not None
        return ratio

    @property
    def predicted_fraction(self) -> float:
        """Fraction of the tokens of a row that are predicted; of a range its mean."""
        return mean_mask_ratio(self.predicted)

    @model_serializer(mode="wrap")
    def _without_the_default_objective(
        self, serialize: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        """Write recipes without causal phases as before these existed."""
        values: dict[str, Any] = serialize(self)
        if not self.causal:
            del values["objective"]
        return values

    @model_validator(mode="after")
    def _predicts_some(self) -> Self:
        own, other = ("predicted_share", "mask_ratio")[:: 1 if self.causal else -1]
        if getattr(self, other) is not None:
            raise ValueError(
                f"{other} is not of a phase with objective {self.objective}; write {own}"
                f" instead, or on the command line {other}=null {own}=…"
            )
        if getattr(self, own) is None:
            raise ValueError(f"a phase with objective {self.objective} requires {own}")
        return self


class Variant(Settings):
    """Alternative end of the run: branches off after `branch_from`, with recipe overrides."""

    name: Annotated[str, Field(pattern=r"^[\w][\w. -]*$")]
    """Name of the variant, unique in the recipe; its folder is `RUN/variants/NAME`."""
    branch_from: str
    """Phase at the end of which the variant branches off."""
    overrides: dict[str, Any]
    """Overrides by dotted key, as on the command line: `phases.decay.languages: …`."""


class MergeSettings(Settings):
    """Settings for merging finished variants into one model."""

    method: Literal["ties", "linear", "ema"]
    """`ties` and `linear` merge the ends of `variants`; `ema` averages the last phase's kept
    checkpoints."""
    variants: tuple[str, ...] = ()
    """Variants to merge by name; `main` is the run itself."""
    density: Fraction = Field(default=0.5, gt=0, le=1)
    """Fraction of each difference from the base that `ties` keeps."""
    weights: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Weights of the variants, in their order. Default: equal."""
    decay: Fraction = Field(default=0.9, gt=0, lt=1)
    """Weight of a checkpoint relative to the next newer one, for an exponential average (ema)."""
