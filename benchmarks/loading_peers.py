"""Other ways to load the same rows, joined to the loading benchmark where installed.

Each adapter returns what `loading_works.Epochs` is made of. A new one is a function
and an entry in `PEERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

Made = tuple[Callable[[], Iterable[Any]], int, Callable[[Any], Iterable[Any]]]


@dataclass(frozen=True)
class Peer:
    """Another loader.

    Attributes:
        label: How tables call it.
        module: What must be importable.
        package: Whose version is stated.
        make: Builds it of rows, labels, batch size and number of threads.
    """

    label: str
    module: str
    package: str
    make: Callable[[Tensor, Tensor, int, int], Made]


def make_by_hand(rows: Tensor, labels: Tensor, batch_size: int, _threads: int) -> Made:
    """Index by a slice of a permutation, as loops without a loader do."""

    def begin() -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.split(torch.randperm(len(rows)), batch_size):
            yield rows[index], labels[index]

    return begin, len(rows), iter


def make_stateful(rows: Tensor, labels: Tensor, batch_size: int, _threads: int) -> Made:
    """Make torchdata's StatefulDataLoader, PyTorch's loader with a state."""
    module = importlib.import_module("torchdata.stateful_dataloader")
    dataset = TensorDataset(rows, labels)
    loader = module.StatefulDataLoader(dataset, batch_size, shuffle=True)
    return lambda: loader, len(rows), iter


def make_tensordict(
    rows: Tensor, labels: Tensor, batch_size: int, _threads: int
) -> Made:
    """Index a TensorDict by a slice of a permutation."""
    module = importlib.import_module("tensordict")
    table = module.TensorDict({"x": rows, "y": labels}, batch_size=[len(rows)])

    def begin() -> Iterator[Any]:
        for index in torch.split(torch.randperm(len(rows)), batch_size):
            yield table[index]

    return begin, len(rows), lambda batch: batch.values()


def make_tf_data(rows: Tensor, labels: Tensor, batch_size: int, threads: int) -> Made:
    """Make a tf.data pipeline: all rows shuffled, then batched, then fetched ahead."""
    tensorflow = importlib.import_module("tensorflow")
    data = tensorflow.data
    options = data.Options()
    options.threading.private_threadpool_size = threads
    pipeline = (
        data.Dataset.from_tensor_slices((rows.numpy(), labels.numpy()))
        .shuffle(len(rows), reshuffle_each_iteration=True)
        .batch(batch_size)
        .prefetch(data.AUTOTUNE)
        .with_options(options)
    )
    return pipeline.as_numpy_iterator, len(rows), iter


def make_grain(rows: Tensor, labels: Tensor, batch_size: int, _threads: int) -> Made:
    """Make a Grain pipeline over single samples."""
    grain = importlib.import_module("grain")
    source = _Samples(rows.numpy(), labels.numpy())
    epoch = iter(range(2**31))

    def begin() -> Iterable[Any]:
        shuffled = grain.MapDataset.source(source).shuffle(seed=next(epoch))
        # No threads of its own: faster here, as reading a row waits for nothing.
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        batches = shuffled.batch(batch_size).to_iter_dataset(options)
        return cast("Iterable[Any]", batches)

    return begin, len(rows), iter


def make_grain_batches(
    rows: Tensor, labels: Tensor, batch_size: int, _threads: int
) -> Made:
    """Make a Grain pipeline whose elements are whole batches, gathered by NumPy."""
    grain = importlib.import_module("grain")
    rows_array, labels_array = rows.numpy(), labels.numpy()

    def begin() -> Iterable[Any]:
        index = torch.randperm(len(rows)).numpy()
        source = _Batches(rows_array, labels_array, index, batch_size)
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        batches = grain.MapDataset.source(source).to_iter_dataset(options)
        return cast("Iterable[Any]", batches)

    return begin, len(rows), iter


class _Samples:
    """Rows and labels, one sample at a time."""

    def __init__(self, rows: Any, labels: Any) -> None:
        self.rows = rows
        self.labels = labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.rows[index], self.labels[index]


class _Batches:
    """Rows and labels in the order of an index, one batch at a time."""

    def __init__(self, rows: Any, labels: Any, index: Any, batch_size: int) -> None:
        self.rows = rows
        self.labels = labels
        self.index = index
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch_size)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        first = number * self.batch_size
        chosen = self.index[first : first + self.batch_size]
        return np.take(self.rows, chosen, axis=0), self.labels[chosen]


PEERS = {
    "by-hand": Peer("`X[perm[i:i + b]]`", "torch", "torch", make_by_hand),
    "stateful": Peer(
        "StatefulDataLoader",
        "torchdata.stateful_dataloader",
        "torchdata",
        make_stateful,
    ),
    "tensordict": Peer("`td[index]`", "tensordict", "tensordict", make_tensordict),
    "tf-data": Peer("tf.data", "tensorflow", "tensorflow-cpu", make_tf_data),
    "grain": Peer("Grain, samples", "grain", "grain", make_grain),
    "grain-batches": Peer("Grain, whole batches", "grain", "grain", make_grain_batches),
}
