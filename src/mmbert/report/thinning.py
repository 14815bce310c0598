"""Selection of the points of a long curve that are drawn: real points, never averages."""

import numpy as np
import numpy.typing as npt

POINTS_OF_A_BIN = 4
"""First, last, lowest and highest."""


def thin(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.intp]:
    """Select the first, last, lowest and highest point of each of `bins` equal parts of the x axis.

    Nothing is left out of a curve of at most `POINTS_OF_A_BIN * bins` points.

    Args:
        x: float64 [points], ascending.
        y: float64 [points]; points that are not finite are left out.

    Returns:
        int [selected], ascending positions in `x` and `y`.
    """
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(finite) <= POINTS_OF_A_BIN * bins:
        return finite
    x, y = x[finite], y[finite]
    width = (x[-1] - x[0]) / bins
    number = np.minimum((x - x[0]) // width, bins - 1) if width else np.zeros(len(x))
    begins = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
    ends = np.append(begins[1:], len(x)) - 1
    by_value = np.lexsort((y, number))  # bins stay in place, so that `begins` is of both orders
    chosen = np.concatenate([begins, ends, by_value[begins], by_value[ends]])
    return finite[np.unique(chosen)]
