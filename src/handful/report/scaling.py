"""What a larger batch changes: gradient noise, time per sample, memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from handful.errors import ArgumentError
from handful.report.arrays import read_array
from handful.report.scale import Scale, apply_x_scale, apply_y_scale, choose_scale
from handful.report.style import (
    GREY,
    TICK_SIZE,
    begin_sentence,
    finish_figure,
    line_style,
    make_figure,
    prepare_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BatchScaling", "draw_scaling"]

Floats = NDArray[np.float64]

_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_SIZES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_MOST_TICKS = 10
_LOG_SPAN = 10.0


@dataclass(frozen=True)
class BatchScaling:
    """Measurements at several batch sizes; None for what was not measured.

    Attributes:
        batch_sizes: In samples, shape ``(B,)``, increasing, from 1 on.
        gradient_noise: Standard deviation of a batch's gradient over the norm of the
            mean gradient, shape ``(B,)``; NaN where unknown, as in all others.
        seconds_per_sample: Training time over samples seen, shape ``(B,)``.
        peak_bytes: Most memory taken beyond that before training, shape ``(B,)``.
    """

    batch_sizes: NDArray[np.number]
    gradient_noise: NDArray[np.floating] | None = None
    seconds_per_sample: NDArray[np.floating] | None = None
    peak_bytes: NDArray[np.number] | None = None


@dataclass(frozen=True)
class _Panel:
    label: str
    values: Floats
    has_reference: bool = False


def draw_scaling(scaling: BatchScaling, *, title: str = "") -> Figure:
    """Draw what was measured against the batch size, a panel each, one above another.

    The axis of batch sizes is logarithmic, as is that of values over more than one
    decade. Beside the gradient's noise a dashed line falls as 1/√batch size from the
    first point: the standard error of a mean over independent samples (McCandlish,
    Kaplan and Amodei 2018, "An Empirical Model of Large-Batch Training", section 2.2).

    Args:
        scaling: The measurements.
        title: What is shown; by default, that.

    Returns:
        The figure.

    Raises:
        ArgumentError: An array has another shape, batch sizes do not increase from 1
            on, a value is infinite, or nothing was measured.
    """
    sizes = _read_sizes(scaling)
    panels = _read_panels(scaling, len(sizes))
    figure = make_figure(0.9 + 1.75 * len(panels))
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    for index, (axes, panel) in enumerate(zip(rows.flat, panels, strict=True)):
        prepare_axes(axes)
        _draw_panel(axes, sizes, panel, index)
        _set_sizes(axes, sizes)
        axes.label_outer()
    missing = [_count_missing(panel) for panel in panels]
    finish_figure(figure, title or _name(panels), missing)
    return figure


def _draw_panel(axes: Axes, sizes: Floats, panel: _Panel, index: int) -> None:
    known = np.isfinite(panel.values)
    values = [panel.values]
    if panel.has_reference and known.any():
        first = int(known.argmax())
        reference = panel.values[first] * np.sqrt(sizes[first] / sizes)
        axes.plot(sizes, reference, color=GREY, linewidth=1, linestyle="--", zorder=2)
        axes.annotate(
            "∝ 1/√batch size",
            (sizes[-1], reference[-1]),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=TICK_SIZE,
            color=GREY,
            va="center",
            annotation_clip=False,
        )
        values.append(reference)
    scale = choose_scale(np.concatenate(values), span=_LOG_SPAN)
    if scale.kind == "linear" and scale.high > 0:
        scale = Scale("linear", min(-0.03 * scale.high, scale.low), scale.high)
    apply_y_scale(axes, scale, panel.label)
    style = {**line_style(index), "linestyle": "-"}
    # A gap between two sizes is bridged: it stands for a size that was not measured.
    axes.plot(
        sizes[known],
        panel.values[known],
        linewidth=1.5,
        markersize=5,
        zorder=3,
        clip_on=False,
        **style,
    )


def _set_sizes(axes: Axes, sizes: Floats) -> None:
    apply_x_scale(axes, sizes, "batch size (samples)", is_log=len(sizes) > 1)
    if len(sizes) <= _MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator([float(size) for size in sizes]))
        axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_xlim()
    if len(sizes) > 1:
        factor = (high / low) ** 0.03
        axes.set_xlim(low / factor, high * factor)


def _read_sizes(scaling: BatchScaling) -> Floats:
    sizes = read_array("batch_sizes", scaling.batch_sizes, (None,))
    if not (np.isfinite(sizes).all() and sizes[0] >= 1 and (np.diff(sizes) > 0).all()):
        raise ArgumentError(
            "batch_sizes must increase, from 1 on; got "
            f"{[float(size) for size in sizes]}. Sort them and what was measured."
        )
    return sizes


def _read_panels(scaling: BatchScaling, number: int) -> list[_Panel]:
    panels = []
    if scaling.gradient_noise is not None:
        values = _read("gradient_noise", scaling.gradient_noise, number)
        panels.append(_Panel("gradient noise\n(sd / norm)", values, True))
    if scaling.seconds_per_sample is not None:
        values = _read("seconds_per_sample", scaling.seconds_per_sample, number)
        factor, unit = _choose_unit(values, _TIMES)
        panels.append(_Panel(f"time per\nsample ({unit})", values / factor))
    if scaling.peak_bytes is not None:
        values = _read("peak_bytes", scaling.peak_bytes, number)
        factor, unit = _choose_unit(values, _SIZES)
        panels.append(_Panel(f"peak memory\n({unit})", values / factor))
    if not panels:
        raise ArgumentError(
            "scaling must have at least one measurement; got none. "
            "Give gradient_noise, seconds_per_sample or peak_bytes."
        )
    return panels


def _read(name: str, values: NDArray[np.number], number: int) -> Floats:
    array = read_array(name, values, (number,))
    if np.isinf(array).any():
        raise ArgumentError(
            f"{name} must be finite, or NaN where unknown; got an infinite value. "
            "Leave out the batch sizes at which training diverged."
        )
    return array


def _choose_unit(
    values: Floats, units: Sequence[tuple[float, str]]
) -> tuple[float, str]:
    """Choose the greatest unit of which the median value has at least one."""
    known = values[np.isfinite(values)]
    middle = float(np.median(known)) if len(known) else 0.0
    return next((unit for unit in units if middle >= unit[0]), units[-1])


def _count_missing(panel: _Panel) -> str | None:
    missing = int(np.count_nonzero(np.isnan(panel.values)))
    label = panel.label.replace("\n", " ")
    sizes = "batch size" if missing == 1 else "batch sizes"
    return f"{label} is unknown at {missing} {sizes}" if missing else None


def _name(panels: Sequence[_Panel]) -> str:
    names = [panel.label.replace("\n", " ").partition(" (")[0] for panel in panels]
    listed = ", ".join(names[:-1]) + " and " + names[-1] if names[1:] else names[0]
    return begin_sentence(f"{listed} against the batch size")
