"""Wrong arguments of a descent: each is named, with what would be right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from handful.errors import ArgumentError, DataError, HandfulError
from handful.reference import keras_descent, numpy_descent, torch_descent
from handful.reference.order import make_order
from handful.reference.weights import initial_weights

X = np.arange(12.0).reshape(6, 2)
CLASSES = np.array([0, 1, 2, 0, 1, 2])
SETTINGS: dict[str, Any] = {
    "model": "softmax",
    "X": X,
    "y": CLASSES,
    "batch_size": 2,
    "epochs": 3,
    "lr": 0.1,
    "order": make_order(6, 3, seed=0),
    "weights": initial_weights("softmax", 2, 3, hidden=0, seed=0),
}
LINE = initial_weights("linear", 2, 1, hidden=0, seed=0)
DEEP = initial_weights("mlp_tanh", 2, 3, hidden=[4, 5], seed=0)
DEEP["hidden2_weight"] = np.zeros((3, 5))
BAD_ORDER = np.zeros((3, 6), np.int64)

WRONG: list[tuple[dict[str, Any], type[HandfulError], str]] = [
    ({"model": "softmx"}, ArgumentError, r"^model must be one of .* mean 'softmax'\?"),
    ({"dtype": "float16"}, ArgumentError, r"^dtype must be one of float32, float64"),
    ({"X": X[:, 0]}, DataError, r"^`X` must .* shape \(N, n\); got \(6,\)"),
    ({"X": X[:0]}, DataError, r"^`X` must .* shape \(N, n\); got \(0, 2\)"),
    ({"y": CLASSES[:5]}, DataError, r"^`y` must have shape \(6,\) .* got \(5,\)"),
    (
        {"y": CLASSES / 1},
        DataError,
        r"^`y` must hold classes as whole numbers .* float",
    ),
    ({"y": CLASSES + 1}, DataError, r"^`y` must hold classes from 0 to 2, .* 1 to 3\."),
    (
        {"y": CLASSES - 1},
        DataError,
        r"^`y` must hold classes from 0 to 2, .* -1 to 1\.",
    ),
    (
        {"model": "linear", "weights": LINE},
        DataError,
        r"^`y` must have shape \(6, 1\) for linear; got \(6,\)\. Other shapes",
    ),
    ({"weights": {}}, ArgumentError, r"^`weights` must be weight, bias .* got none"),
    (
        {"model": "mlp_relu"},
        ArgumentError,
        r"^`weights` must be hidden_weight, .*for ml",
    ),
    (
        {"weights": {"bias": np.zeros(3)}},
        ArgumentError,
        r"^`weights` must be weight, bias for softmax; got bias\.",
    ),
    (
        {"weights": {"weight": np.zeros(3)}},
        ArgumentError,
        r"^`weights` must have shapes .*; got \{'weight': \(3,\)\}",
    ),
    (
        {"model": "mlp_tanh", "weights": DEEP},
        ArgumentError,
        r"^`weights` must have shapes .*'hidden2_weight': \(4, 5\).* got .*\(3, 5\)",
    ),
    (
        {"X": X[:, :1]},
        ArgumentError,
        r"^`weights` must have shapes .*\(1, 3\).*\(2, 3\)",
    ),
    ({"batch_size": 0}, ArgumentError, r"^`batch_size` must lie in 1 to 6.*got 0"),
    ({"batch_size": 7}, ArgumentError, r"^`batch_size` must lie in 1 to 6.*got 7"),
    ({"epochs": 0}, ArgumentError, r"^`epochs` must be 1 or more; got 0"),
    ({"lr": 0.0}, ArgumentError, r"^`lr` must be positive and finite; got 0\.0"),
    (
        {"lr": float("inf")},
        ArgumentError,
        r"^`lr` must be positive and finite; got inf",
    ),
    (
        {"epochs": 2},
        ArgumentError,
        r"^`order` must have shape \(2, 6\).*got int64 \(3, 6",
    ),
    ({"order": SETTINGS["order"] / 1}, ArgumentError, r"^`order` must .* got float64"),
    ({"order": BAD_ORDER}, ArgumentError, r"^`order` must have each of 0 to 5 once"),
]


@pytest.mark.parametrize(("change", "kind", "message"), WRONG)
@pytest.mark.parametrize("room", [numpy_descent, torch_descent, keras_descent])
def test_wrong_argument_is_named_by_each_descent(
    room: Any, change: dict[str, Any], kind: type[HandfulError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        room.descend(**{**SETTINGS, **change})
