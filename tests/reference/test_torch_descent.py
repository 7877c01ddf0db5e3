"""The descent in PyTorch: networks of several layers, beside the one in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handful.reference import numpy_descent, torch_descent
from handful.reference.order import make_order
from handful.reference.weights import initial_weights


def run(room: Any, model: str, weights: dict[str, np.ndarray]) -> Any:
    generator = np.random.default_rng(1)
    X, y = generator.normal(size=(30, 4)), generator.integers(0, 3, 30)
    if model == "linear":
        y = X.sum(axis=1, keepdims=True)
    return room.descend(
        *(model, X, y),
        batch_size=7,
        epochs=5,
        lr=0.3,
        order=make_order(30, 5, seed=0),
        weights=weights,
        keep_path=True,
    )


@pytest.mark.parametrize("model", ["mlp_tanh", "mlp_relu"])
@pytest.mark.parametrize("hidden", [[6], [6, 5], [6, 5, 4]])
@pytest.mark.parametrize("without", ["", "hidden_bias", "output_bias"])
def test_deep_networks_take_the_same_steps_as_in_numpy(
    model: str, hidden: list[int], without: str
) -> None:
    weights = initial_weights(model, 4, 3, hidden, seed=2)
    weights.pop(without, None)
    ours, theirs = (
        run(room, model, weights) for room in (torch_descent, numpy_descent)
    )
    assert list(ours.weights) == list(weights)
    np.testing.assert_allclose(ours.path, theirs.path, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=0, atol=1e-10)
    assert np.abs(ours.path[-1] - ours.path[0]).max() > 0.1


@pytest.mark.parametrize("model", ["linear", "softmax"])
def test_single_layers_without_bias_take_the_same_steps_as_in_numpy(model: str) -> None:
    weights = {"weight": initial_weights(model, 4, 3, 0, seed=2)["weight"]}
    ours, theirs = (
        run(room, model, weights) for room in (torch_descent, numpy_descent)
    )
    np.testing.assert_allclose(ours.path, theirs.path, rtol=0, atol=1e-10)
    assert np.abs(ours.path[-1] - ours.path[0]).max() > 0.1
