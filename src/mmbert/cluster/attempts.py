"""Counting the starts of a job across requeues: after three failures at one place it stops.

The batch scripts of a chain call `python -m mmbert.cluster.attempts begin`, `end` and `check`.
Preprocessing, merging and evaluation have a journal each beside their logs; training has its run's.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mmbert.command_line.environment import integer
from mmbert.command_line.running import run_application
from mmbert.command_line.values import parse_path
from mmbert.errors import EXIT_FAILURE, EXIT_SAVED_START_AGAIN, EXIT_USER_ERROR
from mmbert.files import make_folder
from mmbert.journals.run_journal import STARTS_NAME, StartEvent, append_record, read_records

MOST_FAILURES = 3
_SIGNALS = (138, 143)
# Done, saved, or a training that the signals before a time limit ended while it started.
_NOT_FAILED = (0, EXIT_SAVED_START_AGAIN, *_SIGNALS)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def failures_in_place(events: Sequence[StartEvent], job: str, place: int) -> list[StartEvent]:
    """Return the failed starts of `job` since it came to `place`, oldest first.

    A start that has no end was killed with its job, by a node that died for example.

    Args:
        place: step of the newest checkpoint now, or another count that grows with progress.
    """
    starts: list[StartEvent] = []
    for event in events:
        if event.job != job:
            continue
        if event.status is not None and starts and starts[-1].status is None:
            starts[-1] = event
        else:
            starts.append(event)
    return [
        start
        for start in starts
        if start.step == place and (start.status is None or start.status not in _NOT_FAILED)
    ]


def reason_to_stop(events: Sequence[StartEvent], job: str, place: int) -> str | None:
    """Return why `job` is not to be started once more; None if it may be."""
    found = failures_in_place(events, job, place)
    if len(found) < MOST_FAILURES:
        return None
    causes = "; ".join(
        f"{number}: {event.cause or _ending(event)}" for number, event in enumerate(found, 1)
    )
    return f"job {job} failed {len(found)} times at the same place ({place:,}) ({causes})"


def _ending(event: StartEvent) -> str:
    return "killed" if event.status is None else f"status {event.status}"


@app.command()
def begin(
    step: Annotated[str, typer.Argument(help="Step of the chain.")],
    progress: Annotated[str, typer.Argument(help="Folder of the preprocessing's units.")] = "",
) -> None:
    """Record a start of this job. Status 1, with the reason: it is to stop.

    The progress of preprocessing is the number of finished units of work.
    """
    journal = _journal(step)
    place = _count_units(Path(progress)) if progress else 0
    _stop(reason_to_stop(list(read_records(journal, StartEvent)), _job(), place))
    make_folder(journal.parent)
    append_record(journal, _event(place))


@app.command()
def end(
    step: Annotated[str, typer.Argument(help="Step of the chain.")],
    status: Annotated[int, typer.Argument(help="Exit status.", min=0, max=255)],
) -> None:
    """Record the end of this start. Status 0: it failed and may be tried again."""
    journal = _journal(step)
    mine = [one for one in read_records(journal, StartEvent) if one.job == _job()]
    place = mine[-1].step if mine else 0
    # Here the signals are those with which srun ends the other tasks of one that failed.
    append_record(journal, _event(place, EXIT_FAILURE if status in _SIGNALS else status))
    if status in (0, EXIT_USER_ERROR, EXIT_SAVED_START_AGAIN):
        raise typer.Exit(1)
    _stop(reason_to_stop(list(read_records(journal, StartEvent)), _job(), place))


@app.command(context_settings={"ignore_unknown_options": True})
def check(
    run: Annotated[Path, typer.Argument(parser=parse_path, help="Run folder.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Arguments of the training, with any --variant.")
    ] = None,
) -> None:
    """Read the journal of a run. Status 1, with the reason: this job is to stop."""
    from mmbert.checkpoint.store import list_checkpoints, step_of

    words = list(arguments or ())
    if "--variant" in words[:-1]:
        run = run / "variants" / words[words.index("--variant") + 1]
    saved = list_checkpoints(run / "checkpoints")
    place = step_of(saved[-1]) if saved else 0
    _stop(reason_to_stop(list(read_records(run / STARTS_NAME, StartEvent)), _job(), place))


def _stop(reason: str | None) -> None:
    if reason is None:
        return
    print(f"ERROR: {reason}", flush=True)
    print("  → find the cause in the log above, then submit again", flush=True)
    raise typer.Exit(1)


def _journal(step: str) -> Path:
    return Path(os.environ["MMBERT_JOURNALS"]) / f"{step}.starts.jsonl"


def _job() -> str:
    return os.environ["SLURM_JOB_ID"]


def _event(place: int, status: int | None = None) -> StartEvent:
    nodes = integer(os.environ, "SLURM_JOB_NUM_NODES", 1)
    gpus = os.environ.get("SLURM_GPUS_PER_NODE", "0").rpartition(":")[2]
    return StartEvent(
        unix_time=time.time(),
        job=_job(),
        restart=integer(os.environ, "SLURM_RESTART_COUNT", 0),
        hosts=(os.environ.get("SLURM_JOB_NODELIST", ""),),
        tasks=integer(os.environ, "SLURM_NTASKS", 1),
        gpus=nodes * int(gpus) if gpus.isdigit() else 0,
        step=place,
        status=status,
    )


def _count_units(folder: Path) -> int:
    return sum(1 for _ in folder.glob("*/units-*/*.json"))


def main() -> None:
    """Run the command line."""
    sys.exit(run_application(app))


if __name__ == "__main__":
    main()
