"""Recorder of a program's file operations in a folder, in order, for simulated crashes.

A power loss preserves less than a kill: data that was not flushed to disk may be missing even if
the program could read it. So every creation, flush, rename and deletion is recorded; replay.py
turns any prefix of the list into the folders that may exist after a restart. File contents are
recorded when flushed, renamed or left; between two of these, the disk may have any mixture.
"""

import builtins
import io
import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Event:
    """One call; `kind` is write (when opened), sync, rename, remove, folder or remove folder."""

    kind: str
    path: str
    """Path relative to the recorder's folder; "" is the folder itself."""
    target: str = ""
    """New path of a rename."""
    content: bytes | None = None
    """Content of a file when it was flushed, renamed or removed."""


class Recorder:
    """Records while patched in; calls `before` ahead of each event (for example, to raise)."""

    def __init__(
        self,
        root: Path,
        before: Callable[[int], None] = lambda number: None,
        scratch: Collection[str] = (),
    ) -> None:
        """Create a recorder that ignores files and folders named in `scratch`."""
        self.root, self.events, self.scratch = root.resolve(), list[Event](), set(scratch)
        self._before, self._lock = before, threading.RLock()
        self._open: dict[int, str] = {}

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> "Recorder":
        """Intercept file operations until the monkeypatch is undone."""
        opener = self._opening(io.open, lambda mode="r", *_, **__: mode)
        monkeypatch.setattr(builtins, "open", opener)
        monkeypatch.setattr(io, "open", opener)
        monkeypatch.setattr(os, "open", self._opening(os.open, lambda flags, *_, **__: flags))
        monkeypatch.setattr(os, "fsync", self._fsync(os.fsync))
        for name, kind in (("rename", "rename"), ("replace", "rename")):
            monkeypatch.setattr(os, name, self._call(getattr(os, name), kind))
        for name, kind in (("unlink", "remove"), ("remove", "remove")):
            monkeypatch.setattr(os, name, self._call(getattr(os, name), kind))
        monkeypatch.setattr(os, "mkdir", self._call(os.mkdir, "folder"))
        monkeypatch.setattr(os, "rmdir", self._call(os.rmdir, "remove folder"))
        return self

    def contents(self) -> dict[str, bytes]:
        """Return the current contents of all files."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and self.scratch.isdisjoint(path.relative_to(self.root).parts)
        }

    def _name(self, path: Any, folder: int | None = None) -> str | None:
        """Return the path relative to the root; None if it is elsewhere."""
        if isinstance(path, int):
            return self._open.get(path)
        whole = Path(os.path.abspath(os.fspath(path)))
        if folder is not None:
            above = self._open.get(folder)
            if above is None:
                return None
            whole = self.root / above / os.fspath(path)
        if whole != self.root and self.root not in whole.parents:
            return None
        name = whole.relative_to(self.root)
        if not self.scratch.isdisjoint(name.parts):
            return None
        return "" if name == Path() else str(name)

    def _note(self, event: Event) -> None:
        self._before(len(self.events))
        self.events.append(event)

    def _content(self, name: str) -> bytes | None:
        path = self.root / name
        if not path.is_file():
            return None
        descriptor = self._system_open(path, os.O_RDONLY)
        try:
            return os.read(descriptor, 1 << 30)
        finally:
            os.close(descriptor)

    _system_open = staticmethod(os.open)

    def _opening(self, original: Any, how: Callable[..., Any]) -> Any:
        def opening(path: Any, *arguments: Any, **more: Any) -> Any:
            with self._lock:
                name = self._name(path, more.get("dir_fd"))
                mode = how(*arguments, **more)
                if isinstance(mode, str):
                    writes = any(letter in mode for letter in "wax+")
                else:
                    writes = bool(mode & WRITING)
                if name is not None and writes:
                    self._note(Event("write", name))
                result = original(path, *arguments, **more)
                number = result if isinstance(result, int) else result.fileno()
                self._open.pop(number, None)
                if name is not None:
                    self._open[number] = name
                return result

        return opening

    def _fsync(self, original: Any) -> Any:
        def fsync(file: Any) -> None:
            with self._lock:
                name = self._open.get(file if isinstance(file, int) else file.fileno())
                if name is not None:
                    self._note(Event("sync", name, content=self._content(name)))
                original(file)

        return fsync

    def _call(self, original: Any, kind: str) -> Any:
        def call(path: Any, *arguments: Any, **more: Any) -> None:
            with self._lock:
                folder = more.get("dir_fd")
                name = self._name(path, folder)
                exists = name is not None and os.path.lexists(self.root / name)
                if name is not None and exists is not (kind == "folder"):
                    target = self._name(arguments[0]) if kind == "rename" else ""
                    assert target is not None, f"{name} is moved out of {self.root}"
                    self._note(Event(kind, name, target, self._content(name)))
                original(path, *arguments, **more)

        return call
