"""Picture of the studies in docs/studies: losses over tuned rates, and of every seed."""

from pathlib import Path
from typing import Any

import altair as alt

from docs.scripts.drawing import INK, QUIET
from mmbert.ablation.comparison import ALL, Comparison
from mmbert.ablation.tuning import Tuning

STUDIES = Path(__file__).parents[1] / "studies"
_WIDTH = 520
_COLORS = {"StableAdamW": "#b5651d", "NorMuon": "#1f4e8c"}
_UNIGRAM = "#9aa5b1"
_SEARCHES = {
    "optimizer.learning_rate": "all parameters",
    "optimizer.group_learning_rates.matrices": "matrices",
    "optimizer.group_learning_rates.embedding": "embedding and rest",
}
# Of each study, the full recipe first.
_NAMES = {
    "optimizers": {"full": "StableAdamW", "normuon": "NorMuon"},
    "masks": {
        "full": "30, 15, 5% masks",
        "constant-20": "20% masks",
        "causal-first": "next tokens, 15, 5%",
    },
}
_LOSS = "held-out loss, nats per masked token"


def chart() -> alt.VConcatChart:
    """Return the picture: a panel of tuned rates per optimizer, and one of seeds per study."""
    panels = [_tuned(), *(_seeds(name) for name in _NAMES)]
    drawn = alt.vconcat(*panels, spacing=26).properties(background="white", padding=10)
    drawn = drawn.configure_axis(titleFontWeight="normal", titleColor=QUIET, gridColor="#eef1f4")
    return drawn.configure_view(stroke="#dde2e8")


def _tuned() -> alt.LayerChart:
    rows: list[dict[str, Any]] = []
    for optimizer in _COLORS:
        found = Tuning.model_validate_json(
            (STUDIES / f"tuning-{optimizer.lower()}.json").read_bytes()
        )
        rows += [
            {"rate": trial.value, "loss": trial.loss, "optimizer": optimizer,
             "line": f"{optimizer} {number}", "group": _SEARCHES[result.keys[0]]}
            for number, result in enumerate(found.searches)
            for trial in result.trials
        ]  # fmt: skip
    title = f"Tuned rates: {found.tokens / 1e6:.1f}M tokens a run, one seed"
    data = alt.Chart(alt.Data(values=rows))
    # NorMuon's matrices were tuned between the other rates, where labels would overlap.
    ticks = sorted({row["rate"] for row in rows} - {2.5e-3, 5e-3, 1e-2})
    position = {
        "x": alt.X("rate:Q", scale=alt.Scale(type="log", nice=False, padding=24),
                   title="peak learning rate", axis=alt.Axis(format="~g", values=ticks)),
        "y": alt.Y("loss:Q", scale=alt.Scale(zero=False), title=_LOSS),
        "color": alt.Color("optimizer:N", title=None,
                           scale=alt.Scale(domain=[*_COLORS], range=[*_COLORS.values()])),
    }  # fmt: skip
    dashes = alt.StrokeDash("group:N", title="rate of", sort=[*_SEARCHES.values()])
    unigram = alt.Chart(alt.Data(values=[{"loss": found.unigram}]))
    return alt.LayerChart(
        layer=[
            unigram.mark_rule(color=_UNIGRAM, strokeDash=[2, 3]).encode(y="loss:Q"),
            unigram.mark_text(
                text="unigram model", color=QUIET, x=_WIDTH - 4, dy=-6, align="right", fontSize=10
            ).encode(y="loss:Q"),
            data.mark_line().encode(**position, strokeDash=dashes, detail="line:N"),
            data.mark_point(filled=True, size=34, opacity=1).encode(**position),
        ],
        width=_WIDTH,
        height=230,
        title=_heading(title),
    )


def _seeds(name: str) -> alt.LayerChart:
    found = Comparison.read(STUDIES / name)
    assert found is not None
    names = _NAMES[name]
    rows = [
        {"name": names[result.name], "seed": seed, "loss": loss}
        for result in found.ablations
        for seed, loss in result.tiers[ALL].losses.items()
    ]
    full = found.ablations[0].tiers[ALL].mean
    assert found.threshold is not None
    band = [{"low": full - found.threshold.nats, "high": full + found.threshold.nats}]
    means = [{"name": names[each.name], "loss": each.tiers[ALL].mean} for each in found.ablations]
    x = alt.X("loss:Q", scale=alt.Scale(zero=False, padding=14), title=_LOSS)
    y = alt.Y("name:N", sort=[*names.values()], title=None)
    equal = f"equal {'FLOPs' if found.equal == 'flops' else found.equal}"
    title = f"{name.capitalize()}: {found.tokens / 1e6:.1f}M tokens, {equal}, a dot per seed"
    return alt.LayerChart(
        layer=[
            alt.Chart(alt.Data(values=band))
            .mark_rect(color="#e4edf8")
            .encode(x=alt.X("low:Q", title=_LOSS), x2="high:Q"),
            alt.Chart(alt.Data(values=rows))
            .mark_point(filled=True, size=46, opacity=0.75, color=_COLORS["NorMuon"])
            .encode(x=x, y=y),
            alt.Chart(alt.Data(values=means))
            .mark_tick(color=INK, thickness=2, size=20)
            .encode(x=x, y=y),
        ],
        width=_WIDTH,
        height=34 * len(names),
        title=_heading(title, "band: the first mean ± the threshold; bar: mean"),
    )


def _heading(text: str, below: str = "") -> alt.Title:
    return alt.Title(
        text, subtitle=below, anchor="start", fontSize=12.5, color=INK, subtitleColor=QUIET
    )
