"""Reading in this process as PyTorch's loader does, by what it documents alone.

Stands behind PyTorch's own iterator, which is private to it; see `torch_private`. It
draws the same numbers at the same moments.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed
from torch.autograd.profiler import record_function
from torch.utils.data import IterableDataset, IterDataPipe, MapDataPipe, graph_settings

from handful.data.pinning import pin_batch
from handful.torch_private import length_said

_NO_ACCELERATOR = (
    "'pin_memory' argument is set as true but no accelerator is found, "
    "then device pinned memory won't be used."
)


class OneProcessIterator:
    """Iterates a loader in this process.

    Args:
        loader: What has a loader's attributes, and ``_index_sampler``, which gives the
            indices of each batch.
    """

    _base_seed: Any

    def __init__(self, loader: Any) -> None:
        dataset = loader.dataset
        if isinstance(dataset, IterDataPipe):
            _seed_pipes(dataset, loader.generator)
        has_accelerator = torch.accelerator.is_available()
        if loader.pin_memory and not has_accelerator:
            warnings.warn(_NO_ACCELERATOR, stacklevel=2)
        self._pin_memory = loader.pin_memory and has_accelerator
        self._dataset = dataset
        self._index_sampler = loader._index_sampler
        self._sampler_iter = iter(self._index_sampler)
        self._base_seed = _draw_seed(loader.generator)
        self._num_yielded = 0
        self._IterableDataset_len_called = length_said(loader)
        if isinstance(dataset, (IterDataPipe, MapDataPipe)):
            graph_settings.apply_sharding(dataset, *_world())
        self._dataset_fetcher = Fetcher(loader)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __len__(self) -> int:
        return len(self._index_sampler)

    def __next__(self) -> Any:
        with record_function(f"enumerate(DataLoader)#{type(self).__name__}.__next__"):
            batch = self._next_data()
        self._num_yielded += 1
        said = self._IterableDataset_len_called
        is_stream = isinstance(self._dataset, IterableDataset)
        if is_stream and said is not None and self._num_yielded > said:
            warnings.warn(
                f"Length of IterableDataset {self._dataset} was reported to be {said}"
                f"(when accessing len(dataloader)), but {self._num_yielded} samples "
                "have been fetched. ",
                stacklevel=2,
            )
        return batch

    def _next_data(self) -> Any:
        batch = self._dataset_fetcher.fetch(next(self._sampler_iter))
        return pin_batch(batch) if self._pin_memory else batch


class Fetcher:
    """Makes batches of samples.

    Args:
        loader: What has a loader's attributes.

    Attributes:
        dataset_iter: The iterator over an iterable data set; None over another.
        ended: Whether it has come to its end.
    """

    def __init__(self, loader: Any) -> None:
        self._dataset = loader.dataset
        self._collate, self._drop_last = loader.collate_fn, loader.drop_last
        self._is_batched = loader.batch_sampler is not None
        is_stream = isinstance(self._dataset, IterableDataset)
        self.dataset_iter: Any = iter(self._dataset) if is_stream else None
        self.ended = False

    def fetch(self, index: Any) -> Any:
        """Return the batch, or the sample, of an index.

        Raises:
            StopIteration: An iterable data set has no more.
        """
        if self.dataset_iter is not None:
            return self._collate(self._take(index))
        if not self._is_batched:
            return self._collate(self._dataset[index])
        many = getattr(self._dataset, "__getitems__", None)
        samples = many(index) if many else [self._dataset[one] for one in index]
        return self._collate(samples)

    def _take(self, index: Any) -> Any:
        if self.ended:
            raise StopIteration
        if not self._is_batched:
            return next(self.dataset_iter)
        samples: list[Any] = []
        for _ in index:
            try:
                samples.append(next(self.dataset_iter))
            except StopIteration:
                self.ended = True
                break
        if not samples or (self._drop_last and len(samples) < len(index)):
            raise StopIteration
        return samples


def _draw_seed(generator: torch.Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())


def _seed_pipes(dataset: Any, generator: torch.Generator | None) -> None:
    """Seed the data pipes of a graph, with the same seed in all processes."""
    seed = torch.empty((), dtype=torch.int64).random_(generator=generator)
    if distributed.is_available() and distributed.is_initialized():
        distributed.broadcast(seed, src=0, group=distributed.new_group(backend="gloo"))
    shared = torch.Generator()
    shared.manual_seed(int(seed.item()))
    graph_settings.apply_random_seed(dataset, shared)


def _world() -> tuple[int, int]:
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size(), distributed.get_rank()
    return 1, 0
