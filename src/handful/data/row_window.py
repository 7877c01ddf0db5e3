"""The rows in memory: a ring that a thread fills with row groups, ahead of the batches.

::

    files ── thread: read, decode, put side by side ──▶ ring ── gather ──▶ batches
             row groups in the order's sequence         place in the stream, modulo
                                                        the ring's length

Row groups enter and leave in the same sequence, so that a row's place is that in the
stream of all row groups, modulo the length. The length is what any chunk of batches and
the one after it need at the most, so that one is read while the other is delivered.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.data.parquet_files import ParquetFiles
from handful.data.row_fields import RowField
from handful.data.shuffle_window import BlockOrder


class RingColumn:
    """A field's rows in the ring, gathered by their places; see `gather.Column`.

    Args:
        field: What a row is.
        length: Rows of the ring.
    """

    def __init__(self, field: RowField, length: int) -> None:
        self.field = field
        self.array = np.empty((length, *field.shape), field.dtype)
        values = torch.from_numpy(self.array)
        self.sample_shape = values.shape[1:]
        self.dtype = values.dtype
        self.device = values.device

    def gather(self, indices: Tensor | range, out: Tensor) -> None:
        """Write rows; see `gather.Column.gather`."""
        # PyTorch's own would use all processors, of which reading ahead has some.
        np.take(self.array, indices, axis=0, out=out.numpy(), mode="clip")


class RowWindow:
    """Holds the row groups that the next rows are in, and reads ahead.

    Args:
        files: What is read.
        order: The epoch's order.
        positions: The positions of it that will be asked for, a range of step 1.
        chunk: How many of them are asked for at a time.

    Attributes:
        columns: The rows, for `fetch.iterate_batches`.
    """

    def __init__(
        self, files: ParquetFiles, order: BlockOrder, positions: range, chunk: int
    ) -> None:
        self._files = files
        self._order = order
        self._reader = files.open_reader()
        firsts = np.arange(positions.start, positions.stop, chunk)
        lasts = np.minimum(firsts + chunk, positions.stop)
        begin, end = order.spans(firsts, lasts)
        self._next, self._end = (int(begin[0]), int(end[-1])) if len(begin) else (0, 0)
        self._length = self._choose_length(begin, end)
        self.columns = [RingColumn(field, self._length) for field in files.fields]
        self._pending: deque[tuple[int, Future[None]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="handful-rows")

    def indices(self, start: int, stop: int) -> Tensor:
        """Wait for the rows between two positions, and return their places in the ring.

        Rows of earlier positions are given up, and others read in their place.

        Args:
            start: The first position; never before that of an earlier call.
            stop: Position after the last.

        Returns:
            Places, int64, shape ``(stop - start,)``.

        Raises:
            DataError: A row group can't be read or has nulls.
        """
        first, end = (int(block) for block in self._order.spans(start, stop))
        self._read_ahead(first)
        assert self._next >= end
        while self._pending and self._pending[0][0] < end:
            self._pending.popleft()[1].result()
        return self._order.rows(start, stop).remainder_(self._length)

    def close(self) -> None:
        """Stop reading, and wait until what is being read is."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def _choose_length(self, begin: NDArray[np.int64], end: NDArray[np.int64]) -> int:
        """Return the rows of a chunk's row groups and of the next one's, at most."""
        starts = self._order.starts
        until_next = np.concatenate([end[1:], end[-1:]])
        return int((starts[until_next] - starts[begin]).max(initial=1))

    def _read_ahead(self, first: int) -> None:
        """Let the thread read all row groups for which there is room."""
        starts = self._order.starts
        limit = int(starts[first]) + self._length
        while self._next < self._end and starts[self._next + 1] <= limit:
            future = self._thread.submit(self._fill, self._next)
            self._pending.append((self._next, future))
            self._next += 1

    def _fill(self, block: int) -> None:
        """Read a row group into its place in the ring, which may go round its end."""
        number = int(self._order.blocks[block])
        count = self._files.counts[number]
        place = int(self._order.starts[block]) % self._length
        until_end = min(count, self._length - place)
        for values in self._files.read_group(self._reader, number):
            for column in self.columns:
                array = column.array
                column.field.write(values, 0, array[place : place + until_end])
                column.field.write(values, until_end, array[: count - until_end])
