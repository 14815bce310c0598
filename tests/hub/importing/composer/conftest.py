"""The fixture's earlier checkpoint, imported once."""

from pathlib import Path

import pytest

from mmbert.hub.importing.composer.import_checkpoint import (
    ComposerImportOptions,
    ComposerImportReport,
    import_composer_checkpoint,
)
from tests.support.composer import EARLIER


@pytest.fixture(scope="session")
def imported_with_report(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, ComposerImportReport]:
    out = tmp_path_factory.mktemp("composer") / "imported"
    return out, import_composer_checkpoint(EARLIER, out, ComposerImportOptions(phase="decay"))


@pytest.fixture(scope="session")
def imported(imported_with_report: tuple[Path, ComposerImportReport]) -> Path:
    """Folder imported with `--phase decay`; read-only."""
    return imported_with_report[0]
