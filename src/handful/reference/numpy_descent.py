"""Mini-batch gradient descent in NumPy, with every gradient written by hand."""

# Capital X is the field's name for the inputs.
# ruff: noqa: N803

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from handful.reference.arguments import check_steps, read_data, read_weights
from handful.reference.order import split_batches
from handful.reference.trace import Trace, make_trace
from handful.reference.weights import (
    FloatArray,
    check_model,
    flatten_weights,
    layer_names,
)

__all__ = ["descend", "loss_and_gradients"]

_Gradients = dict[str, FloatArray]


def descend(
    model: str,
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    batch_size: int,
    epochs: int,
    lr: float,
    order: npt.NDArray[np.integer],
    weights: Mapping[str, npt.ArrayLike],
    dtype: str = "float64",
    keep_path: bool = False,
) -> Trace:
    """Fit a model by mini-batch gradient descent (Goodfellow, algorithm 8.1).

    A rate that is too high makes the losses grow to inf and then nan; that is left to
    be seen in the trace.

    Args:
        model: ``linear``, ``softmax``, ``mlp_tanh`` or ``mlp_relu``.
        X: Features, ``(N, n)``.
        y: Values ``(N, 1)`` for ``linear``; for the others the class of each sample,
            whole numbers from 0 to C - 1, ``(N,)``.
        batch_size: Samples in a batch, 1 (single samples) to N (full batch). The last
            batch of an epoch has what is left.
        epochs: Passes over the samples, at least 1.
        lr: Learning rate, positive.
        order: Indices of samples, ``(epochs, N)``, from
            `handful.reference.order.make_order`.
        weights: Where to start, from `handful.reference.weights.initial_weights`. They
            are copied.
        dtype: ``float32`` or ``float64``, for data, weights and gradients.
        keep_path: Whether the trace has the weights at every step.

    Returns:
        Losses, weights and times of the steps.

    Raises:
        ArgumentError: A setting, the order or the weights are wrong.
        DataError: ``X`` or ``y`` are wrong.

    Example:
        >>> from handful.reference.order import make_order
        >>> X, y = np.array([[-1.0], [0.0], [1.0]]), np.array([[-1.0], [1.0], [3.0]])
        >>> trace = descend("linear", X, y, batch_size=1, epochs=50, lr=0.1,
        ...                 order=make_order(3, 50, seed=0),
        ...                 weights={"weight": [[0.0]], "bias": [0.0]})
        >>> for name, value in trace.weights.items():
        ...     print(name, value.round(3))
        weight [[2.]]
        bias [1.]
    """
    inputs, targets = read_data(model, X, y, dtype)  # (N, n); (N, 1) or (N,)
    values = read_weights(model, weights, inputs, targets)
    check_steps(batch_size, epochs, lr, order, len(inputs))
    losses: list[float] = []
    path = [flatten_weights(values)] if keep_path else None
    start = time.perf_counter()
    with np.errstate(over="ignore", invalid="ignore"):
        for epoch in order:  # (N,)
            for rows in split_batches(epoch, batch_size):  # (m,)
                loss, gradients = loss_and_gradients(
                    model, values, inputs[rows], targets[rows]
                )
                # Gradient descent: w <- w - lr * dL/dw (Bishop, equation 5.41).
                for name, gradient in gradients.items():
                    values[name] -= lr * gradient
                losses.append(loss)
                if path is not None:
                    path.append(flatten_weights(values))
    seconds = time.perf_counter() - start
    return make_trace(
        losses, values, path, order=order, batch_size=batch_size, seconds=seconds
    )


def loss_and_gradients(
    model: str, weights: Mapping[str, FloatArray], X: FloatArray, y: npt.NDArray[Any]
) -> tuple[float, _Gradients]:
    """Compute a batch's mean loss and its derivative by each weight.

    Args:
        model: ``linear``, ``softmax``, ``mlp_tanh`` or ``mlp_relu``.
        weights: Name -> array, as `handful.reference.weights.weight_shapes` says.
        X: Features, ``(m, n)``.
        y: Values ``(m, 1)`` for ``linear``, otherwise classes, int ``(m,)``.

    Returns:
        The loss, and name -> gradient of the shape of that weight.

    Raises:
        ArgumentError: There is no such model.
    """
    check_model(model)
    if model == "linear":
        loss, gradients = _linear(weights, X, y)
    elif model == "softmax":
        loss, gradients = _softmax(weights, X, y)
    else:
        loss, gradients = _mlp(weights, X, y, activation=model.removeprefix("mlp_"))
    # In the order of the layers, and none for a bias that a layer lacks.
    return loss, {name: gradients[name] for name in weights}


def _linear(
    weights: Mapping[str, FloatArray], X: FloatArray, y: FloatArray
) -> tuple[float, _Gradients]:
    m = len(X)
    # Linear model: y_hat = X w + b (Bishop, section 3.1).
    predicted = X @ weights["weight"] + weights.get("bias", 0)  # (m, 1)
    error = predicted - y  # (m, 1)
    # Mean squared error: L = 1/m sum (y_hat - y)^2 (Goodfellow, section 5.1.4).
    loss = np.mean(error**2)
    # dL/dy_hat = 2/m (y_hat - y), by the derivative of the square.
    d_predicted = 2 / m * error  # (m, 1)
    return float(loss), {
        # dL/dw = X^T dL/dy_hat (Goodfellow, section 5.1.4).
        "weight": X.T @ d_predicted,  # (n, 1)
        # dL/db = sum of dL/dy_hat: b is the weight of a feature that is always 1.
        "bias": d_predicted.sum(axis=0),  # (1,)
    }


def _softmax(
    weights: Mapping[str, FloatArray], X: FloatArray, y: npt.NDArray[np.int64]
) -> tuple[float, _Gradients]:
    # Activations of the classes: a = X W + b (Bishop, section 4.3.4).
    logits = X @ weights["weight"] + weights.get("bias", 0)  # (m, C)
    loss, d_logits = _cross_entropy(logits, y)  # (m, C)
    return loss, {
        # dL/dW = X^T dL/da (Bishop, equation 4.109, for all classes at once).
        "weight": X.T @ d_logits,  # (n, C)
        "bias": d_logits.sum(axis=0),  # (C,)
    }


def _mlp(
    weights: Mapping[str, FloatArray],
    X: FloatArray,
    y: npt.NDArray[np.int64],
    *,
    activation: str,
) -> tuple[float, _Gradients]:
    *hidden, output = layer_names(weights)
    inputs = [X]  # of each layer, (m, n) and then (m, H)
    # Forward (Bishop, section 5.1), layer by layer: a = h W + b, and on goes h = f(a).
    for weight, bias in hidden:
        a = inputs[-1] @ weights[weight] + weights.get(bias, 0)  # (m, H)
        inputs.append(np.tanh(a) if activation == "tanh" else np.maximum(a, 0))
    weight, bias = output
    logits = inputs[-1] @ weights[weight] + weights.get(bias, 0)  # (m, C)
    loss, error = _cross_entropy(logits, y)  # (m, C)
    # A weight's gradient: its input times the error of its output (Bishop, 5.53).
    gradients = {weight: inputs[-1].T @ error, bias: error.sum(axis=0)}
    for layer in reversed(range(len(hidden))):
        # Back to the hidden units: dL/dh = dL/da W^T of the layer above (Bishop,
        # equation 5.56).
        d_h = error @ weights[weight].T  # (m, H)
        # f'(a) = 1 - tanh(a)^2 (Bishop, equation 5.60); the rectifier max(a, 0) has
        # slope 1 above 0 and, by convention, 0 at and below it (Goodfellow, 6.3).
        h = inputs[layer + 1]  # (m, H)
        slope = 1 - h**2 if activation == "tanh" else (h > 0).astype(h.dtype)  # (m, H)
        error = d_h * slope  # dL/da, (m, H)
        weight, bias = hidden[layer]
        gradients[weight] = inputs[layer].T @ error  # (n, H) or (H, H)
        gradients[bias] = error.sum(axis=0)  # (H,)
    return loss, gradients


def _cross_entropy(
    logits: FloatArray, y: npt.NDArray[np.int64]
) -> tuple[float, FloatArray]:
    m = len(logits)
    # The largest logit is subtracted, which leaves the softmax as it is and keeps exp
    # from overflowing (Goodfellow, section 4.1).
    shifted = logits - logits.max(axis=1, keepdims=True)  # (m, C)
    # Softmax: p_k = exp(a_k) / sum_j exp(a_j) (Bishop, equation 4.104), as its log.
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))  # (m, C)
    # Cross-entropy: L = -1/m sum ln p of the true class (Bishop, equation 4.108).
    loss = -np.mean(log_p[np.arange(m), y])
    # dL/da = 1/m (p - t), t = 1 for the true class, else 0 (Bishop, section 4.3.4).
    d_logits = np.exp(log_p)  # (m, C)
    d_logits[np.arange(m), y] -= 1
    return float(loss), d_logits / m
