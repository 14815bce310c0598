"""Fixtures: one virtual cluster of three nodes for all tests, cleared between them."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing
from tests.support.tiny_run import make_inputs


@pytest.fixture(scope="session")
def cluster_folder() -> Path:
    """Where a cluster's files may lie; skips where Slurm, root or namespaces are missing.

    Short, because of the sockets in it: not pytest's own temporary folder.
    """
    if (reason := missing()) is not None:
        pytest.skip(f"no virtual Slurm cluster: {reason}")
    return Path(tempfile.gettempdir()) / f"slurm-{os.getpid()}"


@pytest.fixture(scope="session")
def three_nodes(cluster_folder: Path) -> Iterator[Cluster]:
    """Three nodes with two pretended GPUs each, for all tests of the session."""
    cluster = Cluster(cluster_folder, nodes=3, gpus=2)
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(three_nodes: Cluster) -> Iterator[Cluster]:
    """The cluster with no job on it, before and after."""
    yield three_nodes
    three_nodes.cancel_all()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipe.yaml, text/ and shards/ of the tiny run."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder
