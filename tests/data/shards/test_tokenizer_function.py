"""Tokenizers are compared by what they do, not by the bytes of their files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbert.data.shards.tokenizer_description import TokenizerDescription
from mmbert.data.shards.tokenizer_function import different_part
from mmbert.errors import TokenizerError
from mmbert_prep.tokenization.encoders import HuggingFaceEncoder
from tests.support.tokenizers import SENTENCES, SPECIAL_IDS, gemma_like_tokenizer, save_tokenizer

Change = Callable[[dict[str, Any]], object]
SPACES = {"type": "Replace", "pattern": {"String": "  "}, "content": " "}


def _merges_as_in_old_versions(definition: dict[str, Any]) -> None:
    definition["model"]["merges"] = [" ".join(pair) for pair in definition["model"]["merges"]]


def _without_defaults(definition: dict[str, Any]) -> None:
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        del definition["model"][key]


def _reversed(definition: dict[str, Any]) -> None:
    definition["model"]["vocab"] = dict(reversed(definition["model"]["vocab"].items()))
    definition |= dict(reversed(list(definition.items())))


def _sequences_of_one(definition: dict[str, Any]) -> None:
    for key, members in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        definition[key] = {"type": "Sequence", members: [definition[key]]}


def _swap_merges(definition: dict[str, Any]) -> None:
    merges = definition["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def _add_token(definition: dict[str, Any], **changes: object) -> None:
    last = max(definition["model"]["vocab"].values())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    token = {"id": last, "content": _token(definition, last), "special": False}
    definition["added_tokens"].append(token | flags | changes)


def _token(definition: dict[str, Any], number: int) -> str:
    return next(t for t, given in definition["model"]["vocab"].items() if given == number)


def _swap_ids(definition: dict[str, Any]) -> None:
    vocabulary = definition["model"]["vocab"]
    one, other = _token(definition, 300), _token(definition, 301)
    vocabulary[one], vocabulary[other] = 301, 300


SAME: dict[str, Change] = {
    "layout": lambda d: None,
    "order": _reversed,
    "merges of old versions": _merges_as_in_old_versions,
    "defaults left out": _without_defaults,
    "padding and truncation": lambda d: d.update(
        padding={"strategy": {"Fixed": 60}, "direction": "Right", "pad_to_multiple_of": None,
                 "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"},
        truncation={"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    ),
    "dropout": lambda d: d["model"].update(dropout=0.5),
    "decoder": lambda d: d.update(decoder=None),
    "post-processor": lambda d: d.update(post_processor=None),
    "special tokens not added": lambda d: d.update(added_tokens=[]),
    "sequences of one": _sequences_of_one,
}  # fmt: skip
DIFFERENT: dict[str, tuple[Change, str]] = {
    "ids": (_swap_ids, "vocabulary"),
    "merges": (_swap_merges, "merges"),
    "normalizer": (lambda d: d.update(normalizer=SPACES), "normalizer"),
    "pre-tokenizer": (lambda d: d.update(pre_tokenizer=None), "pre-tokenizer"),
    "fallback": (lambda d: d["model"].update(byte_fallback=False), "model"),
    "added token": (_add_token, "added tokens"),
}  # fmt: skip


def _write(folder: Path, change: Change) -> Path:
    folder.mkdir()
    definition = json.loads(gemma_like_tokenizer().to_str())
    change(definition)
    (folder / "tokenizer.json").write_text(json.dumps(definition, indent=1))
    return folder


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    save_tokenizer(folder, gemma_like_tokenizer())
    return folder


def _ids(folder: Path, texts: list[str]) -> list[np.ndarray]:
    definition = (folder / "tokenizer.json").read_bytes()
    description = TokenizerDescription(
        kind="huggingface", vocabulary_size=1000, fingerprint="", special_ids=SPECIAL_IDS
    )
    return HuggingFaceEncoder(definition, description).encode(texts)


@pytest.mark.parametrize("change", list(SAME))
def test_files_that_do_the_same_are_the_same(given: Path, tmp_path: Path, change: str) -> None:
    other = _write(tmp_path / "other", SAME[change])
    content = (other / "tokenizer.json").read_bytes()
    assert content != (given / "tokenizer.json").read_bytes()
    assert different_part(given, SPECIAL_IDS, other, SPECIAL_IDS) is None
    texts = [*SENTENCES, "  two  spaces, <mask> and 中"]
    for ours, theirs in zip(_ids(given, texts), _ids(other, texts), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("case", list(DIFFERENT))
def test_the_part_that_differs_is_named(given: Path, tmp_path: Path, case: str) -> None:
    change, part = DIFFERENT[case]
    other = _write(tmp_path / "other", change)
    assert different_part(given, SPECIAL_IDS, other, SPECIAL_IDS) == part


def test_flags_of_added_tokens_count(tmp_path: Path) -> None:
    one = _write(tmp_path / "one", _add_token)
    other = _write(tmp_path / "other", lambda d: _add_token(d, lstrip=True))
    assert different_part(one, SPECIAL_IDS, other, SPECIAL_IDS) == "added tokens"


def test_other_special_ids_differ(given: Path) -> None:
    swapped = SPECIAL_IDS.model_copy(update={"begin": 1, "end": 2})
    assert different_part(given, SPECIAL_IDS, given, swapped) == "special tokens"


def test_a_folder_without_a_tokenizer_is_named(given: Path, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=f"{tmp_path}/tokenizer.json cannot be read"):
        different_part(given, SPECIAL_IDS, tmp_path, SPECIAL_IDS)
