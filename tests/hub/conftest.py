"""An external model, a trained run and its export."""

from pathlib import Path

import pytest

from tests.support.exported_run import exported, run

__all__ = ["exported", "run"]


@pytest.fixture(scope="session")
def their_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Here, because the GPU tests of live models are collected where transformers may lack packages.
    from tests.support.external_model import external_model

    return external_model(tmp_path_factory.mktemp("stranger"))
