"""The Composer fixture's later checkpoint as a released model, with pytorch_model.bin alone."""

from pathlib import Path

import pytest

from mmbert.hub.importing.composer.import_checkpoint import (
    ComposerImportOptions,
    import_composer_checkpoint,
)
from tests.support.composer import LATER
from tests.support.decays import with_pickled_weights


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("released") / "released"
    import_composer_checkpoint(LATER, out, ComposerImportOptions(weights_only=True, context=64))
    return with_pickled_weights(out)
