"""Submitting the steps of a chain that are left, each after the one before it; or printing them."""

import getpass
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from mmbert.cluster.chain import ChainFolder, ChainRecord, JobRecord, read_record
from mmbert.cluster.monitoring.queue import queued_jobs
from mmbert.cluster.restart.left_out_nodes import nodes_to_leave_out
from mmbert.cluster.site import Site
from mmbert.cluster.site_script import site_script
from mmbert.cluster.steps import Step
from mmbert.errors import ArgumentError, OutputError
from mmbert.files import atomic_write, make_folder
from mmbert.journals.run_journal import NODE_REPORTS_NAME, NodeReport, read_records
from mmbert.ownership import take_folder
from mmbert.recipe import Recipe, dump_recipe


@dataclass(frozen=True)
class Chain:
    """A chain to submit."""

    folder: ChainFolder
    scripts: Path
    """Folder of the batch scripts; its name is slurm."""
    environment: Path
    """Virtual environment of the jobs."""
    recipe: Recipe
    recipe_name: str
    text: str
    site: Site
    steps: tuple[Step, ...]

    @property
    def left(self) -> list[Step]:
        """Steps to submit."""
        return [step for step in self.steps if not step.done]

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables of the jobs, in which sbatch is called."""
        return {
            "MMBERT_HOME": str(self.scripts.parent),
            "MMBERT_VENV": str(self.environment),
            "MMBERT_SITE": str(self.folder.site),
            "MMBERT_SITE_SCRIPT": str(self.folder.site_script),
            "MMBERT_JOURNALS": str(self.folder.logs),
            "MMBERT_PROGRESS": str(self.folder.shards / ".preprocess"),
        }

    def sbatch(self, step: Step, dependency: str | None = None) -> tuple[str, ...]:
        """Return the words that submit a step."""
        number = "%A_%a" if step.tasks else "%A"
        # Slurm replaces %A in the name of the log, which is below a folder of any name.
        logs = str(self.folder.logs).replace("%", "%%")
        return (
            "sbatch",
            "--parsable",
            f"--job-name=mmbert-{step.name}",
            f"--comment={self.folder.comment}",
            f"--output={logs}/{step.name}-{number}.log",
            "--export=ALL",
            "--kill-on-invalid-dep=yes",
            *([f"--dependency=afterok:{dependency}"] if dependency else []),
            *step.sbatch_options,
            str(self.scripts / f"{step.name}.sbatch"),
            *step.arguments,
        )


def printed_commands(chain: Chain) -> Iterator[str]:
    """Yield the commands of the steps that are left, quoted for a shell.

    A step's job number is in a variable of its name, which the next one waits for. Comments tell
    what runs inside the jobs.
    """
    folder = chain.folder
    yield from comment(f"the submission writes {folder.recipe}, the recipe with all values, and")
    yield from comment(f"{folder.site_script}, which every job runs first:")
    yield from comment("  " + "\n  ".join(site_script(chain.site).splitlines()[2:]))
    yield from (f"export {name}={shlex.quote(text)}" for name, text in chain.variables.items())
    previous = None
    for number, step in enumerate(chain.steps, 1):
        yield f"# {number}. {step.name}{': done' if step.done else ''}"
        if step.done:
            continue
        words = shlex.join(chain.sbatch(step, "JOB" if previous else None))
        if previous:
            words = words.replace("afterok:JOB", f'afterok:"${{{previous}%%;*}}"', 1)
        yield f"{step.name}=$({words})"
        for line in step.inside:
            yield from comment(f"  in the job: {line}")
        previous = step.name


def comment(text: str) -> Iterator[str]:
    """Yield the lines of `text` as comments of a shell."""
    yield from (f"# {line}" for line in text.split("\n"))


def submit(chain: Chain, say: Callable[[str], None]) -> list[JobRecord]:
    """Submit the steps that are left and return their jobs.

    Raises:
        OutputError: jobs of the folder are in the queue, or another process submits.
        ArgumentError: Slurm refuses a job; those that were submitted before it are canceled.
    """
    folder = chain.folder
    queue = queued_jobs()
    if queue is None:
        raise ArgumentError(
            "squeue is not on this machine, or does not answer",
            remedy="call the command where jobs are submitted, or give --dry-run",
        )
    with take_folder(folder.path, what=f"the chain {folder.path}"):
        record = read_record(folder)
        if record is not None and record.user != getpass.getuser():
            queue = queued_jobs([record.user]) or queue
        known = {job.job for job in record.jobs} if record else set()
        ours = (job for job in queue if job.comment == folder.comment or job.job in known)
        left = sorted((int(job.job), job.name) for job in ours if job.left)
        _refuse_queued(folder, [name for _, name in left])
        _say_changes(folder, chain.recipe, say)
        make_folder(folder.logs)
        _write(folder.recipe, dump_recipe(chain.recipe))
        site = chain.site.model_dump(mode="json", exclude_defaults=True)
        _write(folder.site, yaml.safe_dump(site, sort_keys=False, allow_unicode=True))
        _write(folder.site_script, site_script(chain.site))
        record = ChainRecord(
            recipe=chain.recipe_name,
            input=chain.text,
            user=getpass.getuser(),
            jobs=record.jobs if record else (),
        )
        submitted: list[JobRecord] = []
        for step in chain.left:
            command = chain.sbatch(step, submitted[-1].job if submitted else None)
            try:
                number = _call(command, chain.variables, step)
            except ArgumentError:
                for job in submitted:
                    subprocess.run(["scancel", job.job], check=False)
                raise
            job = JobRecord(
                step=step.name, job=number, unix_time=time.time(), tasks=dict(step.tasks)
            )
            submitted.append(job)
            record = record.model_copy(update={"jobs": (*record.jobs, job)})
            record.write(folder)
    return submitted


def excluded_nodes(folder: ChainFolder, recipe: Recipe, site: Site) -> list[str]:
    """Return the nodes that reports of the run and its variants leave out of the next start."""
    runs = [folder.run, *(folder.variant(variant.name) for variant in recipe.variants)]
    reports = [
        report for run in runs for report in read_records(run / NODE_REPORTS_NAME, NodeReport)
    ]
    return nodes_to_leave_out(reports, (), slow=site.leave_out_slow_nodes)


def without_nodes(step: Step, nodes: Sequence[str]) -> Step:
    """Return a step of training that leaves `nodes` out; other steps as they are."""
    if step.name not in ("pretrain", "decay") or not nodes:
        return step
    options = (*step.values.sbatch, f"--exclude={','.join(dict.fromkeys(nodes))}")
    return replace(step, values=step.values.model_copy(update={"sbatch": options}))


def _call(command: Sequence[str], variables: Mapping[str, str], step: Step) -> str:
    """Run sbatch and return the number of the job. Raises ArgumentError if it is refused."""
    try:
        result = subprocess.run(
            command,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise ArgumentError(
            f"sbatch cannot be called: {error.strerror}",
            remedy="call the command where jobs are submitted, or give --dry-run",
        ) from error
    number = result.stdout.strip().split(";")[0]
    if result.returncode or not number.isdigit():
        raise ArgumentError(
            f"Slurm refuses the job of the step {step.name}: "
            f"{result.stderr.strip() or result.stdout.strip()} (options: "
            f"{shlex.join(step.sbatch_options)})",
            remedy="correct the site file or --set, and submit again; nothing is in the queue",
        )
    return number


def _refuse_queued(folder: ChainFolder, names: Sequence[str]) -> None:
    if names:
        raise OutputError(
            f"jobs of {folder.path} are in the queue: {', '.join(names)}",
            remedy=f"see `mmbert status {shlex.quote(str(folder.path))}`; wait for them, or "
            f"`scancel {' '.join(dict.fromkeys(name.split('_')[0] for name in names))}` and "
            "submit again",
        )


def _say_changes(folder: ChainFolder, recipe: Recipe, say: Callable[[str], None]) -> None:
    """Say which parts of the recipe differ from those of the last submission."""
    if not folder.recipe.is_file():
        return
    before = yaml.safe_load(folder.recipe.read_text(encoding="utf-8"))
    now = yaml.safe_load(dump_recipe(recipe))
    if not isinstance(before, dict) or before == now:
        return
    keys = [key for key in dict.fromkeys((*before, *now)) if before.get(key) != now.get(key)]
    say(
        f"the recipe has changed since the last submission: {', '.join(keys)}; finished steps stay "
        "as they are, and the training refuses what it cannot continue with"
    )


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())
