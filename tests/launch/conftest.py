"""Fixture: inputs of the tiny run, made once by the real preprocessing."""

from pathlib import Path

import pytest

from tests.support.tiny_run import make_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipe.yaml, text/ and shards/."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder
