"""Folders of `datasets.save_to_disk` and of the datasets cache: data files and descriptions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from mmbert_prep.readers.layout.splits import held_out_split

_DESCRIPTIONS = {"dataset_info.json", "dataset_infos.json"}
_CACHE = re.compile(r"(cache|indices)-.*\.arrow|tmp\w{8}")
_MAX_DESCRIPTION = 64_000_000


def saved_dataset_companions(paths: Sequence[str]) -> Mapping[str, str | None]:
    """Return path -> reason for files of saved datasets that are no text, or of another split.

    `state.json` lists the data files of a dataset, `dataset_dict.json` the splits below it.
    """
    files: dict[str, set[str]] = {}
    for path in paths:
        files.setdefault(os.path.dirname(path), set()).add(os.path.basename(path))
    found: dict[str, str | None] = {}
    for folder, names in files.items():
        if not names.isdisjoint(_DESCRIPTIONS):
            for name in names & _DESCRIPTIONS:
                found[os.path.join(folder, name)] = "description of a dataset"
            for name in filter(_CACHE.fullmatch, names):
                found[os.path.join(folder, name)] = "cache of the datasets library"
        if "state.json" in names:
            found.update(_in_folder(folder, names))
        if "dataset_dict.json" in names:
            found.update(_held_out(folder, paths))
    return found


def _in_folder(folder: str, names: set[str]) -> dict[str, str | None]:
    state_path = os.path.join(folder, "state.json")
    state = _read(state_path)
    try:
        listed = {each["filename"] for each in state["_data_files"]}
        chosen = bool(state.get("_indices_data_files"))
    except (KeyError, TypeError):
        return {}  # some other file of this name
    found: dict[str, str | None] = {state_path: "description of a saved dataset"}
    for name in names:
        if not name.endswith(".arrow"):
            continue
        path = os.path.join(folder, name)
        if chosen:
            found[path] = "saved with a selection of rows (save it again with save_to_disk)"
        elif name not in listed:
            found[path] = "not a data file of the saved dataset, by its state.json"
    if not listed <= names:
        found[state_path] = "state.json of a saved dataset of which data files are missing"
    return found


def _held_out(folder: str, paths: Sequence[str]) -> dict[str, str | None]:
    path = os.path.join(folder, "dataset_dict.json")
    try:
        splits = [str(name) for name in _read(path)["splits"]]
    except (KeyError, TypeError):
        return {}  # some other file of this name
    found: dict[str, str | None] = {path: "description of a saved dataset"}
    for split in splits:
        if held_out_split(split) is not None:
            inside = os.path.join(folder, split) + os.sep
            found.update({path: held_out(split) for path in paths if path.startswith(inside)})
    return found


def held_out(split: str) -> str:
    """Return the reason for leaving out the files of a held-out split."""
    return f"split '{split}' (its folder, or a pattern of its files, as --input reads it)"


def _read(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            return orjson.loads(file.read(_MAX_DESCRIPTION))
    except (OSError, ValueError):
        return None
