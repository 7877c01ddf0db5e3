"""Written out: what a descent of `handful.reference` takes, read from a recipe.

A recipe with anything else, such as momentum or a convolution, is refused: without it
the descent would not be the same training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from handful.data.loader import DataLoader
from handful.errors import ArgumentError
from handful.reference.arguments import read_data
from handful.reference.weights import FloatArray, weight_shapes
from handful.runs.study_row import format_setting
from handful.studies.axes import to_plain
from handful.studies.budget import Budget
from handful.train.choices import Choice, parse_loss, parse_schedule
from handful.train.recipe import Recipe

_ACTIVATIONS = {nn.Tanh: "mlp_tanh", nn.ReLU: "mlp_relu"}

_PLAIN: dict[str, Any] = {
    "accumulate": 1,
    "precision": "float32",
    "num_threads": 1,
    "log_norms": False,
    "train_metrics": (),
}
"""Values of options with which a training is a plain descent; of the others None."""

_WITHOUT_EFFECT = (
    *("memory_format", "decay_biases_and_norms", "monitor", "monitor_mode"),
    *("checkpoint_every", "save_every", "on_save_error"),
)
"""Options that change no step of a plain descent in a trial."""


@dataclass(frozen=True, kw_only=True)
class WrittenOut:
    """A training as the written-out descents take it.

    Attributes:
        model: One of `handful.reference.weights.MODELS`.
        layers: The model's layers with weights, first to last.
        inputs: Features of all samples, ``(N, n)``, of the weights' dtype.
        targets: Values ``(N, 1)`` of that dtype, or classes, int64 ``(N,)``.
        batch_size: Samples of a step, 1 to N.
    """

    model: str
    layers: list[nn.Linear]
    inputs: FloatArray
    targets: NDArray[np.generic]
    batch_size: int

    @property
    def weight_names(self) -> list[tuple[str, str]]:
        """The descents' names of the weight and the bias of each layer."""
        names = list(weight_shapes(self.model, 1, 2, [1] * (len(self.layers) - 1)))
        return list(zip(names[::2], names[1::2], strict=True))

    def read_weights(self) -> dict[str, FloatArray]:
        """Return the model's weights under the descents' names."""
        weights: dict[str, FloatArray] = {}
        for layer, (weight, bias) in zip(self.layers, self.weight_names, strict=True):
            # torch's Linear keeps (outputs, inputs), the descents (inputs, outputs).
            weights[weight] = layer.weight.detach().cpu().numpy().T
            if layer.bias is not None:
                weights[bias] = layer.bias.detach().cpu().numpy()
        return weights

    @torch.no_grad()
    def write_weights(self, weights: Mapping[str, FloatArray]) -> None:
        """Put a descent's weights into the model."""
        for layer, (weight, bias) in zip(self.layers, self.weight_names, strict=True):
            layer.weight.copy_(torch.tensor(weights[weight].T))
            if layer.bias is not None:
                layer.bias.copy_(torch.tensor(weights[bias]))


def write_out(
    backend: str, recipe: Recipe, model: nn.Module, data: Dataset[Any]
) -> WrittenOut:
    """Read what a descent needs from a recipe, its model and its training data.

    Raises:
        ArgumentError: The model, the loss or the samples have no counterpart.
        DataError: The data aren't such as the descents take.
    """
    kind, layers = _read_model(backend, recipe, model)
    inputs, targets = _read_samples(backend, recipe, data)
    if _begins_flat(model):
        inputs = inputs.reshape(len(inputs), -1)
    dtype = str(layers[0].weight.dtype).removeprefix("torch.")
    features, values = read_data(kind, inputs, targets, dtype)
    size = len(inputs) if recipe.batch_size == "full" else int(recipe.batch_size)
    return WrittenOut(
        model=kind,
        layers=layers,
        inputs=features,
        targets=values,
        batch_size=min(size, len(inputs)),
    )


def check_settings(backend: str, recipe: Recipe, budget: Budget | None) -> None:
    """Check everything of a recipe but model, loss and data.

    Raises:
        ArgumentError: A descent does not do it.
    """
    if budget is not None and budget.unit != "epochs":
        raise ArgumentError(
            f"budget must be in epochs with backend={backend}; got {budget}. The "
            "written-out descents train whole epochs."
        )
    if recipe.optimizer != Choice("sgd"):
        raise _refusal(backend, "optimizer", recipe.optimizer, "sgd")
    schedule = parse_schedule(recipe.schedule)
    if schedule != Choice("constant"):
        raise _refusal(backend, "schedule", schedule, "constant")
    if recipe.last_batch != "keep":
        raise _refusal(backend, "last_batch", recipe.last_batch, "keep")
    for name, value in recipe.options.items():
        plain = _PLAIN.get(name)
        if name not in _WITHOUT_EFFECT and value != plain:
            raise _refusal(backend, name, value, plain)


def _refusal(backend: str, name: str, value: Any, plain: Any) -> ArgumentError:
    shown = format_setting(plain) or "left out"
    remedy = f"Add --vary {name}={shown}, or leave {backend} out"
    if name in ("max_steps", "train_metrics"):
        remedy = f"Leave {name} out of the recipe, or {backend} out of the backends"
    return ArgumentError(
        f"{name} must be {shown} with backend={backend}; got "
        f"{format_setting(to_plain(value))}. The written-out descents take plain steps "
        f"of a constant rate and nothing else. {remedy}."
    )


def _read_model(
    backend: str, recipe: Recipe, model: nn.Module
) -> tuple[str, list[nn.Linear]]:
    """Return the descents' name of a model, and its layers."""
    loss = _read_loss(backend, recipe)
    parts = list(model) if type(model) is nn.Sequential else [model]
    parts = parts[1:] if _begins_flat(model) else parts
    layers = [part for part in parts[::2] if type(part) is nn.Linear]
    activations = {_ACTIVATIONS.get(type(part), "") for part in parts[1::2]}
    alternates = len(parts) % 2 == 1 and len(layers) == len(parts[::2])
    is_shared = len(set(layers)) < len(layers)
    is_trained = all(weight.requires_grad for weight in model.parameters())
    is_known = len(activations) < 2 and "" not in activations
    if not (alternates and is_known and is_trained) or is_shared:
        raise _unknown_model(backend, model)
    last = layers[-1].out_features
    if loss == "mse" and not activations and last == 1:
        return "linear", layers
    if loss == "cross_entropy" and last > 1:
        return (activations.pop() if activations else "softmax"), layers
    raise ArgumentError(
        f"loss must be mse with a single Linear of one output, or cross_entropy with "
        f"two outputs or more, with backend={backend}; got {loss} with {len(layers)} "
        f"layers and {last} outputs. Leave {backend} out of the backends."
    )


def _unknown_model(backend: str, model: nn.Module) -> ArgumentError:
    parts = list(model) if type(model) is nn.Sequential else [model]
    shown = ", ".join(type(part).__name__ for part in parts)
    return ArgumentError(
        f"model must be Linear layers with ReLU or Tanh between them, all trained, "
        f"with backend={backend}; got {shown}. The written-out descents have no other "
        f"layers: leave {backend} out of the backends."
    )


def _begins_flat(model: nn.Module) -> bool:
    """Say whether a model begins by laying each sample's numbers end to end."""
    if type(model) is not nn.Sequential or not len(model):
        return False
    first = model[0]
    return type(first) is nn.Flatten and (first.start_dim, first.end_dim) == (1, -1)


def _read_loss(backend: str, recipe: Recipe) -> str:
    known = isinstance(recipe.loss, str | Mapping | Choice)
    loss = parse_loss(recipe.loss) if known else None  # type: ignore[arg-type]
    if loss is None or loss.args or loss.name not in ("mse", "cross_entropy"):
        raise ArgumentError(
            f"loss must be mse or cross_entropy without arguments with "
            f"backend={backend}; got {format_setting(to_plain(recipe.loss))}. The "
            "written-out descents have no other: add --vary loss=mse or "
            "loss=cross_entropy."
        )
    return loss.name


def _read_samples(
    backend: str, recipe: Recipe, data: Dataset[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return inputs and targets of all samples, in the order of the data."""
    transform = recipe.batch_transform
    if getattr(transform, "is_random", False):
        raise ArgumentError(
            f"batch_transform must draw no random numbers with backend={backend}; got "
            f"{transform!r}. The written-out descents see each sample as it is: use "
            "the recipe without it."
        )
    count = len(data)  # type: ignore[arg-type]
    batch = next(iter(DataLoader(data, count, seed=0, batch_transform=transform)))
    is_pair = isinstance(batch, list | tuple) and len(batch) == 2
    if not is_pair or not all(isinstance(part, Tensor) for part in batch):
        raise ArgumentError(
            f"samples must be one tensor of inputs and one target with "
            f"backend={backend}; got a {type(batch).__name__} of "
            f"{len(batch)}. Leave {backend} out of the backends."
        )
    inputs, targets = batch
    return inputs.numpy(), targets.numpy()
