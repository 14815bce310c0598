"""Validation and test splits of published datasets, which training text must not contain."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache

# The words by which the datasets library knows splits, as whole words of a file or folder name.
_HELD_OUT = re.compile(
    r"(?<![a-z])(validation|valid|val|dev|testing|test|evaluation|eval)(?![a-z])", re.IGNORECASE
)
_NUMBER = re.compile(r"[-_.]?\d+([-_.]of[-_.]\d+)?")
_TRAIN = ("train", "training")


def held_out_split(name: str) -> str | None:
    """Return the word for a held-out split that `name` is as a whole."""
    return name if _HELD_OUT.fullmatch(name) else None


def held_out_files(paths: Sequence[str], root: str) -> dict[str, str]:
    """Return path -> word of the split, for files of `paths` in a held-out split beside train.

    A file or folder is of a held-out split if the folder that holds it, at or below `root`, has
    the same name with "train" for the word: `data/test-00000-of-00001.parquet` beside
    `data/train-00000-of-00003.parquet`, `swh_Latn/test/…` beside `swh_Latn/train/…`. A folder
    `test` alone is ordinary text, and a split that is given as the input is read.
    """
    relative = {path: os.path.relpath(path, root) for path in paths}
    names: set[tuple[str, str]] = set()
    places = set(relative.values())
    while places:  # files, then their folders, then the folders of those
        names.update(
            (os.path.dirname(each), _without_number(each))
            for each in places
            if _TRAIN[0] in os.path.basename(each).lower()
        )
        places = {os.path.dirname(each) for each in places} - {""}

    @cache
    def split_of(place: str) -> str | None:
        folder, name = os.path.split(place)
        for word in _HELD_OUT.finditer(name):
            before, after = name[: word.start()], name[word.end() :]
            twins = (_without_number(f"{before}{train}{after}") for train in _TRAIN)
            if any((folder, twin) in names for twin in twins):
                return word[0]
        return split_of(folder) if folder else None

    found = {path: split_of(inside) for path, inside in relative.items()}
    return {path: word for path, word in found.items() if word is not None}


def _without_number(name: str) -> str:
    """Return the last part of a path without numbers of shards, which splits do not share."""
    return _NUMBER.sub("", os.path.basename(name).lower())
