"""Messages between hosts: an ordinary step and its log line send tensors of fixed shapes only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as distributed

from mmbert.training.fault_tolerance.hangs.watchdog import Activity, Watchdog
from mmbert.training.run_config import RunOptions
from tests.support.ranks import run_ranks
from tests.support.small_run import STEPS, log_of, options_for, pretrain_rank

OBJECTS = ("all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list")
TENSORS = ("all_reduce", "all_gather", "broadcast")
Message = tuple[str, int, str]
"""Activity, step and collective."""


def record_messages(rank: int, world_size: int, options: RunOptions) -> list[Message]:
    """Train; return this rank's messages through `torch.distributed`, in their order."""
    current, messages = (Activity.START, 0), []
    heartbeat = Watchdog.heartbeat

    def noted(self: Watchdog, step: int, activity: Activity) -> None:
        nonlocal current
        current = (activity, step)
        heartbeat(self, step, activity)

    def recorded(name: str) -> Callable[..., Any]:
        original = getattr(distributed, name)

        def send(*arguments: Any, **options: Any) -> Any:
            messages.append((current[0].name, current[1], name))
            return original(*arguments, **options)

        return send

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watchdog, "heartbeat", noted)
        for name in (*OBJECTS, *TENSORS):
            patch.setattr(distributed, name, recorded(name))
        assert pretrain_rank(rank, world_size, options) == 0
    return messages


def test_steps_and_their_log_lines_send_no_objects(inputs: Path, tmp_path: Path) -> None:
    options = options_for(inputs, tmp_path / "run", "logging.every_steps=2")
    messages = run_ranks(record_messages, 2, options)
    assert messages[0] == messages[1]
    assert sum("step_loss" in entry for entry in log_of(options.output)) == STEPS // 2
    of_objects = [message for message in messages[0] if message[2] in OBJECTS]
    assert {activity for activity, _, _ in of_objects if activity != "START"} <= {
        *(
            "COPY_SHARDS",
            "CHECK_LINKS",
            "BUILD_MODEL",
            "READ_VALIDATION_ROWS",
            "COUNT_UNIGRAMS",
            "CHECK_MEMORY",
        ),
        *("SAVE_CHECKPOINT", "FINISH_SAVING", "READ_ROWS"),
    }
    # Where a phase begins, every rank learns where the streams of the others have ended.
    assert {step for activity, step, _ in of_objects if activity == "READ_ROWS"} == {10, 16}
    # A log line sums losses, then counts and times, and gathers memory and own work.
    sent = {step: sum(m[:2] == ("TRAIN_STEP", step) for m in messages[0]) for step in range(STEPS)}
    assert {sent[step] for step in (2, 4, 6)} == {sent[0]}
    assert {sent[step] - sent[0] for step in (1, 3, 5)} == {3}
