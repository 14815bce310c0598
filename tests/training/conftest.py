"""Session fixtures: inputs of the small run, and an undisturbed run to compare others with."""

from pathlib import Path

import pytest

from tests.support.ranks import run_ranks
from tests.support.small_run import options_for, pretrain_rank, write_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and recipe of the small run."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of all three phases on two data ranks; read-only."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run_ranks(pretrain_rank, 2, options_for(inputs, run)) == {0: 0, 1: 0}
    return run
