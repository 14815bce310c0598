"""Which names beside each other are languages, from all of them together.

`no`, `it`, `new` and `raw` are codes of languages and ordinary words. What a name is, is seen from
those beside it: the folders with text in one folder, the files of one folder, or the configurations
of one dataset. The rules, which `docs/preprocess.md` has for users:

1. A key, or code and script of one (`eng_latn`, `zh-Hans`), is a language anywhere.
2. Any other name is one only if more than half of the names there may be, and either one of them is
   surely a common language (of mmBERT's 110, and no ordinary word) or all of at least five are.
3. A language that is not common is one only if moreover at least nine in ten of the names there
   are, and either two others are surely common, or half of the others are written as it is: two
   letters, three, or a whole name. An ordinary word needs twenty common ones, or half so written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmbert_prep.languages.codes import common_codes
from mmbert_prep.languages.keys import is_language_key
from mmbert_prep.languages.resolution import Resolution, resolve

_FEW, _MANY = 5, 20
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
    plain = {name for name in languages if _is_plain(name, found[name])} | known
    level = _Level(
        total=len(found) + len(known),
        languages=len(languages) + len(known),
        plain=len(plain),
        forms=Counter(map(_form, [*languages, *known])),
    )
    return {name: _take(name, each, name in plain, level) for name, each in found.items()}


@dataclass(frozen=True)
class _Level:
    """Counts of names beside each other."""

    total: int
    languages: int
    plain: int
    """Names that are surely common languages."""
    forms: Counter[str]
    """How names of languages are written -> their number."""

    @property
    def is_of_languages(self) -> bool:
        """Whether most names are languages."""
        every = self.languages == self.total
        return 2 * self.languages > self.total and (
            self.plain > 0 or (every and self.total >= _FEW)
        )

    def has_also(self, name: str, is_word: bool) -> bool:
        """Return whether even a name that is not surely a common language is one there."""
        others = self.languages - 1
        same = self.forms[_form(name)] - 1
        enough = _MANY if is_word else 2
        return 10 * self.languages >= 9 * self.total and (
            self.plain >= enough or (others > 0 and 2 * same >= others)
        )

    def describe(self) -> str:
        """Return how many of the names are languages."""
        if self.total == 1:
            return "it is alone"
        return f"{self.languages} of the {self.total} names there may be languages"


def _take(name: str, resolution: Resolution, is_plain: bool, level: _Level) -> Taken:
    beside = level.is_of_languages
    if resolution.certain:
        return Taken(resolution.key, note=resolution.note, certain=True)
    if resolution.key is None:
        wanted = (beside and resolution.is_language) or _looks_like_a_key(name)
        candidates = resolution.candidates
        return Taken(None, resolution.problem, candidates, wanted=wanted, among_languages=beside)
    is_word = _first_part(name) in ordinary_words()
    if beside and (is_plain or level.has_also(name, is_word)):
        return Taken(resolution.key, note=resolution.note)
    problem = f"it may be {'a word or ' if is_word else ''}{resolution.key}; {level.describe()}"
    return Taken(None, problem, (resolution.key,), wanted=beside, among_languages=beside)


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
