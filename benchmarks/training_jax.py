"""The same trainings in plain JAX: a compiled step, or a compiled epoch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from training_loops import Fit, Work
from training_peers import (
    ADAM_BETAS,
    ADAM_EPSILON,
    average_losses,
    count_samples,
    float_arrays,
    linear_weights,
)


class JaxParts:
    """A multi-layer perceptron, its loss and Adam, as functions of JAX.

    Args:
        work: What is trained; its model is of linear layers with ReLU between.
    """

    def __init__(self, work: Work) -> None:
        self.jax = importlib.import_module("jax")
        self.numpy = importlib.import_module("jax.numpy")
        self.lr = work.task.lr
        as_arrays = partial(self.jax.tree.map, self.numpy.asarray)
        self.params = as_arrays(linear_weights(work.task.make_model()))
        zeros = self.jax.tree.map(self.numpy.zeros_like, self.params)
        self.moments = zeros, zeros, self.numpy.zeros((), self.numpy.int32)

    def predict(self, params: Any, inputs: Any) -> Any:
        """Return the logits, shape ``(B, classes)``."""
        values = inputs.reshape(len(inputs), -1)
        for weight, bias in params[:-1]:
            values = self.jax.nn.relu(values @ weight + bias)
        weight, bias = params[-1]
        return values @ weight + bias

    def loss(self, params: Any, inputs: Any, targets: Any) -> Any:
        """Return the mean cross-entropy of a batch."""
        logs = self.jax.nn.log_softmax(self.predict(params, inputs))
        chosen = self.numpy.take_along_axis(logs, targets[:, None], axis=1)
        return -chosen.mean()

    def measure(self, params: Any, inputs: Any, targets: Any) -> Any:
        """Return the loss of a batch, and how many of it are told right."""
        predicted = self.predict(params, inputs).argmax(1)
        return self.loss(params, inputs, targets), (predicted == targets).sum()

    def update(self, params: Any, moments: Any, inputs: Any, targets: Any) -> Any:
        """Make one step of Adam (Kingma and Ba 2015, algorithm 1)."""
        loss, grads = self.jax.value_and_grad(self.loss)(params, inputs, targets)
        first, second = ADAM_BETAS
        means, squares, count = moments
        count = count + 1
        tree_map = self.jax.tree.map
        means = tree_map(lambda m, g: first * m + (1 - first) * g, means, grads)
        squares = tree_map(
            lambda v, g: second * v + (1 - second) * g * g, squares, grads
        )

        def move(value: Any, mean: Any, square: Any) -> Any:
            scaled = self.numpy.sqrt(square / (1 - second**count)) + ADAM_EPSILON
            return value - self.lr * mean / (1 - first**count) / scaled

        params = tree_map(move, params, means, squares)
        return params, (means, squares, count), loss


def prepare_jax_steps(work: Work) -> Fit:
    """Prepare a loop in Python over compiled steps; batches are cut by NumPy."""
    parts = JaxParts(work)
    update, measure = parts.jax.jit(parts.update), parts.jax.jit(parts.measure)
    inputs, targets = float_arrays(work.train)
    valid = None if work.valid is None else float_arrays(work.valid)

    def run_epoch(state: Any, order: Any) -> tuple[Any, Any]:
        losses = []
        for start in range(0, len(order), work.batch_size):
            index = order[start : start + work.batch_size]
            *state, loss = update(*state, inputs[index], targets[index])
            losses.append(loss)
        return state, parts.jax.device_get(losses)

    def evaluate(params: Any) -> float:
        assert valid is not None
        correct = 0
        for start in range(0, len(valid[1]), work.batch_size):
            part = slice(start, start + work.batch_size)
            correct += measure(params, valid[0][part], valid[1][part])[1]
        return float(correct) / len(valid[1])

    return partial(_run_jax, work, parts, run_epoch, evaluate)


def prepare_jax_scan(work: Work) -> Fit:
    """Prepare epochs that are compiled whole; data and order are JAX's arrays."""
    parts = JaxParts(work)
    jax, jnp = parts.jax, parts.numpy
    data = tuple(map(jnp.asarray, float_arrays(work.train)))
    valid = None
    if work.valid is not None:
        valid = tuple(map(jnp.asarray, float_arrays(work.valid)))

    def sweep(body: Callable[..., Any], carry: Any, order: Any) -> tuple[Any, Any]:
        whole = len(order) // work.batch_size * work.batch_size
        batches = order[:whole].reshape(-1, work.batch_size)
        carry, results = jax.lax.scan(body, carry, batches)
        if whole < len(order):
            carry, last = body(carry, order[whole:])
            results = jnp.append(results, last)
        return carry, results

    @jax.jit  # type: ignore[untyped-decorator]
    def run_epoch(state: Any, order: Any, data: Any) -> tuple[Any, Any]:
        def body(state: Any, index: Any) -> tuple[Any, Any]:
            *state, loss = parts.update(*state, *(array[index] for array in data))
            return tuple(state), loss

        return sweep(body, state, order)

    @jax.jit  # type: ignore[untyped-decorator]
    def evaluate(params: Any, data: Any) -> Any:
        def body(correct: Any, index: Any) -> tuple[Any, Any]:
            loss, right = parts.measure(params, *(array[index] for array in data))
            return correct + right, loss

        return sweep(body, 0, jnp.arange(len(data[1])))[0] / len(data[1])

    return partial(
        _run_jax,
        work,
        parts,
        lambda state, order: run_epoch(tuple(state), order, data),
        lambda params: float(evaluate(params, valid)),
    )


def _run_jax(
    work: Work,
    parts: JaxParts,
    run_epoch: Callable[[Any, Any], tuple[Any, Any]],
    evaluate: Callable[[Any], float],
) -> dict[str, Any]:
    """Train, and validate after each epoch."""
    rng = np.random.default_rng(work.seed)
    num_samples = len(work.train[1])
    counts = count_samples(num_samples, work.batch_size)
    state: Any = (parts.params, parts.moments)
    loss, accuracy = float("nan"), None
    for _ in range(work.epochs):
        state, losses = run_epoch(state, rng.permutation(num_samples))
        loss = average_losses(losses, counts, work.task.average)
        if work.valid is not None:
            accuracy = evaluate(state[0])
    return {"loss": loss, "accuracy": accuracy}
