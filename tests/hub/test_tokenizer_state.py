"""A tokenizer that has saved its last use: programs see it without that, and say so.

The same weights and vocabulary are given plain and with each state; results must be equal.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from mmbert.data.shards.tokenizer_function import PROBES, different_part
from mmbert.errors import ArgumentError
from mmbert.evaluation.loaded_model import LoadedModel
from mmbert.hub.fill_mask import fill_masks
from mmbert.hub.importing.import_model import import_model
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.merging.merge import MergeOptions, merge_models
from mmbert_prep.tokenization.encoders import open_encoder
from mmbert_prep.tokenization.folder import same_tokenizer, saved_settings, write_huggingface_folder
from tests.support.external_model import external_model

Change = Callable[[dict[str, Any], dict[str, Any]], object]
LONG = "an old bridge over the river and seven more " * 6


def _padding(direction: str) -> dict[str, Any]:
    return {"strategy": {"Fixed": 60}, "direction": direction, "pad_to_multiple_of": 8,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip


def _truncation(direction: str, strategy: str) -> dict[str, Any]:
    return {"direction": direction, "max_length": 12, "strategy": strategy, "stride": 0}


# Name -> change of tokenizer.json and tokenizer_config.json, and what is said to be set aside.
STATES: dict[str, tuple[Change, str | None]] = {
    "padding": (lambda d, c: d.update(padding=_padding("Right")), "saved padding set aside"),
    "padding left, truncation": (
        lambda d, c: d.update(
            padding=_padding("Left"), truncation=_truncation("Left", "OnlyFirst")
        ),
        "saved padding and truncation set aside",
    ),
    "dropout": (lambda d, c: d["model"].update(dropout=0.5), "saved dropout set aside"),
    "all": (
        lambda d, c: (
            d.update(padding=_padding("Right"), truncation=_truncation("Right", "LongestFirst")),
            d["model"].update(dropout=0.5),
        ),
        "saved padding, truncation and dropout set aside",
    ),
    "no post-processor": (lambda d, c: d.update(post_processor=None), None),
    "short maximum": (lambda d, c: c.update(model_max_length=12), None),
    "sides": (lambda d, c: c.update(padding_side="left", truncation_side="left"), None),
    "clean up": (lambda d, c: c.update(clean_up_tokenization_spaces=True), None),
    "prefix space": (lambda d, c: c.update(add_prefix_space=True), None),
    "chat template": (lambda d, c: c.update(chat_template="{{ messages }}"), None),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return external_model(tmp_path_factory.mktemp("plain") / "model")


def _with(plain: Path, folder: Path, state: str) -> Path:
    shutil.copytree(plain, folder)
    names = ("tokenizer.json", "tokenizer_config.json")
    contents = [json.loads((folder / name).read_text()) for name in names]
    STATES[state][0](*contents)
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_text(json.dumps(content))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("state", STATES)
def test_evaluation_and_fill_mask_see_the_plain_tokenizer(
    plain: Path, tmp_path: Path, state: str
) -> None:
    given = _with(plain, tmp_path / "given", state)
    ours, theirs = LoadedModel(plain, "cpu"), LoadedModel(given, "cpu")
    for text in (*PROBES, LONG):
        assert torch.equal(ours.encode(text), theirs.encode(text))
    assert ours.special_ids == theirs.special_ids
    expected = STATES[state][1]
    assert theirs.tokenizer.set_aside == (
        None if expected is None else f"{given / 'tokenizer.json'}: {expected}"
    )
    said: list[str] = []
    sentence = LONG[:80] + "[MASK]"
    assert fill_masks(plain, [sentence]) == fill_masks(given, [sentence], say=said.append)
    assert said == ([] if expected is None else [theirs.tokenizer.set_aside])


@pytest.mark.parametrize("state", STATES)
def test_import_and_merge_write_what_transformers_reads_the_same(
    plain: Path, tmp_path: Path, state: str
) -> None:
    given = _with(plain, tmp_path / "given", state)
    report = import_model(given, tmp_path / "imported")
    said: list[str] = []
    merge_models([plain, given], tmp_path / "merged", MergeOptions("linear"), say=said.append)
    expected = STATES[state][1]
    if expected is not None:
        assert [line for line in report.lines() if "set aside" in line] == said
        assert said == [f"{given / 'tokenizer.json'}: {expected}"]
    if state == "no post-processor":
        assert any("adds no begin and end" in line for line in report.lines())
    model = LoadedModel(plain, "cpu")
    for folder in ("imported", "merged"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / folder)
        for text in (*PROBES, LONG):
            assert tokenizer(text)["input_ids"] == model.encode(text).tolist()


@pytest.mark.parametrize("state", STATES)
def test_preprocessing_sees_the_plain_tokenizer(plain: Path, tmp_path: Path, state: str) -> None:
    given = _with(plain, tmp_path / "given", state)
    write_huggingface_folder(tmp_path / "one", plain)
    described = write_huggingface_folder(tmp_path / "two", given)
    for one, two in zip(
        open_encoder(tmp_path / "one").encode([*PROBES, LONG]),
        open_encoder(tmp_path / "two").encode([*PROBES, LONG]),
        strict=True,
    ):
        assert np.array_equal(one, two)
    assert same_tokenizer(plain, tmp_path / "two")
    ids = described.special_ids
    assert different_part(plain, ids, tmp_path / "two", ids) is None
    said = STATES[state][1] or ""
    assert all(name in said for name in saved_settings(given))


def test_a_longer_sentence_than_the_context_is_refused_by_fill_mask(tmp_path: Path) -> None:
    model = external_model(tmp_path / "short", max_position_embeddings=32)
    with pytest.raises(ArgumentError, match="the model's context is 32"):
        fill_masks(model, ["[MASK] " + LONG])


def test_dropout_would_change_every_encoding(plain: Path, tmp_path: Path) -> None:
    """Without setting it aside, the tests above would compare random ids."""
    from tokenizers import Tokenizer

    given = _with(plain, tmp_path / "given", "dropout")
    random = Tokenizer.from_file(str(given / "tokenizer.json"))
    assert len({tuple(random.encode(LONG).ids) for _ in range(10)}) > 1
    fixed = FastTokenizer(given)
    assert len({tuple(fixed.encode(LONG)) for _ in range(10)}) == 1
