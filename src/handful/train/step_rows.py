"""Rows of steps in memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handful.runs.run import STEP_DTYPE


class StepRows:
    """Rows of steps in memory that grows by doubling; dtype `STEP_DTYPE`."""

    def __init__(self, rows: NDArray[np.void]) -> None:
        self._buffer = rows
        self._count = len(rows)

    def add(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Add rows; return all."""
        count = self._count + len(rows)
        if count > len(self._buffer):
            larger = np.empty(max(count, 2 * self._count), STEP_DTYPE)
            larger[: self._count] = self._buffer[: self._count]
            self._buffer = larger
        self._buffer[self._count : count] = rows
        self._count = count
        return self._buffer[:count]
