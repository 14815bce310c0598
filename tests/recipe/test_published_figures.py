"""Packaged recipes of mmBERT base and small against the published figures, with their sources.

CFG: the configurations in github.com/JHU-CLSP/mmBERT; RDM: its README; PAPER: arXiv 2509.06888 as
quoted; CODE: AnswerDotAI/ModernBERT, whose program read the configurations; OURS: a choice not in
any source. Change a figure here only if its source says otherwise.
"""

from typing import Any

import pytest

from mmbert.planner import count_parameters
from mmbert.recipe import Recipe, dump_recipe, load_recipe, override_recipe
from mmbert.schedule import learning_rate, temperature, training_plan, weight_decay
from tests.support.environment import ROOT

RECIPES = ROOT / "src" / "mmbert" / "recipes"
SIZES = ["base", "small"]

# Both sizes alike.
SHARED: dict[str, Any] = {
    "precision": "bfloat16",  # CFG amp_bf16
    "seed": 21,  # CFG seed
    "model.intermediate_size": 1152,  # CFG
    "model.num_hidden_layers": 22,  # CFG
    "model.vocab_size": 256_000,  # CFG; Gemma 2's
    "tokenizer.vocab_size": 256_000,
    "model.global_attention_every": 3,  # CFG
    "model.local_window": 128,  # CFG sliding_window
    "model.norm_eps": 1e-5,  # CFG and the released config.json; a table of PAPER says 1e-12
    "model.attention_output_dropout": 0.1,  # CFG attn_out_dropout_prob
    "model.initializer_range": 0.02,  # CFG init_std
    "data.masking.mask": 0.8,  # CODE mlm_masking: 80/10/10
    "data.masking.random": 0.1,
    "data.masking.whole_word": False,
    "batch.row_tokens": 49_152,  # CFG: microbatch of 48 sequences of 1,024
    "batch.rows": 96,  # CFG: 4,608 sequences of 1,024
    "batch.growth.from_rows": 8,  # CFG: one microbatch on each of 8 GPUs
    "optimizer.name": "stable_adamw",  # CFG decoupled_stableadamw
    "optimizer.learning_rate": 8e-4,  # CFG
    "optimizer.betas": (0.9, 0.95),  # CFG
    "optimizer.eps": 1e-8,  # CFG
    "optimizer.weight_decay": 8e-5,  # CFG
    "optimizer.gradient_clipping": None,  # CFG: none configured
    "checkpoint.every_tokens": 10 * 10**9,  # CFG
    "checkpoint.keep_last": 10,  # CFG
    "data.sources.0.max_epochs": 5,  # PAPER: an aim, about five
}
# Of one size.
OWN: dict[str, dict[str, Any]] = {
    "base": {
        "model.hidden_size": 768,  # CFG
        "model.num_attention_heads": 12,  # CFG
        "batch.growth.tokens": 60 * 10**9,  # CFG
        "merge.method": "ties",  # RDM, PAPER
        "merge.variants": ("main", "continued", "english"),  # RDM, PAPER
    },
    "small": {
        "model.hidden_size": 384,
        "model.num_attention_heads": 6,
        "batch.growth.tokens": 100 * 10**9,
        "merge.method": "ema",  # PAPER
    },
}
# By phase: pretrain, extension, decay.
PHASES: dict[str, dict[str, list[Any]]] = {
    "shared": {
        "tokens": [23 * 10**11, 6 * 10**11, 10**11],  # PAPER
        "context": [1024, 8192, 8192],  # CFG
        "temperature.start": [0.7, 0.5, 0.3],  # PAPER
        "temperature.end": [0.7, 0.5, 0.3],
        "mask_ratio": [0.30, 0.15, 0.05],  # PAPER, RDM; CFG alike but for base's 0.25 at first
        "rotary_bases.global_": [10_000, 160_000, 160_000],  # CFG
        "rotary_bases.local_": [10_000, 160_000, 160_000],
        "dropout": [None, None, None],  # CFG: the model's in all phases
        "rows": [None, 768, 768],  # CFG: 4,608 sequences at every length
    },
    "base": {
        "learning_rate.peak": [None, None, None],  # CFG: 8e-4 throughout
        "learning_rate.warmup": [3 * 10**9, 0, 0],  # CFG
        "learning_rate.shape": ["constant", "constant", "one_minus_sqrt"],  # CFG, CODE
        "learning_rate.final": [0.0, 0.0, 0.02],  # CFG, PAPER
        "learning_rate.decay_tokens": [None, None, None],  # CFG: all of the last phase
        "weight_decay": [None, None, None],  # CFG: 8e-5 throughout
    },
    "small": {
        "learning_rate.peak": [None, 4e-4, 4e-4],  # CFG
        "learning_rate.warmup": [4 * 10**9, 0, 0],
        "learning_rate.shape": ["constant", "constant", "linear"],
        "learning_rate.final": [0.0, 0.0, 0.04],  # CFG
        "learning_rate.decay_tokens": [None, None, None],
        "weight_decay": [None, 4e-5, 4e-5],  # CFG
    },
}
# Billions of tokens in PAPER's mix tables (its table 1; the decay's is the continued one).
MIX: dict[str, tuple[float, float, float]] = {
    "fineweb2": (1196.6, 506.7, 78.5),
    "dclm": (600.0, 10.0, 0),
    "dclm-dolmino": (0, 40.0, 2.0),
    "starcoder": (100.6, 17.2, 0.5),
    "code-prolong": (0, 0, 2.8),
    "arxiv": (27.8, 5.4, 3.3),
    "pes2o": (8.4, 3.2, 0),
    "stackexchange": (18.6, 3.0, 0),
    "stackexchange-dolmino": (1.4, 2.8, 0),
    "tulu-flan": (15.3, 3.1, 1.0),
    "dolmino-math": (11.2, 4.3, 0.5),
    "books": (4.3, 3.9, 2.2),
    "textbooks-prolong": (0, 0, 3.1),
    "wikipedia": (4.7, 1.2, 9.5),
}


def _shipped(size: str) -> Recipe:
    return load_recipe(RECIPES / f"mmbert-{size}.yaml")


def _at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings[int(part)] if part.isdigit() else getattr(settings, part)
    return settings


@pytest.mark.parametrize("size", SIZES)
def test_settings_of_the_whole_run(size: str) -> None:
    recipe = _shipped(size)
    expected = SHARED | OWN[size]
    assert {key: _at(recipe, key) for key in expected} == expected


@pytest.mark.parametrize("size", SIZES)
def test_settings_of_every_phase(size: str) -> None:
    phases = _shipped(size).phases
    assert [phase.name for phase in phases] == ["pretrain", "extension", "decay"]
    expected = PHASES["shared"] | PHASES[size]
    assert {key: [_at(phase, key) for phase in phases] for key in expected} == expected


@pytest.mark.parametrize("size", SIZES)
def test_what_the_schedule_makes_of_them(size: str) -> None:
    """Learning rates, decays, steps and rows from the functions that training uses."""
    recipe = _shipped(size)
    plan = training_plan(recipe)
    first, *later = plan.phases
    assert first.stages[-1].rows * plan.row_tokens == 4_718_592  # CFG 4,608 · 1,024
    assert [p.stages[-1].rows * plan.row_tokens for p in later] == [37_748_736, 37_748_736]
    # Eleven growth stages of about 2,312 (base) and 3,853 (small) steps, as CODE lays them out.
    assert [stage.rows for stage in first.stages] == [8 * n for n in range(1, 13)]
    assert first.stages[0].steps == {"base": 2312, "small": 3853}[size]
    later_peak, later_decay = {"base": (8e-4, 8e-5), "small": (4e-4, 4e-5)}[size]
    rates = [(8e-4, 8e-5), (later_peak, later_decay), (later_peak, later_decay)]
    for phase, (peak, decay) in zip(plan.phases, rates, strict=True):
        after_warm_up = phase.first_step + (phase.stages[0].steps * 11 if phase is first else 0)
        assert learning_rate(recipe, plan, after_warm_up) == pytest.approx(peak, rel=1e-12)
        assert weight_decay(recipe, plan, phase.first_step) == decay
        assert recipe.dropout_in(recipe.phases[phase.index]) == 0.1
        assert temperature(recipe, plan, phase.first_step) == [0.7, 0.5, 0.3][phase.index]
    # Warm-up of 3B and 4B tokens: half the rate at half of them.
    half = {"base": 1.5e9, "small": 2e9}[size]
    step = next(step for step in range(first.steps) if plan.at(step).tokens_before >= half)
    assert learning_rate(recipe, plan, step) == pytest.approx(4e-4, rel=2e-3)
    # Both sizes end at 1.6e-5: 0.02 · 8e-4 and 0.04 · 4e-4. Half way through: 1 − √½, or one half.
    decay = plan.phases[-1]
    assert learning_rate(recipe, plan, plan.steps - 1) == pytest.approx(1.6e-5, rel=0.02)
    middle = {"base": 8e-4 * (0.02 + 0.98 * (1 - 0.5**0.5)), "small": 4e-4 * (0.04 + 0.96 / 2)}
    in_the_middle = learning_rate(recipe, plan, decay.first_step + decay.steps // 2)
    assert in_the_middle == pytest.approx(middle[size], rel=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_parameters_are_as_many_as_published(size: str) -> None:
    recipe = _shipped(size)
    counted = count_parameters(recipe.model, 256_000)
    total = {"base": 307_786_240, "small": 140_897_536}  # RDM 307M and 140M, counted on the release
    assert counted.total == total[size]


@pytest.mark.parametrize("size", SIZES)
def test_the_mix_is_the_published_one(size: str) -> None:
    recipe = _shipped(size)
    names = [phase.name for phase in recipe.phases]
    found = {
        source.name: tuple((source.tokens or {}).get(name, 0) / 1e9 for name in names)
        for source in recipe.data.sources
    }
    assert found == MIX
    assert [source.sampling for source in recipe.data.sources] == ["temperature"] + ["budget"] * 13
    # the tables' own totals, of rows rounded to 0.1
    totals = [sum(column) for column in zip(*MIX.values(), strict=True)]
    assert totals == pytest.approx([1989.0, 600.8, 103.3], abs=0.8)


@pytest.mark.parametrize("size", SIZES)
def test_languages_and_variants(size: str) -> None:
    """60, 110 and 1,833 languages; two more decays over the 110 from the end of phase 2."""
    recipe = _shipped(size)
    lists = [set(phase.languages.names) for phase in recipe.phases]
    assert [len(names) for names in lists] == [60, 110, 1833]
    # RDM counts code among the 110
    assert lists[0] < lists[1] - {"code"} < lists[2]
    assert [variant.name for variant in recipe.variants] == ["continued", "english"]
    for variant in recipe.variants:
        assert variant.branch_from == "extension"
        changed = override_recipe(recipe, variant.overrides)
        assert set(changed.phases[-1].languages.names) == lists[1]
        # and nothing else: a decay's figures are those of the main one
        same = changed.model_copy(update={"phases": recipe.phases, "data": recipe.data})
        assert dump_recipe(same) == dump_recipe(recipe)
        own, main = changed.phases[-1], recipe.phases[-1]
        assert own.model_copy(update={"languages": main.languages}) == main
    filtered = override_recipe(recipe, recipe.variants[1].overrides).data.sources[2]
    assert filtered.name == "dclm-dolmino"
    assert filtered.tokens == {"extension": 40 * 10**9, "decay": 10 * 10**9}  # OURS, by its name
