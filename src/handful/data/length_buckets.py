"""Length buckets: batches of samples of similar length, so that little is padded."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

from handful.data.order import epoch_permutation, mix_seed, order_fingerprint
from handful.errors import ArgumentError, DataError

WINDOW_BATCHES = 64
"""How many batches are sorted together, unless it is said."""

STATE_FORMAT = "handful.LengthBuckets"

Lengths: TypeAlias = NDArray[np.float64]


@dataclass
class _Pass:
    """One pass, as far as it got."""

    epoch: int
    delivered: int
    has_ended: bool = False


class LengthBuckets(Sampler[list[int]]):
    """A batch sampler that puts samples of similar length together.

    Each epoch is shuffled as a whole, cut into windows of ``window`` batches, sorted by
    length within each window and cut into batches, whose order is shuffled over the
    whole epoch. Each sample comes once an epoch. What does not fill a batch is a random
    part of the samples, comes last, and is not sorted. The batches are a pure function
    of (seed, epoch).

    The larger the window, the less is padded and the less random are the batches: when
    a sample comes is as random as without sorting, but a batch's samples are alike in
    length, and a sample's companions are drawn from its window only. What depends on
    the length, such as a class that has longer texts, is then not mixed within a batch,
    and a batch's gradient is noisier. A window of 1 is plain shuffling. Measured on
    20,000 lengths exp(N(3.5, 0.7²)) in batches of 32, with windows of 1, 8, 64 and all:
    padding takes 72, 34, 9 and 1 % of all places, and 0.2, 0.9, 5 and 17 % of the pairs
    that share a batch share one again in the next epoch.

    Each pass is the next epoch. Where something else counts epochs, `set_epoch` says
    which comes.

    Args:
        lengths: Length of each sample in whatever unit, shape ``(N,)``.
        batch_size: Samples a batch.
        seed: What the order depends on, besides the epoch.
        window: How many batches are sorted together, 1 or more.
        drop_last: Leave out a last batch that is smaller.

    Attributes:
        epoch: The epoch that the next pass will be, from 0 on.

    Raises:
        ArgumentError: A number is not whole or too small.
        DataError: The lengths are none, not of one dimension, or not finite.

    Example:
        >>> batches = LengthBuckets([3, 9, 2, 8], batch_size=2, seed=0)
        >>> sorted(sorted(batch) for batch in batches)
        [[0, 2], [1, 3]]
    """

    def __init__(
        self,
        lengths: ArrayLike,
        batch_size: int,
        *,
        seed: int = 0,
        window: int = WINDOW_BATCHES,
        drop_last: bool = False,
    ) -> None:
        self._lengths = _check_lengths(lengths)
        self.batch_size = _check_whole("batch_size", batch_size, 1)
        self.seed = _check_whole("seed", seed)
        self.window = _check_whole("window", window, 1)
        self.drop_last = bool(drop_last)
        self.epoch = 0
        self._first_batch = 0
        self._pass: _Pass | None = None
        self._identity = {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "window": self.window,
            "drop_last": self.drop_last,
            "fingerprint": order_fingerprint(),
            "lengths": hashlib.sha256(self._lengths.tobytes()).hexdigest()[:16],
        }

    def __len__(self) -> int:
        whole, rest = divmod(len(self._lengths), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        # A pass begins with its first batch: PyTorch asks for iterators that it drops.
        current = _Pass(self.epoch, self._first_batch)
        self._pass, self._first_batch = current, 0
        self.epoch += 1
        batches, rest = self._make_batches(current.epoch)
        for number in range(current.delivered, len(self)):
            current.delivered = number + 1
            yield (batches[number] if number < len(batches) else rest).tolist()
        current.has_ended = True

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be that of an epoch, from 0 on."""
        epoch = _check_whole("epoch", epoch, 0)
        if epoch != self.epoch:
            self._first_batch = 0
        self.epoch = epoch
        self._pass = None

    def state_dict(self) -> dict[str, Any]:
        """Return where the last pass is: plain values, for JSON.

        Returns:
            The epoch, how many of its batches were given, and what the batches depend
            on.
        """
        current = self._pass
        place = (self.epoch, self._first_batch)
        if current is not None and not current.has_ended:
            place = (current.epoch, current.delivered)
        return {
            "format": STATE_FORMAT,
            "epoch": place[0],
            "delivered": place[1],
            **self._identity,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where a state was taken.

        Args:
            state: What `state_dict` returned.

        Raises:
            ArgumentError: It is none, or of other settings.
            DataError: It is of other lengths.
        """
        if not isinstance(state, Mapping) or state.get("format") != STATE_FORMAT:
            raise ArgumentError(
                "state must be what state_dict() of a LengthBuckets returned; got "
                f"{str(state)[:60]}."
            )
        for name, value in self._identity.items():
            if state.get(name) == value:
                continue
            if name == "lengths":
                raise DataError(
                    "the lengths are others than those that the state is of. "
                    "Load it into a sampler of the same data."
                )
            raise ArgumentError(
                f"state must be of a sampler with the same {name}; got "
                f"{state.get(name)!r} in the state and {value!r} here."
            )
        epoch = _check_whole("epoch of the state", state.get("epoch"), 0)
        delivered = _check_whole("delivered of the state", state.get("delivered"), 0)
        self.epoch, self._first_batch, self._pass = epoch, delivered, None

    def _make_batches(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return an epoch's full batches, shape ``(K, batch_size)``, and the rest."""
        count, size = len(self._lengths), self.batch_size
        shuffled = epoch_permutation(count, seed=self.seed, epoch=epoch).numpy()
        whole = count // size * size
        window = np.arange(whole) // (self.window * size)
        order = np.lexsort((self._lengths[shuffled[:whole]], window))
        batches = shuffled[:whole][order].reshape(-1, size)
        generator = torch.Generator()
        generator.manual_seed(mix_seed(self.seed, "batches", epoch))
        places = torch.randperm(len(batches), generator=generator).numpy()
        return batches[places], shuffled[whole:]


def _check_lengths(lengths: ArrayLike) -> Lengths:
    try:
        array = np.asarray(lengths).astype(np.float64)
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise DataError(
            "lengths must be one finite number for each sample; got "
            f"{str(lengths)[:60]}. Give the number of tokens of each."
        )
    return array


def _check_whole(name: str, value: Any, low: int | None = None) -> int:
    try:
        whole = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None or (low is not None and whole < low):
        kind = "a whole number" + ("" if low is None else f" from {low} on")
        raise ArgumentError(f"{name} must be {kind}; got {value!r}.")
    return whole
