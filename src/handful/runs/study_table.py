"""What a study's rows say together: values over seeds, histories over one grid."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.runs.study_row import Row, settings_key

POSITIONS = ("epoch", "step", "samples", "seconds")
"""What values of a history can stand over."""

_MOST = 1e150
"""Larger values have squares that no float holds, and so no standard deviation."""

_NO_CURVE = (np.empty(0), np.empty(0))


@dataclass(frozen=True)
class Summary:
    """A value over seeds.

    Attributes:
        mean: Mean.
        std: Standard deviation of the sample (divided by the count less one); NaN for
            one value.
        min: Least value.
        max: Greatest value.
        count: Values, 1 or more.
    """

    mean: float
    std: float
    min: float
    max: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the grid, all seeds together.

    Attributes:
        settings: The varied settings.
        values: Final value of each loss and metric, over the finished trials.
        seconds: Seconds of training alone, over the finished trials; None without any.
        target_seconds: Seconds until the target was reached, over those that did.
        num_finished: Trials that finished.
        num_diverged: Trials whose loss became NaN or infinite.
        num_failed: Trials that an error ended.
        num_reached: Trials that reached the target.
    """

    settings: dict[str, Any]
    values: dict[str, Summary]
    seconds: Summary | None
    target_seconds: Summary | None
    num_finished: int
    num_diverged: int
    num_failed: int
    num_reached: int


@dataclass(frozen=True)
class Aligned:
    """Histories over one grid of positions.

    Attributes:
        name: What was measured.
        by: What the positions are; see `POSITIONS`.
        grid: Positions, shape ``(P,)``, float64, increasing.
        cells: Varied settings of each of C cells.
        values: Values, shape ``(C, S, P)``, float64, S seeds in the study's order; NaN
            outside of a run's range.
    """

    name: str
    by: str
    grid: NDArray[np.float64]
    cells: list[dict[str, Any]]
    values: NDArray[np.float64]


def summarize_cell(settings: dict[str, Any], rows: Sequence[Row]) -> Cell:
    """Return a cell of the grid from the rows of its seeds."""
    finished = [row for row in rows if row.status == "finished"]
    names = dict.fromkeys(name for row in finished for name in row.final)
    reached = [row.target["seconds"] for row in rows if row.target is not None]
    return Cell(
        settings=settings,
        values={
            name: summarize(row.final[name] for row in finished if name in row.final)
            for name in names
        },
        seconds=summarize(row.seconds for row in finished) if finished else None,
        target_seconds=summarize(reached) if reached else None,
        num_finished=len(finished),
        num_diverged=sum(row.status == "diverged" for row in rows),
        num_failed=sum(row.status == "failed" for row in rows),
        num_reached=len(reached),
    )


def summarize(values: Iterable[float]) -> Summary:
    """Return mean, standard deviation and range of one or more values."""
    found = [float(value) for value in values]
    if not all(abs(value) < _MOST for value in found):  # NaN and infinity included
        with np.errstate(all="ignore"):
            mean = float(np.mean(found))
        return Summary(mean, math.nan, min(found), max(found), count=len(found))
    std = statistics.stdev(found) if len(found) > 1 else math.nan
    return Summary(
        statistics.fmean(found), std, min(found), max(found), count=len(found)
    )


def _curve(
    row: Row, name: str, by: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions and finite values of a row's history, shapes ``(R,)``."""
    points = [
        (_position(row, record, by), record[name])
        for record in row.history
        if math.isfinite(record.get(name, math.nan))
    ]
    if not points:
        return _NO_CURVE
    xs, ys = np.array(points, np.float64).T
    return xs, ys


def _position(row: Row, record: Mapping[str, Any], by: str) -> float:
    if by == "seconds":
        return float(record["trained_seconds"])
    if by == "epoch" and record.get("partial") and row.epoch_samples:
        return float(record["samples"]) / row.epoch_samples
    return float(record[by])


def align_rows(
    rows: Sequence[Row],
    name: str,
    by: str,
    *,
    cells: list[dict[str, Any]],
    seeds: Sequence[int],
    points: int,
) -> Aligned:
    """Put histories over one grid; see `Study.align`.

    Args:
        rows: The trials.
        name: What was measured.
        by: One of `POSITIONS`.
        cells: Settings of each cell.
        seeds: The seeds of each.
        points: Positions in the grid.
    """
    curves = {row.key: _curve(row, name, by) for row in rows}
    positions = np.concatenate([_NO_CURVE[0], *(xs for xs, _ in curves.values())])
    low = float(positions.min()) if positions.size else 0.0
    high = float(positions.max()) if positions.size else 0.0
    grid = np.linspace(low, high, points)
    values = np.full((len(cells), len(seeds), points), np.nan)
    for i, cell in enumerate(cells):
        for j, seed in enumerate(seeds):
            xs, ys = curves.get((settings_key(cell), seed), _NO_CURVE)
            if len(xs):
                values[i, j] = np.interp(grid, xs, ys, left=np.nan, right=np.nan)
    return Aligned(name, by, grid, cells, values)
