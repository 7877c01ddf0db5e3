"""What the lessons on one weight share: the points, the starts, the printed step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from handful.datasets.tables import load_regression
from handful.reference.one_weight import best_weight, loss_at
from handful.report.descent_paths import DescentPath, draw_loss_against_weight
from handful.report.scale import (
    apply_y_scale,
    choose_scale,
    mark_hidden,
    place_inside,
)
from handful.report.style import (
    BLUE,
    GREY,
    LABEL_SIZE,
    TICK_SIZE,
    finish_figure,
    label_outer_panels,
    make_figure,
    prepare_axes,
)

Floats: TypeAlias = npt.NDArray[np.float64]


def load_points() -> tuple[Floats, Floats]:
    """Return the feature and the target of 100 points, each float64 ``(100, 1)``."""
    points = load_regression()
    return points.features.astype(np.float64), points.target.astype(np.float64)


def draw_first_weight() -> float:
    """Draw the weight that the full-batch programs start from, with PyTorch, seed 42.

    Returns:
        About 0.8823, the same at each call; the global generator is left alone.
    """
    return torch.rand(1, generator=torch.Generator().manual_seed(42)).item()


def find_error(x: Floats, weight: float) -> str | None:
    """Multiply the feature and a single number as the printed step does.

    Args:
        x: The feature, ``(N, 1)``.
        weight: The weight.

    Returns:
        The error that PyTorch answers with; None if it computes the product.
    """
    try:
        torch.matmul(_to_tensor(x), torch.tensor(weight))
    except RuntimeError as error:
        return f"RuntimeError: {error}"
    return None


def descend_as_printed(
    x: Floats, y: Floats, *, epochs: int, lr: float
) -> tuple[Floats, Floats]:
    """Descend as the tutorial's program would if its product were ``x * weight``.

    It computes in float32, and notes the weight *after* each step with the loss
    *before* it.

    Args:
        x: The feature, ``(N, 1)``.
        y: The values to predict, ``(N, 1)``.
        epochs: Steps, each with all samples.
        lr: Learning rate.

    Returns:
        Weights after and losses before each step, both ``(epochs,)``.
    """
    inputs, target = _to_tensor(x), _to_tensor(y)
    value = draw_first_weight()
    rows = []
    for _ in range(epochs):
        weight = torch.tensor(value, requires_grad=True)
        loss = functional.mse_loss((inputs * weight).flatten(), target.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        with torch.no_grad():
            value = (weight - lr * weight.grad).item()
        rows.append((value, loss.item()))
    weights, losses = np.array(rows, dtype=np.float64).T
    return weights, losses


def pair_with_losses(weights: npt.ArrayLike, x: Floats, y: Floats) -> Floats:
    """Put each weight, ``(K,)``, beside the loss that it has on all samples.

    Returns:
        Points of the parabola, ``(K, 2)``.
    """
    return np.column_stack([np.asarray(weights), loss_at(weights, x, y)])


def draw_paths(
    paths: list[DescentPath], x: Floats, y: Floats, *, title: str = ""
) -> Figure:
    """Draw descents over the true loss, as wide as the widest of them.

    Args:
        paths: One to eight descents of weight and loss.
        x: The feature, ``(N, 1)``.
        y: The values to predict, ``(N, 1)``.
        title: What is shown.

    Returns:
        The figure; losses above the curve are marked at its edge and counted.
    """
    grid = span_weights(np.concatenate([path.points[:, 0] for path in paths]), x, y)
    lowest = best_weight(x, y)
    return draw_loss_against_weight(
        grid, loss_at(grid, x, y), paths, best=lowest, title=title
    )


def draw_batch_losses(
    descents: Mapping[int, tuple[Floats, Floats]], x: Floats, y: Floats
) -> Figure:
    """Draw the loss of each batch over the weight after its step, as the tutorial does.

    Args:
        descents: By batch size, weights after and losses before each step, ``(S,)``.
        x: The feature, ``(N, 1)``.
        y: The values to predict, ``(N, 1)``.

    Returns:
        The figure; losses below 1 are marked at the foot of the axis and counted.
    """
    figure = make_figure(3.3)
    panels = figure.subplots(1, len(descents), sharex=True, sharey=True)
    weights = np.concatenate([weights for weights, _ in descents.values()])
    grid = span_weights(weights, x, y)
    losses = np.concatenate([losses for _, losses in descents.values()])
    notes: list[str | None] = ["grey: the loss on all samples"]
    for axes, (size, (after, before)) in zip(panels, descents.items(), strict=True):
        prepare_axes(axes)
        apply_y_scale(axes, choose_scale(losses, floor=1.0), "loss of the batch")
        axes.set_xlim(grid[0], grid[-1])
        axes.plot(*place_inside(axes, after, before), ".", color=BLUE, markersize=2.5)
        axes.plot(grid, loss_at(grid, x, y), color=GREY, linewidth=1.2, zorder=3)
        notes.append(mark_hidden(axes, after, before, BLUE, f"batch size {size}"))
        axes.set_title(f"batch size {size}", fontsize=TICK_SIZE, loc="left")
        axes.set_xlabel("weight", fontsize=LABEL_SIZE)
    label_outer_panels(panels[None], len(descents))
    title = "As printed: the loss of a batch over the weight after its step"
    finish_figure(figure, title, notes)
    return figure


def span_weights(weights: Floats, x: Floats, y: Floats) -> Floats:
    """Return 201 weights around those given, and both sides of the best.

    Args:
        weights: Weights of descents, ``(K,)``, all finite.
        x: The feature, ``(N, 1)``.
        y: The values to predict, ``(N, 1)``.

    Returns:
        Increasing weights, ``(201,)``.
    """
    lowest = best_weight(x, y)
    away = np.abs(weights - lowest).max()
    low = min(weights.min(), lowest - 0.5 * away)
    high = max(weights.max(), lowest + 0.5 * away)
    return np.linspace(low - 0.04 * away, high + 0.04 * away, 201)


def _to_tensor(values: Floats) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)
