"""Evaluation in bfloat16 is close to float32, the default, but not equal."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mmbert.cli.app import app
from mmbert.errors import UserError
from mmbert.evaluation.classification import FineTuningSettings, fine_tune
from mmbert.evaluation.loaded_model import LoadedModel, mean_by_document
from mmbert.evaluation.masked_loss import masked_losses
from tests.evaluation.test_classification import write_examples
from tests.support.written_runs import Run

# The relative error of bfloat16 is at most 2^-8; a few layers accumulate such errors.
NEAR = 2**-5


def both(run: Run) -> tuple[LoadedModel, LoadedModel]:
    return LoadedModel(run.checkpoint, "cpu"), LoadedModel(run.checkpoint, "cpu", torch.bfloat16)


def test_losses_differ_a_little(run: Run, shards: Path) -> None:
    exact, rounded = (masked_losses(model, shards).losses.mean() for model in both(run))
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=NEAR)


def test_vectors_differ_a_little_and_are_float32(run: Run) -> None:
    texts = ["the old town", "ein kind liest am fenster"]
    exact, rounded = (model.sentence_vectors(texts) for model in both(run))
    assert exact.dtype == rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert float((exact - rounded).abs().max()) < NEAR * float(exact.abs().max())


def test_means_are_taken_in_float32() -> None:
    """The mean of two adjacent bfloat16 numbers is not representable in bfloat16."""
    hidden = torch.tensor([[1.0], [1 + 2**-7]] * 500, dtype=torch.bfloat16)
    means = mean_by_document(hidden, torch.tensor([0, 1000], dtype=torch.int32))
    assert means.tolist() == [[1 + 2**-8]]


def test_fine_tuning_makes_steps_that_bfloat16_could_not(run: Run, tmp_path: Path) -> None:
    """Each step moves a weight by at most a tenth of the distance to the next bfloat16 number."""
    train, test = (write_examples(tmp_path / f"{name}.tsv", 60, 0) for name in ("train", "test"))
    model = both(run)[1]
    before = {name: tensor.clone() for name, tensor in model.module.model.named_parameters()}
    settings = FineTuningSettings(epochs=8, batch_size=4, learning_rate=2e-4)
    fine_tune(model, train, [test], settings)
    moved = [
        not torch.equal(before[name], tensor)
        for name, tensor in model.module.model.named_parameters()
        if "norm" in name  # near 1, where adjacent numbers are 2^-8 below and 2^-7 above
    ]
    assert all(tensor.dtype == torch.bfloat16 for tensor in before.values())
    assert any(moved)


def run_evaluate(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(
        app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "200", "TERM": "dumb"}
    )
    return result.exit_code, result.output


def test_the_command_is_in_float32_unless_asked(
    run: Run, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    printed = {
        dtype: run_evaluate(run.checkpoint, "--data", shards, *dtype)
        for dtype in ((), ("--dtype", "float32"), ("--dtype", "bfloat16"))
    }
    assert all(status == 0 for status, _ in printed.values()), printed
    assert printed[()] == printed["--dtype", "float32"] != printed["--dtype", "bfloat16"]


def test_other_types_are_refused_by_name(run: Run) -> None:
    status, said = run_evaluate(run.checkpoint, "--data", "nowhere", "--dtype", "float16")
    assert status == 2
    assert "float16" in said
    assert "bfloat16" in said
    with pytest.raises(UserError, match=r"unsupported dtype torch\.float16\n.*float32, bfloat16"):
        LoadedModel(run.checkpoint, "cpu", torch.float16)


def test_a_gpu_too_old_for_bfloat16_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(UserError, match="Tesla T4 does not support bfloat16"):
        LoadedModel(run.checkpoint, "cuda", torch.bfloat16)
