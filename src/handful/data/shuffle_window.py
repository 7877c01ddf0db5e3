"""Shuffling rows that come in blocks, within a window that fits into memory.

Row groups of a file are read as a whole. A full shuffle would read one for every row,
so the groups come in an order that is drawn, and their rows are spread over a *window*
of the rows that follow::

    stream   | group 5 | group 0 | group 7 | group 2 | ...       drawn for each epoch
    group 5  |<------- its rows lie anywhere here ------>|       evenly, one window long
    group 0            |<------- its rows lie anywhere here ------>|

Between the beginnings of two groups lies a *step*. It takes its share of the rows of
each group whose window covers it, in an order that is drawn. All of it is a pure
function of (seed, epoch, position): a pass goes on anywhere without reading anew what
came before.

What a window does to randomness, of 128 blocks of 1,000 rows, over twenty epochs::

    window     neighbours in a file   blocks in a      correlation of the places
    in rows    come this far apart    batch of 256     in file and epoch, absolute
    1               294 rows                1                 0.09
    4,000         1,167 rows                4                 0.09
    16,000        4,532 rows               16                 0.09
    64,000       16,231 rows               60                 0.08
    128,000      37,458 rows              111                 0.003   a full shuffle

Distances and blocks are medians. Neighbours come 0.29 windows apart, as those of a full
shuffle come 0.29 epochs apart: the median distance of two places drawn evenly. The
correlation is that of 128 blocks in a drawn order, whose standard deviation is 0.09; on
average over epochs it is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handful.data.order import mix_seed

Whole: TypeAlias = "NDArray[np.int64]"


class BlockOrder(Protocol):
    """The order of an epoch of rows that come in blocks.

    Attributes:
        blocks: Numbers of the G blocks in the order in which they are read, shape
            ``(G,)``. One after the other they make the *stream*.
        starts: Where in the stream each block begins, and the stream ends, shape
            ``(G + 1,)``.
    """

    blocks: Whole
    starts: Whole

    def spans(self, starts: Any, stops: Any) -> tuple[Whole, Whole]:
        """Return which blocks hold the rows between two positions of the epoch.

        Args:
            starts: First positions, shape ``(P,)`` or one number.
            stops: Positions after the last, each above its start.

        Returns:
            The first block in reading order and the one after the last, both of the
            arguments' shape. Neither ever falls from one position to the next.
        """
        ...

    def rows(self, start: int, stop: int) -> Tensor:
        """Return which rows of the stream come between two positions of the epoch.

        Args:
            start: First position, from 0 on.
            stop: Position after the last.

        Returns:
            Places in the stream, int64, shape ``(stop - start,)``.
        """
        ...


class StreamOrder:
    """All blocks in the order that they have, row after row; see `BlockOrder`.

    Args:
        counts: Rows of each block, all above 0.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.blocks = np.arange(len(counts), dtype=np.int64)
        self.starts = _running_sum(np.asarray(counts, np.int64))

    def spans(self, starts: Any, stops: Any) -> tuple[Whole, Whole]:
        """Return the blocks of positions; see `BlockOrder.spans`."""
        first = np.searchsorted(self.starts, starts, side="right") - 1
        return first, np.searchsorted(self.starts, stops, side="left")

    def rows(self, start: int, stop: int) -> Tensor:
        """Return the rows of positions; see `BlockOrder.rows`."""
        return torch.arange(start, stop)


class WindowOrder:
    """Blocks in a drawn order, their rows spread over a window; see `BlockOrder`.

    Row r of a block's n rows, in an order drawn for the block, is given the key
    s + (r + 1/2) w / n, where the block begins at s of the stream and w is the window.
    Rows come by their keys, step by step, and within a step in a drawn order. The first
    step holds all keys up to the first window's end, and the last one all that follow
    the last block's beginning, so that the epoch's ends are mixed as its middle is.

    A step needs the blocks of at most one window, and a block at either end of it. With
    a window of the whole stream there is one step: a full shuffle. With one of a row,
    blocks come whole, one after the other, each in a drawn order.

    The orders of the window's blocks are kept, 8 bytes a row.

    Args:
        counts: Rows of each block, all above 0.
        window: Rows of the window, 1 or more.
        seed: Seed of the whole run.
        epoch: The epoch, from 0 on.

    Example:
        >>> order = WindowOrder([2, 2, 2], window=1, seed=0, epoch=0)
        >>> order.blocks.tolist(), order.rows(0, 6).tolist()
        ([2, 1, 0], [1, 0, 2, 3, 5, 4])
    """

    def __init__(
        self, counts: Sequence[int], *, window: int, seed: int, epoch: int
    ) -> None:
        drawn = _draw(len(counts), seed, "blocks", epoch)
        self.blocks: Whole = drawn
        self.starts = _running_sum(np.asarray(counts, np.int64)[self.blocks])
        self._window = min(window, int(self.starts[-1]))
        self._key = (seed, epoch)
        self._plan_steps()
        self._step: tuple[int, Whole] = (-1, np.empty(0, np.int64))
        self._orders: dict[int, Whole] = {}

    def spans(self, starts: Any, stops: Any) -> tuple[Whole, Whole]:
        """Return the blocks of positions; see `BlockOrder.spans`."""
        first = self._first_block[self._step_of(starts)]
        return first, self._end_block[self._step_of(np.asarray(stops) - 1)]

    def rows(self, start: int, stop: int) -> Tensor:
        """Return the rows of positions; see `BlockOrder.rows`.

        The cost is that of the steps in which the positions lie.
        """
        parts = [np.empty(0, np.int64)]
        while start < stop:
            step = int(self._step_of(start))
            begin, end = (int(v) for v in self._positions[step : step + 2])
            until = min(stop, end)
            parts.append(self._step_rows(step)[start - begin : until - begin])
            start = until
        return torch.from_numpy(np.concatenate(parts))

    def _plan_steps(self) -> None:
        """Find the blocks that each step needs, and the position at which it begins."""
        begins = self.starts[:-1]
        num_blocks = len(begins)
        full = int(np.searchsorted(begins, self._window, side="left"))
        edges = np.arange(max(full, 1), num_blocks)
        unfinished = np.searchsorted(begins, begins[edges] - self._window, side="right")
        self._first_block = np.concatenate([[0], unfinished]).astype(np.int64)
        self._end_block = np.concatenate([edges, [num_blocks]]).astype(np.int64)
        ends = [
            int(self.starts[first] + self._taken(first, edge, edge).sum())
            for first, edge in zip(unfinished.tolist(), edges.tolist(), strict=True)
        ]
        self._positions = np.array([0, *ends, self.starts[-1]], np.int64)

    def _taken(self, first: int, end: int, edge: int) -> Whole:
        """Return how many rows of some blocks have keys before a block's beginning."""
        begins = self.starts[first:end]
        counts = self.starts[first + 1 : end + 1] - begins
        ahead = np.clip(self.starts[edge] - begins, 0, self._window)
        taken: Whole = (2 * counts * ahead + self._window - 1) // (2 * self._window)
        return taken

    def _step_of(self, positions: Any) -> Any:
        return np.searchsorted(self._positions, positions, side="right") - 1

    def _step_rows(self, step: int) -> Whole:
        if self._step[0] != step:
            self._step = step, self._mix(step)
        return self._step[1]

    def _mix(self, step: int) -> Whole:
        first, end = int(self._first_block[step]), int(self._end_block[step])
        begin: Any = np.zeros(end - first, np.int64)
        if step:
            begin = self._taken(first, end, int(self._end_block[step - 1]))
        stop = self.starts[first + 1 : end + 1] - self.starts[first:end]
        if step + 1 < len(self._first_block):
            stop = self._taken(first, end, end)
        pieces = zip(range(first, end), begin.tolist(), stop.tolist(), strict=True)
        rows = np.concatenate([self._block_order(b)[i:j] for b, i, j in pieces])
        self._orders = {b: o for b, o in self._orders.items() if first <= b < end}
        seed, epoch = self._key
        mixed: Whole = rows[_draw(len(rows), seed, "step", epoch, step)]
        return mixed

    def _block_order(self, block: int) -> Whole:
        """Return a block's rows of the stream, in the order drawn for the block."""
        if block not in self._orders:
            start, stop = (int(v) for v in self.starts[block : block + 2])
            seed, epoch = self._key
            drawn = _draw(stop - start, seed, "rows", epoch, block)
            self._orders[block] = drawn + start
        return self._orders[block]


def _draw(count: int, *key: int | str) -> Whole:
    """Draw an order of a number of things.

    NumPy's legacy generator gives the same numbers in all its versions (NEP 19), and
    uses no second thread, unlike PyTorch's, for which reading ahead would have to wait.
    """
    seed = mix_seed("window", *key)
    generator = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32])
    return generator.permutation(count).astype(np.int64, copy=False)


def _running_sum(counts: Whole) -> Whole:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
