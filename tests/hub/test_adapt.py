"""Continuing a stranger's ModernBERT on added languages, from its folder to a better one."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distributed import run_ranks
from mmbert.evaluation.loaded import LoadedModel
from mmbert.evaluation.masked_loss import masked_losses
from mmbert.hub.export import export_checkpoint
from mmbert.hub.import_ import import_model
from mmbert.training.preparation import RunOptions
from mmbert_prep.pipeline import preprocess
from mmbert_prep.settings import PrepSettings
from mmbert_prep.team import SoloTeam
from tests.hub.ranks import ADAPTED_RECIPE
from tests.hub.strangers import stranger
from tests.hub.tokenizers_for_tests import SENTENCES, byte_level_tokenizer, save_tokenizer
from tests.training.small_run import pretrain_rank

ADDED = (
    "mto", "unapita", "mji", "wa", "kale", "na", "chini", "ya",
    "madaraja", "saba", "makubwa", "kando", "miti", "mirefu",
)  # fmt: skip


def write_text(folder: Path) -> Path:
    """Documents of a language that the model knows and of one that is new to it."""
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
    theirs = stranger(tmp_path / "theirs")
    tokenizer = theirs
    if extended:
        grown = byte_level_tokenizer()
        grown.add_tokens(["madaraja", "makubwa", "miti"])
        tokenizer = tmp_path / "tokenizer"
        save_tokenizer(tokenizer, grown)
    import_model(theirs, tmp_path / "imported", tokenizer=tokenizer if extended else None)
    preprocess(
        SoloTeam(),
        PrepSettings(
            input=str(write_text(tmp_path / "text")),
            output=tmp_path / "shards",
            tokenizer=tokenizer,
            heldout_share=0.1,
            contexts=(256,),
        ),
    )
    (tmp_path / "recipe.yaml").write_text(ADAPTED_RECIPE)
    options = RunOptions(
        tmp_path / "recipe.yaml",
        tmp_path / "shards",
        tmp_path / "run",
        (f"initial_checkpoint={tmp_path / 'imported'}", "precision=float32"),
    )
    assert run_ranks(pretrain_rank, 1, options, timeout=300) == {0: 0}
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    export_checkpoint(checkpoint, tmp_path / "adapted")
    before = masked_losses(LoadedModel(tmp_path / "imported"), tmp_path / "shards")
    after = masked_losses(LoadedModel(tmp_path / "adapted"), tmp_path / "shards")
    for language in ("eng_Latn", "swh_Latn"):
        assert after.languages[language].loss < before.languages[language].loss - 0.3
    # It went on from the imported weights: ten steps do not carry them far.
    old = load_file(tmp_path / "imported" / "model.safetensors")
    new = load_file(tmp_path / "adapted" / "model.safetensors")
    for name, tensor in old.items():
        similarity = torch.cosine_similarity(tensor.flatten(), new[name].flatten(), dim=0)
        assert similarity > 0.5, name
