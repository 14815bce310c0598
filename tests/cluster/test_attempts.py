"""Starts of a job: when it stops, and the GPU-hours that restarts lost."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.cluster import attempts
from mmbert.cluster.monitoring.gpu_hours import gpu_hours
from mmbert.journals.run_journal import STARTS_NAME, StartEvent, append_record, read_records


def _event(
    time: float, step: int, status: int | None = None, job: str = "7", gpus: int = 8
) -> StartEvent:
    return StartEvent(
        unix_time=time, job=job, hosts=("n1",), tasks=8, gpus=gpus, step=step, status=status,
        cause="a rank died" if status else None,
    )  # fmt: skip


def _failed(step: int, job: str = "7") -> list[StartEvent]:
    return [_event(0, step, job=job), _event(1, step, 1, job=job)]


@pytest.mark.parametrize(
    ("events", "place", "stops"),
    [
        ([*_failed(5), *_failed(5), *_failed(5)], 5, True),
        ([*_failed(5), *_failed(5)], 5, False),
        ([*_failed(5), *_failed(5), *_failed(5)], 6, False),  # the last one made a checkpoint
        ([*_failed(4), *_failed(5), *_failed(5)], 5, False),
        ([*_failed(5), *_failed(5), *_failed(5, job="8")], 5, False),  # submitted again
        ([*_failed(5), _event(2, 5), *_failed(5)], 5, True),  # killed with its node
        ([*_failed(5), _event(2, 5), _event(3, 5, 75), *_failed(5)], 5, False),  # preempted
    ],
)
def test_three_failures_in_place_stop_a_job(
    events: list[StartEvent], place: int, stops: bool
) -> None:
    reason = attempts.reason_to_stop(events, "7", place)
    assert (reason is not None) == stops
    if reason:
        assert f"job 7 failed 3 times at the same place ({place})" in reason
        assert "1: a rank died" in reason


def test_scripts_count_across_requeues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBERT_JOURNALS", str(tmp_path / "logs"))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    units = tmp_path / "shards" / ".preprocess" / "text" / "units-a"
    units.mkdir(parents=True)

    def run(*words: str) -> int:
        return CliRunner().invoke(attempts.app, words).exit_code

    def fail(status: str = "1") -> int:
        assert run("begin", "preprocess", str(units.parents[1])) == 0
        return run("end", "preprocess", status)

    assert [fail(), fail("143")] == [0, 0], "may be tried again"
    (units / "1.json").touch()
    assert [fail(), fail(), fail()] == [0, 0, 1]
    assert run("begin", "preprocess", str(units.parents[1])) == 1
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert fail("2") == 1, "the user's error is not tried again"
    assert fail("75") == 1
    assert fail() == 0
    events = list(read_records(tmp_path / "logs" / "preprocess.starts.jsonl", StartEvent))
    assert [event.step for event in events] == [0] * 4 + [1] * 12


def test_the_journal_of_a_variant_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    variant = tmp_path / "variants" / "old masks"
    (variant / "checkpoints" / "step-00000005").mkdir(parents=True)
    for event in _failed(5) * 3:
        append_record(variant / STARTS_NAME, event)
    words = ["check", str(tmp_path), "--variant", "old masks", "seed=1"]
    result = CliRunner().invoke(attempts.app, words)
    assert result.exit_code == 1
    assert "failed 3 times at the same place (5)" in result.output
    assert CliRunner().invoke(attempts.app, ["check", str(tmp_path), "seed=1"]).exit_code == 0
    (variant / "checkpoints" / "step-00000006").mkdir()
    assert CliRunner().invoke(attempts.app, words).exit_code == 0


def test_lost_is_the_time_since_the_checkpoint_of_the_next_start() -> None:
    hour = 3600.0
    events = [
        _event(0, 0), _event(2 * hour, 0, 1),  # checkpoint 10 after 1.5 hours: half an hour lost
        _event(3 * hour, 10),  # killed an hour later without a checkpoint: all lost
        _event(6 * hour, 10), _event(8 * hour, 10, 75),  # saved at its end
        _event(9 * hour, 20),
    ]  # fmt: skip
    checkpoints = {10: 1.5 * hour, 20: 8 * hour}
    activity = [hour, 4 * hour, 7 * hour, 9.5 * hour]
    found = gpu_hours(events, checkpoints, activity, now=10 * hour)
    assert (found.used, found.lost) == (8 * (2 + 1 + 2 + 1), 8 * (0.5 + 1))
    assert (found.starts, found.gpus) == (4, 8)
    ended = gpu_hours(events, checkpoints, activity)
    assert ended.used == 8 * (2 + 1 + 2 + 0.5), "until the last line of the log"
    assert gpu_hours([], {}, []).used == 0
