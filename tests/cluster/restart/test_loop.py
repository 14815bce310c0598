"""The restart loop with stand-ins for Slurm's commands, which record how they are called."""

from pathlib import Path

import pytest

from mmbert.checkpoint.format import INDEX_NAME, Index, RunState, SavedGrid
from mmbert.cluster.restart.loop import RestartLoop, Training
from mmbert.cluster.restart.rank_start import Stop
from mmbert.cluster.restart.slurm_job import Allocation, SlurmJob
from mmbert.journals.run_journal import (
    NODE_REPORTS_NAME,
    STARTS_NAME,
    NodeReport,
    StartEvent,
    read_records,
)

# Each start takes the next line of `starts`: its exit status, and a checkpoint that it leaves.
SRUN = r"""
case "$*" in *SLURMD_NODENAME*) cat answering; exit;; esac
read -r status step < starts; sed -i 1d starts
[ -z "$step" ] || mv "ready/$step" run/checkpoints/
exit "$status"
"""
PROGRAMS = {
    "srun": SRUN,
    "squeue": "cat state",
    "sinfo": "cat nodes",
    "scontrol": 'case "$1 $2" in "show hostnames") echo "$3" | tr , "\\n";; '
    '"show job") echo "Partition=main ExcNodeList=n9"; esac',
}


class Slurm:
    """Stand-ins for Slurm's commands in a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        (folder / "bin").mkdir()
        (folder / "run" / "checkpoints").mkdir(parents=True)
        for name, body in PROGRAMS.items():
            record = f'echo "{name} $*" >> calls\n'
            (folder / "bin" / name).write_text(f"#!/bin/bash\n{record}{body}\n")
            (folder / "bin" / name).chmod(0o755)
        (folder / "answering").write_text("n1\nn2\n")
        (folder / "state").write_text("RUNNING\n")
        (folder / "nodes").write_text("n1 allocated\nn2 allocated\nn3 idle\n")
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
        monkeypatch.chdir(folder)

    def write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    def checkpoint(self, step: int) -> None:
        """Prepare a checkpoint that a start may leave."""
        folder = self._folder / "ready" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        state = RunState(step=step, tokens=0, phase="a", recipe="")
        index = Index(
            writer="test",
            number=0,
            permanent=False,
            state=state,
            optimizer_steps=step,
            grid=SavedGrid(tensor=1, data=1, zero_stage=1),
            files={},
            parameters={},
        )
        (folder / INDEX_NAME).write_bytes(index.dump())

    def run(self, *, slow: bool = False) -> int:
        job = SlurmJob({"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job"})
        allocation = Allocation(("n1", "n2"), 1, 0, 2, tasks_requested=True)
        training = Training("no-such-recipe", (), Path("run"), ("--take-over",))
        return RestartLoop(job, allocation, training, Stop(), leave_out_slow_nodes=slow).run()

    def calls(self, program: str) -> list[str]:
        calls = (self._folder / "calls").read_text().splitlines()
        return [call for call in calls if call.startswith(program)]

    def ends(self) -> list[StartEvent]:
        events = read_records(self._folder / "run" / STARTS_NAME, StartEvent)
        return [event for event in events if event.status is not None]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    return Slurm(tmp_path, monkeypatch)


def test_a_newer_checkpoint_gives_three_more_restarts(slurm: Slurm) -> None:
    slurm.checkpoint(20)
    slurm.write("starts", "1\n1\n1 step-00000020\n" + 9 * "1\n")
    assert slurm.run() == 1
    # Two without, one that left the checkpoint, then a restart from it and two more.
    assert [end.step for end in slurm.ends()] == [0, 0, 20, 20, 20, 20]
    assert [end.start for end in slurm.ends()] == list(range(6))


def test_only_the_first_start_may_take_the_folder_over(slurm: Slurm) -> None:
    slurm.write("starts", "1\n0\n")
    assert slurm.run() == 0
    first, second = (call for call in slurm.calls("srun") if "mmbert.pretrain" in call)
    assert "--take-over" in first
    assert "--take-over" not in second


@pytest.mark.parametrize("status", [0, 2])
def test_success_and_errors_of_the_user_end_the_job_at_once(slurm: Slurm, status: int) -> None:
    slurm.write("starts", f"{status}\n0\n")
    assert slurm.run() == status
    assert len(slurm.calls("srun")) == 1, "neither a second start nor a probe of the nodes"
    assert not slurm.calls("scontrol requeue")
    assert slurm.ends() == [], "the ranks never owned the folder"


def test_a_dead_node_is_left_out_after_the_requeue(slurm: Slurm) -> None:
    """Slurm refuses to change the nodes of a running job, so the order matters."""
    slurm.write("starts", "1\n")
    slurm.write("nodes", "n1 allocated\nn2 down*\nn3 idle\n")
    assert slurm.run() == 1
    calls = [call for call in slurm.calls("scontrol") if " show " not in call]
    assert calls == [
        "scontrol requeue 7",
        "scontrol update JobId=7 NumTasks=1",
        "scontrol update JobId=7 ExcNodeList=n9,n2",
    ]
    reports = list(read_records(Path("run") / NODE_REPORTS_NAME, NodeReport))
    assert [(report.host, report.exclude) for report in reports] == [("n2", True)]
    assert slurm.ends()[0].cause == "dead node: n2 (Slurm says down*)"


def test_a_node_that_starts_no_task_is_dead_even_if_slurm_calls_it_allocated(slurm: Slurm) -> None:
    slurm.write("starts", "1\n")
    slurm.write("answering", "n1\n")
    assert slurm.run() == 1
    assert slurm.calls("scontrol update")[-1].endswith("ExcNodeList=n9,n2")
    probes = [call for call in slurm.calls("srun") if "SLURMD_NODENAME" in call]
    assert [call.split("--nodelist=")[1].split()[0] for call in probes] == ["n1,n2", "n2"]


def test_an_allocation_that_starts_no_task_at_all_is_given_back_three_times(slurm: Slurm) -> None:
    """No node is blamed."""
    slurm.write("starts", 9 * "1\n")
    slurm.write("answering", "")
    for requeues in (1, 2, 3, 3):
        assert slurm.run() == 1
        assert len(slurm.calls("scontrol requeue")) == requeues
    assert not any("ExcNodeList" in call for call in slurm.calls("scontrol update"))


def test_without_a_replacement_the_job_takes_the_nodes_that_are_left(slurm: Slurm) -> None:
    slurm.write("starts", "1\n")
    slurm.write("nodes", "n1 allocated\nn2 down*\nn3 drained\n")
    slurm.run()
    assert slurm.calls("scontrol update")[-1] == "scontrol update JobId=7 NumNodes=1-2"


def test_a_job_that_was_cancelled_is_left_to_slurm(slurm: Slurm) -> None:
    slurm.write("starts", "1\n0\n")
    slurm.write("state", "CANCELLED\n")
    assert slurm.run() == 1
    assert len([call for call in slurm.calls("srun") if "mmbert.pretrain" in call]) == 1
    assert not slurm.calls("scontrol requeue")


def test_success_that_slurm_does_not_confirm_is_a_failure(slurm: Slurm) -> None:
    """srun may report 0 although a node died."""
    slurm.write("starts", "0\n")
    slurm.write("state", "COMPLETING\n")
    assert slurm.run() == 1
