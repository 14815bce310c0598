"""`make test-versions`: sets of older packages, kept until their pins change, before the others."""

from pathlib import Path

import pytest

from mmbert.errors import UserError
from tests.environments import version_sets
from tests.environments.version_sets import PINS, packages_of, run_with_versions

TEST = """
import os
import plain

def test_version():
    assert plain.version == os.environ["EXPECTED_PINS"].split("==")[1]
"""


@pytest.mark.usefixtures("only_registry")
def test_sets_are_kept_until_their_pins_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version_sets, "PLACES", tmp_path / "sets")
    monkeypatch.setattr(version_sets, "PINS", {"a": ("plain==1.0",)})
    place = packages_of("a")
    assert (place / "plain").exists() or (place / "plain.py").exists()
    before = place.stat().st_ino
    assert packages_of("a").stat().st_ino == before
    monkeypatch.setattr(version_sets, "PINS", {"a": ("plain==9.0",)})
    with pytest.raises(UserError, match=r"installing transformers a(.|\n)*plain==9\.0"):
        packages_of("a")
    assert [*place.parent.iterdir()] == [place], "what was there stays until the next is complete"
    monkeypatch.setattr(version_sets, "PINS", {"a": ("plain==2.0",)})
    newer = packages_of("a")
    assert [*place.parent.iterdir()] == [newer]


@pytest.mark.long
@pytest.mark.usefixtures("only_registry")
def test_tests_get_the_packages_of_each_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setattr(version_sets, "PINS", {"a": ("plain==1.0",), "b": ("plain==2.0",)})
    monkeypatch.setattr(version_sets, "WITH_SENTENCE_TRANSFORMERS", ("a", "b"))
    monkeypatch.setattr(version_sets, "PLACES", tmp_path / "sets")
    file = tmp_path / "test_plain.py"
    file.write_text(TEST, encoding="utf-8")
    assert run_with_versions([str(file), f"--rootdir={tmp_path}"]) == 0
    said = capfd.readouterr().out
    assert "== plain 1.0" in said
    assert "== transformers b: installed in" in said
    file.write_text(TEST.replace("version ==", 'version == "2.0" =='), encoding="utf-8")
    assert run_with_versions([str(file), f"--rootdir={tmp_path}"]) == 1, "one of the sets failed"


def test_pins_are_exact_and_named_by_transformers() -> None:
    for name, pins in PINS.items():
        assert pins[0].startswith(f"transformers=={name}.")
        assert all(pin.count("==") == 1 for pin in pins)
