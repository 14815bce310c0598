"""Stages of shared work: nobody begins the next one before the claims of the last are gone."""

from pathlib import Path

from rich.console import Console

from mmbert_prep.executor.stages import Stages
from mmbert_prep.executor.workers import SingleProcess
from mmbert_prep.executor.workspace import Workspace
from tests.support.texts import settings


class Listening(SingleProcess):
    """Notes at each barrier which claims there are."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.heard = workspace, list[list[str]]()

    def barrier(self) -> None:
        self.heard.append([path.name for path in self.workspace.claims.iterdir()])


def test_the_next_stage_waits_until_the_claims_are_gone(tmp_path: Path) -> None:
    workspace = Workspace(settings(tmp_path / "text", tmp_path / "out"))
    workspace.create()
    group = Listening(workspace)
    stages = Stages(group, workspace, Console(quiet=True))
    stages.begin()
    with stages.stage("encode", "Encoding", 2):
        assert sorted(stages.claim_tasks(["a", "b"], [1, 1])) == [0, 1]
    with_claims, without = group.heard
    assert len(with_claims) == 2
    assert without == []
