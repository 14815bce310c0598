"""Fixtures: one virtual cluster of three nodes, cleared between tests.

Tests that use it are marked `slurm`. With REQUIRE_SLURM=1 one of them that is skipped has failed.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing
from tests.slurm.tiny_job import submit_tiny_job
from tests.support.environment import ROOT, with_packages
from tests.support.tiny_run import make_inputs


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a cluster."""
    for item in items:
        if "cluster_folder" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slurm)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let a skipped test fail where Slurm is required."""
    report = yield
    required = os.environ.get("REQUIRE_SLURM", "") not in ("", "0")
    if required and report.skipped and item.get_closest_marker("slurm") is not None:
        report.outcome = "failed"
        report.longrepr = f"skipped, although REQUIRE_SLURM is set: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def cluster_folder() -> Path:
    """Folder for the files of a cluster; skips without Slurm, root or namespaces.

    Its path is shorter than pytest's temporary folder, because it contains sockets.
    """
    if (reason := missing()) is not None:
        pytest.skip(f"no virtual Slurm cluster: {reason}")
    return Path(tempfile.gettempdir()) / f"slurm-{os.getpid()}"


@pytest.fixture(scope="session")
def three_nodes(cluster_folder: Path) -> Iterator[Cluster]:
    """Three nodes with two fake GPUs each, shared by all tests of the session."""
    cluster = Cluster(cluster_folder, nodes=3, gpus=2)
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(three_nodes: Cluster) -> Iterator[Cluster]:
    """The cluster, without jobs before and after the test."""
    yield three_nodes
    three_nodes.cancel_all()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with recipe.yaml, text/ and shards/ of the tiny run."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with the scripts, in which `mmbert.pretrain` is the stand-in."""
    shutil.copytree(ROOT / "slurm", tmp_path / "slurm")
    package = tmp_path / "packages" / "mmbert"
    package.mkdir(parents=True)
    # All other modules are the real ones.
    (package / "__init__.py").write_text(
        "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"
    )
    shutil.copy(Path(__file__).with_name("stand_in.py"), package / "pretrain.py")
    for name, value in with_packages(package.parent, MMBERT_VENV=sys.prefix).items():
        monkeypatch.setenv(name, value)
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture(scope="session")
def undisturbed(
    three_nodes: Cluster, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of an uninterrupted tiny run of two ranks on one host."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    job = submit_tiny_job(three_nodes, inputs, run, "--nodes=1", "--gpus-per-node=2")
    end = three_nodes.wait_state(job, "COMPLETED", "FAILED", timeout=1200)
    assert end["JobState"] == "COMPLETED", three_nodes.log(job)
    return run
