"""Sections of the recipe about the data: sources and masking."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmbert.recipe.base import Name, Settings, Subfolder, require_distinct
from mmbert.recipe.units import Epochs, Fraction, Tokens, Unit


class Source(Settings):
    """Source of text: folder within the shards, and sampling of its languages."""

    name: Name
    """Name of the source, unique in the recipe."""
    path: Subfolder | None = None
    """Subfolder of the shards. Default: the name."""
    sampling: Literal["temperature", "budget"] = "temperature"
    """`temperature`: tokens in proportion to `n ** temperature` over the phase's languages.
    `budget`: all languages of the source, in proportion to their size."""
    tokens: dict[str, Annotated[Tokens, Field(ge=0)]] | None = None
    """Weight in the mixture by phase (tokens in the published tables); phases not listed do not use
    the source. A single source needs no weights."""
    max_epochs: Epochs | None = Field(default=None, gt=0)
    """Maximum epochs of a language over the whole run; excess tokens go to the others."""

    @property
    def folder(self) -> str:
        """Subfolder of the shards with this source."""
        return self.path or self.name


class SpanSettings(Settings):
    """Masks of consecutive tokens, with geometric lengths up to a limit (SpanBERT).

    Lengths l = 1 … `limit` have probabilities in proportion to q ** (l - 1). Spans end with their
    document; one of each row is cut so that the number of masked tokens is exact (of each document,
    if they have mask ratios of their own); neighboring ones may touch.
    """

    mean: Annotated[float, Unit("tokens")] = Field(gt=1, lt=1000)
    """Mean length of a span, that of the truncated distribution; below `(limit + 1) / 2`, the mean
    of equal probabilities. SpanBERT: 3.8."""
    limit: Annotated[int, Unit("tokens")] = Field(ge=2, le=1000)
    """Longest span. SpanBERT: 10."""

    @model_validator(mode="after")
    def _mean_is_reached(self) -> Self:
        if self.mean >= (self.limit + 1) / 2:
            raise ValueError(
                f"mean {self.mean:g} is not below {(self.limit + 1) / 2:g}, that of equally likely "
                f"lengths up to limit {self.limit}: raise the limit"
            )
        return self


class MaskingSettings(Settings):
    """Replacement of selected tokens: fractions of mask and random tokens; the rest are kept."""

    mask: Fraction = Field(default=0.8, ge=0, le=1)
    """Fraction of the selected tokens that become the mask token."""
    random: Fraction = Field(default=0.1, ge=0, le=1)
    """Fraction of the selected tokens that become random tokens; `mask + random` is at most 1."""
    whole_word: bool = False
    """Select whole words instead of single tokens; needs the tokenizer's `tokenizer.json`."""
    spans: SpanSettings | None = None
    """Select spans of consecutive tokens instead of single ones; not with `whole_word`. Held-out
    masks stay single tokens, so that losses compare. Default: single tokens."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.mask + self.random > 1 + 1e-12:
            raise ValueError(f"mask {self.mask} and random {self.random} sum to more than 1")
        if self.spans is not None and self.whole_word:
            raise ValueError("whole_word and spans exclude each other: spans end within words")
        return self

    def held_out(self) -> Self:
        """Return the settings of held-out masks: without spans."""
        return self.model_copy(update={"spans": None})


class DataSettings(Settings):
    """Sources of text and masking."""

    sources: tuple[Source, ...] = (Source(name="text"),)
    """Sources of text, each a folder of the shards."""
    masking: MaskingSettings = MaskingSettings()
    """Replacement of the tokens selected for prediction."""
    copy_to: str | None = Field(default=None, pattern=r"\S")
    """Folder on every node's own disk to copy the shards to before training, which then reads
    there. Environment variables of the node, `$TMPDIR` or `${TMPDIR}`, are filled in; `$$` is a
    dollar. May change between starts. Default: read where `--data` is."""

    def without_place(self) -> Self:
        """Return these settings without where the shards are copied to, which changes no row."""
        return self.model_copy(update={"copy_to": None})

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
