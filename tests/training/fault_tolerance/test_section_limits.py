"""Limits by section: what was seen, what was not, and the real watchdog with them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmbert.training.fault_tolerance.hangs.section_limits import (
    Durations,
    LimitRule,
    Section,
    SectionLimits,
    Seen,
    limit_of,
    read_durations,
)
from tests.support.environment import ON_A_CPU, with_packages

RULE = LimitRule()
CEILING = 900.0
SECONDS = st.floats(0, 1e5)


@given(st.lists(SECONDS, max_size=30), st.integers(1, 10), st.floats(1, 1e4))
def test_no_limit_is_under_the_floor_or_over_the_recipe_s_or_near_what_was_seen(
    times: Sequence[float], enough: int, ceiling: float
) -> None:
    seen = Seen()
    for seconds in times:
        seen = seen.with_one(seconds)
    limit = limit_of(seen, enough, ceiling, RULE)
    assert limit <= ceiling
    if len(times) < enough:
        assert limit == ceiling
    else:
        assert limit >= min(ceiling, RULE.floor_seconds)
        assert limit >= min(ceiling, 10 * max(times))


def after(limits: SectionLimits, section: Section, seconds: float, times: int) -> SectionLimits:
    for _ in range(times):
        limits.observe(section, seconds)
    return limits


def test_a_step_is_limited_once_enough_steps_were_seen() -> None:
    limits = SectionLimits(CEILING)
    after(limits, Section.STEP, 30.0, RULE.warm_up + RULE.enough[Section.STEP] - 1)
    assert limits.limit(Section.STEP) == CEILING
    after(limits, Section.STEP, 30.0, 1)
    assert limits.limit(Section.STEP) == 300.0
    after(limits, Section.STEP, 0.1, 1000)
    assert limits.limit(Section.STEP) == 300.0, "the longest counts, however long ago"
    assert limits.limit(Section.SAVE) == CEILING, "nothing was seen of it"
    assert limits.limit(None) == CEILING


def test_the_first_steps_of_a_process_and_a_phase_are_not_limited_nor_counted() -> None:
    limits = SectionLimits(CEILING)
    after(limits, Section.STEP, 600.0, 1)  # compiling
    after(limits, Section.STEP, 1.0, RULE.warm_up + RULE.enough[Section.STEP])
    assert limits.limit(Section.STEP) == RULE.floor_seconds
    limits.begin_warm_up()
    assert limits.limit(Section.STEP) == CEILING
    after(limits, Section.VALIDATION, 1.0, 500)
    assert limits.limit(Section.STEP) == CEILING, "only steps warm up steps"
    after(limits, Section.STEP, 600.0, 1)
    after(limits, Section.STEP, 1.0, RULE.warm_up)
    assert limits.limit(Section.STEP) == RULE.floor_seconds


def test_a_start_counts_once_by_its_longest_time(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    for start in range(RULE.enough[Section.START]):
        limits = SectionLimits(CEILING, path=path, seen=read_durations(path, "2 ranks"))
        assert limits.limit(Section.START) == CEILING, start
        after(limits, Section.START, 5.0, 20)
        after(limits, Section.START, 25.0, 1)
        after(limits, Section.STEP, 1.0, 2)
        limits.write()
    limits = SectionLimits(CEILING, path=path, seen=read_durations(path, "2 ranks"))
    assert limits.limit(Section.START) == 250.0


def test_another_grid_starts_anew_and_so_does_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    seen = Durations(grid="2 ranks", sections={Section.STEP: Seen(count=999, longest_seconds=1)})
    SectionLimits(CEILING, path=path, seen=seen).write()
    assert read_durations(path, "2 ranks") == seen
    assert read_durations(path, "3 ranks").sections == {}
    path.write_text(path.read_text()[:30])
    assert read_durations(path, "2 ranks").sections == {}


WATCHED = """
import sys, time
from pathlib import Path
from mmbert.training.fault_tolerance.hangs.section_limits import LimitRule, Section, SectionLimits
from mmbert.training.fault_tolerance.hangs.watchdog import Activity, Watchdog

enough = {section: 5 for section in Section}
rule = LimitRule(factor=2.0, floor_seconds=2.0, warm_up=2, enough=enough)
watchdog = Watchdog(
    rank=0, world_size=1, timeout_seconds=600, run_folder=Path(sys.argv[1]),
    limits=SectionLimits(600, rule=rule),
)
watchdog._interval = 0.1
watchdog.heartbeat(0, Activity.TRAIN_STEP)
time.sleep(3)  # the first step
for step in range(20):
    watchdog.heartbeat(step, Activity.READ_ROWS)
    watchdog.heartbeat(step, Activity.TRAIN_STEP)
print("trained", flush=True)
watchdog.heartbeat(20, Activity.SAVE_CHECKPOINT)
time.sleep(3)  # the first save
print("saved", flush=True)
watchdog.heartbeat(21, Activity.TRAIN_STEP)
time.sleep(600)
"""


def test_the_watchdog_ends_a_step_that_hangs_but_not_the_first_step_or_save(
    tmp_path: Path,
) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WATCHED, tmp_path],
        env=with_packages(**ON_A_CPU),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 1, result.stderr
    assert result.stdout == "trained\nsaved\n"
    assert "no progress for 2 s: the process hangs in step 21, forward, backward" in result.stderr
    assert (tmp_path / "stacks" / "hang.txt").exists()


@pytest.mark.parametrize("section", Section)
def test_a_limit_under_the_floor_in_the_recipe_stays(section: Section) -> None:
    seen = Durations(grid="", sections={section: Seen(count=999, longest_seconds=0.1)})
    limits = SectionLimits(15.0, seen=seen)
    after(limits, Section.STEP, 0.1, RULE.warm_up)
    assert limits.limit(section) == 15.0
