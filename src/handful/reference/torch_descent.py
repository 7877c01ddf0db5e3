"""Mini-batch gradient descent in PyTorch, whose autograd finds the gradients."""

# Capital X is the field's name for the inputs.
# ruff: noqa: N803

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from handful.reference.arguments import check_steps, read_data, read_weights
from handful.reference.trace import Trace, make_trace
from handful.reference.weights import (
    FloatArray,
    check_model,
    flatten_weights,
    layer_names,
)

__all__ = ["batch_loss", "descend"]


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

    The arguments, the steps and the trace are those of
    `handful.reference.numpy_descent.descend`, on the processor.

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
        Losses, weights and times of the steps; the weights as NumPy arrays.

    Raises:
        ArgumentError: A setting, the order or the weights are wrong.
        DataError: ``X`` or ``y`` are wrong.
    """
    features, target = read_data(model, X, y, dtype)
    initial = read_weights(model, weights, features, target)
    check_steps(batch_size, epochs, lr, order, len(features))
    inputs, targets = torch.tensor(features), torch.tensor(target)  # (N, n); as y
    values = {
        name: torch.tensor(array, requires_grad=True) for name, array in initial.items()
    }
    losses: list[float] = []
    path = [flatten_weights(initial)] if keep_path else None
    start = time.perf_counter()
    for epoch in torch.tensor(order, dtype=torch.int64):  # (N,)
        for rows in epoch.split(batch_size):  # (m,)
            loss = batch_loss(model, values, inputs[rows], targets[rows])  # ()
            # Autograd goes back over the operations that led to the loss, by the chain
            # rule (Goodfellow, section 6.5). loss.backward() does the same, and adds
            # each dL/dw to w.grad, where an optimizer looks for it.
            gradients = torch.autograd.grad(loss, list(values.values()))
            # Gradient descent: w <- w - lr * dL/dw (Bishop, equation 5.41). The update
            # itself is not recorded.
            with torch.no_grad():
                for weight, gradient in zip(values.values(), gradients, strict=True):
                    weight -= lr * gradient
            losses.append(loss.item())
            if path is not None:
                path.append(flatten_weights(_arrays(values)))
    seconds = time.perf_counter() - start
    return make_trace(
        losses,
        _arrays(values),
        path,
        order=order,
        batch_size=batch_size,
        seconds=seconds,
    )


def batch_loss(
    model: str, weights: Mapping[str, Tensor], X: Tensor, y: Tensor
) -> Tensor:
    """Compute a batch's mean loss, from which autograd can find the gradients.

    Args:
        model: ``linear``, ``softmax``, ``mlp_tanh`` or ``mlp_relu``.
        weights: Name -> tensor, as `handful.reference.weights.weight_shapes` says.
        X: Features, ``(m, n)``.
        y: Values ``(m, 1)`` for ``linear``, otherwise classes, int64 ``(m,)``.

    Returns:
        The loss, a tensor without dimensions.

    Raises:
        ArgumentError: There is no such model.
    """
    check_model(model)
    if model == "linear":
        # Linear model: y_hat = X w + b (Bishop, section 3.1).
        predicted = X @ weights["weight"] + weights.get("bias", 0)  # (m, 1)
        # Mean squared error: L = 1/m sum (y_hat - y)^2 (Goodfellow, section 5.1.4).
        return functional.mse_loss(predicted, y)  # ()
    # Softmax, then L = -1/m sum ln p of the true class (Bishop, equations 4.104 and
    # 4.108); PyTorch's cross-entropy takes the logits and does both.
    return functional.cross_entropy(_logits(model, weights, X), y)  # ()


def _logits(model: str, weights: Mapping[str, Tensor], X: Tensor) -> Tensor:
    *hidden, (weight, bias) = layer_names(weights)
    h = X  # (m, n)
    # Forward (Bishop, section 5.1), layer by layer: a = h W + b, and on goes h = f(a).
    for hidden_weight, hidden_bias in hidden:
        a = h @ weights[hidden_weight] + weights.get(hidden_bias, 0)  # (m, H)
        h = torch.tanh(a) if model == "mlp_tanh" else torch.relu(a)  # (m, H)
    # Softmax regression has no hidden layer: a = X W + b (Bishop, section 4.3.4).
    return h @ weights[weight] + weights.get(bias, 0)  # (m, C)


def _arrays(values: Mapping[str, Tensor]) -> dict[str, FloatArray]:
    return {name: tensor.detach().numpy() for name, tensor in values.items()}
