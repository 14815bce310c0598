"""GPU report: the most important measurements of a GPU within minutes.

In this order: correctness, our training step, each kernel, a real run, packed Hugging Face models,
experiments, and transformers on the same tokens. Each part is a process with its own time limit.
Figures are printed and appended to OUTPUT/gpu-report/TIME/figures.jsonl as soon as they are known.
At the end, or after an interruption, OUTPUT/gpu-report.md is the report and OUTPUT/gpu-report.json
has its figures.

    make gpu-report                                        # with python3, which must have torch
    make gpu-report GPU_PYTHON=/opt/torch/bin/python MINUTES=12 WHEELS=build/wheels
    python -m tests.benchmarks.gpu_report --parts machine correctness step
    python -m tests.benchmarks.gpu_report --device cpu     # tiny, to try the program
"""

import argparse
import contextlib
import fcntl
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu_report.page import page
from tests.benchmarks.gpu_report.parts import PARTS, report_parts
from tests.benchmarks.gpu_report.records import NO_GPU, figures
from tests.benchmarks.gpu_report.supervisor import Ending, Outcome, Part, run_parts
from tests.support.environment import ROOT, with_packages


class UnusableError(Exception):
    """The report cannot start; the message has a remedy."""


def writable_folder(output: Path) -> Path:
    """Return `output`, or a new temporary folder if `output` is not writable."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            return output.resolve()
    except OSError as error:
        elsewhere = Path(tempfile.mkdtemp(prefix="gpu-report-"))
        print(f"{output} cannot be written to ({error.strerror}): the report goes to {elsewhere}")
        return elsewhere


@contextlib.contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Lock the folder: two reports at once would disturb each other's measurements."""
    with (output / "gpu-report.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise UnusableError(
                f"a report is running already (process {lock.read().strip() or 'unknown'}): wait "
                "for it, or end that process"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def blocker(folder: Path) -> str:
    """Return why no part can use a GPU, as found by the first part."""
    found = figures(folder, "machine")
    return next((str(each.value) for each in found if each.subject == NO_GPU), "")


def write_page(output: Path, folder: Path, heading: str, outcomes: list[Outcome]) -> None:
    """Write report and figures into the report's folder and as the latest ones."""
    text = page(folder, heading, outcomes)
    record = {
        "heading": heading,
        "parts": [asdict(outcome) for outcome in outcomes],
        "figures": [asdict(figure) for figure in figures(folder)],
    }
    for path, content in (
        (folder / "report.md", text),
        (folder / "report.json", json.dumps(record, indent=1)),
        (output / "gpu-report.md", text),
        (output / "gpu-report.json", json.dumps(record, indent=1)),
    ):
        partial = path.with_name(path.name + ".partial")
        partial.write_text(content, encoding="utf-8")
        partial.rename(path)


def make_report(parts: list[Part], output: Path, minutes: float, heading: str) -> list[Outcome]:
    """Run the parts; write the report after each."""
    folder = output / "gpu-report" / time.strftime("%Y-%m-%dT%H%M%S")
    folder.mkdir(parents=True)
    done: list[Outcome] = []
    begun = time.monotonic()

    def on_outcome(outcomes: list[Outcome]) -> None:
        nonlocal begun
        done[:], begun = outcomes, time.monotonic()
        write_page(output, folder, heading, outcomes)

    try:
        run_parts(
            parts,
            folder,
            60 * minutes,
            environment=with_packages(ROOT, PYTHONUNBUFFERED="1"),
            directory=ROOT,
            blocker=lambda: blocker(folder),
            on_outcome=on_outcome,
        )
    except (KeyboardInterrupt, SystemExit):
        cut = parts[len(done)]
        on_outcome(
            [*done, Outcome(cut.name, cut.title, Ending.INTERRUPTED, time.monotonic() - begun)]
        )
        raise
    print(f"\nThe page: {output / 'gpu-report.md'}\nFigures and logs: {folder}")
    return done


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.gpu_report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts (default: 9)")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="default: build/")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all, in this order"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / "build" / "gpu-report-data",
        help="shards for the real run (make gpu-report-data); made on the spot if absent",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the parts and end")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0: all parts are done; 1: some are not; 2: the report could not start."""
    chosen = parse_arguments(arguments)
    parts = report_parts(chosen.device, chosen.data.resolve(), tuple(chosen.parts))
    if chosen.dry_run:
        shares = sum(part.share for part in parts)
        for part in parts:
            usual = min(part.max_seconds, 60 * chosen.minutes * part.share / shares)
            print(f"{usual:4.0f} s  {part.title}: {' '.join(part.command)}")
        return 0
    heading = f"{time.strftime('%Y-%m-%d %H:%M:%S')}, {chosen.minutes:g} minutes, {sys.executable}"
    if chosen.device == "cpu":
        heading += "\n\nA trial on a CPU at tiny sizes: these figures say nothing about a GPU."
    output = writable_folder(chosen.output)
    before = signal.signal(signal.SIGTERM, _stopped)
    try:
        with exclusive(output):
            outcomes = make_report(parts, output, chosen.minutes, heading)
    except UnusableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0 if all(outcome.ending is Ending.DONE for outcome in outcomes) else 1


def _stopped(number: int, _frame: Any) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
