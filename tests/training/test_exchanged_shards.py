"""Shards exchanged between two starts of a run: refused before anything is trained on them."""

import json
import shutil
from pathlib import Path

from mmbert.checkpoint.format import INDEX_NAME, Index
from mmbert.data.shards.indexed_dataset import IndexedDataset
from tests.support.corpora import write_language
from tests.support.job_processes import output_of, run_to_the_end
from tests.support.small_run import events, log_of, options_for, step_losses


def other_text(shards: Path, language: str) -> None:
    """Make a language's shards again from as many documents of the same lengths."""
    folder = shards / "text" / language
    lengths = _lengths(folder)
    shutil.rmtree(folder)
    write_language(
        shards,
        "text",
        language,
        lengths,
        contexts=(64, 128),
        heldout=(30, 40, 20),
        vocabulary_size=256,
        number=50,
    )


def _lengths(folder: Path) -> list[int]:
    dataset = IndexedDataset(folder / "train-00000")
    return [len(dataset.document(number)) for number in range(len(dataset))]


def forget_checksums(checkpoint: Path) -> None:
    """Make the checkpoint one of an earlier version."""
    index = Index.read(checkpoint)
    data = {k: v for k, v in index.state.data.items() if k not in ("checksums", "indexes")}
    state = index.state.model_copy(update={"data": data})
    old = index.model_copy(update={"state": state})
    (checkpoint / INDEX_NAME).write_bytes(old.dump())


def test_exchanged_shards_are_refused_and_the_old_ones_go_on(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(inputs, tmp_path / "inputs"))
    shards, started = copy / "shards", tmp_path / "started"
    run = tmp_path / "run"
    options = options_for(copy, run, stop_after_phase="pretrain")
    assert run_to_the_end(options) == [0, 0], output_of(options)
    shards.rename(started)
    shutil.copytree(started, shards)
    for language in ("eng_Latn", "que_Latn"):  # begun with; of a phase to come
        other_text(shards, language)
    before = len(log_of(run))
    whole = options_for(copy, run)
    assert run_to_the_end(whole) == [2, 2]
    assert f"the shards of text/eng_Latn in {shards} are not those" in output_of(options)
    assert "put back the shards" in output_of(options)
    assert "que_Latn" not in output_of(options)
    assert len(log_of(run)) == before

    shutil.rmtree(shards)
    moved = shutil.copytree(started, copy / "shards")
    path = moved / "text/fra_Latn/train-00000.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-2])
    assert run_to_the_end(whole) == [2, 2]
    assert f"{path} has {len(data) - 2:,} bytes, the manifest says {len(data):,}" in output_of(
        options
    )
    path.write_bytes(data)
    assert run_to_the_end(whole) == [0, 0], output_of(options)
    assert step_losses(run) == step_losses(undisturbed)
    assert not events(run, "warning")

    variant = options_for(copy, run, variant="english")
    other_text(moved, "swa_Latn")
    assert run_to_the_end(variant) == [2, 2]
    assert f"the shards of text/swa_Latn in {moved} are not those" in output_of(options)


def test_a_checkpoint_of_an_earlier_version_says_once_what_was_not_compared(
    inputs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = options_for(inputs, run, stop_after_phase="pretrain")
    assert run_to_the_end(options, world_size=1) == [0], output_of(options)
    newest = run / "checkpoints/step-00000010"
    forget_checksums(newest)
    assert "checksums" not in json.loads((newest / INDEX_NAME).read_text())["state"]["data"]
    for phase in ("extension", "decay"):
        options = options_for(inputs, run, stop_after_phase=phase)
        assert run_to_the_end(options, world_size=1) == [0], output_of(options)
    (warning,) = events(run, "warning")
    assert "by their sizes only" in warning["text"]
    assert warning["step"] == 10
