"""The row-group path: the batches of files that are read by the row group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import BatchSampler, default_collate

from handful.data.batched import BatchedIterator, Pass
from handful.data.collation import bare_collation
from handful.data.fetch import chunk_samples, iterate_batches
from handful.data.order import mix_seed
from handful.data.parquet_files import ParquetFiles
from handful.data.pinning import pin_batch
from handful.data.row_window import RingColumn, RowWindow
from handful.data.shuffle_window import BlockOrder, StreamOrder, WindowOrder
from handful.errors import ArgumentError

if TYPE_CHECKING:
    from handful.data.loader import DataLoader

DRAWN_NUMBERS = 64
"""How many numbers are drawn where no seed orders the rows; they make a seed."""


@dataclass(frozen=True)
class RowGroupPlan:
    """What the batches of a pass are; the counterpart of `BatchedPlan`.

    Attributes:
        files: The data.
        batch_size: Samples a batch.
        drop_last: Whether a smaller last batch is left out.
        shuffle: Whether the order is drawn.
        seed: What orders the samples; None to draw a seed from PyTorch's generators.
        shard: Rank and world size; None for all positions.
        transform: Applied to the batches; None for none.
        pin: Whether batches go to page-locked memory.
    """

    files: ParquetFiles
    batch_size: int
    drop_last: bool
    shuffle: bool
    seed: int | None
    shard: tuple[int, int] | None
    transform: Callable[[Any], Any] | None
    pin: bool = False

    def iterate(self, current: Pass, settle: Callable[[Pass], None]) -> BatchedIterator:
        """Return the batches of a pass from the first that was not delivered.

        Row groups whose rows were all delivered are not read.

        Args:
            current: The pass.
            settle: Called with it when the first batch is asked for.
        """
        iterator = BatchedIterator.from_iterable(_generate(self, current, settle))
        assert isinstance(iterator, BatchedIterator)
        whole, rest = divmod(len(self.positions()), self.batch_size)
        iterator.num_batches = whole + (rest > 0 and not self.drop_last)
        return iterator

    def positions(self) -> range:
        """Return the positions of the epoch's order that this loader has.

        A rank has a stretch of them, so that it reads no row groups but its own. The
        first N mod world_size ranks have one position more than the others.
        """
        rank, world_size = self.shard or (0, 1)
        each, rest = divmod(len(self.files), world_size)
        start = rank * each + min(rank, rest)
        return range(start, start + each + (rank < rest))

    def order(self, current: Pass) -> BlockOrder:
        """Return the order of a pass."""
        if not self.shuffle:
            return StreamOrder(self.files.counts)
        seed = self.seed or 0
        if current.draws is not None:
            drawn = current.draws.order(DRAWN_NUMBERS)
            seed = mix_seed("drawn", *drawn.tolist())
        return WindowOrder(
            self.files.counts,
            window=self.files.window,
            seed=seed,
            epoch=current.epoch if current.draws is None else 0,
        )

    def finish(self, values: list[Any]) -> Any:
        """Return a batch of its fields."""
        batch = self.files.pack(pin_batch(values) if self.pin else values)
        return batch if self.transform is None else self.transform(batch)


def plan_row_groups(
    loader: DataLoader[Any], *, is_plain: bool, shuffle: bool
) -> RowGroupPlan:
    """Return what a loader of `ParquetFiles` does.

    Args:
        loader: The loader.
        is_plain: Whether its sampler is one that it made itself.
        shuffle: Whether that one shuffles.

    Raises:
        ArgumentError: An argument of the loader's asks for samples one by one.
    """
    _check_arguments(loader, is_plain=is_plain)
    assert loader.batch_size is not None
    return RowGroupPlan(
        files=loader.dataset,  # type: ignore[arg-type]
        batch_size=loader.batch_size,
        drop_last=loader.drop_last,
        shuffle=shuffle,
        seed=loader.seed,
        shard=loader.shard,
        transform=loader.batch_transform,
        # Without an accelerator there is nothing to pin for, as in PyTorch's loader.
        pin=loader.pin_memory and torch.accelerator.is_available(),
    )


def _check_arguments(loader: DataLoader[Any], *, is_plain: bool) -> None:
    """Check that nothing asks for what reading by the row group can't give."""
    if loader.batch_sampler is None:
        raise _refuse("batch_size", "a number", None, "Give one")
    if type(loader.batch_sampler) is not BatchSampler:
        kind = type(loader.batch_sampler).__name__
        raise _refuse("batch_sampler", "None", kind, "Give batch_size and shard")
    if not is_plain or loader.batch_sampler.sampler is not loader.sampler:
        kind = type(loader.sampler).__name__
        raise _refuse("sampler", "None", kind, "Order the rows by shuffle and seed")
    if bare_collation(loader.collate_fn) is not default_collate:
        collate, remedy = loader.collate_fn, "Change the batches by batch_transform"
        raise _refuse("collate_fn", "None", collate, remedy)
    if loader.num_workers:
        remedy = "A thread of its own reads ahead"
        raise _refuse("num_workers", "0", loader.num_workers, remedy)
    if loader.device is not None:
        device, remedy = str(loader.device), "Move the batches"
        raise _refuse("device", "None", device, remedy)
    transform = loader.batch_transform
    if getattr(transform, "is_random", False):
        wanted, remedy = "one that draws no random numbers", "Draw them in the model"
        raise _refuse("batch_transform", wanted, transform, remedy)


def _refuse(name: str, wanted: str, value: object, remedy: str) -> ArgumentError:
    return ArgumentError(
        f"{name} must be {wanted} for ParquetFiles, which are read by the row group; "
        f"got {value!r}. {remedy}."
    )


def _generate(
    plan: RowGroupPlan, current: Pass, settle: Callable[[Pass], None]
) -> Iterator[Iterator[Any]]:
    """Yield an iterator over the batches, made when the first is asked for."""
    settle(current)
    yield _deliver(plan, current)


def _deliver(plan: RowGroupPlan, current: Pass) -> Iterator[Any]:
    size = plan.batch_size
    positions = plan.positions()
    count = len(positions)
    if plan.drop_last:
        positions = positions[: count // size * size]
    positions = positions[current.delivered * size :]
    shapes = [RingColumn(field, 0) for field in plan.files.fields]
    chunk = chunk_samples(shapes, size)
    window = RowWindow(plan.files, plan.order(current), positions, chunk)
    batches = iterate_batches(
        window.columns,
        window.indices,
        start=positions.start,
        stop=positions.stop,
        batch_size=size,
    )
    try:
        for values in batches:
            batch = plan.finish(list(values))
            current.delivered += 1
            yield batch
    finally:
        window.close()
    current.has_ended = True
