"""The descent in Keras where its packages are missing; the parity tests run it."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from handful.errors import ArgumentError, MissingExtraError
from handful.reference import keras_descent
from handful.reference.order import make_order

SETTINGS = {
    "X": [[1.0]],
    "y": [[1.0]],
    "batch_size": 1,
    "epochs": 1,
    "lr": 0.1,
    "order": make_order(1, 1, seed=0),
    "weights": {"weight": [[0.0]], "bias": [0.0]},
}


@pytest.mark.parametrize("missing", ["tensorflow", "keras"])
def test_missing_package_says_how_to_install_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorflow", "keras"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    # None in its place makes the import fail as if it were not installed.
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"needs {missing}.*handful\[keras\]"):
        keras_descent.descend("linear", **SETTINGS)


def test_keras_on_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    keras = SimpleNamespace(backend=SimpleNamespace(backend=lambda: "jax"))
    monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))
    monkeypatch.setitem(sys.modules, "keras", keras)
    with pytest.raises(
        ArgumentError, match=r"`KERAS_BACKEND` must be tensorflow.*'jax'"
    ):
        keras_descent.descend("linear", **SETTINGS)
