"""TensorBoard's event file, written at once: one record per call, and errors where they happen.

torch's SummaryWriter makes a record of every scalar and opens and closes the file for each, which a
network file system feels when two thousand languages are due; and it learns of a full disk in a
thread of its own.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# How a reader finds several curves in one chart: TensorBoard's page CUSTOM SCALARS.
CustomScalarsLayout = dict[str, dict[str, list[Any]]]


class TensorBoardLogger:
    """One event file in `folder`, for a run that (again) begins at `first_step`."""

    def __init__(self, folder: Path, first_step: int) -> None:
        # Imported here: it takes seconds, and only one rank needs it.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        self._event, self._summary, self._make = event_pb2, summary_pb2, summary
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:010.0f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / name
        self._file = self.path.open("wb")
        self._records = RecordWriter(self._file)
        self._write(event_pb2.Event(file_version="brain.Event:2"))
        self.rewind(first_step)

    def rewind(self, step: int) -> None:
        """The run goes on from `step`: TensorBoard drops what it has from there on."""
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(self._event.Event(step=step, session_log=start))

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Scalars by tag, all in one record; None is left out."""
        entries = [
            self._summary.Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if value is not None
        ]
        self._add(step, self._summary.Summary(value=entries))

    def histogram(self, step: int, tag: str, values: npt.NDArray[np.float64]) -> None:
        """The distribution of `values`."""
        if len(values):
            self._add(step, self._make.histogram(tag, values, "auto"))

    def text(self, tag: str, text: str) -> None:
        """A text in Markdown."""
        self._add(0, self._make.text(tag, text))

    def custom_scalars(self, layout: CustomScalarsLayout) -> None:
        """Charts of several curves: {category: {title: [kind, [tags]]}}."""
        self._add(0, self._make.custom_scalars(layout))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, step: int, summary: Any) -> None:
        self._write(self._event.Event(step=step, summary=summary))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()
