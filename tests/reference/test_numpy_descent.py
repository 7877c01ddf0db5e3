"""The descent in NumPy: gradients against differences, and what the trace holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from handful.errors import ArgumentError
from handful.reference.numpy_descent import descend, loss_and_gradients
from handful.reference.order import make_order
from handful.reference.weights import MODELS, initial_weights, layer_names

STEP = 1e-5
"""Half the distance between two losses whose difference gives a slope."""


def make_problem(
    model: str, *, m: int, n: int, hidden: int | list[int], classes: int, seed: int
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    weights = initial_weights(model, n, classes, hidden, seed)
    weights = {
        name: w + 0.3 * generator.normal(size=w.shape) for name, w in weights.items()
    }
    inputs = generator.normal(size=(m, n))
    if model == "linear":
        return weights, inputs, generator.normal(size=(m, 1))
    return weights, inputs, generator.integers(0, classes, m)


def difference(
    model: str, weights: dict[str, np.ndarray], name: str, X: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Estimate a gradient by central differences, one weight at a time."""
    slopes = np.empty_like(weights[name])
    for place in np.ndindex(slopes.shape):
        losses = []
        for sign in (1, -1):
            moved = {key: array.copy() for key, array in weights.items()}
            moved[name][place] += sign * STEP
            losses.append(loss_and_gradients(model, moved, X, y)[0])
        slopes[place] = (losses[0] - losses[1]) / (2 * STEP)
    return slopes


@given(
    m=st.integers(1, 6),
    n=st.integers(1, 4),
    hidden=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    classes=st.integers(2, 4),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("model", MODELS)
def test_gradients_by_hand_are_the_slopes_of_the_loss(
    model: str, m: int, n: int, hidden: list[int], classes: int, seed: int
) -> None:
    weights, X, y = make_problem(
        model, m=m, n=n, hidden=hidden, classes=classes, seed=seed
    )
    if seed % 2:  # A layer may lack its bias.
        del weights[next(name for name in weights if name.endswith("bias"))]
    if model == "mlp_relu":  # No difference may straddle the rectifier's kink.
        h = X
        for weight, bias in layer_names(weights)[:-1]:
            a = h @ weights[weight] + weights.get(bias, 0)
            assume(np.abs(a).min() > 1000 * STEP)
            h = np.maximum(a, 0)
    _, gradients = loss_and_gradients(model, weights, X, y)
    assert list(gradients) == list(weights)
    for name, gradient in gradients.items():
        expected = difference(model, weights, name, X, y)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


def test_loss_of_equal_logits_is_the_log_of_the_number_of_classes() -> None:
    weights = {"weight": np.zeros((2, 5)), "bias": np.zeros(5)}
    loss, _ = loss_and_gradients(
        "softmax", weights, np.ones((3, 2)), np.array([0, 4, 2])
    )
    assert loss == pytest.approx(math.log(5), abs=1e-15)


def test_huge_logits_do_not_overflow() -> None:
    weights = {"weight": np.array([[1e4, -1e4]]), "bias": np.zeros(2)}
    loss, gradients = loss_and_gradients(
        "softmax", weights, np.ones((1, 1)), np.array([1])
    )
    assert loss == 2e4
    assert gradients["weight"].tolist() == [[1.0, -1.0]]


def test_rectifier_has_no_slope_at_its_kink() -> None:
    weights, X, y = make_problem("mlp_relu", m=3, n=2, hidden=2, classes=2, seed=0)
    weights["hidden_weight"][:] = weights["hidden_bias"][:] = 0
    _, gradients = loss_and_gradients("mlp_relu", weights, X, y)
    assert not gradients["hidden_weight"].any()
    assert not gradients["hidden_bias"].any()


def test_unknown_model_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^model must be one of linear, mlp_relu"):
        loss_and_gradients("tree", {}, np.ones((1, 1)), np.ones((1, 1)))


def run(model: str = "softmax", **changes: Any) -> Any:
    weights, X, y = make_problem(model, m=17, n=3, hidden=4, classes=3, seed=1)
    arguments = {
        "batch_size": 5,
        "epochs": 3,
        "lr": 0.1,
        "order": make_order(17, 3, seed=0),
        "weights": weights,
    }
    return descend(model, X, y, **{**arguments, **changes})


def test_trace_has_a_loss_for_each_step_and_one_weight_vector_more() -> None:
    trace = run(keep_path=True)
    assert trace.losses.shape == (3 * 4,)
    assert trace.epoch_losses.shape == (3,)
    assert trace.path.shape == (3 * 4 + 1, 3 * 3 + 3)
    assert trace.seconds > 0


def test_path_is_kept_only_on_request() -> None:
    assert run().path is None


def test_path_runs_from_the_initial_to_the_last_weights() -> None:
    weights, _, _ = make_problem("softmax", m=17, n=3, hidden=4, classes=3, seed=1)
    trace = run(keep_path=True)
    for vector, ends in ((trace.path[0], weights), (trace.path[-1], trace.weights)):
        assert vector.tolist() == [*ends["weight"].ravel(), *ends["bias"]]


def test_each_loss_is_its_batchs_before_the_update() -> None:
    weights, X, y = make_problem("softmax", m=17, n=3, hidden=4, classes=3, seed=1)
    rows = make_order(17, 3, seed=0)[0, :5]
    expected, gradients = loss_and_gradients("softmax", weights, X[rows], y[rows])
    trace = run(keep_path=True)
    assert trace.losses[0] == expected
    moved = weights["bias"] - 0.1 * gradients["bias"]
    assert trace.path[1, -3:].tolist() == moved.tolist()


def test_epoch_losses_count_a_short_batch_by_its_samples() -> None:
    trace = run()
    steps = trace.losses.reshape(3, 4)
    expected = (
        5 * steps[:, 0] + 5 * steps[:, 1] + 5 * steps[:, 2] + 2 * steps[:, 3]
    ) / 17
    np.testing.assert_allclose(trace.epoch_losses, expected, rtol=1e-14)
    assert not np.allclose(trace.epoch_losses, steps.mean(axis=1), rtol=1e-4)


def test_initial_weights_are_copied() -> None:
    weights, _, _ = make_problem("softmax", m=17, n=3, hidden=4, classes=3, seed=1)
    before = {name: array.copy() for name, array in weights.items()}
    run(weights=weights)
    assert all(np.array_equal(weights[name], before[name]) for name in before)


def test_weights_given_in_another_order_end_the_same() -> None:
    weights, _, _ = make_problem("softmax", m=17, n=3, hidden=4, classes=3, seed=1)
    backwards = dict(reversed(weights.items()))
    ours, theirs = run(keep_path=True), run(weights=backwards, keep_path=True)
    assert np.array_equal(ours.path, theirs.path)


@pytest.mark.parametrize("model", MODELS)
def test_single_precision_is_kept_throughout(model: str) -> None:
    single, double = run(model, dtype="float32"), run(model)
    for name, array in single.weights.items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, double.weights[name], atol=1e-5)
        assert not np.array_equal(array, double.weights[name])


def test_rate_too_high_shows_as_infinite_loss_without_a_warning() -> None:
    order = make_order(17, 300, seed=0)
    trace = run("linear", lr=1e3, epochs=300, order=order)
    assert np.isfinite(trace.losses[0])
    assert not np.isfinite(trace.losses[-1])


@pytest.mark.parametrize("model", MODELS)
def test_descent_lowers_the_loss(model: str) -> None:
    order = make_order(17, 60, seed=0)
    losses = run(model, epochs=60, order=order).epoch_losses
    assert losses[-1] < 0.9 * losses[0]
