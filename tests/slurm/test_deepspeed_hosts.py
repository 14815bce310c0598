"""The `deepspeed` launcher over two hosts, by pdsh over ssh and by Open MPI."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.two_hosts import Ranks, training
from tests.support.tiny_run import ENVIRONMENT, losses_and_norms, weights

pytestmark = pytest.mark.timeout(3600)  # a busy machine takes many times as long
DEEPSPEED = Path(sys.executable).with_name("deepspeed")
NEEDED = ("pdsh", "sshd", "mpirun")
SHORT = ("phases.pretrain.tokens=8k", "phases.extension.tokens=8k")
STEPS = 16
OPEN_MPI = ("--launcher", "openmpi", "--launcher_args", "--allow-run-as-root --mca osc ^ucx")


class Launcher:
    """Starts `deepspeed` on n1, in a folder of its own with a hostfile."""

    def __init__(self, cluster: Cluster, inputs: Path, folder: Path) -> None:
        self._cluster, self._inputs, self._folder = cluster, inputs, folder
        self.hostfile("n1 slots=1", "n2 slots=1")

    def hostfile(self, *lines: str) -> None:
        """Write the hostfile."""
        (self._folder / "hosts").write_text("\n".join(lines) + "\n")

    def hand_over(self, *lines: str) -> None:
        """Write .deepspeed_env."""
        (self._folder / ".deepspeed_env").write_text("\n".join(lines) + "\n")

    def launch(self, run: Path, *options: str, path: str = "") -> str:
        """Train and return the output. RuntimeError with the output if that fails.

        Args:
            path: PATH of the launcher.
        """
        return self._cluster.on_host(
            *("n1", shutil.which("env") or "env", f"PATH={path or ENVIRONMENT['PATH']}"),
            *(sys.executable, DEEPSPEED, "--hostfile", self._folder / "hosts"),
            *options,
            *training(self._inputs, run, *SHORT),
            environment={
                **ENVIRONMENT,
                "OMPI_ALLOW_RUN_AS_ROOT": "1",
                "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            },
            folder=self._folder,
            timeout=1200,
        )


@pytest.fixture
def launcher(cluster: Cluster, inputs: Path, tmp_path: Path) -> Launcher:
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    folder = tmp_path / "start"
    folder.mkdir()
    return Launcher(cluster, inputs, folder)


@pytest.fixture(scope="module")
def one_host(three_nodes: Cluster, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two ranks on one host."""
    folder = tmp_path_factory.mktemp("one_host")
    ranks = Ranks(three_nodes, ("n1", "n1"), folder, training(inputs, folder / "run", *SHORT))
    assert ranks.wait(1200) == [0, 0], ranks.outputs
    assert len(losses_and_norms(folder / "run")) == STEPS
    return folder / "run"


def assert_same(run: Path, other: Path) -> None:
    """Compare the metrics of all steps and the final weights bitwise."""
    assert losses_and_norms(run) == losses_and_norms(other)
    assert weights(run) == weights(other)


@pytest.mark.long
def test_pdsh_to_two_hosts(launcher: Launcher, one_host: Path, tmp_path: Path) -> None:
    """pdsh loses the variables even on the host where it is started; .deepspeed_env keeps them."""
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="OMP_NUM_THREADS is '1' where `deepspeed`") as refused:
        launcher.launch(run)
    assert "write the line OMP_NUM_THREADS=1 to the file .deepspeed_env" in str(refused.value)
    assert not run.exists()
    launcher.hand_over("OMP_NUM_THREADS=1")
    said = launcher.launch(run)
    assert "on 2 machines (n1, n2)" in said
    assert_same(run, one_host)


@pytest.mark.long
def test_open_mpi_to_two_hosts(launcher: Launcher, one_host: Path, tmp_path: Path) -> None:
    """mpirun keeps the variables on its own host only; the address of rank 0 comes through MPI."""
    run = tmp_path / "run"
    with pytest.raises(RuntimeError, match="OMP_NUM_THREADS differs between nodes: '1' on n1; not"):
        launcher.launch(run, *OPEN_MPI)
    assert not run.exists()
    launcher.hand_over("OMP_NUM_THREADS=1")
    assert "on 2 machines (n1, n2)" in launcher.launch(run, *OPEN_MPI)
    assert_same(run, one_host)


@pytest.mark.long
def test_a_machine_under_two_names_is_refused(launcher: Launcher, tmp_path: Path) -> None:
    launcher.hostfile("n1 slots=1", "other-n1 slots=1")
    launcher.hand_over("OMP_NUM_THREADS=1")
    with pytest.raises(RuntimeError, match="ranks 0 and 1 are both local rank 0 of machine n1"):
        launcher.launch(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_machine_without_pdsh_is_told_so(launcher: Launcher, tmp_path: Path) -> None:
    """By `deepspeed` itself, which runs first; `mmbert doctor` names the package."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ssh").symlink_to(str(shutil.which("ssh")))
    with pytest.raises(RuntimeError, match="launcher 'pdsh' not installed"):
        launcher.launch(tmp_path / "run", path=str(programs))
