"""JSON in other shapes than lines: arrays, pretty-printed objects, objects around arrays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert_prep.readers.formats.json_values import json_values
from mmbert_prep.readers.streams import DamagedFileError
from tests.support.reading import damage, read, reasons, texts

ROWS = [{"text": "one"}, {"text": "two\n[{"}, {"text": "three", "more": [[1.5e3], {"a": None}]}]
EXPECTED = [row["text"] for row in ROWS]
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8)
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        f"\n \n {json.dumps(ROWS)} \n",
        "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]",
        "".join(json.dumps([row]) for row in ROWS),
        "\n".join(map(json.dumps, ROWS)),
        "\n\n" + "\n\n".join(map(json.dumps, ROWS)),
        "".join(map(json.dumps, ROWS)),
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
    ],
)
def test_shapes(content: str, tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.json").write_text(content)
    for unit_bytes in (1, 1000):
        found = read(tmp_path, unit_bytes)
        assert texts(found) == EXPECTED
        assert not reasons(found)


def test_an_array_in_a_file_of_lines(tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.jsonl").write_text(json.dumps(ROWS, indent=1))
    assert texts(read(tmp_path, 1)) == EXPECTED


def test_one_object_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.json").write_text(json.dumps(ROWS[0], indent=1))
    assert texts(read(tmp_path)) == ["one"]
    (tmp_path / "eng_Latn.json").write_text("[]")
    assert read(tmp_path) == []


@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_around_arrays_is_named_with_its_keys(indent: int | None, tmp_path: Path) -> None:
    content = {"version": 1, "data": ROWS, "tags": ["a"], "more": ROWS}
    (tmp_path / "eng_Latn.json").write_text(json.dumps(content, indent=indent))
    found = read(tmp_path)
    assert texts(found) == []
    assert "around the arrays data, more: `jq -c '.data[]'`" in damage(found)


def test_lines_of_which_the_first_is_broken_stay_lines(tmp_path: Path) -> None:
    for suffix, broken in ((".json", '{"text": "cut'), (".jsonl", "[1, 2]"), (".jsonl", "{")):
        path = tmp_path / f"eng_Latn{suffix}"
        path.write_text(broken + "\n" + "\n".join(map(json.dumps, ROWS)))
        found = read(tmp_path)
        assert texts(found) == EXPECTED
        assert reasons(found) == ["broken_json"]
        path.unlink()


def test_damage_in_an_array(tmp_path: Path) -> None:
    path = tmp_path / "eng_Latn.json"
    path.write_bytes(
        b'[{"text": "a"}, 7, {"text": null}, {"text": "\xff"}, {"text": "\\ud83d"}, {"text": NaN},'
        b' {"text": "b"} {"text": "c"}]'
    )
    found = read(path)
    assert texts(found) == ["a", "b"]
    assert reasons(found) == [
        "broken_json",
        "missing_text",
        "invalid_utf8",
        "invalid_utf8",
        "missing_text",
        "damaged_file",
    ]
    assert "character 99: a comma or ] was expected" in str(found[-1].rejected)


def test_long_values_stop_the_file_and_bound_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmbert_prep.readers.formats.json_values._OTHER_KEYS", 100)
    pulled = 0

    def blocks() -> object:
        nonlocal pulled
        yield b'[{"text": "a"}, {"text": "'
        while True:
            pulled += 1
            yield b"a" * 100

    values = json_values(blocks(), 1000)
    assert next(values) == {"text": "a"}
    with pytest.raises(DamagedFileError, match="no value ends within 1100 characters"):
        next(values)
    assert pulled < 40


@given(values=st.lists(VALUES, max_size=5), size=st.integers(1, 30))
def test_any_values_in_blocks_of_any_size(values: list[object], size: int) -> None:
    data = json.dumps(values, indent=size % 3, ensure_ascii=False).encode()
    blocks = (data[start : start + size] for start in range(0, len(data), size))
    assert [*json_values(blocks, 1000)] == values


@settings(max_examples=50)
@given(values=st.lists(VALUES, min_size=1, max_size=4), where=st.integers(1, 10**6))
def test_an_array_cut_anywhere_is_damaged(values: list[object], where: int) -> None:
    data = json.dumps(values).encode()
    found: list[object] = []
    with pytest.raises(DamagedFileError):
        found.extend(json_values(iter([data[: 1 + where % (len(data) - 1)]]), 1000))
    assert found == values[: len(found)]
