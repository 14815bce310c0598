"""`mmbert ablate` with real training runs of a few seconds: results, resuming, failures."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.cli import app
from mmbert.data.shards.manifest import read_manifest, write_manifest
from mmbert.errors import UserError
from mmbert.ownership import take_folder
from tests.support.corpora import write_corpus
from tests.support.job_processes import wait_for
from tests.support.tiny_run import ENVIRONMENT, PRETRAIN, run, weights

LAUNCH = f"{sys.executable} {PRETRAIN}"
VARIED = "constant-mask"


@dataclass(frozen=True)
class Call:
    """Exit status and output of a call of the command."""

    status: int
    said: str


def ablate(inputs: Path, output: Path, *words: str, launch: str = LAUNCH) -> Call:
    """Run `mmbert ablate` on the small recipe in this process, with real training."""
    command = ["ablate", inputs / "recipe.yaml", "--data", inputs / "shards", "--output", output]
    options = [] if "--seeds" in words else ["--seeds", "1"]
    result = CliRunner(env=ENVIRONMENT).invoke(
        app, [*map(str, command), "--launch", launch, *options, *words]
    )
    if isinstance(result.exception, UserError):
        return Call(2, f"error: {result.exception}")  # as `main` prints it
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Call(result.exit_code, result.output)


@pytest.fixture(scope="module")
def ended(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Call]]:
    """The output folder of three calls: stopped, continued, and repeated."""
    output = tmp_path_factory.mktemp("ablations") / "out"
    (output / "full" / "seed-3").mkdir(parents=True)
    (output / "full" / "seed-3" / "STOP").touch()
    calls = [ablate(inputs, output, "--only", VARIED)]
    assert not (output / "ablations.json").exists()
    calls.append(ablate(inputs, output, "--only", VARIED))
    before = _logs(output)
    calls.append(ablate(inputs, output, "--only", VARIED))
    assert _logs(output) == before
    return output, calls


def _logs(output: Path) -> dict[str, str]:
    """Return the logs that the runs wrote during training."""
    found = [*output.rglob("log.jsonl"), *output.rglob("seed-*.log")]
    return {str(path): path.read_text() for path in sorted(found)}


def test_a_stopped_run_passes_its_status_on(ended: tuple[Path, list[Call]]) -> None:
    _, (stopped, _, _) = ended
    assert stopped.status == 75, stopped.said
    assert "full, seed 3 was stopped after saving" in stopped.said


def test_both_recipes_train_and_are_compared(ended: tuple[Path, list[Call]]) -> None:
    output, (_, call, _) = ended
    assert call.status == 0, call.said
    result = json.loads((output / "ablations.json").read_text())
    full, varied = result["variations"]
    assert (full["name"], varied["name"]) == ("full", VARIED)
    assert varied["overrides"] == [
        "phases.extension.mask_ratio=0.3", "phases.decay.mask_ratio=0.3",
    ]  # fmt: skip
    assert result["languages"] == {"all": 5, "pretrain": 2, "extension": 2, "decay": 1}
    for tier, entry in varied["tiers"].items():
        own, other = entry["losses"]["3"], full["tiers"][tier]["losses"]["3"]
        assert 3 < own < 7
        assert entry["difference"] == pytest.approx(own - other)
        assert own != other, "the ablation trained the unchanged recipe"
        assert f"{own:.3f}" in call.said
    assert "no error estimate" in call.said


def test_the_same_command_again_trains_nothing(ended: tuple[Path, list[Call]]) -> None:
    _, (_, second, third) = ended
    assert third.status == 0, third.said
    assert "remaining: 0 runs" in third.said
    assert "training" not in third.said
    assert _table(third.said) == _table(second.said)


def _table(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if "│" in line]


def test_a_shared_phase_is_trained_once_and_changes_nothing(
    ended: tuple[Path, list[Call]], inputs: Path, tmp_path: Path
) -> None:
    """The ablation started at the end of the first phase equals one trained from step 0."""
    output, (_, call, _) = ended
    assert "remaining: 2 runs, 34,816 tokens" in call.said, "22 + 12 steps of 1,024 tokens"
    own = output / VARIED / "seed-3"
    alone = run(
        *(sys.executable, PRETRAIN, "--recipe", inputs / "recipe.yaml"),
        *("--data", inputs / "shards", "--output", tmp_path / "alone"),
        *("phases.extension.mask_ratio=0.3", "phases.decay.mask_ratio=0.3", "seed=3"),
    )
    assert alone.returncode == 0, alone.stdout
    assert weights(own) == weights(tmp_path / "alone")
    steps = [json.loads(line) for line in (own / "log.jsonl").read_text().splitlines()]
    assert min(entry["step"] for entry in steps if "step_loss" in entry) > 10
    phases = json.loads((own / "results.json").read_text())["phases"]
    assert all(phase["held_out_end"] for phase in phases)


def test_a_checkpoint_is_copied_only_into_a_folder_that_nobody_writes(
    ended: tuple[Path, list[Call]], inputs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    shutil.copytree(ended[0] / "full", output / "full")
    other = output / VARIED / "seed-3"
    with take_folder(other) as owner:
        (other / "checkpoints/.partial-step-00000010").mkdir(parents=True)
        call = ablate(inputs, output, "--only", VARIED)
        assert call.status == 2
        assert f"the run {other} is being written by process {os.getpid()} on" in call.said
        assert (other / "checkpoints/.partial-step-00000010").is_dir()
        owner.check()


def test_finished_runs_are_not_compared_on_other_shards(
    ended: tuple[Path, list[Call]], inputs: Path, tmp_path: Path
) -> None:
    """Runs that are still to be trained would see other text than those that are done."""
    shutil.copytree(inputs, tmp_path / "inputs")
    folder = tmp_path / "inputs/shards/text/eng_Latn"
    manifest = read_manifest(folder)
    last = manifest.train.shards[-1]
    other = last.files.model_copy(
        update={"bin": last.files.bin.model_copy(update={"xxh3_128": "0" * 32})}
    )
    shards = (*manifest.train.shards[:-1], last.model_copy(update={"files": other}))
    train = manifest.train.model_copy(update={"shards": shards})
    write_manifest(folder, manifest.model_copy(update={"train": train}))
    refused = ablate(tmp_path / "inputs", ended[0], "--only", VARIED, "--dry-run")
    assert refused.status == 2, refused.said
    assert "full, seed 3: the shards of text/eng_Latn in" in refused.said


def test_another_recipe_is_refused_in_the_same_folder(
    ended: tuple[Path, list[Call]], inputs: Path
) -> None:
    output, _ = ended
    for override, named in (
        ("phases.pretrain.mask_ratio=0.2", "phases.pretrain.mask_ratio=0.3, the recipe has"),
        ("optimizer.learning_rate=1e-3", "a different `optimizer`"),
        ("phases.decay.learning_rate.final=0.5", "a different `phases`"),
    ):
        refused = ablate(inputs, output, "--only", VARIED, override)
        assert refused.status == 2, refused.said
        assert named in refused.said
        assert "another --output" in refused.said


def test_the_mask_ratio_of_the_comparison_can_be_another(
    ended: tuple[Path, list[Call]], inputs: Path
) -> None:
    output, _ = ended
    before = (output / "ablations.json").read_text()
    again = ablate(inputs, output, "--only", VARIED, "--mask-ratio", "0.4")
    assert again.status == 0, again.said
    assert "40% masked" in again.said
    assert json.loads((output / "ablations.json").read_text())["mask_ratio"] == 0.4
    (output / "ablations.json").write_text(before)


WAITS = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
print("begun", flush=True)
while not (folder / "STOP").exists():
    time.sleep(0.05)
sys.exit(75)
"""


def test_a_signal_lets_the_run_save_first(inputs: Path, tmp_path: Path) -> None:
    """The signal would kill a launcher; the run gets a STOP file, removed afterwards."""
    (tmp_path / "waits.py").write_text(WAITS)
    given = ("--data", inputs / "shards", "--output", tmp_path)
    launch = f"{sys.executable} {tmp_path / 'waits.py'}"
    process = subprocess.Popen(
        ["mmbert", "ablate", inputs / "recipe.yaml", *given, "--launch", launch],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log = tmp_path / "full" / "seed-3.log"
    wait_for(lambda: log.exists() and "begun" in log.read_text(), 60)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "repeat the command to continue" in said
    assert not (tmp_path / "full" / "seed-3" / "STOP").exists()


def test_a_failing_run_is_named_and_its_status_passed_on(inputs: Path, tmp_path: Path) -> None:
    failed = ablate(inputs, tmp_path, launch="sh -c 'echo no room left on the disk; exit 7'")
    assert failed.status == 7, failed.said
    assert "full, seed 3 failed with exit status 7" in failed.said
    assert "no room left on the disk" in failed.said
    killed = ablate(inputs, tmp_path, launch="sh -c 'kill -9 $$'")
    assert killed.status == 128 + 9, killed.said
    idle = ablate(inputs, tmp_path, launch="true")
    assert idle.status == 1
    assert "before its last step" in idle.said


def test_the_dry_run_says_what_would_be_trained(inputs: Path, tmp_path: Path) -> None:
    more = ("--seeds", "2", "--dry-run", "evaluation.documents_per_language=2")
    planned = ablate(inputs, tmp_path / "out", *more)
    assert planned.status == 0, planned.said
    for words in (
        "phases.extension.mask_ratio=0.3",
        "phases.decay.temperature=0.7",
        "phases.pretrain.languages=all",
        'phases.decay.learning_rate={"shape": "constant"}',
        "10 runs (5 × 2 seeds); remaining: 10 runs, 151,552 ",
        "    22 steps, 22,528 tokens, ",
    ):
        assert words in planned.said, planned.said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "constant-masks"), "did you mean 'constant-mask'"),
        (("--launch", "deepspeed launch/pretrian.py"), "launch/pretrian.py not found"),
        (("--launch", "sruun python launch/pretrain.py"), "sruun not found"),
        (("data.sources=[{name: text, max_epochs: 0.01}]",), "full, seed 3: "),
        (("phases.dekay.tokens=1",), "'decay'"),
    ],
)
def test_wrong_input_ends_with_status_two(
    inputs: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    refused = ablate(inputs, tmp_path / "out", *words)
    assert refused.status == 2, refused.said
    assert message in refused.said
    assert "→" in refused.said
    assert not (tmp_path / "out").exists()


def test_shards_without_held_out_text_are_refused_before_the_training(
    inputs: Path, tmp_path: Path
) -> None:
    write_corpus(tmp_path / "shards", {"text": {"eng_Latn": [40] * 50}}, contexts=(64, 128))
    (tmp_path / "recipe.yaml").write_text((inputs / "recipe.yaml").read_text())
    refused = ablate(tmp_path, tmp_path / "out")
    assert refused.status == 2, refused.said
    assert "no held-out text" in refused.said


def test_help_has_examples() -> None:
    result = CliRunner().invoke(app, ["ablate", "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    assert "mmbert ablate recipe.yaml --data my_shards --output ablations --dry-run" in said
