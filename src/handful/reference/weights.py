"""The models' weights: their names, their shapes, and where a descent starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from handful.errors import ArgumentError, unknown_choice

__all__ = [
    "MODELS",
    "FloatArray",
    "check_model",
    "flatten_weights",
    "initial_weights",
    "layer_names",
    "weight_shapes",
]

FloatArray = npt.NDArray[np.floating[Any]]
"""An array of float32 or float64."""

MODELS = ("linear", "softmax", "mlp_tanh", "mlp_relu")
"""The models: ``linear`` (linear regression, mean squared error), ``softmax`` (softmax
regression, cross-entropy), ``mlp_tanh`` and ``mlp_relu`` (hidden layers with that
activation, softmax output, cross-entropy)."""


def check_model(model: str) -> None:
    """Raise an `ArgumentError` that lists the models, unless ``model`` is one."""
    if model not in MODELS:
        raise unknown_choice("model", model, MODELS)


def layer_names(weights: Iterable[str]) -> list[tuple[str, str]]:
    """Name the weight and the bias of each layer, the first layer first.

    Args:
        weights: Names of weights, in the order of the layers. A layer may lack its
            bias; it is named nevertheless.

    Example:
        >>> layer_names(["hidden_weight", "hidden_bias", "output_weight"])
        [('hidden_weight', 'hidden_bias'), ('output_weight', 'output_bias')]
    """
    kernels = [name for name in weights if name.endswith("weight")]
    return [(name, name.removesuffix("weight") + "bias") for name in kernels]


def weight_shapes(
    model: str, num_features: int, num_classes: int, hidden: int | Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Name the weights of a model and their shapes, in the order of the layers.

    Args:
        model: One of `MODELS`.
        num_features: Number of features n.
        num_classes: Number of classes C. Not read for ``linear``.
        hidden: Number of hidden units H; of several hidden layers, the number of each.
            Read for the two with hidden layers alone.

    Returns:
        For ``linear`` weight (n, 1) and bias (1,); for ``softmax`` weight (n, C) and
        bias (C,); else hidden_weight (n, H), hidden_bias (H,), of further hidden layers
        hidden2_weight and so on, output_weight (H, C) and output_bias (C,).

    Raises:
        ArgumentError: There is no such model.
    """
    check_model(model)
    if model == "linear":
        return {"weight": (num_features, 1), "bias": (1,)}
    if model == "softmax":
        return {"weight": (num_features, num_classes), "bias": (num_classes,)}
    units = [hidden] if isinstance(hidden, int) else list(hidden)
    sizes = [num_features, *units, num_classes]
    numbers = range(1, len(units) + 1)
    layers = [f"hidden{i}" if i > 1 else "hidden" for i in numbers] + ["output"]
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, rows, columns in zip(layers, sizes[:-1], sizes[1:], strict=True):
        shapes |= {f"{layer}_weight": (rows, columns), f"{layer}_bias": (columns,)}
    return shapes


def initial_weights(
    model: str,
    num_features: int,
    num_classes: int,
    hidden: int | Sequence[int],
    seed: int,
) -> dict[str, npt.NDArray[np.float64]]:
    """Draw the weights that a descent starts from.

    Weights are normal with mean 0 and standard deviation 1 / sqrt(rows), where a row is
    one input of the layer, so that a layer neither grows nor shrinks standardized
    inputs (LeCun, section 4.6, equation 16). Biases are 0.

    Args:
        model: One of `MODELS`.
        num_features: Number of features n, at least 1.
        num_classes: Number of classes C, at least 2. Not read for ``linear``.
        hidden: Number of hidden units H, at least 1, or that of each hidden layer. Read
            for the two models with hidden layers alone.
        seed: 0 or more. The same arguments give the same weights.

    Returns:
        Name of each weight -> float64 of the shape that `weight_shapes` says.

    Raises:
        ArgumentError: There is no such model, or a number is out of its range.

    Example:
        >>> weights = initial_weights("softmax", 2, num_classes=3, hidden=0, seed=0)
        >>> weights["weight"].shape, weights["bias"].tolist()
        ((2, 3), [0.0, 0.0, 0.0])
    """
    shapes = weight_shapes(model, num_features, num_classes, hidden)
    _check_sizes(model, num_features, num_classes, hidden)
    if seed < 0:
        raise ArgumentError(f"`seed` must be 0 or more; got {seed!r}.")
    generator = np.random.default_rng(seed)
    return {
        name: np.zeros(shape)
        if name.endswith("bias")
        else generator.normal(scale=1 / np.sqrt(shape[0]), size=shape)
        for name, shape in shapes.items()
    }


def flatten_weights(weights: Mapping[str, FloatArray]) -> npt.NDArray[np.float64]:
    """Lay all weights end to end, in the order of the mapping, row by row.

    Args:
        weights: Name -> array, P numbers in all.

    Returns:
        A copy, float64 ``(P,)``.
    """
    flat = [np.ravel(array) for array in weights.values()]
    return np.concatenate(flat).astype(np.float64)


def _check_sizes(
    model: str, num_features: int, num_classes: int, hidden: int | Sequence[int]
) -> None:
    least = {"num_features": (num_features, 1)}
    if model != "linear":
        least["num_classes"] = (num_classes, 2)
    if model.startswith("mlp"):
        units = [hidden] if isinstance(hidden, int) else hidden
        least["hidden"] = (min(units, default=0), 1)
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise ArgumentError(
                f"`{name}` must be {smallest} or more for {model}; got {value!r}."
            )
