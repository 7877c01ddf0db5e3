"""Checks of the arrays that figures are drawn from."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from handful.errors import ArgumentError

__all__ = ["read_array"]


def read_array(
    name: str, values: ArrayLike, shape: tuple[int | None, ...]
) -> NDArray[np.float64]:
    """Return values as float64 after a look at their shape.

    Args:
        name: What they are called in an error.
        values: Numbers.
        shape: The lengths; None for any from 1 on.

    Returns:
        An array of that shape.

    Raises:
        ArgumentError: They are not numbers or have another shape.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"{name} must be numbers; got {type(values).__name__}. Give a NumPy array."
        ) from None
    fits = array.ndim == len(shape) and all(
        length > 0 if wanted is None else length == wanted
        for length, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        text = ", ".join("≥1" if length is None else str(length) for length in shape)
        raise ArgumentError(
            f"{name} must be of shape ({text}); got {array.shape}. "
            "Figures are drawn from one value a point."
        )
    return array
