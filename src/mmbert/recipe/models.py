"""The recipe's parts as frozen, typed models: what may be said, and what cannot go together."""

import difflib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from mmbert.recipe.quantities import Quantity

# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads. `small` and `base` are
# mmBERT's; `large` (about 1B) and `huge` (about 7B) keep head size 64 and the same proportions.
MODEL_PRESETS: dict[str, tuple[int, int, int, int]] = {
    "small": (384, 1152, 22, 6),
    "base": (768, 1152, 22, 12),
    "large": (1536, 2304, 28, 24),
    "huge": (4096, 6144, 40, 64),
}


def _require_distinct(key: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{key} has two entries named '{name}'")


class Settings(BaseModel):
    """A part of the recipe: immutable, and a key it does not know is refused with the nearest."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = [field.alias or name for name, field in cls.model_fields.items()]
        known += [name for name in cls.model_fields if name not in known]
        for key in values:
            if key not in known:
                nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                hint = f"did you mean '{nearest[0]}'?" if nearest else f"known: {', '.join(known)}"
                raise PydanticCustomError(
                    "unknown_key", "unknown key '{key}'; {hint}", {"key": str(key), "hint": hint}
                )
        return values


class ModelSettings(Settings):
    """The encoder's sizes (ModernBERT); `preset` fills those that are not given."""

    preset: Literal["small", "base", "large", "huge"] | None = None
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    """Width of the gated unit's inner layer (the first linear has twice as many outputs)."""
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    vocab_size: int | None = Field(default=None, gt=0)
    """Rows of the embedding; the tokenizer's vocabulary size unless given (they must agree)."""
    global_attention_every: int = Field(default=3, gt=0)
    """Layer i attends globally if i is a multiple of this, else within the local window."""
    local_window: int = Field(default=128, gt=0, multiple_of=2)
    """Width of local attention in tokens: half of it to each side."""
    norm_eps: float = Field(default=1e-5, gt=0)
    attention_output_dropout: float = Field(default=0.1, ge=0, lt=1)
    initializer_range: float = Field(default=0.02, gt=0)
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations recomputed in the backward pass instead of kept."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") in MODEL_PRESETS:
            names = (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
            )
            return dict(zip(names, MODEL_PRESETS[values["preset"]], strict=True)) | values
        return values

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        if (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError("the head size (hidden_size / num_attention_heads) must be even")
        return self


class TokenizerSettings(Settings):
    """The tokenizer that preprocessing uses: an existing one, or one trained on the text."""

    path: Path | None = None
    """A SentencePiece model or a Hugging Face tokenizer folder; none: train SentencePiece BPE."""
    vocab_size: Quantity = Field(default=256_000, gt=300)


class Source(Settings):
    """One source of text: its folder within the shards and how languages are drawn from it."""

    name: str
    path: str | None = None
    """Sub-folder of the shards; the name unless given."""
    sampling: Literal["temperature", "budget"] = "temperature"
    """`temperature`: tokens in proportion to n**temperature over the phase's languages.
    `budget`: all of the source's languages, in proportion to their size."""
    tokens: dict[str, Quantity] | None = None
    """Its weight in each phase's mix (as tokens of the published tables); absent = not used."""
    max_epochs: float | None = Field(default=None, gt=0)
    """No language is seen more often than this over the whole run; the rest goes to the others."""

    @property
    def folder(self) -> str:
        """The sub-folder of the shards that holds this source."""
        return self.path or self.name


class MaskingSettings(Settings):
    """What becomes of a chosen token: shares of mask token, random token, and (the rest) itself."""

    mask: float = Field(default=0.8, ge=0, le=1)
    random: float = Field(default=0.1, ge=0, le=1)
    whole_word: bool = False

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.mask + self.random > 1 + 1e-12:
            raise ValueError(f"mask {self.mask} and random {self.random} add up to more than 1")
        return self


class DataSettings(Settings):
    """Where the text comes from and how it is masked."""

    sources: tuple[Source, ...] = (Source(name="text"),)
    masking: MaskingSettings = MaskingSettings()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        _require_distinct("data.sources", [source.name for source in self.sources])
        if not self.sources:
            raise ValueError("at least one source is needed")
        if len(self.sources) > 1:
            for source in self.sources:
                if source.tokens is None:
                    raise ValueError(
                        f"source '{source.name}' needs `tokens` (its weight in each phase's mix), "
                        "because there is more than one source"
                    )
        return self


class Growth(Settings):
    """Batch-size growth at the start of training, with equally many steps at each size."""

    tokens: Quantity = Field(gt=0)
    from_rows: int = Field(gt=0)


class BatchSettings(Settings):
    """A row is one microbatch of `row_tokens` tokens; a step takes `rows` of them."""

    row_tokens: Quantity = Field(gt=0)
    rows: int = Field(gt=0)
    quantum: int = Field(gt=0)
    """The number of virtual data streams. Every batch is a multiple of it, and the number of data
    ranks must divide it; nothing else about the data depends on the ranks."""
    growth: Growth | None = None

    @model_validator(mode="after")
    def _multiples(self) -> Self:
        if self.rows % self.quantum:
            raise ValueError(f"rows {self.rows} is not a multiple of quantum {self.quantum}")
        if self.growth is not None:
            if self.growth.from_rows % self.quantum:
                raise ValueError(
                    f"growth.from_rows {self.growth.from_rows} is not a multiple of "
                    f"quantum {self.quantum}"
                )
            if self.growth.from_rows > self.rows:
                raise ValueError("growth.from_rows is larger than rows")
        return self


class OptimizerSettings(Settings):
    """StableAdamW as mmBERT used it, or AdamW."""

    name: Literal["stable_adamw", "adamw"] = "stable_adamw"
    learning_rate: float = Field(gt=0)
    """The peak; weight decay is scaled by the learning rate over this."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: a weight is multiplied by 1 − weight_decay · rate / learning_rate each step."""
    gradient_clipping: float | None = Field(default=None, gt=0)


class ParallelSettings(Settings):
    """How the model is spread: tensor parallel size, sequence parallelism, ZeRO stage."""

    tensor: int = Field(default=1, gt=0)
    sequence: bool = False
    zero_stage: Literal[1, 2, 3] = 1


class CheckpointSettings(Settings):
    """When checkpoints are written and which are kept; each phase's end always is."""

    every_tokens: Quantity | None = None
    every_minutes: float | None = Field(default=None, gt=0)
    keep_last: int = Field(default=3, ge=1)
    keep_every: int | None = Field(default=None, ge=1)
    """Every Nth checkpoint is kept for ever."""
    asynchronous: bool = True


class EvaluationSettings(Settings):
    """The held-out loss: the same documents and the same masks every time."""

    every_tokens: Quantity | None = None
    documents_per_language: int = Field(default=32, ge=1)
    mask_ratio: float = Field(default=0.15, gt=0, lt=1)
    context: Quantity | None = None
    """Held-out documents are cut to this; the first phase's context unless given."""


class LoggingSettings(Settings):
    """How often a line is logged."""

    every_steps: int = Field(default=10, ge=1)


class GuardSettings(Settings):
    """What happens when numbers or ranks go wrong."""

    non_finite_limit: int = Field(default=10, ge=0)
    """Steps skipped for a loss or gradient that is not finite before the run stops, counted over
    the last thousand steps."""
    spike_window: int = Field(default=200, ge=10)
    """Steps of the running median that a spike is measured against (within one phase)."""
    spike_threshold: float | None = Field(default=8.0, gt=0)
    """A loss this many (robust) standard deviations above the running median is a spike; none: do
    not look for spikes."""
    rollback: bool = False
    """After a spike, go back to the last checkpoint and skip the rows of the steps around it."""
    rollback_limit: int = Field(default=5, ge=1)
    """Rollbacks in one run before it stops for a person to look."""
    hang_minutes: float = Field(default=15.0, gt=0)
    """A rank that makes no progress for this long is named with its stack, and the run stops."""


class LanguageSelection(Settings):
    """Which languages take part: all, or those named, or those of a minimum size.

    A name is `iso639-3_Script`, or a bare ISO 639-3 code that stands for all its scripts. With
    names and a minimum, a language must satisfy both.
    """

    all: bool = False
    names: tuple[str, ...] = ()
    file: Path | None = None
    """One name a line, `#` begins a comment; read when the recipe is loaded."""
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
        """Whether `language` (with this many training tokens and UTF-8 bytes) takes part."""
        if self.all:
            return True
        if self.names and language not in self.names and language.split("_")[0] not in self.names:
            return False
        if self.minimum_tokens is not None and tokens < self.minimum_tokens:
            return False
        return self.minimum_bytes is None or size_bytes >= self.minimum_bytes


class RotaryBases(Settings):
    """Bases (theta) of the rotary embedding in global and in local attention."""

    global_: float = Field(alias="global", gt=1)
    local_: float = Field(alias="local", gt=1)


class Temperature(Settings):
    """The sampling exponent, which may move linearly within a phase."""

    start: float = Field(ge=0, le=1)
    end: float = Field(ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _constant(cls, value: Any) -> Any:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return {"start": value, "end": value}
        return value


class LearningRate(Settings):
    """A phase's learning rate: linear warm-up, plateau at `peak`, a decay to `final · peak`."""

    peak: float | None = Field(default=None, gt=0)
    """The optimizer's learning_rate unless given."""
    warmup: Quantity = Field(default=0, ge=0)
    shape: Literal["constant", "linear", "cosine", "one_minus_sqrt"] = "constant"
    final: float = Field(default=0.0, ge=0, le=1)
    decay_tokens: Quantity | None = None
    """Tokens of the decay at the phase's end; all that follows the warm-up unless given."""


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
    rows: int | None = Field(default=None, gt=0)
    """Rows of a step in this phase; the batch's unless given."""


class Variant(Settings):
    """Another end of the run: branches where `branch_from` ended, with overrides of the recipe."""

    name: str
    branch_from: str
    """The phase from whose last checkpoint it starts."""
    overrides: dict[str, Any]
    """`phases.decay.languages: …` as on the command line."""


class MergeSettings(Settings):
    """How finished variants become one model."""

    method: Literal["ties", "linear", "ema"]
    variants: tuple[str, ...] = ()
    density: float = Field(default=0.5, gt=0, le=1)
    weights: tuple[float, ...] = ()
    decay: float = Field(default=0.9, gt=0, lt=1)
    """Weight of the older checkpoints in the exponentially weighted average."""


class Recipe(Settings):
    """All of a training run; see DESIGN in the README for how the parts work together."""

    name: str
    seed: int = Field(default=21, ge=0)
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    model: ModelSettings
    initial_checkpoint: Path | None = None
    """A folder that `mmbert import` wrote (config.json, and model.safetensors with every parameter
    in float32 under its own name): the weights that training starts from, instead of weights drawn
    from the seed. A relative path is looked for where the command is run."""
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

    @property
    def longest_context(self) -> int:
        """The context that pieces are cut to: every phase cuts them further."""
        return max(phase.context for phase in self.phases)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        names = [phase.name for phase in self.phases]
        _require_distinct("phases", names)
        _require_distinct("variants", [variant.name for variant in self.variants])
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
        for key, value in (
            ("model.num_attention_heads", self.model.num_attention_heads),
            ("model.intermediate_size", self.model.intermediate_size),
            ("batch.row_tokens", self.batch.row_tokens),
        ):
            if value % tensor:
                raise ValueError(f"parallel.tensor {tensor} does not divide {key} {value}")
