"""Values written in a condition: numbers, texts, True and False."""

from __future__ import annotations

import ast

import pyarrow as pa
import pyarrow.compute as pc

from mmbert_prep.readers.where.kinds import Kind, RefusedError, Term

_LARGEST = 2**53  # numbers are compared as float64, which is exact up to here


def literal(node: ast.expr) -> object:
    """Return the value of a number, a text, True or False. Raises RefusedError for others."""
    match node:
        case ast.Constant(value=value):
            constant(value)
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if (
            not isinstance(value, bool)
        ):
            constant(value)
            return -value
    raise RefusedError(f"{shown(node)} stands where a number or a text in quotes is needed")


def constant(value: object) -> Term:
    """Return a value as a part of a condition. Raises RefusedError if it cannot be compared."""
    match value:
        case bool():
            kind, scalar = Kind.BOOLEAN, pa.scalar(value)
        case int() | float():
            if isinstance(value, int) and abs(value) >= _LARGEST:
                raise RefusedError("whole numbers of 2**53 and above cannot be compared exactly")
            kind, scalar = Kind.NUMBER, pa.scalar(float(value))
        case str():
            try:
                kind, scalar = Kind.TEXT, pa.scalar(value)
            except UnicodeEncodeError as error:
                raise RefusedError("a text has a lone surrogate") from error
        case None:
            raise RefusedError("None is compared by `is None` or `is not None`")
        case _:
            raise RefusedError(f"a value like {value!r} is no part of a condition")
    return Term(lambda fields: pc.scalar(scalar), kind)


def shown(node: ast.expr) -> str:
    """Return a part of a condition as messages name it."""
    text = ast.unparse(node)
    return f"`{text[:60]}…`" if len(text) > 60 else f"`{text}`"
