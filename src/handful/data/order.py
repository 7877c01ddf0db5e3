"""Order: which sample comes when.

With a seed the order is a pure function of (seed, epoch, position). Nothing is drawn
from a global generator, and neither workers nor earlier epochs matter. A shard reads
the positions of one rank off the same order.
"""

from __future__ import annotations

import functools
import hashlib
import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from handful.data.bijection import MAX_SIZE, Bijection
from handful.errors import ArgumentError

PERMUTATION_LIMIT = 2**24
"""Most samples whose shuffled order is a stored permutation; above it is computed."""

BLOCK_POSITIONS = 16_384
"""Positions computed at a time: enough to spread the cost of a call, and the numbers
in between stay in the processor's cache."""

_Evaluate: TypeAlias = Callable[[range], Tensor]
"""Gives the indices at positions of the whole order, in memory of their own."""


def mix_seed(*parts: int | str) -> int:
    """Make one 63-bit seed of several numbers and words, so that streams don't meet.

    Args:
        *parts: What the seed depends on, in order.

    Returns:
        The first 63 bits of a SHA-256 hash of the parts.

    Example:
        >>> mix_seed(0, "order", 1) == mix_seed(0, "order", 2)
        False
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def epoch_permutation(num_samples: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of a shuffled epoch.

    Args:
        num_samples: Number of samples, N, 0 or more.
        seed: Seed of the whole run.
        epoch: The epoch, from 0 on.

    Returns:
        A permutation of 0 … N - 1, shape ``(N,)``, int64.
    """
    generator = torch.Generator()
    generator.manual_seed(mix_seed(seed, "order", epoch))
    return torch.randperm(num_samples, generator=generator)


class Order:
    """The order of one epoch, or one rank's shard of it; made by `make_order`.

    Attributes:
        positions: The positions of the whole order that this one holds, a range with
            the world size as its step.
    """

    def __init__(self, positions: range, evaluate: _Evaluate) -> None:
        self.positions = positions
        self._evaluate = evaluate

    def __len__(self) -> int:
        return len(self.positions)

    def indices(self, start: int, stop: int) -> Tensor:
        """Return which samples come from one position of this order to another.

        The cost does not depend on where the positions lie. A shuffled order of up to
        `PERMUTATION_LIMIT` samples is made at the first call.

        Args:
            start: First position in this order, from 0 on.
            stop: Position after the last, at most the order's length.

        Returns:
            Indices in ``[0, N)``, int64, shape ``(stop - start,)``, in memory of their
            own.

        Raises:
            ArgumentError: The positions are not in the order.
        """
        if not 0 <= start <= stop <= len(self):
            raise ArgumentError(
                f"start and stop must be 0 <= start <= stop <= {len(self)}; "
                f"got {start} and {stop}."
            )
        return self._evaluate(self.positions[start:stop])


def make_order(
    num_samples: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    shard: tuple[int, int] | None = None,
) -> Order:
    """Make the order of an epoch, a pure function of (seed, epoch, position).

    Args:
        num_samples: Number of samples, N, 0 to 2**62.
        seed: Seed of the whole run.
        epoch: The epoch, from 0 on.
        shuffle: Whether the order is a permutation that depends on seed and epoch;
            otherwise it is 0, 1, 2, …
        shard: None for all positions; ``(rank, world_size)`` for the positions rank,
            rank + world_size, … of the same order. Shards are disjoint and make up the
            epoch; the first N mod world_size have one position more than the others.

    Returns:
        The order. Nothing is computed yet.

    Raises:
        ArgumentError: A number is not whole or out of its range.

    Example:
        >>> make_order(10**9, seed=0, epoch=0).indices(500_000_000, 500_000_003)
        tensor([482908074, 560362640,  66530763])
        >>> shard = make_order(5, seed=0, epoch=0, shuffle=False, shard=(1, 2))
        >>> shard.indices(0, len(shard))
        tensor([1, 3])
    """
    num_samples = _check_whole("num_samples", num_samples, 0, MAX_SIZE)
    seed = _check_whole("seed", seed)
    epoch = _check_whole("epoch", epoch, 0)
    rank, world_size = (0, 1) if shard is None else check_shard(shard)
    positions = range(rank, num_samples, world_size)
    if not shuffle:
        return Order(positions, _evaluate_sequential)
    if num_samples <= PERMUTATION_LIMIT:
        return Order(positions, _Stored(num_samples, seed, epoch))
    return Order(positions, _Computed(num_samples, seed, epoch))


def check_shard(shard: tuple[int, int]) -> tuple[int, int]:
    """Return a shard as two whole numbers.

    Args:
        shard: ``(rank, world_size)``.

    Returns:
        The two as plain integers.

    Raises:
        ArgumentError: They are not whole numbers with 0 <= rank < world_size.
    """
    if not isinstance(shard, (tuple, list)) or len(shard) != 2:
        raise ArgumentError(
            f"shard must be two numbers, (rank, world_size); got {shard!r}."
        )
    world_size = _check_whole("world_size of the shard", shard[1], 1)
    rank = _check_whole("rank of the shard", shard[0], 0, world_size - 1)
    return rank, world_size


@functools.cache
def order_fingerprint() -> str:
    """Return 16 hexadecimal digits that stand for how orders are made.

    Orders come from `torch.randperm`, which may change between versions of PyTorch.
    Whoever saves a position in an order saves this with it, and can tell on loading
    whether the same numbers still lead to the same order.

    Returns:
        A hash of a few orders, stored and computed; the same in every process.
    """
    sizes = (1, 10, 1_000, 20_000)
    digest = hashlib.sha256()
    for epoch, num_samples in enumerate(sizes):
        order = epoch_permutation(num_samples, seed=0, epoch=epoch)
        digest.update(order.numpy().astype("<i8").tobytes())
    for num_samples in (100, 10**9, MAX_SIZE):
        numbers = _Computed(num_samples, 0, 0).compute(range(100))
        digest.update(numbers.numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]


class SeededSampler(Sampler[int]):
    """Yields the order of one epoch; `DataLoader` sets the epoch.

    Args:
        num_samples: Number of samples, N.
        seed: Seed of the whole run.
        shuffle: Whether each epoch has an order of its own, as for `make_order`.
        shard: ``(rank, world_size)``, as for `make_order`.

    Attributes:
        epoch: The epoch whose order comes next, 0 until it is set.
        requested_epoch: What `set_epoch` was given, until a loader has taken it.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int,
        *,
        shuffle: bool = True,
        shard: tuple[int, int] | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle
        self.shard = shard
        self.epoch = 0
        self.requested_epoch: int | None = None
        self._length = len(self._make_order())

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of an epoch, as frameworks do at its beginning.

        Args:
            epoch: The epoch, from 0 on.
        """
        self.epoch = self.requested_epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return _iterate(self._make_order())

    def _make_order(self) -> Order:
        return make_order(
            self.num_samples,
            seed=self.seed,
            epoch=self.epoch,
            shuffle=self.shuffle,
            shard=self.shard,
        )


def _iterate(order: Order) -> Iterator[int]:
    for start in range(0, len(order), BLOCK_POSITIONS):
        stop = min(start + BLOCK_POSITIONS, len(order))
        yield from order.indices(start, stop).tolist()


def _evaluate_sequential(positions: range) -> Tensor:
    return torch.arange(positions.start, positions.stop, positions.step)


class _Stored:
    """A permutation, made when it is first asked for and then kept."""

    def __init__(self, num_samples: int, seed: int, epoch: int) -> None:
        self._arguments = (num_samples, seed, epoch)
        self._permutation: Tensor | None = None

    def __call__(self, positions: range) -> Tensor:
        permutation = self._permutation
        if permutation is None:
            num_samples, seed, epoch = self._arguments
            permutation = epoch_permutation(num_samples, seed=seed, epoch=epoch)
            self._permutation = permutation
        return permutation[positions.start : positions.stop : positions.step].clone()


class _Computed:
    """A bijection, evaluated where it is asked for.

    A call for a few positions costs nearly as much as one for thousands, so it computes
    a block from its first position on, and keeps that for the calls that follow.
    """

    def __init__(self, num_samples: int, seed: int, epoch: int) -> None:
        self._num_samples = num_samples
        key = mix_seed(seed, "order", epoch, num_samples)
        self._bijection = Bijection(num_samples, key=key)
        # One attribute, so that threads see positions and indices that belong together.
        self._block = (range(0), torch.empty(0, dtype=torch.int64))

    def __call__(self, positions: range) -> Tensor:
        if len(positions) > BLOCK_POSITIONS // 2:
            return self.compute(positions)
        if not positions:
            return torch.empty(0, dtype=torch.int64)
        block, indices = self._block
        if positions[0] not in block or positions[-1] not in block:
            rest = range(positions.start, self._num_samples, positions.step)
            block = rest[:BLOCK_POSITIONS]
            indices = self.compute(block)
            self._block = (block, indices)
        first = block.index(positions.start)
        return indices[first : first + len(positions)].clone()

    def compute(self, positions: range) -> Tensor:
        indices = np.empty(len(positions), np.int64)
        for first in range(0, len(positions), BLOCK_POSITIONS):
            part = positions[first : first + BLOCK_POSITIONS]
            numbers = np.arange(part.start, part.stop, part.step, dtype=np.uint64)
            indices[first : first + len(part)] = self._bijection(numbers)
        return torch.from_numpy(indices)


def _check_whole(
    name: str, value: Any, low: int | None = None, high: int | None = None
) -> int:
    """Return a whole number of any integer type, bounds included."""
    kind = "a whole number"
    if low is not None:
        kind += f" from {low} on" if high is None else f" from {low} to {high}"
    try:
        whole = operator.index(value)
    except TypeError:
        whole = None
    is_below = whole is not None and low is not None and whole < low
    is_above = whole is not None and high is not None and whole > high
    if whole is None or isinstance(value, bool) or is_below or is_above:
        raise ArgumentError(f"{name} must be {kind}; got {value!r}.")
    return whole
