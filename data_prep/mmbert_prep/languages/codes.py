"""ISO 639-3 codes of language tags and names, from the tables of langcodes and Babel.

FineWeb2 names individual languages, while BCP 47 (`zh`, `ar`, `sw`) prefers macrolanguages. CLDR
has a predominant language for most of them (`cmn` for `zh`); the others have one where FineWeb2 has
a single one of their languages, or where Babel's aliases of locales name it (`nb` for `no`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from babel.core import LOCALE_ALIASES, get_global
from langcodes import Language, LanguageTagError, standardize_tag
from langcodes.data_dicts import MACROLANGUAGES
from language_data.names import normalize_name

from mmbert.recipe.named import find_language_list
from mmbert_prep.languages.keys import fineweb2_scripts


@dataclass(frozen=True)
class Codes:
    """What a language subtag may stand for."""

    found: tuple[str, ...]
    """Codes of FineWeb2: one if the subtag is clear, none if FineWeb2 lacks the language."""
    iso639_3: str
    """The subtag's own ISO 639-3 code, which may be that of a macrolanguage."""
    script: str | None = None
    """Script that the subtag implies (`sh` is Serbian in Latin script)."""
    related: tuple[str, ...] = ()
    """Codes of FineWeb2 for the macrolanguage of a language that FineWeb2 lacks."""


@cache
def codes_of(subtag: str) -> Codes | None:
    """Return the codes of a subtag of two or three letters, or None if there is no such language.

    Retired codes (`iw`) and ISO 639-2's bibliographic ones (`ger`) are those that replaced them.
    """
    subtag = subtag.lower()
    known = fineweb2_scripts()
    if subtag in known:  # FineWeb2 has a few that ISO 639-3 has retired
        return Codes((subtag,), subtag)
    try:
        # Babel's tables are newer than those of langcodes: they have `tok`.
        if not (Language.get(subtag).is_valid() or subtag in get_global("likely_subtags")):
            return None
        own = Language.make(language=subtag).to_alpha3()
        present = Language.get(standardize_tag(subtag))
        current = present.to_alpha3()
    except (LookupError, LanguageTagError):
        return None
    if own in known:
        return Codes((own,), own)
    macrolanguage = MACROLANGUAGES.get(subtag)
    if macrolanguage is not None:  # FineWeb2 has it, at most, as a part of that
        whole = codes_of(macrolanguage)
        return Codes((), own, related=() if whole is None else whole.found)
    if current in known:
        return Codes((current,), current, present.script)
    predominant = _by_macrolanguage().get(standardize_tag(subtag, macro=True), ())
    return Codes(predominant or _members(present), current, present.script)


@cache
def _by_macrolanguage() -> dict[str, tuple[str, ...]]:
    """Return tag -> codes of FineWeb2 that CLDR replaces by it (`zh`: `cmn`)."""
    found: dict[str, tuple[str, ...]] = {}
    for code in fineweb2_scripts():
        tag = standardize_tag(code, macro=True)
        found[tag] = (*found.get(tag, ()), code)
    return found


def _members(language: Language) -> tuple[str, ...]:
    """Return the codes of FineWeb2 that belong to a macrolanguage without a predominant one."""
    alias = LOCALE_ALIASES.get(str(language))
    if alias is not None:
        code = Language.get(alias).to_alpha3()
        if code in fineweb2_scripts():
            return (code,)
    members = (
        Language.make(language=member).to_alpha3()
        for member, macro in MACROLANGUAGES.items()
        if macro == language.language
    )
    return tuple(sorted({member for member in members if member in fineweb2_scripts()}))


def usual_script(code: str) -> str | None:
    """Return the script in which nearly all text of a language is written, or None.

    It is "Suppress-Script" of IANA's registry of subtags: Arabic has one, Serbian has none.
    """
    return Language.get(standardize_tag(code, macro=True)).assume_script().script


def likely_script(code: str, territory: str | None = None) -> str | None:
    """Return the script of CLDR's likely subtags; for a territory, only if CLDR lists the two."""
    likely = get_global("likely_subtags")
    for tag in (standardize_tag(code), standardize_tag(code, macro=True)):
        full = likely.get(f"{tag}_{territory}" if territory else tag)
        if full is not None:
            return full.split("_")[1]
    return None


@cache
def is_script(script: str) -> bool:
    """Return whether ISO 15924 has a script, which is written `Latn`."""
    if Language.make(language="en", script=script).is_valid():
        return True
    return any(
        f"_{script}_" in full for full in get_global("likely_subtags").values()
    )  # newer ones


@cache
def are_registered(subtags: str) -> bool:
    """Return whether subtags after a language (`BR`, `ES-valencia`) are registered."""
    try:
        return Language.get(f"en-{subtags}", normalize=False).is_valid()
    except LanguageTagError:
        return False


@cache
def tag_of_name(name: str) -> str | None:
    """Return the tag of a language by its English or its own name (`German`, `Deutsch`)."""
    wanted = normalize_name(name.replace("_", " "))
    if (len(wanted) < 4 and wanted.isascii()) or any(map(str.isdigit, wanted)):
        return None  # shorter ones are codes
    if not wanted.isprintable():  # language_data cannot look up every text
        return None
    try:
        language = Language.find(wanted)
    except (LookupError, UnicodeError):
        return None
    # `find` also returns languages whose name only begins as the given one.
    names = (language.display_name("en"), language.autonym(), _plain_name(language))
    return str(language) if wanted in {normalize_name(each) for each in names} else None


def _plain_name(language: Language) -> str:
    """Return "Simplified Chinese" where `display_name` is "Chinese (Simplified)"."""
    whole = language.display_name("en")
    base, _, rest = whole.partition(" (")
    return f"{rest.removesuffix(')')} {base}"


@cache
def english_names() -> dict[str, str]:
    """Return the English names of FineWeb2's languages, in lower case -> their codes."""
    return {Language.get(code).display_name("en").lower(): code for code in fineweb2_scripts()}


@cache
def common_codes() -> frozenset[str]:
    """Return the codes of mmBERT's 110 languages."""
    lines = find_language_list("mmbert-110", Path()).read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))
