"""Reading of `log.jsonl`: restarts, damage, and what counts once."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.errors import UserError
from mmbert.report.run import read_run
from mmbert.report.run_log import RunLog, read_log
from tests.support.logged_run import LoggedRun, lines_of

RESTART_KINDS = st.sampled_from(["start", "rollback"])


def record(step: int, loss: float, **more: Any) -> dict[str, Any]:
    """Return a record with what every one has."""
    return {"step": step, "tokens": 100 * step, "phase": "pretrain", "loss": loss, **more}


def event(kind: str, step: int, **details: Any) -> dict[str, Any]:
    """Return an event."""
    return {"time": 1.0, "event": kind, "step": step, "text": f"{kind} at {step}", **details}


def read(tmp_path: Path, content: bytes) -> RunLog:
    """Write and read a log."""
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    return read_log(path)


@st.composite
def interleavings(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw a log of a run that restarts and rolls back at will, with steps logged twice."""
    entries: list[dict[str, Any]] = [event("start", 0)]
    step = number = 0
    for _ in range(draw(st.integers(1, 6))):
        for _ in range(draw(st.integers(0, 5))):
            step += draw(st.integers(1, 2))
            number += 1
            entries.append(record(step, float(number)))
            if draw(st.booleans()):
                number += 1
                entries.append(record(step, float(number)))
            if draw(st.integers(0, 3)) == 0:
                held_out = {"phase": "pretrain", "overall": float(number), "tiers": {}}
                entries.append(event("held-out", step, **held_out))
        step = draw(st.integers(0, step))
        entries.append(event(draw(RESTART_KINDS), step))
    return entries


@given(interleavings())
def test_every_step_counts_once_with_what_was_logged_last(
    tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("log")
    (folder / "log.jsonl").write_bytes(lines_of(entries))
    expected: dict[int, float] = {}
    held_out: dict[int, float] = {}
    for entry in entries:  # one after another, as training wrote them
        if entry.get("event") in ("start", "rollback"):
            for found in (expected, held_out):
                for step in [step for step in found if step > entry["step"]]:
                    del found[step]
        elif "event" in entry:
            held_out[entry["step"]] = entry["overall"]
        else:
            expected[entry["step"]] = entry["loss"]
    run = read_run(folder, "run")
    log = run.log
    assert dict(zip(log.column("step"), log.column("loss"), strict=True)) == expected
    assert log.column("step").tolist() == sorted(expected)
    assert len(log) + log.repeated == sum("event" not in entry for entry in entries)
    assert {found.step: found.overall for found in run.held_out} == held_out


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    whole = lines_of([event("start", 0), record(1, 5.0), record(2, 4.0)])
    log = read(tmp_path, whole[:-20])
    assert (log.column("loss").tolist(), log.torn, log.broken) == ([5.0], True, ())
    # Without its newline only, a line is complete.
    log = read(tmp_path, whole[:-1])
    assert (log.column("loss").tolist(), log.torn, log.broken) == ([5.0, 4.0], False, ())


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 2, "tokens"\n',
        b"\n",
        b"[1, 2]\n",
        b'"text"\n',
        b"\xff\xfe\x00\n",
        b'{"step": "2", "tokens": 200}\n',
        b'{"step": 2.5, "tokens": 200}\n',
        b'{"step": -2, "tokens": 200}\n',
        b'{"step": 2}\n',
        b'{"step": true, "tokens": 200}\n',
        b'{"event": "start", "step": null}\n',
        b'{"step": 1' + b"0" * 400 + b', "tokens": 1}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_broken_line_is_counted_and_no_other_lost(tmp_path: Path, line: bytes) -> None:
    log = read(tmp_path, lines_of([record(1, 5.0)]) + line + lines_of([record(3, 4.0)]))
    assert log.column("step").tolist() == [1, 3]
    assert log.broken == (2,)
    assert not log.torn


def test_values_that_are_no_numbers_and_missing_ones_are_told_apart(tmp_path: Path) -> None:
    log = read(
        tmp_path,
        b'{"step": 1, "tokens": 100, "loss": NaN, "loss_by_tier": {"a": 1.0}}\n'
        b'{"step": 2, "tokens": 200, "loss": -Infinity, "time": {"data": 0.5}}\n'
        b'{"step": 3, "tokens": 300, "loss": null, "mfu": "fast", "big": 1' + b"0" * 400 + b"}\n"
        b'{"step": 4, "tokens": 400, "loss": 2, "loss_by_tier": {"a": 3, "b": 4}}\n',
    )
    loss = log.column("loss")
    assert np.isinf(loss[:2]).all()
    assert math.isnan(loss[2])
    assert loss[3] == 2.0
    assert np.array_equal(log.series("loss_by_tier")["a"], [1, np.nan, np.nan, 3], equal_nan=True)
    assert np.array_equal(log.series("time")["data"], [np.nan, 0.5, *[np.nan] * 2], equal_nan=True)
    assert np.isnan(log.column("mfu")).all()
    assert log.broken == ()


def test_language_metrics_are_those_of_the_last_valid_record(tmp_path: Path) -> None:
    shares = [{"share_by_language": {"eng": value}} for value in (0.1, 0.2, 0.3)]
    entries = [
        record(10, 5.0, **shares[0]),
        record(20, 5.0, **shares[1]),
        event("start", 12),
        record(14, 5.0),
    ]
    (tmp_path / "log.jsonl").write_bytes(lines_of(entries))
    run = read_run(tmp_path, "run")
    assert run.by_language["share_by_language"] == {"eng": 0.1}
    (tmp_path / "log.jsonl").write_bytes(lines_of([*entries, record(16, 5.0, **shares[2])]))
    run = read_run(tmp_path, "run")
    assert run.by_language["share_by_language"] == {"eng": 0.3}


def test_tokens_of_a_step_lie_between_those_of_the_lines_around_it(tmp_path: Path) -> None:
    entries = [record(10, 5.0) | {"tokens": 1000}, record(20, 5.0) | {"tokens": 4000}]
    (tmp_path / "log.jsonl").write_bytes(lines_of(entries))
    run = read_run(tmp_path, "run")
    assert run.tokens_at([0, 5, 10, 15, 20]).tolist() == [0, 500, 1000, 2500, 4000]


def test_after_restarts_a_written_run_reads_like_one_that_never_stopped(tmp_path: Path) -> None:
    run = LoggedRun(steps=40, restarts=((12, 9), (33, 20), (21, 20)))
    log = read_run(run.write(tmp_path / "run"), "run").log
    assert log.column("step").tolist() == list(range(1, 41))
    last = {entry["step"]: entry["loss"] for entry in run.entries() if "event" not in entry}
    assert log.column("loss").tolist() == [last[step] for step in range(1, 41)]
    assert log.repeated == 3 + 13 + 1


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*log\.jsonl"):
        read_log(tmp_path / "log.jsonl")


def test_the_text_of_a_line_is_kept_when_it_is_read_again(tmp_path: Path) -> None:
    entries = [event("start", 0, text_with="ü\u2028"), record(1, 5.0, extra={"a": [1]})]
    log = read(tmp_path, lines_of(entries))
    assert log.reread(log.events[0].offset) == entries[0]
    assert json.loads(json.dumps(log.reread(len(lines_of(entries[:1]))))) == entries[1]
