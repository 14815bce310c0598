"""Status of a chain of jobs or of a run: jobs, progress, GPU-hours, nodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmbert.cluster.chain import ChainFolder, ChainRecord, read_record
from mmbert.cluster.monitoring.job_states import JobState, State, step_states
from mmbert.cluster.monitoring.queue import QueuedJob, accounted_jobs, queued_jobs
from mmbert.cluster.monitoring.run_progress import LOG_NAME, RunProgress, read_progress
from mmbert.cluster.site import Site, StepName
from mmbert.cluster.steps import chain_steps, trained
from mmbert.errors import ArgumentError, OutputError
from mmbert.journals.run_journal import STARTS_NAME, NodeReport, StartEvent, read_records
from mmbert.recipe import Recipe, parse_recipe


@dataclass(frozen=True)
class Status:
    """Everything that one screen shows."""

    folder: Path
    recipe: str
    """Recipe as it was given; empty for a run without a chain."""
    queue_known: bool
    """Whether Slurm was asked."""
    jobs: tuple[JobState, ...]
    runs: tuple[RunProgress, ...]

    @property
    def nodes(self) -> tuple[NodeReport, ...]:
        """Reports about nodes of all runs, oldest first."""
        found = (report for run in self.runs for report in run.nodes)
        return tuple(sorted(found, key=lambda report: report.unix_time))

    @property
    def hours_used(self) -> float:
        """GPU-hours (without GPUs: task-hours) of all runs."""
        return sum(run.hours.used for run in self.runs)

    @property
    def hours_lost(self) -> float:
        """Those of them that restarts lost."""
        return sum(run.hours.lost for run in self.runs)


def read_status(path: Path) -> Status:
    """Return the status of the chain or run in `path`; of its chain, if `path` is a run of one.

    Raises:
        ArgumentError: it is neither.
    """
    for candidate in (path, path.parent):
        folder = ChainFolder(candidate.absolute())
        record = read_record(folder)
        if record is not None and path.absolute() in (folder.path, folder.run):
            return _chain_status(folder, record)
    if (path / LOG_NAME).is_file() or (path / STARTS_NAME).is_file():
        return _run_status(path)
    raise ArgumentError(
        f"{path} is neither the output folder of `mmbert submit` nor a run that has started",
        remedy="name the OUT of `mmbert submit`, or the --output of a training",
    )


def _chain_status(folder: ChainFolder, record: ChainRecord) -> Status:
    queue = queued_jobs([record.user])
    known = {job.job for job in queue or ()}
    accounting = accounted_jobs([job.job for job in record.jobs if job.job not in known])
    recipe = parse_recipe(folder.recipe.read_text(encoding="utf-8"), origin=str(folder.recipe))
    states = step_states(folder, record, _done(folder, recipe), queue, accounting)
    runs = []
    for name in (None, *(variant.name for variant in recipe.variants)):
        step = "pretrain" if name is None else f"decay {name}"
        running = any(one.step == step and one.state is State.RUNNING for one in states)
        place = folder.run if name is None else folder.variant(name)
        progress = read_progress(step, place, running=running)
        runs += [progress] if progress is not None else []
    return Status(folder.path, record.recipe, queue is not None, tuple(states), tuple(runs))


def _done(folder: ChainFolder, recipe: Recipe) -> dict[tuple[StepName, str | None], bool]:
    found: dict[tuple[StepName, str | None], bool] = {}
    try:
        steps = chain_steps(recipe, "", folder, Site(), python="python")
    except OutputError:  # a model of an earlier state of the run
        steps = []
    for step in steps:
        if step.name == "decay":
            for variant in recipe.variants:
                found["decay", variant.name] = trained(folder, recipe, variant.name)
        else:
            found[step.name, None] = step.done
    return found


def _run_status(path: Path) -> Status:
    numbers = [event.job for event in read_records(path / STARTS_NAME, StartEvent) if event.job]
    queue = queued_jobs() if numbers else None
    entry = _entry(queue or (), numbers[-1]) if numbers else None
    running = entry is not None and entry.state in ("RUNNING", "COMPLETING")
    progress = read_progress("run", path, running=running)
    runs = () if progress is None else (progress,)
    jobs: tuple[JobState, ...] = ()
    if entry is not None:
        state = State.RUNNING if running else State.WAITING
        finished = progress is not None and progress.finished
        if not entry.left:
            state = State.DONE if finished else State.FAILED
        detail = "" if running else entry.reason
        jobs = (JobState("run", state, entry.name, detail, entry.elapsed, entry.node_names),)
    return Status(path, "", queue is not None, jobs, runs)


def _entry(queue: Sequence[QueuedJob], number: str) -> QueuedJob | None:
    return next((job for job in queue if job.job == number), None)
