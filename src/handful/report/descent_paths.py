"""Descents on a loss: over one weight, and over two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike, NDArray

from handful.errors import ArgumentError
from handful.report.arrays import read_array
from handful.report.landscape import draw_descent_points, format_rounded
from handful.report.scale import (
    apply_y_scale,
    linear_scale,
    mark_hidden,
    place_inside,
)
from handful.report.style import (
    BLACK,
    GREY,
    LABEL_SIZE,
    TICK_SIZE,
    WIDTH,
    add_legend,
    finish_figure,
    format_number,
    label_outer_panels,
    line_style,
    make_figure,
    marker_places,
    prepare_axes,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["DescentPath", "draw_loss_against_weight", "draw_surface_path"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DescentPath:
    """The points of one descent, from before the first step to after the last.

    Attributes:
        name: Such as ``"lr 0.1"``.
        points: Shape ``(K, 2)``: a weight and its loss, or two weights.
    """

    name: str
    points: NDArray[np.floating]


def draw_loss_against_weight(
    weights: ArrayLike,
    losses: ArrayLike,
    paths: Sequence[DescentPath],
    *,
    best: float | None = None,
    title: str = "",
    x_label: str = "weight",
    y_label: str = "loss",
) -> Figure:
    """Draw the loss over one weight and the descents on it, a panel each.

    All panels have the same axes, so that descents are compared at a glance. Points get
    darker from the start (open square) to the end (filled square); those beyond the
    curve's range are triangles at the edge, counted in a note.

    Args:
        weights: Positions of the true loss, shape ``(P,)``, increasing.
        losses: The true loss there, shape ``(P,)``.
        paths: One to eight descents, each ``(weight, loss)``.
        best: The weight of least loss, if it is known.
        title: What is shown; by default, that.
        x_label: Name of the weight, with its unit if it has one.
        y_label: Name of the loss, with its unit.

    Returns:
        The figure.

    Raises:
        ArgumentError: An array has another shape, or the paths are none or too many.
    """
    x = read_array("weights", weights, (None,))
    y = read_array("losses", losses, (len(x),))
    _check_paths(paths)
    columns = 1 if len(paths) == 1 else 2
    rows = math.ceil(len(paths) / columns)
    figure = make_figure(3.5 if rows == 1 else 0.6 + 2.3 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    notes: list[str | None] = []
    for axes, path in zip(panels.flat, paths, strict=False):
        prepare_axes(axes)
        axes.plot(x, y, color=GREY, linewidth=1.2, zorder=2)
        axes.set_xlim(x.min(), x.max())
        apply_y_scale(axes, linear_scale(y), y_label)
        if best is not None:
            axes.axvline(best, color=GREY, linewidth=0.8, linestyle=":")
        notes += _draw_on_curve(axes, path)
        axes.set_xlabel(x_label, fontsize=LABEL_SIZE)
    label_outer_panels(panels, len(paths))
    if best is not None:
        notes.append(f"the dotted line is the best weight, {best:.6g}")
    finish_figure(figure, title or _name_descents(paths), notes)
    return figure


def draw_surface_path(
    x: ArrayLike,
    y: ArrayLike,
    losses: ArrayLike,
    paths: Sequence[DescentPath],
    *,
    minimum: tuple[float, float] | None = None,
    title: str = "",
    x_label: str = "weight 1",
    y_label: str = "weight 2",
    loss_label: str = "loss",
) -> Figure:
    """Draw the contour lines of a loss over two weights, and descents on it.

    Contour lines stand closer where the loss is lower: their values, less the least,
    grow by a constant factor. Each descent starts at an open square and ends at a
    filled one. Points beyond the surface are triangles at the edge, counted in a note.

    Args:
        x: Values of the first weight, shape ``(A,)``, increasing.
        y: Values of the second, shape ``(B,)``, increasing.
        losses: The loss, shape ``(B, A)``.
        paths: One to eight descents, each of both weights.
        minimum: The weights of least loss, if they are known.
        title: What is shown; by default, that.
        x_label: Name of the first weight.
        y_label: Name of the second.
        loss_label: Name of the loss, with its unit.

    Returns:
        The figure.

    Raises:
        ArgumentError: An array has another shape, the paths are none or too many, or
            no loss is finite.
    """
    first, second = read_array("x", x, (None,)), read_array("y", y, (None,))
    surface = read_array("losses", losses, (len(second), len(first)))
    _check_paths(paths)
    figure = make_figure(0.72 * WIDTH)
    axes = figure.add_subplot()
    _draw_contours(axes, first, second, surface)
    axes.set_xlabel(x_label, fontsize=LABEL_SIZE)
    axes.set_ylabel(y_label, fontsize=LABEL_SIZE)
    notes: list[str | None] = [f"grey lines join weights of equal {loss_label}"]
    handles: list[Artist] = []
    names: list[str] = []
    for index, path in enumerate(paths):
        line, found = _draw_on_surface(axes, path, index)
        handles.append(line)
        names.append(path.name)
        notes += found
    if minimum is not None:
        handles.append(_mark_minimum(axes, minimum))
        names.append("minimum")
    add_legend(axes, handles, names, loc="center left", bbox_to_anchor=(1.0, 0.5))
    title = title or f"Contour lines of the {loss_label}, and descents on it"
    finish_figure(figure, title, notes)
    return figure


def _draw_contours(axes: Axes, x: Floats, y: Floats, surface: Floats) -> None:
    prepare_axes(axes)
    axes.grid(False)
    lines = axes.contour(
        x, y, surface, levels=_levels(surface), colors="#9A9A9A", linewidths=0.6
    )
    axes.clabel(lines, fontsize=6.5, fmt=_format_level)
    axes.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
    axes.xaxis.set_major_formatter(FuncFormatter(format_number))
    axes.yaxis.set_major_formatter(FuncFormatter(format_number))


def _mark_minimum(axes: Axes, minimum: tuple[float, float]) -> Line2D:
    return axes.plot(
        [minimum[0]],
        [minimum[1]],
        linestyle="none",
        marker="*",
        markersize=13,
        color=BLACK,
        markeredgecolor="white",
        zorder=6,
    )[0]


def _draw_on_curve(axes: Axes, path: DescentPath) -> list[str | None]:
    points = read_array(f"points of {path.name!r}", path.points, (None, 2))
    notes = draw_descent_points(axes, points, name=path.name)
    finite = points[np.isfinite(points).all(axis=1)]
    if len(finite):
        _mark_ends(axes, finite, "#06224A")
    axes.set_title(
        f"{path.name} → {_describe_end(points)}",
        fontsize=TICK_SIZE,
        loc="left",
        parse_math=False,
    )
    return notes


def _name_descents(paths: Sequence[DescentPath]) -> str:
    steps = sorted({len(path.points) - 1 for path in paths})
    number = f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else str(steps[0])
    descents = "a descent" if len(paths) == 1 else "descents"
    return f"Loss against the weight, with {descents} of {number} steps"


def _describe_end(points: Floats) -> str:
    steps = len(points) - 1
    if not np.isfinite(points[-1]).all():
        return f"diverged within {steps} steps"
    weight, loss = (format_rounded(value, 5) for value in points[-1])
    return f"weight {weight}, loss {loss}"


def _format_level(value: float) -> str:
    return format_rounded(value)


def _draw_on_surface(
    axes: Axes, path: DescentPath, index: int
) -> tuple[Line2D, list[str | None]]:
    points = read_array(f"points of {path.name!r}", path.points, (None, 2))
    whole = np.asarray(np.isfinite(points).all(axis=1))
    style = line_style(index)
    points = np.where(whole[:, None], points, np.nan)
    (line,) = axes.plot(
        points[:, 0],
        points[:, 1],
        linewidth=1.3,
        markersize=3.5,
        markevery=marker_places(len(points)),
        zorder=3,
        **style,
    )
    notes: list[str | None] = []
    if not whole.all():
        number = int((~whole).sum())
        notes.append(f"{path.name}: {number} of {len(points)} points are not finite")
    if whole.any():
        _mark_ends(axes, points[whole], style["color"])
    notes.append(
        mark_hidden(axes, points[:, 0], points[:, 1], style["color"], path.name)
    )
    return line, notes


def _mark_ends(axes: Axes, points: Floats, color: str) -> None:
    """Mark the start by an open square and the end by a filled one."""
    ends = points[[0, -1]]
    x, y = place_inside(axes, ends[:, 0], ends[:, 1])
    for place, fill in ((0, "white"), (1, color)):
        axes.plot(
            [x[place]],
            [y[place]],
            linestyle="none",
            marker="s",
            markersize=7,
            color=color,
            markerfacecolor=fill,
            markeredgewidth=1.3,
            clip_on=False,
            zorder=5,
        )


def _levels(surface: Floats) -> list[float]:
    """Return ten losses whose distance from the least grows geometrically."""
    finite = surface[np.isfinite(surface)]
    if not len(finite) or finite.min() == finite.max():
        raise ArgumentError(
            "losses must have two different finite values; got "
            f"{len(np.unique(finite))}. Draw the surface over a wider range of weights."
        )
    low, high = float(finite.min()), float(finite.max())
    steps = np.geomspace(4e-3, 1, 10) * (high - low)
    return [low + float(step) for step in steps]


def _check_paths(paths: Sequence[DescentPath]) -> None:
    if not 1 <= len(paths) <= 8:
        raise ArgumentError(
            f"paths must be 1 to 8 descents; got {len(paths)}. "
            "Draw more of them in several figures."
        )
