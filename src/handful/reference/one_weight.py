"""Gradient descent with one weight, in NumPy: small enough to draw.

The model is a line through the origin, y_hat = w x, the loss its mean squared error. As
a function of the one weight that loss is a parabola: `loss_at` gives its height,
`best_weight` its lowest point, and the descents below walk down on it.
"""

# Capital X is the field's name for the inputs.
# ruff: noqa: N803, N806

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from handful.errors import DataError
from handful.reference.arguments import check_rate, check_steps
from handful.reference.order import split_batches
from handful.reference.trace import Trace, make_trace

__all__ = [
    "best_weight",
    "gradient_descent",
    "gradient_step",
    "gradient_step_one_feature",
    "loss_at",
    "minibatch_descent",
]

_Floats = npt.NDArray[np.float64]


def gradient_step_one_feature(
    x: npt.ArrayLike, y: npt.ArrayLike, weight: float, lr: float
) -> tuple[float, float]:
    """Take one step on the mean squared error of y_hat = w x.

    Args:
        x: The feature, ``(m, 1)``.
        y: The values to predict, ``(m, 1)``.
        weight: The weight before the step.
        lr: Learning rate.

    Returns:
        The weight after the step, and the loss *before* it.

    Raises:
        DataError: A shape is not ``(m, 1)``.

    Example:
        >>> x, y = [[1.0], [2.0]], [[2.0], [4.0]]
        >>> gradient_step_one_feature(x, y, weight=0.0, lr=0.1)
        (1.0, 10.0)
    """
    x, y = _read_columns(x, y)
    # Linear model: y_hat = w x (Bishop, section 3.1).
    predicted = weight * x  # (m, 1)
    # Mean squared error: L = 1/m sum (y_hat - y)^2 (Goodfellow, section 5.1.4).
    loss = np.mean((predicted - y) ** 2)
    # dL/dw = 2/m sum x (y_hat - y), by the chain rule.
    gradient = 2 * np.mean(x * (predicted - y))
    # Gradient descent: w <- w - lr * dL/dw (Bishop, equation 5.41).
    return float(weight - lr * gradient), float(loss)


def gradient_step(
    X: npt.ArrayLike, y: npt.ArrayLike, weight: npt.ArrayLike, lr: float
) -> tuple[_Floats, float]:
    """Take one step on the mean squared error of y_hat = X w, with n features.

    Args:
        X: The features, ``(m, n)``.
        y: The values to predict, ``(m, 1)``.
        weight: The weights before the step, ``(n, 1)``.
        lr: Learning rate.

    Returns:
        The weights after the step, float64 ``(n, 1)``, and the loss *before* it.

    Raises:
        DataError: The shapes do not fit.
    """
    X, y, weight = _read_matrix(X, y, weight)
    # Linear model: y_hat = X w (Bishop, section 3.1).
    predicted = X @ weight  # (m, 1)
    # Mean squared error: L = 1/m sum (y_hat - y)^2 (Goodfellow, section 5.1.4).
    loss = np.mean((predicted - y) ** 2)
    # dL/dw = 2/m X^T (X w - y) (Goodfellow, section 5.1.4).
    gradient = 2 / len(X) * X.T @ (predicted - y)  # (n, 1)
    # Gradient descent: w <- w - lr * dL/dw (Bishop, equation 5.41).
    return weight - lr * gradient, float(loss)


def gradient_descent(
    x: npt.ArrayLike, y: npt.ArrayLike, *, epochs: int, lr: float, weight: float
) -> Trace:
    """Descend with all samples in each step (full batch).

    Args:
        x: The feature, ``(N, 1)``.
        y: The values to predict, ``(N, 1)``.
        epochs: Passes over the samples, here also steps; at least 1.
        lr: Learning rate, positive.
        weight: The weight to start from.

    Returns:
        The trace; its path is kept, ``(epochs + 1, 1)``, and its one weight is
        ``weights["weight"]``, ``(1, 1)``.

    Raises:
        ArgumentError: A setting is out of its range.
        DataError: A shape is not ``(N, 1)``.

    Example:
        >>> trace = gradient_descent([[1.0]], [[3.0]], epochs=3, lr=0.25, weight=1.0)
        >>> trace.path[:, 0].tolist(), trace.losses.tolist()
        ([1.0, 2.0, 2.5, 2.75], [4.0, 1.0, 0.25])
    """
    x, y = _read_columns(x, y)
    check_rate(epochs, lr)
    # A full batch is a batch of all samples: one step in each epoch, in any order.
    order = np.tile(np.arange(len(x)), (epochs, 1))  # (epochs, N)
    return minibatch_descent(
        x, y, batch_size=len(x), epochs=epochs, lr=lr, weight=weight, order=order
    )


def minibatch_descent(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    batch_size: int,
    epochs: int,
    lr: float,
    weight: float,
    order: npt.NDArray[np.integer],
) -> Trace:
    """Descend with one batch of samples in each step (Goodfellow, algorithm 8.1).

    Args:
        x: The feature, ``(N, 1)``.
        y: The values to predict, ``(N, 1)``.
        batch_size: Samples in a batch, 1 to N; the last of an epoch has what is left.
        epochs: Passes over the samples, at least 1.
        lr: Learning rate, positive.
        weight: The weight to start from.
        order: Indices of samples, ``(epochs, N)``, from
            `handful.reference.order.make_order`.

    Returns:
        The trace; its path is kept, ``(S + 1, 1)``, and its one weight is
        ``weights["weight"]``, ``(1, 1)``.

    Raises:
        ArgumentError: A setting or the order is wrong.
        DataError: A shape is not ``(N, 1)``.
    """
    x, y = _read_columns(x, y)
    check_steps(batch_size, epochs, lr, order, len(x))
    losses: list[float] = []
    path = [np.array([weight], dtype=np.float64)]
    start = time.perf_counter()
    with np.errstate(over="ignore", invalid="ignore"):
        for epoch in order:  # (N,)
            for rows in split_batches(epoch, batch_size):  # (m,)
                weight, loss = gradient_step_one_feature(x[rows], y[rows], weight, lr)
                losses.append(loss)
                path.append(np.array([weight]))
    seconds = time.perf_counter() - start
    return make_trace(
        losses,
        {"weight": np.array([[weight]])},
        path,
        order=order,
        batch_size=batch_size,
        seconds=seconds,
    )


def loss_at(weight: npt.ArrayLike, x: npt.ArrayLike, y: npt.ArrayLike) -> _Floats:
    """Compute the loss on all samples at given weights, as a parabola's height.

    Args:
        weight: Weights, of any shape; a single number too.
        x: The feature, ``(N, 1)``, not 0 in all samples.
        y: The values to predict, ``(N, 1)``.

    Returns:
        The loss at each weight, float64 of the same shape.

    Raises:
        DataError: A shape is not ``(N, 1)``, or each ``x`` is 0.
    """
    lowest = best_weight(x, y)
    x, y = _read_columns(x, y)
    least = np.mean((lowest * x - y) ** 2)
    # L(w) = L(w*) + mean(x^2) (w - w*)^2: a quadratic function is its own Taylor series
    # around w*, where the slope is 0 (Goodfellow, equation 4.8).
    away = np.asarray(weight, dtype=np.float64) - lowest
    return np.asarray(least + np.mean(x**2) * away**2)


def best_weight(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Compute the weight with the least loss, the lowest point of the parabola.

    Args:
        x: The feature, ``(N, 1)``, not 0 in all samples.
        y: The values to predict, ``(N, 1)``.

    Returns:
        The weight.

    Raises:
        DataError: A shape is not ``(N, 1)``, or each ``x`` is 0.

    Example:
        >>> best_weight([[1.0], [2.0]], [[2.0], [4.0]])
        2.0
    """
    x, y = _read_columns(x, y)
    if not x.any():
        raise DataError(
            "`x` must not be 0 in all samples; got only zeros. Every weight then has "
            "the same loss, and none is the best."
        )
    # dL/dw = 0 gives w* = sum x y / sum x^2: the normal equation with one feature
    # (Bishop, equation 3.15).
    return float(np.sum(x * y) / np.sum(x**2))


def _read_columns(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[_Floats, _Floats]:
    columns = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    for name, column in zip("xy", columns, strict=True):
        if column.ndim != 2 or column.shape[1] != 1 or not len(column):
            raise DataError(
                f"`{name}` must be one column, shape (m, 1); got {column.shape}. "
                "reshape(-1, 1) makes one of a flat array."
            )
    if len(columns[0]) != len(columns[1]):
        raise DataError(
            "`y` must have a value for each sample; "
            f"got {len(columns[0])} rows of x and {len(columns[1])} of y."
        )
    return columns


def _read_matrix(
    X: npt.ArrayLike, y: npt.ArrayLike, weight: npt.ArrayLike
) -> tuple[_Floats, _Floats, _Floats]:
    X, y, weight = (np.asarray(array, dtype=np.float64) for array in (X, y, weight))
    m, n = X.shape if X.ndim == 2 else (0, 0)
    if not m or y.shape != (m, 1) or weight.shape != (n, 1):
        raise DataError(
            "`X`, `y` and `weight` must have shapes (m, n), (m, 1) and (n, 1), m > 0; "
            f"got {X.shape}, {y.shape} and {weight.shape}."
        )
    return X, y, weight
