"""Language of a file from its path, and the folders of files without a language.

A file's own name and the names of its folders may be a language key (`swh_Latn.txt`,
`swh_Latn/…`). A folder's name may also begin with one, as in published MDS repositories
(`deu_Latn-tokenized-chunked-…`, `deu_Latn_train-sampled`, `ind_Latn_train`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePath

from mmbert_prep.readers.language_codes import LANGUAGE_KEY, is_known_code, is_language_key

# Not `swh_Latn_removed` (FineWeb2's rejected documents) nor `eng_Latn-swh_Latn` (bitext).
_START = re.compile(rf"({LANGUAGE_KEY.pattern})(?:-(?!{LANGUAGE_KEY.pattern})|_train(?:[-_.]|$))")


def language_of_path(relative: str) -> str | None:
    """Return the language key of the file's name, or of the nearest folder that has one."""
    *folders, name = Path(relative).parts or ("",)
    if is_language_key(name.split(".")[0]):
        return name.split(".")[0]
    return next(filter(None, map(language_of_folder, reversed(folders))), None)


def language_of_folder(folder: str) -> str | None:
    """Return the language key that a folder's own name is or begins with."""
    name = os.path.basename(os.path.abspath(folder))
    if is_language_key(name.split(".")[0]):
        return name.split(".")[0]
    start = _START.match(name)
    if start is None or not is_known_code(start[1].split("_")[0]):
        return None
    return start[1]


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
