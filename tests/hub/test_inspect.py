"""`mmbert inspect` on checkpoints and runs, including damaged ones."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.cli.app import app
from mmbert.errors import UserError
from tests.support.written_runs import LANGUAGE_TOKENS, Run, save_run


def printed(path: Path) -> str:
    result = CliRunner().invoke(
        app, ["inspect", str(path)], env={"COLUMNS": "200", "TERM": "dumb"}, catch_exceptions=False
    )
    assert result.exit_code == 0
    return " ".join(result.output.split())


def test_a_checkpoint_is_told_whole(run: Run) -> None:
    text = printed(run.checkpoint)
    parameters = dict(run.model.named_parameters())
    count = sum(parameter.numel() for parameter in parameters.values())
    for expected in (
        "valid,", "step 30 of 30, 61,440 tokens, phase last, recipe tiny-run",
        "saved from 1 tensor × 1 data ranks under ZeRO 1; loads on any grid",
        f"{count:,} parameters, each with a float32 master weight, exp_avg and exp_avg_sq",
    ):  # fmt: skip
        assert expected in text, (expected, text)
    for name, parameter in parameters.items():
        assert f"{name} {' × '.join(map(str, parameter.shape))} " in text, name
    assert (
        "model.layers.1.attn.Wo.weight 64 × 64 1" in text
    )  # dimension split by tensor parallelism
    for language, tokens in LANGUAGE_TOKENS.items():
        assert f"{language} {tokens:,}" in text


def test_a_run_lists_its_checkpoints_and_names_the_damaged_one(run: Run, tmp_path: Path) -> None:
    save_run(tmp_path / "run", run.model, phase="first", step=10)
    damaged = save_run(tmp_path / "run", run.model, step=20)
    text = printed(tmp_path / "run")
    assert "step-00000010 10 20480 first" in text
    assert "step-00000020 20 40960 last" in text
    file = damaged / "rank-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"rank-00000\.safetensors"):
        printed(damaged)
    (damaged / "index.json").write_text("{")
    assert "step-00000020 damaged:" in printed(tmp_path / "run")
