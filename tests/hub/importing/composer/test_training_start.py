"""A training job continues from an imported Composer checkpoint, on any grid."""

import io
import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mmbert.checkpoint.format import Index
from mmbert.errors import UserError
from mmbert.planner.plan import estimate
from mmbert.recipe import load_recipe
from mmbert.training.run_config import RunOptions, print_plan, resolve_run_config
from mmbert_prep.executor.workers import SingleProcess
from mmbert_prep.pipeline import preprocess
from mmbert_prep.settings import PrepSettings
from tests.hub.importing.composer.test_continuing import states_of
from tests.support.composer import EARLIER
from tests.support.job_processes import output_of, run_to_the_end
from tests.support.prescribed_run import all_saved, assert_bits_equal
from tests.support.small_run import events, step_losses

RECIPE = """
name: continued
precision: float32
initial_checkpoint: {imported}
model: {{hidden_size: 32, intermediate_size: 40, num_hidden_layers: 4, num_attention_heads: 2,
        local_window: 16, attention_output_dropout: 0.0}}
batch: {{row_tokens: 64, rows: 4, quantum: 4}}
optimizer: {{learning_rate: 8.0e-3, weight_decay: 8.0e-5}}
checkpoint: {{every_tokens: 512, keep_last: 1}}
evaluation: {{documents_per_language: 2}}
logging: {{every_steps: 1, loggers: []}}
guard: {{hang_minutes: 2}}
phases:
  - {{name: warmup, tokens: 1024, context: 64, languages: all, temperature: 0.7, mask_ratio: 0.3,
     rotary_bases: {{global: 160000, local: 10000}}}}
  - {{name: decay, tokens: 2304, context: 64, languages: all, temperature: {{start: 1, end: 0}},
     mask_ratio: 0.3, rotary_bases: {{global: 160000, local: 10000}},
     learning_rate: {{shape: linear, final: 0.02}}}}
"""
FIRST, STEPS = 10, 13
"""The step of the fixture's 2,560 tokens, and the steps of the run."""


@pytest.fixture(scope="module")
def inputs(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the fixture's vocabulary, and the recipe of a run from the imported folder."""
    folder = tmp_path_factory.mktemp("inputs")
    generator = random.Random(0)
    for language, documents in (("eng_Latn", 200), ("deu_Latn", 60)):
        texts = [
            " ".join(f"w{generator.randint(5, 122)}" for _ in range(generator.randint(10, 90)))
            for _ in range(documents)
        ]
        (folder / "text" / language).mkdir(parents=True)
        (folder / "text" / language / "text.txt").write_text("\n\n".join(texts))
    preprocess(
        SingleProcess(),
        PrepSettings(
            input=str(folder / "text"), output=folder / "shards", tokenizer=imported,
            heldout_share=0.1, contexts=(64,),
        ),
    )  # fmt: skip
    (folder / "recipe.yaml").write_text(RECIPE.format(imported=imported))
    return folder


def options_for(inputs: Path, output: Path, *overrides: str) -> RunOptions:
    return RunOptions(inputs / "recipe.yaml", inputs / "shards", output, overrides)


def begun_with(run: Path) -> Path:
    return run / "checkpoints" / f"step-{FIRST:08d}"


@pytest.mark.parametrize(
    ("tensor", "stage", "precision"),
    [(1, 2, "float32"), (2, 1, "bfloat16"), (1, 3, "bfloat16")],
)
def test_a_run_continues_from_the_imported_state_on_any_grid(
    inputs: Path, tmp_path: Path, tensor: int, stage: int, precision: str
) -> None:
    options = options_for(
        inputs,
        tmp_path / "run",
        f"parallel.tensor={tensor}",
        f"parallel.zero_stage={stage}",
        f"precision={precision}",
    )
    assert run_to_the_end(options) == [0, 0], output_of(options)
    index = Index.read(begun_with(options.output))
    assert (index.state.step, index.state.phase, index.optimizer_steps) == (FIRST, "decay", 10)
    assert index.permanent  # although only one checkpoint is kept
    assert_bits_equal(all_saved(begun_with(options.output)), states_of(EARLIER))
    assert sorted(step_losses(options.output)) == list(range(FIRST + 1, STEPS + 1))
    (start,) = events(options.output, "start")
    assert f"at step {FIRST} of {STEPS} (phase 'decay')" in start["text"]
    assert "1,536 tokens of phase 'decay' by the plan, 1,536 in the state (+0)" in start["text"]
    last = Index.read(options.output / "checkpoints" / f"step-{STEPS:08d}")
    assert last.optimizer_steps == STEPS
    decay = json.loads((options.output / "results.json").read_text())["phases"][1]
    assert (decay["tokens"], decay["tokens_elsewhere"]) == (2304, 1536)


def test_the_run_needs_the_imported_state_only_once(
    inputs: Path, imported: Path, tmp_path: Path
) -> None:
    """Its first checkpoint holds everything: the run goes on from it, not from the import."""
    options = options_for(inputs, tmp_path / "run")
    assert run_to_the_end(options, world_size=1) == [0], output_of(options)
    losses = step_losses(options.output)
    for later in (options.output / "checkpoints").glob("step-*"):
        if later != begun_with(options.output):
            shutil.rmtree(later)
    weights_alone = tmp_path / "weights"
    shutil.copytree(imported, weights_alone)
    (weights_alone / "training_state.json").unlink()
    again = replace(options, overrides=(f"initial_checkpoint={weights_alone}",))
    assert run_to_the_end(again, world_size=1) == [0], output_of(again)
    assert f"continuing from {begun_with(options.output)}" in output_of(again)
    assert step_losses(options.output) == losses
    decay = json.loads((options.output / "results.json").read_text())["phases"][1]
    assert (decay["tokens"], decay["tokens_elsewhere"]) == (2304, 1536)


def test_damaged_moments_are_named(inputs: Path, imported: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(imported, damaged)
    content = bytearray((damaged / "optimizer.safetensors").read_bytes())
    content[-5] ^= 1
    (damaged / "optimizer.safetensors").write_bytes(content)
    options = options_for(inputs, tmp_path / "run", f"initial_checkpoint={damaged}")
    assert run_to_the_end(options) == [2, 2], output_of(options)
    assert "optimizer.safetensors is corrupted (checksum mismatch)" in output_of(options)


def test_a_phase_that_is_not_stated_is_asked_for(
    inputs: Path, imported: Path, tmp_path: Path
) -> None:
    unstated = tmp_path / "unstated"
    shutil.copytree(imported, unstated)
    values = json.loads((unstated / "training_state.json").read_text())
    (unstated / "training_state.json").write_text(json.dumps(values | {"phase": None}))
    with pytest.raises(UserError, match="does not say from which phase"):
        resolve_run_config(
            options_for(inputs, tmp_path / "run", f"initial_checkpoint={unstated}"), 1
        )


def test_a_plan_and_a_dry_run_say_where_it_would_start(inputs: Path, tmp_path: Path) -> None:
    planned = estimate(load_recipe(inputs / "recipe.yaml"), gpus=1).warnings
    assert any(f"the run starts at step {FIRST} of {STEPS} (phase 'decay')" in w for w in planned)
    assert not any("rotary_bases" in warning for warning in planned)
    printed = io.StringIO()
    print_plan(resolve_run_config(options_for(inputs, tmp_path / "run"), 1), 1, printed)
    assert f"# continuing from Composer checkpoint {EARLIER.name} at step {FIRST}" in (
        printed.getvalue()
    )
    assert "learning rate 0.00277333 of the plan at step 10" in printed.getvalue()
