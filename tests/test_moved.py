"""Former module paths from README or scripts: kept for one version, with a warning."""

import importlib
import sys

import pytest

MOVED = {
    "mmbert.training.preparation": "mmbert.training.run_config",
    "mmbert.training.launchers": "mmbert.training.launcher_env",
    "mmbert_prep.main": "mmbert_prep.cli",
    "mmbert_prep.demo_corpus": "mmbert_prep.demo.corpus",
}


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_gives_the_new_module(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=f"{old} is now {MOVED[old]}"):
        assert importlib.import_module(old) is importlib.import_module(MOVED[old])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_names_in_a_moved_module_are_the_new_ones() -> None:
    sys.modules.pop("mmbert.training.preparation", None)
    old = importlib.import_module("mmbert.training.preparation")
    assert (old.prepare, old.Prepared) == (old.resolve_run_config, old.RunConfig)
