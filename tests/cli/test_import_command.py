"""`mmbert import` of Composer checkpoints, and options that do not fit."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.checkpoint.imported_state import read_imported_state
from mmbert.cli.app import app
from mmbert.errors import UserError
from tests.support.composer import EARLIER, changed_checkpoint, without_what_published_files_lack


def test_a_checkpoint_is_imported_by_its_options(tmp_path: Path) -> None:
    first, state = tmp_path / "first", tmp_path / "state"
    made = CliRunner().invoke(app, ["import", str(EARLIER), str(first), "--weights-only"])
    assert made.exit_code == 0, made.output
    assert "weights alone" in made.output
    assert read_imported_state(first) is None
    stripped = changed_checkpoint(tmp_path / "state.pt", without_what_published_files_lack)
    options = ["--phase", "decay", "--tokens", "2.56k", "--context", "64", "--tokenizer-files"]
    made = CliRunner().invoke(app, ["import", str(stripped), str(state), *options, str(first)])
    assert made.exit_code == 0, made.output
    assert f"set `initial_checkpoint: {state}`" in made.output
    found = read_imported_state(state)
    assert found is not None
    assert (found.phase, found.tokens, found.counted_from) == ("decay", 2560, "phase")
    assert '"max_position_embeddings": 64' in (state / "config.json").read_text()


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("file", ("--tokenizer", "shards"), "--tokenizer does not apply: .* is a Composer"),
        ("file", ("--sizes", "mmbert-small"), "--sizes does not apply"),
        ("folder", ("--phase", "decay"), "--phase does not apply: .* is not a Composer"),
        ("folder", ("--weights-only",), "--weights-only does not apply"),
        ("sharded", (), "is a sharded checkpoint"),
        ("missing", ("--phase", "decay"), "missing.pt is not a file"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    tmp_path: Path, model: str, options: tuple[str, ...], says: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if model == "sharded":
        (folder / ".metadata").touch()
    path = {"file": EARLIER, "missing": tmp_path / "missing.pt"}.get(model, folder)
    result = CliRunner().invoke(app, ["import", str(path), str(tmp_path / "out"), *options])
    assert isinstance(result.exception, UserError)
    with pytest.raises(UserError, match=says):
        raise result.exception
    assert not (tmp_path / "out").exists()
