"""Ranks of the tiny run on hosts of the virtual cluster, and faults of the network between them."""

import subprocess
import sys
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.support.tiny_run import ENVIRONMENT, PRETRAIN

PORT = 29511
LOSS = ("-m", "statistic", "--mode", "random", "--probability", "0.3", "-j", "DROP")


def training(inputs: Path, run: Path, *overrides: str) -> tuple[str | Path, ...]:
    """Return the program and its arguments for a launcher."""
    words = (PRETRAIN, "--recipe", inputs / "recipe.yaml", "--data", inputs / "shards")
    return (*words, "--output", run, *overrides)


class Ranks:
    """One rank on each of `hosts`, with an output file each; the first host is rank 0's."""

    def __init__(
        self, cluster: Cluster, hosts: tuple[str, ...], logs: Path, command: tuple[str | Path, ...]
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = [logs / f"rank-{rank}.log" for rank in range(len(hosts))]
        self._processes = [
            cluster.start(
                *(host, sys.executable, *command),
                environment=ENVIRONMENT
                | {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(hosts[:rank].count(host)),
                    "WORLD_SIZE": str(len(hosts)),
                    "MASTER_ADDR": hosts[0],
                    "MASTER_PORT": str(PORT),
                },
                log=self._logs[rank],
            )
            for rank, host in enumerate(hosts)
        ]

    def wait(self, timeout: float) -> list[int | None]:
        """Return the exit statuses; None for a rank that is still there after `timeout` seconds."""
        statuses: list[int | None] = []
        for process in self._processes:
            try:
                statuses.append(process.wait(timeout))
            except subprocess.TimeoutExpired:
                statuses.append(None)
        return statuses

    def output(self, rank: int) -> str:
        """Return what a rank has printed."""
        return self._logs[rank].read_text()

    @property
    def outputs(self) -> str:
        """All that the ranks have printed."""
        return "\n".join(self.output(rank) for rank in range(len(self._logs)))


def cut_link(cluster: Cluster, node: str) -> None:
    """Take the host's only link down."""
    cluster.run("ip", "-n", node, "link", "set", "eth0", "down")


def restore_link(cluster: Cluster, node: str) -> None:
    """Take the host's link up again, and lose no more packets."""
    cluster.run("ip", "-n", node, "link", "set", "eth0", "up")
    cluster.on_host(node, "iptables", "-F")


def lose_packets(cluster: Cluster, node: str) -> None:
    """Lose 30% of the packets that the host receives, and of those that it sends."""
    cluster.on_host(node, "iptables", "-A", "INPUT", "-i", "eth0", *LOSS)
    cluster.on_host(node, "iptables", "-A", "OUTPUT", "-o", "eth0", *LOSS)
