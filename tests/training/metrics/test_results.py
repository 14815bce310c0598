"""The summary at the end of a run."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from mmbert.training.metrics.results import Losses, PhaseResult, Results, print_summary


@pytest.mark.parametrize(("end", "words"), [(6.0, "better by 0.500"), (6.523, "worse by 0.023")])
def test_the_summary_says_whether_the_model_beats_a_unigram_model(end: float, words: str) -> None:
    phase = PhaseResult(
        name="only", context=64, mask_ratio=0.3, temperature="0.7", languages=1,
        planned_tokens=10, first_step=0, end_step=1, held_out_end=Losses(overall=end),
    )  # fmt: skip
    results = Results(name="run", devices=1, phases=[phase], unigram=Losses(overall=6.5))
    console = Console(width=120, record=True, file=io.StringIO())
    print_summary(results, Path("run"), console)
    assert words in " ".join(console.export_text().split())
