"""Import of Composer checkpoints: weights, logits, moments and place; errors name the cause."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from mmbert.checkpoint.imported_state import read_imported_state
from mmbert.errors import UserError
from mmbert.hub.importing.composer.configuration import ComposerModel, read_model
from mmbert.hub.importing.composer.import_checkpoint import (
    ComposerImportOptions,
    ComposerImportReport,
    import_composer_checkpoint,
)
from mmbert.hub.importing.composer.optimizer import OptimizerState
from mmbert.hub.importing.composer.weights import hugging_face_name, renamed_tensors
from mmbert.hub.importing.import_model import import_model
from tests.support.composer import (
    EARLIER,
    EXTENSION,
    FIXTURES,
    changed_checkpoint,
    composer_state,
    configured,
    integer_keys,
    with_prefixes,
    without_what_published_files_lack,
)

State = dict[str, Any]


def run_import(path: Path, out: Path, **options: Any) -> ComposerImportReport:
    return import_composer_checkpoint(path, out, ComposerImportOptions(**options))


def assert_bits_of_the_fixture(folder: Path, path: Path = EARLIER) -> None:
    state = composer_state(path)
    weights = load_file(folder / "model.safetensors")
    theirs = {hugging_face_name(name): tensor for name, tensor in state["model"].items()}
    theirs.pop("decoder.weight")
    assert weights.keys() == theirs.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in theirs.items())
    moments = load_file(folder / "optimizer.safetensors")
    assert len(moments) == 2 * len(weights)
    for name, saved in state["optimizers"]["StableAdamW"]["state"].items():
        for moment in ("exp_avg", "exp_avg_sq"):
            found = moments[f"{hugging_face_name(name)}/{moment}"]
            assert torch.equal(found, saved[moment]), name


def test_logits_of_transformers_are_composers(imported: Path) -> None:
    stored = load_file(FIXTURES / "continuation.safetensors")
    ids = stored["batch11.input_ids"][:1]
    model = AutoModelForMaskedLM.from_pretrained(imported).eval()
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    difference = float((logits - stored["batch11.logits_row0"]).abs().max())
    assert difference < 1e-6 * float(logits.abs().max())
    tokenizer = AutoTokenizer.from_pretrained(imported)
    assert tokenizer("w5 w122", add_special_tokens=False).input_ids == [5, 122]
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (0, 4)


def test_weights_and_moments_come_in_bit_for_bit(imported: Path) -> None:
    assert_bits_of_the_fixture(imported)


def test_integer_keys_and_prefixes_of_wrappers_mean_the_same(tmp_path: Path) -> None:
    def change(state: State) -> None:
        with_prefixes(state)
        integer_keys(state)

    run_import(changed_checkpoint(tmp_path / "state.pt", change), tmp_path / "out", phase="decay")
    assert_bits_of_the_fixture(tmp_path / "out")


def test_named_keys_with_prefixes_find_their_parameters(tmp_path: Path) -> None:
    state = composer_state(changed_checkpoint(tmp_path / "state.pt", with_prefixes))
    tensors = renamed_tensors(EARLIER, state["model"])
    shapes = {n: tuple(t.shape) for n, t in tensors.items() if n != "decoder.weight"}
    optimizer = OptimizerState(tmp_path, state, shapes)
    saved = composer_state()["optimizers"]["StableAdamW"]["state"]
    for name, moments in saved.items():
        assert torch.equal(optimizer.read(hugging_face_name(name), "exp_avg"), moments["exp_avg"])


def test_time_that_ran_on_is_counted_from_the_start_of_the_run(
    imported_with_report: tuple[Path, ComposerImportReport],
) -> None:
    folder, report = imported_with_report
    state = read_imported_state(folder)
    assert state is not None
    assert (state.tokens, state.counted_from, state.phase) == (2560, "run", "decay")
    optimizer = state.optimizer
    assert (optimizer.steps, optimizer.learning_rate, optimizer.weight_decay) == (10, 8e-3, 8e-5)
    assert optimizer.next_learning_rate == pytest.approx(0.00702)
    assert (optimizer.betas, optimizer.eps) == ((0.9, 0.95), 1e-8)
    said = "\n".join(report.lines())
    assert "StableAdamW at step 10" in said
    assert "2,560 tokens, counted from the start of the run" in said
    assert "rate lags one step" in said
    assert "without the lag" in said
    assert "in no file, so not continued: data order (sampler and packer), masks" in said


def test_time_that_was_reset_is_counted_from_the_start_of_the_phase(tmp_path: Path) -> None:
    report = run_import(EXTENSION, tmp_path / "out")
    state = read_imported_state(tmp_path / "out")
    assert state is not None
    assert (state.tokens, state.counted_from, state.phase) == (512, "phase", None)
    assert state.optimizer.steps == 14
    said = "\n".join(report.lines())
    assert "time was reset (batch 2, optimizer step 14)" in said
    assert "phase not stated (--phase)" in said
    assert_bits_of_the_fixture(tmp_path / "out", EXTENSION)


def test_a_stripped_file_takes_place_and_tokenizer_from_the_user(
    imported: Path, tmp_path: Path
) -> None:
    path = changed_checkpoint(tmp_path / "ep0-ba10.pt", without_what_published_files_lack)
    with pytest.raises(UserError, match="holds no model configuration") as caught:
        run_import(path, tmp_path / "out", phase="decay", tokens=2560)
    assert "--tokenizer-files" in caught.value.remedy
    with pytest.raises(UserError, match=r"has no timestamp.*optimizer step 10") as caught:
        run_import(path, tmp_path / "out", phase="decay", files=imported)
    assert "--tokens" in caught.value.remedy
    run_import(path, tmp_path / "out", phase="decay", tokens=2560, files=imported)
    state = read_imported_state(tmp_path / "out")
    assert state is not None
    assert (state.tokens, state.counted_from) == (2560, "phase")
    assert_bits_of_the_fixture(tmp_path / "out")


def test_weights_alone(tmp_path: Path) -> None:
    """Also of a file that was saved with save_weights_only."""

    def weights_only(state: State) -> None:
        for key in state.keys() - {"model", "integrations"}:
            del state[key]

    path = changed_checkpoint(tmp_path / "state.pt", weights_only)
    with pytest.raises(UserError, match="has no optimizer state") as caught:
        run_import(path, tmp_path / "out", phase="decay")
    assert "--weights-only" in caught.value.remedy
    report = run_import(path, tmp_path / "out", weights_only=True)
    assert not (tmp_path / "out" / "optimizer.safetensors").exists()
    assert read_imported_state(tmp_path / "out") is None
    assert "weights alone" in "\n".join(report.lines())


def test_an_imported_folder_can_be_imported_again(imported: Path, tmp_path: Path) -> None:
    """With another tokenizer or smaller sizes; the training state is left behind."""
    import_model(imported, tmp_path / "again")
    first, second = (
        load_file(path / "model.safetensors") for path in (imported, tmp_path / "again")
    )
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert read_imported_state(tmp_path / "again") is None
    provenance = json.loads((tmp_path / "again" / "provenance.json").read_text())
    assert provenance["from"]["made_from"]["from"]["optimizer_steps"] == 10


def model_of(change: Callable[[State], object]) -> ComposerModel:
    state = composer_state()
    change(state)
    return read_model(EARLIER, state, rows=128, files=None, context=None)


def test_a_local_base_of_minus_one_is_the_global_one() -> None:
    model = model_of(configured(local_attn_rotary_emb_base=-1)).model
    assert (model.rotary_bases.global_, model.rotary_bases.local_) == (160_000, 160_000)


def test_a_window_of_minus_one_is_none() -> None:
    model = model_of(configured(sliding_window=-1, global_attn_every_n_layers=-1)).model
    assert all(model.encoder.attends_globally(layer) for layer in range(4))


def test_dropout_of_the_training_is_said() -> None:
    model = model_of(configured(attn_out_dropout_prob=0.1, mlp_dropout_prob=0.2))
    assert model.dropout == 0.1
    assert model.model.encoder.attention_output_dropout == 0.0
    assert "mlp_dropout_prob 0.2" in model.notes[-1]
