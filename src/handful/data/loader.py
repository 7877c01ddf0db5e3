"""DataLoader: PyTorch's own interface, batches of in-memory data by the chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)
from torch.utils.data import DataLoader as TorchDataLoader

from handful.data.columns import Columns, as_column, is_array
from handful.data.fetch import can_gather, iterate_batches
from handful.data.order import SeededSampler, epoch_permutation
from handful.errors import ArgumentError


class DataLoader(TorchDataLoader[Any]):
    """PyTorch's DataLoader, faster on data that are already in arrays.

    The arguments, their order and their meaning are those of
    `torch.utils.data.DataLoader`; without a seed the batches are the same, bit for
    bit, and drawn from the same generators. Data in arrays (`Columns`,
    `torch.utils.data.TensorDataset`, a tensor, a NumPy array, or a tuple of these,
    which becomes `Columns`) are gathered many samples at a time; everything else goes
    through PyTorch's code. `path` says which of the two runs, and why.

    Args:
        dataset: A data set, an array, or a tuple of arrays of the same length.
        batch_size: Samples a batch, ``"full"`` for all in one batch, or None for
            samples without batching.
        shuffle: Whether each epoch has a new order.
        sampler: As PyTorch's.
        batch_sampler: As PyTorch's.
        num_workers: As PyTorch's; arrays need none and start none.
        collate_fn: As PyTorch's.
        pin_memory: As PyTorch's.
        drop_last: Leave out a last batch that is smaller.
        timeout: As PyTorch's.
        worker_init_fn: As PyTorch's.
        multiprocessing_context: As PyTorch's.
        generator: As PyTorch's.
        prefetch_factor: As PyTorch's.
        persistent_workers: As PyTorch's.
        pin_memory_device: As PyTorch's.
        in_order: As PyTorch's.
        seed: None to draw each epoch's order as PyTorch does; a whole number to make
            it a pure function of (seed, epoch, position).
        batch_transform: Applied to every batch after it was put together.

    Attributes:
        epoch: The epoch that the next pass will be, from 0 on; each pass adds one.

    Raises:
        ArgumentError: ``seed`` comes together with a sampler, or ``batch_size`` is a
            text other than ``"full"``.
        DataError: The arrays of a tuple differ in length.

    Example:
        >>> X, y = torch.arange(10.0).reshape(5, 2), torch.tensor([0, 1, 0, 1, 0])
        >>> loader = DataLoader((X, y), batch_size=2, shuffle=True, seed=0)
        >>> [len(target) for _, target in loader]
        [2, 2, 1]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | str | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[list[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
        seed: int | None = None,
        batch_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        if type(dataset) is tuple and dataset and all(map(is_array, dataset)):
            dataset = Columns(*dataset)
        if batch_size == "full":
            batch_size = max(len(dataset), 1)
        if isinstance(batch_size, str):
            raise ArgumentError(
                f"batch_size must be a number or 'full'; got {batch_size!r}."
            )
        if seed is not None:
            ordered_by = batch_sampler if sampler is None else sampler
            if not isinstance(ordered_by, (SeededSampler, type(None))):
                raise ArgumentError(
                    "seed must be None when a sampler orders the samples; "
                    f"got seed={seed} and {type(ordered_by).__name__}."
                )
            if shuffle and hasattr(dataset, "__len__"):
                sampler, shuffle = SeededSampler(len(dataset), seed), None
        self.seed = seed
        self.batch_transform = batch_transform
        self.epoch = 0
        super().__init__(
            dataset,
            batch_size,
            shuffle,
            sampler,
            batch_sampler,
            num_workers,
            collate_fn,
            pin_memory,
            drop_last,
            timeout,
            worker_init_fn,
            multiprocessing_context,
            generator,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent_workers,
            pin_memory_device=pin_memory_device,
            in_order=in_order,
        )

    @property
    def path(self) -> str:
        """Which code makes the batches, and why: ``batched: …`` or ``pytorch: …``."""
        reason = self._why_not_batched()
        if reason is None:
            return f"batched: {type(self.dataset).__name__} is in arrays"
        return f"pytorch: {reason}"

    def __iter__(self) -> Any:
        iterator = super().__iter__()
        if self.batch_transform is None:
            return iterator
        return map(self.batch_transform, iterator)

    def _get_iterator(self) -> Any:
        epoch, self.epoch = self.epoch, self.epoch + 1
        if self._why_not_batched() is not None:
            if isinstance(self.sampler, SeededSampler):
                self.sampler.epoch = epoch
            return super()._get_iterator()
        if self.seed is not None:
            return self._iterate_columns(epoch)
        # PyTorch draws this number for its workers when an iterator is made.
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        return self._iterate_columns(epoch)

    def _why_not_batched(self) -> str | None:
        columns = _columns_of(self.dataset)
        if columns is None:
            return f"{type(self.dataset).__name__} is read sample by sample"
        if not all(map(can_gather, columns)):
            return "an array has a gradient or is not dense"
        if type(self.batch_sampler) is not BatchSampler:
            return "batches are not put together from a batch_size"
        if self.batch_sampler.sampler is not self.sampler or not _is_default(
            self.sampler, self.dataset
        ):
            return f"{type(self.sampler).__name__} orders the samples"
        if self.collate_fn is not default_collate:
            return "collate_fn puts the batches together"
        if self.worker_init_fn is not None or self.pin_memory:
            return "worker_init_fn or pin_memory is set"
        if self.num_workers > 0 and self.generator is not None:
            return "workers draw from a generator ahead of time"
        return None

    def _iterate_columns(self, epoch: int) -> Iterator[Any]:
        columns = _columns_of(self.dataset)
        assert columns is not None
        assert self.batch_size is not None
        num_samples = len(columns[0])
        order: Tensor | range
        if isinstance(self.sampler, SequentialSampler):
            order = range(num_samples)
        elif self.seed is not None:
            order = epoch_permutation(num_samples, seed=self.seed, epoch=epoch)
        else:
            order = _draw_order(num_samples, self.generator)
        if self.drop_last:
            order = order[: num_samples // self.batch_size * self.batch_size]
        pack = _packer(self.dataset)
        for values in iterate_batches(columns, order, self.batch_size):
            yield pack(values)


def _columns_of(dataset: Any) -> tuple[Tensor, ...] | None:
    kind = type(dataset)
    if kind is TensorDataset or kind is Columns:
        return tuple(dataset.tensors)
    if (kind is Tensor or kind is np.ndarray or kind is np.memmap) and dataset.ndim > 0:
        return (as_column(dataset, "dataset"),)
    return None


def _packer(dataset: Any) -> Callable[[tuple[Tensor, ...]], Any]:
    """Return what puts a batch into the container that PyTorch's collation gives."""
    if type(dataset) is Columns and dataset.names is not None:
        names = dataset.names
        return lambda values: dict(zip(names, values, strict=True))
    if type(dataset) in (TensorDataset, Columns):
        return list
    return lambda values: values[0]


def _is_default(sampler: Any, dataset: Any) -> bool:
    if type(sampler) is SeededSampler:
        return True
    if type(sampler) is SequentialSampler:
        return sampler.data_source is dataset
    return (
        type(sampler) is RandomSampler
        and sampler.data_source is dataset
        and not sampler.replacement
        and sampler._num_samples is None
    )


def _draw_order(num_samples: int, generator: torch.Generator | None) -> Tensor:
    """Draw an epoch's order from the generators that PyTorch's RandomSampler uses."""
    if generator is None:
        seed = int(torch.empty((), dtype=torch.int64).random_().item())
        generator = torch.Generator()
        generator.manual_seed(seed)
        return torch.randperm(num_samples, generator=generator)
    order = torch.randperm(num_samples, generator=generator)
    # RandomSampler draws a second one, of which it uses nothing.
    torch.randperm(num_samples, generator=generator)
    return order
