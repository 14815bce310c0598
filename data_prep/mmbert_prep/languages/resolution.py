"""The key of a language as people write it, or why it has none and which keys may be meant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from mmbert_prep.languages.codes import (
    Codes,
    are_registered,
    codes_of,
    is_script,
    likely_script,
    tag_of_name,
    usual_script,
)
from mmbert_prep.languages.keys import fineweb2_keys, fineweb2_scripts, is_language_key

TAG = re.compile(
    r"(?P<language>[A-Za-z]{2,3})(?:[-_](?P<script>[A-Za-z]{4}))?"
    r"(?:[-_](?P<territory>[A-Za-z]{2}|\d{3}))?(?P<variants>(?:[-_](?:[A-Za-z]{5,8}|\d\w{3}))*)"
)
_KEY_AND_MORE = re.compile(r"([a-z]{3}_[A-Z][a-z]{3})[-_.].*")
# Scripts of ISO 15924 that are variants or parts of the one by which FineWeb2 names the language.
_CONTAINED = {
    "Hans": "Hani", "Hant": "Hani", "Hanb": "Hani", "Kore": "Hang", "Aran": "Arab",
    "Latf": "Latn", "Latg": "Latn", "Cyrs": "Cyrl", "Syre": "Syrc", "Syrj": "Syrc", "Syrn": "Syrc",
}  # fmt: skip
MOST_CANDIDATES = 5


@dataclass(frozen=True)
class Resolution:
    """What a name was taken for."""

    key: str | None
    """Language key; None if the name was refused."""
    problem: str = ""
    """Why it was refused."""
    candidates: tuple[str, ...] = ()
    """Keys of a refused name's languages, likeliest first. `nearest_keys` has those of others."""
    is_language: bool = True
    """Whether the name is a code or a name of a language of FineWeb2's, or a key."""
    certain: bool = False
    """Whether nothing but a language is written so: code and script of a key."""
    note: str = ""
    """What the key leaves out of the name."""


@lru_cache(maxsize=100_000)  # values of columns are unbounded
def resolve(name: str) -> Resolution:
    """Return the key of a language written as code, tag, key or name, in any case, with - or _.

    A well-formed key that FineWeb2 does not have stays as it is if ISO 639-3 and ISO 15924 have
    its code and its script.
    """
    key = f"{name[:3].lower()}_{name[4:].title()}"
    if key in fineweb2_keys() and name[3] in "-_":
        return Resolution(key, certain=True)
    parts = TAG.fullmatch(name)
    codes = codes_of(parts["language"]) if parts is not None else None
    if parts is not None and codes is not None:
        script = (parts["script"] or "").title()
        subtags = f"{parts['territory'] or ''}{parts['variants']}".replace("_", "-").strip("-")
        if (script and not is_script(script)) or (subtags and not are_registered(subtags)):
            return _unknown(name)
        if script:
            return _with_script(codes, script, name)
        return _without_script(codes, (parts["territory"] or "").upper() or None)
    tag = tag_of_name(name)
    if tag is not None:
        found = resolve(tag)
        return Resolution(
            found.key, found.problem, found.candidates, found.is_language, False, found.note
        )
    return _unknown(name)


def _with_script(codes: Codes, script: str, name: str) -> Resolution:
    if is_language_key(name) and name[:3] not in codes.found and script not in _CONTAINED:
        return Resolution(name, certain=True)  # a language, or a macrolanguage, of the user's own
    with_script = [code for code in codes.found if script in fineweb2_scripts()[code]]
    if len(with_script) == len(codes.found) == 1:
        return Resolution(f"{codes.found[0]}_{script}", certain=True)
    whole = _CONTAINED.get(script)
    if len(codes.found) == 1 and whole in fineweb2_scripts()[codes.found[0]]:
        note = f"FineWeb2 has {script} in {whole}"
        return Resolution(f"{codes.found[0]}_{whole}", certain=True, note=note)
    key = f"{codes.iso639_3}_{script}"
    return Resolution(name if is_language_key(name) else key, certain=is_language_key(name))


def _without_script(codes: Codes, territory: str | None) -> Resolution:
    if not codes.found:
        script = likely_script(codes.iso639_3)
        problem = f"FineWeb2 does not have {codes.iso639_3}, so its script must be given"
        keys = [f"{codes.iso639_3}_{script}"] if script else []
        keys += [f"{code}_{each}" for code in codes.related for each in _scripts(code)]
        return Resolution(None, problem, tuple(keys), is_language=False)
    if len(codes.found) > 1:
        keys = [f"{code}_{script}" for code in codes.found for script in _scripts(code)]
        problem = f"it is {len(codes.found)} of FineWeb2's languages"
        return Resolution(None, problem, tuple(keys[:MOST_CANDIDATES]))
    [code] = codes.found
    scripts = _scripts(code)
    chosen = codes.script or (scripts[0] if len(scripts) == 1 else usual_script(code))
    if territory is not None:
        of_territory = likely_script(code, territory)
        of_territory = _CONTAINED.get(of_territory or "", of_territory)
        if of_territory is not None and of_territory not in (chosen, codes.script):
            problem = f"in {territory}, {code} is written in {of_territory}; give its script"
            candidates = dict.fromkeys((of_territory, *scripts))
            return Resolution(None, problem, tuple(f"{code}_{script}" for script in candidates))
    if chosen in scripts:
        return Resolution(f"{code}_{chosen}")
    problem = f"FineWeb2 has {code} in several scripts"
    return Resolution(None, problem, tuple(f"{code}_{script}" for script in scripts))


def _scripts(code: str) -> tuple[str, ...]:
    """Return the scripts of a code of FineWeb2, the likely one first."""
    likely = likely_script(code)
    return tuple(sorted(fineweb2_scripts()[code], key=lambda script: script != likely))


def _unknown(name: str) -> Resolution:
    more = _KEY_AND_MORE.fullmatch(name)
    if more is not None:
        problem = "it is more than a language key"
        if name.endswith("_removed"):
            problem = "FineWeb2 removed these documents"
        return Resolution(None, problem, (more[1],), is_language=False)
    parts = TAG.fullmatch(name)
    problem = "no language has this code or name"
    if parts is not None and parts["script"]:
        known = codes_of(parts["language"]) is not None
        missing = f"script {parts['script']}" if known else f"language {parts['language']}"
        problem = f"{'ISO 15924' if known else 'ISO 639-3'} has no {missing}"
    return Resolution(None, problem, is_language=False)
