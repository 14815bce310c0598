"""Recipe sections for the whole run: model, batch, optimizer and others."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mmbert.recipe.base import NamedPath, Settings
from mmbert.recipe.units import (
    Checkpoints,
    Documents,
    Features,
    Fraction,
    Heads,
    Layers,
    Minutes,
    PlainTokens,
    Ranks,
    Rows,
    RowTokens,
    Steps,
    Streams,
    Tokens,
)

PRESET_KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# Values of PRESET_KEYS. `small` and `base` are mmBERT's; `large` (about 1B) and `huge` (about 7B)
# keep head size 64 and the same proportions.
MODEL_PRESETS: dict[str, tuple[int, int, int, int]] = {
    "small": (384, 1152, 22, 6),
    "base": (768, 1152, 22, 12),
    "large": (1536, 2304, 28, 24),
    "huge": (4096, 6144, 40, 64),
}


class ModelSettings(Settings):
    """Sizes of the encoder (ModernBERT); `preset` provides defaults."""

    preset: Literal["small", "base", "large", "huge"] | None = None
    """Named sizes: width, inner width, layers and heads."""
    hidden_size: Features = Field(gt=0)
    """Width of the hidden states; `hidden_size / num_attention_heads` must be even."""
    intermediate_size: Features = Field(gt=0)
    """Width of the GeGLU layer (its input projection has twice as many outputs)."""
    num_hidden_layers: Layers = Field(gt=0)
    """Transformer layers."""
    num_attention_heads: Heads = Field(gt=0)
    """Attention heads; must divide `hidden_size`."""
    vocab_size: int | None = Field(default=None, gt=0, le=1 << 24)
    """Rows of the embedding. Default: the tokenizer's vocabulary size, which it must equal."""
    global_attention_every: Layers = Field(default=3, gt=0)
    """Interval of layers with global attention, from layer 0; the others use local attention."""
    local_window: PlainTokens = Field(default=128, gt=0, multiple_of=2)
    """Width of local attention, half of it on each side."""
    norm_eps: float = Field(default=1e-5, gt=0, lt=1)
    """Term added to the variance in layer norms."""
    attention_output_dropout: Fraction = Field(default=0.1, ge=0, lt=1)
    """Dropout after the output projection of attention."""
    initializer_range: float = Field(default=0.02, gt=0, le=1)
    """Standard deviation of initial weights; linears that write to the residual stream have it
    divided by √(2 · layers)."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations recomputed in the backward pass: `selective` norms and GeGLU, `full` layers."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") in list(MODEL_PRESETS):
            return dict(zip(PRESET_KEYS, MODEL_PRESETS[values["preset"]], strict=True)) | values
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

    path: NamedPath | None = None
    """SentencePiece model or Hugging Face tokenizer folder. Default: train SentencePiece BPE."""
    vocab_size: Tokens = Field(default=256_000, gt=300, le=1 << 24)
    """Vocabulary size of a trained tokenizer."""


class Growth(Settings):
    """Batch-size warm-up at the start of training, with the same number of steps at each size."""

    tokens: Tokens = Field(gt=0)
    """Tokens of the warm-up, from the start of the first phase."""
    from_rows: Rows = Field(gt=0)
    """Rows of the first step. Sizes are the multiples of `quantum` from here to the full batch."""


class BatchSettings(Settings):
    """Batch sizes. A row is one microbatch of `row_tokens` tokens; a step has `rows` rows."""

    row_tokens: RowTokens = Field(gt=2)
    """Tokens of a row, at least the longest context; a multiple of `parallel.tensor`."""
    rows: Rows = Field(gt=0)
    """Rows per step; a multiple of `quantum`."""
    quantum: Streams = Field(gt=0)
    """Number of virtual data streams. Every batch is a multiple of it, and the data-parallel size
    must divide it; the data are otherwise independent of the ranks."""
    growth: Growth | None = None
    """Batch-size warm-up. Default: full batches from the first step."""

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


class ParallelSettings(Settings):
    """Tensor-parallel size, sequence parallelism and ZeRO stage."""

    tensor: Ranks = Field(default=1, gt=0)
    """Tensor-parallel size; must divide attention heads, inner width and `batch.row_tokens`."""
    sequence: bool = False
    """Sequence parallelism: split tokens outside attention and feed-forward layers over the tensor
    group, which saves activation memory."""
    zero_stage: Literal[1, 2, 3] = 1
    """States sharded over the data ranks: 1 optimizer states, 2 also gradients, 3 also weights."""


class CheckpointSettings(Settings):
    """Checkpoint interval and retention; checkpoints at the end of a phase are always kept."""

    every_tokens: Tokens | None = Field(default=None, gt=0)
    """Save whenever the run passes a multiple of this. Default: no token interval."""
    every_minutes: Minutes | None = Field(default=None, gt=0)
    """Save when this much time has passed since the last save. Default: no time interval."""
    keep_last: Checkpoints = Field(default=3, ge=1)
    """Latest checkpoints to keep."""
    keep_every: Checkpoints | None = Field(default=None, ge=1)
    """Keep every Nth checkpoint permanently. Default: only phase ends are permanent."""
    asynchronous: bool = True
    """Write to disk while training continues; a step waits only for the copy to host memory."""


class EvaluationSettings(Settings):
    """Validation loss on held-out documents, with the same documents and masks every time."""

    every_tokens: Tokens | None = Field(default=None, gt=0)
    """Evaluate at multiples of this too. Default: only at the start and end of each phase."""
    documents_per_language: Documents = Field(default=32, ge=1)
    """Held-out documents of each language of each source."""
    mask_ratio: Fraction = Field(default=0.15, gt=0, lt=1)
    """Fraction of held-out tokens to mask, the same in every phase."""
    context: Tokens | None = Field(default=None, gt=2)
    """Context that held-out documents are truncated to. Default: the first phase's context."""


class LoggingSettings(Settings):
    """When and where metrics are logged."""

    every_steps: Steps = Field(default=10, ge=1)
    """Interval of log lines."""
    loggers: tuple[Literal["tensorboard"], ...] = ("tensorboard",)
    """Loggers besides the console and `log.jsonl`, which are always on."""


class GuardSettings(Settings):
    """Handling of non-finite losses, loss spikes and hanging ranks."""

    non_finite_limit: Steps = Field(default=10, ge=0)
    """Maximum steps skipped for a non-finite loss or gradient within the last thousand steps
    before the run stops."""
    spike_window: Steps = Field(default=200, ge=10)
    """Window of the running median for spike detection, within one phase."""
    spike_threshold: float | None = Field(default=8.0, gt=0)
    """Spike threshold above the running median, in robust standard deviations; `null` disables
    spike detection."""
    rollback: bool = False
    """After a spike that repeats, return to the last checkpoint and skip the rows of the
    surrounding steps."""
    rollback_limit: int = Field(default=5, ge=1, le=1_000_000)
    """Maximum spikes of a run that are repeated from a checkpoint, and maximum rollbacks that skip
    rows; later spikes are reported, and training continues."""
    hang_minutes: Minutes = Field(default=15.0, gt=0)
    """Longest timeout for a rank without progress: its stack is reported and the run stops. Parts
    of the run whose times were seen have shorter ones."""
    sanity_every: Steps | None = Field(default=None, gt=0)
    """Interval of sanity checks across ranks: equal weight copies, equal rows in a tensor group,
    finite weights, every gradient counted once. Default: only before a checkpoint is saved."""
