"""Dividing own data: 60 % to train on, 20 % to choose by, 20 % to test on."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from handful.datasets.splits import split_indices, stratified_split

HELD_OUT = 0.2
"""Share of the rows in each of the two parts that are not trained on."""

Rows = NDArray[np.int64]


class Parts(NamedTuple):
    """Which rows each part has."""

    train: Rows
    valid: Rows
    test: Rows


def divide(target: NDArray[Any], *, by_class: bool, seed: int) -> Parts:
    """Divide rows at random.

    Args:
        target: Classes or values, shape ``(N,)``, N of 10 or more.
        by_class: Whether each part gets the same share of every class.
        seed: The same seed gives the same parts.

    Example:
        >>> [len(part) for part in divide(np.zeros(10), by_class=False, seed=0)]
        [6, 2, 2]
    """
    count = len(target)
    held_out = round(count * HELD_OUT)
    if not by_class:
        sizes = (count - 2 * held_out, held_out, held_out)
        return Parts(*split_indices(count, sizes, seed))
    rest, test = stratified_split(target, HELD_OUT, seed)
    share = held_out / len(rest)
    train, valid = stratified_split(target[rest], share, seed)
    return Parts(rest[train], rest[valid], test)
