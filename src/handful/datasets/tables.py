"""Small tables that need no download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn import datasets as sklearn_datasets
from sklearn.preprocessing import scale

from handful.errors import ArgumentError

__all__ = ["TableData", "load_digits", "load_regression", "load_wine"]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class TableData:
    """A table of numbers with one target for each row."""

    features: npt.NDArray[np.float32] | npt.NDArray[np.float64]
    """Shape ``(N, F)``."""

    target: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    """Class of each row, int64 of shape ``(N,)``; or its value, float64 of ``(N, 1)``.
    """

    feature_names: tuple[str, ...]
    """Name of each of the F features."""

    class_names: tuple[str, ...] | None
    """Name of each class; None where the target is a value."""


def load_wine() -> TableData:
    """Load Wine: 178 wines of three growers by 13 chemical measurements.

    Returns:
        Features float32 ``(178, 13)`` in their own units, not standardized; target
        int64 ``(178,)``, 0 to 2 (Aeberhard and Forina, 1991, as scikit-learn ships
        it).
    """
    wine = sklearn_datasets.load_wine()
    return TableData(
        features=wine.data.astype(np.float32),
        target=wine.target.astype(np.int64),
        feature_names=tuple(wine.feature_names),
        class_names=tuple(map(str, wine.target_names)),
    )


def load_digits() -> TableData:
    """Load Digits: 1,797 handwritten digits of 8 x 8 pixels, a row each.

    Returns:
        Features float32 ``(1797, 64)``: whole numbers from 0 (no ink) to 16, row by
        row of the image, not scaled to [0, 1]; target int64 ``(1797,)``, 0 to 9 (the
        test part of Alpaydin and Kaynak, 1998, as scikit-learn ships it).
    """
    digits = sklearn_datasets.load_digits()
    return TableData(
        features=digits.data.astype(np.float32),
        target=digits.target.astype(np.int64),
        feature_names=tuple(digits.feature_names),
        class_names=tuple(map(str, digits.target_names)),
    )


def load_regression(
    num_samples: int = 100, noise: float = 20.0, seed: int = 42
) -> TableData:
    """Make one feature and a target that depends on it linearly, with noise.

    The feature is standardized to mean 0 and standard deviation 1. The target is not
    centred; a fit without intercept therefore leaves a little more than the noise.

    Args:
        num_samples: Number of rows, at least 2.
        noise: Standard deviation of the Gaussian noise, in units of the target; at
            least 0.
        seed: Seed of scikit-learn's generator, 0 to 2**32 - 1.

    Returns:
        Features float64 ``(num_samples, 1)``, target float64 ``(num_samples, 1)``, no
        class names.

    Raises:
        ArgumentError: An argument is out of its range.
    """
    if num_samples < 2:
        raise ArgumentError(f"`num_samples` must be 2 or more; got {num_samples!r}.")
    if not 0 <= noise < np.inf:
        raise ArgumentError(f"`noise` must be finite and not negative; got {noise!r}.")
    if not 0 <= seed < 2**32:
        raise ArgumentError(f"`seed` must lie in 0 to 2**32 - 1; got {seed!r}.")
    features, target = sklearn_datasets.make_regression(
        n_samples=num_samples, n_features=1, noise=noise, random_state=seed
    )
    return TableData(
        features=scale(features),
        target=target.reshape(-1, 1),
        feature_names=("x",),
        class_names=None,
    )
