"""Ways to make batches: by hand, by loaders, by a data set of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Dataset, TensorDataset

from handful.data.loader import DataLoader

Batch = tuple[Tensor, Tensor]
Sample = tuple[Tensor, Tensor]
Epoch = Callable[[], Iterable[Batch]]
"""Gives the batches of one epoch, each time anew."""


@dataclass(frozen=True)
class Way:
    """A way to make batches.

    Attributes:
        name: What it is called in tables and figures.
        prepare: What is done once before the first epoch; returns the epochs.
    """

    name: str
    prepare: Callable[[], Epoch]


def make_manual_batches(
    features: Tensor, target: Tensor, batch_size: int, generator: torch.Generator
) -> list[Batch]:
    """Draw an order and cut the samples into batches, all at once.

    Args:
        features: Shape ``(N, n)``.
        target: Shape ``(N, …)``.
        batch_size: Samples a batch, from 1 on; the last one may be smaller.
        generator: Where the order is drawn from.

    Returns:
        The batches; together they are a copy of the data.
    """
    order = torch.randperm(len(features), generator=generator)
    return [
        (features[part], target[part])
        for part in (
            order[start : start + batch_size]
            for start in range(0, len(order), batch_size)
        )
    ]


def manual_epochs(
    features: Tensor,
    target: Tensor,
    batch_size: int,
    *,
    seed: int,
    is_reshuffled: bool,
) -> Epoch:
    """Return epochs of manual batches.

    Args:
        features: Shape ``(N, n)``.
        target: Shape ``(N, …)``.
        batch_size: Samples a batch.
        seed: Seed of the orders.
        is_reshuffled: Whether the batches are made anew for each epoch; else they are
            made once, as in the tutorial, and every epoch has the same.
    """
    generator = torch.Generator().manual_seed(seed)
    make = partial(make_manual_batches, features, target, batch_size, generator)
    if is_reshuffled:
        return make
    batches = make()
    return lambda: batches


def make_loader(
    features: Tensor,
    target: Tensor,
    batch_size: int,
    *,
    shuffle: bool = True,
    num_workers: int = 0,
    drop_last: bool = False,
    seed: int = 0,
) -> TorchDataLoader[Batch]:
    """Make PyTorch's loader with each of its options that the tutorial names.

    Memory is pinned where there is a GPU and the data are not on it already: PyTorch
    refuses to pin what lies on a device.

    Args:
        features: Shape ``(N, n)``.
        target: Shape ``(N, …)``.
        batch_size: Samples a batch.
        shuffle: Whether each epoch has a new order.
        num_workers: Processes that make batches; 0 for none but this one.
        drop_last: Leave out a last batch that is smaller.
        seed: Seed of the orders.
    """
    return TorchDataLoader(
        TensorDataset(features, target),  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=shuffle,
        num_workers=num_workers,
        drop_last=drop_last,
        pin_memory=can_pin(features),
        generator=torch.Generator().manual_seed(seed),
    )


def can_pin(features: Tensor) -> bool:
    """Say whether batches of these data can be pinned and would gain by it."""
    return torch.cuda.is_available() and features.device.type == "cpu"


class PairDataset(Dataset[Sample]):
    """Samples with a transform of the features.

    Args:
        features: Shape ``(N, n)``.
        target: Shape ``(N, …)``.
        transform: Applied to a sample's features when it is read; None for none.
    """

    def __init__(
        self,
        features: Tensor,
        target: Tensor,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.features, self.target = features, target
        self.transform = transform

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Sample:
        features = self.features[index]
        if self.transform is not None:
            features = self.transform(features)
        return features, self.target[index]


def halve(features: Tensor) -> Tensor:
    """Return half of the features; a transform to be timed."""
    return features / 2


def stack_pairs(samples: list[Sample]) -> Batch:
    """Collate samples into a batch by hand: features and targets, each stacked."""
    return (
        torch.stack([features for features, _ in samples]),
        torch.stack([target for _, target in samples]),
    )


def _loader_of(
    data: PairDataset,
    batch_size: int,
    seed: int,
    collate: Callable[[list[Sample]], Batch] | None = None,
) -> TorchDataLoader[Batch]:
    return TorchDataLoader(
        data,
        batch_size=batch_size,
        shuffle=True,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(seed),
    )


def make_ways(
    features: Tensor, target: Tensor, batch_size: int, seed: int
) -> list[Way]:
    """Return the ways that are compared; all deliver every sample once an epoch."""
    pairs = PairDataset(features, target)
    halved = PairDataset(features, target, halve)
    manual = partial(manual_epochs, features, target, batch_size, seed=seed)
    loader = partial(make_loader, features, target, batch_size, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    ours: partial[DataLoader[Batch]] = partial(
        DataLoader,
        TensorDataset(features, target),
        batch_size,
        shuffle=True,
        generator=generator,
    )
    return [
        Way("manual, made once", lambda: manual(is_reshuffled=False)),
        Way("manual, made each epoch", lambda: manual(is_reshuffled=True)),
        Way("PyTorch's loader", lambda: _repeat(loader())),
        Way("PyTorch's loader, 2 workers", lambda: _repeat(loader(num_workers=2))),
        Way("own data set", lambda: _repeat(_loader_of(pairs, batch_size, seed))),
        Way(
            "own data set, transform",
            lambda: _repeat(_loader_of(halved, batch_size, seed)),
        ),
        Way(
            "own data set, own collation",
            lambda: _repeat(_loader_of(pairs, batch_size, seed, stack_pairs)),
        ),
        Way("handful's loader", lambda: _repeat(ours())),
    ]


def _repeat(loader: Iterable[Batch]) -> Epoch:
    def epoch() -> Iterator[Batch]:
        return iter(loader)

    return epoch
