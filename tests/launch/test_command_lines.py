"""Command lines of both programs: examples in the help, status 2 for invalid input, dry run."""

import sys
from pathlib import Path

import pytest

from tests.support.tiny_run import PREPROCESS, PRETRAIN, ROOT, run


@pytest.mark.parametrize(
    ("program", "example"),
    [
        ((PRETRAIN,), "deepspeed --num_gpus 2 launch/pretrain.py"),
        (("-m", "mmbert.pretrain"), "deepspeed --num_gpus 8 --module mmbert.pretrain"),
        ((PREPROCESS,), "python launch/preprocess.py --input"),
        (("-m", "mmbert_prep"), "python -m mmbert_prep --input"),
    ],
)
def test_help_has_examples(program: tuple[str | Path, ...], example: str) -> None:
    result = run(sys.executable, *program, "--help", COLUMNS="200")
    assert result.returncode == 0
    assert example in result.stdout


def test_dry_run_prints_the_plan_and_leaves_nothing(inputs: Path, tmp_path: Path) -> None:
    result = run(
        *(sys.executable, PRETRAIN, "--recipe", inputs / "recipe.yaml"),
        *("--data", inputs / "shards", "--output", tmp_path / "run", "--dry-run"),
        *("phases.extension.mask_ratio=0.05",),
    )
    assert result.returncode == 0, result.stdout
    assert "mask_ratio: 0.05" in result.stdout
    assert "# 40 steps" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", ["demo", "launch/recipes/demo.yaml"])
def test_a_recipe_goes_by_name_and_the_file_taken_is_said(
    inputs: Path, tmp_path: Path, recipe: str
) -> None:
    result = run(
        *(sys.executable, "-m", "mmbert.pretrain", "--recipe", recipe, "--dry-run"),
        *("--data", inputs / "shards", "--output", tmp_path / "run"),
        *("phases.pretrain.context=64", "phases.extension.context=128", "phases.decay.context=128"),
        *(f"phases.{phase}.languages=all" for phase in ("pretrain", "extension", "decay")),
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stdout
    assert f"# recipe: {recipe} ({ROOT}/src/mmbert/recipes/demo.yaml)" in result.stdout
    assert ("FutureWarning" in result.stdout) == (recipe != "demo")


def test_local_rank_of_the_deepspeed_launcher_is_accepted(inputs: Path, tmp_path: Path) -> None:
    result = run(
        *(sys.executable, PRETRAIN, "--local_rank=0", "--recipe", inputs / "recipe.yaml"),
        *("--data", inputs / "shards", "--output", tmp_path / "run", "--dry-run"),
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recipe", "{inputs}/recipe.yaml", "batch.rowz=8"), "did you mean 'rows'"),
        (("--recipe", "{inputs}/nowhere.yaml"), "nowhere.yaml"),
        (("--recipe", "{inputs}/recipe.yaml", "--data", "{inputs}/nowhere"), "nowhere"),
        (("--recipe", "{inputs}/recipe.yaml", "parallel.tensor=3"), "parallel.tensor (3)"),
    ],
)
def test_pretrain_refuses_wrong_input_with_status_2(
    inputs: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = [word.format(inputs=inputs) for word in arguments]
    data = () if "--data" in given else ("--data", inputs / "shards")
    result = run(sys.executable, PRETRAIN, *given, *data, "--output", tmp_path / "run", "--dry-run")
    assert result.returncode == 2, result.stdout
    assert message in result.stdout
    assert "→" in result.stdout
    assert "Traceback" not in result.stdout


def test_a_batch_script_without_srun_is_refused(inputs: Path, tmp_path: Path) -> None:
    """Otherwise one rank would train alone on the first of many GPUs."""
    result = run(
        *(sys.executable, PRETRAIN, "--recipe", inputs / "recipe.yaml"),
        *("--data", inputs / "shards", "--output", tmp_path / "run"),
        **{"SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"},
    )
    assert result.returncode == 2, result.stdout
    assert "srun" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "{folder}/nowhere"), "nowhere"),
        (("--input", "{folder}", "--tokenizer", "{folder}/missing.model"), "missing.model"),
        (("--input", "{folder}", "--heldout-share", "7"), "--heldout-fraction"),
    ],
)
def test_preprocess_refuses_wrong_input_with_status_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    folder = tmp_path / "text" / "eng_Latn"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("Some words.\n")
    given = [word.format(folder=tmp_path / "text") for word in arguments]
    result = run(sys.executable, PREPROCESS, *given, "--output", tmp_path / "out", "--workers", "1")
    assert result.returncode == 2, result.stdout
    assert message in result.stdout
    assert "→" in result.stdout
    assert "Traceback" not in result.stdout
