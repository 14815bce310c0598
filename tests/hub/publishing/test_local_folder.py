"""Publication to a folder: revisions as a whole or not at all, and going on where it stopped."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import mmbert.hub.export
import mmbert.hub.publishing.revision as revision
from mmbert.cli.app import app
from mmbert.errors import UserError
from mmbert.hub.for_libraries.onnx_graphs import GraphMismatchError
from mmbert.hub.publishing.local_folder import LocalFolder
from mmbert.hub.publishing.publication import parse_publication
from mmbert.hub.publishing.publish import PublishOptions, plan_publication, publish
from mmbert.hub.verification import ExportMismatchError
from mmbert.recipe import parse_recipe
from tests.hub.publishing.conftest import FILES, NAMES, STEPS, QuickGraphs
from tests.support.written_runs import RECIPE, Run, causal_recipe, save_run


def published(run: Path, out: Path, shards: Path | None, **options: object) -> list[str]:
    """Publish `run` to `out`; return what was said."""
    said: list[str] = []
    place = LocalFolder(out)
    publish(plan_publication(run, place, PublishOptions(shards, **options)), place, said.append)
    return said


def files_of(folder: Path) -> set[str]:
    return {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}


def test_every_kept_checkpoint_is_a_revision(
    long_run: Path, shards: Path, tmp_path: Path, quick: QuickGraphs
) -> None:
    said = published(long_run, tmp_path / "out", shards)
    assert sorted(os.listdir(tmp_path / "out")) == ["main", *NAMES]
    assert os.readlink(tmp_path / "out" / "main") == NAMES[-1]
    for name, step in zip(NAMES, STEPS, strict=True):
        folder = tmp_path / "out" / name
        assert files_of(folder) == FILES
        bias = load_file(folder / "model.safetensors")["decoder.bias"]
        assert torch.equal(bias, torch.full_like(bias, step / 100))
        found = parse_publication((folder / "publication.json").read_bytes(), name)
        assert (found.step, found.recipe, found.losses.held_out_step) == (step, "tiny-run", step)
        assert found.losses.training == pytest.approx(5 - step / 100)
        assert found.logits.max_difference < 1e-4
        card = (folder / "README.md").read_text()
        for expected in (
            f"this one is `{name}`", f"held-out text, at step {step} | {4.5 - step / 100:.4f} |",
            "… tier `first` | 4.2500 |", f"| eng_Latn | {4 - step / 100:.4f} |", "- swh",
            "| eng_Latn | 30,000 |", "mask_ratio: 0.15", "over 200 held-out texts: 0.9900",
            "license: unknown", "logits that transformers computes",
        ):  # fmt: skip
            assert expected in card, expected
        assert str(tmp_path) not in card
    assert len(said) == 2 * len(NAMES) + 1
    assert said[2] == f"{NAMES[1]}: export and checks, 2 of 3"
    assert said[1].startswith(f"{NAMES[0]}: logits match transformers (maximum difference ")
    assert said[1].endswith("ONNX within 1.0e-06, int8 mean cosine 0.9900 over 200 texts")
    assert said[-1] == f"{tmp_path / 'out'}: 3 revisions of the run; main is {NAMES[-1]}"


def test_the_same_command_goes_on_after_an_interruption(
    long_run: Path,
    shards: Path,
    tmp_path: Path,
    quick: QuickGraphs,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"

    def interrupted(path: Path, *arguments: object) -> None:
        if len(quick.written) == 2:
            raise KeyboardInterrupt
        return right(path, *arguments)

    right = revision.compare_vectors
    monkeypatch.setattr(revision, "compare_vectors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        published(long_run, out, shards)
    assert os.listdir(out) == [NAMES[0]]
    first = {path: (out / path).stat().st_mtime_ns for path in files_of(out)}
    # A process that was killed leaves its hidden folder.
    shutil.copytree(out / NAMES[0], out / f".{NAMES[1]}-k1ll3d")
    monkeypatch.setattr(revision, "compare_vectors", right)
    quick.written.clear()
    published(long_run, out, shards)
    assert len(quick.written) == 2
    assert sorted(os.listdir(out)) == ["main", *NAMES]
    assert {path: (out / path).stat().st_mtime_ns for path in first} == first
    # Nothing is left to do, and nothing is done.
    quick.written.clear()
    assert len(published(long_run, out, shards)) == 1
    assert quick.written == []


def test_later_checkpoints_are_added_and_main_moves(
    run: Run, long_run: Path, shards: Path, tmp_path: Path, instant: list[str]
) -> None:
    out = tmp_path / "out"
    published(long_run, out, shards)
    shutil.rmtree(long_run / "checkpoints" / NAMES[0])  # as a run deletes old ones
    save_run(long_run, run.model, step=40)
    published(long_run, out, shards)
    assert sorted(os.listdir(out)) == ["main", *NAMES, "step-00000040"]
    assert os.readlink(out / "main") == "step-00000040"
    # The run goes back to an older state: main stays with the newest that is published.
    shutil.rmtree(long_run / "checkpoints" / "step-00000040")
    assert "main is step-00000040" in published(long_run, out, shards)[-1]


def test_an_int8_graph_below_the_bound_is_not_published(
    run: Run, shards: Path, tmp_path: Path, quick: QuickGraphs
) -> None:
    for name, cosine in (("below", 0.9799), ("nan", float("nan")), ("at", 0.98)):
        quick.mean_cosine = cosine
        said = published(run.folder, tmp_path / name, shards)
        folder = tmp_path / name / "main"
        there = (folder / "onnx" / "model_int8.onnx").exists()
        assert there == (name == "at")
        card = (folder / "README.md").read_text()
        assert ("model_int8.onnx` | int8" in card) == there
        if not there:
            why = f"is {cosine:.4f}, below 0.98"
            assert said[2].startswith("step-00000030: onnx/model_int8.onnx is not published: the")
            assert said[2].endswith(why)
            assert "`onnx/model_int8.onnx` is not published: the mean cosine" in card
            assert why in card


def test_int8_needs_200_texts(run: Run, shards: Path, tmp_path: Path, quick: QuickGraphs) -> None:
    fewer = shutil.copytree(shards, tmp_path / "shards")
    shutil.rmtree(fewer / "text" / "eng_Latn")
    said = published(run.folder, tmp_path / "out", fewer)
    assert said[2].endswith("is checked on 200 held-out texts, and the shards have 110")
    assert files_of(tmp_path / "out" / "step-00000030") == FILES - {"onnx/model_int8.onnx"}


def test_without_graphs_no_text_is_needed(run: Run, tmp_path: Path, quick: QuickGraphs) -> None:
    published(run.folder, tmp_path / "float32", None, int8=False)
    published(run.folder, tmp_path / "none", None, onnx=False, int8=False, license="mit")
    int8, float32 = "onnx/model_int8.onnx", "onnx/model.onnx"
    assert files_of(tmp_path / "float32" / "step-00000030") == FILES - {int8}
    assert files_of(tmp_path / "none" / "step-00000030") == FILES - {int8, float32}
    card = (tmp_path / "none" / "main" / "README.md").read_text()
    assert "\nlicense: mit\n" in card
    assert "`mit`, chosen by whoever published" in card
    assert "## ONNX" not in card
    assert "Not known: the run has no log" in card
    with pytest.raises(UserError, match="a run does not know where its shards are") as caught:
        published(run.folder, tmp_path / "more", None)
    assert "--data SHARDS" in caught.value.remedy


def test_a_wrong_revision_does_not_get_out(
    run: Run, shards: Path, tmp_path: Path, quick: QuickGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mismatch(*arguments: object) -> None:
        raise GraphMismatchError("differs")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(revision, "compare_hidden_states", mismatch)
        with pytest.raises(GraphMismatchError):
            published(run.folder, out, shards)
    right = mmbert.hub.export.hugging_face_config
    monkeypatch.setattr(
        mmbert.hub.export,
        "hugging_face_config",
        lambda *arguments, **options: right(*arguments, **options) | {"norm_eps": 1e-3},
    )
    with pytest.raises(ExportMismatchError):
        published(run.folder, out, shards)
    assert os.listdir(out) == []


def test_what_is_there_and_not_of_this_run_is_refused(
    run: Run, long_run: Path, shards: Path, tmp_path: Path, instant: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    published(run.folder, out, shards)
    with pytest.raises(UserError, match=r"step-00000030 in .*out is of another checkpoint than"):
        published(long_run, out, shards)
    shutil.rmtree(long_run / "checkpoints" / NAMES[-1])
    other = parse_recipe(RECIPE.replace("tiny-run", "other"))
    monkeypatch.setattr("tests.support.written_runs.recipe", lambda: other)
    save_run(tmp_path / "other", run.model, step=50)
    with pytest.raises(UserError, match=r"is of the recipe tiny-run, and .*other of other"):
        published(tmp_path / "other", out, shards)
    variant = shutil.copytree(run.folder, tmp_path / "run" / "variants" / "english")
    with pytest.raises(UserError, match="english of tiny-run, variant english"):
        published(variant, out, shards)
    (out / NAMES[0]).mkdir()
    with pytest.raises(UserError, match=f"{NAMES[0]} was not written by mmbert publish"):
        published(long_run, out, shards)
    (tmp_path / "mine" / "main").mkdir(parents=True)
    with pytest.raises(UserError, match="main is not a link to a revision"):
        published(long_run, tmp_path / "mine", shards)
    with pytest.raises(UserError, match="has no checkpoint"):
        published(shards, tmp_path / "none", shards)
    (out / NAMES[0]).rmdir()
    (out / "step-00000030" / "publication.json").write_text("{")
    with pytest.raises(UserError, match=r"publication.json cannot be read"):
        published(run.folder, out, shards)


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(
    long_run: Path, shards: Path, tmp_path: Path, instant: list[str]
) -> None:
    out = tmp_path / "out"
    words = ["publish", str(long_run), str(out), "--data", str(shards), "--dry-run"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    assert not out.exists()
    assert f"{out}: 3 of 3 to publish" in result.output
    assert f"{NAMES[-1]} = main" in result.output
    assert "model.safetensors, onnx/model.onnx, onnx/model_int8.onnx" in result.output
    done = CliRunner().invoke(app, words[:-1])
    assert done.exit_code == 0, done.output
    assert f"main is {NAMES[-1]}" in done.output
    result = CliRunner().invoke(app, words, env={"COLUMNS": "300"})
    assert f"{out}: 0 of 3 to publish" in result.output
    assert result.output.count("published") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "either a folder or a repository"),
        (["out", "--repository", "me/it"], "either a folder or a repository"),
        (["out", "--private"], "--private does not apply"),
        (["out", "--without-onnx", "--without-int8"], "--without-int8 does not apply"),
    ],
)
def test_options_that_contradict_each_other(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["publish", "run", *words])
    assert isinstance(result.exception, UserError)
    assert message in result.exception.message


def test_one_process_at_a_time_publishes_to_a_folder(tmp_path: Path) -> None:
    with LocalFolder(tmp_path), pytest.raises(UserError, match="the publication"):
        LocalFolder(tmp_path).__enter__()


def test_losses_that_a_restart_made_void_do_not_count(
    long_run: Path, shards: Path, tmp_path: Path, instant: list[str]
) -> None:
    """The run went back from 30 to 20 and measured no more: 30 has the losses of 20 and 28."""
    with (long_run / "log.jsonl").open("a") as log:
        for line in (
            {"event": "rollback", "step": 20},
            {"step": 28, "loss": 1.5},
            {"step": 32, "loss": 9.0},
        ):
            log.write(json.dumps(line) + "\n")
        log.write('{"step": 29, "lo')
    published(long_run, tmp_path / "out", shards)
    last = json.loads((tmp_path / "out" / "main" / "publication.json").read_text())["losses"]
    assert (last["training"], last["held_out_step"], last["held_out"]) == (1.5, 20, 4.3)


def test_checkpoints_of_causal_phases_are_left_out_or_asked_for(
    run: Run, tmp_path: Path, instant: list[str]
) -> None:
    folder = tmp_path / "run"
    for step, phase in ((10, "first"), (20, "last"), (30, "last")):
        save_run(folder, run.model, step=step, phase=phase, of=causal_recipe())
    said = published(folder, tmp_path / "out", None, int8=False)
    assert instant == NAMES[1:]
    assert said[0].startswith(f"{NAMES[0]}: is not published, because it is of a causal phase")
    published(folder, tmp_path / "all", None, int8=False, allow_causal=True)
    assert instant == [*NAMES[1:], *NAMES]
    for step in STEPS[1:]:
        shutil.rmtree(folder / "checkpoints" / f"step-{step:08d}")
    with pytest.raises(UserError, match="only checkpoints of causal phases") as refused:
        published(folder, tmp_path / "none", None, int8=False)
    assert "--allow-causal" in refused.value.remedy
