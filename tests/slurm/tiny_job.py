"""The tiny run as a job of slurm/pretrain.sbatch, with a checkpoint every 20 steps."""

import sys
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.support.environment import ROOT
from tests.support.tiny_run import ENVIRONMENT

SCRIPT = ROOT / "slurm" / "pretrain.sbatch"
# Lasts some seconds, long enough to be interrupted.
LONGER = ("phases.pretrain.tokens=40k", "phases.extension.tokens=40k")


def submit_tiny_job(
    cluster: Cluster, inputs: Path, run: Path, *options: str, arguments: tuple[str, ...] = ()
) -> int:
    """Submit the script as a user would, with `options` of sbatch, and return the job id."""
    return cluster.submit(
        *(*options, f"--output={run.parent}/%x-%j.log", SCRIPT),
        *(inputs / "recipe.yaml", inputs / "shards", run, *LONGER, "checkpoint.every_tokens=20k"),
        *arguments,
        folder=ROOT,
        environment={**ENVIRONMENT, "MMBERT_VENV": sys.prefix},
    )
