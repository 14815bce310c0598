"""The same run under `deepspeed` on one node, `deepspeed` on two, and `torchrun`.

Both nodes are this machine: with `--no_ssh` each starts its own ranks.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ranks import free_port
from tests.support.tiny_run import ENVIRONMENT, PRETRAIN, ROOT, losses_and_norms, run, weights

DEEPSPEED = Path(sys.executable).with_name("deepspeed")
TORCHRUN = Path(sys.executable).with_name("torchrun")


def program(inputs: Path, output: Path) -> list[str]:
    """Return the program and its arguments for a launcher."""
    words = [PRETRAIN, "--recipe", inputs / "recipe.yaml", "--data", inputs / "shards"]
    return [str(word) for word in (*words, "--output", output)]


@pytest.fixture(scope="module")
def one_node(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the run with two ranks on one node."""
    output = tmp_path_factory.mktemp("one_node")
    launch = (sys.executable, DEEPSPEED, "--num_gpus", "2", "--master_port", str(free_port()))
    result = run(*launch, *program(inputs, output), timeout=240)
    assert result.returncode == 0, result.stdout
    assert "2 × cpu" in result.stdout
    assert len(losses_and_norms(output)) == 40
    return output


def test_two_nodes_of_deepspeed_train_as_one(inputs: Path, one_node: Path, tmp_path: Path) -> None:
    hostfile, output, port = tmp_path / "hostfile", tmp_path / "run", str(free_port())
    hostfile.write_text("node-a slots=1\nnode-b slots=1\n")
    launch = [sys.executable, str(DEEPSPEED), "--no_ssh", "--hostfile", str(hostfile)]
    launch += ["--master_addr", "127.0.0.1", "--master_port", port]
    nodes = [
        subprocess.Popen(
            [*launch, "--node_rank", str(node), *program(inputs, output)],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in (0, 1)
    ]
    try:
        said = [node.communicate(timeout=240)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    assert "2 × cpu" in said[0]
    assert losses_and_norms(output) == losses_and_norms(one_node)
    assert weights(output) == weights(one_node)


@pytest.mark.long
def test_torchrun_trains_the_same(inputs: Path, one_node: Path, tmp_path: Path) -> None:
    launch = (TORCHRUN, "--nproc_per_node", "2", "--master_port", str(free_port()))
    result = run(*launch, *program(inputs, tmp_path / "run"), timeout=240)
    assert result.returncode == 0, result.stdout
    assert losses_and_norms(tmp_path / "run") == losses_and_norms(one_node)
    assert weights(tmp_path / "run") == weights(one_node)
