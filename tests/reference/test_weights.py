"""Weights: names, shapes and the draws that a descent starts from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handful.errors import ArgumentError
from handful.reference.weights import (
    MODELS,
    flatten_weights,
    initial_weights,
    layer_names,
    weight_shapes,
)


@pytest.mark.parametrize("model", MODELS)
def test_initial_weights_have_the_models_names_shapes_and_order(model: str) -> None:
    weights = initial_weights(model, 5, num_classes=3, hidden=7, seed=0)
    shapes = weight_shapes(model, 5, 3, 7)
    assert {name: array.shape for name, array in weights.items()} == shapes
    assert list(weights) == list(shapes)
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float64)}


def test_each_hidden_layer_has_a_weight_and_a_bias_of_its_own() -> None:
    shapes = weight_shapes("mlp_relu", 5, 3, [7, 6, 4])
    assert shapes == {
        "hidden_weight": (5, 7),
        "hidden_bias": (7,),
        "hidden2_weight": (7, 6),
        "hidden2_bias": (6,),
        "hidden3_weight": (6, 4),
        "hidden3_bias": (4,),
        "output_weight": (4, 3),
        "output_bias": (3,),
    }
    weights = initial_weights("mlp_relu", 5, 3, [7, 6, 4], seed=0)
    assert {name: array.shape for name, array in weights.items()} == shapes
    assert layer_names(weights)[1] == ("hidden2_weight", "hidden2_bias")
    assert weight_shapes("mlp_relu", 5, 3, [7]) == weight_shapes("mlp_relu", 5, 3, 7)


def test_initial_weights_keep_the_spread_of_standardized_inputs() -> None:
    weights = initial_weights("mlp_tanh", 400, num_classes=300, hidden=900, seed=0)
    assert weights["hidden_weight"].std() == pytest.approx(1 / 20, rel=0.01)
    assert weights["output_weight"].std() == pytest.approx(1 / 30, rel=0.01)
    assert not weights["hidden_bias"].any()
    assert not weights["output_bias"].any()


def test_initial_weights_are_a_function_of_the_seed() -> None:
    def draw(seed: int) -> np.ndarray:
        return flatten_weights(initial_weights("softmax", 4, 3, hidden=0, seed=seed))

    assert np.array_equal(draw(1), draw(1))
    assert not np.array_equal(draw(1), draw(2))


def test_flattening_goes_through_the_weights_row_by_row() -> None:
    weights = {
        "b": np.array([[1, 2], [3, 4]], np.float32),
        "a": np.array([5], np.float32),
    }
    flat = flatten_weights(weights)
    assert flat.dtype == np.float64
    assert flat.tolist() == [1, 2, 3, 4, 5]
    flat[0] = 9
    assert weights["b"][0, 0] == 1


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ArgumentError, match=r"Did you mean 'mlp_tanh'\?"):
        initial_weights("mlp_tan", 1, 2, 1, seed=0)


@pytest.mark.parametrize(
    ("model", "sizes", "name"),
    [
        ("linear", (0, 1, 0), "num_features"),
        ("softmax", (1, 1, 0), "num_classes"),
        ("mlp_relu", (1, 2, 0), "hidden"),
        ("mlp_relu", (1, 2, [3, 0]), "hidden"),
        ("mlp_relu", (1, 2, []), "hidden"),
    ],
)
def test_size_out_of_range_is_named(
    model: str, sizes: tuple[int, int, Any], name: str
) -> None:
    with pytest.raises(
        ArgumentError, match=rf"^`{name}` must be . or more for {model}"
    ):
        initial_weights(model, *sizes, seed=0)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^`seed` must be 0 or more; got -1"):
        initial_weights("linear", 1, 1, 0, seed=-1)
