"""TensorBoard event files, written synchronously with one record per call.

torch's SummaryWriter writes one record per scalar and reopens the file for each, which is slow on a
network file system with two thousand languages. It also writes in a background thread, where a full
disk raises no error in the caller.

TensorBoard colors curves by run, so that all curves of one run in a chart look alike. The curves of
multi-curve charts are therefore written twice: under their tag in `tensorboard`, and as `chart/TAG`
in `tensorboard/color_N`, which TensorBoard treats as a separate run.
"""

import os
import socket
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmbert.training.metrics.loggers.base_logger import BaseLogger, RunInfo
from mmbert.training.metrics.loggers.tensorboard_tags import (
    COLORED,
    Chart,
    charts,
    custom_scalars_layout,
)


class TensorBoardLogger(BaseLogger):
    """Writes event files: one per start of the run, and one per chart color."""

    def __init__(self, run: RunInfo) -> None:
        # Imported lazily: it takes seconds, and only rank 0 needs it.
        from torch.utils.tensorboard import summary

        self._summary = summary
        self._folder, self._first_step = run.folder / "tensorboard", run.first_step
        self.target = str(self._folder)
        shown = charts(run.phases, run.largest_languages, run.rate_groups)
        self._charts = [chart for chart in shown if chart.several]
        self._colors: dict[Chart, dict[str, int]] = {chart: {} for chart in self._charts}
        self._files: dict[int | None, _EventFile] = {}
        self._file(None).add(0, summary.custom_scalars(custom_scalars_layout(shown)))

    def rewind(self, step: int) -> None:
        """Make TensorBoard discard entries from `step` on."""
        for file in self._files.values():
            file.rewind(step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write all scalars in one record, and the copies for charts in one record per color."""
        self._file(None).add_scalars(step, metrics)
        copies: dict[int, dict[str, float]] = defaultdict(dict)
        for chart in self._charts:
            colors = self._colors[chart]
            for tag, value in metrics.items():
                if chart.matches(tag):
                    copies[colors.setdefault(tag, len(colors) + 1)][COLORED + tag] = value
        for color, values in copies.items():
            self._file(color).add_scalars(step, values)

    def histogram(self, step: int, tag: str, values: npt.NDArray[np.float64]) -> None:
        """Write the distribution of `values`."""
        self._file(None).add(step, self._summary.histogram(tag, values, "auto"))

    def text(self, tag: str, text: str) -> None:
        """Write a text in Markdown."""
        self._file(None).add(0, self._summary.text(tag, text))

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def _file(self, color: int | None) -> "_EventFile":
        """Return the event file of a chart color, or the main file if None."""
        if color not in self._files:
            folder = self._folder if color is None else self._folder / f"color_{color}"
            self._files[color] = _EventFile(folder, self._first_step)
        return self._files[color]


class _EventFile:
    """An event file in `folder` that replaces the entries of earlier files from `first_step` on."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = event_pb2, summary_pb2
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(event_pb2.Event(file_version="brain.Event:2"))
        self.rewind(first_step)

    def rewind(self, step: int) -> None:
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(self._event.Event(step=step, session_log=start))

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        entries = [
            self._summary.Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
        ]
        self.add(step, self._summary.Summary(value=entries))

    def add(self, step: int, summary: Any) -> None:
        self._write(self._event.Event(step=step, summary=summary))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._file.flush()
