"""Language of a file from its path, and the folders of files without a language.

A file's own name and the names of its folders may be a language key (`swh_Latn.txt`,
`swh_Latn/…`). A folder's name may also begin with one, as in published MDS repositories
(`deu_Latn-tokenized-chunked-…`, `deu_Latn_train-sampled`, `ind_Latn_train`). Where no name is a
key, they may be codes or names (`sw/…`, `Swahili.txt`), as seen from those beside them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from mmbert_prep.languages.codes import codes_of
from mmbert_prep.languages.keys import LANGUAGE_KEY, is_language_key
from mmbert_prep.languages.nearest import nearest_keys
from mmbert_prep.languages.overrides import NO_LANGUAGE, LanguageMap
from mmbert_prep.languages.report import NamedLanguage
from mmbert_prep.languages.resolution import Resolution, resolve
from mmbert_prep.languages.siblings import Taken, take_names

# Not `swh_Latn_removed` (FineWeb2's rejected documents) nor `eng_Latn-swh_Latn` (bitext).
_START = re.compile(rf"({LANGUAGE_KEY.pattern})(?:-(?!{LANGUAGE_KEY.pattern})|_train(?:[-_.]|$))")


@dataclass(frozen=True)
class PathLanguage:
    """Language of a path."""

    key: str | None = None
    name: str = ""
    """The name that gives it, or that is no language for a reason; empty for a key itself."""
    use: NamedLanguage | None = None
    """What that name was taken for."""
    doubtful: bool = False
    """Whether the name that is no language may well be an ordinary one."""


class PathLanguages:
    """Languages of the paths of a run, all relative to its root."""

    def __init__(self, root: str | None, paths: Iterable[str], overrides: LanguageMap) -> None:
        """Look at all paths; `root` is the folder of the input, whose own name may be a key."""
        self._root = "" if root is None else os.path.basename(os.path.abspath(root))
        self._overrides = overrides
        self.used: set[str] = set()
        """Names of the overrides that occurred."""
        self._root_alone = take_names([self._root])[self._root]
        self._names: dict[tuple[str, bool], set[str]] = {}
        """Folder, whether of files or of folders -> the names in it."""
        self._taken: dict[tuple[str, bool], dict[str, Taken]] = {}
        self._above: dict[str, list[tuple[str, str]]] = {}
        for path in paths:
            folder, name = os.path.split(path)
            self._names.setdefault((folder, True), set()).add(_stem(name))
            if folder not in self._above:
                for own, parent in self._folders(folder):
                    self._names.setdefault((parent, False), set()).add(own)

    def unused(self) -> dict[str, str]:
        """Return the names of the overrides that are in no path that was looked at -> lines."""
        names = (name for name in self._overrides.keys if name not in self.used)
        return {name: self._overrides.line(name) for name in names}

    def find(self, relative: str) -> PathLanguage:
        """Return the language of a path: of its own name, or of the nearest folder that has one."""
        folder, name = os.path.split(relative)
        folders = self._folders(folder)
        exact = self._by_key(name, folders)
        if exact is not None:
            return exact
        beside = [(_stem(name), self._level(folder, True))]
        beside += [(own, self._level(parent, False)) for own, parent in folders]
        taken = [(name, level[name]) for name, level in beside if name in level]
        for name, each in taken:
            if each.certain and each.key is not None:
                return _named(name, each)
        named = [(name, each) for name, each in taken if each.key is not None]
        keys = {each.key for _, each in named}
        if len(keys) > 1:
            texts = ", ".join(f"{name} is {each.key}" for name, each in named)
            problem = f"the path names several languages ({texts})"
            candidates = tuple(dict.fromkeys(each.key for _, each in named if each.key))
            use = NamedLanguage(files=1, problem=problem, candidates=candidates)
            return PathLanguage(None, named[0][0], use)
        if named:
            return _named(*named[0])
        return self._without(taken)

    def _folders(self, folder: str) -> list[tuple[str, str]]:
        """Return name and parent of a folder and of those above it."""
        if folder not in self._above:
            above = [PurePath(folder), *PurePath(folder).parents]
            names = [(each.name, os.path.dirname(each)) for each in above if each.name]
            self._above[folder] = names
        return self._above[folder]

    def _by_key(self, file: str, folders: list[tuple[str, str]]) -> PathLanguage | None:
        """Return the language of the nearest name that is a key or has one from the user."""
        own = [(name, False) for name in dict.fromkeys((file, _stem(file)))]
        for name, is_folder in [*own, *((name, True) for name, _ in folders), (self._root, True)]:
            given = self._overrides.get(name)
            if given is not None:
                self.used.add(name)
                if given != NO_LANGUAGE:
                    use = NamedLanguage(language=given, files=1)
                    return PathLanguage(given, "" if given == name else name, use)
                continue
            key = _key_of_folder(name) if is_folder else name if is_language_key(name) else None
            if key is not None:
                return _resolved(key, resolve(key))
        return None

    def _level(self, folder: str, files: bool) -> dict[str, Taken]:
        place = (folder, files)
        if place not in self._taken:
            names = self._names.get(place, set())
            given = {name: self._overrides.get(name) for name in names}
            known = frozenset(name for name, key in given.items() if key not in (None, NO_LANGUAGE))
            names = {name for name in names if given[name] != NO_LANGUAGE}
            self._taken[place] = take_names(names, known)
        return self._taken[place]

    def _without(self, taken: list[tuple[str, Taken]]) -> PathLanguage:
        """Return why a path names no language."""
        for name, each in taken:
            if each.wanted:
                return _refused(name, each.problem, each.candidates)
        root = self._root_alone
        if root.certain and root.key is not None:
            return _named(self._root, root)
        for name, each in taken:
            if each.candidates or each.among_languages:
                return _refused(name, each.problem, each.candidates, doubtful=True)
        if root.key is not None:
            problem = "the folders beside the input are not looked at"
            return _refused(self._root, problem, (root.key,), doubtful=True)
        return PathLanguage()


def _stem(name: str) -> str:
    return name.split(".")[0]


def _key_of_folder(name: str) -> str | None:
    """Return the language key that a folder's own name is or begins with."""
    if is_language_key(_stem(name)):
        return _stem(name)
    start = _START.match(name)
    if start is None:
        return None
    code = start[1][:3]
    is_private = "qaa" <= code <= "qtz"
    return start[1] if codes_of(code) is not None and not is_private else None


def _resolved(name: str, resolution: Resolution) -> PathLanguage:
    if resolution.key is None:
        return _refused(name, resolution.problem, resolution.candidates)
    use = NamedLanguage(language=resolution.key, files=1, note=resolution.note)
    return PathLanguage(resolution.key, "" if resolution.key == name else name, use)


def _named(name: str, taken: Taken) -> PathLanguage:
    use = NamedLanguage(language=taken.key, files=1, note=taken.note)
    return PathLanguage(taken.key, "" if taken.key == name else name, use)


def _refused(
    name: str, problem: str, candidates: tuple[str, ...], doubtful: bool = False
) -> PathLanguage:
    if not candidates:
        candidates = nearest_keys(name)
        problem += f", the nearest is {candidates[0]}" if candidates else ""
    use = NamedLanguage(files=1, problem=problem, candidates=candidates)
    return PathLanguage(None, name, use, doubtful)


def folders_without_language(without: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return the topmost folders that hold files of `without`, and none of `others`.

    Paths are relative to the input, whose own folder is never returned: files directly in it are
    returned themselves.
    """
    paths = [PurePath(path) for path in without]
    if not paths:
        return []
    used = {folder for path in others for folder in PurePath(path).parents}
    folders = [path.parent for path in paths] + [*used]
    common = PurePath(os.path.commonpath([PurePath("/", folder) for folder in folders])[1:])
    found: set[PurePath] = set()
    for path in paths:
        candidates = [*reversed(path.parents), path]
        found.add(
            next(
                folder
                for folder in candidates
                if len(folder.parts) > len(common.parts)
                or (folder == common == path.parent and folder.parts)
                if folder not in used
            )
        )
    return sorted(str(path) for path in found if not found.intersection(path.parents))
