"""What a loader gives with each of several settings, against what the step takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from handful.errors import ArgumentError
from handful.report.arrays import read_array
from handful.report.style import (
    BLUE,
    GREY,
    LABEL_SIZE,
    ORANGE,
    TICK_SIZE,
    finish_figure,
    format_number,
    make_figure,
    prepare_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SettingRate", "draw_loader_profile"]

Floats = NDArray[np.float64]

_ROW_INCHES, _FRAME_INCHES = 0.24, 1.3
_LOG_SPAN = 10.0
_MARGIN = 0.08


@dataclass(frozen=True)
class SettingRate:
    """What a loader gave with some settings, in samples a second.

    Attributes:
        name: The settings, in few words.
        samples_per_second: Over all of the time.
        low: The least rate of a part of the time.
        high: The greatest.
    """

    name: str
    samples_per_second: float
    low: float
    high: float


def draw_loader_profile(
    settings: Sequence[SettingRate],
    *,
    need: float | None = None,
    title: str = "Samples a second by the loader's settings",
) -> Figure:
    """Draw a row for each setting: a point for its rate, a bar for its spread.

    The first setting, the loader as it is, has a hollow point. A dashed line stands
    where the step takes samples as fast: right of it the loader keeps up. The axis is
    logarithmic where the rates span more than one decade.

    Args:
        settings: What was measured, one or more.
        need: Samples a second that the step takes; None without a step.
        title: What is shown.

    Returns:
        The figure.

    Raises:
        ArgumentError: There is no setting, or a rate is not above 0.
    """
    rates = _read_rates(settings)
    known = [rates.ravel(), np.array([] if need is None else [need])]
    figure = make_figure(_FRAME_INCHES + _ROW_INCHES * len(settings))
    axes = figure.subplots()
    prepare_axes(axes)
    axes.grid(False, axis="y")
    _scale(axes, np.concatenate(known))
    rows = np.arange(len(settings))
    axes.hlines(rows, rates[:, 1], rates[:, 2], color=BLUE, alpha=0.35, linewidth=4)
    axes.plot(rates[1:, 0], rows[1:], "o", color=BLUE, markersize=5)
    axes.plot(rates[:1, 0], [0], "o", color=BLUE, markersize=5, markerfacecolor="white")
    axes.set_yticks(rows, [setting.name for setting in settings], parse_math=False)
    axes.set_ylim(len(settings) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    if need is not None:
        _draw_need(axes, need)
    notes = ["bars span the rates of parts of the time"]
    finish_figure(figure, title, notes)
    return figure


def _read_rates(settings: Sequence[SettingRate]) -> Floats:
    if not settings:
        raise ArgumentError("settings must be one or more; got none.")
    table = [(one.samples_per_second, one.low, one.high) for one in settings]
    rates = read_array("rates of settings", table, (None, 3))
    if not (np.isfinite(rates).all() and (rates > 0).all()):
        wrong = rates[~(np.isfinite(rates) & (rates > 0))][0]
        raise ArgumentError(
            f"rates of settings must be finite and above 0; got {wrong}. "
            "Leave out the settings that failed."
        )
    return rates


def _scale(axes: Axes, values: Floats) -> None:
    low, high = float(values.min()), float(values.max())
    label = "samples a second"
    if high > _LOG_SPAN * low:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        margin = (high / low) ** _MARGIN
        axes.set_xlim(low / margin, high * margin)
        label += " (log scale)"
    else:
        axes.set_xlim(0, high * (1 + _MARGIN))
    axes.xaxis.set_major_formatter(FuncFormatter(format_number))
    axes.set_xlabel(label, fontsize=LABEL_SIZE)


def _draw_need(axes: Axes, need: float) -> None:
    axes.axvline(need, color=ORANGE, linewidth=1, linestyle="--", zorder=1.5)
    axes.annotate(
        "the step",
        (need, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=TICK_SIZE,
        color=GREY,
        ha="center",
        va="bottom",
    )
