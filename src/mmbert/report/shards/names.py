"""Names, scripts and BCP 47 tags of languages, from Babel's tables."""

from functools import cache

from babel import Locale
from babel.core import get_global

# Babel has the names that follow "Chinese".
_STAND_ALONE = {"Hans": "Simplified Han", "Hant": "Traditional Han"}


def script_of(language: str) -> str:
    """Return the script of `iso639-3_Script`, or an empty string."""
    return language.partition("_")[2]


def language_tag(language: str) -> str:
    """Return the value of HTML's `lang`: `swh_Latn` is `sw-Latn`; `und` without a usable code."""
    code, _, script = language.partition("_")
    if not (code.isascii() and code.isalpha() and 2 <= len(code) <= 3):
        return "und"
    tag = _aliases().get(code, code)
    is_script = len(script) == 4 and script.isascii() and script.isalpha()
    return f"{tag}-{script}" if is_script else tag


def language_name(language: str) -> str:
    """Return the English name of a language, or an empty string."""
    code = language.partition("_")[0]
    names = _english().languages
    return str(names.get(code) or names.get(_aliases().get(code, ""), ""))


def script_name(script: str) -> str:
    """Return the English name of a script, or its code."""
    return _STAND_ALONE.get(script) or str(_english().scripts.get(script, script))


@cache
def _english() -> Locale:
    return Locale("en")


@cache
def _aliases() -> dict[str, str]:
    return dict(get_global("language_aliases"))
