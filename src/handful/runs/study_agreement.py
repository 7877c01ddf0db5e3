"""Agreement: how far backends that train the same differ, and how fast each is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handful.runs.study import Study
from handful.runs.study_row import Row, settings_key
from handful.runs.study_table import Summary, summarize


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A cell of a study that varies ``backend``, beside its first backend.

    Attributes:
        settings: The cell's settings.
        weights: Greatest absolute difference of a final weight from that of the first
            backend with the same other settings and the same seed, over all seeds for
            which both finished; None where there is none.
        losses: The same of ``train_loss`` and ``valid_loss`` over all epochs.
        step_seconds: Seconds of training over steps, over the finished trials; of
            trials of several epochs without the first, in which everything is done for
            the first time. None where none finished.
    """

    settings: dict[str, Any]
    weights: float | None
    losses: float | None
    step_seconds: Summary | None


def measure_agreement(study: Study) -> list[Agreement]:
    """Compare each cell of a study with that of the first backend.

    Args:
        study: A study that varies ``backend``.

    Returns:
        One for each of `Study.cells`, in their order; none where ``backend`` is not
        varied.
    """
    if "backend" not in study.axes:
        return []
    rows = {row.key: row for row in study.rows if row.status == "finished"}
    return [_measure_cell(cell, study, rows) for cell in study.cells]


def _measure_cell(
    cell: dict[str, Any], study: Study, rows: Mapping[tuple[str, int], Row]
) -> Agreement:
    first = settings_key({**cell, "backend": study.axes["backend"][0]})
    here = settings_key(cell)
    own = [rows[here, seed] for seed in study.seeds if (here, seed) in rows]
    pairs = [(row, rows[first, row.seed]) for row in own if (first, row.seed) in rows]
    weights = [
        _greatest(row.weights, other.weights)
        for row, other in pairs
        if row.weights is not None and other.weights is not None
    ]
    losses = [_greatest(_losses(row), _losses(other)) for row, other in pairs]
    times = [_step_seconds(row) for row in own if row.steps]
    return Agreement(
        settings=cell,
        weights=max(weights, default=None),
        losses=max(losses, default=None),
        step_seconds=summarize(times) if times else None,
    )


def _losses(row: Row) -> list[float]:
    names = ("train_loss", "valid_loss")
    return [record[name] for record in row.history for name in names if name in record]


def _greatest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    if len(ours) != len(theirs):
        return math.inf  # one of them ended before the other
    pairs: Iterable[tuple[float, float]] = zip(ours, theirs, strict=True)
    return max((abs(a - b) for a, b in pairs), default=0.0)


def _step_seconds(row: Row) -> float:
    """Return the seconds of a step, the first epoch left out where there are more."""
    steps = row.history[-1]["step"] - row.history[0]["step"] if row.history else 0
    if steps <= 0:
        return row.seconds / row.steps
    first, last = row.history[0], row.history[-1]
    seconds = last["trained_seconds"] - first["trained_seconds"]
    return float(seconds / steps)
