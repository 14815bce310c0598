"""Stages of shared work: nobody begins the next one before the claims of the last are gone."""

from pathlib import Path

from rich.console import Console

from mmbert_prep.executor.stages import Stages
from mmbert_prep.executor.workers import SoloTeam
from mmbert_prep.executor.workspace import Workspace
from tests.support.texts import settings


class Listening(SoloTeam):
    """Notes at each barrier which claims there are."""

    def __init__(self, space: Workspace) -> None:
        self.space, self.heard = space, list[list[str]]()

    def barrier(self) -> None:
        self.heard.append([path.name for path in self.space.claims.iterdir()])


def test_the_next_stage_waits_until_the_claims_are_gone(tmp_path: Path) -> None:
    space = Workspace(settings(tmp_path / "text", tmp_path / "out"))
    space.create()
    team = Listening(space)
    stages = Stages(team, space, Console(quiet=True))
    stages.begin()
    with stages.stage("encode", "Encoding", 2):
        assert sorted(stages.claimed(["a", "b"], [1, 1])) == [0, 1]
    with_claims, without = team.heard
    assert len(with_claims) == 2
    assert without == []
