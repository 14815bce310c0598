"""The user's own keys for names, from the file of `--language-map`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

NO_LANGUAGE = "-"
"""Written instead of a key: the name is no language."""


class LanguageMap(BaseModel):
    """Names of files, folders and values of columns, with their keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: dict[str, str] = {}
    """Name -> key, or NO_LANGUAGE."""
    lines: dict[str, int] = Field(default={}, exclude=True)
    """Name -> its line in the file."""
    file: str = Field(default="", exclude=True)
    """Name of the file."""

    def get(self, name: str) -> str | None:
        """Return the key of a name, NO_LANGUAGE, or None where the file does not have it."""
        return self.keys.get(name)

    def line(self, name: str) -> str:
        """Return where a name stands in the file, for messages."""
        return f"{self.file}, line {self.lines.get(name, 0)}: {name}"
