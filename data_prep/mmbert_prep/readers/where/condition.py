"""Conditions on the columns of a file: checked against what it has, then evaluated by batch."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.acero as acero
import pyarrow.compute as pc

from mmbert.errors import ArgumentError
from mmbert_prep.readers.documents import Document, Row
from mmbert_prep.readers.rejection import RejectReason
from mmbert_prep.readers.where.kinds import Kind, Path, name_of
from mmbert_prep.readers.where.parsing import parse_condition
from mmbert_prep.readers.where.values import converted, lookup

# Rows at the start of a file without a schema that its columns are taken from.
_ROWS_LOOKED_AT = 1_000
_REASONS = {
    True: None,
    False: RejectReason.NOT_SELECTED,
    None: RejectReason.NOT_SELECTED_NULL,
}
_ARROW_TYPES = {
    Kind.NUMBER: pa.float64(),
    Kind.TEXT: pa.string(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.ANY: pa.bool_(),  # of values that are only asked whether they are null
}


class Condition:
    """All conditions of `--where`, of which every one must hold."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self._texts = texts
        self._parsed = [parse_condition(text) for text in texts]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the conditions need."""
        return tuple(dict.fromkeys(path[0] for each in self._parsed for path in each.kinds))

    def on_schema(self, schema: pa.Schema, file: str) -> SchemaFilter:
        """Return the filter of record batches. Raises ArgumentError if a column does not fit."""
        expressions = []
        for text, parsed in zip(self._texts, self._parsed, strict=True):
            casts = {}
            for path, kind in parsed.kinds.items():
                found = _type_of(schema, path)
                if found is None:
                    raise _unknown(text, path, _leaf_names(schema), file)
                if not _fits(found, kind):
                    raise _unfit(text, path, kind, f"type {found}", file)
                casts[path] = _as_kind(path, found, kind)
            expressions.append(parsed.build(casts.__getitem__))
        return SchemaFilter(functools.reduce(operator.and_, expressions))

    def on_rows(self, *, texts_only: bool = False) -> RowFilter:
        """Return the filter of rows without a schema.

        `texts_only`: all values are texts (CSV), of which numbers, true and false are read.
        """
        return RowFilter(self, texts_only)

    def check_rows(
        self, rows: Iterable[Row | Document], file: str, *, texts_only: bool = False
    ) -> None:
        """Check the columns of the first rows of a file. Raises ArgumentError, as `on_schema`."""
        names: dict[str, None] = {}
        first: list[dict[str, Any]] = []
        for row in itertools.islice(rows, _ROWS_LOOKED_AT):
            if not isinstance(row, Document):
                values = row.values
                names.update(dict.fromkeys(values))
                first.append({name: values[name] for name in self.columns if name in values})
        if not first:
            return  # reading reports what is wrong with it
        for text, parsed in zip(self._texts, self._parsed, strict=True):
            for path, kind in parsed.kinds.items():
                looked_up = [lookup(values, path) for values in first]
                if not any(found for found, _ in looked_up):
                    raise _unknown(text, path, list(names), file)
                present = [value for _, value in looked_up if value is not None]
                if present and all(converted(v, kind, texts_only) is None for v in present):
                    shown = f"values such as {str(present[0])[:40]!r}"
                    raise _unfit(text, path, kind, shown, file)

    def row_batch(self, rows: Sequence[Mapping[str, Any]], texts_only: bool) -> pa.RecordBatch:
        """Return the columns of rows: a struct-free batch whose schema never changes."""
        arrays, fields = [], []
        for number, parsed in enumerate(self._parsed):
            for path, kind in parsed.kinds.items():
                values = [converted(lookup(row, path)[1], kind, texts_only) for row in rows]
                arrays.append(pa.array(values, _ARROW_TYPES[kind]))
                fields.append(pa.field(_row_name(number, path), _ARROW_TYPES[kind]))
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def row_expression(self) -> pc.Expression:
        """Return the condition on the batches of `row_batch`."""
        expressions = [
            parsed.build(
                {path: pc.field(_row_name(number, path)) for path in parsed.kinds}.__getitem__
            )
            for number, parsed in enumerate(self._parsed)
        ]
        return functools.reduce(operator.and_, expressions)


class SchemaFilter:
    """A condition on record batches of one schema."""

    def __init__(self, expression: pc.Expression) -> None:
        self._expression = expression

    def reasons(self, batch: pa.RecordBatch) -> list[RejectReason | None]:
        """Return for each row why it is left out, or None."""
        plan = acero.Declaration.from_sequence(
            [
                acero.Declaration(
                    "table_source", acero.TableSourceNodeOptions(pa.Table.from_batches([batch]))
                ),
                acero.Declaration(
                    "project", acero.ProjectNodeOptions([self._expression], ["kept"])
                ),
            ]
        )
        # One thread keeps the order of the rows.
        kept = plan.to_table(use_threads=False).column("kept")
        return [_REASONS[value] for value in kept.to_pylist()]


class RowFilter:
    """A condition on rows, each a mapping from names to values."""

    def __init__(self, condition: Condition, texts_only: bool) -> None:
        self._condition, self._texts_only = condition, texts_only
        self._filter = SchemaFilter(condition.row_expression())

    def reasons(self, rows: Sequence[Mapping[str, Any]]) -> list[RejectReason | None]:
        """Return for each row why it is left out, or None.

        A missing value, and one of another kind than the condition needs, is a null.
        """
        if not rows:
            return []
        return self._filter.reasons(self._condition.row_batch(rows, self._texts_only))


def _row_name(number: int, path: Path) -> str:
    """Return the name of a column or field, as the condition of that number takes it."""
    return f"{number}\0{chr(0).join(path)}"


def _type_of(schema: pa.Schema, path: Path) -> pa.DataType | None:
    fields: pa.Schema | pa.StructType = schema
    found: pa.DataType | None = None
    for number, name in enumerate(path):
        if number:
            if found is None or not pa.types.is_struct(found):
                return None
            fields = found
        index = fields.get_field_index(name)
        if index < 0:
            return None
        found = fields.field(index).type
    return found


def _leaf_names(schema: pa.Schema) -> list[str]:
    names: list[str] = []
    for each in schema:
        if pa.types.is_struct(each.type):
            names += [f"{each.name}.{inner.name}" for inner in each.type]
        else:
            names.append(each.name)
    return names


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view"


def _fits(found: pa.DataType, kind: Kind) -> bool:
    types = pa.types
    if kind is Kind.ANY or types.is_null(found):
        return True
    if kind is Kind.NUMBER:
        return types.is_integer(found) or types.is_floating(found) or types.is_decimal(found)
    if kind is Kind.BOOLEAN:
        return types.is_boolean(found)
    return _is_text(found) or types.is_timestamp(found) or types.is_date(found)


def _as_kind(path: Path, found: pa.DataType, kind: Kind) -> pc.Expression:
    column = pc.field(*path) if len(path) > 1 else pc.field(path[0])
    wanted = _ARROW_TYPES[kind]
    if kind is Kind.ANY or found == wanted:
        return column
    return column.cast(wanted, safe=False)


def _unknown(text: str, path: Path, names: Sequence[str], file: str) -> ArgumentError:
    return ArgumentError(
        f"--where {text!r}: {file} has no column {name_of(path)}",
        remedy=f"its columns are {', '.join(sorted(names))}",
    )


def _unfit(text: str, path: Path, kind: Kind, found: str, file: str) -> ArgumentError:
    return ArgumentError(
        f"--where {text!r}: in {file} the column {name_of(path)} has {found}, where the condition "
        f"takes it for {kind}",
        remedy="compare it with a value of its own type: numbers without quotes, texts in quotes, "
        "True and False as they are",
    )
