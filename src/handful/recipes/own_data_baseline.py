"""What saying the same of every row reaches: any model must beat that."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from handful.recipes.own_data_facts import Baseline


def class_baseline(
    train: NDArray[np.int64], test: NDArray[np.int64], classes: Sequence[str]
) -> Baseline:
    """Return the accuracy of always naming the training part's commonest class.

    Args:
        train: Samples of each class in the training part, shape ``(K,)``.
        test: In the test part.
        classes: Names of the K classes.

    Example:
        >>> class_baseline(np.array([5, 9]), np.array([3, 1]), ["a", "b"]).value
        0.25
    """
    commonest = int(train.argmax())
    share = float(test[commonest] / test.sum())
    return Baseline("accuracy", share, f"that of always saying {classes[commonest]!r}")


def value_baseline(mean: float, test_mean: float, test_variance: float) -> Baseline:
    """Return the root mean square error of always saying the training part's mean.

    Args:
        mean: Mean of the training part.
        test_mean: Mean of the test part.
        test_variance: Mean square deviation of the test part from its own mean.

    Example:
        >>> value_baseline(1.0, 4.0, 16.0).value
        5.0
    """
    error = math.sqrt(test_variance + (test_mean - mean) ** 2)
    return Baseline("rmse", error, f"that of always saying the mean, {mean:.4g}")
