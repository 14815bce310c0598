"""Loop of a training job: starts the ranks of all nodes, and after a failure starts them again.

One instance runs on the first node of a job. What it decides is in `failure_cause` and `placement`;
what it asks Slurm is in `slurm_job`.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from mmbert.checkpoint.listing import newest_complete_step
from mmbert.cluster.restart.failure_cause import (
    RESTARTS_WITHOUT_CHECKPOINT,
    Action,
    Cause,
    Outcome,
    action_after,
    cause_of,
)
from mmbert.cluster.restart.left_out_nodes import leave_out, nodes_to_leave_out
from mmbert.cluster.restart.placement import Placement, place_all, place_largest
from mmbert.cluster.restart.rank_start import RankStart, Stop
from mmbert.cluster.restart.slurm_job import Allocation, SlurmJob
from mmbert.cluster.restart.start_journal import StartJournal
from mmbert.errors import EXIT_FAILURE, EXIT_SAVED_START_AGAIN, UserError
from mmbert.recipe import Recipe, load_recipe

# Ends of a start that leave no entry in the journals, if the ranks never owned the run folder.
_WITHOUT_TRACE = (Cause.SAVED, Cause.USER_ERROR, Cause.DONE)


@dataclass(frozen=True)
class Training:
    """The training command of a job: its recipe, folder and words."""

    recipe: str
    overrides: tuple[str, ...]
    run_folder: Path
    words: tuple[str, ...]
    """Options of the training program."""
    srun_words: tuple[str, ...] = ()
    """Further words of srun, for a container."""
    python: tuple[str, ...] = (sys.executable,)
    """Words that start Python in a task."""

    def load_recipe(self) -> Recipe | None:
        """Return the recipe; None if it is invalid, which the ranks report, once."""
        with suppress(UserError):
            return load_recipe(self.recipe, self.overrides)
        return None


class RestartLoop:
    """Starts of the ranks within one execution of a job."""

    def __init__(
        self,
        job: SlurmJob,
        allocation: Allocation,
        training: Training,
        stop: Stop,
        *,
        leave_out_slow_nodes: bool = False,
    ) -> None:
        self._job, self._allocation, self._training = job, allocation, training
        self._stop, self._slow = stop, leave_out_slow_nodes
        self._left_out: set[str] = set()
        self._journal = StartJournal(
            training.run_folder,
            job.id,
            job.restart,
            self.say,
            on_gpus=allocation.gpus_per_node > 0,
        )

    def run(self) -> int:
        """Train until the end, or until the job cannot or may not go on; return the status."""
        number = restarts = 0
        step = self._newest_step()
        while True:
            outcome = self._run_ranks(number)
            cause, why = cause_of(outcome)
            newest = self._newest_step()
            if newest > step:
                restarts, step = 0, newest
            self._journal.end(outcome, cause, why, step)
            taken = self._job.taken_away() if cause is not Cause.USER_ERROR else None
            if taken is not None:
                self.say(f"{why}; the job is {taken}, leaving it to Slurm")
                self._leave_out_dead(outcome.dead_nodes)
                return outcome.status or EXIT_FAILURE
            action = action_after(
                cause,
                restarts=self._journal.in_a_row(cause) - 1
                if cause is Cause.NO_LAUNCH
                else restarts,
                asked_to_stop=outcome.asked_to_stop,
                preempted=self._job.is_preempted(),
            )
            if action is Action.REQUEUE:
                return self._requeue(outcome, cause, why)
            if action is Action.END:
                return self._end(outcome, cause, why, restarts, step)
            number, restarts = number + 1, restarts + 1
            self.say(
                f"{why}; starting the ranks again from step {step}, restart {restarts} of "
                f"{RESTARTS_WITHOUT_CHECKPOINT} without a newer checkpoint"
            )

    def say(self, text: str) -> None:
        """Print a line with time and job, as the batch scripts do."""
        print(f"[{datetime.now():%Y-%m-%d %H:%M:%S}] {self._job.name}: {text}", flush=True)

    def _run_ranks(self, number: int) -> Outcome:
        placement = self._place()
        start = RankStart(
            self._job,
            self._allocation,
            placement,
            self._training.run_folder,
            self._training.words,
            number,
            self._training.srun_words,
            self._training.python,
        )
        for line in start.describe():
            self.say(line)
        begin = partial(self._journal.begin, number, placement, self._newest_step())
        outcome = start.run(self._stop, begin, self._on_stop)
        cause, _ = cause_of(outcome)
        if not self._journal.has_begun and cause not in _WITHOUT_TRACE:
            begin()  # the ranks failed before they owned the folder
        return outcome

    def _place(self) -> Placement:
        """Return the ranks of a start: all tasks, or as many as the recipe can use.

        The first start of a run that was given the nodes that it asked for takes all, so that a
        number that does not fit is refused instead of leaving nodes idle for weeks.
        """
        hosts, per_node = self._allocation.hosts, self._allocation.tasks_per_node
        recipe = self._training.load_recipe()
        if recipe is None or not self._may_leave_nodes_idle():
            return place_all(hosts, per_node)
        return place_largest(hosts, per_node, recipe.batch, recipe.parallel)

    def _may_leave_nodes_idle(self) -> bool:
        if self._job.restart or self._newest_step():
            return True
        most = self._job.most_nodes()
        return most is not None and len(self._allocation.hosts) < most

    def _newest_step(self) -> int:
        return newest_complete_step(self._training.run_folder / "checkpoints")

    def _requeue(self, outcome: Outcome, cause: Cause, why: str) -> int:
        """Requeue the job without the nodes that are to be left out; return the status.

        Slurm ends this process soon after. Excluding nodes has to wait for the requeue: it is
        refused for a running job.
        """
        if self._job.requeue():
            if self._allocation.tasks_requested:
                # Slurm counted the tasks of all its nodes: with fewer it would never start.
                tasks = self._allocation.tasks_per_node
                if not self._job.update(NumTasks=tasks):
                    self.say(f"Slurm did not set NumTasks={tasks}: the job waits for all its nodes")
            self._leave_out(outcome.dead_nodes)
            then = " and requeued; it continues in about two minutes or when nodes are free"
        else:
            then = ", but Slurm did not requeue the job: submit the same command again to continue"
        self.say(f"{why}{then}")
        return EXIT_SAVED_START_AGAIN if cause is Cause.SAVED else outcome.status

    def _on_stop(self) -> None:
        """Exclude nodes that died, if that is why Slurm has taken the job away.

        Slurm ends this process soon, perhaps before `srun` returns.
        """
        if self._job.taken_away() is not None:
            said = self._job.unusable(self._allocation.hosts)
            self._leave_out_dead([(host, f"Slurm says {state}") for host, state in said.items()])

    def _leave_out_dead(self, dead: Sequence[tuple[str, str]]) -> None:
        new = [(host, why) for host, why in dead if host not in self._left_out]
        if new:
            self._leave_out(new)

    def _leave_out(self, dead: Sequence[tuple[str, str]]) -> None:
        names = [host for host, _ in dead]
        hosts = nodes_to_leave_out(self._journal.node_reports(), names, slow=self._slow)
        if hosts:
            self._left_out.update(hosts)
            leave_out(self._job, len(self._allocation.hosts), hosts, self.say)

    def _end(self, outcome: Outcome, cause: Cause, why: str, restarts: int, step: int) -> int:
        if cause is Cause.DONE:
            self.say("done")
        elif cause is Cause.USER_ERROR:  # the ranks have said which
            self.say(f"{cause}: do what the arrow above says and submit again")
        elif cause is Cause.NO_SPACE:
            self.say(f"{why}: do what the arrow above says and submit again")
        else:
            self.say(
                f"FAILED with status {outcome.status} after {restarts} restart(s) without a newer "
                f"checkpoint than that of step {step}: {why}. The first 'Exited with' or 'Killed' "
                "line above names the task, whose output lines begin with its number; submit the "
                "same command again to resume from the last checkpoint"
            )
        return outcome.status
