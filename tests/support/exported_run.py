"""Read-only session fixtures: one trained run and its export."""

from pathlib import Path

import pytest

from mmbert.hub.export import export_checkpoint
from tests.support.written_runs import Run, make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run") / "tiny")


@pytest.fixture(scope="session")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "tiny"
    export_checkpoint(run.checkpoint, out)
    return out
