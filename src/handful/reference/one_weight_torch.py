"""Gradient descent with one weight, in PyTorch: autograd instead of a formula.

The functions are those of `handful.reference.one_weight`, with the same arguments; they
take tensors, or anything that `torch.as_tensor` takes, and compute in float64.
"""

# Capital X is the field's name for the inputs.
# ruff: noqa: N803, N806

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from handful.errors import DataError
from handful.reference.arguments import check_rate, check_steps
from handful.reference.order import split_batches
from handful.reference.trace import Trace, make_trace

__all__ = [
    "gradient_descent",
    "gradient_step",
    "gradient_step_one_feature",
    "minibatch_descent",
]

_Data = Tensor | npt.NDArray[Any] | list[list[float]]


def gradient_step_one_feature(
    x: _Data, y: _Data, weight: float, lr: float
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
    moved, loss = gradient_step(x, y, [[weight]], lr)  # (1, 1): one feature
    return moved.item(), loss


def gradient_step(X: _Data, y: _Data, weight: _Data, lr: float) -> tuple[Tensor, float]:
    """Take one step on the mean squared error of y_hat = X w, with n features.

    Args:
        X: The features, ``(m, n)``.
        y: The values to predict, ``(m, 1)``.
        weight: The weights before the step, ``(n, 1)``. They are not changed.
        lr: Learning rate.

    Returns:
        The weights after the step, float64 ``(n, 1)``, and the loss *before* it.

    Raises:
        DataError: The shapes do not fit.
    """
    X, y, weight = _read_matrix(X, y, weight)
    weight = weight.detach().clone().requires_grad_()
    # Linear model: y_hat = X w (Bishop, section 3.1).
    predicted = X @ weight  # (m, 1)
    # Mean squared error: L = 1/m sum (y_hat - y)^2 (Goodfellow, section 5.1.4).
    loss = functional.mse_loss(predicted, y)  # ()
    # dL/dw, by the chain rule over the recorded operations (Goodfellow, section 6.5).
    (gradient,) = torch.autograd.grad(loss, [weight])  # (n, 1)
    # Gradient descent: w <- w - lr * dL/dw (Bishop, equation 5.41).
    return weight.detach() - lr * gradient, loss.item()


def gradient_descent(
    x: _Data, y: _Data, *, epochs: int, lr: float, weight: float
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
    """
    check_rate(epochs, lr)
    num_samples = len(x)
    # A full batch is a batch of all samples: one step in each epoch, in any order.
    order = np.tile(np.arange(num_samples), (epochs, 1))  # (epochs, N)
    return minibatch_descent(
        x, y, batch_size=num_samples, epochs=epochs, lr=lr, weight=weight, order=order
    )


def minibatch_descent(
    x: _Data,
    y: _Data,
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
    x, y, _ = _read_matrix(x, y, [[weight]])
    check_steps(batch_size, epochs, lr, order, len(x))
    losses: list[float] = []
    path = [np.array([weight], dtype=np.float64)]
    start = time.perf_counter()
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


def _read_matrix(X: _Data, y: _Data, weight: _Data) -> tuple[Tensor, Tensor, Tensor]:
    X, y, weight = (torch.as_tensor(a, dtype=torch.float64) for a in (X, y, weight))
    m, n = X.shape if X.ndim == 2 else (0, 0)
    if not m or y.shape != (m, 1) or weight.shape != (n, 1):
        raise DataError(
            "`X`, `y` and `weight` must have shapes (m, n), (m, 1) and (n, 1), m > 0; "
            f"got {tuple(X.shape)}, {tuple(y.shape)} and {tuple(weight.shape)}."
        )
    return X, y, weight
