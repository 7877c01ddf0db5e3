"""The same descent at four rates, and the rate from which on it diverges.

The program of "The mathematics of optimization for Deep Learning" with rates of 0.001,
0.01, 0.1 and 0.9. On a parabola all is known in closed form: with h = mean(x²), a step
multiplies the distance from the best weight by 1 - 2 lr h (LeCun, Bottou, Orr and
Mueller 1998, "Efficient BackProp", section 5.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from handful.lessons.lesson import LessonOptions, LessonResult
from handful.lessons.one_weight import (
    Floats,
    descend_as_printed,
    draw_first_weight,
    draw_paths,
    find_error,
    load_points,
    pair_with_losses,
)
from handful.reference.one_weight import best_weight, gradient_descent, loss_at
from handful.report.bands import SeedCurves, draw_bands
from handful.report.descent_paths import DescentPath

RATES = 0.001, 0.01, 0.1, 0.9
BEYOND = 1.01
"""Times the rate from which on it diverges: a rate that does."""

CORRECTION = (
    "The printed step stops with an error (torch.matmul takes no tensor without a "
    "dimension), and where that is mended each loss is that of the weight before the "
    "one it is noted with: the last loss is not that of the last weight, and the "
    "paths of large rates leave the curve that they walk on."
)


@dataclass(frozen=True)
class Descent:
    """What was noted of one descent.

    Attributes:
        lr: Its rate.
        points: Weights and losses as they are drawn, ``(K, 2)``.
        last_step_loss: Loss before the last step, which the program prints.
    """

    lr: float
    points: Floats
    last_step_loss: float


def run(options: LessonOptions) -> LessonResult:
    """Descend at four rates.

    Args:
        options: ``quick`` takes 20 steps instead of 100; nothing is left to chance.

    Returns:
        For each rate the last ``weight`` and ``loss`` as noted, the ``factor`` of one
        step and, in closed form, the ``steps_to_1_percent`` above the least loss (None
        if never); ``diverges_from``, the rate at which a step no longer helps.
    """
    x, y = load_points()
    epochs = 20 if options.quick else 100
    descents = [_descend(x, y, epochs, lr, options.as_printed) for lr in RATES]
    lines = _tell_error(x) if options.as_printed else []
    rows = {str(one.lr): _measure(one, x, y) for one in descents}
    limit = 1 / np.mean(x**2).item()
    beyond = _try_beyond(x, y, epochs, BEYOND * limit)
    lines += [_format_row(one, rows[str(one.lr)]) for one in descents]
    lines += _tell_limit(limit, beyond, epochs)
    numbers = {
        "epochs": epochs,
        "rates": rows,
        "best_weight": best_weight(x, y),
        "least_loss": loss_at(best_weight(x, y), x, y).item(),
        "fastest_rate": limit / 2,
        "diverges_from": limit,
        "beyond": beyond,
    }
    figures = _draw(descents, x, y, as_printed=options.as_printed)
    return LessonResult(
        lines=lines, numbers=numbers, figures=figures, correction=CORRECTION
    )


def _descend(x: Floats, y: Floats, epochs: int, lr: float, as_printed: bool) -> Descent:
    if as_printed:
        weights, losses = descend_as_printed(x, y, epochs=epochs, lr=lr)
        return Descent(lr, np.column_stack([weights, losses]), losses[-1].item())
    trace = gradient_descent(x, y, epochs=epochs, lr=lr, weight=draw_first_weight())
    assert trace.path is not None
    points = pair_with_losses(trace.path[:, 0], x, y)
    return Descent(lr, points, trace.losses[-1].item())


def _measure(one: Descent, x: Floats, y: Floats) -> dict[str, Any]:
    factor = 1 - 2 * one.lr * np.mean(x**2).item()
    return {
        "weight": one.points[-1, 0].item(),
        "loss": one.points[-1, 1].item(),
        "last_step_loss": one.last_step_loss,
        "factor": factor,
        "steps_to_1_percent": _count_steps(factor, x, y),
    }


def _count_steps(factor: float, x: Floats, y: Floats) -> int | None:
    """Count steps until the loss is within 1 % of the least.

    The loss above the least is mean(x²) (w - w*)², and shrinks by factor² a step.
    """
    if abs(factor) >= 1:
        return None
    least = loss_at(best_weight(x, y), x, y).item()
    above = loss_at(draw_first_weight(), x, y).item() - least
    return math.ceil(math.log(0.01 * least / above) / math.log(factor**2))


def _try_beyond(x: Floats, y: Floats, epochs: int, lr: float) -> dict[str, float]:
    trace = gradient_descent(x, y, epochs=epochs, lr=lr, weight=draw_first_weight())
    first, last = trace.losses[[0, -1]].tolist()
    return {"lr": lr, "first_loss": first, "last_loss": last}


def _tell_error(x: Floats) -> list[str]:
    error = find_error(x, draw_first_weight())
    return [f"torch.matmul(x, weight): {error}", "with x * weight instead:"]


def _format_row(one: Descent, row: dict[str, Any]) -> str:
    return (
        f"lr {one.lr:<5}  last weight {row['weight']:.4f}  last loss "
        f"{row['loss']:.3f}  factor a step {row['factor']:+.3f}  "
        f"within 1 % of the least loss after {row['steps_to_1_percent']} steps"
    )


def _tell_limit(limit: float, beyond: dict[str, float], epochs: int) -> list[str]:
    return [
        "a step multiplies the distance from the best weight by 1 - 2 lr mean(x²): "
        f"fastest at lr {limit / 2:.4g}, back and forth above it, no nearer at "
        f"{limit:.4g}, diverging beyond",
        f"lr {beyond['lr']:.4g}: loss {beyond['first_loss']:.1f} before the first "
        f"step, {beyond['last_loss']:.1f} before step {epochs}",
    ]


def _draw(
    descents: list[Descent], x: Floats, y: Floats, *, as_printed: bool
) -> dict[str, Figure]:
    paths = [DescentPath(f"lr {one.lr}", one.points) for one in descents]
    title = "The same descent at four rates"
    if as_printed:
        title = "As printed: each loss over the weight after the step"
    least = loss_at(best_weight(x, y), x, y).item()
    return {
        "paths": draw_paths(paths, x, y, title=title),
        "loss-epoch": draw_bands(
            [_read_curve(one, 0.0, as_printed) for one in descents],
            x_label="epoch",
            y_label="loss",
            title="Loss against epoch at four rates",
        ),
        "excess-epoch": draw_bands(
            [_read_curve(one, least, as_printed) for one in descents],
            x_label="epoch",
            y_label="loss above the least",
            title="The loss above the least shrinks by one factor a step",
        ),
    }


def _read_curve(one: Descent, least: float, as_printed: bool) -> SeedCurves:
    """Return the loss above one that is known; rounding hides what is less than 1e-9.

    As printed, the losses are those before each step, from the start's on.
    """
    above = one.points[:, 1] - least
    epochs = np.arange(len(above), dtype=np.float64)
    rounding = 1e-3 if as_printed else 1e-9
    shown = np.where(above > rounding, above, np.nan)
    return SeedCurves(f"lr {one.lr}", epochs, shown[None], diverged=())
