"""TensorBoard's event file, written synchronously: one record per call, errors where they occur.

torch's SummaryWriter writes one record per scalar and opens and closes the file for each, which is
slow on a network file system when two thousand languages are due; and it meets a full disk in a
thread of its own.
"""

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mmbert.training.metrics.loggers.base_logger import BaseLogger, RunInfo
from mmbert.training.metrics.loggers.tensorboard_tags import custom_scalars_layout


class TensorBoardLogger(BaseLogger):
    """Writes one event file per start of the run."""

    def __init__(self, run: RunInfo) -> None:
        # Imported here: it takes seconds, and only one rank needs it.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        self._event, self._summary, self._make = event_pb2, summary_pb2, summary
        folder = run.folder / "tensorboard"
        self.target = str(folder)
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(event_pb2.Event(file_version="brain.Event:2"))
        self.rewind(run.first_step)
        layout = custom_scalars_layout(run.phases, run.largest_languages)
        self._add(0, summary.custom_scalars(layout))

    def rewind(self, step: int) -> None:
        """Make TensorBoard drop what it has from `step` on."""
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(self._event.Event(step=step, session_log=start))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write scalars by tag, all in one record."""
        entries = [
            self._summary.Summary.Value(tag=tag, simple_value=value)
            for tag, value in metrics.items()
        ]
        self._add(step, self._summary.Summary(value=entries))

    def histogram(self, step: int, tag: str, values: npt.NDArray[np.float64]) -> None:
        """Write the distribution of `values`."""
        self._add(step, self._make.histogram(tag, values, "auto"))

    def text(self, tag: str, text: str) -> None:
        """Write a text in Markdown."""
        self._add(0, self._make.text(tag, text))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, step: int, summary: Any) -> None:
        self._write(self._event.Event(step=step, summary=summary))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()
