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


def test_the_summary_names_a_causal_objective_and_shows_both_losses() -> None:
    both = {
        "held_out_start": Losses(overall=9.0, tiers={"first": 9.25}),
        "held_out_end": Losses(overall=8.0, tiers={"first": 8.25}),
        "held_out_causal_start": Losses(overall=7.0, tiers={"first": 7.25}),
        "held_out_causal_end": Losses(overall=6.0, tiers={"first": 6.25}),
    }
    shared = {"context": 64, "temperature": "0.7", "languages": 1, "planned_tokens": 10}
    causal = PhaseResult(
        name="first", objective="causal", predicted_share=0.25, first_step=0, end_step=1, **shared,
        **both,
    )  # fmt: skip
    masked = PhaseResult(
        name="second", mask_ratio=0.3, first_step=1, end_step=2, **shared, **both
    )  # fmt: skip
    for phases, ends in (
        ([causal, masked], "this model's is 8.000, worse by 1.500"),
        ([causal], "this model's causal loss is 6.000, better by 0.500"),
    ):
        results = Results(name="run", devices=1, phases=phases, unigram=Losses(overall=6.5))
        console = Console(width=160, record=True, file=io.StringIO())
        print_summary(results, Path("run"), console)
        text = " ".join(console.export_text().split())
        for words in (
            "causal 0.25",
            "causal loss",
            "9.000 → 8.000",
            "7.000 → 6.000",
            "Held-out causal loss by tier",
            "7.250 → 6.250",
            "9.250 → 8.250",
            ends,
        ):
            assert words in text, words
    results = Results(name="run", devices=1, phases=[causal, masked])
    results.rewind(0)
    assert causal.held_out_causal_end is None
    assert causal.held_out_causal_start is not None
    assert masked.held_out_causal_start is None
