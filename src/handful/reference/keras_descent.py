"""Mini-batch gradient descent in Keras 3 on TensorFlow, fed with batches by tf.data.

Keras and TensorFlow are optional: ``pip install "handful[keras]"``. They are loaded by
`descend`, not by importing this module.
"""

# Capital X is the field's name for the inputs.
# ruff: noqa: N803, N806

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from handful.errors import ArgumentError, MissingExtraError
from handful.reference.arguments import check_steps, read_data, read_weights
from handful.reference.trace import Trace, make_trace
from handful.reference.weights import FloatArray, flatten_weights, layer_names

__all__ = ["descend", "import_tensorflow_and_keras"]


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
    `handful.reference.numpy_descent.descend`. Keras keeps the learning rate in float32
    whatever the dtype, so that the weights agree with the other two to about seven
    digits. The first step of each size of batch is compiled, which takes most of the
    time of a short descent and is part of ``seconds``; a descent with the same model,
    shapes and rate as the one before it goes on with the compiled step.

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
        ArgumentError: A setting, the order or the weights are wrong, or Keras was told
            to run on something other than TensorFlow.
        DataError: ``X`` or ``y`` are wrong.
        MissingExtraError: Keras or TensorFlow is not installed.
    """
    inputs, targets = read_data(model, X, y, dtype)  # (N, n); (N, 1) or (N,)
    values = read_weights(model, weights, inputs, targets)
    check_steps(batch_size, epochs, lr, order, len(inputs))
    tf, _ = import_tensorflow_and_keras()
    shapes = tuple((name, array.shape) for name, array in values.items())
    network, take_step = _make_network_and_step(model, shapes, inputs.dtype.name, lr)
    # Kernel and bias of each layer in turn, which is the order of the names.
    network.set_weights(list(values.values()))
    batches = iter(_feed(tf, inputs, targets, order, batch_size))
    losses: list[float] = []
    path = [flatten_weights(values)] if keep_path else None
    start = time.perf_counter()
    for batch_inputs, batch_targets in batches:
        losses.append(float(take_step(batch_inputs, batch_targets)))
        if path is not None:
            path.append(flatten_weights(_read_back(values, network)))
    seconds = time.perf_counter() - start
    return make_trace(
        losses,
        _read_back(values, network),
        path,
        order=order,
        batch_size=batch_size,
        seconds=seconds,
    )


@functools.lru_cache(maxsize=1)
def _make_network_and_step(
    model: str, shapes: tuple[tuple[str, tuple[int, ...]], ...], dtype: str, lr: float
) -> tuple[Any, Callable[[Any, Any], Any]]:
    """Make a network of zeros, and the function that takes one step with it."""
    tf, keras = import_tensorflow_and_keras()
    network = _make_network(keras, model, dict(shapes), dtype)
    return network, _make_step(tf, keras, model, network, lr)


def _make_network(
    keras: ModuleType, model: str, shapes: Mapping[str, tuple[int, ...]], dtype: str
) -> Any:
    """Make the layers, with weights of zeros, so that no random number is drawn."""
    layers = layer_names(shapes)
    # Each layer: f(X W + b) (Bishop, sections 3.1, 4.3.4 and 5.1). The last has no f:
    # its outputs are the prediction of "linear", the logits of the others.
    activations = [model.removeprefix("mlp_")] * (len(layers) - 1) + ["linear"]
    first = shapes[layers[0][0]]  # (n, H), (n, C) or (n, 1)
    # (n,): Keras leaves the batch's dimension out.
    network = keras.Sequential([keras.Input(first[:1], dtype=dtype)])
    for (weight, bias), activation in zip(layers, activations, strict=True):
        dense = keras.layers.Dense(
            shapes[weight][1],
            activation=activation,
            use_bias=bias in shapes,
            kernel_initializer="zeros",
            dtype=dtype,
        )
        network.add(dense)
    return network


def _make_step(
    tf: ModuleType,
    keras: ModuleType,
    model: str,
    network: Any,
    lr: float,
) -> Callable[[Any, Any], Any]:
    """Make the function that takes one step on one batch and returns its loss."""
    optimizer = keras.optimizers.SGD(learning_rate=lr)
    optimizer.build(network.trainable_variables)

    def batch_loss(X: Any, y: Any) -> Any:
        outputs = network(X, training=True)  # (m, 1) or (m, C)
        if model == "linear":
            # Mean squared error: L = 1/m sum (y_hat - y)^2 (Goodfellow, section 5.1.4).
            each = keras.losses.mean_squared_error(y, outputs)  # (m,)
        else:
            # Softmax, then -ln p of the true class (Bishop, equations 4.104 and 4.108).
            each = keras.losses.sparse_categorical_crossentropy(
                y, outputs, from_logits=True
            )  # (m,)
        return keras.ops.mean(each)  # ()

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def take_step(X: Any, y: Any) -> Any:
        # The tape records the operations that lead to the loss and goes back over them
        # by the chain rule (Goodfellow, section 6.5).
        with tf.GradientTape() as tape:
            loss = batch_loss(X, y)
        gradients = tape.gradient(loss, network.trainable_variables)
        # Gradient descent: w <- w - lr * dL/dw (Bishop, equation 5.41).
        optimizer.apply(gradients, network.trainable_variables)
        return loss

    return take_step  # type: ignore[no-any-return]


def _feed(
    tf: ModuleType,
    inputs: FloatArray,
    targets: npt.NDArray[np.generic],
    order: npt.NDArray[np.integer],
    batch_size: int,
) -> Any:
    """Make the tf.data pipeline of all batches of all epochs."""
    X, y = tf.constant(inputs), tf.constant(targets)  # (N, n); (N, 1) or (N,)
    epochs = tf.data.Dataset.from_tensor_slices(order)  # a row of indices each, (N,)
    batches = epochs.flat_map(
        lambda epoch: tf.data.Dataset.from_tensor_slices(epoch).batch(batch_size)
    )  # the indices of one batch each, (m,)
    pairs = batches.map(lambda rows: (tf.gather(X, rows), tf.gather(y, rows)))
    # While one batch is trained on, the next is gathered.
    return pairs.prefetch(1)


def _read_back(
    values: Mapping[str, FloatArray],
    network: Any,
) -> dict[str, FloatArray]:
    """Copy the network's weights, under the names that they came with."""
    return dict(zip(values, network.get_weights(), strict=True))


def import_tensorflow_and_keras() -> tuple[ModuleType, ModuleType]:
    """Import the two.

    Returns:
        The modules ``tensorflow`` and ``keras``.

    Raises:
        ArgumentError: Keras was told to run on something other than TensorFlow.
        MissingExtraError: One of them is not installed.
    """
    try:
        tf = importlib.import_module("tensorflow")
        keras = importlib.import_module("keras")
    except ImportError as error:
        raise MissingExtraError(
            f"The descent in Keras needs {error.name}, which is not installed. "
            'Run: pip install "handful[keras]".'
        ) from None
    if keras.backend.backend() != "tensorflow":
        raise ArgumentError(
            "`KERAS_BACKEND` must be tensorflow for this descent; "
            f"got {keras.backend.backend()!r}. Set it before Keras is first imported."
        )
    return tf, keras
