"""From a Hugging Face folder through the training engine and back: nothing changes on the way."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from mmbert.hub.export import export_checkpoint
from mmbert.hub.importing.import_model import import_model
from tests.support.external_model import external_model
from tests.support.hub_ranks import save_after_no_step
from tests.support.ranks import run_ranks
from tests.support.tokenizers import byte_level_tokenizer, save_described_tokenizer


def test_weights_through_bfloat16_runs_of_no_steps(tmp_path: Path) -> None:
    """Split over a tensor group under ZeRO 1, and partitioned over data ranks under ZeRO 3."""
    theirs = external_model(tmp_path / "theirs")
    import_model(theirs, tmp_path / "imported")
    runs = {(2, 1): tmp_path / "tensor", (1, 3): tmp_path / "zero"}
    for run in runs.values():
        save_described_tokenizer(run / "tokenizer", byte_level_tokenizer())
    run_ranks(save_after_no_step, 2, tmp_path / "imported", runs)
    before = load_file(theirs / "model.safetensors")
    for run in runs.values():
        export_checkpoint(run / "checkpoints" / "step-00000000", tmp_path / f"{run.name}-out")
        after = load_file(tmp_path / f"{run.name}-out" / "model.safetensors")
        assert len(after) == 6 * 6 - 1 + 6
        assert all(torch.equal(before[name], after[name]) for name in after)
