"""What a study says of batch sizes, as the figure takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from handful.report.scaling import BatchScaling
from handful.runs.study import Study
from handful.runs.study_row import Row, format_settings

__all__ = ["read_scaling"]

_WITHOUT_COST = ("batch_size", "lr", "schedule", "epochs", "max_steps")
"""Settings of which neither time per sample nor memory nor the first gradients depend;
their trials are taken together."""


def read_scaling(study: Study) -> dict[str, BatchScaling]:
    """Return what a study measured at each batch size, by its other settings.

    Settings that cost nothing, such as the rate, are taken together with the seeds: all
    of their finished trials are trials of one batch size. A batch as large as the epoch
    counts as ``full``. Gradient noise is that before the first step, where all batch
    sizes have the same weights.

    Args:
        study: The study.

    Returns:
        What `draw_scaling` takes; empty where fewer than two sizes finished a trial.
    """
    if "batch_size" not in study.axes:
        return {}
    groups: dict[str, list[Row]] = {}
    for row in study.rows:
        if row.status == "finished":
            groups.setdefault(_name(row, study), []).append(row)
    read = {name: _read_rows(rows) for name, rows in groups.items()}
    return {name: one for name, one in read.items() if len(one.batch_sizes) > 1}


def _name(row: Row, study: Study) -> str:
    others = {
        name: value
        for name, value in row.settings.items()
        if name not in _WITHOUT_COST and len(study.axes[name]) > 1
    }
    return format_settings(others).replace("_", " ").replace("=", " ")


def _read_rows(rows: Sequence[Row]) -> BatchScaling:
    by_size: dict[int, list[Row]] = {}
    for row in rows:
        if row.epoch_samples and row.samples:
            by_size.setdefault(_size(row, row.epoch_samples), []).append(row)
    sizes = sorted(by_size)
    groups = [by_size[size] for size in sizes]
    return BatchScaling(
        np.array(sizes, np.int64),
        gradient_noise=_gather(groups, _noise),
        seconds_per_sample=_gather(groups, lambda row: row.seconds / row.samples),
        peak_bytes=_gather(groups, lambda row: row.peak_memory_bytes),
    )


def _size(row: Row, epoch_samples: int) -> int:
    size = row.settings["batch_size"]
    return epoch_samples if size == "full" else min(int(size), epoch_samples)


def _noise(row: Row) -> float | None:
    return (row.noise_start or {}).get("relative_std")


def _gather(
    groups: Sequence[Sequence[Row]], read: Callable[[Row], float | None]
) -> NDArray[np.float64] | None:
    """Return a value for each trial of each size, NaN for none; None without any."""
    longest = max(map(len, groups), default=0)
    values = np.full((len(groups), longest), np.nan)
    for line, group in zip(values, groups, strict=True):
        found = [read(row) for row in group]
        line[: len(group)] = [np.nan if value is None else value for value in found]
    return values if np.isfinite(values).any() else None
