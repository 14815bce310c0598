"""All folder states that a crash after any call of a recording may leave.

By the guarantees of POSIX, a file has the content of its last flush; if written to since, it may
have that content, none, half or all of the new content. A change of a folder (a new file, a
rename, a deletion) is certain once the folder is flushed; before, it may have happened or not,
independently of other changes: file systems that preserve the order produce some of these states,
others all of them. A rename between folders happens in both or in neither.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.write_recorder import Event

# With up to this many uncertain changes, all combinations are tested.
ALL_COMBINATIONS = 5
Files = Mapping[str, bytes | None]
"""Contents by path; None for a folder."""


@dataclass
class _Node:
    """A file or folder, independent of its name."""

    is_folder: bool
    entries: dict[str, int] = field(default_factory=dict)
    snapshots: list[tuple[int, str, bytes]] = field(default_factory=list)
    """(event, kind, content) of a file, where kind is write, sync or seen."""


@dataclass(frozen=True)
class _Change:
    """Change of folder entries; certain once folder `needs` is flushed."""

    event: int
    entries: tuple[tuple[int, str, int | None], ...]
    """(folder, name, node or None)."""
    needs: int


class Replay:
    """Nodes and changes of a recording that started with the files `before`."""

    def __init__(self, before: Files, events: Sequence[Event], after: Files) -> None:
        """Replay `events`; `after` has the final contents, to complete the last writes."""
        self._nodes = [_Node(is_folder=True)]
        self._live: dict[str, int] = {"": 0}
        self._changes: list[_Change] = []
        self._syncs: list[tuple[int, int]] = []
        self.events = list(events)
        for path, content in sorted(before.items()):
            for parent in [*reversed(Path(path).parents)][1:]:
                if str(parent) not in self._live:
                    self._add(-1, str(parent), is_folder=True)
            node = self._add(-1, path, is_folder=content is None)
            if content is not None:
                self._nodes[node].snapshots.append((-1, "sync", content))
        self._begin = {number: dict(node.entries) for number, node in enumerate(self._nodes)}
        self._changes.clear()
        for number, event in enumerate(events):
            self._take(number, event)
        for path, node in self._live.items():
            if not self._nodes[node].is_folder:
                self._nodes[node].snapshots.append((len(events), "seen", after[path] or b""))
        files = {p for p, n in self._live.items() if not self._nodes[n].is_folder}
        assert files == {p for p, content in after.items() if content is not None}, (
            "something was written that the recorder did not see"
        )

    def _add(self, event: int, path: str, *, is_folder: bool) -> int:
        self._nodes.append(_Node(is_folder))
        node = len(self._nodes) - 1
        self._live[path] = node
        self._change(event, [(path, node)])
        return node

    def _change(self, event: int, entries: Sequence[tuple[str, int | None]]) -> None:
        """Change the entries at the given paths; the folder of the last one must be flushed."""
        found = []
        for path, node in entries:
            folder = self._live[_parent(path)]
            found.append((folder, Path(path).name, node))
            if node is None:
                self._nodes[folder].entries.pop(Path(path).name, None)
            else:
                self._nodes[folder].entries[Path(path).name] = node
        self._changes.append(_Change(event, tuple(found), needs=found[-1][0]))

    def _take(self, number: int, event: Event) -> None:
        path = event.path
        if event.kind == "sync":
            node = self._live[path]
            self._syncs.append((number, node))
            if not self._nodes[node].is_folder:
                self._nodes[node].snapshots.append((number, "sync", event.content or b""))
        elif event.kind == "write":
            node = self._live.get(path) or self._add(number, path, is_folder=False)
            self._nodes[node].snapshots.append((number, "write", b""))
        elif event.kind == "folder":
            self._add(number, path, is_folder=True)
        elif event.kind == "rename":
            node = self._live[path]
            if event.content is not None:
                self._nodes[node].snapshots.append((number, "seen", event.content))
            self._change(number, [(path, None), (event.target, node)])
            moved = {p: n for p, n in self._live.items() if p == path or _within(p, path)}
            for old in moved:
                del self._live[old]
            self._live |= {event.target + old[len(path) :]: n for old, n in moved.items()}
        else:
            if event.content is not None:
                self._nodes[self._live[path]].snapshots.append((number, "seen", event.content))
            self._change(number, [(path, None)])
            del self._live[path]

    def crashes(self) -> Iterator[tuple[int, Files]]:
        """Yield (calls, files) for every distinct state that a crash may leave.

        `calls` is the largest number of calls after which it may occur: guarantees made by then
        must hold.
        """
        found: dict[frozenset[tuple[str, bytes | None]], tuple[int, Files]] = {}
        for done in range(len(self.events) + 1):
            for chosen in self._choices(done):
                for filling in ("old", "empty", "half", "full"):
                    files = self._files(done, chosen, filling)
                    found[frozenset(files.items())] = done, files
        yield from found.values()

    def _choices(self, done: int) -> Iterator[list[_Change]]:
        """Yield possible sets of changes on disk: all certain ones and some of the others."""
        made = [change for change in self._changes if change.event < done]
        certain = [change for change in made if self._is_certain(change, done)]
        open_ = [change for change in made if change not in certain]
        count = len(open_)
        if count <= ALL_COMBINATIONS:
            masks = set(itertools.product((False, True), repeat=count))
        else:  # prefixes, all but one, and single changes
            masks = {tuple(place < first for place in range(count)) for first in range(count + 1)}
            masks |= {tuple(place != one for place in range(count)) for one in range(count)}
            masks |= {tuple(place == one for place in range(count)) for one in range(count)}
        for mask in sorted(masks):
            kept = [change for change, keep in zip(open_, mask, strict=True) if keep]
            yield sorted([*certain, *kept], key=lambda change: change.event)

    def _is_certain(self, change: _Change, done: int) -> bool:
        return any(n == change.needs and change.event < at < done for at, n in self._syncs)

    def _files(self, done: int, changes: Sequence[_Change], filling: str) -> Files:
        folders = {number: dict(entries) for number, entries in self._begin.items()}
        for change in changes:
            for folder, name, node in change.entries:
                entries = folders.setdefault(folder, {})
                if node is None:
                    entries.pop(name, None)
                else:
                    entries[name] = node
        files: dict[str, bytes | None] = {}
        self._collect("", 0, folders, files, done, filling)
        return files

    def _collect(
        self,
        path: str,
        node: int,
        folders: Mapping[int, Mapping[str, int]],
        files: dict[str, bytes | None],
        done: int,
        filling: str,
    ) -> None:
        for name, child in folders.get(node, {}).items():
            below = f"{path}/{name}" if path else name
            if self._nodes[child].is_folder:
                files[below] = None
                self._collect(below, child, folders, files, done, filling)
            else:
                files[below] = self._content(child, done, filling)

    def _content(self, node: int, done: int, filling: str) -> bytes:
        """Return the content of a file, chosen by `filling` if not flushed since its last write."""
        flushed, is_open = b"", False
        for event, kind, content in self._nodes[node].snapshots:
            if event >= done:
                if not is_open:
                    break
                if kind != "write":
                    half = content[: len(content) // 2]
                    return {"old": flushed, "empty": b"", "half": half, "full": content}[filling]
            elif kind == "sync":
                flushed, is_open = content, False
            elif kind == "write":
                is_open = True
        return flushed


def write(files: Files, folder: Path) -> Path:
    """Write `files` to the new folder `folder`."""
    folder.mkdir()
    for path, content in files.items():
        if content is None:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    return folder


def _parent(path: str) -> str:
    parent = str(Path(path).parent)
    return "" if parent == "." else parent


def _within(path: str, folder: str) -> bool:
    return path.startswith(f"{folder}/")
