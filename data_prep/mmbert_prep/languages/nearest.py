"""Keys that may be meant by a name that is no language: the nearest codes, keys and names."""

from __future__ import annotations

import difflib
from functools import cache, lru_cache
from itertools import product
from string import ascii_lowercase

from mmbert_prep.languages.codes import codes_of, english_names
from mmbert_prep.languages.keys import fineweb2_keys, fineweb2_scripts
from mmbert_prep.languages.resolution import MOST_CANDIDATES, TAG, resolve


@lru_cache(maxsize=10_000)
def nearest_keys(name: str) -> tuple[str, ...]:
    """Return the keys whose code, key or English name is nearest."""
    parts = TAG.fullmatch(name)
    found: list[str] = []
    if parts is not None and parts["script"]:
        code, script = parts["language"].lower(), parts["script"].title()
        codes = codes_of(code)
        if codes is not None:  # the script is misspelt
            for known in codes.found:
                scripts = difflib.get_close_matches(script, fineweb2_scripts()[known], 1, 0.5)
                found += [f"{known}_{each}" for each in scripts]
        keys = sorted(fineweb2_keys())
        found += difflib.get_close_matches(f"{code}_{script}", keys, 3, 0.7)
    elif len(name) in (2, 3):
        known_codes = sorted({*fineweb2_scripts(), *_two_letters()})
        for close in difflib.get_close_matches(name.lower(), known_codes, 3, 0.5):
            found += _keys_of(close)
    else:
        names = english_names()
        for close in difflib.get_close_matches(name.lower(), sorted(names), 3, 0.75):
            found += _keys_of(names[close])
    return tuple(dict.fromkeys(found))[:MOST_CANDIDATES]


def _keys_of(code: str) -> tuple[str, ...]:
    resolution = resolve(code)
    return resolution.candidates if resolution.key is None else (resolution.key,)


@cache
def _two_letters() -> frozenset[str]:
    pairs = ("".join(pair) for pair in product(ascii_lowercase, repeat=2))
    return frozenset(pair for pair in pairs if (codes := codes_of(pair)) and codes.found)
