"""Recipe sections for the whole run: model, data, batch, optimizer and others."""

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
    """Sizes of the encoder (ModernBERT); `preset` provides defaults."""

    preset: Literal["small", "base", "large", "huge"] | None = None
    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    """Width of the GeGLU layer (its input projection has twice as many outputs)."""
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    vocab_size: int | None = Field(default=None, gt=0)
    """Rows of the embedding. Default: the tokenizer's vocabulary size, which it must equal."""
    global_attention_every: int = Field(default=3, gt=0)
    """Interval of layers with global attention, from layer 0; the others use local attention."""
    local_window: int = Field(default=128, gt=0, multiple_of=2)
    """Width of local attention in tokens, half of it on each side."""
    norm_eps: float = Field(default=1e-5, gt=0)
    attention_output_dropout: float = Field(default=0.1, ge=0, lt=1)
    initializer_range: float = Field(default=0.02, gt=0)
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations recomputed in the backward pass instead of stored."""

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
    """Tokenizer for preprocessing: an existing one, or one trained on the text."""

    path: Path | None = None
    """SentencePiece model or Hugging Face tokenizer folder. Default: train SentencePiece BPE."""
    vocab_size: Quantity = Field(default=256_000, gt=300)


class Source(Settings):
    """Source of text: folder within the shards, and sampling of its languages."""

    name: str
    path: str | None = None
    """Subfolder of the shards. Default: the name."""
    sampling: Literal["temperature", "budget"] = "temperature"
    """`temperature`: tokens in proportion to n**temperature over the phase's languages.
    `budget`: all languages of the source, in proportion to their size."""
    tokens: dict[str, Quantity] | None = None
    """Weight in the mixture by phase (tokens in the published tables); phases not listed do not use
    the source. A single source needs no weights."""
    max_epochs: float | None = Field(default=None, gt=0)
    """Maximum epochs of a language over the whole run; excess tokens go to the others."""

    @property
    def folder(self) -> str:
        """Subfolder of the shards with this source."""
        return self.path or self.name


class MaskingSettings(Settings):
    """Replacement of selected tokens: fractions of mask and random tokens; the rest are kept."""

    mask: float = Field(default=0.8, ge=0, le=1)
    random: float = Field(default=0.1, ge=0, le=1)
    whole_word: bool = False

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.mask + self.random > 1 + 1e-12:
            raise ValueError(f"mask {self.mask} and random {self.random} sum to more than 1")
        return self


class DataSettings(Settings):
    """Sources of text and masking."""

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
                        f"source '{source.name}' needs `tokens` (its weight in each phase's "
                        "mixture), since there is more than one source"
                    )
        return self


class Growth(Settings):
    """Batch-size warm-up at the start of training, with the same number of steps at each size."""

    tokens: Quantity = Field(gt=0)
    from_rows: int = Field(gt=0)


class BatchSettings(Settings):
    """Batch sizes. A row is one microbatch of `row_tokens` tokens; a step has `rows` rows."""

    row_tokens: Quantity = Field(gt=0)
    rows: int = Field(gt=0)
    quantum: int = Field(gt=0)
    """Number of virtual data streams. Every batch is a multiple of it, and the data-parallel size
    must divide it; the data are otherwise independent of the ranks."""
    growth: Growth | None = None
    """Batch-size warm-up."""

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
    """StableAdamW as used by mmBERT, or AdamW."""

    name: OptimizerName = "stable_adamw"
    learning_rate: float = Field(gt=0)
    """Peak learning rate; weight decay is scaled by the current rate over this."""
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
    """Tensor-parallel size, sequence parallelism and ZeRO stage."""

    tensor: int = Field(default=1, gt=0)
    sequence: bool = False
    zero_stage: Literal[1, 2, 3] = 1


class CheckpointSettings(Settings):
    """Checkpoint interval and retention; checkpoints at the end of a phase are always kept."""

    every_tokens: Quantity | None = None
    every_minutes: float | None = Field(default=None, gt=0)
    keep_last: int = Field(default=3, ge=1)
    keep_every: int | None = Field(default=None, ge=1)
    """Keep every Nth checkpoint permanently."""
    asynchronous: bool = True


class EvaluationSettings(Settings):
    """Validation loss on held-out documents, with the same documents and masks every time."""

    every_tokens: Quantity | None = None
    documents_per_language: int = Field(default=32, ge=1)
    mask_ratio: float = Field(default=0.15, gt=0, lt=1)
    context: Quantity | None = None
    """Context that held-out documents are truncated to. Default: the first phase's context."""


class LoggingSettings(Settings):
    """When and where metrics are logged."""

    every_steps: int = Field(default=10, ge=1)
    loggers: tuple[Literal["tensorboard"], ...] = ("tensorboard",)
    """Loggers besides the console and `log.jsonl`, which are always on."""


class GuardSettings(Settings):
    """Handling of non-finite losses, loss spikes and hanging ranks."""

    non_finite_limit: int = Field(default=10, ge=0)
    """Maximum steps skipped for a non-finite loss or gradient within the last thousand steps
    before the run stops."""
    spike_window: int = Field(default=200, ge=10)
    """Window of the running median for spike detection, in steps (within one phase)."""
    spike_threshold: float | None = Field(default=8.0, gt=0)
    """Spike threshold in robust standard deviations above the running median; none disables spike
    detection."""
    rollback: bool = False
    """After a spike, return to the last checkpoint and skip the rows of the surrounding steps."""
    rollback_limit: int = Field(default=5, ge=1)
    """Maximum rollbacks before the run stops for inspection."""
    hang_minutes: float = Field(default=15.0, gt=0)
    """Timeout for a rank without progress, in minutes: its stack is reported and the run stops."""
    sanity_every: int | None = Field(default=None, gt=0)
    """Steps between sanity checks across ranks: equal weight copies, equal rows in a tensor group,
    finite weights, every gradient counted once. None: only before a checkpoint is saved."""
