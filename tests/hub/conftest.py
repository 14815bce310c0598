"""An external model, a trained run and its export."""

from pathlib import Path

import pytest

from tests.support.exported_run import exported, run
from tests.support.external_model import external_model

__all__ = ["exported", "run"]


@pytest.fixture(scope="session")
def their_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return external_model(tmp_path_factory.mktemp("stranger"))
