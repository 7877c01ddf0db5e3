"""The arguments of a descent, checked once for all three of them."""

# Capital X is the field's name for the inputs.
# ruff: noqa: N803

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from handful.errors import ArgumentError, DataError, unknown_choice
from handful.reference.weights import FloatArray, check_model, weight_shapes

__all__ = ["check_rate", "check_steps", "read_data", "read_weights"]

_DTYPES = ("float32", "float64")


def read_data(
    model: str, X: npt.ArrayLike, y: npt.ArrayLike, dtype: str
) -> tuple[FloatArray, npt.NDArray[np.generic]]:
    """Check the data and bring them to the dtype of the descent.

    Args:
        model: One of `handful.reference.weights.MODELS`.
        X: Features, ``(N, n)``.
        y: Values ``(N, 1)`` for ``linear``, otherwise classes, whole numbers ``(N,)``.
        dtype: ``float32`` or ``float64``.

    Returns:
        Features of that dtype, ``(N, n)``; values of that dtype, ``(N, 1)``, or
        classes, int64 ``(N,)``.

    Raises:
        ArgumentError: There is no such model or dtype.
        DataError: The data do not have these shapes.
    """
    check_model(model)
    if dtype not in _DTYPES:
        raise unknown_choice("dtype", dtype, _DTYPES)
    features, target = np.asarray(X, dtype=dtype), np.asarray(y)
    if features.ndim != 2 or not features.size:
        raise DataError(
            "`X` must have a row for each sample and a column for each feature, "
            f"shape (N, n); got {features.shape}."
        )
    expected = (len(features), 1) if model == "linear" else (len(features),)
    if target.shape != expected:
        raise DataError(
            f"`y` must have shape {expected} for {model}; got {target.shape}. "
            "Other shapes would be broadcast, which gives a wrong loss silently."
        )
    if model == "linear":
        return features, target.astype(dtype)
    if not np.issubdtype(target.dtype, np.integer):
        raise DataError(
            f"`y` must hold classes as whole numbers for {model}; got {target.dtype}."
        )
    return features, target.astype(np.int64)


def read_weights(
    model: str,
    weights: Mapping[str, npt.ArrayLike],
    X: FloatArray,
    y: npt.NDArray[np.generic],
) -> dict[str, FloatArray]:
    """Copy the initial weights in the features' dtype, in the order of the layers.

    Args:
        model: One of `handful.reference.weights.MODELS`.
        weights: Name -> array of the shape that `weight_shapes` says. Biases may be
            missing: a layer without one adds nothing.
        X: Features, ``(N, n)``, as `read_data` returns them.
        y: Values or classes, as `read_data` returns them.

    Returns:
        Name -> a copy, of the dtype of ``X``.

    Raises:
        ArgumentError: A name or a shape is wrong.
        DataError: A class in ``y`` has no output.
    """
    num_hidden = sum(name.endswith("weight") for name in weights) - 1
    names = list(weight_shapes(model, 1, 1, [1] * max(num_hidden, 1)))
    needed = {name for name in names if name.endswith("weight")}
    if not needed <= set(weights) <= set(names):
        raise ArgumentError(
            f"`weights` must be {', '.join(names)} for {model}; "
            f"got {', '.join(weights) or 'none'}. initial_weights() makes them."
        )
    copies = {
        name: np.array(weights[name], X.dtype) for name in names if name in weights
    }
    given = {name: value.shape for name, value in copies.items()}
    sizes = [given[name][-1] if given[name] else 0 for name in names if name in needed]
    *hidden, num_outputs = sizes
    shapes = weight_shapes(model, X.shape[1], num_outputs, hidden)
    if given != {name: shapes[name] for name in given}:
        raise ArgumentError(
            f"`weights` must have shapes {shapes} for {model} with {X.shape[1]} "
            f"features; got {given}. initial_weights() makes them."
        )
    if model != "linear" and not 0 <= y.min() <= y.max() < num_outputs:
        raise DataError(
            f"`y` must hold classes from 0 to {num_outputs - 1}, as `weights` have "
            f"{num_outputs} outputs; got {y.min()} to {y.max()}."
        )
    return copies


def check_steps(
    batch_size: int,
    epochs: int,
    lr: float,
    order: npt.NDArray[np.integer],
    num_samples: int,
) -> None:
    """Check the settings of a descent.

    Args:
        batch_size: Samples in a batch, 1 to ``num_samples``.
        epochs: Number of epochs, at least 1.
        lr: Learning rate, positive and finite.
        order: Indices of samples, ``(epochs, num_samples)``.
        num_samples: Number of samples N.

    Raises:
        ArgumentError: A setting is out of its range, or a row of the order does not
            have each sample once.
    """
    if not 1 <= batch_size <= num_samples:
        raise ArgumentError(
            f"`batch_size` must lie in 1 to {num_samples}, the number of samples; "
            f"got {batch_size!r}."
        )
    check_rate(epochs, lr)
    if order.shape != (epochs, num_samples) or order.dtype.kind not in "iu":
        raise ArgumentError(
            f"`order` must have shape {(epochs, num_samples)}, a row of sample indices "
            f"for each epoch; got {order.dtype} {order.shape}. make_order() makes it."
        )
    if not np.array_equal(np.sort(order), np.tile(np.arange(num_samples), (epochs, 1))):
        raise ArgumentError(
            f"`order` must have each of 0 to {num_samples - 1} once in each row; "
            "got a row that misses or repeats some. make_order() makes it."
        )


def check_rate(epochs: int, lr: float) -> None:
    """Raise an `ArgumentError` unless there is an epoch and the rate is positive."""
    if epochs < 1:
        raise ArgumentError(f"`epochs` must be 1 or more; got {epochs!r}.")
    if not (lr > 0 and math.isfinite(lr)):
        raise ArgumentError(f"`lr` must be positive and finite; got {lr!r}.")
