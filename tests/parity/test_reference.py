"""NumPy, PyTorch and Keras take the same steps from the same weights and order."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from handful.datasets.tables import load_regression, load_wine
from handful.reference import (
    keras_descent,
    numpy_descent,
    one_weight,
    one_weight_torch,
    torch_descent,
)
from handful.reference.order import make_order
from handful.reference.trace import Trace
from handful.reference.weights import MODELS, initial_weights

KERAS_MISSING = [
    name for name in ("keras", "tensorflow") if importlib.util.find_spec(name) is None
]
needs_keras = pytest.mark.skipif(
    bool(KERAS_MISSING), reason=f"{' and '.join(KERAS_MISSING)} not installed"
)
each_model = pytest.mark.parametrize("model", MODELS)
each_batch_size = pytest.mark.parametrize("batch_size", [1, 32, 178])


def run(
    room: Any,
    model: str,
    batch_size: int = 32,
    dtype: str = "float64",
    keep_path: bool = True,
) -> Trace:
    """Descend on Wine: 178 samples, so that 32 leaves a short last batch."""
    wine = load_wine()
    features = wine.features.astype(np.float64)
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    target = wine.target
    if model == "linear":  # Predict the alcohol from the twelve other measurements.
        features, target = features[:, 1:], features[:, :1]
    num_features = features.shape[1]
    trace: Trace = room.descend(
        *(model, features, target),
        batch_size=batch_size,
        epochs=4,
        lr=0.02,
        order=make_order(len(target), 4, seed=5),
        weights=initial_weights(model, num_features, 3, hidden=8, seed=6),
        dtype=dtype,
        keep_path=keep_path,
    )
    return trace


def assert_same_steps(ours: Trace, theirs: Trace, tolerance: float) -> None:
    """Compare every step's weights and loss, absolutely."""
    assert ours.path is not None
    assert theirs.path is not None
    assert ours.path.shape == theirs.path.shape
    np.testing.assert_allclose(ours.path, theirs.path, rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=0, atol=tolerance)
    assert np.abs(ours.path[-1] - ours.path[0]).max() > 1000 * tolerance
    assert list(ours.weights) == list(theirs.weights)
    for name, array in ours.weights.items():
        assert array.dtype == theirs.weights[name].dtype
        np.testing.assert_allclose(array, theirs.weights[name], rtol=0, atol=tolerance)


@each_model
@each_batch_size
def test_numpy_and_torch_have_the_same_weights_at_every_step(
    model: str, batch_size: int
) -> None:
    traces = [run(room, model, batch_size) for room in (numpy_descent, torch_descent)]
    assert_same_steps(*traces, tolerance=1e-10)


@each_model
def test_numpy_and_torch_agree_in_single_precision(model: str) -> None:
    traces = [
        run(room, model, dtype="float32") for room in (numpy_descent, torch_descent)
    ]
    assert_same_steps(*traces, tolerance=1e-5)


@pytest.mark.parametrize(
    "room", [torch_descent, pytest.param(keras_descent, marks=needs_keras)]
)
def test_path_is_kept_only_on_request_and_costs_no_digit(room: Any) -> None:
    without, with_path = run(room, "softmax", keep_path=False), run(room, "softmax")
    assert without.path is None
    assert np.array_equal(without.losses, with_path.losses)


@needs_keras
@each_model
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_and_keras_have_the_same_weights_at_every_step(
    model: str, dtype: str
) -> None:
    ours = run(numpy_descent, model, dtype=dtype)
    theirs = run(keras_descent, model, dtype=dtype)
    # Keras keeps the learning rate in float32, even where the weights are float64.
    assert_same_steps(ours, theirs, tolerance=1e-5 if dtype == "float32" else 1e-7)


@needs_keras
def test_keras_splits_batches_of_every_size_alike() -> None:
    for batch_size in (1, 178):
        ours = run(numpy_descent, "softmax", batch_size)
        theirs = run(keras_descent, "softmax", batch_size)
        assert_same_steps(ours, theirs, tolerance=1e-6)


@pytest.mark.parametrize("batch_size", [1, 10, 30, 100])
def test_one_weight_takes_the_same_steps_in_numpy_and_torch(batch_size: int) -> None:
    points = load_regression()
    traces = [
        room.minibatch_descent(
            *(points.features, points.target),
            batch_size=batch_size,
            epochs=5,
            lr=0.02,
            weight=0.5,
            order=make_order(100, 5, seed=0),
        )
        for room in (one_weight, one_weight_torch)
    ]
    assert_same_steps(*traces, tolerance=1e-10)


def test_linear_model_without_a_mean_walks_as_the_one_weight_does() -> None:
    """A bias that starts at 0 stays there when x and y are centred."""
    points = load_regression()
    centred = points.target - points.target.mean()
    order = make_order(100, 50, seed=0)
    general = numpy_descent.descend(
        *("linear", points.features, centred),
        batch_size=100,
        epochs=50,
        lr=0.1,
        order=order,
        weights={"weight": [[0.5]], "bias": [0.0]},
        keep_path=True,
    )
    single = one_weight.gradient_descent(
        points.features, centred, epochs=50, lr=0.1, weight=0.5
    )
    assert general.path is not None
    assert single.path is not None
    np.testing.assert_allclose(general.path[:, :1], single.path, rtol=0, atol=1e-12)
