"""Functions of one number: minima, a descent on them, and losses over the margin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from handful.report.arrays import read_array
from handful.report.line_labels import LineEnd, label_line_ends
from handful.report.scale import (
    apply_y_scale,
    linear_scale,
    mark_hidden,
    place_inside,
)
from handful.report.style import (
    BLACK,
    BLUE,
    GREY,
    LABEL_SIZE,
    MINUS,
    TICK_SIZE,
    darkening_colors,
    finish_figure,
    format_number,
    line_style,
    make_figure,
    prepare_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Minimum", "draw_descent_points", "draw_function", "draw_losses"]

Floats = NDArray[np.float64]

_MOST_ARROWS = 40
_FEW_POINTS = 30
_SHORT = 0.03
"""Of the axes: an arrow shorter than that would be a blot."""


@dataclass(frozen=True)
class Minimum:
    """A minimum of a function.

    Attributes:
        x: Where it is.
        y: The function's value there.
        is_global: Whether no value of the function is less.
    """

    x: float
    y: float
    is_global: bool = False

    @property
    def name(self) -> str:
        """``"global minimum"`` or ``"local minimum"``."""
        return "global minimum" if self.is_global else "local minimum"


def draw_function(
    f_x: ArrayLike,
    f_y: ArrayLike,
    *,
    minima: Sequence[Minimum] = (),
    path: ArrayLike | None = None,
    title: str = "",
    x_label: str = "x",
    y_label: str = "f(x)",
) -> Figure:
    """Draw a function of one number, its minima and a descent on it.

    The descent's points get darker from the first to the last; an arrow leads from each
    to the next. Points beyond the function's range stand as triangles at the edge, and
    a note counts them.

    Args:
        f_x: Positions, shape ``(P,)``, increasing.
        f_y: The function's values, shape ``(P,)``; NaN where it has none.
        minima: Minima to mark and name.
        path: Positions and values of the descent, shape ``(K, 2)``; from the first that
            is not finite on they are left out, and a note says so.
        title: What is shown; by default, that.
        x_label: Name of the position.
        y_label: Name of the value.

    Returns:
        The figure.

    Raises:
        ArgumentError: An array has another shape.
    """
    x = read_array("f_x", f_x, (None,))
    y = read_array("f_y", f_y, (len(x),))
    figure = make_figure(3.5)
    axes = figure.add_subplot()
    prepare_axes(axes)
    axes.plot(x, y, color=BLACK, linewidth=1.4, zorder=2)
    axes.set_xlim(x.min(), x.max())
    axes.set_xlabel(x_label, fontsize=LABEL_SIZE)
    values = np.append(y, [minimum.y for minimum in minima])
    apply_y_scale(axes, linear_scale(values), y_label)
    if minima:
        # Room for the names below the minima.
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.16 * (high - low), high)
    notes = _draw_path(axes, path)
    _draw_minima(axes, minima)
    finish_figure(figure, title or _name_function(minima, path), notes)
    return figure


def draw_descent_points(
    axes: Axes, points: Floats, *, name: str = "descent"
) -> list[str | None]:
    """Draw a descent's points, getting darker, with arrows from each to the next.

    The first 40 steps have arrows, but for those shorter than an arrow's head.

    Args:
        axes: Axes whose limits are final.
        points: Shape ``(K, 2)``.
        name: What it is called in notes.

    Returns:
        Notes on points that are not finite or lie beyond the axes.
    """
    whole, notes = _cut_at_gap(points, name)
    if not len(whole):
        return notes
    notes.append(mark_hidden(axes, whole[:, 0], whole[:, 1], BLUE, name))
    places = np.column_stack(place_inside(axes, whole[:, 0], whole[:, 1]))
    colors = darkening_colors(len(places))
    _draw_arrows(axes, whole, places, colors)
    axes.scatter(
        places[:, 0],
        places[:, 1],
        c=colors,
        s=20 if len(places) <= _FEW_POINTS else 9,
        edgecolors="white" if len(places) <= _FEW_POINTS else "none",
        linewidths=0.4,
        zorder=4,
        clip_on=False,
    )
    return notes


def draw_losses() -> Figure:
    """Draw the squared, the logistic and the 0/1 loss of one sample over its margin.

    The margin is ``m = y·f(x)`` for the label ``y`` of -1 or 1 and the output ``f(x)``;
    the sample is classified wrongly where m ≤ 0. The losses are ``(1 - m)²``, equal to
    ``(y - f(x))²``; ``ln(1 + e⁻ᵐ)``, in nats; and 1 where m ≤ 0, else 0 (Hastie,
    Tibshirani and Friedman 2009, "The Elements of Statistical Learning", section 10.6).

    Returns:
        The figure.
    """
    margin = np.linspace(-1, 3, 401)
    figure = make_figure(3.5)
    axes = figure.add_subplot()
    prepare_axes(axes)
    axes.axvspan(-1, 0, color="#F1F1F1", zorder=0)
    axes.set(xlim=(-1, 3), ylim=(-0.15, 4.15))
    curves = (
        ("squared", f"(1 {MINUS} m)²", (1 - margin) ** 2),
        ("cross-entropy", "ln(1 + e⁻ᵐ)", np.logaddexp(0, -margin)),
    )
    ends = []
    for index, (name, formula, values) in enumerate(curves):
        style = {**line_style(index), "marker": None}
        axes.plot(margin, values, linewidth=1.8, **style)
        text = f"{name}, {formula}"
        ends.append(LineEnd(3, float(values[-1]), text, style["color"]))
    _draw_jump(axes)
    ends.append(LineEnd(3, 0.0, "0/1", BLACK))
    label_line_ends(axes, ends)
    axes.text(-0.5, 4.0, "wrong", fontsize=TICK_SIZE, color=GREY, ha="center", va="top")
    axes.text(0.5, 4.0, "right", fontsize=TICK_SIZE, color=GREY, ha="center", va="top")
    axes.set_xlabel(f"margin m = y·f(x), for y = {MINUS}1 or 1", fontsize=LABEL_SIZE)
    axes.set_ylabel("loss (cross-entropy in nats)", fontsize=LABEL_SIZE)
    finish_figure(figure, "Three losses of one sample against its margin")
    return figure


def _draw_jump(axes: Axes) -> None:
    """Draw the 0/1 loss: at m = 0 its value is that of the filled circle."""
    style = {"color": BLACK, "linewidth": 1.8, "linestyle": line_style(2)["linestyle"]}
    axes.plot([-1, 0, np.nan, 0, 3], [1, 1, np.nan, 0, 0], **style)
    axes.plot([0], [1], marker="o", color=BLACK, markersize=5)
    axes.plot([0], [0], marker="o", color=BLACK, markersize=5, markerfacecolor="white")


def _draw_path(axes: Axes, path: ArrayLike | None) -> list[str | None]:
    if path is None:
        return []
    points = read_array("path", path, (None, 2))
    notes = draw_descent_points(axes, points)
    whole, _ = _cut_at_gap(points, "")
    if len(whole):
        x, y = place_inside(axes, whole[:1, 0], whole[:1, 1])
        axes.annotate(
            "start",
            (x[0], y[0]),
            xytext=(6, 6),
            textcoords="offset points",
            fontsize=TICK_SIZE,
            color=BLUE,
        )
    return notes


def _cut_at_gap(points: Floats, name: str) -> tuple[Floats, list[str | None]]:
    """Keep the points before the first that is not finite."""
    broken = ~np.isfinite(points).all(axis=1)
    if not broken.any():
        return points, []
    first = int(broken.argmax())
    return points[:first], [f"{name}: not finite from step {first} on"]


def _draw_arrows(
    axes: Axes, points: Floats, places: Floats, colors: Sequence[str]
) -> None:
    fractions = axes.transLimits.transform(axes.transScale.transform(places))
    # Between two points beyond the axes there is nothing to see.
    is_inside = (places == points).all(axis=1)
    is_seen = is_inside[1:] | is_inside[:-1]
    lengths = np.hypot(*np.diff(fractions, axis=0).T)
    for index in np.flatnonzero(is_seen & (lengths >= _SHORT))[:_MOST_ARROWS]:
        axes.annotate(
            "",
            xy=tuple(places[index + 1]),
            xytext=tuple(places[index]),
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-|>",
                "color": colors[index + 1],
                "linewidth": 1.0,
                "mutation_scale": 8,
                "shrinkA": 2,
                "shrinkB": 2.5,
            },
            zorder=3,
        )


def _draw_minima(axes: Axes, minima: Sequence[Minimum]) -> None:
    for minimum in minima:
        axes.plot(
            [minimum.x],
            [minimum.y],
            linestyle="none",
            marker="*" if minimum.is_global else "o",
            markersize=12 if minimum.is_global else 7,
            color=BLACK if minimum.is_global else "white",
            markeredgecolor="white" if minimum.is_global else BLACK,
            markeredgewidth=0.6 if minimum.is_global else 1.2,
            zorder=5,
        )
        place = f"f({format_rounded(minimum.x)}) = {format_rounded(minimum.y)}"
        axes.annotate(
            f"{minimum.name}\n{place}",
            (minimum.x, minimum.y),
            xytext=(0, -9),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=TICK_SIZE,
            zorder=6,
        )


def format_rounded(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits."""
    return format_number(float(f"{value:.{digits}g}"))


def _name_function(minima: Sequence[Minimum], path: ArrayLike | None) -> str:
    title = "A function"
    if minima:
        title += " and its minima" if len(minima) > 1 else " and its minimum"
    if path is not None:
        title += f", with a descent of {len(np.asarray(path)) - 1} steps"
    return title
