"""The batched path: iterating over data that can be gathered."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from handful.data.draws import Draws
from handful.data.fetch import Indices, iterate_batches
from handful.data.gather import Column, TransformedColumn
from handful.data.order import make_order
from handful.data.pinning import pin_batch
from handful.data.sources import Source
from handful.data.transforms import ColumnTransform, locate_column


@dataclass(slots=True)
class Pass:
    """One pass over the data, as far as it got."""

    epoch: int
    """Its number, from 0 on."""

    delivered: int = 0
    """Batches handed out."""

    has_ended: bool = False
    """Whether all batches were handed out."""

    draws: Draws | None = None
    """What was drawn for it; None where a seed orders it."""

    user_state: Callable[[Pass], dict[str, Any]] | None = field(default=None)
    """Gives the state of the user's own objects, as of the pass's last batch."""


class BatchedIterator(itertools.chain[Any]):
    """Hands out the batches of one pass; a subclass for the speed of C's ``next``."""

    num_batches = 0

    _workers: tuple[Any, ...] = ()
    """What PyTorch's iterators call their worker processes; there are none."""

    def __len__(self) -> int:
        return self.num_batches


@dataclass(frozen=True)
class BatchedPlan:
    """What the batches of a pass are.

    Attributes:
        source: The data.
        batch_size: Samples a batch.
        drop_last: Whether a smaller last batch is left out.
        shuffle: Whether the order is drawn.
        seed: What orders the samples; None to draw as PyTorch does.
        shard: Rank and world size, of whose positions this loader has every
            world-size-th.
        transform: Applied to the batches; None for none.
        pin: Whether batches on the CPU go to page-locked memory.
    """

    source: Source
    batch_size: int
    drop_last: bool
    shuffle: bool
    seed: int | None
    shard: tuple[int, int] | None
    transform: Callable[[Any], Any] | None
    pin: bool = False

    def iterate(
        self, current: Pass, settle: Callable[[Pass], None]
    ) -> itertools.chain[Any]:
        """Return the batches of a pass from the first that was not delivered.

        Args:
            current: The pass.
            settle: Called with it when the first batch is asked for.
        """
        iterator = BatchedIterator.from_iterable(_generate(self, current, settle))
        whole, rest = divmod(self._num_positions(), self.batch_size)
        assert isinstance(iterator, BatchedIterator)
        iterator.num_batches = whole + (rest > 0 and not self.drop_last)
        return iterator

    def order(self, current: Pass) -> tuple[Indices, int]:
        """Return the order of a pass: indices by position, and their number."""
        count = self.source.num_samples
        if not self.shuffle and self.shard is None:
            return range_of, count
        if current.draws is None:
            order = make_order(
                count,
                seed=self.seed or 0,
                epoch=current.epoch,
                shuffle=self.shuffle,
                shard=self.shard,
            )
            return order.indices, len(order)
        drawn = current.draws.order(count)
        return lambda start, stop: drawn[start:stop], count

    def _num_positions(self) -> int:
        if self.shard is None:
            return self.source.num_samples
        rank, world_size = self.shard
        return len(range(rank, self.source.num_samples, world_size))

    def columns_and_pack(
        self, current: Pass
    ) -> tuple[Sequence[Column], Callable[[Sequence[Tensor]], Any]]:
        """Return what to gather in a pass, and what makes batches of it.

        A column transform runs on whole chunks; any other, and one on nested batches,
        runs on each batch.
        """
        columns, pack = self.source.columns, self.source.pack
        transform = self.transform
        if transform is None:
            return columns, pack
        if not isinstance(transform, ColumnTransform) or not self.source.is_flat:
            return columns, lambda values: transform(pack(values))
        draws = current.draws
        seed = (self.seed or 0) if draws is None else draws.base_seed
        place = locate_column(transform.column, self.source.names, len(columns))
        fused = TransformedColumn(columns[place], transform, seed, current.epoch)
        return [*columns[:place], fused, *columns[place + 1 :]], pack


def range_of(start: int, stop: int) -> range:
    """Return the indices of positions of an order that is none."""
    return range(start, stop)


def _generate(
    plan: BatchedPlan, current: Pass, settle: Callable[[Pass], None]
) -> Iterator[Iterator[Any]]:
    """Yield an iterator over the batches, made when the first is asked for."""
    settle(current)
    indices, count = plan.order(current)
    size = plan.batch_size
    whole = count // size * size
    start = min(current.delivered * size, count)
    if current.draws is None:  # nothing is drawn before the last, smaller batch
        stop = whole if plan.drop_last else count
        yield _deliver(plan, current, indices, start, stop)
        current.has_ended = current.delivered >= -(-stop // size)
        return
    yield _deliver(plan, current, indices, start, whole)
    if current.delivered < whole // size:
        return  # A batch could not be made: what follows it is not handed out.
    is_ragged = whole < count and not plan.drop_last
    if is_ragged:
        _end_order(plan, current)
        yield _deliver(plan, current, indices, max(start, whole), count)
    else:
        _end_order(plan, current)
    current.has_ended = True


def _deliver(
    plan: BatchedPlan, current: Pass, indices: Indices, start: int, stop: int
) -> Iterator[Any]:
    columns, pack = plan.columns_and_pack(current)
    batches = iterate_batches(
        columns,
        indices,
        start=start,
        stop=stop,
        batch_size=plan.batch_size,
    )
    for values in batches:
        batch = pack(pin_batch(list(values)) if plan.pin else values)
        current.delivered += 1
        yield batch


def _end_order(plan: BatchedPlan, current: Pass) -> None:
    if plan.shuffle and current.draws is not None:
        current.draws.end_order(plan.source.num_samples)
