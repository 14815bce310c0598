"""Publication to a repository, on a stand-in of the hub: a commit and a tag for each revision."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.cli.app import app
from mmbert.errors import UserError
from mmbert.hub.hub_name import model_folder
from mmbert.hub.publishing.publish import PublishOptions, plan_publication, publish
from mmbert.hub.publishing.repository import Repository
from tests.hub.publishing.conftest import FILES, NAMES, STEPS, QuickGraphs
from tests.support.hub_repositories import HubRepository, WritableHub, serve_repositories
from tests.support.hub_stand_in import use_hub
from tests.support.written_runs import Run, save_run

NAME = "me/my-model"
TOKEN = "hf_ThisIsASecretOfTheTest"
WRITES = ("POST", "PUT", "DELETE")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    from huggingface_hub import constants

    with serve_repositories() as hub:
        use_hub(monkeypatch, tmp_path / "cache", hub.endpoint)
        # Its uploads go to a service of their own; without it to the repository, as LFS.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def published(run: Path, shards: Path, *, private: bool = False) -> list[str]:
    said: list[str] = []
    place = Repository(NAME, private=private)
    publish(plan_publication(run, place, PublishOptions(shards)), place, said.append)
    return said


def tagged(repository: HubRepository) -> list[str]:
    """Return the tags, each of which must be of a complete revision of its step."""
    for name in repository.tags:
        files = repository.files(name)
        assert set(files) == {".gitattributes", *FILES}, name
        assert f"this one is `{name}`" in files["README.md"].decode()
    return sorted(repository.tags)


def main_is_whole(repository: HubRepository) -> bool:
    """Return whether every commit of a checkpoint has all its files, and no other's."""
    made = list(repository.commits.values())[1:]
    return all(set(files) == {".gitattributes", *FILES} for files in made)


def test_each_revision_is_one_commit_and_a_tag(
    long_run: Path, shards: Path, hub: WritableHub, tmp_path: Path, quick: QuickGraphs
) -> None:
    words = ["publish", str(long_run), "--repository", NAME, "--data", str(shards), "--private"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    repository = hub.repositories[NAME]
    assert tagged(repository) == NAMES
    assert repository.private
    assert len(repository.commits) == 1 + len(NAMES)
    assert main_is_whole(repository)
    assert repository.branches == {"main": repository.tags[NAMES[-1]]}
    assert f"{NAME} on {hub.endpoint}: 3 revisions of the run; main is {NAMES[-1]}" in result.output
    # Large files go as uploads, the others in the commit.
    assert sum(one.startswith("PUT /large/") for one in hub.requests) == 3 * len(NAMES)
    # The token is in headers, and nowhere else.
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in result.output
    for files in repository.commits.values():
        assert not any(TOKEN.encode() in content for content in files.values())
    for path in tmp_path.rglob("*"):
        assert not (path.is_file() and TOKEN.encode() in path.read_bytes()), path
    # Anyone reads a revision by its name.
    told: list[str] = []
    folder = model_folder(Path(f"{NAME}@{NAMES[1]}"), told.append)
    card = repository.files(NAMES[1])["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == card
    assert told == [f"{NAME}@{NAMES[1]}: commit {repository.tags[NAMES[1]]}"]


@pytest.mark.parametrize(
    ("at", "time"),
    [
        ("refs", 1), ("create", 1), ("refs", 2), ("preupload", 1), ("PUT /large/", 2),
        ("commit/main", 1), ("tag/", 1), ("commit/main", 2), ("tag/", 3),
    ],
)  # fmt: skip
def test_the_same_command_goes_on_after_an_interruption(
    at: str, time: int, long_run: Path, shards: Path, hub: WritableHub, instant: list[str]
) -> None:
    """At any kind of request: what is tagged is whole, and then the rest is added."""
    seen = 0

    def fail(request: str) -> int | None:
        nonlocal seen
        seen += at in request
        return 400 if at in request and seen == time else None

    hub.fails = fail
    with pytest.raises(UserError, match=f"{NAME} on {hub.endpoint} ") as caught:
        published(long_run, shards)
    assert "the same command again" in caught.value.remedy
    repository = hub.repositories.get(NAME, HubRepository(private=False))
    assert len(tagged(repository)) < len(NAMES)
    assert main_is_whole(repository)
    published(long_run, shards)
    repository = hub.repositories[NAME]
    assert tagged(repository) == NAMES
    assert main_is_whole(repository)
    assert repository.branches == {"main": repository.tags[NAMES[-1]]}
    if at == "tag/":  # it was there but for its name: neither made nor sent again
        assert sorted(instant) == NAMES
        assert len(repository.commits) == 1 + len(NAMES)


def test_an_older_checkpoint_leaves_main_alone(
    run: Run, long_run: Path, shards: Path, hub: WritableHub, tmp_path: Path, instant: list[str]
) -> None:
    """The copy of a checkpoint that comes later gets its tag, by a branch that is gone again."""
    moved = shutil.move(long_run / "checkpoints" / NAMES[0], tmp_path / "moved")
    published(long_run, shards)
    newest = dict(hub.repositories[NAME].branches)
    shutil.move(moved, long_run / "checkpoints" / NAMES[0])
    tag = "POST /api/models/me/my-model/tag/"
    hub.fails = lambda request: 400 if request.startswith(tag) else None
    with pytest.raises(UserError, match="answers 400"):
        published(long_run, shards)
    hub.fails = lambda request: None
    assert "main is step-00000030" in published(long_run, shards)[-1]
    assert tagged(hub.repositories[NAME]) == NAMES
    assert hub.repositories[NAME].branches == newest
    save_run(long_run, run.model, step=40)
    repository = hub.repositories[NAME]
    files = repository.files("main")
    repository.commit("main", files | {"notes/stray.txt": b"of an older one"}, "notes")
    assert "main is step-00000040" in published(long_run, shards)[-1]
    assert tagged(repository) == [*NAMES, "step-00000040"]  # without the stray file


def test_what_others_wrote_is_not_touched(
    long_run: Path, shards: Path, hub: WritableHub, instant: list[str]
) -> None:
    published(long_run, shards)
    repository = hub.repositories[NAME]
    repository.tags["step-00000040"] = next(iter(repository.commits))
    repository.tags["v1"] = next(iter(repository.commits))  # not a revision's name
    with pytest.raises(UserError, match=r"revision step-00000040 of me/my-model on .* was not"):
        published(long_run, shards)
    del repository.tags["step-00000040"]
    published(long_run, shards)
    hub.repositories[NAME] = other = HubRepository(private=False)
    other.commit("main", {"README.md": b"theirs"}, "a page")
    published(long_run, shards)  # a new repository with a page
    hub.repositories[NAME] = other = HubRepository(private=False)
    other.commit("main", {"README.md": b"", "weights.bin": b"theirs"}, "a model")
    before = len(hub.requests)
    with pytest.raises(UserError, match=r"holds weights.bin and was not written by"):
        published(long_run, shards)
    assert not [one for one in hub.requests[before:] if one.startswith(WRITES)]
    assert len(other.commits) == 1


def test_two_that_publish_at_once_do_not_mix(
    long_run: Path, shards: Path, hub: WritableHub, instant: list[str]
) -> None:
    """The other's commit comes between reading the head and the commit."""

    def meanwhile(request: str) -> None:
        if "preupload" in request and len(hub.repositories[NAME].commits) == 1:
            hub.repositories[NAME].commit("main", {"README.md": b"theirs"}, "theirs")

    hub.fails = meanwhile
    with pytest.raises(UserError, match="was changed by somebody else meanwhile"):
        published(long_run, shards)
    assert hub.repositories[NAME].tags == {}


@pytest.mark.parametrize(
    ("status", "message", "remedy"),
    [
        (401, "cannot be written without a login", "hf auth login"),
        (403, "cannot be written by this account", "HF_TOKEN"),
        (400, "answers 400: as the test wishes", "the same command again"),
    ],
)
def test_answers_of_the_hub(
    status: int,
    message: str,
    remedy: str,
    long_run: Path,
    shards: Path,
    hub: WritableHub,
    instant: list[str],
) -> None:
    hub.fails = lambda request: status if "create" in request else None
    with pytest.raises(UserError, match=f"{NAME} on .* {message}") as caught:
        published(long_run, shards)
    assert remedy in caught.value.remedy
    assert "\n" not in caught.value.message
    assert TOKEN not in str(caught.value)
    assert instant == []  # known before any work


def test_without_a_network(
    run: Run, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: list[str]
) -> None:
    for nowhere, offline in (("http://127.0.0.1:9", False), ("http://127.0.0.1:9", True)):
        use_hub(monkeypatch, tmp_path / "cache", nowhere, offline=offline)
        with pytest.raises(UserError, match="cannot be reached") as caught:
            published(run.folder, shards)
        assert "mmbert publish RUN OUT" in caught.value.remedy


def test_a_dry_run_writes_nothing(
    long_run: Path, shards: Path, hub: WritableHub, instant: list[str]
) -> None:
    words = ["publish", str(long_run), "--repository", NAME, "--data", str(shards), "--dry-run"]
    for there in (0, len(STEPS)):
        before = len(hub.requests)
        result = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
        assert result.exit_code == 0, result.output
        assert f"{len(STEPS) - there} of 3 to publish" in result.output
        assert not [one for one in hub.requests[before:] if one.startswith(WRITES)]
        published(long_run, shards)


def test_nothing_of_the_work_stays(
    run: Run, shards: Path, hub: WritableHub, tmp_path: Path, instant: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "work"))
    (tmp_path / "work").mkdir()
    published(run.folder, shards)
    hub.fails = lambda request: 400 if "commit/main" in request else None
    del hub.repositories[NAME]
    with pytest.raises(UserError):
        published(run.folder, shards)
    assert os.listdir(tmp_path / "work") == []
