"""The curves of a run: loss, metrics and learning rate.

Everything is drawn with matplotlib's objects, never with pyplot, so that nothing
global changes and no display is needed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from handful.errors import RunError, unknown_choice
from handful.report.saving import save_figure
from handful.report.thinning import thin_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from handful.runs.run import Run

__all__ = ["FORMATS", "draw_curves"]

FORMATS = ("pdf", "png", "svg")
"""Formats of a figure's file."""

# Okabe and Ito (2008), "Color Universal Design".
_BLUE, _ORANGE, _GREEN, _BLACK = "#0072B2", "#D55E00", "#009E73", "#000000"
_GREY = "#B5B5B5"
_TRAIN: dict[str, Any] = {"color": _BLUE, "linestyle": "-", "marker": "o"}
_VALID: dict[str, Any] = {"color": _ORANGE, "linestyle": "--", "marker": "s"}
_OTHER: dict[str, Any] = {"color": _GREEN, "linestyle": "-.", "marker": "^"}

_COLUMNS = 800
"""Pixel columns of a panel, about: more points than that need no drawing."""

_LOG_SPAN = 100.0
_BOOKKEEPING = ("epoch", "step", "samples", "lr", "seconds")
_MARKS = ("partial", "skipped_steps")


def draw_curves(
    run: Run, path: str | Path, *, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Draw a run's curves into one file per format.

    The loss of every step is a faint line behind the losses of the epochs; an epoch's
    values stand at its end. An axis is logarithmic only where the values span more
    than two decades, and says so. Values that are not finite leave gaps, which a note
    counts. Of many steps the least and the greatest per pixel column are drawn.

    Args:
        run: The run.
        path: The file; its suffix, if it is one of `FORMATS`, is replaced by each
            format's. The folder exists.
        formats: Some of ``"png"``, ``"svg"``, ``"pdf"``.

    Returns:
        The files, in the order of ``formats``. Each is written whole or not at all.

    Raises:
        ArgumentError: A format is unknown.
        RunError: The run has neither an epoch nor a step.
        OSError: A file cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise unknown_choice("formats", name, FORMATS)
    if not run.history and not len(run.steps):
        raise RunError("run must have an epoch or a step to draw; it has neither.")
    return save_figure(_draw(run), path, formats=formats)


@dataclass(frozen=True)
class _Series:
    """A run's numbers by name, one an epoch (NaN where there is none)."""

    epochs: NDArray[np.float64]
    columns: Mapping[str, NDArray[np.float64]]

    @property
    def metrics(self) -> dict[str, list[str]]:
        """Names of columns by what they measure: ``accuracy``, ``mae`` and so on."""
        found: dict[str, list[str]] = {}
        for name in self.columns:
            if name not in _BOOKKEEPING + _MARKS:
                found.setdefault(_quantity(name), []).append(name)
        found.pop("loss", None)
        return found


def _draw(run: Run) -> Figure:
    run = _placed_in_epochs(run)
    series = _read_series(run.history)
    position = _step_positions(run)
    metrics = list(series.metrics)
    rate = np.asarray(run.steps["lr"], np.float64)
    has_rate = len(np.unique(_finite(rate))) > 1
    figure = Figure(
        figsize=(
            8.0 if metrics else 5.6,
            max(3.7, 1.8 * len(metrics) + 0.8 * has_rate),
        ),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    loss, panels, rate_panel = _lay_out(figure, metrics, has_rate)
    notes = _draw_loss(loss, run, series, position)
    for quantity, panel in panels.items():
        notes += _draw_metric(panel, run, series, quantity)
    if rate_panel is not None:
        _draw_rate(rate_panel, position, rate)
    _finish(figure, run, series, position, notes)
    return figure


def _lay_out(
    figure: Figure, metrics: Sequence[str], has_rate: bool
) -> tuple[Axes, dict[str, Axes], Axes | None]:
    """Make the panels: loss on the left, metrics on the right, the rate at the foot."""
    grid = figure.add_gridspec(1, 2 if metrics else 1)
    ratios = [3.0] * max(1, len(metrics)) + [1.0] * has_rate
    if not metrics:
        column = grid[0].subgridspec(len(ratios), 1, height_ratios=ratios)
        loss = figure.add_subplot(column[0])
        panels: dict[str, Axes] = {}
    else:
        loss = figure.add_subplot(grid[0])
        column = grid[1].subgridspec(len(ratios), 1, height_ratios=ratios)
        panels = {
            name: figure.add_subplot(column[row], sharex=loss)
            for row, name in enumerate(metrics)
        }
    rate = figure.add_subplot(column[-1], sharex=loss) if has_rate else None
    for axes in (loss, *panels.values(), rate):
        if axes is not None:
            axes.grid(True, color="#DDDDDD", linewidth=0.5)
            axes.set_axisbelow(True)
            axes.tick_params(labelsize=9)
            axes.spines[["top", "right"]].set_visible(False)
    above = [*panels.values()] if panels else [loss]
    for axes in above if rate is not None else above[:-1]:
        axes.tick_params(labelbottom=False)
    return loss, panels, rate


def _draw_loss(
    axes: Axes, run: Run, series: _Series, position: NDArray[np.float64]
) -> list[str]:
    steps = np.asarray(run.steps["loss"], np.float64)
    names = [name for name in series.columns if _quantity(name) == "loss"]
    means = [series.columns[name] for name in names]
    notes = _note_gaps("step", "loss", steps)
    if len(steps):
        x, y = thin_line(position, steps, _COLUMNS)
        style: dict[str, Any] = {"color": _GREY, "linewidth": 0.6}
        if len(steps) == 1:
            style["marker"] = "."
        axes.plot(x, y, label="each step", zorder=1, **style)
    for name, values in zip(names, means, strict=True):
        notes += _note_gaps("epoch", name, values)
        _draw_epochs(axes, series.epochs, values, name)
    notes += _set_scale(axes, "loss", steps, means)
    _mark_best(axes, run)
    axes.legend(fontsize=9, frameon=False)
    return notes


def _draw_metric(axes: Axes, run: Run, series: _Series, quantity: str) -> list[str]:
    names = series.metrics[quantity]
    means = [series.columns[name] for name in names]
    notes = []
    for name, values in zip(names, means, strict=True):
        notes += _note_gaps("epoch", name, values)
        _draw_epochs(axes, series.epochs, values, name)
    # One line needs no legend.
    notes += _set_scale(axes, quantity if len(names) > 1 else names[0], None, means)
    if len(names) > 1:
        axes.legend(fontsize=9, frameon=False)
    if run.best is not None and len(run.history) > 1:
        axes.axvline(run.best["epoch"], color=_BLACK, linewidth=1, linestyle=":")
    return notes


def _draw_rate(
    axes: Axes, position: NDArray[np.float64], rate: NDArray[np.float64]
) -> None:
    x, y = thin_line(position, rate, _COLUMNS)
    axes.plot(x, y, color=_BLACK, linewidth=1.0, drawstyle="steps-pre")
    known = _finite(rate)
    greatest = known.max()
    is_log = known.min() > 0 and greatest > _LOG_SPAN * known.min()
    if is_log:
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, greatest * 1.1)
        axes.set_yticks([0, greatest])
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.set_ylabel("lr (log)" if is_log else "lr", fontsize=10)


def _draw_epochs(
    axes: Axes, epochs: NDArray[np.float64], values: NDArray[np.float64], name: str
) -> None:
    style = {"train": _TRAIN, "valid": _VALID}.get(name.partition("_")[0], _OTHER)
    axes.plot(
        epochs,
        values,
        label=name,
        linewidth=1.6,
        markersize=4,
        # A marker every so often, so that they never run into a band.
        markevery=max(1, math.ceil(len(epochs) / 25)),
        zorder=3,
        **style,
    )


def _set_scale(
    axes: Axes,
    label: str,
    steps: NDArray[np.float64] | None,
    means: Sequence[NDArray[np.float64]],
) -> list[str]:
    """Choose a linear or a logarithmic axis, and say which values lie below it."""
    axes.set_ylabel(label, fontsize=10)
    faint = np.empty(0) if steps is None else steps
    shown = _finite(np.concatenate([faint, *means]))
    floor = _finite(np.concatenate(means)) if means else _finite(faint)
    if not len(floor) or floor.min() <= 0 or shown.max() <= _LOG_SPAN * floor.min():
        return []
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(_plain))
    axes.set_ylabel(f"{label} (log scale)", fontsize=10)
    # A lucky batch can have a loss near 0, which would stretch the axis without end.
    bottom = max(floor.min() / 10, shown[shown > 0].min())
    below = int(np.count_nonzero(shown < bottom))
    axes.set_ylim(bottom=bottom * 0.8)
    return [f"{label} lies below the axis at {below} steps"] if below else []


def _mark_best(axes: Axes, run: Run) -> None:
    best = run.best
    if best is None or len(run.history) < 2:
        return
    name = run.monitor
    axes.plot(
        [best["epoch"]],
        [best[name]],
        linestyle="none",
        marker="*",
        markersize=13,
        color=_BLACK,
        markeredgecolor="white",
        zorder=4,
        label=f"best: epoch {best['epoch']}, {best[name]:.4g}",
    )


def _finish(
    figure: Figure,
    run: Run,
    series: _Series,
    position: NDArray[np.float64],
    notes: Sequence[str],
) -> None:
    """Set what all panels share: the axis of epochs, the title, the notes."""
    end = max([*series.epochs, *position[-1:]], default=1.0)
    for axes in figure.axes:
        axes.set_xlim(0, end * 1.03)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=2))
        if axes.xaxis.get_tick_params()["labelbottom"]:
            axes.set_xlabel("epoch" if run.history else "step", fontsize=10)
    figure.suptitle(_title(run.config), fontsize=11, fontweight="bold")
    if notes:
        text = "Note: " + "; ".join(notes) + "."
        lines = textwrap.wrap(text, int(14 * figure.get_figwidth()))
        figure.supxlabel("\n".join(lines), fontsize=8, color="#444444")


def _title(config: Mapping[str, Any]) -> str:
    optimizer = config.get("optimizer")
    if isinstance(optimizer, Mapping):
        optimizer = optimizer.get("name")
    parts = [
        config.get("recipe"),
        str(optimizer).partition(":")[0] if optimizer else None,
        *(
            f"{label} {config[key]}"
            for key, label in (("lr", "lr"), ("batch_size", "batch"), ("seed", "seed"))
            if config.get(key) is not None
        ),
    ]
    return " · ".join(str(part) for part in parts if part)


def _read_series(history: Sequence[Mapping[str, Any]]) -> _Series:
    names: dict[str, None] = {}
    for record in history:
        names.update(
            (name, None)
            for name, value in record.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        )
    columns = {
        name: np.array([_float(record.get(name)) for record in history], np.float64)
        for name in names
    }
    return _Series(columns.get("epoch", np.empty(0)), columns)


def _placed_in_epochs(run: Run) -> Run:
    """Return a run to draw: validations inside epochs stand at fractions of them."""
    whole = [record for record in run.history if not record.get("partial")]
    if len(whole) == len(run.history):
        return run
    if not whole:  # how long an epoch is, is not known
        return replace(run, history=[])
    length = whole[0]["step"] / whole[0]["epoch"]
    placed = [
        {**record, "epoch": round(record["step"] / length, 2)}
        if record.get("partial")
        else record
        for record in run.history
    ]
    return replace(run, history=placed)


def _step_positions(run: Run) -> NDArray[np.float64]:
    """Return where the steps stand on the axis of epochs; without epochs, their number.

    The end of an epoch's last step is the epoch's own position.
    """
    number = np.arange(1, len(run.steps) + 1, dtype=np.float64)
    known = [record for record in run.history if "step" in record]
    if not known:
        return number
    ends = np.array([0.0, *(record["step"] for record in known)])
    epochs = np.array([0.0, *(record["epoch"] for record in known)])
    position: NDArray[np.float64] = np.interp(number, ends, epochs)
    # Steps of an epoch that did not end: as long as the epoch before it.
    late = number > ends[-1]
    length = (ends[-1] - ends[-2]) / (epochs[-1] - epochs[-2])
    position[late] = epochs[-1] + (number[late] - ends[-1]) / length
    return position


def _quantity(name: str) -> str:
    prefix, underscore, rest = name.partition("_")
    return rest if underscore and prefix in ("train", "valid", "test") else name


def _note_gaps(what: str, name: str, values: NDArray[np.float64]) -> list[str]:
    count = int(np.count_nonzero(~np.isfinite(values)))
    if not count:
        return []
    return [f"{name} is not finite at {count} of {len(values)} {what}s (gaps)"]


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite: NDArray[np.float64] = values[np.isfinite(values)]
    return finite


def _plain(value: float, position: int | None = None) -> str:  # noqa: ARG001
    return f"{value:.3g}"


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)
