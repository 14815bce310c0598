"""Stages of shared work: a stage starts after the claims of the previous one are removed."""

from pathlib import Path

from rich.console import Console

from mmbert_prep.executor.stages import Stages
from mmbert_prep.executor.workers import SingleProcess
from mmbert_prep.executor.workspace import Workspace


class Listening(SingleProcess):
    """Records the claims that exist at each barrier."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.heard = workspace, list[list[str]]()

    def barrier(self) -> None:
        self.heard.append([path.name for path in self.workspace.claims.iterdir()])


def test_the_next_stage_waits_until_the_claims_are_gone(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "out", "text")
    workspace.create()
    group = Listening(workspace)
    stages = Stages(group, workspace, Console(quiet=True))
    stages.begin()
    with stages.stage("encode", "Encoding", 2):
        assert sorted(stages.claim_tasks(["a", "b"], [1, 1])) == [0, 1]
    with_claims, without = group.heard
    assert len(with_claims) == 2
    assert without == []
