"""A run with learning rates of groups of parameters: log, TensorBoard, dry run, report, resume."""

import io
from pathlib import Path

import pytest

from mmbert.report.page import build_report
from mmbert.training.run_config import print_plan, resolve_run_config
from tests.support.job_processes import output_of, run_to_the_end
from tests.support.json_lines import records
from tests.support.small_run import STEPS, options_for, write_inputs
from tests.training.test_loop import lines_of

pytestmark = pytest.mark.long
PEAK = 3e-3
RATES = ("optimizer.group_learning_rates.matrices=1e-3", "optimizer.name=normuon")
OTHERS = "optimizer.group_learning_rates={matrices: 2e-3, embedding: 6e-3}"


def test_a_run_shows_its_rates_and_resumes_with_others(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    inputs = write_inputs(tmp_path / "inputs")
    first = options_for(inputs, tmp_path / "run", *RATES, stop_after_phase="extension")
    dry = io.StringIO()
    print_plan(resolve_run_config(first, 1), 1, dry)
    assert "learning rate 0.003, learning rate matrices 0.001, weight decay" in dry.getvalue()
    assert run_to_the_end(first, world_size=1) == [0], output_of(first)
    again = options_for(inputs, tmp_path / "run", *RATES, OTHERS)
    assert run_to_the_end(again, world_size=2) == [0, 0], output_of(again)

    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    changed = next(n for n, line in enumerate(lines) if line["phase"] == "decay")
    for number, line in enumerate(lines):
        factors = {"matrices": 1e-3} if number < changed else {"matrices": 2e-3, "embedding": 6e-3}
        shown = {key: line[key] for key in line if key.startswith("learning_rate_")}
        assert shown == pytest.approx(
            {f"learning_rate_{g}": line["learning_rate"] * r / PEAK for g, r in factors.items()}
        )
    phases = [line["text"] for line in records(tmp_path / "run" / "log.jsonl")
              if line.get("event") == "phase"]  # fmt: skip
    assert "learning rate embedding 0.006 to" in phases[-1]

    folder = tmp_path / "run" / "tensorboard"
    found = EventAccumulator(str(folder)).Reload().Tags()["scalars"]
    assert {"3_schedule/learning_rate_matrices", "3_schedule/learning_rate_embedding"} <= set(found)
    colored = {
        tag
        for path in folder.glob("color_*")
        for tag in EventAccumulator(str(path)).Reload().Tags()["scalars"]
    }
    assert "chart/3_schedule/learning_rate_matrices" in colored
    page = build_report([tmp_path / "run"]).html
    assert "groups of parameters with a rate of their own" in page
