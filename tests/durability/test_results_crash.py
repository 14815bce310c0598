"""After a power loss in a run, recipe, tokenizer, results and log are intact, and it resumes."""

import itertools
import json
import os
from pathlib import Path

import pytest

from mmbert.ownership import OWNER_NAME
from mmbert.training.launcher_env import rank_info_from_env
from mmbert.training.main import pretrain
from mmbert.training.run_config import RunOptions
from tests.durability.replay import Files, Replay, write
from tests.support.ranks import run_ranks
from tests.support.small_run import options_for, pretrain_rank, step_losses, write_inputs
from tests.support.write_recorder import Event, Recorder

FIRST, LAST = 0, -1


def pretrain_recorded(
    rank: int, world_size: int, options: RunOptions
) -> tuple[int, list[Event], dict[str, bytes]]:
    """Train the first phase; returns the status and the recorded file operations."""
    options.output.mkdir()
    recorder = Recorder(options.output, scratch=("tensorboard", "stacks", OWNER_NAME))
    recorder.patch(pytest.MonkeyPatch())
    status = pretrain(options, rank_info_from_env(os.environ))
    return status, recorder.events, recorder.contents()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards and recipe of the small run."""
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def recorded(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Replay]:
    """A run of the first phase that logs every step."""
    run = tmp_path_factory.mktemp("runs") / "run"
    options = options_for(inputs, run, stop_after_phase="pretrain")
    status, events, after = run_ranks(pretrain_recorded, 1, options)[0]
    assert status == 0
    return run, Replay({}, events, after)


def whole(replay: Replay, name: str) -> set[bytes]:
    """Return the contents of a file each time it was renamed into place."""
    return {
        event.content
        for event in replay.events
        if event.kind == "rename" and event.target == name and event.content is not None
    }


def test_what_has_its_name_is_whole(recorded: tuple[Path, Replay]) -> None:
    run, replay = recorded
    tokenizer = {
        f"tokenizer/{path.name}": path.read_bytes() for path in (run / "tokenizer").iterdir()
    }
    log = (run / "log.jsonl").read_bytes()
    for _, files in replay.crashes():
        for name in ("recipe.yaml", "results.json"):
            assert name not in files or files[name] in whole(replay, name)
        found = {name: data for name, data in files.items() if name.startswith("tokenizer/")}
        assert "tokenizer" not in files or found == tokenizer
        assert log.startswith(files.get("log.jsonl") or b"")
        check_log(files)
    assert len(whole(replay, "results.json")) >= 2


def check_log(files: Files) -> None:
    """Assert that the log has every line of the steps before the latest checkpoint."""
    saved = [int(name[-8:]) for name in files if name.startswith("checkpoints/step-")
             and name.count("/") == 1]  # fmt: skip
    lines = (files.get("log.jsonl") or b"").decode().splitlines(keepends=True)
    steps = [json.loads(line).get("step") for line in lines
             if line.endswith("\n") and "step_loss" in line]  # fmt: skip
    assert set(range(1, max(saved, default=0) + 1)) <= set(steps)


def continue_from(
    recorded: tuple[Path, Replay], inputs: Path, folder: Path, share: float, which: int
) -> None:
    """Resume from the first state after `share` of the calls, the one with the fewest files."""
    run, replay = recorded
    calls = int(share * len(replay.events))
    states = [files for done, files in replay.crashes() if done == calls]
    later = itertools.count()
    while not states:  # nothing new at that call
        calls += next(later)
        states = [files for done, files in replay.crashes() if done == calls]
    crashed = write(states[which], folder / "crashed")
    options = options_for(inputs, crashed, stop_after_phase="pretrain")
    assert run_ranks(pretrain_rank, 1, options) == {0: 0}
    assert step_losses(crashed) == step_losses(run)
    ours, theirs = (json.loads((r / "results.json").read_text()) for r in (crashed, run))
    for key in ("tokens", "held_out_start", "held_out_end"):
        assert ours["phases"][0][key] == theirs["phases"][0][key]


def test_the_run_goes_on_as_the_same_one(
    recorded: tuple[Path, Replay], inputs: Path, tmp_path: Path
) -> None:
    continue_from(recorded, inputs, tmp_path, 0.55, FIRST)


@pytest.mark.long
@pytest.mark.parametrize("which", [FIRST, LAST])
@pytest.mark.parametrize("share", [number / 20 for number in range(20)])
def test_the_run_goes_on_from_anywhere(
    recorded: tuple[Path, Replay], inputs: Path, tmp_path: Path, share: float, which: int
) -> None:
    continue_from(recorded, inputs, tmp_path, share, which)
