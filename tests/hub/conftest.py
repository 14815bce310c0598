"""A stranger's model, beside the run and its export that the tests of evaluation have too."""

from pathlib import Path

import pytest

from tests.support.exported_run import exported, run
from tests.support.strangers import stranger

__all__ = ["exported", "run"]


@pytest.fixture(scope="session")
def their_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stranger(tmp_path_factory.mktemp("stranger"))
