"""Units of recipe values as type aliases: metadata for the reference page, without validation."""

from dataclasses import dataclass
from typing import Annotated

from mmbert.recipe.quantities import Quantity


@dataclass(frozen=True)
class Unit:
    """Unit of a value, in the metadata of its type."""

    name: str


Tokens = Annotated[Quantity, Unit("tokens")]
PlainTokens = Annotated[int, Unit("tokens")]
"""Tokens without the suffixes of a quantity."""
Bytes = Annotated[Quantity, Unit("bytes")]
Rows = Annotated[int, Unit("rows")]
Steps = Annotated[int, Unit("steps")]
Checkpoints = Annotated[int, Unit("checkpoints")]
Documents = Annotated[int, Unit("documents")]
Ranks = Annotated[int, Unit("ranks")]
Streams = Annotated[int, Unit("streams")]
Layers = Annotated[int, Unit("layers")]
Heads = Annotated[int, Unit("heads")]
Features = Annotated[int, Unit("features")]
Minutes = Annotated[float, Unit("minutes")]
Epochs = Annotated[float, Unit("epochs")]
Fraction = Annotated[float, Unit("fraction")]
Exponent = Annotated[float, Unit("exponent")]
