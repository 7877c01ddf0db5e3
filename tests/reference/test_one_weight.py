"""One weight: the tutorial's figures, in NumPy and in PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handful.datasets.tables import load_regression
from handful.errors import ArgumentError, DataError
from handful.reference import one_weight, one_weight_torch
from handful.reference.one_weight import best_weight, loss_at
from handful.reference.order import make_order, reseeded_order

POINTS = load_regression()
X, Y = POINTS.features, POINTS.target

BOTH = pytest.mark.parametrize("room", [one_weight, one_weight_torch])


def numpy_start() -> float:
    """Draw the weight that the tutorial's mini-batch descents start from."""
    return float(np.random.RandomState(42).rand())


def torch_start() -> float:
    """Draw the weight that the tutorial's full-batch descents start from."""
    torch.manual_seed(42)
    return torch.rand(1).item()


def test_best_weight_and_least_loss_are_the_tutorials() -> None:
    lowest = best_weight(X, Y)
    assert round(lowest, 4) == 42.5904
    assert round(loss_at(lowest, X, Y).item(), 4) == 318.7931


@pytest.mark.parametrize(
    ("lr", "weight", "loss"),
    [
        (0.001, 8.4495, 1489.068),
        (0.01, 37.0590, 350.650),
        (0.1, 42.5904, 318.793),
        (0.9, 42.5904, 318.793),
    ],
)
@BOTH
def test_full_batch_ends_where_the_tutorial_does(
    room: Any, lr: float, weight: float, loss: float
) -> None:
    trace = room.gradient_descent(X, Y, epochs=100, lr=lr, weight=torch_start())
    assert round(trace.weights["weight"].item(), 4) == weight
    assert round(trace.losses[-1].item(), 3) == loss


@pytest.mark.parametrize(
    ("batch_size", "weight"), [(1, 42.1798), (10, 42.5007), (100, 41.8782)]
)
@BOTH
def test_batches_of_the_tutorial_end_where_it_does(
    room: Any, batch_size: int, weight: float
) -> None:
    trace = room.minibatch_descent(
        *(X, Y),
        batch_size=batch_size,
        epochs=100,
        lr=0.02,
        weight=numpy_start(),
        order=reseeded_order(100, 100, seed=42),
    )
    assert round(trace.weights["weight"].item(), 4) == weight


def test_reseeded_order_ends_every_epoch_at_the_same_weight() -> None:
    """The mistake's mark: a cycle, where shuffling anew keeps the weight moving."""

    def ends(order: np.ndarray) -> np.ndarray:
        trace = one_weight.minibatch_descent(
            *(X, Y), batch_size=1, epochs=100, lr=0.02, weight=0.0, order=order
        )
        return trace.path[100::100, 0][-20:]

    assert np.ptp(ends(reseeded_order(100, 100, seed=42))) < 1e-10
    assert np.ptp(ends(make_order(100, 100, seed=42))) > 0.5


@BOTH
def test_path_and_losses_are_points_of_the_parabola(room: Any) -> None:
    trace = room.gradient_descent(X, Y, epochs=10, lr=0.1, weight=-3.0)
    assert trace.path.shape == (11, 1)
    assert trace.path[0, 0] == -3.0
    assert trace.path[-1, 0] == trace.weights["weight"].item()
    assert trace.weights["weight"].shape == (1, 1)
    np.testing.assert_allclose(trace.losses, loss_at(trace.path[:-1, 0], X, Y))
    np.testing.assert_array_equal(trace.epoch_losses, trace.losses)


def test_full_batch_shrinks_the_distance_by_the_same_factor_each_step() -> None:
    """In closed form: w_k - w* = (1 - 2 lr mean(x^2))^k (w_0 - w*)."""
    trace = one_weight.gradient_descent(X, Y, epochs=20, lr=0.3, weight=1.0)
    distance = trace.path[:, 0] - best_weight(X, Y)
    factor = 1 - 2 * 0.3 * np.mean(X**2)
    np.testing.assert_allclose(
        distance, distance[0] * factor ** np.arange(21), rtol=1e-6
    )


@given(weight=st.floats(-100, 100))
def test_loss_at_is_the_mean_squared_error(weight: float) -> None:
    expected = np.mean((weight * X - Y) ** 2)
    assert loss_at(weight, X, Y).item() == pytest.approx(expected, rel=1e-12)


def test_loss_at_keeps_the_shape_of_the_weights() -> None:
    assert loss_at(np.zeros((2, 3)), X, Y).shape == (2, 3)


@given(away=st.floats(-10, 10))
def test_no_weight_is_better_than_the_best(away: float) -> None:
    lowest = best_weight(X, Y)
    assert loss_at(lowest + away, X, Y) >= loss_at(lowest, X, Y)


shapes = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**32 - 1))


@given(shape=shapes)
def test_step_by_hand_is_the_step_of_autograd(shape: tuple[int, int, int]) -> None:
    m, n, seed = shape
    generator = np.random.default_rng(seed)
    data = [generator.normal(size=size) for size in ((m, n), (m, 1), (n, 1))]
    by_hand, loss = one_weight.gradient_step(*data, lr=0.1)
    by_torch, torch_loss = one_weight_torch.gradient_step(*data, lr=0.1)
    assert by_hand.shape == by_torch.shape == (n, 1)
    np.testing.assert_allclose(by_hand, by_torch.numpy(), rtol=1e-12, atol=1e-12)
    assert loss == pytest.approx(torch_loss, rel=1e-12)


@BOTH
def test_one_feature_is_the_vectorised_step_with_n_of_1(room: Any) -> None:
    moved, loss = room.gradient_step_one_feature(X, Y, 2.0, 0.1)
    vector, same_loss = room.gradient_step(X, Y, np.array([[2.0]]), 0.1)
    assert moved == pytest.approx(vector.item(), rel=1e-14)
    assert loss == pytest.approx(same_loss, rel=1e-14)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_step_of_a_tensor_leaves_it_and_its_graph_alone(requires_grad: bool) -> None:
    weight = torch.ones(1, 1, dtype=torch.float64, requires_grad=requires_grad)
    moved, _ = one_weight_torch.gradient_step(X, Y, weight, 0.1)
    assert weight.item() == 1
    assert weight.requires_grad == requires_grad
    assert weight.grad is None
    assert not moved.requires_grad


@BOTH
def test_rate_too_high_shows_as_infinite_loss_without_a_warning(room: Any) -> None:
    trace = room.gradient_descent(X, Y, epochs=600, lr=2.0, weight=0.0)
    assert trace.losses[1] > trace.losses[0]
    assert not np.isfinite(trace.losses[-1])


@BOTH
def test_flat_arrays_are_refused_by_each_function(room: Any) -> None:
    """A flat y against a column would be broadcast to a square, silently."""
    with pytest.raises(DataError, match=r"shape.*\(100,\)"):
        room.gradient_step_one_feature(X, Y[:, 0], 0.0, 0.1)
    with pytest.raises(DataError, match=r"shapes \(m, n\), \(m, 1\) and \(n, 1\)"):
        room.gradient_step(X, Y[:, 0], [[0.0]], 0.1)
    with pytest.raises(DataError, match=r"shape.*\(100,\)"):
        room.gradient_descent(X, Y[:, 0], epochs=1, lr=0.1, weight=0.0)


@BOTH
def test_two_features_are_refused_where_one_is_meant(room: Any) -> None:
    with pytest.raises(DataError, match=r"shape.*\(100, 2\)"):
        room.gradient_step_one_feature(np.hstack([X, X]), Y, 0.0, 0.1)


def test_unequal_columns_say_both_lengths() -> None:
    with pytest.raises(DataError, match="got 100 rows of x and 99 of y"):
        best_weight(X, Y[1:])


@BOTH
def test_wrong_settings_are_named(room: Any) -> None:
    with pytest.raises(ArgumentError, match=r"^`lr` must be positive"):
        room.gradient_descent(X, Y, epochs=1, lr=-1.0, weight=0.0)
    with pytest.raises(ArgumentError, match=r"^`epochs` must be 1 or more"):
        room.gradient_descent(X, Y, epochs=0, lr=1.0, weight=0.0)
    with pytest.raises(ArgumentError, match=r"^`order` must have shape \(1, 100\)"):
        room.minibatch_descent(
            *(X, Y),
            batch_size=10,
            epochs=1,
            lr=0.1,
            weight=0.0,
            order=make_order(100, 2, seed=0),
        )


def test_no_weight_is_best_where_the_feature_is_always_0() -> None:
    with pytest.raises(DataError, match=r"`x` must not be 0 .* none is the best"):
        loss_at(1.0, np.zeros((3, 1)), np.ones((3, 1)))
