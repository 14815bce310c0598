"""Time and tokens of training: validation does not count."""

import time
from pathlib import Path
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
from mmbert.training.metrics_processor import MetricsProcessor
from mmbert.training.trainer_parts.ranks import Ranks

TOKENS_A_STEP = 1000
MODEL = ModelSettings(
    hidden_size=4, intermediate_size=6, num_hidden_layers=4, num_attention_heads=2
)


class Clock:
    """A clock that the test advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 1e6
        monkeypatch.setattr(time, "perf_counter", lambda: self.seconds)

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


def processor_with(clock: Clock) -> MetricsProcessor:
    """A metrics processor whose validation takes 100 seconds."""

    def validate(*_: Any, **__: Any) -> LossTable:
        clock.passes(100)
        return LossTable(np.array([2.5]), np.ones(1))

    phase = SimpleNamespace(
        name="only", index=0, end_step=100, first_token=0, rotary_bases=None, objective="masked"
    )
    run: Any = SimpleNamespace(
        folder=Path("unused"),
        plan=SimpleNamespace(steps=100, phases=[phase]),
        recipe=SimpleNamespace(
            model=MODEL,
            phases=[phase],
            logging=SimpleNamespace(every_steps=50),
            evaluation=SimpleNamespace(every_tokens=2 * TOKENS_A_STEP),
        ),
        encoder=SimpleNamespace(vocab_size=100),
        table=SimpleNamespace(
            names=("a",), tiers=("only",), languages=("a",), plan=SimpleNamespace(phases=[phase])
        ),
    )
    watchdog: Any = SimpleNamespace(heartbeat=lambda step, activity: None)
    engine: Any = SimpleNamespace(device=torch.device("cpu"), module=None, zero_stage=1)
    validator: Any = SimpleNamespace(validate=validate)
    results: Any = SimpleNamespace(phases=[SimpleNamespace(tokens=0, seconds=0.0)])
    ranks = Ranks(ProcessGrid.single(), HostGroup(0, 1), watchdog)
    return MetricsProcessor(run, ranks, engine, {"masked": validator}, results, profile_steps=0)


def test_the_time_of_evaluations_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    processor = processor_with(clock)
    result = processor.results.phases[0]
    for step in range(6):  # validates after steps 1, 3 and 5
        clock.passes(7)
        processor.finish_step(StepPlan(step, 0, step, 1, TOKENS_A_STEP), trained=True)
        assert (result.tokens, result.seconds) == ((step + 1) * TOKENS_A_STEP, (step + 1) * 7)
    assert clock.seconds == 1e6 + 6 * 7 + 3 * 100
    assert processor.interval.collect(HostGroup(0, 1), {}).seconds == 6 * 7
    processor.close()
