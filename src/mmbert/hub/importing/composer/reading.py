"""Restricted reader of Composer checkpoints: nothing that the file names is imported or called.

`torch.load(weights_only=True)` refuses these files for five classes that Composer stores beside the
state (times, versions, generators). Here each of them is replaced by an inert stand-in; a file
that names anything else is refused.
"""

import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch.serialization import (
    add_safe_globals,
    clear_safe_globals,
    get_safe_globals,
    get_unsafe_globals_in_checkpoint,
)

from mmbert.errors import CheckpointError
from mmbert.hub.pickled_weights import names_in_pickle

_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE = "data.pkl"
_DOWNLOAD = "download the file again and compare its checksum"


class Inert:
    """Stand-in for a class of the file; ignores arguments and state."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _inert(*_: object) -> Inert:
    return Inert()


# Nothing that an import needs is among what these swallow. NumPy 1 and 2 name _reconstruct
# differently.
_STAND_INS: list[Any] = [
    (Inert, "datetime.timedelta"),
    (Inert, "numpy.ndarray"),
    (Inert, "numpy.dtype"),
    (Inert, "torch.torch_version.TorchVersion"),
    (_inert, "numpy.core.multiarray._reconstruct"),
    (_inert, "numpy._core.multiarray._reconstruct"),
]


@contextmanager
def _only_stand_ins() -> Iterator[None]:
    """Replace the process's list of safe globals: other libraries add the real classes to it."""
    added = get_safe_globals()
    clear_safe_globals()
    add_safe_globals(_STAND_INS)
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(added)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the `state` of a Composer checkpoint; tensors are memory-mapped, on the CPU.

    Raises:
        CheckpointError: not a monolithic Composer checkpoint, damaged, or it names classes or
            functions that could run code; names them.
    """
    _check_container(path)
    with _only_stand_ins():
        _check_globals(path)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # an unpickler may raise anything on a malformed file
            raise CheckpointError(f"{path} cannot be read: {error}", remedy=_DOWNLOAD) from error
    state = content.get("state") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path} is not a Composer checkpoint: it lacks state.model (found: {keys[:200]})",
            remedy="give a file that Composer's Trainer saved (ep…-ba…-rank0.pt), or the folder of"
            " a Hugging Face model",
        )
    return state


def _check_container(path: Path) -> None:
    """Raise CheckpointError unless `path` is an intact zip archive with exactly one pickle."""
    if path.is_dir() and ((path / ".metadata").exists() or any(path.glob("*.distcp"))):
        raise CheckpointError(
            f"{path} is a sharded checkpoint (torch.distributed.checkpoint)",
            remedy="give a monolithic one (ep…-ba…-rank0.pt), as DDP runs save; Composer writes it"
            " with fsdp state_dict_type: full",
        )
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file", remedy="give a Composer checkpoint (….pt)")
    with path.open("rb") as file:
        start = file.read(len(_ZIP_MAGIC))
    if start != _ZIP_MAGIC:
        kind = "a tar archive" if tarfile.is_tarfile(path) else "not a zip archive"
        raise CheckpointError(
            f"{path} is {kind}, not a file of torch.save as Composer writes it",
            remedy="give a checkpoint of torch 1.6 or newer; older formats are not read",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(path, entries)
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is damaged: {error}", remedy=_DOWNLOAD) from error
    if damaged is not None:
        raise CheckpointError(
            f"{path} is damaged: {damaged} does not match its checksum", remedy=_DOWNLOAD
        )


def _check_entries(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    pickles = [name for name in names if Path(name).name == _PICKLE]
    if len(pickles) != 1 or len(set(names)) != len(names):
        raise CheckpointError(
            f"{path} has {len(pickles)} {_PICKLE} ({', '.join(pickles[:3])}) in {len(names)}"
            f" entries, {len(set(names))} of them distinct",
            remedy="torch.save writes one of each; get the file from its original source",
        )
    packed = next((entry.filename for entry in entries if entry.compress_type), None)
    if packed is not None:
        raise CheckpointError(
            f"{path}: {packed} is compressed, so that it cannot be memory-mapped",
            remedy="unpack the archive and pack it without compression (zip -0 -r)",
        )


def _check_globals(path: Path) -> None:
    """Raise CheckpointError naming the classes and functions that are neither known nor inert."""
    try:
        foreign = set(get_unsafe_globals_in_checkpoint(str(path)))
    except Exception as error:  # opcodes that torch.save does not write, or no pickle at all
        foreign = _names(path)
        if not foreign:
            raise CheckpointError(
                f"{path} is not a file of torch.save: {error}", remedy=_DOWNLOAD
            ) from error
    if foreign:
        raise CheckpointError(
            f"{path} names {', '.join(sorted(foreign))}, which could run code when loaded;"
            " nothing was loaded",
            remedy="get the file from its original source; Composer's checkpoints of masked"
            " language models do not need them",
        )


def _names(path: Path) -> set[str]:
    """Return the names that the file's pickle looks up, as far as it is one."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if Path(name).name == _PICKLE)
        content = archive.read(name)
    found: set[str] = set()
    with suppress(Exception):  # the rest is no pickle
        found.update(name.replace(" ", ".") for _, name in names_in_pickle(content))
    return found
