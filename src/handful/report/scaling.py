"""What a larger batch changes: gradient noise, time per sample, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from handful.errors import ArgumentError
from handful.report.arrays import read_array
from handful.report.scale import (
    Scale,
    add_marks,
    apply_x_scale,
    apply_y_scale,
    choose_scale,
    mark_hidden,
)
from handful.report.style import (
    GREY,
    TICK_SIZE,
    add_legend,
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
_LOG_SPAN, _LOG_SPAN_OF_MEMORY = 10.0, 100.0
_NEAR = 3.0  # trials by so much above or below the median may lie beyond the axes
_CLEARLY_BELOW = 0.8


@dataclass(frozen=True)
class BatchScaling:
    """Measurements at several batch sizes; None for what was not measured.

    Each but the sizes has a value a size, shape ``(B,)``, or one for each of T trials,
    shape ``(B, T)``; NaN where unknown.

    Attributes:
        batch_sizes: In samples, shape ``(B,)``, increasing, from 1 on.
        gradient_noise: Standard deviation of a batch's gradient over the norm of the
            mean gradient; 0 for a batch of all samples.
        seconds_per_sample: Training time over samples seen.
        peak_bytes: Most memory taken beyond that before training.
    """

    batch_sizes: NDArray[np.number]
    gradient_noise: NDArray[np.floating] | None = None
    seconds_per_sample: NDArray[np.floating] | None = None
    peak_bytes: NDArray[np.number] | None = None


@dataclass(frozen=True)
class _Line:
    """Values of one setting: shape ``(B,)`` of sizes, ``(B, T)`` of trials."""

    name: str
    sizes: Floats
    trials: Floats

    @property
    def middle(self) -> Floats:
        """The median over the trials where it is known, shape ``(B,)``."""
        known = np.isfinite(self.trials).any(axis=1)
        found = np.full(len(self.trials), np.nan)
        found[known] = np.nanmedian(self.trials[known], axis=1)
        return found

    @property
    def near(self) -> Floats:
        """The trials that are not far from their median, in one row."""
        middle = self.middle[:, None]
        near = (self.trials <= _NEAR * middle) & (self.trials * _NEAR >= middle)
        found: Floats = self.trials[near]
        return found


@dataclass(frozen=True)
class _Panel:
    label: str
    lines: list[_Line]
    log_span: float = _LOG_SPAN
    has_reference: bool = False

    @property
    def name(self) -> str:
        """The label without its unit, in one line."""
        return self.label.replace("\n", " ").partition(" (")[0]


def draw_scaling(
    scaling: BatchScaling | Mapping[str, BatchScaling], *, title: str = ""
) -> Figure:
    """Draw what was measured against the batch size, a panel each, one above another.

    A line goes through the medians, and short strokes show the single trials. The axis
    of batch sizes is logarithmic, as is that of values over more than one decade, of
    memory more than two; a 0 has no place there and is a triangle at the lower edge.

    Beside the gradient's noise a dashed line falls as 1/√batch size from the first
    point: the standard error of a mean over independent samples (McCandlish, Kaplan and
    Amodei 2018, "An Empirical Model of Large-Batch Training", section 2.2).

    Args:
        scaling: The measurements, or those of several settings by their names.
        title: What is shown; by default, that.

    Returns:
        The figure.

    Raises:
        ArgumentError: An array has another shape, batch sizes do not increase from 1
            on, a value is infinite or below 0, or nothing was measured.
    """
    named = scaling if isinstance(scaling, Mapping) else {"": scaling}
    panels = _read_panels(named)
    sizes = np.unique(np.concatenate([_read_sizes(one) for one in named.values()]))
    figure = make_figure(0.9 + 1.75 * len(panels))
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
    notes: list[str] = []
    for axes, panel in zip(rows.flat, panels, strict=True):
        prepare_axes(axes)
        notes += _draw_panel(axes, panel)
        _set_sizes(axes, sizes)
        axes.label_outer()
    if len(named) > 1:
        handles = rows[0, 0].get_lines()[-len(named) :]
        add_legend(rows[0, 0], handles, list(named), loc="best")
    if any(line.trials.shape[1] > 1 for panel in panels for line in panel.lines):
        notes.insert(0, "lines join medians, strokes are single trials")
    finish_figure(figure, title or _name(panels), notes)
    return figure


def _draw_panel(axes: Axes, panel: _Panel) -> list[str]:
    """Draw a measurement; return notes on values that have no point."""
    shown = [values for line in panel.lines for values in (line.middle, line.near)]
    reference = _reference(panel)
    if reference is not None:
        shown.append(reference[1])
    scale = choose_scale(np.concatenate(shown), span=panel.log_span)
    if scale.kind == "linear" and scale.high > 0:
        scale = Scale("linear", min(-0.03 * scale.high, scale.low), scale.high)
    apply_y_scale(axes, scale, panel.label)
    if reference is not None:
        _draw_reference(axes, *reference)
    beyond = [
        _draw_trials(axes, line, index, panel.name)
        for index, line in enumerate(panel.lines)
    ]
    # The lines last, and in their order: the legend takes them from there.
    for index, line in enumerate(panel.lines):
        _draw_line(axes, line, index, scale)
    return [*_describe_gaps(panel, scale), *(note for note in beyond if note)]


def _draw_line(axes: Axes, line: _Line, index: int, scale: Scale) -> None:
    style = {**line_style(index), "linestyle": "-"}
    values = line.middle
    known = np.isfinite(values)
    if scale.kind == "log":
        zero = known & (values == 0)
        known &= ~zero
        edge = np.full(int(zero.sum()), scale.low)
        add_marks(axes, line.sizes[zero], edge, "v", 7, style["color"])
        for size in line.sizes[zero]:
            _annotate(axes, "0", float(size), scale.low, style["color"], above=True)
    # A gap between two sizes is bridged: it stands for a size that was not measured.
    axes.plot(
        line.sizes[known],
        values[known],
        linewidth=1.5,
        markersize=5,
        zorder=3,
        clip_on=False,
        **style,
    )


def _draw_trials(axes: Axes, line: _Line, index: int, what: str) -> str | None:
    """Draw short strokes, or triangles where a trial is far off; return a note."""
    if line.trials.shape[1] == 1:
        return None
    color = line_style(index)["color"]
    x = np.broadcast_to(line.sizes[:, None], line.trials.shape)
    low, high = axes.get_ylim()
    inside = (line.trials >= low) & (line.trials <= high)
    axes.plot(
        x[inside],
        line.trials[inside],
        linestyle="none",
        marker="_",
        markersize=9,
        color=color,
        alpha=0.45,
        zorder=2.5,
    )
    # Where the median is 0 a triangle stands there already.
    others = (line.middle != 0)[:, None] & ~inside
    far = np.where(others, line.trials, np.nan)
    name = f"{what} of {line.name}" if line.name else what
    return mark_hidden(axes, x.ravel(), far.ravel(), color, name)


def _reference(panel: _Panel) -> tuple[Floats, Floats] | None:
    """Return sizes and values that fall as 1/√size from the first known point."""
    first = panel.lines[0]
    known = np.flatnonzero(first.middle > 0)
    if not panel.has_reference or not len(known):
        return None
    start = known[0]
    return first.sizes, first.middle[start] * np.sqrt(first.sizes[start] / first.sizes)


def _draw_reference(axes: Axes, sizes: Floats, values: Floats) -> None:
    axes.plot(sizes, values, color=GREY, linewidth=1, linestyle="--", zorder=2)
    _annotate(axes, "∝ 1/√batch size", float(sizes[-1]), float(values[-1]), GREY)


def _annotate(
    axes: Axes, text: str, x: float, y: float, color: str, *, above: bool = False
) -> None:
    """Write to the right of a point, or above it."""
    axes.annotate(
        text,
        (x, y),
        xytext=(0, 9) if above else (6, 0),
        textcoords="offset points",
        fontsize=TICK_SIZE,
        color=color,
        ha="center" if above else "left",
        va="center",
        annotation_clip=False,
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


def _read_panels(named: Mapping[str, BatchScaling]) -> list[_Panel]:
    noise = _read_lines(named, "gradient_noise")
    panels = (
        [_Panel("gradient noise\n(sd / norm)", noise, has_reference=True)]
        if noise
        else []
    )
    for name, label, units, span in (
        ("seconds_per_sample", "time per\nsample ", _TIMES, _LOG_SPAN),
        ("peak_bytes", "peak memory\n", _SIZES, _LOG_SPAN_OF_MEMORY),
    ):
        lines = _read_lines(named, name)
        if lines:
            factor, unit = _choose_unit([line.trials for line in lines], units)
            scaled = [
                _Line(line.name, line.sizes, line.trials / factor) for line in lines
            ]
            panels.append(_Panel(f"{label}({unit})", scaled, log_span=span))
    if not panels:
        raise ArgumentError(
            "scaling must have at least one measurement; got none. "
            "Give gradient_noise, seconds_per_sample or peak_bytes."
        )
    return panels


def _read_lines(named: Mapping[str, BatchScaling], name: str) -> list[_Line]:
    """Return what was measured under a name, in the order of the settings."""
    lines = []
    for setting, scaling in named.items():
        sizes, values = _read_sizes(scaling), getattr(scaling, name)
        if values is not None:
            lines.append(_Line(setting, sizes, _read(name, values, len(sizes))))
    return lines


def _read(name: str, values: NDArray[np.number], number: int) -> Floats:
    is_single = np.ndim(values) < 2
    array = read_array(name, values, (number,) if is_single else (number, None))
    if np.isinf(array).any() or (array < 0).any():
        raise ArgumentError(
            f"{name} must be finite, or NaN where unknown, and not below 0; got "
            f"{array[np.isinf(array) | (array < 0)][0]}. "
            "Leave out the batch sizes at which training diverged."
        )
    return array.reshape(number, -1)


def _choose_unit(
    values: Sequence[Floats], units: Sequence[tuple[float, str]]
) -> tuple[float, str]:
    """Choose the greatest unit of which the median value has at least one."""
    every = np.concatenate([array.ravel() for array in values])
    known = every[np.isfinite(every)]
    middle = float(np.median(known)) if len(known) else 0.0
    return next((unit for unit in units if middle >= unit[0]), units[-1])


def _describe_gaps(panel: _Panel, scale: Scale) -> list[str]:
    """Return notes on unknown values, and on a 0 on a logarithmic axis."""
    middles = np.concatenate([line.middle for line in panel.lines])
    notes = []
    missing = int(np.isnan(middles).sum())
    if missing:
        sizes = "batch size" if missing == 1 else "batch sizes"
        label = panel.label.replace("\n", " ")
        notes.append(f"{label} is unknown at {missing} {sizes}")
    if scale.kind == "log" and (middles == 0).any():
        notes.append(f"{panel.name} is 0 at the triangle")
    reference = _reference(panel)
    if reference is not None and _falls_below(panel.lines[0].middle, reference[1]):
        notes.append(
            "the dashed line is for batches that are a small part of all samples"
        )
    return notes


def _falls_below(values: Floats, reference: Floats) -> bool:
    return bool((values < _CLEARLY_BELOW * reference).any())


def _name(panels: Sequence[_Panel]) -> str:
    names = [panel.name for panel in panels]
    listed = ", ".join(names[:-1]) + " and " + names[-1] if names[1:] else names[0]
    return begin_sentence(f"{listed} against the batch size")
