"""From text to a filled mask by the commands a user types, three phases under `deepspeed`.

Programs are started as modules from a folder outside the repository.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tests.support.ranks import free_port
from tests.support.tiny_run import RECIPE, run, write_text

THIRD_PHASE = """
  - name: decay
    tokens: 20k
    context: 128
    languages: all
    temperature: 0.3
    mask_ratio: 0.05
    rotary_bases: {global: 160000, local: 160000}
    learning_rate: {shape: one_minus_sqrt, final: 0.02}
"""
MIDDLE = "languages: {minimum_bytes: 30k}"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the outputs of all commands: text, shards, run, model."""
    folder = tmp_path_factory.mktemp("end_to_end")
    write_text(folder / "text")
    recipe = RECIPE.replace("bytes: 40k", "bytes: 80k").replace("languages: all", MIDDLE)
    recipe = recipe.rstrip() + THIRD_PHASE
    recipe = recipe.replace("learning_rate: 1.0e-3", "learning_rate: 1.0e-2")
    recipe = recipe.replace("tokens: 20k", "tokens: 40k")
    (folder / "recipe.yaml").write_text(recipe)
    for command in (
        f"{sys.executable} -m mmbert_prep --input text --output shards --recipe recipe.yaml"
        " --workers 2 --heldout-fraction 0.1",
        f"{_launcher()} --recipe recipe.yaml --data shards --output run",
        "mmbert export run model",
    ):
        result = run(*command.split(), folder=folder, timeout=400)
        assert result.returncode == 0, result.stdout
    return folder


def _launcher() -> str:
    return f"deepspeed --num_gpus 2 --master_port {free_port()} --module mmbert.pretrain"


def _results(work: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((work / "run" / "results.json").read_text())
    return results


def test_each_phase_saw_its_languages_and_tokens(work: Path) -> None:
    phases = _results(work)["phases"]
    assert [phase["name"] for phase in phases] == ["pretrain", "extension", "decay"]
    assert [phase["languages"] for phase in phases] == [1, 3, 4]
    assert [phase["mask_ratio"] for phase in phases] == [0.3, 0.15, 0.05]
    for phase in phases:
        assert phase["tokens"] >= phase["planned_tokens"] > 0


def test_the_held_out_loss_falls_below_the_unigram_model(work: Path) -> None:
    results = _results(work)
    first, last = results["phases"][0], results["phases"][-1]
    assert last["held_out_end"]["overall"] < first["held_out_start"]["overall"] - 0.3
    assert last["held_out_end"]["overall"] < results["unigram"]["overall"]
    assert set(last["held_out_end"]["tiers"]) == {"pretrain", "extension", "decay"}


def test_the_results_are_printed_for_a_person(work: Path) -> None:
    printed = run("mmbert", "results", work / "run").stdout
    for word in ("pretrain", "extension", "decay", "unigram", "tensorboard", "0.15"):
        assert word in printed, printed


def test_the_exported_model_fills_masks_through_transformers(work: Path) -> None:
    sentence = "[MASK] is here."
    printed = run("mmbert", "fill-mask", work / "model", sentence, "--top", "3").stdout
    assert sentence in printed
    model = AutoModelForMaskedLM.from_pretrained(work / "model")
    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    text = tokenizer(sentence.replace("[MASK]", tokenizer.mask_token), return_tensors="pt")
    mask = (text["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()
    with torch.no_grad():
        best = model(**text).logits[0, mask].topk(3).indices
    for token in best.tolist():
        assert repr(str(tokenizer.decode([token]))) in printed


def test_tensorboard_has_the_curves(work: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(work / "run" / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    assert any("loss" in tag for tag in tags), tags
    assert any("learning_rate" in tag for tag in tags), tags


def test_running_the_same_commands_again_changes_nothing(work: Path) -> None:
    before = (work / "run" / "log.jsonl").read_text()
    again = run(
        *(*_launcher().split(), "--recipe", work / "recipe.yaml"),
        *("--data", work / "shards", "--output", work / "run"),
    )
    assert again.returncode == 0, again.stdout
    steps = [line for line in before.splitlines() if "gradient_norm" in line]
    after = (work / "run" / "log.jsonl").read_text().splitlines()
    assert [line for line in after if "gradient_norm" in line] == steps
    refused = run("mmbert", "export", work / "run", work / "model")
    assert refused.returncode == 2
    assert str(work / "model") in refused.stdout


def test_inspect_shows_languages_and_decodes_documents(work: Path) -> None:
    printed = run("mmbert", "inspect", work / "shards").stdout
    for word in ("eng_Latn", "ell_Grek", "4 languages", "570 documents read"):
        assert word in printed, printed
    document = run(
        *("mmbert", "inspect", work / "shards", "--language", "ell_Grek", "--document", "5")
    ).stdout.strip()
    assert document in (work / "text" / "ell_Grek" / "0.txt").read_text()
    assert len(document) > 100


def test_the_shards_hold_the_text_they_were_made_from(work: Path) -> None:
    verify = ("mmbert", "inspect", work / "shards", "--verify", "--input")
    sound = run(*verify, work / "text")
    assert sound.returncode == 0, sound.stdout
    assert "570 documents in 4 languages decode" in sound.stdout
    other = work / "other"
    write_text(other, scale=2)
    different = run(*verify, other)
    assert different.returncode == 2
    assert "eng_Latn" in different.stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("mmbert", "inspect", "{}/text"), ["text", "OUTPUT folder"]),
        (("mmbert", "inspect", "{}/shards", "--language", "fra_Latn"), ["fra_Latn", "eng_Latn"]),
        (("mmbert", "results", "{}/shards"), ["results.json"]),
        (("mmbert", "export", "{}/shards", "{}/x"), ["shards"]),
        (("mmbert", "fill-mask", "{}/model", "no mask"), ["no mask", "[MASK]"]),
        (("mmbert", "plan", "{}/absent.yaml"), ["absent.yaml"]),
        ((sys.executable, "launch/pretrain.py", "--recipe", "{}/recipe.yaml", "--data", "{}/text",
          "--output", "{}/y"), ["text", "preprocessing"]),
        ((sys.executable, "launch/pretrain.py", "--recipe", "{}/recipe.yaml", "--data",
          "{}/shards", "--output", "{}/y", "phases.dekay.tokens=1"), ["dekay", "'decay'"]),
    ],
)  # fmt: skip
def test_mistakes_end_with_status_two_and_a_remedy(
    work: Path, command: tuple[str, ...], words: list[str]
) -> None:
    result = run(*(word.format(work) for word in command))
    assert result.returncode == 2, result.stdout
    assert "Traceback" not in result.stdout
    for word in words:
        assert word in result.stdout, result.stdout
