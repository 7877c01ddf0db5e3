"""The scale of an axis, and marks for the points that lie beyond its ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from handful.report.style import LABEL_SIZE, format_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Scale",
    "add_marks",
    "apply_x_scale",
    "apply_y_scale",
    "choose_scale",
    "linear_scale",
    "mark_hidden",
    "mark_lost",
    "place_inside",
]

Floats = NDArray[np.float64]

_MARGIN = 0.06
_TWO_DECADES = 100.0
_SUFFIX = {"linear": "", "log": " (log scale)", "symlog": " (log scale, linear at 0)"}


@dataclass(frozen=True)
class Scale:
    """How an axis is divided and where it ends.

    Attributes:
        kind: ``"log"`` over a wide span above 0; ``"symlog"`` where values
            of both signs spread as far, linear up to ``linear_below``.
        low: Its lower end.
        high: Its upper end.
        linear_below: Of ``"symlog"``, the absolute value up to which it is linear.
    """

    kind: Literal["linear", "log", "symlog"]
    low: float
    high: float
    linear_below: float = 1.0


def choose_scale(
    values: Floats, *, floor: float = 0.0, ceiling: float = 0.0, span: float = 100.0
) -> Scale:
    """Choose the scale for values.

    Args:
        values: What shall be shown, of any shape; those not finite don't count.
        floor: On a logarithmic axis, values below it may lie beyond its end.
        ceiling: Values above it may lie beyond the end; 0 for no such value.
        span: Greatest over least value from which on the axis is logarithmic.

    Returns:
        The scale. Of values that are all equal they stand in the middle.
    """
    finite = values[np.isfinite(values)]
    if ceiling > 0 and (finite <= ceiling).any():
        finite = finite[finite <= ceiling]
    sizes = np.abs(finite[finite != 0])
    is_wide = len(sizes) > 0 and sizes.max() > span * max(floor, sizes.min())
    if is_wide and finite.min() >= 0:
        shown = sizes[sizes >= floor]
        return _log_scale(shown.min(), shown.max())
    # Of both signs, a small value alone is no reason: 0 lies between them anyway.
    if is_wide and sizes.max() > span * np.median(sizes):
        return _symlog_scale(finite, 10 ** np.floor(np.log10(np.median(sizes))))
    return linear_scale(finite)


def linear_scale(values: Floats) -> Scale:
    """Return the linear scale for values, whatever their span.

    Args:
        values: What shall be shown, of any shape; those not finite don't count.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Scale("linear", 0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    margin = (high - low) * _MARGIN
    if margin <= 1e-12 * max(abs(low), abs(high)):
        margin = abs(high) * 0.5 or 0.5
    return Scale("linear", float(low - margin), float(high + margin))


def apply_y_scale(axes: Axes, scale: Scale, label: str) -> None:
    """Set the vertical axis, and say in its label if it is not linear."""
    if scale.kind == "log":
        axes.set_yscale("log")
        is_short = scale.high < _TWO_DECADES * scale.low
        subs = (1.0, 2.0, 5.0) if is_short else (1.0,)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
    elif scale.kind == "symlog":
        axes.set_yscale("symlog", linthresh=scale.linear_below)
    if scale.kind != "linear":
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(format_number))
    axes.set_ylim(scale.low, scale.high)
    axes.set_ylabel(label + _SUFFIX[scale.kind], fontsize=LABEL_SIZE)


def apply_x_scale(
    axes: Axes, positions: Floats, label: str, *, is_log: bool = False
) -> None:
    """Set the horizontal axis from the least to the greatest position.

    Args:
        axes: The axes.
        positions: Finite positions, of any shape, none below 0 if it is logarithmic.
        label: What they are.
        is_log: Whether it is logarithmic, around 0 linear where a position is 0.
    """
    low, high = float(positions.min()), float(positions.max())
    above = positions[positions > 0]
    if is_log and low > 0:
        axes.set_xscale("log")
    elif is_log:
        axes.set_xscale("symlog", linthresh=float(above.min()))
    elif (positions == np.rint(positions)).all():
        ticks = MaxNLocator(5, integer=True, min_n_ticks=2, steps=[1, 2, 5, 10])
        axes.xaxis.set_major_locator(ticks)
    if is_log:
        axes.xaxis.set_minor_formatter(NullFormatter())
        label += " (log scale)"
    axes.xaxis.set_major_formatter(FuncFormatter(format_number))
    axes.set_xlim(*((low, high) if low < high else (low - 0.5, high + 0.5)))
    axes.set_xlabel(label, fontsize=LABEL_SIZE)


def place_inside(axes: Axes, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Move points beyond the ends of the axes onto their edge.

    Args:
        axes: Axes whose limits are final.
        x: Positions, shape ``(N,)``.
        y: Values, shape ``(N,)``.

    Returns:
        Both, shape ``(N,)``; NaN stays NaN.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    return np.clip(x, left, right), np.clip(y, low, high)


def mark_hidden(axes: Axes, x: Floats, y: Floats, color: str, name: str) -> str | None:
    """Mark the points beyond the ends of the axes by triangles at the edge.

    Args:
        axes: Axes whose limits are final.
        x: Positions, shape ``(N,)``.
        y: Values, shape ``(N,)``; infinity lies beyond any end.
        color: Colour of the marks.
        name: What the points are, for the note.

    Returns:
        A note that counts them; None if there is none.
    """
    hidden = _find_hidden(axes, x, y)
    if not hidden.any():
        return None
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    inside_x, inside_y = place_inside(axes, x, y)
    sides = {"^": y > high, "v": y < low, "<": x < left, ">": x > right}
    free = hidden.copy()
    for marker, beyond in sides.items():
        chosen = beyond & free
        free &= ~beyond
        add_marks(axes, inside_x[chosen], inside_y[chosen], marker, 5.5, color)
    number = int(hidden.sum())
    points = "point" if number == 1 else "points"
    return f"{name}: {number} {points} beyond the axes (triangles)"


def mark_lost(axes: Axes, x: Floats, y: Floats, color: str) -> None:
    """Mark the last values of what diverged by crosses, at the edge if beyond it.

    Args:
        axes: Axes whose limits are final.
        x: Positions, shape ``(N,)``.
        y: Values, shape ``(N,)``.
        color: Colour of the crosses.
    """
    add_marks(axes, *place_inside(axes, x, y), "X", 8, color, edge="black")


def add_marks(
    axes: Axes,
    x: Floats,
    y: Floats,
    marker: str,
    size: float,
    color: str,
    *,
    edge: str = "white",
) -> None:
    """Draw single marks above the lines, whole even at the edge of the axes.

    Args:
        axes: The axes.
        x: Positions, shape ``(N,)``.
        y: Values, shape ``(N,)``.
        marker: Matplotlib's name of the mark.
        size: Size, in points.
        color: Colour.
        edge: Colour of a thin line around each.
    """
    # Nothing at all would have its place at infinity, and upset the layout.
    if not len(x):
        return
    axes.plot(
        x,
        y,
        linestyle="none",
        marker=marker,
        markersize=size,
        color=color,
        markeredgecolor=edge,
        markeredgewidth=0.6,
        clip_on=False,
        zorder=6,
    )


def _find_hidden(axes: Axes, x: Floats, y: Floats) -> NDArray[np.bool_]:
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    hidden: NDArray[np.bool_] = (x < left) | (x > right) | (y < low) | (y > high)
    return hidden & ~np.isnan(x) & ~np.isnan(y)


def _log_scale(low: float, high: float) -> Scale:
    factor = float(np.exp(_MARGIN * np.log(high / low)))
    return Scale("log", float(low / factor), float(high * factor))


def _symlog_scale(values: Floats, linear_below: float) -> Scale:
    low, high = values.min(), values.max()
    return Scale(
        "symlog",
        float(low * (2 if low < 0 else 0.5)),
        float(high * (2 if high > 0 else 0.5)),
        float(linear_below),
    )
