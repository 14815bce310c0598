"""`RUN/log.jsonl`: one JSON object per interval or event.

The file is append-only. A step may occur twice after a restart; the later line is valid.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmbert.files import sync_folder
from mmbert.training.metrics.loggers.base_logger import BaseLogger, RunInfo


class JsonlLogger(BaseLogger):
    """Appends records and events to `log.jsonl`."""

    def __init__(self, run: RunInfo) -> None:
        path = run.folder / "log.jsonl"
        self.target = str(path)
        _truncate_partial_line(path)
        self._file = path.open("a", buffering=1, encoding="utf-8")
        sync_folder(path.parent)

    def record(self, record: Mapping[str, Any]) -> None:
        """Append the record unchanged."""
        self._write(record)

    def event(self, kind: str, step: int, text: str, details: Mapping[str, Any]) -> None:
        """Append the event with its details."""
        self._write({"event": kind, "step": step, "text": text, **details})

    def sync(self) -> None:
        """Flush the file to disk, so that no checkpoint is newer than the log."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        now = round(time.time(), 3)
        # `time` is the clock in events only: in records it is the time by region.
        self._file.write(json.dumps({"unix_time": now, "time": now, **record}) + "\n")


def _truncate_partial_line(log: Path) -> None:
    """Remove an incomplete last line, left by a crash or a full disk."""
    if not log.is_file():
        return
    content = log.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        os.truncate(log, complete)
