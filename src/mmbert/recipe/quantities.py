"""Exact integers with decimal suffixes: `2.3T`, `600B`, `48k`, `1.5M`."""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

LARGEST_QUANTITY = 10**18
"""Largest number of tokens or bytes; sums of a few of them fit into 64-bit integers."""
_MOST_DIGITS = 100
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_PATTERN = re.compile(r"^\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([kKmMbBtT]?)\s*$")


def parse_quantity(value: object) -> int:
    """Parse an integer such as 1000, '1_000', '2.3T', '600B' or '4.5k' (decimal factors).

    Raises ValueError for anything else and for non-integers.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a quantity; write a number such as 600B, 48k or 1024")
    if isinstance(value, int):
        return value
    match = _PATTERN.match(str(value))
    if match is None:
        raise ValueError(f"{value!r} is not a quantity; write a number such as 600B, 48k or 1024")
    try:
        exact = Decimal(match.group(1).replace("_", "")) * _FACTORS[match.group(2).lower()]
    except ArithmeticError as error:  # an exponent beyond those of Decimal
        raise ValueError(f"{value!r} is too large or too small") from error
    if exact and abs(exact.adjusted()) > _MOST_DIGITS:  # an integer of so many digits takes minutes
        raise ValueError(f"{value!r} is too large or too small")
    if exact != exact.to_integral_value():
        raise ValueError(f"{value!r} is {exact}, not a whole number")
    return int(exact)


def format_quantity(value: int) -> str:
    """Format `value` in the shortest exact form that `parse_quantity` reads back."""
    for suffix, factor in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= factor and value % (factor // 10) == 0:
            return f"{Decimal(value) / factor:f}".removesuffix(".0") + suffix
    return str(value)


Quantity = Annotated[
    int, BeforeValidator(parse_quantity), PlainSerializer(format_quantity, return_type=str)
]
