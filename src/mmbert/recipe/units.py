"""Units of recipe values as type aliases, with the largest value of each.

The bounds are far above any run; above them, sums overflow 64 bits or an array fits no machine.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from mmbert.recipe.quantities import LARGEST_QUANTITY, Quantity


@dataclass(frozen=True)
class Unit:
    """Unit of a value, in the metadata of its type."""

    name: str


Tokens = Annotated[Quantity, Field(le=LARGEST_QUANTITY), Unit("tokens")]
PlainTokens = Annotated[int, Field(le=2**31 - 1), Unit("tokens")]
"""Tokens without the suffixes of a quantity."""
Bytes = Annotated[Quantity, Field(le=LARGEST_QUANTITY), Unit("bytes")]
RowTokens = Annotated[Quantity, Field(le=2**31 - 1), Unit("tokens")]
"""Tokens of a row; boundaries of documents are 32-bit integers."""
Rows = Annotated[int, Field(le=10**7), Unit("rows")]
Steps = Annotated[int, Field(le=10**9), Unit("steps")]
Checkpoints = Annotated[int, Field(le=10**9), Unit("checkpoints")]
Documents = Annotated[int, Field(le=10**9), Unit("documents")]
Ranks = Annotated[int, Field(le=10**6), Unit("ranks")]
Streams = Annotated[int, Field(le=10**6), Unit("streams")]
Layers = Annotated[int, Field(le=10**4), Unit("layers")]
Heads = Annotated[int, Field(le=10**4), Unit("heads")]
Features = Annotated[int, Field(le=10**6), Unit("features")]
Minutes = Annotated[float, Field(le=525_600), Unit("minutes")]
Epochs = Annotated[float, Unit("epochs")]
Fraction = Annotated[float, Unit("fraction")]
Exponent = Annotated[float, Unit("exponent")]
