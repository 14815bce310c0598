"""Stages of a decay, what is done of them, and input that is refused before they start."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mmbert.cli import app
from mmbert.ownership import take_folder
from tests.support.composer import EARLIER
from tests.support.decays import Call, decay, write_text

WORDS = [f"w{number}" for number in range(5, 60)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("new"), {"swh_Latn": 3, "hau_Latn": 3}, WORDS)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("old"), {"eng_Latn": 3}, WORDS)


def states(call: Call) -> list[tuple[str, str]]:
    """Return name and state of the stages that a dry run printed."""
    assert call.status == 0, call.said
    lines = [line for line in call.said.splitlines() if line[:1].isdigit()]
    return [tuple(line.split(". ", 1)[1].split(": ")) for line in lines]  # type: ignore[misc]


def test_a_dry_run_names_stages_and_commands_and_makes_nothing(
    text: Path, old: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call = decay("org/name", "--input", text, "--old", old, "--output", out, "--dry-run")
    assert states(call) == [
        (name, "to do")
        for name in ("import", "preprocess", "preprocess", "plan", "train", "model", "evaluate")
    ]
    for command in (
        f"mmbert import org/name {out}/imported",
        f"python -m mmbert_prep --input {text} --output {out}/shards --source new --tokenizer "
        f"{out}/imported --context 64",
        f"python -m mmbert_prep --input {old} --output {out}/shards --source old",
        f"mmbert plan {out}/recipe.yaml --data {out}/shards --gpus 1 --gpu h100",
        f"mmbert.pretrain --recipe {out}/recipe.yaml --data {out}/shards --output {out}/run",
        f"mmbert export {out}/run {out}/model",
        f"mmbert evaluate {out}/model --data {out}/shards",
    ):
        assert f"{command}\n" in f"{call.said}\n" or command in call.said, call.said
    assert "with new moments and a warm-up" in call.said
    assert "nothing is merged" in call.said
    assert not out.exists()


def test_a_state_is_continued_and_merged_by_ties(text: Path, old: Path, tmp_path: Path) -> None:
    given = ("org/name", "--input", text, "--old", old, "--output", tmp_path / "out", "--dry-run")
    call = decay(*given, "--state", EARLIER)
    assert "with its moments and without a warm-up" in call.said
    assert "--phase decay --tokens 0 --tokenizer-files org/name" in call.said
    merge = f"mmbert merge {tmp_path}/out/run org/name --method ties --base {tmp_path}/out/imported"
    assert merge in call.said
    call = decay(*given, "--state", EARLIER, "--onto", "org/other", "--merge", "ties:0.2")
    assert "run org/other --method ties" in call.said
    assert "--density 0.2" in call.said
    call = decay(*given, "--merge", "linear:0.25")
    assert f"mmbert merge {tmp_path}/out/imported {tmp_path}/out/run --method linear" in call.said
    assert "--weight 0.75 --weight 0.25" in call.said


def test_a_stage_is_done_when_its_output_is_complete(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ("org/name", "--input", text, "--without-old", "--output", out, "--dry-run")
    assert [name for name, _ in states(decay(*given))].count("preprocess") == 1
    (out / "imported").mkdir(parents=True)
    (out / "imported" / "config.json").write_text(
        json.dumps(
            {
                "model_type": "modernbert", "vocab_size": 10, "hidden_size": 8,
                "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                "max_position_embeddings": 32,
            }
        )
    )  # fmt: skip
    (out / "shards" / "new").mkdir(parents=True)
    call = decay(*given)
    assert states(call)[:2] == [("import", "done"), ("preprocess", "to do")]
    assert "--context 32" in call.said  # the model's, which is shorter than the recipe's
    (out / "shards" / "new" / "summary.json").touch()
    (out / "run" / "checkpoints").mkdir(parents=True)
    assert states(decay(*given))[:4] == [
        ("import", "done"), ("preprocess", "done"), ("plan", "to do"), ("train", "to do"),
    ]  # fmt: skip
    (out / "recipe.yaml").touch()
    (out / "model").mkdir()
    (out / "decay.json").write_text('{"format": 1}')
    refused = decay(*given)
    assert refused.status == 2
    assert "decay.json cannot be read" in refused.said


def test_without_old_languages_is_an_explicit_choice(text: Path, old: Path, tmp_path: Path) -> None:
    given = ("org/name", "--input", text, "--output", tmp_path / "out", "--dry-run")
    refused = decay(*given)
    assert refused.status == 2
    assert "the model may forget" in refused.said
    assert "--old FOLDER" in refused.said
    assert "nothing holds the old languages" in decay(*given, "--without-old").said
    assert decay(*given, "--without-old", "--old", old).status == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--onto", "org/other"), "--onto needs a common ancestor"),
        (("--merge", "ties"), "--merge ties needs a base"),
        (("--merge", "linear:1.5"), "--merge linear:1.5 is not a merge"),
        (("--merge", "mean"), "--merge mean is not a merge"),
        (("--state", EARLIER, "--onto", "o/o", "--merge", "none"), "--onto does not apply"),
        (("--state", "missing.pt"), "--state missing.pt is not a file"),
        (("--tokens", "400"), "400 tokens, no more than its warm-up of 500"),
        (("--languages", ","), "--languages is empty"),
        (("--languages", "swh,yor_Latn"), "no text in {text} for yor_Latn"),
        (("--recipe", "demo"), "--tokens is for a recipe of one phase"),
        (("--recipe", "mmbert-base"), "name two sources, new for INPUT and old"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_made(
    text: Path, tmp_path: Path, words: tuple[str | Path, ...], message: str
) -> None:
    given = ("org/name", "--input", text, "--without-old", "--output", tmp_path / "out")
    tokens = () if "--tokens" in words else ("--tokens", "5k")
    refused = decay(*given, *tokens, *words, small="--recipe" not in words)
    assert refused.status == 2, refused.said
    assert message.format(text=text) in refused.said
    assert "→" in refused.said
    assert not (tmp_path / "out").exists()


def test_a_state_needs_no_warmup(text: Path, tmp_path: Path) -> None:
    given = ("org/name", "--input", text, "--without-old", "--output", tmp_path / "out")
    assert decay(*given, "--tokens", "400", "--state", EARLIER, "--dry-run").status == 0


def begun(out: Path, *names: str) -> None:
    """Make outputs of stages, as far as the comparison of requests looks at them."""
    for name in names:
        (out / name).mkdir(parents=True)


def test_another_decay_in_the_same_folder_is_refused(text: Path, old: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ("missing", "--input", text, "--without-old", "--output", out)
    missing = decay(*given, "--tokens", "5k")
    assert "missing is not a folder" in missing.said  # the first stage; decay.json is written
    begun(out, "shards", "recipe.yaml", "run", "model")
    again = decay(*given, "--tokens", "5k", "--workers", "1", "--gpus", "2", "--dry-run")
    assert again.status == 0, again.said
    for words, message in (
        (("--tokens", "6k"), "tokens was 5000, now it is 6000"),
        (("--tokens", "5k", "--languages", "swh_Latn"), "languages was not given, now it is swh"),
        (("--tokens", "5k", "--merge", "linear:0.5"), "merge was none, now it is linear:0.5"),
        (("--tokens", "5k", "--input", old), f"input was {text}, now it is {old}"),
        (("--tokens", "5k", "seed=5"), "is the output of another decay: "),
    ):
        for more in ((), ("--dry-run",)):
            refused = decay(*given, *words, *more)
            assert refused.status == 2, refused.said
            assert message in refused.said
            assert "another OUTPUT" in refused.said


def test_two_decays_do_not_write_one_folder(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ("missing", "--input", text, "--without-old", "--output", out)
    with take_folder(out) as owner:
        refused = decay(*given)
        assert refused.status == 2, refused.said
        assert f"the decay {out} is being written by process {os.getpid()} on" in refused.said
        owner.check()
    assert "missing is not a folder" in decay(*given).said
    assert sorted(path.name for path in out.iterdir()) == ["decay.json"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    foreign = decay(*given[:-1], tmp_path / "other")
    assert "is not empty and not the output of a decay" in foreign.said
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_an_argument_can_be_corrected_until_it_was_used(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ("--input", text, "--without-old", "--output", out)
    decay("missing", *given, "--tokens", "5k")
    other = decay("other", *given, "--tokens", "6k")
    assert "other is not a folder" in other.said, other.said
    assert json.loads((out / "decay.json").read_text())["request"]["tokens"] == 6000
    begun(out, "recipe.yaml")
    refused = decay("other", *given, "--tokens", "5k")
    assert "tokens was 6000, now it is 5000" in refused.said
    assert f"remove {out}/recipe.yaml to plan anew" in refused.said


def test_a_changed_recipe_file_is_another_decay(text: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    packaged = CliRunner().invoke(app, ["recipes", "your-decay"]).output
    recipe.write_text(packaged)
    given = ("missing", "--input", text, "--without-old", "--output", tmp_path / "out")
    decay(*given, "--recipe", recipe)
    begun(tmp_path / "out", "recipe.yaml")
    recipe.write_text(packaged.replace("mask_ratio: 0.05", "mask_ratio: 0.1"))
    refused = decay(*given, "--recipe", recipe)
    assert "the content of the recipe" in refused.said


def test_a_folder_of_something_else_is_refused(text: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    refused = decay("org/name", "--input", text, "--without-old", "--output", tmp_path / "out")
    assert refused.status == 2
    assert "is not empty and not the output of a decay" in refused.said


def test_help_has_examples() -> None:
    result = CliRunner().invoke(app, ["decay", "--help"], env={"COLUMNS": "250", "TERM": "dumb"})
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    assert "mmbert decay my_model --input my_text --without-old --output my_decay" in said
