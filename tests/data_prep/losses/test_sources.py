"""Losses of several sources of one call, and the names that are no languages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mmbert.errors import TextError
from mmbert_prep.executor.workers import SingleProcess
from mmbert_prep.pipeline import preprocess_sources
from mmbert_prep.shards.summary import Summary
from tests.data_prep.losses.inputs import TEXT, lines, write
from tests.support.texts import json_lines, settings


def make(tmp_path: Path, *sources: str, **changes: object) -> list[Summary]:
    values = {"vocabulary_size": None, "unit_bytes": 20_000, **changes}
    each = [
        settings(tmp_path / "in" / name, tmp_path / "out", source=name, **values)
        for name in sources
    ]
    return preprocess_sources(SingleProcess(), each)


@pytest.mark.parametrize("trained", [False, True])
def test_each_source_has_its_own_limits(trained: bool, tmp_path: Path, tokenizer: Path) -> None:
    """A small source that is lost is not made up for by a large one."""
    changes: dict[str, object] = {"deduplicate": False}
    if trained:
        changes["vocabulary_size"] = 350
    else:
        shutil.copytree(tokenizer, tmp_path / "out" / "tokenizer")
    write(tmp_path, large__eng_Latn=lines(1000), small__eng_Latn=lines(47, bad=3))
    with pytest.raises(TextError, match=r"^source small: the run already") as error:
        make(tmp_path, "large", "small", **changes)
    assert str(error.value).count("source small") == 1
    assert "300 of 5,000 bytes" in str(error.value)
    summaries = make(tmp_path, "large", "small", maximum_unread_fraction=0.1, **changes)
    assert [summary.unread_bytes for summary in summaries] == [{}, {"eng_Latn": 300}]


def test_a_finished_source_is_not_checked_again(tmp_path: Path, tokenizer: Path) -> None:
    shutil.copytree(tokenizer, tmp_path / "out" / "tokenizer")
    write(tmp_path, first__eng_Latn=lines(90, bad=10), second__eng_Latn=lines(200))
    [first] = make(tmp_path, "first", maximum_unread_fraction=0.2)
    again, second = make(tmp_path, "first", "second")
    assert again == first
    assert second.unread_bytes == {}
    assert second.rejected() == {"duplicate_of_source": 90}


def test_names_that_are_no_languages_are_the_reason(
    tmp_path: Path, start: Callable[..., Summary]
) -> None:
    rows = [{"text": f"{TEXT}{n}", "language": ("en", "xx", "sr")[n % 3]} for n in range(90)]
    write(tmp_path, mixed=json_lines(rows))
    with pytest.raises(TextError, match=r"no language: sr .30 documents") as error:
        start()
    assert "'sr: srp_Cyrl' or 'sr: srp_Latn'" in str(error.value)
    assert "no language: xx" in str(error.value)
    assert "--language-map" in error.value.remedy
    summary = start(maximum_without_language_fraction=1)
    assert summary.losses[0].names == {"sr": 30, "xx": 30}
