"""Sections of the recipe about the data: sources and masking."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmbert.recipe.base import Name, Settings, Subfolder, require_distinct
from mmbert.recipe.units import Epochs, Fraction, Tokens


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


class MaskingSettings(Settings):
    """Replacement of selected tokens: fractions of mask and random tokens; the rest are kept."""

    mask: Fraction = Field(default=0.8, ge=0, le=1)
    """Fraction of the selected tokens that become the mask token."""
    random: Fraction = Field(default=0.1, ge=0, le=1)
    """Fraction of the selected tokens that become random tokens; `mask + random` is at most 1."""
    whole_word: bool = False
    """Select whole words instead of single tokens; needs the tokenizer's `tokenizer.json`."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.mask + self.random > 1 + 1e-12:
            raise ValueError(f"mask {self.mask} and random {self.random} sum to more than 1")
        return self


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
