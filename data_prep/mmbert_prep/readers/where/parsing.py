"""Parser of conditions: Python's grammar, of which few nodes are allowed; nothing is executed.

A condition has three values, as in SQL: a comparison with a null is null, `not` null is null, and
`and` and `or` are null unless the other side decides.
"""

from __future__ import annotations

import ast
import functools
import itertools
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mmbert.errors import ArgumentError
from mmbert_prep.readers.where.kinds import Build, Kind, Kinds, Path, RefusedError, Term
from mmbert_prep.readers.where.literals import constant, literal, shown

_MOST_CHARACTERS = 10_000
_DEEPEST = 50

_ORDERINGS: dict[type[ast.cmpop], Callable[[pc.Expression, pc.Expression], pc.Expression]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[pc.Expression, pc.Expression], pc.Expression]] = {
    ast.Add: pc.add,
    ast.Sub: pc.subtract,
    ast.Mult: pc.multiply,
    ast.Div: pc.divide,
}
_TEXT_FUNCTIONS: dict[str, Callable[[pc.Expression, str], pc.Expression]] = {
    "starts_with": lambda text, pattern: pc.starts_with(text, pattern=pattern),
    "ends_with": lambda text, pattern: pc.ends_with(text, pattern=pattern),
    "contains": lambda text, pattern: pc.match_substring(text, pattern=pattern),
    "matches": lambda text, pattern: pc.match_substring_regex(text, pattern=pattern),
}
GRAMMAR = (
    "compare columns with numbers, 'texts', True and False by == != < <= > >=, `in [..]`, "
    "`is None`; join by and, or, not; + - * / on numbers; "
    "starts_with(column, 'text'), ends_with, contains, matches (regular expression), "
    "length(column); column('name') where a name is no identifier"
)


@dataclass(frozen=True)
class ParsedCondition:
    """A condition: how to build it, and the kind of each of its columns."""

    build: Build
    kinds: dict[Path, Kind]


def parse_condition(text: str) -> ParsedCondition:
    """Parse a condition. Raises ArgumentError if it is anything else."""
    try:
        return _parse(text)
    except RecursionError as error:
        raise ArgumentError(
            f"--where {text[:200]!r}: it is too deeply nested", remedy=GRAMMAR
        ) from error
    except RefusedError as error:
        raise ArgumentError(f"--where {text[:200]!r}: {error}", remedy=GRAMMAR) from error


def _parse(text: str) -> ParsedCondition:
    if len(text) > _MOST_CHARACTERS:
        raise RefusedError(f"it has more than {_MOST_CHARACTERS:,} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of `\d` in a text, and of comparisons by `is`
            tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise RefusedError(f"{error.msg}, at character {error.offset}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise RefusedError(str(error) or "it is too deeply nested") from error
    translator = _Translator()
    term = translator.term(tree.body, 0)
    translator.kinds.need(term, Kind.BOOLEAN)
    kinds = translator.kinds.resolved()
    if not kinds:
        raise RefusedError("it names no column")
    return ParsedCondition(term.build, kinds)


class _Translator:
    """Translates the nodes of one condition."""

    def __init__(self) -> None:
        self.kinds = Kinds()

    def term(self, node: ast.expr, depth: int) -> Term:
        if depth > _DEEPEST:
            raise RefusedError("it is too deeply nested")
        match node:
            case ast.Constant(value=value):
                return constant(value)
            case ast.Name(id=name):
                return self._column((name,))
            case ast.Attribute():
                return self._column(_path(node, depth))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self._not(self.term(operand, depth + 1))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                return self._signed(sign, operand, depth)
            case ast.BoolOp(op=joint, values=values):
                return self._joined(joint, [self.term(value, depth + 1) for value in values])
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                terms = self.term(left, depth + 1), self.term(right, depth + 1)
                return self._arithmetic(_ARITHMETIC[type(sign)], *terms)
            case ast.Compare(left=left, ops=signs, comparators=others):
                return self._chain(left, signs, others, depth + 1)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(name, arguments, depth + 1)
        raise RefusedError(f"{shown(node)} is no part of a condition")

    def _column(self, path: Path) -> Term:
        self.kinds.add(path)
        return Term(lambda fields: fields(path), column=path)

    def _not(self, operand: Term) -> Term:
        self.kinds.need(operand, Kind.BOOLEAN)
        return Term(lambda fields: ~operand.build(fields), Kind.BOOLEAN)

    def _signed(self, sign: ast.unaryop, node: ast.expr, depth: int) -> Term:
        operand = self.term(node, depth + 1)
        self.kinds.need(operand, Kind.NUMBER)
        if isinstance(sign, ast.UAdd):
            return Term(operand.build, Kind.NUMBER)
        return Term(lambda fields: pc.negate(operand.build(fields)), Kind.NUMBER)

    def _joined(self, joint: ast.boolop, terms: Sequence[Term]) -> Term:
        for each in terms:
            self.kinds.need(each, Kind.BOOLEAN)
        join = operator.and_ if isinstance(joint, ast.And) else operator.or_
        return Term(
            lambda fields: _balanced(join, [each.build(fields) for each in terms]), Kind.BOOLEAN
        )

    def _arithmetic(
        self,
        function: Callable[[pc.Expression, pc.Expression], pc.Expression],
        left: Term,
        right: Term,
    ) -> Term:
        for each in (left, right):
            self.kinds.need(each, Kind.NUMBER)
        return Term(lambda fields: function(left.build(fields), right.build(fields)), Kind.NUMBER)

    def _chain(
        self, left: ast.expr, signs: list[ast.cmpop], others: list[ast.expr], depth: int
    ) -> Term:
        sides = [left, *others]
        terms = [
            self._comparison(first, sign, second, depth)
            for (first, second), sign in zip(itertools.pairwise(sides), signs, strict=True)
        ]
        return terms[0] if len(terms) == 1 else self._joined(ast.And(), terms)

    def _comparison(self, left: ast.expr, sign: ast.cmpop, right: ast.expr, depth: int) -> Term:
        if isinstance(sign, ast.Is | ast.IsNot):
            return self._is_null(self.term(left, depth), right, isinstance(sign, ast.IsNot))
        if isinstance(sign, ast.In | ast.NotIn):
            found = self._in(left, right, depth)
            return found if isinstance(sign, ast.In) else self._not(found)
        first, second = self.term(left, depth), self.term(right, depth)
        self.kinds.unite(first, second)
        if isinstance(sign, ast.Eq | ast.NotEq):
            compare = operator.eq if isinstance(sign, ast.Eq) else operator.ne
        else:
            compare = _ORDERINGS[type(sign)]
            if Kind.BOOLEAN in (self._kind(first), self._kind(second)):
                raise RefusedError("true and false have no order")
        return Term(lambda fields: compare(first.build(fields), second.build(fields)), Kind.BOOLEAN)

    def _kind(self, term: Term) -> Kind:
        return term.kind if term.column is None else self.kinds.found.get(term.column, Kind.ANY)

    def _is_null(self, term: Term, right: ast.expr, negated: bool) -> Term:
        if not (
            (isinstance(right, ast.Constant) and right.value is None)
            or (isinstance(right, ast.Name) and right.id.lower() == "null")
        ):
            raise RefusedError("`is` takes None only; compare with ==")
        if term.column is None:
            raise RefusedError("`is None` needs a column at its left")
        function = pc.is_valid if negated else pc.is_null
        return Term(lambda fields: function(term.build(fields)), Kind.BOOLEAN)

    def _in(self, left: ast.expr, right: ast.expr, depth: int) -> Term:
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            return self._text_function("contains", self.term(right, depth), left)
        values = [literal(each) for each in right.elts]
        kinds = {constant(value).kind for value in values}
        term = self.term(left, depth)
        if len(kinds) != 1:
            raise RefusedError("`in` needs a list of numbers or a list of texts, and of one kind")
        (kind,) = kinds
        self.kinds.need(term, kind)
        if kind is Kind.NUMBER:
            # Adding 0 makes one number of 0.0 and -0.0, which is_in tells apart.
            found = pa.array([float(str(value)) + 0.0 for value in values], pa.float64())
            return Term(
                lambda fields: _is_in(pc.add(term.build(fields), pa.scalar(0.0)), found),
                Kind.BOOLEAN,
            )
        found = pa.array(values, pa.string() if kind is Kind.TEXT else pa.bool_())
        return Term(lambda fields: _is_in(term.build(fields), found), Kind.BOOLEAN)

    def _call(self, name: str, arguments: list[ast.expr], depth: int) -> Term:
        if name == "column":
            names = [literal(each) for each in arguments]
            if not names or not all(isinstance(each, str) for each in names):
                raise RefusedError("column() takes the name of a column, as a text")
            return self._column(tuple(str(each) for each in names))
        if name == "length" and len(arguments) == 1:
            term = self.term(arguments[0], depth)
            self.kinds.need(term, Kind.TEXT)
            return Term(
                lambda fields: pc.utf8_length(term.build(fields)).cast(pa.float64()), Kind.NUMBER
            )
        if name in _TEXT_FUNCTIONS and len(arguments) == 2:
            return self._text_function(name, self.term(arguments[0], depth), arguments[1])
        raise RefusedError(f"{name}() with {len(arguments)} arguments is no function of conditions")

    def _text_function(self, name: str, term: Term, pattern_node: ast.expr) -> Term:
        pattern = literal(pattern_node)
        if not isinstance(pattern, str):
            raise RefusedError(f"{name} needs a text in quotes")
        self.kinds.need(term, Kind.TEXT)
        function = _TEXT_FUNCTIONS[name]
        if name == "matches":
            try:
                pc.match_substring_regex(pa.array([""]), pattern=pattern)
            except pa.ArrowException as error:
                raise RefusedError(str(error)) from error
        return Term(lambda fields: function(term.build(fields), pattern), Kind.BOOLEAN)


def _path(node: ast.expr, depth: int) -> Path:
    if depth > _DEEPEST:
        raise RefusedError("it is too deeply nested")
    match node:
        case ast.Name(id=name):
            return (name,)
        case ast.Attribute(value=value, attr=name):
            return (*_path(value, depth + 1), name)
    raise RefusedError(f"{shown(node)} is no column")


def _is_in(value: pc.Expression, values: pa.Array) -> pc.Expression:
    # is_in alone says false of a null.
    found = pc.is_in(value, value_set=values)
    return pc.if_else(pc.is_valid(value), found, pa.scalar(None, pa.bool_()))


def _balanced(
    join: Callable[[pc.Expression, pc.Expression], pc.Expression], parts: list[pc.Expression]
) -> pc.Expression:
    """Join expressions pairwise: Arrow recurses into an expression."""
    while len(parts) > 1:
        parts = [
            functools.reduce(join, parts[start : start + 2]) for start in range(0, len(parts), 2)
        ]
    return parts[0]
