"""The chain of jobs of slurm/submit.sh on a virtual cluster, to its end or stopped by a failure."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.slurm.cluster import Cluster
from tests.support.tiny_run import ENVIRONMENT, RECIPE, ROOT, write_text

SUBMIT = ROOT / "slurm" / "submit.sh"
VARIANTS = """
variants:
  - {name: warmer, branch_from: pretrain, overrides: {phases.extension.temperature: 0.9}}
  - {name: old masks, branch_from: pretrain, overrides: {phases.extension.mask_ratio: 0.3}}
merge: {method: ties, variants: [main, warmer, old masks], density: 0.5}
"""
SITE = """
gpus_per_node: 1
nodes: 2
environment: {MY_SETTING: it's "quoted"}
setup: ['export SEEN_BY_JOBS=yes']
steps:
  preprocess: {tasks_per_node: 1}
  decay: {nodes: 1}
"""


class Submitter:
    """Calls submit.sh and `mmbert status` on the login node of the cluster."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.out = folder / "it's an $(out)"
        (folder / "my recipe.yaml").write_text(RECIPE + VARIANTS)
        (folder / "site.yaml").write_text(SITE)
        write_text(folder / "my text")

    def _run(self, *command: str | Path) -> str:
        environment = {**ENVIRONMENT, "MMBERT_VENV": sys.prefix}
        return self.cluster.run(*command, environment=environment, folder=self.folder, timeout=300)

    def submit(self, *options: str) -> str:
        return self._run(
            *(SUBMIT, "--site", "site.yaml", *options, "--"),
            *("my recipe.yaml", "my text", self.out),
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self._run(sys.executable, "-m", "mmbert.cli", "status", "--json", "--", self.out)
        )
        return found

    def screen(self) -> str:
        return self._run(sys.executable, "-m", "mmbert.cli", "status", "--", self.out)

    def states(self) -> dict[str, str]:
        return {job["step"]: job["state"] for job in self.status()["jobs"]}

    def wait(self, timeout: float = 600) -> None:
        """Wait until no job is in the queue. Raises TimeoutError."""
        end = time.monotonic() + timeout
        while self.cluster.run("squeue", "--noheader").strip():
            if time.monotonic() > end:
                raise TimeoutError(self.cluster.run("squeue") + self.logs())
            time.sleep(1)

    def logs(self) -> str:
        """Return all logs of the jobs."""
        paths = sorted((self.out / "logs").glob("*.log"), key=os.path.getmtime)
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in paths)


@pytest.fixture
def submitter(cluster: Cluster, tmp_path: Path) -> Submitter:
    return Submitter(cluster, tmp_path)


@pytest.mark.long
def test_from_text_to_evaluated_models(cluster: Cluster, submitter: Submitter) -> None:
    submitter.submit()
    with pytest.raises(RuntimeError, match=r"are in the queue: .*\d+_\[0-1\], .*\n.*`scancel \d+ "):
        submitter.submit()
    assert set(submitter.states().values()) <= {"running", "waiting", "done"}
    submitter.wait()
    states = submitter.states()
    assert set(states.values()) == {"done"}, f"{states}\n{submitter.logs()}"
    assert list(states) == [
        *("preprocess", "pretrain", "decay warmer", "decay old masks", "merge", "evaluate")
    ]
    for name in ("model", "merged"):
        assert (submitter.out / name / "model.safetensors").is_file()
        assert "swh_Latn" in (submitter.out / "evaluation" / f"{name}.tsv").read_text()
    logs = sorted(path.name.split("-")[0] for path in (submitter.out / "logs").glob("*.log"))
    assert logs == ["decay", "decay", "evaluate", "merge", "preprocess", "pretrain"]
    assert "on n1,n2" not in submitter.logs()
    assert "everything is done" in submitter.submit()
    screen = submitter.screen()
    assert "decay old masks" in screen
    assert "40 of 40" in screen, screen


@pytest.mark.long
def test_a_job_that_fails_stops_the_chain_and_status_says_why(
    cluster: Cluster, submitter: Submitter
) -> None:
    """There is too little text: preprocessing ends with an error that the user can fix."""
    for file in (submitter.folder / "my text").rglob("*.txt"):
        file.write_text("a\n\nb\n")
    submitter.submit()
    submitter.wait()
    states = submitter.states()
    assert states.pop("preprocess") == "failed", submitter.logs()
    assert set(states.values()) == {"canceled"}
    screen = submitter.screen()
    assert str(submitter.out / "logs" / "preprocess-") in screen
    assert "preprocess: error: " in screen


@pytest.mark.long
def test_a_job_is_requeued_until_it_has_failed_three_times(
    cluster: Cluster, tmp_path: Path
) -> None:
    """merge.sbatch with an environment in which exporting fails."""
    python = tmp_path / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f'#!/bin/bash\n[[ $* == *" export "* ]] && exit 5\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    variables = {"MMBERT_VENV": str(python.parents[1]), "MMBERT_JOURNALS": str(tmp_path / "logs")}
    job = cluster.submit(
        *(f"--output={tmp_path}/%j.log", ROOT / "slurm" / "merge.sbatch", "run", "model"),
        folder=ROOT,
        environment={**ENVIRONMENT, **variables},
    )
    for times in (1, 2):
        cluster.wait_log(job, "FAILED with status 5 and requeued", times=times, timeout=300)
        cluster.restart_now(job)
    end = cluster.wait_state(job, "FAILED", timeout=300)
    log = cluster.log(job)
    assert end["Restarts"] == "2", log
    assert f"ERROR: job {job} failed 3 times at the same place (0) (1: status 5; 2: " in log
    assert log.count("FAILED with status 5") == 3
