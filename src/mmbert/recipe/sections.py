"""The parts of a recipe that hold for the whole run: model, data, batch, optimiser and the rest."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mmbert.recipe.base import Settings, require_distinct
from mmbert.recipe.quantities import Quantity

# hidden_size, intermediate_size, num_hidden_layers, num_attention_heads. `small` and `base` are
# mmBERT's; `large` (about 1B) and `huge` (about 7B) keep head size 64 and the same proportions.
MODEL_PRESETS: dict[str, tuple[int, int, int, int]] = {
    "small": (384, 1152, 22, 6),
    "base": (768, 1152, 22, 12),
    "large": (1536, 2304, 28, 24),
    "huge": (4096, 6144, 40, 64),
}


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
        require_distinct("data.sources", [source.name for source in self.sources])
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


OptimizerName = Literal["stable_adamw", "adamw"]
OPTIMIZER_STATES: dict[OptimizerName, tuple[str, ...]] = {
    "stable_adamw": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
}
"""float32 tensors that an optimizer keeps per parameter, besides the master weight."""


class OptimizerSettings(Settings):
    """StableAdamW as mmBERT used it, or AdamW."""

    name: OptimizerName = "stable_adamw"
    learning_rate: float = Field(gt=0)
    """The peak; weight decay is scaled by the learning rate over this."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: a weight is multiplied by 1 − weight_decay · rate / learning_rate each step."""
    gradient_clipping: float | None = Field(default=None, gt=0)

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the optimizer's states per parameter."""
        return OPTIMIZER_STATES[self.name]

    @property
    def bytes_per_parameter(self) -> int:
        """Memory of a parameter's float32 master weight and optimizer states."""
        return 4 * (1 + len(self.state_names))


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
    """When and where metrics are logged."""

    every_steps: int = Field(default=10, ge=1)
    loggers: tuple[Literal["tensorboard"], ...] = ("tensorboard",)
    """Loggers besides the console and `log.jsonl`, which are always on."""


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
    sanity_every: int | None = Field(default=None, gt=0)
    """Steps between comparisons of all ranks: copies of weights and the rows of a tensor group
    equal, weights finite, every gradient counted once. None: only before a checkpoint is saved."""
