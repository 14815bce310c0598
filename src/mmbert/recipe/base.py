"""Base class of all recipe sections: immutable, without unknown keys."""

import difflib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Name = Annotated[str, Field(pattern=r"\S")]
"""Name that is not blank."""


def _not_blank(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise ValueError("the path is empty")
    return value


NamedPath = Annotated[Path, BeforeValidator(_not_blank)]
"""Path that is not blank, which would be the working directory."""
Subfolder = Annotated[str, Field(pattern=r"^[^/]+(/[^/]+)*$")]
"""Relative path of a folder."""


class Settings(BaseModel):
    """Immutable section of the recipe. Rejects unknown keys, suggesting the closest known key."""

    model_config = ConfigDict(
        allow_inf_nan=False,
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


def require_distinct(key: str, names: list[str]) -> None:
    """Raise ValueError if two of `names`, the entries of `key`, are equal."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{key} has two entries named '{name}'")
