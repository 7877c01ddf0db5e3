"""Which sample is in which batch: an order is made once and read by every descent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from handful.errors import ArgumentError

__all__ = ["make_order", "reseeded_order", "split_batches"]

_Indices = npt.NDArray[np.int64]


def make_order(num_samples: int, epochs: int, seed: int) -> _Indices:
    """Shuffle the samples anew for each epoch.

    Args:
        num_samples: Number of samples N, at least 1.
        epochs: Number of epochs, at least 1.
        seed: 0 or more. The same arguments give the same order.

    Returns:
        Indices of samples, int64 ``(epochs, N)``: each row has each of 0 to N - 1 once.

    Raises:
        ArgumentError: An argument is out of its range.

    Example:
        >>> make_order(4, epochs=2, seed=0).shape
        (2, 4)
    """
    _check_counts(num_samples, epochs, seed)
    # One generator for all epochs: it is seeded here, before the loop, and moves on.
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(num_samples) for _ in range(epochs)])


def reseeded_order(num_samples: int, epochs: int, seed: int) -> _Indices:
    """Shuffle the samples once and repeat that order in every epoch: a mistake to know.

    This is what a loop gets that calls ``np.random.seed(seed)`` at the start of each
    epoch. The batches are then the same in all epochs, so their errors never average
    out: with a fixed rate the weights settle into a cycle set by that one order.
    `make_order` is the correct way.

    Args:
        num_samples: Number of samples N, at least 1.
        epochs: Number of epochs, at least 1.
        seed: 0 to 2**32 - 1, for NumPy's older generator, whose numbers never change.

    Returns:
        Indices of samples, int64 ``(epochs, N)``, all rows equal.

    Raises:
        ArgumentError: An argument is out of its range.

    Example:
        >>> first, second = reseeded_order(4, epochs=2, seed=42)
        >>> first.tolist(), second.tolist()
        ([1, 3, 0, 2], [1, 3, 0, 2])
    """
    _check_counts(num_samples, epochs, seed)
    if seed >= 2**32:
        raise ArgumentError(
            f"`seed` must lie in 0 to 2**32 - 1; got {seed!r}. The older generator of "
            "NumPy, which this order is drawn from, takes no other."
        )
    rows = [np.random.RandomState(seed).permutation(num_samples) for _ in range(epochs)]
    return np.stack(rows).astype(np.int64)


def split_batches(epoch: _Indices, batch_size: int) -> Iterator[_Indices]:
    """Cut one epoch's order into batches; the last has what is left.

    Args:
        epoch: Indices of samples in their order, int ``(N,)``.
        batch_size: Samples in each batch, at least 1.

    Yields:
        Indices of one batch's samples, ``(m,)``, 1 <= m <= batch_size.

    Example:
        >>> [rows.tolist() for rows in split_batches(np.arange(5), 2)]
        [[0, 1], [2, 3], [4]]
    """
    for start in range(0, len(epoch), batch_size):
        yield epoch[start : start + batch_size]


def _check_counts(num_samples: int, epochs: int, seed: int) -> None:
    for name, value in {"num_samples": num_samples, "epochs": epochs}.items():
        if value < 1:
            raise ArgumentError(f"`{name}` must be 1 or more; got {value!r}.")
    if seed < 0:
        raise ArgumentError(f"`seed` must be 0 or more; got {seed!r}.")
