"""Several settings over several seeds: a line and a band for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.figure import Figure

from handful.errors import ArgumentError
from handful.report.line_labels import LineEnd, label_line_ends
from handful.report.scale import (
    Scale,
    apply_x_scale,
    apply_y_scale,
    choose_scale,
    mark_hidden,
    mark_lost,
    place_inside,
)
from handful.report.seed_bands import SPREADS, Band, SeedCurves, make_bands
from handful.report.style import (
    TICK_SIZE,
    WIDTH,
    add_legend,
    begin_sentence,
    finish_figure,
    line_style,
    make_figure,
    marker_places,
    prepare_axes,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["AXES", "SeedCurves", "draw_bands", "draw_four_axes"]

AXES: Mapping[str, str] = {
    "epoch": "epoch",
    "step": "steps",
    "samples": "samples seen",
    "seconds": "training time (s)",
}
"""What a training's progress is measured in, and the label of that axis."""

_ABOVE_START = 1000.0
_WIDE_ENDS = 20.0
_NAMES_A_ROW = 4


def draw_bands(
    series: Sequence[SeedCurves],
    *,
    x_label: str,
    y_label: str,
    centre: Literal["median", "mean"] = "median",
    spread: Literal["quartiles", "range"] = "quartiles",
    title: str = "",
) -> Figure:
    """Draw each setting's centre over the seeds as a line and their spread as a band.

    At each position, the seeds that have a finite value there count. Where a seed
    diverged, a cross stands at its last finite value and a note counts it. The axis of
    values is logarithmic over more than two decades; values of 0 are then triangles at
    its foot, and values beyond 1000 times the highest start are triangles at its top:
    notes count both.

    Args:
        series: One to twelve settings.
        x_label: Name of the position, with its unit.
        y_label: Name of the value, with its unit.
        centre: The line: ``"median"`` or ``"mean"``.
        spread: The band: ``"quartiles"``, from the first to the third, or ``"range"``,
            from the least to the greatest.
        title: What is shown; by default, that.

    Returns:
        The figure.

    Raises:
        ArgumentError: A choice is unknown, an array has another shape, or the series
            are none or too many.
    """
    bands = make_bands(series, centre=centre, spread=spread)
    figure = make_figure(3.8)
    axes = figure.add_subplot()
    scale = _choose_scale(bands)
    apply_y_scale(axes, scale, y_label)
    notes = _draw_panel(axes, bands, x_label)
    label_line_ends(axes, _find_ends(axes, bands))
    notes.insert(0, _explain(bands, centre, spread))
    finish_figure(
        figure, title or begin_sentence(f"{y_label} against {x_label}"), notes
    )
    return figure


def draw_four_axes(
    series: Mapping[str, Sequence[SeedCurves]],
    *,
    y_label: str = "validation loss",
    centre: Literal["median", "mean"] = "median",
    spread: Literal["quartiles", "range"] = "quartiles",
    title: str = "",
) -> Figure:
    """Draw the same values against epochs, steps, samples and seconds.

    Drawn as by `draw_bands`, four panels with one axis of values. An axis of positions
    is logarithmic where one setting's end lies more than 20 times as far as another's.

    Args:
        series: The settings by axis: ``"epoch"``, ``"step"``, ``"samples"`` and
            ``"seconds"``; the settings' names are the same in each.
        y_label: Name of the value, with its unit.
        centre: See `draw_bands`.
        spread: See `draw_bands`.
        title: What is shown; by default, that.

    Returns:
        The figure.

    Raises:
        ArgumentError: An axis is missing or unknown, the names differ, or as for
            `draw_bands`.
    """
    _check_axes(series)
    by_axis = {
        name: make_bands(series[name], centre=centre, spread=spread) for name in AXES
    }
    scale = _choose_scale([band for bands in by_axis.values() for band in bands])
    legend_rows = math.ceil(
        len(by_axis["epoch"]) / _names_a_row([band.name for band in by_axis["epoch"]])
    )
    figure = make_figure(5.6 + 0.2 * legend_rows)
    grid = figure.add_gridspec(3, 2, height_ratios=(0.16 * legend_rows, 1, 1))
    found: dict[str, list[str | None]] = {}
    for place, (name, bands) in enumerate(by_axis.items()):
        axes = figure.add_subplot(grid[1 + place // 2, place % 2])
        apply_y_scale(axes, scale, y_label)
        found[name] = _draw_panel(axes, bands, AXES[name])
        if place % 2:
            axes.tick_params(labelleft=False)
            axes.set_ylabel("")
    notes = [_explain(by_axis["epoch"], centre, spread), *_merge_notes(found)]
    _draw_legend(figure.add_subplot(grid[0, :]), by_axis["epoch"])
    title = title or begin_sentence(
        f"{y_label} against epochs, steps, samples and time"
    )
    finish_figure(figure, title, notes)
    return figure


def _draw_panel(axes: Axes, bands: Sequence[Band], x_label: str) -> list[str | None]:
    """Draw bands on axes whose vertical scale is set; return notes."""
    prepare_axes(axes)
    last = [band.end[0] for band in bands if band.end] or [1.0]
    is_log = min(last) > 0 and max(last) > _WIDE_ENDS * min(last)
    positions = np.concatenate([band.x for band in bands])
    apply_x_scale(axes, positions, x_label, is_log=is_log)
    notes = []
    for index, band in enumerate(bands):
        _draw_band(axes, band, index)
        notes.append(_mark_hidden(axes, band, index))
    for index, band in enumerate(bands):
        color = line_style(index)["color"]
        mark_lost(axes, band.crosses[:, 0], band.crosses[:, 1], color)
    return notes


def _draw_band(axes: Axes, band: Band, index: int) -> None:
    style = line_style(index)
    axes.fill_between(
        band.x, band.low, band.high, color=style["color"], alpha=0.18, linewidth=0
    )
    axes.plot(
        band.x,
        band.centre,
        linewidth=1.5,
        markersize=4,
        markevery=marker_places(len(band.x), index),
        zorder=3,
        **style,
    )


def _mark_hidden(axes: Axes, band: Band, index: int) -> str | None:
    """Mark where the line or the band leaves the axes, once an edge and position."""
    low, high = axes.get_ylim()
    above = np.fmax(band.centre, band.high)
    below = np.fmin(band.centre, band.low)
    above, below = (
        np.where(above > high, above, np.nan),
        np.where(below < low, below, np.nan),
    )
    return mark_hidden(
        axes,
        np.concatenate([band.x, band.x]),
        np.concatenate([above, below]),
        line_style(index)["color"],
        band.name,
    )


def _find_ends(axes: Axes, bands: Sequence[Band]) -> list[LineEnd]:
    ends = []
    for index, band in enumerate(bands):
        end = band.end or (axes.get_xlim()[1], np.nan)
        text = band.name if band.end else f"{band.name} (no value)"
        x, y = place_inside(axes, np.array([end[0]]), np.array([end[1]]))
        height = float(np.nan_to_num(y[0], nan=axes.get_ylim()[1]))
        color = line_style(index)["color"]
        ends.append(LineEnd(float(x[0]), height, text, color))
    return ends


def _choose_scale(bands: Sequence[Band]) -> Scale:
    """Choose the axis of values; values far above the highest start may leave it."""
    starts = [band.centre[np.isfinite(band.centre)][:1] for band in bands]
    ceiling = _ABOVE_START * float(np.max(np.concatenate(starts), initial=0.0))
    parts = [(b.centre, b.low, b.high, b.crosses[:, 1]) for b in bands]
    return choose_scale(
        np.concatenate([np.concatenate(p) for p in parts]), ceiling=ceiling
    )


def _explain(bands: Sequence[Band], centre: str, spread: str) -> str:
    """Say what lines and bands are, and which seeds diverged."""
    numbers = sorted({band.num_seeds for band in bands})
    if numbers == [1]:
        text = "one seed each"
    else:
        seeds = " to ".join(str(number) for number in {numbers[0], numbers[-1]})
        text = f"lines: {centre} of {seeds} seeds; bands: {SPREADS[spread]}"
    lost = [band for band in bands if band.num_diverged]
    for band in lost:
        text += f"; {band.name}: {band.num_diverged} of {band.num_seeds} diverged"
    text += " (crosses: their last values, at the edge if beyond)" if lost else ""
    for band in bands:
        if band.num_missing:
            text += f"; {band.name}: {band.num_missing} seeds have no value"
    return text


def _merge_notes(found: Mapping[str, Sequence[str | None]]) -> list[str]:
    """Say once what holds for all axes, and name the axes of the rest."""
    places: dict[str, list[str]] = {}
    for name, notes in found.items():
        for note in filter(None, notes):
            places.setdefault(note, []).append(name)
    return [
        note if len(names) == len(found) else f"against {', '.join(names)}, {note}"
        for note, names in places.items()
    ]


def _draw_legend(axes: Axes, bands: Sequence[Band]) -> None:
    axes.set_axis_off()
    handles: list[Artist] = [
        axes.plot([], [], linewidth=1.5, markersize=4, **line_style(index))[0]
        for index in range(len(bands))
    ]
    names = [band.name for band in bands]
    ncols = min(len(names), _names_a_row(names))
    legend = add_legend(axes, handles, names, loc="center", ncols=ncols)
    # Its row is high enough; the layout would move the panels for the text's margins.
    legend.set_in_layout(False)


def _names_a_row(names: Sequence[str]) -> int:
    """Return how many names of a legend the figure's width has room for."""
    # In points: a letter is about 0.6 of the font's size wide, line and gaps are 40.
    longest = 40 + 0.6 * TICK_SIZE * max(map(len, names))
    return max(1, min(_NAMES_A_ROW, int(72 * WIDTH / longest)))


def _check_axes(series: Mapping[str, Sequence[SeedCurves]]) -> None:
    if set(series) != set(AXES):
        raise ArgumentError(
            f"series must have the axes {', '.join(AXES)}; got "
            f"{', '.join(map(str, series)) or 'none'}. Give the same values for each."
        )
    names = [[one.name for one in series[axis]] for axis in AXES]
    for axis, found in zip(AXES, names, strict=True):
        if found != names[0]:
            raise ArgumentError(
                f"series of axis {axis!r} must be {names[0]}, as for 'epoch'; got "
                f"{found}. Give the same settings in the same order for each axis."
            )
