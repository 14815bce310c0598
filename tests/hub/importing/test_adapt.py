"""End-to-end adaptation of an external ModernBERT to new languages.

Uses the packaged `adapt` recipe, reduced in size.
"""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmbert.evaluation.loaded_model import LoadedModel
from mmbert.evaluation.masked_loss import masked_losses
from mmbert.hub.export import export_checkpoint
from mmbert.hub.importing.import_model import import_model
from mmbert.training.run_config import RunOptions
from mmbert_prep.executor.workers import SingleProcess
from mmbert_prep.pipeline import preprocess
from mmbert_prep.settings import PrepSettings
from tests.support.environment import ROOT
from tests.support.external_model import external_model
from tests.support.ranks import run_ranks
from tests.support.small_run import pretrain_rank
from tests.support.tokenizers import SENTENCES, byte_level_tokenizer, save_tokenizer

RECIPE = ROOT / "src" / "mmbert" / "recipes" / "adapt.yaml"
SMALL = (
    "precision=float32",
    "model.hidden_size=64", "model.intermediate_size=96", "model.num_hidden_layers=6",
    "model.num_attention_heads=4", "model.local_window=16",
    "batch.row_tokens=512", "batch.rows=4", "batch.quantum=4", "optimizer.learning_rate=1e-3",
    "phases.adapt.tokens=20k", "phases.adapt.context=256", "phases.adapt.learning_rate.warmup=2k",
    "phases.adapt.rotary_bases={global: 30000, local: 700}",
)  # fmt: skip
UNUSED_ROWS = 24
ADDED = (
    "mto", "unapita", "mji", "wa", "kale", "na", "chini", "ya",
    "madaraja", "saba", "makubwa", "kando", "miti", "mirefu",
)  # fmt: skip


def write_text(folder: Path) -> Path:
    """Write documents of a known and of a new language."""
    generator = random.Random(0)
    known = " ".join(SENTENCES[:2]).split()
    for language, words in (("eng_Latn", known), ("swh_Latn", ADDED)):
        documents = [" ".join(generator.choices(words, k=20)) for _ in range(120)]
        (folder / language).mkdir(parents=True)
        (folder / language / "text.txt").write_text("\n\n".join(documents))
    return folder


@pytest.mark.parametrize(
    "extended",
    [
        pytest.param(True, id="extended tokenizer"),
        pytest.param(False, id="own tokenizer", marks=pytest.mark.long),
    ],
)
def test_adapting_lowers_the_loss_of_the_added_language(tmp_path: Path, extended: bool) -> None:
    theirs = tmp_path / "theirs"
    rows = byte_level_tokenizer().get_vocab_size() + (3 if extended else UNUSED_ROWS)
    external_model(theirs, **({} if extended else {"vocab_size": rows}))
    tokenizer = theirs
    if extended:
        grown = byte_level_tokenizer()
        grown.add_tokens(["madaraja", "makubwa", "miti"])
        tokenizer = tmp_path / "tokenizer"
        save_tokenizer(tokenizer, grown)
    import_model(theirs, tmp_path / "imported", tokenizer=tokenizer if extended else None)
    preprocess(
        SingleProcess(),
        PrepSettings(
            input=str(write_text(tmp_path / "text")),
            output=tmp_path / "shards",
            tokenizer=tokenizer,
            heldout_share=0.1,
            contexts=(256,),
        ),
    )
    options = RunOptions(
        RECIPE,
        tmp_path / "shards",
        tmp_path / "run",
        (f"initial_checkpoint={tmp_path / 'imported'}", *SMALL),
    )
    assert run_ranks(pretrain_rank, 1, options, timeout=300) == {0: 0}
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    export_checkpoint(checkpoint, tmp_path / "adapted")
    card = (tmp_path / "adapted" / "README.md").read_text()
    assert "started from the weights" in card
    assert "path: theirs" in card  # the imported model, by name
    assert str(tmp_path) not in card
    before = masked_losses(LoadedModel(tmp_path / "imported"), tmp_path / "shards")
    after = masked_losses(LoadedModel(tmp_path / "adapted"), tmp_path / "shards")
    for language in ("eng_Latn", "swh_Latn"):
        old, new = (found.losses.by_label(found.names)[language] for found in (before, after))
        assert new < old - 0.3
    # Trained from the imported weights: ten steps do not move them far.
    old = load_file(tmp_path / "imported" / "model.safetensors")
    new = load_file(tmp_path / "adapted" / "model.safetensors")
    assert len(new["decoder.bias"]) == rows  # including unused ones
    for name, tensor in old.items():
        similarity = torch.cosine_similarity(tensor.flatten(), new[name].flatten(), dim=0)
        assert similarity > 0.5, name
