"""Learning rates as schedules set them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from handful.errors import ArgumentError, unknown_choice
from handful.report.arrays import read_array
from handful.report.line_labels import LineEnd, label_line_ends
from handful.report.scale import (
    Scale,
    apply_x_scale,
    apply_y_scale,
    choose_scale,
    mark_hidden,
)
from handful.report.style import (
    TICK_SIZE,
    finish_figure,
    label_outer_panels,
    line_style,
    make_figure,
    marker_places,
    prepare_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RateCurve", "draw_schedules"]

Floats = NDArray[np.float64]

_LAYOUTS = ("overlaid", "panels")
_MOST_CURVES = 12


@dataclass(frozen=True)
class RateCurve:
    """The learning rates that one schedule set.

    Attributes:
        name: The schedule, such as ``"cosine"``.
        rates: The rate of each step or epoch, shape ``(S,)``, finite, not below 0.
    """

    name: str
    rates: NDArray[np.floating]


def draw_schedules(
    curves: Sequence[RateCurve],
    *,
    x_label: str = "step",
    layout: Literal["overlaid", "panels"] = "overlaid",
    is_log: bool = False,
    title: str = "",
) -> Figure:
    """Draw the learning rate of one or several schedules.

    A rate holds for its whole step or epoch, which a line in stairs shows where there
    are at most 60. On a logarithmic axis, rates of 0 are triangles at its foot, counted
    in a note.

    Args:
        curves: One to twelve schedules; their first rate stands at 1.
        x_label: What is counted: ``"step"`` or ``"epoch"``.
        layout: ``"overlaid"`` for one panel, ``"panels"`` for one each with the same
            axes.
        is_log: Whether the axis of rates is logarithmic, if any rate is above 0.
        title: What is shown; by default, that.

    Returns:
        The figure.

    Raises:
        ArgumentError: The layout is unknown, a rate is not a finite number from 0 on,
            or the curves are none or too many.
    """
    if layout not in _LAYOUTS:
        raise unknown_choice("layout", layout, _LAYOUTS)
    if not 1 <= len(curves) <= _MOST_CURVES:
        raise ArgumentError(
            f"curves must be 1 to {_MOST_CURVES} schedules; got {len(curves)}. "
            "Draw more of them in several figures."
        )
    rates = [_read_rates(curve) for curve in curves]
    number = len(curves) if layout == "panels" else 1
    columns = min(3, number) if number != 4 else 2
    rows = math.ceil(number / columns)
    figure = make_figure(3.4 if number == 1 else 1.0 + 1.8 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    _prepare(list(panels.flat), rates, x_label, is_log=is_log)
    label_outer_panels(panels, number)
    notes, ends = [], []
    for index, (curve, values) in enumerate(zip(curves, rates, strict=True)):
        axes = panels.flat[index if layout == "panels" else 0]
        notes.append(_draw_curve(axes, curve.name, values, index))
        color = line_style(index)["color"]
        height = float(np.clip(values[-1], *axes.get_ylim()))
        ends.append(LineEnd(float(len(values)), height, curve.name, color))
        if layout == "panels":
            axes.set_title(curve.name, fontsize=TICK_SIZE, loc="left", parse_math=False)
    if layout == "overlaid":
        label_line_ends(panels.flat[0], ends)
    finish_figure(figure, title or f"Learning rate by {x_label}", notes)
    return figure


def _prepare(
    panels: Sequence[Axes], rates: Sequence[Floats], x_label: str, *, is_log: bool
) -> None:
    """Give all panels the same axes."""
    scale = _choose_scale(np.concatenate(rates), is_log=is_log)
    positions = np.array([1.0, max(map(len, rates))])
    for axes in panels:
        prepare_axes(axes)
        apply_y_scale(axes, scale, "learning rate")
        apply_x_scale(axes, positions, x_label)


def _choose_scale(rates: Floats, *, is_log: bool) -> Scale:
    """Choose the axis of rates; a linear one begins at 0."""
    scale = choose_scale(rates, span=1.0 if is_log else np.inf)
    if scale.kind == "log":
        return scale
    return Scale("linear", -0.03 * scale.high, scale.high)


def _draw_curve(axes: Axes, name: str, values: Floats, index: int) -> str | None:
    number = np.arange(1, len(values) + 1, dtype=np.float64)
    style = line_style(index)
    axes.plot(
        number,
        values,
        linewidth=1.5,
        markersize=4,
        markevery=marker_places(len(values), index),
        drawstyle="steps-mid" if len(values) <= 60 else "default",
        zorder=3,
        **style,
    )
    return mark_hidden(axes, number, values, style["color"], name)


def _read_rates(curve: RateCurve) -> Floats:
    rates = read_array(f"rates of {curve.name!r}", curve.rates, (None,))
    if not (np.isfinite(rates) & (rates >= 0)).all():
        wrong = rates[~(np.isfinite(rates) & (rates >= 0))][0]
        raise ArgumentError(
            f"rates of {curve.name!r} must be finite numbers from 0 on; got {wrong}. "
            "A schedule that sets another rate is faulty."
        )
    return rates
