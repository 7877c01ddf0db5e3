"""One weight, all samples in each step: a walk down a parabola.

The program of "The mathematics of optimization for Deep Learning": a step for one
feature, 100 of them at a rate of 0.1, and the same step for a matrix of features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional

from handful.lessons.lesson import LessonOptions, LessonResult
from handful.lessons.one_weight import (
    Floats,
    descend_as_printed,
    draw_first_weight,
    find_error,
    load_points,
    pair_with_losses,
    span_weights,
)
from handful.reference import one_weight_torch
from handful.reference.one_weight import best_weight, loss_at
from handful.report.landscape import draw_descent_points, format_rounded
from handful.report.scale import apply_y_scale, linear_scale
from handful.report.style import (
    BLUE,
    GREY,
    LABEL_SIZE,
    finish_figure,
    make_figure,
    prepare_axes,
)

LR = 0.1
SHAPE = 100, 3
"""Samples m and features n of the vectorised step."""

CORRECTION = (
    "The printed step stops with an error, because torch.matmul takes no tensor "
    "without a dimension; with `x * weight` in its place it runs, but it notes each "
    "loss with the weight after the step, so the curve that it draws lies beside the "
    "true loss and not on it."
)


def run(options: LessonOptions) -> LessonResult:
    """Descend with one weight, and take one step with several.

    Args:
        options: ``quick`` takes 10 steps instead of 100; ``seed`` draws the matrix of
            the vectorised step.

    Returns:
        ``weights`` and ``losses`` of the points drawn: as printed, after and before
        each step, else both at the same point, the start included.
    """
    x, y = load_points()
    epochs = 10 if options.quick else 100
    points = _descend(x, y, epochs, as_printed=options.as_printed)
    lines, error = _tell_error(x) if options.as_printed else ([], None)
    lowest = best_weight(x, y)
    least = loss_at(lowest, x, y).item()
    step_lines, step = _step_with_matrix(options)
    factor = 1 - 2 * LR * np.mean(x**2).item()
    lines += [
        f"epochs {epochs}, lr {LR}: weight {points[-1, 0]:.4f}, "
        f"loss {points[-1, 1]:.3f}",
        f"best weight {lowest:.4f}, least loss {least:.4f}",
        "each step multiplies the distance from the best weight by "
        f"1 - 2 lr mean(x²) = {factor:.4g}",
        *step_lines,
    ]
    numbers = {
        "epochs": epochs,
        "lr": LR,
        "weights": points[:, 0].tolist(),
        "losses": points[:, 1].tolist(),
        "best_weight": lowest,
        "least_loss": least,
        "factor": factor,
        "error": error,
        "vectorised": step,
    }
    figure = _draw(points, x, y, as_printed=options.as_printed)
    return LessonResult(
        lines=lines,
        numbers=numbers,
        figures={"loss-weight": figure},
        correction=CORRECTION,
    )


def _descend(x: Floats, y: Floats, epochs: int, *, as_printed: bool) -> Floats:
    """Return weights and losses as they are drawn, ``(K, 2)``."""
    if as_printed:
        return np.column_stack(descend_as_printed(x, y, epochs=epochs, lr=LR))
    trace = one_weight_torch.gradient_descent(
        x, y, epochs=epochs, lr=LR, weight=draw_first_weight()
    )
    assert trace.path is not None
    return pair_with_losses(trace.path[:, 0], x, y)


def _tell_error(x: Floats) -> tuple[list[str], str | None]:
    error = find_error(x, draw_first_weight())
    return [f"torch.matmul(x, weight): {error}", "with x * weight instead:"], error


def _step_with_matrix(options: LessonOptions) -> tuple[list[str], dict[str, Any]]:
    """Take a step with n features, the program's ``gradient_step``."""
    generator = np.random.default_rng(options.seed)
    m, n = SHAPE
    features, target = generator.normal(size=(m, n)), generator.normal(size=(m, 1))
    weight = np.zeros((n, 1))
    if options.as_printed:
        moved, loss = _matrix_step_as_printed(features, target, weight)
    else:
        tensor, loss = one_weight_torch.gradient_step(features, target, weight, LR)
        moved = tensor.numpy()
    shapes = {"X": [m, n], "y": [m, 1], "weight": [n, 1], "moved": list(moved.shape)}
    listed = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    rounded = ", ".join(f"{value:.4f}" for value in moved[:, 0])
    lines = [
        f"one step with a matrix: {listed}",
        f"  weight {rounded}; loss {loss:.4f}",
    ]
    step = {"shapes": shapes, "weight": moved[:, 0].tolist(), "loss": loss}
    return lines, step


def _matrix_step_as_printed(
    features: Floats, target: Floats, weight: Floats
) -> tuple[Floats, float]:
    """Take the printed step: float32, with both columns flattened before the loss."""
    inputs, wanted, start = (
        torch.tensor(array, dtype=torch.float32) for array in (features, target, weight)
    )
    start.requires_grad_()
    loss = functional.mse_loss((inputs @ start).flatten(), wanted.flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    assert start.grad is not None
    with torch.no_grad():
        moved = start - LR * start.grad
    return moved.numpy().astype(np.float64), loss.item()


def _draw(points: Floats, x: Floats, y: Floats, *, as_printed: bool) -> Figure:
    """Draw loss against weight and loss against epoch, with one axis of losses."""
    figure = make_figure(3.3)
    left, right = figure.subplots(1, 2, sharey=True)
    grid = span_weights(points[:, 0], x, y)
    height = loss_at(grid, x, y)
    for axes in (left, right):
        prepare_axes(axes)
        apply_y_scale(axes, linear_scale(np.append(height, points[:, 1])), "loss")
    right.set_ylabel("")
    left.plot(grid, height, color=GREY, linewidth=1.2, zorder=2)
    left.set_xlim(grid[0], grid[-1])
    notes = draw_descent_points(left, points)
    left.axvline(best_weight(x, y), color=GREY, linewidth=0.8, linestyle=":")
    left.set_xlabel("weight", fontsize=LABEL_SIZE)
    epochs = np.arange(len(points)) + (1 if as_printed else 0)
    right.plot(epochs, points[:, 1], color=BLUE, linewidth=1.2, marker=".", zorder=3)
    least = loss_at(best_weight(x, y), x, y).item()
    right.axhline(least, color=GREY, linewidth=0.8, linestyle=":")
    right.set_xlabel("epoch", fontsize=LABEL_SIZE)
    finish_figure(figure, _title(len(points), as_printed), [*notes, _note(x, y, least)])
    return figure


def _title(num_points: int, as_printed: bool) -> str:
    if as_printed:
        return f"As printed: each loss over the weight after the step, lr {LR}"
    return f"Gradient descent with one weight: {num_points - 1} steps, lr {LR}"


def _note(x: Floats, y: Floats, least: float) -> str:
    lowest = format_rounded(best_weight(x, y), 6)
    return (
        "grey: the true loss of each weight; "
        f"dotted: the best weight, {lowest}, and the least loss, {least:.2f}"
    )
