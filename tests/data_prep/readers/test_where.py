"""`--where`: rows are selected by their columns, and whatever does not fit is refused."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from mmbert.errors import ArgumentError
from mmbert_prep import cli
from mmbert_prep.readers import RejectReason
from mmbert_prep.readers.documents import Row
from mmbert_prep.readers.where.condition import Condition
from mmbert_prep.shards.verify import verify_source
from tests.support import texts
from tests.support.texts import documents, json_lines, run

NULL = RejectReason.NOT_SELECTED_NULL
LEFT_OUT = RejectReason.NOT_SELECTED


def _scored(language: str = "swh_Latn", count: int = 40) -> list[dict[str, Any]]:
    """Return rows with a score, a url and a nested value; some lack each of them."""
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(documents(language, count)):
        row: dict[str, Any] = {"text": text, "score": number / count, "meta": {"rank": number}}
        row["url"] = ("http://" if number % 2 else "https://") + f"{number}.org"
        if number % 10 == 3:
            row["score"] = None
        if number % 10 == 4:
            del row["score"]
        if number % 4 == 0:
            row["score"] = 1 if number else 0  # whole numbers among fractions
        rows.append(row)
    return rows


def _write(folder: Path, form: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if form == "parquet":
        floats = [
            {**row, "score": None if row.get("score") is None else float(row["score"])}
            for row in rows
        ]
        pq.write_table(pa.Table.from_pylist(floats), folder / "swh_Latn.parquet", row_group_size=7)
    else:
        (folder / "swh_Latn.jsonl").write_bytes(json_lines(rows))
    return folder


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_rows_are_selected_and_the_others_counted(form: str, tmp_path: Path) -> None:
    rows = _scored()
    folder = _write(tmp_path / "in", form, rows)
    where = ("score >= 0.5 or starts_with(url, 'https')", "meta.rank < 36")
    summary = run(folder, tmp_path / "out", where=where, vocabulary_size=400, heldout_share=0.0)

    def outcome(row: dict[str, Any]) -> RejectReason | None:
        score, https = row.get("score"), row["url"].startswith("https")
        if row["meta"]["rank"] >= 36:
            return LEFT_OUT
        if https:
            return None
        return NULL if score is None else None if score >= 0.5 else LEFT_OUT

    outcomes = [outcome(row) for row in rows]
    found = summary.languages["swh_Latn"]
    assert found.rejected == {reason: outcomes.count(reason) for reason in (LEFT_OUT, NULL)}
    assert min(found.rejected.values()) > 0
    kept = [row["text"] for row, reason in zip(rows, outcomes, strict=True) if reason is None]
    assert found.train_documents == len(kept)
    assert found.train_bytes == sum(len(text.encode()) for text in kept)
    assert summary.settings["where"] == list(where)
    (check,) = verify_source(tmp_path / "out" / "text", str(folder)).values()
    assert (check.documents, check.errors) == (len(kept), [])


def test_rows_that_are_left_out_are_no_damage(tmp_path: Path) -> None:
    rows = [{"text": text, "n": number} for number, text in enumerate(documents("swh_Latn", 60))]
    rows += [{"text": None, "n": number} for number in range(60, 1500)]
    (tmp_path / "swh_Latn.jsonl").write_bytes(json_lines(rows))
    values = {"where": ("n < 60",), "maximum_rejected_fraction": 0.0, "vocabulary_size": 400}
    summary = run(tmp_path, tmp_path / "out", **values)
    assert summary.rejected() == {LEFT_OUT: 1440}


def test_outputs_without_conditions_keep_their_settings(tmp_path: Path) -> None:
    assert "where" not in texts.settings("in", tmp_path).output_settings()
    assert "earlier_sources" not in texts.settings("in", tmp_path).output_settings()


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("scores > 1", r"swh_Latn\.\w+ has no column scores\n.*columns are meta.*score, text, url"),
        ("meta.place > 1", r"has no column meta\.place"),
        ("url > 1", r"column url has .*takes it for a number"),
        ("score == 'high'", r"column score has .*takes it for a text"),
        ("score and True", r"column score has .*takes it for true or false"),
    ],
)
def test_unknown_columns_and_types_stop_before_reading(
    form: str, condition: str, message: str, tmp_path: Path
) -> None:
    folder = _write(tmp_path / "in", form, _scored())
    with pytest.raises(ArgumentError, match=f"(?s){message}"):
        run(folder, tmp_path / "out", where=(condition,))
    assert not list(tmp_path.glob("out/.preprocess/*/units*"))


def test_the_dry_run_names_the_columns(tmp_path: Path) -> None:
    folder = _write(tmp_path / "in", "jsonl", _scored())
    options = ["--input", str(folder), "--output", str(tmp_path / "out"), "--dry-run"]
    result = CliRunner().invoke(cli.app, [*options, "--where", "quality > 0.5"])
    assert isinstance(result.exception, ArgumentError)  # which ends with status 2
    assert "has no column quality" in result.exception.message
    assert "its columns are meta, score, text, url" in result.exception.remedy
    assert CliRunner().invoke(cli.app, [*options, "--where", "score > 0.5"]).exit_code == 0


def test_files_without_columns_are_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path / "in", "jsonl", _scored())
    (folder / "yor_Latn.txt").write_text("some text")
    with pytest.raises(ArgumentError, match=r"--where needs columns.*yor_Latn\.txt"):
        run(folder, tmp_path / "out", where=("score > 0",))


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_rows_do_not_depend_on_those_read_with_them(form: str, tmp_path: Path) -> None:
    """Whole numbers among fractions and missing values are the same in ranges of any size."""
    folder = _write(tmp_path / "in", form, _scored(count=100))
    same = {"where": ("score * 2 >= 0.7 or score in [0, 1]",), "vocabulary_size": 500}
    found = []
    for size in (1000, 100_000):
        run(folder, tmp_path / str(size), unit_bytes=size, **same)
        made = texts.tree(tmp_path / str(size))
        found.append({name: data for name, data in made.items() if name != "text/summary.json"})
    assert found[0] == found[1]


def test_rows_whose_values_are_all_texts() -> None:
    """As in CSV: numbers, true and false are read from texts, and an empty one is null."""
    condition = Condition(("score >= 0.5 and good and name != 'x'",))
    rows = [
        {"score": "0.75", "good": "True", "name": "y"},
        {"score": " 1e3", "good": "true", "name": ""},
        {"score": "0.25", "good": "false", "name": "y"},
        {"score": "high", "good": "true", "name": "y"},
    ]
    condition.check_rows(map(Row, rows), "table.csv", texts_only=True)
    assert condition.on_rows(texts_only=True).reasons(rows) == [None, NULL, LEFT_OUT, NULL]
    with pytest.raises(ArgumentError, match="column score has values such as 'high'"):
        condition.check_rows(map(Row, rows[3:]), "table.csv", texts_only=True)


# Any string is a condition or refused; hypothesis mixes pieces of the grammar with anything.
_PIECES = st.sampled_from(
    [
        *"()[],+-*/%@;:=.\\\n\0#<>ab1",
        *["==", ">=", "in", "not", "and", "or", "is", "None", "null", "'x'", "f''", "True", "b.c"],
        *["1e999", "2**99", "lambda", "length(", "matches(", "starts_with(", "column("],
    ]
)
_ANY_TEXT = st.one_of(
    st.text(max_size=40),
    st.lists(st.one_of(_PIECES, st.text(max_size=3)), max_size=12).map(" ".join),
)


@given(_ANY_TEXT)
@example("not " * 3000 + "a")
@example("(" * 5000)
@example("-" * 9000 + "a > 1")
@example("a" + ".a" * 4000 + " > 1")
@example("a == " + "[" * 200 + "]" * 200)
@example(" or ".join(["a == 1"] * 900))
@settings(max_examples=200, deadline=None)
def test_any_string_is_parsed_or_refused(text: str) -> None:
    try:
        condition = Condition((text,))
    except ArgumentError:
        return
    condition.on_rows().reasons([{"a": 1}])


# A condition as text, and the same computed by plain Python: None where SQL has null.
Value = bool | float | str | None
Evaluate = Callable[[dict[str, Any]], Value]
_NUMBERS = st.one_of(st.integers(-(2**53) + 1, 2**53 - 1), st.floats(allow_nan=False), st.just(0.5))
_WORDS = st.text("abé😀\0'\\", max_size=3)


def _lifted(function: Callable[[Any, Any], Any], left: Evaluate, right: Evaluate) -> Evaluate:
    def evaluate(row: dict[str, Any]) -> Any:
        first, second = left(row), right(row)
        return None if first is None or second is None else function(first, second)

    return evaluate


def _divided(left: float, right: float) -> float:
    if right:
        return left / right
    sign = math.copysign(1, left) * math.copysign(1, right)
    return math.nan if left == 0 or math.isnan(left) else sign * math.inf


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _shown(value: float) -> str:
    return repr(value).replace("inf", "1e999")


_ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": _divided}
_COMPARE = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_numbers = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["x", "y", "m.z"]).map(lambda name: (name, _numeric_column(name))),
        _NUMBERS.map(lambda value: (_shown(value), lambda row: float(value))),
        st.tuples(_texts).map(
            lambda part: (f"length({part[0][0]})", _lifted(lambda a, b: len(a), *[part[0][1]] * 2))
        ),
        st.tuples(_numbers, st.sampled_from(sorted(_ARITHMETIC)), _numbers).map(
            lambda part: (
                f"({part[0][0]} {part[1]} {part[2][0]})",
                _lifted(_ARITHMETIC[part[1]], part[0][1], part[2][1]),
            )
        ),
    )
)
_texts = st.sampled_from(["s", "t"]).map(lambda name: (name, _text_column(name)))


def _numeric_column(name: str) -> Evaluate:
    def evaluate(row: dict[str, Any]) -> Value:
        if name == "m.z":
            inner = row.get("m")
            return _number(inner.get("z")) if isinstance(inner, dict) else None
        return _number(row.get(name))

    return evaluate


def _text_column(name: str) -> Evaluate:
    return lambda row: row[name] if isinstance(row.get(name), str) else None


def _joined(word: str, left: Evaluate, right: Evaluate) -> Evaluate:
    deciding = word == "or"

    def evaluate(row: dict[str, Any]) -> Value:
        values = left(row), right(row)
        if deciding in values:
            return deciding
        return None if None in values else not deciding

    return evaluate


def _comparison(
    sides: st.SearchStrategy[tuple[str, Evaluate]], pinned: str = ""
) -> st.SearchStrategy[Any]:
    return st.tuples(sides, st.sampled_from(sorted(_COMPARE)), sides).map(
        lambda part: (
            f"({part[0][0]}{pinned} {part[1]} {part[2][0]})",
            _lifted(_COMPARE[part[1]], part[0][1], part[2][1]),
        )
    )


def _membership(
    sides: st.SearchStrategy[tuple[str, Evaluate]], values: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    finite = values.filter(lambda value: value not in (math.inf, -math.inf))
    return st.tuples(sides, st.lists(finite, min_size=1, max_size=3)).map(
        lambda part: (
            f"({part[0][0]} in {part[1]!r})",
            _lifted(lambda a, b: a in part[1], part[0][1], part[0][1]),
        )
    )


_conditions = st.deferred(
    lambda: st.one_of(
        _comparison(_numbers, " + 0"),  # columns that are only compared are taken for texts
        st.tuples(_numbers, st.sampled_from(sorted(_COMPARE)), _NUMBERS).map(
            lambda part: (
                f"({part[0][0]} {part[1]} {_shown(part[2])})",
                _lifted(lambda a, b: _COMPARE[part[1]](a, float(part[2])), *[part[0][1]] * 2),
            )
        ),
        _comparison(st.one_of(_texts, _WORDS.map(lambda word: (repr(word), lambda row: word)))),
        _membership(_numbers, _NUMBERS),
        _membership(_texts, _WORDS),
        st.tuples(_texts, _WORDS).map(
            lambda part: (
                f"({part[1]!r} in {part[0][0]})",
                _lifted(lambda a, b: part[1] in a, *[part[0][1]] * 2),
            )
        ),
        # The second part says what the column is taken for; otherwise any value is no null.
        st.sampled_from(
            [
                ("x is None or x < -1e999", _numeric_column("x")),
                ("s is None or length(s) < 0", _text_column("s")),
            ]
        ).map(lambda part: (f"({part[0]})", lambda row: part[1](row) is None)),
        _conditions.map(
            lambda part: (f"(not {part[0]})", _lifted(lambda a, b: not a, *[part[1]] * 2))
        ),
        st.tuples(_conditions, st.sampled_from(["and", "or"]), _conditions).map(
            lambda part: (
                f"({part[0][0]} {part[1]} {part[2][0]})",
                _joined(part[1], part[0][1], part[2][1]),
            )
        ),
    )
)
_ANY_VALUE = st.one_of(st.none(), st.booleans(), _NUMBERS, st.floats(), _WORDS, st.integers())
_ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys("xy", st.one_of(_NUMBERS, _ANY_VALUE)),
            **dict.fromkeys("st", st.one_of(_WORDS, _ANY_VALUE)),
            "m": st.one_of(st.none(), st.fixed_dictionaries({"z": _ANY_VALUE})),
        },
    ),
    max_size=6,
)


@given(_conditions, _ROWS)
@settings(max_examples=200, deadline=None)
def test_conditions_agree_with_python(
    condition: tuple[str, Evaluate], rows: list[dict[str, Any]]
) -> None:
    text, evaluate = condition
    refused = ""
    try:
        parsed = Condition((text,))
    except ArgumentError as error:
        refused = error.message
    if refused:
        assert refused.endswith(("it names no column", "too deeply nested"))
        return
    names = {True: None, False: LEFT_OUT, None: NULL}
    expected = [names[evaluate(row)] for row in rows]  # type: ignore[index]
    assert parsed.on_rows().reasons(rows) == expected
