"""A run that started from an imported model resumes without the folder of that model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from mmbert.checkpoint.store import read_parameters
from mmbert.hub.model_source import CheckpointSource
from mmbert.model.config import encoder_config
from mmbert.model.initialization import initialize_parameters
from mmbert.model.modernbert import MaskedLanguageModel
from mmbert.parallel.process_grid import TensorGroup
from mmbert.recipe import load_recipe
from tests.support.job_processes import output_of, run_to_the_end
from tests.support.small_run import events, options_for, step_losses, write_initial_checkpoint

UNUSED_ROWS = 3


def _import(folder: Path, inputs: Path) -> Path:
    config = encoder_config(load_recipe(inputs / "recipe.yaml").model, 256)
    grown = replace(config, vocab_size=256 + UNUSED_ROWS)
    model = MaskedLanguageModel(grown, TensorGroup.single(), sequence_parallel=False)
    initialize_parameters(model, 8)
    weights = {name: value.detach().contiguous() for name, value in model.named_parameters()}
    write_initial_checkpoint(folder, inputs, weights)
    (folder / "provenance.json").write_text(json.dumps({"kind": "import", "from": "elsewhere"}))
    return folder


def test_a_run_resumes_after_its_initial_checkpoint_was_deleted(
    inputs: Path, tmp_path: Path
) -> None:
    imported = _import(tmp_path / "imported", inputs)
    start = f"initial_checkpoint={imported}"
    whole = options_for(inputs, tmp_path / "whole", start, stop_after_phase="extension")
    assert run_to_the_end(whole, world_size=1) == [0], output_of(whole)
    first = options_for(inputs, tmp_path / "run", start, stop_after_phase="pretrain")
    assert run_to_the_end(first, world_size=1) == [0], output_of(first)

    shutil.rmtree(imported)
    again = options_for(inputs, tmp_path / "run", start, stop_after_phase="extension")
    assert run_to_the_end(again, world_size=1) == [0], output_of(again)
    assert "at step 10 of 22" in events(again.output, "start")[-1]["text"]
    assert step_losses(again.output) == step_losses(whole.output)
    weights, expected = (
        dict(read_parameters(options.output / "checkpoints" / "step-00000016"))
        for options in (again, whole)
    )
    assert expected["decoder.bias"].shape == (256 + UNUSED_ROWS,)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    source = CheckpointSource(again.output / "checkpoints" / "step-00000016")
    assert source.provenance["started_from"] == {"kind": "import", "from": "elsewhere"}

    elsewhere = options_for(inputs, tmp_path / "new", start)
    assert run_to_the_end(elsewhere, world_size=1) == [2]
    assert f"cannot read {imported / 'config.json'}" in output_of(elsewhere)
