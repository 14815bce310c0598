"""What stands between two log lines: evaluations do not count as training time."""

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mmbert.data.sampling.loss_table import LossTable
from mmbert.parallel.host_group import HostGroup
from mmbert.parallel.process_grid import ProcessGrid
from mmbert.recipe import ModelSettings
from mmbert.schedule import StepPlan
from mmbert.training.metrics.interval_metrics import IntervalMetrics
from mmbert.training.metrics.step_timer import StepTimer
from mmbert.training.metrics_processor import MetricsProcessor

CPU = torch.device("cpu")
TOKENS_A_STEP = 1000
MODEL = ModelSettings(
    hidden_size=4, intermediate_size=6, num_hidden_layers=4, num_attention_heads=2
)


class Clock:
    """The time that passes is what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1e6
        monkeypatch.setattr(time, "perf_counter", lambda: self.seconds)

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


def trainer_with(clock: Clock) -> Any:
    """What a journal asks of a trainer for an evaluation, which takes 100 seconds."""

    def evaluate(*_: Any, **__: Any) -> LossTable:
        clock.passes(100)
        return LossTable(np.array([2.5]), np.ones(1))

    phase = SimpleNamespace(name="only", rotary_bases=object())
    return SimpleNamespace(
        step=0,
        plan=SimpleNamespace(
            steps=100,
            row_tokens=TOKENS_A_STEP,
            phases=[SimpleNamespace(index=0, end_step=100, first_token=0)],
        ),
        recipe=SimpleNamespace(
            phases=[phase],
            logging=SimpleNamespace(every_steps=50),
            evaluation=SimpleNamespace(every_tokens=2 * TOKENS_A_STEP),
        ),
        table=SimpleNamespace(
            names=("a",), tiers=("only",), languages=("a",), plan=SimpleNamespace(phases=[phase])
        ),
        validator=SimpleNamespace(validate=evaluate),
        engine=SimpleNamespace(module=None),
        step_timer=StepTimer(CPU),
        interval=IntervalMetrics(1, MODEL, 100, ProcessGrid.single(), CPU),
        loggers=SimpleNamespace(
            progress=lambda step: None,
            event=lambda *a, **k: None,
            log=lambda *a: None,
        ),
        results=SimpleNamespace(phases=[SimpleNamespace(tokens=0, seconds=0.0)]),
        skipped=SimpleNamespace(steps=()),
        heartbeat=lambda activity: None,
    )


def test_the_time_of_evaluations_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    trainer = trainer_with(clock)
    processor = MetricsProcessor(trainer)
    for step in range(6):  # evaluated after steps 1, 3 and 5
        clock.passes(7)
        trainer.step = step + 1
        processor.after_step(StepPlan(step, 0, step, 1, TOKENS_A_STEP))
        result = trainer.results.phases[0]
        assert (result.tokens, result.seconds) == ((step + 1) * TOKENS_A_STEP, (step + 1) * 7)
    assert clock.seconds == 1e6 + 6 * 7 + 3 * 100
    assert trainer.interval.collect(HostGroup(0, 1), {}).seconds == 6 * 7
