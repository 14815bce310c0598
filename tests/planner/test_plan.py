"""Estimates against the published figures of mmBERT, and against hand calculation."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mmbert.errors import UserError
from mmbert.model.config import FIXED_BY_ARCHITECTURE, encoder_config
from mmbert.model.flops import training_flops
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import TensorGroup
from mmbert.planner import GPUS, count_parameters, estimate, find_gpu, flops_per_token, render
from mmbert.planner.languages import published_counts
from mmbert.recipe import ModelSettings, Recipe, load_recipe, override_recipe, parse_recipe
from tests.support import small_run
from tests.support import written_runs as runs
from tests.support.environment import ROOT

RECIPES = ROOT / "src" / "mmbert" / "recipes"


def recipe_of(size: str, *overrides: str) -> Recipe:
    return load_recipe(RECIPES / f"mmbert-{size}.yaml", overrides)


def model(size: str) -> ModelSettings:
    return ModelSettings.model_validate({"preset": size})


@pytest.mark.parametrize(
    ("size", "total", "without_embedding"),
    [("base", 307_786_240, 111_178_240), ("small", 140_897_536, 42_593_536)],
)
def test_parameters_are_the_released_models(size: str, total: int, without_embedding: int) -> None:
    parameters = count_parameters(model(size), 256_000)
    assert parameters.total == total
    assert parameters.total - parameters.embedding == without_embedding


# Million FLOPs per token of the released models at full context: phase, mask ratio, context,
# then encoder, head, global attention, local attention, total.
PUBLISHED_FLOPS = [
    ("base", 0.30, 1024, 661.8, 355.0, 75.5, 16.6, 1108.9),
    ("base", 0.15, 8192, 661.8, 177.5, 604.0, 16.6, 1459.9),
    ("base", 0.05, 8192, 661.8, 59.2, 604.0, 16.6, 1341.6),
    ("small", 0.30, 1024, 253.0, 177.2, 37.7, 8.3, 476.3),
    ("small", 0.15, 8192, 253.0, 88.6, 302.0, 8.3, 652.0),
    ("small", 0.05, 8192, 253.0, 29.5, 302.0, 8.3, 592.9),
]


@pytest.mark.parametrize(
    ("size", "mask", "context", "encoder", "head", "full", "local", "total"), PUBLISHED_FLOPS
)
def test_flops_per_token(
    size: str,
    mask: float,
    context: int,
    encoder: float,
    head: float,
    full: float,
    local: float,
    total: float,
) -> None:
    flops = flops_per_token(model(size), 256_000, mask, context)
    parts = (flops.encoder, flops.head, flops.global_attention, flops.local_attention, flops.total)
    found = [part / 1e6 for part in parts]
    assert found == pytest.approx([encoder, head, full, local, total], abs=0.051)


def test_flops_agree_with_what_training_counts() -> None:
    """FLOPs from the mean length equal those summed over documents, as in training."""
    settings = model("base")
    lengths = np.array([1024, 600, 200, 130, 129, 5000])
    tokens, masked = int(lengths.sum()), 2000
    mean_length = float((lengths.astype(float) ** 2).sum() / tokens)
    planned = flops_per_token(settings, 256_000, masked / tokens, mean_length).total * tokens
    assert planned == pytest.approx(training_flops(settings, 256_000, lengths, masked), rel=1e-9)


def test_a_range_of_mask_ratios_costs_what_its_mean_does() -> None:
    key = "phases.pretrain.mask_ratio"
    drawn = override_recipe(recipe_of("base"), {key: {"low": 0.1, "high": 0.3}})
    plain = override_recipe(recipe_of("base"), {key: 0.2})
    assert estimate(drawn, gpus=8).phases == estimate(plain, gpus=8).phases


def test_a_causal_phase_costs_half_of_the_attention() -> None:
    """Documents fill the context of 1,024: (1,024 + 1) / 2 keys in global layers."""
    keys = ("objective=causal", "mask_ratio=null", "predicted_share=0.25")
    causal = recipe_of("base", *(f"phases.pretrain.{key}" for key in keys))
    before, after = (estimate(one, gpus=8).phases for one in (recipe_of("base"), causal))
    assert after[1:] == before[1:]
    flops = after[0].flops
    assert flops.encoder == before[0].flops.encoder
    assert flops.head == pytest.approx(before[0].flops.head * 0.25 / 0.3)
    assert flops.global_attention == 12 * 768 * 8 * (1024 + 1) / 2
    assert flops.local_attention == 12 * 768 * 14 * (64 * 65 / 2 + 960 * 65) / 1024
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(estimate(causal, gpus=8)))
    assert "causal 0.25" in console.export_text()


def test_base_on_eight_gpus_is_the_published_run() -> None:
    """3.56e21 FLOPs; 40 days on 8 H100 are 13% MFU; steps match the configurations."""
    planned = estimate(recipe_of("base"), gpus=8, gpu="h100", mfu=0.13)
    assert planned.total_flops == pytest.approx(3.56e21, rel=0.005)
    assert planned.seconds / 86400 == pytest.approx(40, rel=0.02)
    assert planned.gpu_hours == pytest.approx(7680, rel=0.02)
    full_batch = [phase.steps.stages[-1].rows * 49_152 for phase in planned.phases]
    assert full_batch == [4_718_592, 37_748_736, 37_748_736]
    steps = [phase.steps.steps for phase in planned.phases]
    assert steps[1:] == [15_895, 2_650]
    # 2.3T in full batches are 487k steps; batch-size warm-up over 60B adds half of its steps.
    assert steps[0] == pytest.approx(2.3e12 / 4_718_592 + 12_700, rel=0.001)


def test_small_on_eight_gpus() -> None:
    planned = estimate(recipe_of("small"), gpus=8, gpu="h100", mfu=0.226)
    assert planned.seconds / 86400 == pytest.approx(10, rel=0.02)
    assert planned.total_flops == pytest.approx(1.55e21, rel=0.01)


def test_languages_and_epochs_are_the_published_ones() -> None:
    table = estimate(recipe_of("base"), gpus=8).languages
    assert table is not None
    assert len(table.languages) == 1834  # 1,833 languages and code
    russian = table.languages["rus"]
    epochs = [entry.epochs for entry in russian if entry is not None]
    assert epochs == pytest.approx([1.156, 0.9987, 0.8757], abs=2e-3)
    for index, (total, phase_tokens) in enumerate([(61, 2.3e12), (110, 600e9), (1834, 100e9)]):
        used = [row[index] for row in table.languages.values() if row[index] is not None]
        assert len(used) == total
        # A phase ends at the step that reaches its tokens.
        assert sum(entry.tokens for entry in used if entry) == pytest.approx(phase_tokens, rel=4e-4)


def test_each_published_dataset_is_whole() -> None:
    totals = {name: sum(counts.values()) for name, counts in published_counts().items()}
    assert totals["pretrain"] == 1_989_020_158_322
    assert totals["ext"] == 600_815_468_128
    assert totals["decay-all"] == 114_226_161_784


def test_other_languages_have_no_published_table() -> None:
    recipe = recipe_of("base", "phases.pretrain.languages=[eng, deu]")
    assert estimate(recipe, gpus=8).languages is None


def test_more_gpus_take_less_time_and_the_same_gpu_hours() -> None:
    wide = ("batch.quantum=64", "batch.rows=128", "batch.growth.from_rows=64")
    few, many = (estimate(recipe_of("base", *wide), gpus=gpus) for gpus in (8, 64))
    # Except for exposed communication, which grows with the number of GPUs.
    assert few.gpu_hours < many.gpu_hours
    assert many.seconds == pytest.approx(few.seconds / 8, rel=0.01)


def test_time_grows_by_what_no_arithmetic_hides() -> None:
    """One row per GPU on 512 GPUs against hand calculation, including exposed gradients."""
    wide = (
        "batch.row_tokens=9216", "batch.rows=512", "batch.quantum=512", "batch.growth=null",
        "phases.extension.rows=4096", "phases.decay.rows=4096",
    )  # fmt: skip
    phase = estimate(recipe_of("base", *wide), gpus=512, mfu=0.25).phases[0]
    arithmetic = 9216 * phase.flops.total / (989e12 * 0.25)
    weights = 2 * 307_786_240 * 511 / 512 / 400e9  # eight cards of 50 GB/s per node
    assert phase.communication.gradient_seconds == pytest.approx(4 * weights)
    assert phase.step_seconds == pytest.approx(arithmetic + weights, rel=1e-6)
    # On slow links the gradients of the one row do not overlap with its backward pass.
    slow = estimate(recipe_of("base", *wide), gpus=512, gpu="rtx-4090", mfu=1.0).phases[0]
    forward = 9216 * phase.flops.total / 165e12 / 3
    gathered = 2 * 307_786_240 * 511 / 512 / 26e9
    assert slow.step_seconds == pytest.approx(forward + 5 * gathered, rel=1e-6)
    stage_2 = estimate(recipe_of("base", *wide, "parallel.zero_stage=2"), gpus=512).phases[0]
    assert stage_2.communication.gradient_bytes == phase.communication.gradient_bytes
    three = estimate(recipe_of("base", *wide, "parallel.zero_stage=3"), gpus=512).phases[0]
    assert three.communication.weight_seconds == pytest.approx(weights)
    huge = estimate(
        recipe_of("base", *wide, "model={preset: huge}", "parallel.zero_stage=3"), gpus=512
    )
    traffic = huge.phases[0].communication  # 7B weights: too many to stay resident for the row
    assert traffic.weight_bytes == pytest.approx(2 * 2 * huge.parameters.total * 511 / 512)
    assert three.step_seconds == pytest.approx(arithmetic, rel=1e-6)


def test_memory_falls_with_zero_stage_and_tensor_size() -> None:
    layouts = {(p.tensor, p.zero_stage): p for p in estimate(recipe_of("base"), gpus=8).layouts}
    totals = {key: layout.memory.total for key, layout in layouts.items() if layout.memory}
    assert totals[1, 1] > totals[1, 2]
    # DeepSpeed keeps up to a billion gathered weights: ZeRO 3 only helps larger models.
    assert totals[1, 3] == pytest.approx(totals[1, 2], rel=0.01)
    huge = estimate(recipe_of("base", "model={preset: huge}", "batch.row_tokens=16384"), gpus=8)
    of_huge = {(p.tensor, p.zero_stage): p.memory for p in huge.layouts if p.memory}
    assert of_huge[1, 2].total > of_huge[1, 3].total + 9e9
    assert totals[1, 1] > totals[2, 1] > totals[4, 1]
    assert layouts[8, 1].memory is None
    assert "12 attention heads not divisible by 8" in (layouts[8, 1].infeasible_reason or "")


def test_layouts_with_too_many_data_ranks_say_so() -> None:
    """Quantum 4 fits the recipe's four data ranks, but not eight without tensor parallelism."""
    changes = ("batch.quantum=4", "parallel.tensor=2")
    layouts = {
        layout.tensor: layout for layout in estimate(recipe_of("base", *changes), gpus=8).layouts
    }
    assert layouts[1].infeasible_reason == "quantum 4 not divisible by 8 data ranks"
    assert layouts[2].infeasible_reason is None


def test_what_does_not_fit_is_said_with_a_remedy() -> None:
    recipe = recipe_of("base", "model={preset: huge, vocab_size: 256000}", "batch.row_tokens=16384")
    planned = estimate(recipe, gpus=8, gpu="h100")
    chosen = next(layout for layout in planned.layouts if layout.chosen)
    assert not chosen.fits
    assert any("does not fit" in warning and "parallel." in warning for warning in planned.warnings)
    better = next(layout for layout in planned.layouts if layout.fits)
    again = estimate(
        recipe_of(
            "base",
            "model={preset: huge, vocab_size: 256000}",
            "batch.row_tokens=16384",
            f"parallel.tensor={better.tensor}",
            f"parallel.zero_stage={better.zero_stage}",
        ),
        gpus=8,
        gpu="h100",
    )
    assert not any("does not fit" in warning for warning in again.warnings)


def test_communication_becomes_the_limit_on_many_gpus_with_few_rows() -> None:
    recipe = recipe_of(
        "base", "batch.quantum=512", "batch.rows=512", "batch.growth=null",
        "phases.extension.rows=null", "phases.decay.rows=null", "batch.row_tokens=8192",
    )  # fmt: skip
    narrow = estimate(recipe, gpus=8, gpu="l40s")
    assert narrow.phases[0].communication_bound_gpus is not None
    wide = estimate(recipe, gpus=narrow.phases[0].communication_bound_gpus, gpu="l40s")
    phase = wide.phases[0]
    assert phase.communication.seconds > phase.compute_seconds
    assert any("communication" in warning for warning in wide.warnings)


def test_zero_1_sends_gradients_and_weights_once_a_step() -> None:
    phase = estimate(recipe_of("base"), gpus=8).phases[0]
    assert phase.communication.gradient_bytes == pytest.approx(2 * 4 * 307_786_240 * 7 / 8)
    assert phase.communication.weight_bytes == pytest.approx(2 * 307_786_240 * 7 / 8)
    assert phase.communication.tensor_bytes == 0


def test_checkpoint_is_masters_and_two_moments() -> None:
    planned = estimate(recipe_of("base"), gpus=8)
    assert planned.checkpoint_bytes == 12 * 307_786_240
    # Every 10B tokens: 230 + 60 + 10, and the phase ends in between.
    assert 300 <= planned.checkpoints_written <= 303
    assert planned.checkpoints_kept == 10 + 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"gpus": 8, "gpu": "h1000"}, "h1000"),
        ({"gpus": 64}, "batch.quantum"),
        ({"gpus": 8, "mfu": 1.5}, "mfu"),
    ],
)
def test_wrong_arguments(arguments: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        estimate(recipe_of("base"), **arguments)


def test_tensor_size_must_divide_the_gpus() -> None:
    with pytest.raises(UserError, match="multiple of"):
        estimate(recipe_of("base", "parallel.tensor=2"), gpus=3)


@pytest.mark.parametrize("gpu", [gpu.name for gpu in GPUS])
def test_every_gpu_is_found_by_its_name(gpu: str) -> None:
    assert find_gpu(gpu.upper()).name == gpu


def test_rendered_plan_says_what_was_asked_for() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(estimate(recipe_of("base"), gpus=8, gpu="h200", mfu=0.25)))
    text = console.export_text()
    for expected in (
        "307,786,240", "4,718,592", "37,748,736", "1,108.9", "GPU-hours at 25% MFU",
        "no: 12 attention heads not divisible by 8", "yes (recipe)", "3.44 GiB",
    ):  # fmt: skip
        assert expected in text


def test_rates_of_groups_are_in_the_plan_where_given() -> None:
    rates = "optimizer.group_learning_rates={matrices: 4e-4, embedding: 1.6e-3}"
    peak = "phases.decay.learning_rate.peak=4e-4"
    shown = {}
    for overrides in ((), (rates, peak)):
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(render(estimate(recipe_of("base", *overrides), gpus=8)))
        shown[overrides] = console.export_text()
    assert "Peak learning rates" not in shown[()]
    table = shown[rates, peak].partition("Peak learning rates")[2].splitlines()
    rows = [line.split() for line in table if line.strip()]
    assert rows[0] == ["phase", "learning", "rate", "matrices", "embedding"]
    assert rows[2:5] == [
        ["pretrain", "0.0008", "0.0004", "0.0016"],
        ["extension", "0.0008", "0.0004", "0.0016"],
        ["decay", "0.0004", "0.0002", "0.0008"],
    ]


def test_the_demo_recipe_can_be_planned() -> None:
    planned = estimate(load_recipe(RECIPES / "demo.yaml"), gpus=2, gpu="l40s")
    assert planned.languages is None
    assert all(phase.steps.steps > 0 for phase in planned.phases)


def test_a_start_that_the_recipe_does_not_suit_is_warned_of(tmp_path: Path) -> None:
    start = f"initial_checkpoint={tmp_path}"
    assert any("mmbert import" in w for w in estimate(recipe_of("base", start), gpus=8).warnings)
    config = {
        "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
        "num_attention_heads": 12, "local_attention": 128, "global_attn_every_n_layers": 3,
        "norm_eps": 1e-5, "global_rope_theta": 10000.0, "local_rope_theta": 10000.0,
        "vocab_size": 256_000, **FIXED_BY_ARCHITECTURE,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert estimate(recipe_of("base", start), gpus=8).warnings == ()
    (tmp_path / "config.json").write_text(json.dumps(config | {"local_rope_theta": 160000.0}))
    (warning,) = estimate(recipe_of("base", start), gpus=8).warnings
    assert "rotary_bases.local of the first phase is 10000" in warning
    assert "trained with 160000" in warning
    (tmp_path / "config.json").write_text(json.dumps(config | {"local_attention": 256}))
    (warning,) = estimate(recipe_of("base", start), gpus=8).warnings
    assert "local_window is 128 instead of 256" in warning


def test_an_unusual_tensor_size_is_among_the_layouts() -> None:
    planned = estimate(recipe_of("base", "parallel.tensor=3"), gpus=24)
    chosen = [layout for layout in planned.layouts if layout.chosen]
    assert [(layout.tensor, layout.data) for layout in chosen] == [(3, 8)]
    assert chosen[0].fits


def test_steps_and_checkpoint_size_are_those_of_a_real_run(tmp_path: Path) -> None:
    """The training tests train `small_run` and count its steps."""
    planned = estimate(parse_recipe(small_run.RECIPE), gpus=2)
    assert sum(phase.steps.steps for phase in planned.phases) == small_run.STEPS
    recipe = runs.recipe()
    size = 300
    model = MaskedLanguageModel(
        encoder_config(recipe.model, size), TensorGroup.single(), sequence_parallel=False
    )
    checkpoint = runs.save_run(tmp_path, model)
    written = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    expected = estimate(recipe.model_copy(update={"model": sized(recipe, size)}), gpus=1)
    assert expected.checkpoint_bytes <= written <= 1.05 * expected.checkpoint_bytes


def sized(recipe: Recipe, vocabulary: int) -> ModelSettings:
    return recipe.model.model_copy(update={"vocab_size": vocabulary})
