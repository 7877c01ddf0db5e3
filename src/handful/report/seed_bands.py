"""What one setting measured over seeds: its centre, its spread, and who diverged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from handful.errors import ArgumentError, unknown_choice
from handful.report.arrays import read_array

__all__ = ["CENTRES", "MOST_SERIES", "SPREADS", "Band", "SeedCurves", "make_bands"]

Floats = NDArray[np.float64]

MOST_SERIES = 12
"""As many settings as one figure shows."""

CENTRES = ("mean", "median")
SPREADS = {"quartiles": "first to third quartile", "range": "least to greatest"}
"""How a band is named, and what it spans."""


@dataclass(frozen=True)
class SeedCurves:
    """What one setting measured with several seeds, on a common grid.

    Attributes:
        name: The setting, such as ``"batch size 10"``.
        x: The grid, shape ``(P,)``, increasing.
        values: The measurements, shape ``(S, P)`` for S seeds; NaN where a seed has
            none, infinity where it overflowed.
        diverged: Numbers of the seeds that diverged, from 0; None for those whose
            values end before the grid does.
    """

    name: str
    x: NDArray[np.floating]
    values: NDArray[np.floating]
    diverged: Sequence[int] | None = None


@dataclass(frozen=True)
class Band:
    """A setting's centre and spread at each position.

    Attributes:
        name: The setting.
        x: Positions, shape ``(P,)``.
        centre: Median or mean of the seeds with a finite value there, shape ``(P,)``;
            NaN where there is none.
        low: Lower end of the spread, shape ``(P,)``.
        high: Upper end, shape ``(P,)``.
        crosses: Position and value at the last finite value of each seed that diverged,
            shape ``(D, 2)``; those that never had one are left out.
        num_seeds: Number of seeds.
        num_diverged: How many of them diverged.
        num_missing: How many others have no finite value at all.
    """

    name: str
    x: Floats
    centre: Floats
    low: Floats
    high: Floats
    crosses: Floats
    num_seeds: int
    num_diverged: int
    num_missing: int

    @property
    def end(self) -> tuple[float, float] | None:
        """Position and value of the centre's last finite point."""
        places = np.flatnonzero(np.isfinite(self.centre))
        if not len(places):
            return None
        return float(self.x[places[-1]]), float(self.centre[places[-1]])


def make_bands(series: Sequence[SeedCurves], *, centre: str, spread: str) -> list[Band]:
    """Reduce each setting's seeds to a centre and a spread.

    Args:
        series: One to twelve settings.
        centre: ``"median"`` or ``"mean"``.
        spread: ``"quartiles"`` (linear interpolation between the seeds' order
            statistics, NumPy's default) or ``"range"``.

    Returns:
        A band for each, in order.

    Raises:
        ArgumentError: A choice is unknown, an array has another shape, or the series
            are none or too many.
    """
    if centre not in CENTRES:
        raise unknown_choice("centre", centre, CENTRES)
    if spread not in SPREADS:
        raise unknown_choice("spread", spread, SPREADS)
    if not 1 <= len(series) <= MOST_SERIES:
        raise ArgumentError(
            f"series must be 1 to {MOST_SERIES} settings; got {len(series)}. "
            "Draw more of them in several figures."
        )
    return [_make_band(one, centre, spread) for one in series]


def _make_band(curves: SeedCurves, centre: str, spread: str) -> Band:
    x = read_array(f"x of {curves.name!r}", curves.x, (None,))
    values = read_array(f"values of {curves.name!r}", curves.values, (None, len(x)))
    values = np.where(np.isfinite(values), values, np.nan)
    ends = (0.25, 0.75) if spread == "quartiles" else (0.0, 1.0)
    rows = np.full((3, len(x)), np.nan)
    # A column without a number has neither centre nor spread.
    known = np.isfinite(values).any(axis=0)
    middle = np.nanmedian if centre == "median" else np.nanmean
    if known.any():
        rows[0, known] = middle(values[:, known], axis=0)
        rows[1:, known] = np.nanquantile(values[:, known], ends, axis=0)
    lost = _find_diverged(curves, values)
    crosses = [_find_end(x, values[seed]) for seed in lost]
    return Band(
        name=curves.name,
        x=x,
        centre=rows[0],
        low=rows[1],
        high=rows[2],
        crosses=np.array([cross for cross in crosses if cross]).reshape(-1, 2),
        num_seeds=len(values),
        num_diverged=len(lost),
        num_missing=len(set(_find_empty(values)) - set(lost)),
    )


def _find_diverged(curves: SeedCurves, values: Floats) -> list[int]:
    if curves.diverged is None:
        return [int(seed) for seed in np.flatnonzero(np.isnan(values[:, -1]))]
    seeds = sorted(set(curves.diverged))
    if seeds and (seeds[0] < 0 or seeds[-1] >= len(values)):
        raise ArgumentError(
            f"diverged of {curves.name!r} must be numbers of seeds, from 0 to "
            f"{len(values) - 1}; got {list(curves.diverged)}. Count rows of values."
        )
    return seeds


def _find_empty(values: Floats) -> list[int]:
    return [int(seed) for seed in np.flatnonzero(np.isnan(values).all(axis=1))]


def _find_end(x: Floats, values: Floats) -> tuple[float, float] | None:
    places = np.flatnonzero(np.isfinite(values))
    return (float(x[places[-1]]), float(values[places[-1]])) if len(places) else None
