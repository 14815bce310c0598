"""Which names beside each other are languages, from all of them together.

`no`, `it`, `new` and `raw` are codes of languages and ordinary words. What a name is, is seen from
those beside it: the folders with text in one folder, the files of one folder, or the configurations
of one dataset. The rules, which `docs/preprocess.md` has for users:

1. A key, or code and script of one (`eng_latn`, `zh-Hans`), is a language anywhere.
2. Any other name is one only if more than half of the names there may be, and either one of them is
   surely a common language (of mmBERT's 110, and no ordinary word) or all of at least five are.
3. An ordinary word, or a language that is not common, is one only if moreover every name there is
   one, and at least half of the others are written as it is: two letters, three, or a whole name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmbert_prep.languages.codes import common_codes
from mmbert_prep.languages.keys import is_language_key
from mmbert_prep.languages.resolution import Resolution, resolve

_FEW = 5
_WORDS_FILE = Path(__file__).with_name("ordinary_words.txt")
CODE, SHORT, NAME, KEY = "three letters", "two letters", "a whole name", "a key"


@cache
def ordinary_words() -> frozenset[str]:
    """Return codes and names of languages that also are words or abbreviations."""
    lines = _WORDS_FILE.read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


@dataclass(frozen=True)
class Taken:
    """What a name among others was taken for."""

    key: str | None
    problem: str = ""
    """Why it is no language, or none that is known."""
    candidates: tuple[str, ...] = ()
    note: str = ""
    wanted: bool = True
    """Whether it is a language's code among languages, or begins as a key, and yet has no key."""
    among_languages: bool = False
    """Whether most of the names there are languages."""
    certain: bool = False


def take_names(names: Iterable[str], known: frozenset[str] = frozenset()) -> dict[str, Taken]:
    """Return what each of the names beside each other is taken for.

    Args:
        names: different names.
        known: names to which the user gave a language.
    """
    found = {name: resolve(name) for name in sorted(set(names) - known)}
    languages = [name for name, each in found.items() if each.key or each.is_language]
    languages += sorted(known)
    total = len(found) + len(known)
    most = 2 * len(languages) > total
    every = len(languages) == total
    plain = [name for name in languages if name in known or _is_plain(name, found[name])]
    is_level = most and (bool(plain) or (every and total >= _FEW))
    why = _why_not(len(languages), total)
    return {
        name: _take(
            name,
            resolution,
            is_level,
            every,
            [_form(other) for other in languages if other != name],
            why,
        )
        for name, resolution in found.items()
    }


def _why_not(languages: int, total: int) -> str:
    return (
        f"{languages} of the {total} names there may be languages" if total > 1 else "it is alone"
    )


def _take(
    name: str, resolution: Resolution, is_level: bool, every: bool, others: list[str], why: str
) -> Taken:
    note = resolution.note
    if resolution.certain:
        return Taken(resolution.key, note=note, certain=True)
    if resolution.key is None:
        wanted = (is_level and resolution.is_language) or _looks_like_a_key(name)
        return Taken(
            None,
            resolution.problem,
            resolution.candidates,
            wanted=wanted,
            among_languages=is_level,
        )
    plain = _is_plain(name, resolution)
    same = 2 * others.count(_form(name)) >= len(others)
    if is_level and (plain or (every and same and others)):
        return Taken(resolution.key, note=note)
    kind = "" if plain else " a word or"
    problem = f"it may be{kind} {resolution.key}; {why}"
    return Taken(None, problem, (resolution.key,), wanted=is_level, among_languages=is_level)


def _looks_like_a_key(name: str) -> bool:
    return is_language_key(name) or (is_language_key(name[:8]) and name[8:9] in ("_", "-", "."))


def _is_plain(name: str, resolution: Resolution) -> bool:
    """Return whether a name is surely a common language: no ordinary word, no small language."""
    keys = (resolution.key,) if resolution.key else resolution.candidates
    if not keys or keys[0].split("_")[0] not in common_codes():
        return False
    return (
        resolution.certain or _first_part(name) not in ordinary_words() or _names_a_territory(name)
    )


def _first_part(name: str) -> str:
    return name.replace("_", "-").split("-")[0].lower()


def _names_a_territory(name: str) -> bool:
    """Return whether a name is written as `pt-BR` or `pt_BR`: so written it is no word."""
    language, _, territory = name.replace("_", "-").partition("-")
    return language.islower() and len(territory) == 2 and territory.isupper()


def _form(name: str) -> str:
    first = _first_part(name)
    if resolve(name).certain:
        return KEY
    return {2: SHORT, 3: CODE}.get(len(first), NAME)
