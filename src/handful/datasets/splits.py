"""Split a data set and standardize its features, the same way each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from handful.errors import ArgumentError, DataError

__all__ = ["split_indices", "standardize", "stratified_split"]

_Indices = npt.NDArray[np.int64]


def split_indices(n: int, sizes: Sequence[int], seed: int) -> tuple[_Indices, ...]:
    """Split ``0 .. n-1`` at random into parts of given sizes.

    Args:
        n: Number of samples.
        sizes: Size of each part, 0 or more; together ``n``.
        seed: 0 or more. The same arguments give the same parts.

    Returns:
        The indices of each part, int64, in random order; no index is in two parts.

    Raises:
        ArgumentError: A size or the seed is negative or not whole, or the sizes do not
            sum to ``n``.

    Example:
        >>> train, test = split_indices(10, (8, 2), seed=0)
        >>> len(train), len(test)
        (8, 2)
    """
    _check_sizes(sizes, n)
    ends = np.cumsum(sizes)[:-1]
    return tuple(np.split(_make_generator(seed).permutation(n), ends))


def stratified_split(
    target: npt.ArrayLike, fraction: float, seed: int
) -> tuple[_Indices, _Indices]:
    """Hold out a fraction of the samples, with the same share of every class.

    ``round(n * fraction)`` samples are held out. Each class gives its share rounded
    down; what is then missing comes from the classes with the largest remainders, one
    sample each, the first class first among equals (Hamilton's method). A class with
    few samples may give none.

    Args:
        target: Class of each sample, shape ``(n,)``, of any dtype that can be sorted.
        fraction: Share of the samples to hold out, between 0 and 1.
        seed: 0 or more. The same arguments give the same split.

    Returns:
        The indices of the rest and of the held-out samples, int64, each in random
        order.

    Raises:
        ArgumentError: The fraction is not between 0 and 1, or so close to either that
            one side would be empty; or the seed is negative.
        DataError: ``target`` is not one-dimensional.

    Example:
        >>> rest, held_out = stratified_split([0] * 8 + [1] * 4, 0.25, seed=0)
        >>> (held_out < 8).sum().item(), (held_out >= 8).sum().item()
        (2, 1)
    """
    labels = np.asarray(target)
    if labels.ndim != 1:
        raise DataError(
            f"`target` must have one class per sample, shape (n,); got {labels.shape}."
        )
    if not 0 < fraction < 1:
        raise ArgumentError(f"`fraction` must lie between 0 and 1; got {fraction!r}.")
    n = len(labels)
    num_held_out = round(n * fraction)
    if num_held_out in (0, n):
        raise ArgumentError(
            f"`fraction` must leave samples on both sides; got {fraction!r}, which "
            f"holds out {num_held_out} of {n}."
        )
    order = _make_generator(seed).permutation(n)
    _, codes, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    quotas = _share_out(counts, num_held_out)
    # Samples grouped by class, in random order within each; the first ones are taken.
    by_class = np.argsort(codes, kind="stable")
    rank_in_class = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    is_held_out = np.zeros(n, dtype=bool)
    is_held_out[by_class] = rank_in_class < np.repeat(quotas, counts)
    return order[~is_held_out], order[is_held_out]


def standardize(
    train: npt.ArrayLike, *others: npt.ArrayLike
) -> tuple[npt.NDArray[np.float32], ...]:
    """Shift and scale each column to mean 0 and standard deviation 1 on ``train``.

    Mean and standard deviation (dividing by N) are computed in float64 from ``train``
    alone and applied to all arrays, so that nothing of the others leaks into the
    training. A column that is constant in ``train`` is centred and not scaled.

    Args:
        train: Features, shape ``(N, F)``, at least one row, finite.
        *others: Features to transform likewise, each of shape ``(M, F)``, finite.

    Returns:
        One float32 array for each argument, in the same order.

    Raises:
        DataError: The shapes do not fit, ``train`` is empty, or a value is not finite.
    """
    arrays = [np.asarray(array, dtype=np.float64) for array in (train, *others)]
    for position, array in enumerate(arrays):
        _check_features(array, arrays[0], f"others[{position - 1}]")
    first = arrays[0]
    mean = first.mean(axis=0)
    std = first.std(axis=0)
    # Rounding can leave a constant column a tiny standard deviation, and tiny values
    # one of zero.
    is_constant = (first == first[0]).all(axis=0) | (std == 0)
    std[is_constant] = 1
    return tuple(((array - mean) / std).astype(np.float32) for array in arrays)


def _check_sizes(sizes: Sequence[Any], n: int) -> None:
    if any(not isinstance(size, (int, np.integer)) or size < 0 for size in sizes):
        raise ArgumentError(
            f"`sizes` must be whole numbers of 0 or more; got {tuple(sizes)}."
        )
    if sum(sizes) != n or not sizes:
        raise ArgumentError(
            f"`sizes` must sum to n = {n}; got {tuple(sizes)}, which sum to "
            f"{sum(sizes)}. Name every part, also one that you do not need."
        )


def _check_features(
    array: npt.NDArray[np.float64], train: npt.NDArray[np.float64], name: str
) -> None:
    name = "train" if array is train else name
    if train.ndim != 2 or not len(train):
        raise DataError(
            f"`train` must have shape (N, F) with N of 1 or more; got {train.shape}."
        )
    if array.ndim != 2 or array.shape[1] != train.shape[1]:
        raise DataError(
            f"`{name}` must have as many columns as `train`; got shape {array.shape} "
            f"and, for `train`, {train.shape}."
        )
    num_bad = np.count_nonzero(~np.isfinite(array))
    if num_bad:
        raise DataError(
            f"`{name}` must be finite; got {num_bad} values that are NaN or infinite. "
            "Drop those rows or fill them in first."
        )


def _share_out(counts: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """Share ``total`` out in proportion to ``counts`` by largest remainders."""
    quotas, remainders = np.divmod(counts * total, counts.sum())
    num_missing = total - quotas.sum()
    quotas[np.argsort(-remainders, kind="stable")[:num_missing]] += 1
    return quotas


def _make_generator(seed: Any) -> np.random.Generator:
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ArgumentError(f"`seed` must be an integer of 0 or more; got {seed!r}.")
    return np.random.Generator(np.random.PCG64(int(seed)))
