"""Drawing a long line with few points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["thin_line"]


def thin_line(
    x: NDArray[np.float64], y: NDArray[np.float64], columns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Keep the least and the greatest value of each column of pixels.

    Drawn at a width of ``columns`` pixels or fewer, the result looks like the whole
    line: no peak is lost, and a column without a finite value stays a gap.

    Args:
        x: Positions, evenly spaced or nearly so, shape ``(S,)``.
        y: Values, shape ``(S,)``; those that are not finite are gaps.
        columns: Number of columns, at least 1.

    Returns:
        Positions and values, shape ``(T,)``, in order; NaN for gaps. Up to four points
        a column, the line comes back as it is, gaps apart.
    """
    y = np.where(np.isfinite(y), y, np.nan)
    size = -(-len(y) // columns)
    if size <= 4:
        return x, y
    whole = len(y) // size * size
    rows = y[:whole].reshape(-1, size)
    start = np.arange(0, whole, size)
    picked = _extremes(rows) + start[:, None]
    if whole < len(y):
        picked = np.vstack([picked, _extremes(y[None, whole:]) + whole])
    indices = np.sort(picked, axis=1).ravel()
    return x[indices], y[indices]


def _extremes(rows: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the indices of each row's least and greatest value, NaN left aside."""
    gaps = np.isnan(rows)
    least = np.where(gaps, np.inf, rows).argmin(axis=1)
    greatest = np.where(gaps, -np.inf, rows).argmax(axis=1)
    return np.stack([least, greatest], axis=1)
