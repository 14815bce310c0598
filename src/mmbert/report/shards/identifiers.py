"""Libraries that identify languages: py3langid's own model, or a fastText model of the user.

py3langid needs no download; its release 0.4 knows 140 languages, GlotLID and its like up to 2,000.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from mmbert.errors import ArgumentError, PackageError

BUNDLED = "bundled"
_PREFIX = "__label__"
_SCRIPT = re.compile("[A-Z][a-z]{3}")
# Written alike for an identifier, though named apart.
_SAME_SCRIPTS = {"Hans": "Hani", "Hant": "Hani", "Kore": "Hang"}
_MISSING = "pip install 'mmbert-train[identify]', or leave --identify out"


@dataclass(frozen=True)
class Variety:
    """What two names of a language must share to be taken for the same."""

    language: str
    """Macrolanguage, whose members identifiers confuse (hr, bs, sr), or the language itself."""
    script: str


class Identifier(Protocol):
    """Finds the language of texts."""

    name: str
    labels: Sequence[str]
    """All answers that are possible."""

    def identify(self, texts: Sequence[str]) -> list[str]:
        """Return the label of each text."""
        ...


class BundledIdentifier:
    """py3langid with the model that comes with it."""

    name = "py3langid"

    def __init__(self) -> None:
        self._module: Any = _imported("py3langid")
        # A ranking has all labels.
        self.labels: Sequence[str] = sorted({str(label) for label, _ in self._module.rank("a")})

    def identify(self, texts: Sequence[str]) -> list[str]:
        """Return the label of each text."""
        return [str(self._module.classify(text)[0]) for text in texts]


class FastTextIdentifier:
    """A fastText model for language identification, such as GlotLID or lid.176."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise ArgumentError(
                f"--identify: {path} does not exist",
                remedy=f"give a fastText model, such as GlotLID's model.bin, or {BUNDLED!r}",
            )
        module = _imported("fasttext")
        try:
            self._model: Any = module.load_model(str(path))
            # All labels, of hierarchical models too: a threshold below 0 leaves none out.
            labels, _ = self._model.predict("a", k=-1, threshold=-1.0)
            if not labels:
                raise ValueError("it has no labels")
        except (ValueError, RuntimeError, MemoryError) as error:
            raise ArgumentError(
                f"--identify: {path} is not a fastText classifier: {error}",
                remedy=f"give a fastText model, such as GlotLID's model.bin, or {BUNDLED!r}",
            ) from error
        self.name = path.name
        self.labels: Sequence[str] = sorted(label.removeprefix(_PREFIX) for label in labels)

    def identify(self, texts: Sequence[str]) -> list[str]:
        """Return the label of each text."""
        found = []
        for text in texts:
            # A single line: other whitespace separates words as a newline does.
            labels, _ = self._model.predict(" ".join(text.split()))
            found.append(labels[0].removeprefix(_PREFIX) if labels else "und")
        return found


def open_identifier(choice: str) -> Identifier:
    """Open py3langid ("bundled") or the fastText model at a path.

    Raises:
        PackageError: the library is not installed.
        ArgumentError: the file is missing or no fastText model.
    """
    return BundledIdentifier() if choice == BUNDLED else FastTextIdentifier(Path(choice))


@cache
def variety(name: str) -> Variety:
    """Return the variety of a language key or a label: `swh_Latn`, `sw`, `zh-Hant`, `zho_Hans`.

    Without a script in the name, it is the one that the language is mostly written in.
    """
    langcodes = _imported("langcodes")
    code, *others = re.split("[-_]", name)
    try:
        language = str(langcodes.standardize_tag(code, macro=True)).split("-")[0]
        likely = str(langcodes.Language.get(language).maximize().script or "")
    except (ValueError, LookupError):  # LanguageTagError is a ValueError
        language, likely = code, ""
    scripts = [part for part in others if _SCRIPT.fullmatch(part)]
    script = scripts[0] if scripts else likely
    members = _imported("langcodes.data_dicts").MACROLANGUAGES
    return Variety(members.get(language, language), _SAME_SCRIPTS.get(script, script))


def _imported(module: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        package = {"fasttext": "fasttext-predict"}.get(module, module.partition(".")[0])
        raise PackageError(
            f"--identify needs {package}, which is not installed", remedy=_MISSING
        ) from error
