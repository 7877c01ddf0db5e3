"""The curves of a study, as figures take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from handful.report.bands import AXES
from handful.report.seed_bands import SeedCurves
from handful.runs.study import Study
from handful.runs.study_row import format_settings, settings_key

__all__ = ["read_four_axes", "read_study_curves"]


def read_study_curves(
    study: Study,
    name: str,
    by: str = "epoch",
    *,
    cells: Sequence[Mapping[str, Any]] | None = None,
    points: int = 200,
) -> list[SeedCurves]:
    """Return what a study measured, a setting each, over all its seeds.

    Each setting has a grid of its own, from its first record to its last: settings of
    few steps would fall between the positions of a grid for all.

    Args:
        study: The study.
        name: A loss or a metric of its history: ``"valid_loss"``.
        by: ``"epoch"``, ``"step"``, ``"samples"`` or ``"seconds"``.
        cells: Settings to return, such as ``[{"batch_size": 10}]``; None for all.
        points: Positions of a grid, 2 or more.

    Returns:
        Curves in the order of the cells, with the seeds that diverged.

    Raises:
        ArgumentError: ``name`` was not measured, ``by`` is unknown, or ``points`` is
            below 2.
    """
    chosen = study.cells if cells is None else [dict(cell) for cell in cells]
    # Checks the arguments against all rows: a cell alone may have measured nothing.
    study.align(name, by, points)
    return [_read_cell(study, cell, name, by, points) for cell in chosen]


def read_four_axes(
    study: Study,
    name: str,
    *,
    cells: Sequence[Mapping[str, Any]] | None = None,
    points: int = 200,
) -> dict[str, list[SeedCurves]]:
    """Return a study's curves over epochs, steps, samples and seconds.

    Args:
        study: The study.
        name: See `read_study_curves`.
        cells: See there.
        points: See there.

    Returns:
        What `draw_four_axes` takes.

    Raises:
        ArgumentError: As for `read_study_curves`.
    """
    return {
        by: read_study_curves(study, name, by, cells=cells, points=points)
        for by in AXES
    }


def _read_cell(
    study: Study, cell: dict[str, Any], name: str, by: str, points: int
) -> SeedCurves:
    key = settings_key(cell)
    rows = [row for row in study.rows if settings_key(row.settings) == key]
    lost = {row.seed for row in rows if row.status == "diverged"}
    text = format_settings(cell).replace("_", " ").replace("=", " ") or study.recipe
    alone = replace(
        study, axes={axis: [value] for axis, value in cell.items()}, rows=rows
    )
    if not any(name in row.final for row in rows):
        alone = replace(alone, rows=study.rows)
    aligned = alone.align(name, by, points)
    return SeedCurves(
        name=text,
        x=aligned.grid,
        values=aligned.values[0],
        diverged=[i for i, seed in enumerate(study.seeds) if seed in lost],
    )
