"""The loss of each of the first batches, a panel per batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from handful.errors import ArgumentError
from handful.report.arrays import read_array
from handful.report.scale import (
    apply_x_scale,
    apply_y_scale,
    choose_scale,
    mark_hidden,
    mark_lost,
)
from handful.report.style import (
    BLUE,
    ORANGE,
    TICK_SIZE,
    finish_figure,
    label_outer_panels,
    make_figure,
    prepare_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_first_batches"]

Floats = NDArray[np.float64]

_COLUMNS = 2
_MOST_PANELS = 12
_DEPTH = 1e-6
"""A logarithmic axis goes down to this part of the greatest loss."""


def draw_first_batches(
    losses_by_size: Mapping[int | str, ArrayLike],
    count: int = 100,
    *,
    y_label: str = "loss",
    title: str = "",
) -> Figure:
    """Draw the losses of the first batches for each batch size.

    All panels have the same axes; the axis of losses is logarithmic over more than two
    decades. Losses below a millionth of the greatest are then triangles at its foot,
    counted in a note. Where a loss is not finite, a cross stands at the last finite
    one before it.

    Args:
        losses_by_size: The loss of every step, shape ``(S,)``, by batch size (a number
            or ``"full"``); one to twelve sizes, drawn in their order.
        count: Number of batches to draw, from 1 on; where fewer were trained on, their
            number stands above the panel.
        y_label: Name of the loss, with its unit.
        title: What is shown; by default, that.

    Returns:
        The figure.

    Raises:
        ArgumentError: A loss is not an array of one dimension, or a number is wrong.
    """
    _check_numbers(losses_by_size, count)
    losses = {
        str(size): read_array(f"losses of batch size {size}", values, (None,))[:count]
        for size, values in losses_by_size.items()
    }
    columns = min(_COLUMNS, len(losses))
    rows = math.ceil(len(losses) / columns)
    figure = make_figure(3.5 if rows == 1 else 0.8 + 1.7 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    shown = np.concatenate(list(losses.values()))
    finite = shown[np.isfinite(shown)]
    scale = choose_scale(shown, floor=_DEPTH * float(np.max(finite, initial=0.0)))
    notes = []
    for axes, (size, values) in zip(panels.flat, losses.items(), strict=False):
        prepare_axes(axes)
        apply_y_scale(axes, scale, y_label)
        apply_x_scale(axes, np.array([0.0, max(map(len, losses.values()))]), "batch")
        notes.append(_draw_panel(axes, size, values))
        axes.set_title(_describe(size, values, count), fontsize=TICK_SIZE, loc="left")
    label_outer_panels(panels, len(losses))
    title = title or f"The first {count} batches: the loss of each, by batch size"
    finish_figure(figure, title, notes)
    return figure


def _draw_panel(axes: Axes, size: str, values: Floats) -> str | None:
    number = np.arange(1, len(values) + 1, dtype=np.float64)
    whole = np.where(np.isfinite(values), values, np.nan)
    axes.plot(
        number,
        whole,
        color=BLUE,
        linewidth=0.8,
        marker=".",
        markersize=3,
        zorder=2,
    )
    note = mark_hidden(axes, number, whole, BLUE, f"batch size {size}")
    lost = np.flatnonzero(np.isnan(whole[1:]) & np.isfinite(whole[:-1]))
    mark_lost(axes, number[lost], whole[lost], ORANGE)
    missing = int(np.count_nonzero(np.isnan(whole)))
    if not missing:
        return note
    told = f"batch size {size}: {missing} of {len(values)} losses are not finite"
    return f"{told} (cross: the last one before)" + (f"; {note}" if note else "")


def _describe(size: str, values: Floats, count: int) -> str:
    text = "full batch" if size == "full" else f"batch size {size}"
    return text if len(values) == count else f"{text} (only {len(values)} batches)"


def _check_numbers(losses_by_size: Mapping[int | str, ArrayLike], count: int) -> None:
    if count < 1:
        raise ArgumentError(
            f"count must be a whole number from 1 on; got {count}. "
            "It is the number of batches to draw."
        )
    if not 1 <= len(losses_by_size) <= _MOST_PANELS:
        raise ArgumentError(
            f"losses_by_size must have 1 to {_MOST_PANELS} batch sizes; got "
            f"{len(losses_by_size)}. Draw more of them in several figures."
        )
