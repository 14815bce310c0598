"""Rank and address from each launcher's variables; contradictions are refused."""

import pytest

from mmbert.errors import UserError
from mmbert.training.launch.deepspeed_launch import hostfile_argument
from mmbert.training.launcher_env import device_index, first_host, rank_info_from_env

TORCH = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "7"}
SLURM = {
    "SLURM_PROCID": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
}


def test_plain_python_is_one_process() -> None:
    rank_info = rank_info_from_env({})
    assert (rank_info.rank, rank_info.world_size, rank_info.launcher) == (0, 1, "python")


def test_torch_variables_are_taken_as_they_are() -> None:
    rank_info = rank_info_from_env(TORCH)
    assert rank_info.environment() == TORCH


def test_the_local_rank_argument_of_deepspeed_wins() -> None:
    assert rank_info_from_env(TORCH, local_rank_argument=2).local_rank == 2


def test_half_set_variables_are_refused() -> None:
    with pytest.raises(UserError, match="WORLD_SIZE, MASTER_PORT is not"):
        rank_info_from_env({"RANK": "0", "MASTER_ADDR": "a"})


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(UserError, match="rank 4 is out of range"):
        rank_info_from_env({**TORCH, "RANK": "4"})


def test_srun_gives_rank_world_and_the_first_node() -> None:
    rank_info = rank_info_from_env(SLURM)
    assert (rank_info.rank, rank_info.world_size, rank_info.local_rank) == (2, 4, 0)
    assert rank_info.master_address == "gpu03"
    others = rank_info_from_env({**SLURM, "SLURM_PROCID": "3"})
    assert others.master_port == rank_info.master_port
    next_job = rank_info_from_env({**SLURM, "SLURM_JOB_ID": "78"})
    assert next_job.master_port != rank_info.master_port


def test_a_batch_script_that_forgets_srun_is_refused() -> None:
    # In the batch script itself Slurm sets SLURM_PROCID=0 and no step.
    environment = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}
    with pytest.raises(UserError, match="4 tasks") as error:
        rank_info_from_env(environment)
    assert "srun" in error.value.remedy


@pytest.mark.parametrize("step", ["4294967291", "4294967290", "4294967295", "batch", "interactive"])
def test_the_special_steps_of_slurm_are_no_tasks_of_srun(step: str) -> None:
    """As in the batch script and in the shell opened by `salloc`."""
    alone = {**SLURM, "SLURM_PROCID": "0", "SLURM_STEP_ID": step}
    with pytest.raises(UserError, match="4 tasks"):
        rank_info_from_env(alone)
    single = {**alone, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}
    assert rank_info_from_env(single).launcher == "python"


@pytest.mark.parametrize(
    ("command", "hostfile"),
    [
        ("python bin/deepspeed --hostfile hosts --num_gpus 2 train.py --data d", "hosts"),
        ("python bin/deepspeed --num_gpus 2 -H hosts train.py", "hosts"),
        ("python bin/deepspeed --hostfile=a/hosts train.py", "a/hosts"),
        ("python bin/deepspeed train.py --hostfile mine", None),
        ("python bin/deepspeed --hostfile hosts --module mmbert.pretrain --data d", "hosts"),
        ("python bin/deepspeed --module mmbert.pretrain --hostfile mine", None),
        ("python -u -m deepspeed.launcher.launch --world_info=e30= train.py", None),
    ],
)
def test_the_hostfile_in_a_launchers_command(command: str, hostfile: str | None) -> None:
    assert hostfile_argument(command.split()) == hostfile


def test_a_launcher_that_started_fewer_processes_than_tasks_is_refused() -> None:
    environment = {
        **TORCH,
        "RANK": "1",
        "WORLD_SIZE": "2",
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "4",
    }
    with pytest.raises(UserError, match="the world size is 2"):
        rank_info_from_env(environment)


def test_one_torchrun_per_node_is_fine() -> None:
    environment = {
        **TORCH,
        "WORLD_SIZE": "16",
        "SLURM_PROCID": "1",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_ID": "0",
    }
    assert rank_info_from_env(environment).world_size == 16


def test_a_step_smaller_than_its_allocation_is_fine() -> None:
    environment = {**SLURM, "SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    assert rank_info_from_env(environment).world_size == 2


def test_open_mpi_on_one_node_needs_no_address() -> None:
    environment = {
        "OMPI_COMM_WORLD_RANK": "1",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    }
    rank_info = rank_info_from_env(environment)
    assert (rank_info.rank, rank_info.world_size) == (1, 2)
    assert rank_info.master_address == "127.0.0.1"


TWO_NODES_OF_OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


def test_open_mpi_on_several_nodes_needs_one() -> None:
    with pytest.raises(UserError, match="the address of rank 0"):
        rank_info_from_env(TWO_NODES_OF_OPEN_MPI)
    asked = rank_info_from_env(
        TWO_NODES_OF_OPEN_MPI, address_from_mpi=lambda rank, size: f"host-{rank}-{size}"
    )
    assert asked.master_address == "host-3-4"


def test_open_mpi_within_slurm_is_not_taken_for_srun() -> None:
    """mpirun starts its daemon on another node with srun: one task a node, however many ranks."""
    daemon = {**SLURM, "SLURM_PROCID": "0", "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3"}
    environment = {**daemon, **TWO_NODES_OF_OPEN_MPI, "MASTER_ADDR": "gpu01"}
    rank_info = rank_info_from_env(environment)
    assert (rank_info.rank, rank_info.world_size, rank_info.launcher) == (3, 4, "mpirun")


@pytest.mark.parametrize("name", ["PMIX_RANK", "PALS_RANKID", "FLUX_TASK_RANK"])
def test_a_rank_that_would_train_alone_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="each would train alone"):
        rank_info_from_env({name: "3"})
    # Open MPI and `srun --mpi=pmix` set it, too.
    assert rank_info_from_env({name: "2", **SLURM}).world_size == 4


@pytest.mark.parametrize("local_size", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])
def test_a_launcher_in_every_task_that_knows_its_own_node_only_is_refused(local_size: str) -> None:
    """Two tasks with two GPUs each: the world size is a multiple of the tasks, and wrong."""
    tasks = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}
    alone = {**TORCH, **tasks, "RANK": "1", "WORLD_SIZE": "2", local_size: "2"}
    with pytest.raises(UserError, match="every task would train alone"):
        rank_info_from_env(alone)
    assert rank_info_from_env({**alone, "WORLD_SIZE": "4"}).world_size == 4


@pytest.mark.parametrize(
    ("node_list", "host"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu[003-010,12],login", "gpu003"),
        ("a-b[7]", "a-b7"),
        ("rack2node[1-2]-ib", "rack2node1-ib"),
    ],
)
def test_first_host(node_list: str, host: str) -> None:
    assert first_host(node_list) == host


def test_an_unreadable_node_list_is_refused() -> None:
    with pytest.raises(UserError, match="cannot parse"):
        first_host("[1-2]")


def test_each_rank_has_its_own_gpu_however_many_it_is_shown() -> None:
    assert [device_index(rank, 8) for rank in (0, 7)] == [0, 7]
    assert device_index(3, 1) == 0
    with pytest.raises(UserError, match="no GPU for local rank 2"):
        device_index(2, 2)
