"""`mmbert status` with programs that answer like Slurm's, and without Slurm."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbert.cluster.monitoring.job_states import last_error
from mmbert.journals.run_journal import (
    NODE_REPORTS_NAME,
    STARTS_NAME,
    NodeProblem,
    NodeReport,
    StartEvent,
    append_record,
)
from tests.cluster.conftest import status, submit
from tests.support.command_lines import KEPT

Calls = Callable[[], list[list[str]]]
ON_GPUS = ("--set", "gpus_per_node=2", "--nodes", "2")
CHAIN = ("recipe.yaml", "text", "out")


@pytest.fixture
def chain(place: Path, slurm: Calls) -> Path:
    """Folder of a submitted chain with the jobs 101 to 105."""
    assert submit(*ON_GPUS, *CHAIN).status == 0
    return place / "out"


def _queue(name: str, *lines: str) -> None:
    Path(os.environ["FAKE_SLURM"], name).write_text("".join(f"{line}\n" for line in lines))


def _states(*words: str) -> dict[str, str]:
    outcome = status(*words, "--json", "out")
    assert outcome.status == 0, outcome
    return {job["step"]: job["state"] for job in json.loads(outcome.stdout)["jobs"]}


def test_what_runs_and_what_waits(chain: Path) -> None:
    _queue(
        "queue",
        "102|RUNNING|1:10|2|mmbert:x|2026-01-01T00:00:00|n[1-2]|None",
        "103_1|RUNNING|0:05|1|mmbert:x|N/A|n3|None",
        "103_[0]|PENDING|0:00|1|mmbert:x|N/A||Priority",
        "104|PENDING|0:00|1|mmbert:x|2026-01-02T00:00:00||Dependency",
    )
    (chain / "shards" / "text").mkdir(parents=True)
    (chain / "shards" / "text" / "summary.json").touch()
    assert _states() == {
        "preprocess": "done",
        "pretrain": "running",
        "decay warmer": "waiting",
        "decay old masks": "running",
        "merge": "waiting",
        "evaluate": "failed",
    }
    screen = status("out").stdout
    for words in (("pretrain", "running", "102", "1:10", "n[1-2]"), ("decay warmer", "Priority"),
                  ("merge", "Dependency; expected to start 2026-01-02T00:00:00")):  # fmt: skip
        assert any(all(word in line for word in words) for line in screen.splitlines()), screen
    assert "queue is not shown" not in screen


def test_a_failure_is_named_with_its_log_and_the_rest_is_canceled(chain: Path) -> None:
    log = chain / "logs" / "preprocess-101.log"
    log.write_text(
        "reading\nerror: no text in /data\n  → give more\nsrun: error: n1: Exited with 2\n"
    )
    _queue("queue")
    _queue("accounting", "101|FAILED|00:01:00|1", "102|CANCELLED by 0|00:00:00|2")
    states = _states()
    assert states.pop("preprocess") == "failed"
    assert set(states.values()) == {"canceled"}
    screen = status("out").stdout
    assert f"preprocess: error: no text in /data\n  log: {log}" in screen
    event = StartEvent(unix_time=1, job="101", hosts=("n1",), tasks=1, gpus=0, step=0)
    for number in (1, 2):
        append_record(chain / "logs" / "preprocess.starts.jsonl", event)
        failed = event.model_copy(update={"status": number})
        append_record(chain / "logs" / "preprocess.starts.jsonl", failed)
    assert "failed 2 of 3 times" in status("out").stdout


def test_without_slurm_the_queue_is_not_shown(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nothing")
    assert set(_states().values()) == {"not done"}
    assert "Slurm's queue is not shown" in status("out").stdout


def test_speed_end_hours_and_nodes_of_a_run(place: Path) -> None:
    """A run folder without a chain."""
    run = place / "run"
    shutil.copytree(KEPT / "run", run)
    lines = (run / "log.jsonl").read_text().splitlines()
    cut = next(place for place, line in enumerate(lines) if '"step": 12' in line)
    record = json.loads(lines[cut]) | {"unix_time": time.time(), "mfu": 0.25, "seconds_left": 7200}
    (run / "log.jsonl").write_text("\n".join([*lines[:cut], json.dumps(record), '{"torn']))
    start = StartEvent(unix_time=0, job="", hosts=("n1",), tasks=8, gpus=8, step=0)
    for event in (start, start.model_copy(update={"unix_time": 3600.0, "status": 1}),
                  start.model_copy(update={"unix_time": 5000.0}),
                  start.model_copy(update={"unix_time": 5000.0 + 1800, "status": 75})):  # fmt: skip
        append_record(run / STARTS_NAME, event)
    append_record(
        run / NODE_REPORTS_NAME,
        NodeReport(unix_time=1.0, host="n1", problem=NodeProblem.SLOW, detail="15% slower",
                   exclude=True),
    )  # fmt: skip
    outcome = status("run")
    assert outcome.status == 0, outcome
    assert "12 of 18" in outcome.stdout
    assert "25.0%" in outcome.stdout
    assert "12.00 GPU-hours used in 2 starts, 8.00 of them lost to restarts" in outcome.stdout
    assert "node n1 slow at " in outcome.stdout
    assert "15% slower; left out of the next start" in outcome.stdout
    found = json.loads(status("--json", "run").stdout)
    assert found["runs"][0]["ends"] == pytest.approx(record["unix_time"] + 7200)
    assert found["gpu_hours_lost"] == 8


def test_what_is_no_run_is_refused(place: Path) -> None:
    assert status("text").refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", None),
        ("a\nb\n", "b"),
        ("x\nRuntimeError: cause\n0: the end\nsrun: error: n1: Exited with 1\n",
         "RuntimeError: cause"),
        ("x\nsrun: error: n1: task 0: Killed\nFAILED with status 137: see the error above\n",
         "FAILED with status 137: see the error above"),
    ],
)  # fmt: skip
def test_the_last_line_that_tells_an_error(tmp_path: Path, text: str, said: str | None) -> None:
    (tmp_path / "log").write_text(text)
    assert last_error(tmp_path / "log") == said
