"""Models by their name on the hub: the cache, a server, and what the user is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mmbert.cli.app import app
from mmbert.errors import UserError
from mmbert.hub.hub_name import model_folder
from tests.support.environment import with_packages
from tests.support.external_model import stored
from tests.support.file_limits import files_no_longer_than
from tests.support.hub_stand_in import COMMIT, NAME, fill_cache, serve_hub, use_hub

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_downloaded_model_is_imported_with_its_commit(
    their_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    with serve_hub({NAME: their_folder}) as hub:
        use_hub(monkeypatch, cache, hub.endpoint)
        result = CliRunner().invoke(app, ["import", f"{NAME}@main", str(tmp_path / "out")])
        assert result.exit_code == 0, result.output
        assert f"{NAME}@main: commit {COMMIT}" in result.output
        assert any(path.endswith("model.safetensors") for path in hub.asked)
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["from"] == {"kind": "hugging_face", "path": NAME, "commit": COMMIT}
    ours, theirs = stored(tmp_path / "out"), stored(their_folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # The server is gone: the same name now comes from the cache.
    use_hub(monkeypatch, cache, NOWHERE, offline=True)
    sentence = "the [MASK] runs past the old town"
    result = CliRunner().invoke(app, ["fill-mask", NAME, sentence])
    assert result.exit_code == 0, result.output
    merge = ["merge", NAME, f"{NAME}@{COMMIT}", "--method", "linear"]
    result = CliRunner().invoke(app, [*merge, "--output", str(tmp_path / "merged")])
    assert result.exit_code == 0, result.output
    merged = json.loads((tmp_path / "merged" / "provenance.json").read_text())
    assert [model["commit"] for model in merged["models"]] == [COMMIT, COMMIT]


def test_offline_from_a_copied_cache_as_a_user_does(their_folder: Path, tmp_path: Path) -> None:
    snapshot = fill_cache(tmp_path / "cache", their_folder)
    variables = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    program = "from pathlib import Path; from mmbert.hub.hub_name import model_folder; "
    result = subprocess.run(
        [sys.executable, "-c", f"{program} print(model_folder(Path('{NAME}@main'), print))"],
        cwd=tmp_path,
        env={**with_packages(), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [f"{NAME}@main: commit {COMMIT}", str(snapshot)]


def test_a_folder_comes_before_a_name_and_says_so(
    their_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    (tmp_path / "jhu-clsp").mkdir()
    (tmp_path / NAME).symlink_to(their_folder)
    monkeypatch.chdir(tmp_path)
    use_hub(monkeypatch, tmp_path / "cache", NOWHERE, offline=True)
    assert model_folder(Path(NAME), said.append) == Path(NAME)
    assert said == [f"reading the folder {NAME}; write {NAME}@main for a model of the hub"]
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        model_folder(Path(f"{NAME}@main"), said.append)
    said.clear()
    assert model_folder(tmp_path / NAME, said.append) == tmp_path / NAME
    assert said == []


@pytest.mark.parametrize(
    ("status", "message", "remedy"),
    [
        (401, "only for accounts that were granted access", "accept its terms"),
        (403, "only for accounts that were granted access", "hf auth login"),
        (404, "neither a folder here nor a model on http://127.0.0.1", "check the name"),
        (500, r"complete in the cache .*127.0.0.1:\d+ cannot be reached \(.*500", "hf download"),
    ],
)
def test_answers_of_the_hub(
    status: int,
    message: str,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: list[str],
) -> None:
    with serve_hub({NAME: status}) as hub:
        use_hub(monkeypatch, tmp_path / "cache", hub.endpoint)
        with pytest.raises(UserError, match=message) as caught:
            model_folder(Path(NAME), said.append)
    assert NAME in caught.value.message
    assert remedy in caught.value.remedy
    assert "\n" not in caught.value.message
    assert said == []


def test_a_revision_that_is_not_there(
    their_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    with serve_hub({NAME: their_folder}) as hub:
        use_hub(monkeypatch, tmp_path / "cache", hub.endpoint)
        with pytest.raises(UserError, match=f"{NAME} on .* has no revision refs/pr/3"):
            model_folder(Path(f"{NAME}@refs/pr/3"), said.append)


def test_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    use_hub(monkeypatch, tmp_path / "cache", NOWHERE)
    with pytest.raises(UserError, match=rf"{NOWHERE} cannot be reached \(") as caught:
        model_folder(Path(f"{NAME}@main"), said.append)
    assert f"hf download {NAME} --revision main" in caught.value.remedy
    for text in ("my_model", "runs/step.pt", "a/b/c"):
        with pytest.raises(UserError, match=f"{text} is not a folder"):
            model_folder(Path(text), said.append)


def test_a_full_disk_under_the_cache(
    their_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    with serve_hub({NAME: their_folder}) as hub:
        use_hub(monkeypatch, tmp_path / "cache", hub.endpoint)
        with (
            files_no_longer_than(20_000),
            pytest.raises(UserError, match=rf"cannot be stored in {tmp_path}/cache: ") as caught,
        ):
            model_folder(Path(NAME), said.append)
        assert "free space there, or set HF_HOME" in caught.value.remedy
        assert said == []
        assert (model_folder(Path(NAME), said.append) / "model.safetensors").is_file()


def test_pickles_only_where_there_are_no_safetensors(
    their_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    both = tmp_path / "both"
    both.mkdir()
    for path in their_folder.iterdir():
        (both / path.name).symlink_to(path)
    torch.save(stored(their_folder), both / "pytorch_model.bin")
    (both / "modeling_theirs.py").write_text("raise SystemExit('was run')")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for path in both.iterdir():
        if path.suffix != ".safetensors":
            (pickled / path.name).symlink_to(path.resolve())
    with serve_hub({"a/both": both, "a/pickled": pickled}) as hub:
        use_hub(monkeypatch, tmp_path / "cache", hub.endpoint)
        names = [
            {path.name for path in model_folder(Path(name), said.append).iterdir()}
            for name in ("a/both", "a/pickled")
        ]
    shared = {path.name for path in their_folder.iterdir()} & {
        "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    }  # fmt: skip
    assert names == [shared | {"model.safetensors"}, shared | {"pytorch_model.bin"}]
