"""Typed SHARDS/tokenizer/description.json: the tokenizer properties used by the data pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmbert.errors import ShardsError
from mmbert.files import write_json

DESCRIPTION_NAME = "description.json"

TokenId = Annotated[int, Field(ge=0, strict=True)]


class SpecialIds(BaseModel):
    """Special token ids; they never represent text and are never masked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pad: TokenId
    begin: TokenId
    end: TokenId
    unknown: TokenId
    mask: TokenId

    def all(self) -> tuple[int, ...]:
        """Return the distinct ids in ascending order."""
        return tuple(sorted({self.pad, self.begin, self.end, self.unknown, self.mask}))


class TokenizerDescription(BaseModel):
    """Kind, size and identity of the tokenizer that made the shards.

    `fingerprint` is the SHA-256 of the tokenizer's own file; manifests repeat it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["sentencepiece", "huggingface"]
    vocabulary_size: Annotated[int, Field(ge=1, strict=True)]
    fingerprint: str
    special_ids: SpecialIds

    @model_validator(mode="after")
    def _ids_in_vocabulary(self) -> TokenizerDescription:
        largest = max(self.special_ids.all())
        if largest >= self.vocabulary_size:
            raise ValueError(
                f"special id {largest} is outside the vocabulary of {self.vocabulary_size}"
            )
        if len({self.special_ids.mask, self.special_ids.pad}) < 2:
            raise ValueError("mask and pad have the same id")
        return self


def write_tokenizer_description(folder: Path, description: TokenizerDescription) -> None:
    """Write `folder`/description.json atomically."""
    write_json(folder / DESCRIPTION_NAME, description.model_dump(mode="json"))


def read_tokenizer_description(folder: Path) -> TokenizerDescription:
    """Read and validate `folder`/description.json. Raises ShardsError naming the file."""
    path = folder / DESCRIPTION_NAME
    remedy = "give the folder written by the preprocessing, or run the preprocessing again"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ShardsError(
            f"{path} is missing: not a folder of finished shards", remedy=remedy
        ) from None
    try:
        return TokenizerDescription.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ShardsError(f"{path}: {where}: {first['msg']}", remedy=remedy) from error
