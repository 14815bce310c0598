"""Files that are not plain Composer checkpoints are refused by name, and run nothing."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.serialization import get_safe_globals, safe_globals

from mmbert.errors import UserError
from mmbert.hub.importing.composer.import_checkpoint import (
    ComposerImportOptions,
    import_composer_checkpoint,
)
from mmbert.hub.importing.composer.reading import Inert, read_checkpoint
from tests.support.composer import EARLIER, changed_checkpoint, composer_state

MARKER = "executed"


class _Command:
    """Runs a shell command when unpickled; it leaves MARKER in the working directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARKER}",)


def _replace_pickle(path: Path, content: bytes) -> None:
    """Write a copy of the fixture with another data.pkl."""
    with zipfile.ZipFile(EARLIER) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            own = entry.filename.endswith("data.pkl")
            target.writestr(entry.filename, content if own else source.read(entry))


def _command_in_the_state(path: Path) -> None:
    changed_checkpoint(path, lambda state: state.update(run_name=_Command()))


def _command_in_newer_protocol(path: Path) -> None:
    _replace_pickle(path, pickle.dumps({"state": {"model": _Command()}}, protocol=4))


def _command_as_a_storage(path: Path) -> None:
    """A persistent id, with which torch refers to storages, that holds the command."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return ("storage", _Command(), "0", "cpu", 4) if value == "weights" else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"state": {"model": {"model.w": "weights"}}})
    _replace_pickle(path, buffer.getvalue())


def _legacy_tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(_Command(), protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _legacy_pickle(path: Path) -> None:
    torch.save({"state": _Command()}, path, _use_new_zipfile_serialization=False)


def _two_pickles(path: Path) -> None:
    _replace_pickle(path, b"")
    with zipfile.ZipFile(EARLIER) as source, zipfile.ZipFile(path, "a") as target:
        inner = next(name for name in source.namelist() if name.endswith("data.pkl"))
        target.writestr("other/data.pkl", source.read(inner))


def _same_name_twice(path: Path) -> None:
    path.write_bytes(EARLIER.read_bytes())
    with zipfile.ZipFile(path, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr("archive/data.pkl", pickle.dumps(_Command(), protocol=2))


MALICIOUS: list[tuple[str, Callable[[Path], object], str]] = [
    ("os.system", _command_in_the_state, r"names posix\.system, which could run code"),
    ("newer protocol", _command_in_newer_protocol, r"names posix\.system, which could run"),
    ("in a storage", _command_as_a_storage, r"names posix\.system, which could run code"),
    ("legacy tar", _legacy_tar, "is a tar archive"),
    ("legacy pickle", _legacy_pickle, "is not a zip archive"),
    ("two data.pkl", _two_pickles, r"has 2 data\.pkl \(archive/data\.pkl, other/data\.pkl\)"),
    ("one name twice", _same_name_twice, r"has 2 data\.pkl"),
]


@pytest.mark.parametrize(
    ("write", "says"), [case[1:] for case in MALICIOUS], ids=[case[0] for case in MALICIOUS]
)
def test_a_file_that_could_run_code_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bad.pt")
    with pytest.raises(UserError, match=says) as caught:
        import_composer_checkpoint(tmp_path / "bad.pt", tmp_path / "out", ComposerImportOptions())
    assert "bad.pt" in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pt"]


def test_the_malicious_files_would_run_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _command_in_the_state(tmp_path / "bad.pt")
    torch.load(tmp_path / "bad.pt", weights_only=False)
    assert (tmp_path / MARKER).exists()


def _compressed(path: Path) -> None:
    with zipfile.ZipFile(EARLIER) as source, zipfile.ZipFile(path, "w", 8) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))


def _flip_a_byte_of_a_storage(path: Path) -> None:
    content = bytearray(EARLIER.read_bytes())
    with zipfile.ZipFile(EARLIER) as archive:
        entry = archive.getinfo("archive/data/0")
    content[entry.header_offset + 2000] ^= 1
    path.write_bytes(content)


def _claim_more_than_the_storage_holds(path: Path) -> None:
    with zipfile.ZipFile(EARLIER) as archive:
        content = archive.read("archive/data.pkl")
    assert struct.pack("<BB", 75, 128) in content  # BININT1 128: rows of the embedding
    _replace_pickle(path, content.replace(struct.pack("<BB", 75, 128), struct.pack("<BB", 75, 255)))


UNREADABLE: list[tuple[str, Callable[[Path], object], str]] = [
    ("missing", lambda path: None, "is not a file"),
    ("text", lambda path: path.write_text("weights"), "is not a zip archive"),
    ("cut short", lambda path: path.write_bytes(EARLIER.read_bytes()[:-1000]), "is damaged"),
    ("a flipped bit", _flip_a_byte_of_a_storage, r"is damaged: archive/data/0 does not match"),
    ("too large", _claim_more_than_the_storage_holds, "cannot be read"),
    ("compressed", _compressed, "is compressed"),
    ("not a pickle", lambda path: _replace_pickle(path, b"weights"), "is not a file of torch.save"),
    ("other keys", lambda path: torch.save({"epoch": 3, "net": {}}, path), "found: epoch, net"),
    ("a tensor", lambda path: torch.save(torch.ones(2), path), "found: Tensor"),
    ("without a model", lambda path: torch.save({"state": {}}, path), "lacks state.model"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("write", "says"), [case[1:] for case in UNREADABLE], ids=[case[0] for case in UNREADABLE]
)
def test_what_is_not_a_composer_checkpoint_is_named(
    tmp_path: Path, write: Callable[[Path], object], says: str
) -> None:
    write(tmp_path / "state.pt")
    with pytest.raises(UserError, match=says) as caught:
        read_checkpoint(tmp_path / "state.pt")
    assert "state.pt" in caught.value.message
    assert caught.value.remedy


def test_a_sharded_checkpoint_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / ".metadata").touch()
    with pytest.raises(UserError, match="is a sharded checkpoint"):
        read_checkpoint(tmp_path)


def test_classes_beside_the_state_become_inert_records() -> None:
    state = composer_state()
    assert isinstance(state["timestamp"]["Timestamp"]["total_wct"], Inert)
    assert isinstance(state["metadata"]["torch_version"], Inert)


def test_files_of_numpy_1_are_read_too(tmp_path: Path) -> None:
    """They name numpy's _reconstruct differently."""
    with zipfile.ZipFile(EARLIER) as archive:
        content = archive.read("archive/data.pkl")
    old = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != content
    _replace_pickle(tmp_path / "old.pt", old)
    assert read_checkpoint(tmp_path / "old.pt")["run_name"] == "tiny"


def test_the_file_is_mapped_instead_of_read() -> None:
    state = composer_state()
    maps = {each.path for each in psutil.Process().memory_maps()}
    assert str(EARLIER) in maps
    assert len(state["model"]) == 30


def test_real_classes_that_another_library_declared_safe_are_not_called() -> None:
    """As megatron.core does on import; the declaration holds again afterwards."""
    reconstruct = np.zeros(1).__reduce__()[0]
    declared = [
        (reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")
    ]
    with safe_globals([np.ndarray, np.dtype, *declared]):
        before = get_safe_globals()
        state = read_checkpoint(EARLIER)
        assert set(get_safe_globals()) == set(before)
    assert state["model"]
