"""Batch memory: large blocks for batches, used again when nobody holds the batch.

Fresh memory of tens of megabytes costs a page fault for each 4 KiB, as long as a tenth
of the decoding of the images that go into it. A block is handed out as an array; once
this array, and thereby every tensor made of it, is gone, the block may be handed out
again. So a batch is never written to while it can be held: a tensor, its views and its
storage keep the array alive.
"""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT_BYTES = 64
"""How blocks are aligned: as PyTorch's own memory is."""

KEPT_BLOCKS = 4
"""Most blocks that are kept for later, free."""


class BatchMemory:
    """Hands out arrays, and takes their memory back when they are gone."""

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=KEPT_BLOCKS)

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array whose values are not set.

        Args:
            shape: Its shape.
            dtype: Its dtype.

        Returns:
            The array, contiguous, its first byte at a multiple of 64.
        """
        num_bytes = math.prod(shape) * dtype.itemsize
        block = self._find(num_bytes + ALIGNMENT_BYTES)
        start = -block.ctypes.data % ALIGNMENT_BYTES
        array: NDArray[Any] = np.ndarray(shape, dtype, block.data, start)
        # Arrays from `block` would share it as their base, and outlive `array`.
        end = weakref.finalize(array, self._free.append, block)
        end.atexit = False
        return array

    def _find(self, num_bytes: int) -> NDArray[np.uint8]:
        """Take a free block that is large enough, and not wastefully so; or a new."""
        for _ in range(len(self._free)):
            try:
                block = self._free.popleft()
            except IndexError:  # Another thread was faster.
                break
            if num_bytes <= len(block) <= 2 * num_bytes:
                return block
            self._free.append(block)
        return np.empty(num_bytes, np.uint8)
