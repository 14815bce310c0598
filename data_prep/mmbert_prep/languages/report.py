"""What names were taken for: counted for `summary.json`, and as lines for the console."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel

_MOST_NAMES = 20
_MOST_REFUSED = 10
_MOST_MERGED = 5


class NamedLanguage(BaseModel):
    """A name that is not a key of FineWeb2, and what it was taken for."""

    language: str | None = None
    """Its key; None if it was refused."""
    files: int = 0
    """Files with the name in their path."""
    documents: int = 0
    """Documents with the name in their language columns."""
    problem: str = ""
    """Why it was refused."""
    candidates: tuple[str, ...] = ()
    """Keys that may be meant by a refused name."""
    note: str = ""
    """What the key leaves out of the name."""

    def add(self, other: NamedLanguage) -> NamedLanguage:
        """Return this with the files and documents of another use of the name."""
        return self.model_copy(
            update={
                "files": self.files + other.files,
                "documents": self.documents + other.documents,
            }
        )

    def stored(self) -> dict[str, object]:
        """Return the fields that say something, as JSON values."""
        return self.model_dump(mode="json", exclude_defaults=True)


def add_name(names: dict[str, NamedLanguage], name: str, use: NamedLanguage) -> None:
    """Count a use of a name."""
    names[name] = names[name].add(use) if name in names else use


def describe_names(
    names: Mapping[str, NamedLanguage], by_key: Iterable[str] = (), place: str = "summary.json"
) -> list[str]:
    """Return lines about what names were taken for, the most frequent first.

    Args:
        names: name -> what it was taken for.
        by_key: languages that also are named by their key.
        place: where the names are that do not fit on a screen.
    """
    order = sorted(names, key=lambda name: (-_weight(names[name]), name))
    taken = [name for name in order if names[name].language]
    refused = [name for name in order if not names[name].language]
    lines = []
    if taken:
        texts = [f"{name} → {names[name].language} ({_uses(names[name])})" for name in taken]
        lines.append(f"languages: {_first(texts, _MOST_NAMES, place)}")
    spelled: dict[str, list[str]] = {}
    for name in sorted(taken):
        spelled.setdefault(names[name].language or "", []).append(name)
    exact = set(by_key)
    merged = {
        key: [*([key] if key in exact else []), *spellings]
        for key, spellings in sorted(spelled.items())
        if len(spellings) + (key in exact) > 1
    }
    if merged:
        texts = [f"{key} ({', '.join(spellings)})" for key, spellings in merged.items()]
        lines.append(f"one language each: {_first(texts, _MOST_MERGED, place)}")
    lines += [f"no language: {_refusal(name, names[name])}" for name in refused[:_MOST_REFUSED]]
    if len(refused) > _MOST_REFUSED:
        lines.append(f"no language: {len(refused) - _MOST_REFUSED} more names in {place}")
    return lines


def how_to_name(name: str, candidates: Iterable[str]) -> str:
    """Return which line of the file of `--language-map` gives a name a language."""
    meant = " or ".join(f"'{name}: {key}'" for key in candidates)
    line = f"the line {meant}" if meant else f"a line such as '{name}: swh_Latn'"
    return f"to give it one, write {line} into the file of --language-map"


def _refusal(name: str, use: NamedLanguage) -> str:
    return f"{name} ({_uses(use)}): {use.problem}; {how_to_name(name, use.candidates)}"


def _weight(use: NamedLanguage) -> int:
    return use.files + use.documents


def _uses(use: NamedLanguage) -> str:
    counts = [
        f"{count:,} {kind}{'' if count == 1 else 's'}"
        for count, kind in ((use.files, "file"), (use.documents, "document"))
        if count
    ]
    return "; ".join([", ".join(counts), *([use.note] if use.note else [])])


def _first(texts: list[str], most: int, place: str) -> str:
    more = f", … {len(texts) - most} more in {place}" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
