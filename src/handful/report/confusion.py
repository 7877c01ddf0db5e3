"""Confusion matrices: how often each class was taken for each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from handful.errors import ArgumentError, DataError
from handful.report.arrays import read_array
from handful.report.style import (
    LABEL_SIZE,
    TICK_SIZE,
    WIDTH,
    finish_figure,
    make_figure,
    prepare_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_confusion"]

Floats = NDArray[np.float64]

_MOST_CLASSES = 100
_COUNTS_AND_SHARES, _COUNTS = 12, 30
"""Up to so many classes, cells hold a count and a share; a count alone."""

_LEAST_FONT = 6.0
_NUM_WORST = 5
_MAP = LinearSegmentedColormap.from_list("shares", ["#FFFFFF", "#56A0D3", "#06224A"])


def draw_confusion(
    matrix: ArrayLike, class_names: Sequence[str], *, title: str = ""
) -> Figure:
    """Draw a confusion matrix: a row per true class, a column per predicted class.

    The colour is the row's share, on a scale that spreads small shares apart. Up to 12
    classes a cell holds its count and the share of its row, up to 30 its count. A note
    gives the accuracy and the five most frequent confusions. Over 16 cm names would be
    too small for more than about 50 classes: the figure grows so that none is printed
    below 6 points.

    Args:
        matrix: Counts, shape ``(C, C)``, whole and not below 0, C from 2 to 100:
            ``matrix[i, j]`` samples of class i were taken for class j.
        class_names: The classes' names, C of them.
        title: What is shown; by default, that.

    Returns:
        The figure.

    Raises:
        ArgumentError: The matrix is not square or holds something else than counts,
            or the names are not as many.
        DataError: All counts are 0.
    """
    counts = _read_counts(matrix, class_names)
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.full(counts.shape, np.nan), where=rows > 0)
    figure = make_figure(1.0)
    side = max(WIDTH, 1.6 + len(counts) * 1.25 * _LEAST_FONT / 72)
    figure.set_size_inches(side, 0.92 * side)
    axes = figure.add_subplot()
    prepare_axes(axes)
    axes.set_facecolor("#EEEEEE")
    picture = axes.imshow(
        np.ma.masked_invalid(shares),
        cmap=_MAP,
        norm=PowerNorm(0.5, vmin=0, vmax=1),
        interpolation="nearest",
    )
    _add_color_bar(figure, picture, axes)
    _name_classes(axes, class_names, side)
    _write_cells(axes, counts, shares, side)
    title = title or "Confusion matrix: counts, coloured by the share of the true class"
    finish_figure(figure, title, _make_notes(counts, class_names))
    return figure


def _read_counts(matrix: ArrayLike, class_names: Sequence[str]) -> Floats:
    counts = read_array("matrix", matrix, (None, None))
    number = len(counts)
    if counts.shape != (number, number) or not 2 <= number <= _MOST_CLASSES:
        raise ArgumentError(
            f"matrix must be square, of 2 to {_MOST_CLASSES} classes; got "
            f"{counts.shape}. Merge rare classes if there are more."
        )
    if not (np.isfinite(counts) & (counts >= 0) & (counts == np.rint(counts))).all():
        raise ArgumentError(
            "matrix must hold whole counts from 0 on; got other values. "
            "Give counts, not shares: these are computed here."
        )
    if len(class_names) != number:
        raise ArgumentError(
            f"class_names must be as many as classes, {number}; got "
            f"{len(class_names)}. Give one for each row."
        )
    if not counts.any():
        raise DataError("matrix must count at least one sample; all counts are 0.")
    return counts


def _add_color_bar(figure: Figure, picture: Any, axes: Axes) -> None:
    bar = figure.colorbar(picture, ax=axes, shrink=0.7, aspect=30, pad=0.02)
    ticks = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
    bar.set_ticks(list(ticks), labels=[f"{100 * tick:g} %" for tick in ticks])
    bar.ax.tick_params(labelsize=TICK_SIZE)
    bar.set_label("share of the true class", fontsize=LABEL_SIZE)


def _name_classes(axes: Axes, class_names: Sequence[str], side: float) -> None:
    number = len(class_names)
    size = min(TICK_SIZE, max(_LEAST_FONT, 72 * 0.6 * side / number / 1.25))
    is_long = max(map(len, class_names)) * number > 60
    places = np.arange(number)
    axes.set_xticks(
        places,
        class_names,
        fontsize=size,
        rotation=90 if is_long else 0,
        parse_math=False,
    )
    axes.set_yticks(places, class_names, fontsize=size, parse_math=False)
    axes.tick_params(length=2)
    axes.set_xlabel("predicted class", fontsize=LABEL_SIZE)
    axes.set_ylabel("true class", fontsize=LABEL_SIZE)
    axes.grid(False)
    # Thin lines between the cells lead the eye along rows and columns.
    edges = places[1:] - 0.5
    axes.hlines(edges, -0.5, number - 0.5, color="#DDDDDD", linewidth=0.4)
    axes.vlines(edges, -0.5, number - 0.5, color="#DDDDDD", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(True)


def _write_cells(axes: Axes, counts: Floats, shares: Floats, side: float) -> None:
    number = len(counts)
    if number > _COUNTS:
        return
    cell = 72 * 0.62 * side / number
    longest = max(4, len(f"{counts.max():.0f}"))
    size = min(LABEL_SIZE, cell / (0.68 * longest))
    for row, column in np.argwhere(counts > 0):
        text = f"{counts[row, column]:.0f}"
        if number <= _COUNTS_AND_SHARES:
            text += f"\n{_format_share(shares[row, column])}"
        axes.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            fontsize=size,
            color="white" if shares[row, column] > 0.3 else "black",
        )


def _format_share(share: float) -> str:
    """Write a share in percent; only a whole row is 100 %."""
    percent = 100 * share
    if percent < 0.1:
        return "<0.1 %"
    if 99.5 <= percent < 100:
        return f"{np.floor(10 * percent) / 10:g} %"
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.1f} %"


def _make_notes(counts: Floats, class_names: Sequence[str]) -> list[str | None]:
    total, right = counts.sum(), np.trace(counts)
    notes: list[str | None] = [
        f"{right:.0f} of {total:.0f} right, accuracy {right / total:.4g}"
    ]
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_NUM_WORST]
    worst = [np.unravel_index(place, wrong.shape) for place in order]
    told = [
        f"{class_names[row]} → {class_names[column]} {wrong[row, column]:.0f}"
        for row, column in worst
        if wrong[row, column]
    ]
    if told:
        notes.append(f"most frequent confusions: {', '.join(told)}")
    empty = int((counts.sum(axis=1) == 0).sum())
    if empty:
        notes.append(f"grey rows: classes without a sample ({empty})")
    return notes
