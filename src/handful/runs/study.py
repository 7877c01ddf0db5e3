"""Study: many runs that differ in a few settings, compared; read without torch.

A study lies in a folder of its own::

    studies/<name>/
      study.json      format version, recipe, axes, seeds, budget, target, environment
      rows.jsonl      a line per trial, written when it ends
      lock            held while trials run
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handful.errors import ArgumentError, RunError, unknown_choice
from handful.runs.files import read_json
from handful.runs.run import read_lines
from handful.runs.stored import check_row, check_study
from handful.runs.study_row import Row, build_from, settings_key
from handful.runs.study_table import (
    POSITIONS,
    Aligned,
    Cell,
    align_rows,
    summarize_cell,
)

STUDY_FORMAT_VERSION = 1
"""Version of a study's folder that this handful writes."""


@dataclass(kw_only=True)
class Study:
    """Many runs of one recipe that differ in a few settings and in the seed.

    `handful.compare` returns one; `Study.load` reads one back, without torch.
    """

    recipe: str
    """Name of what was trained."""

    axes: dict[str, list[Any]]
    """The varied settings and their values, as plain values."""

    seeds: list[int]
    """The seeds of each cell."""

    settings: dict[str, Any] = field(default_factory=dict)
    """The recipe's settings, to which those of a cell are applied."""

    epochs: int | None = None
    """Passes over the training data that were asked for in place of the recipe's."""

    budget: str | None = None
    """What each trial may use, such as ``5000steps``."""

    target: str | None = None
    """What is to be reached, such as ``valid_loss<=0.3``."""

    stop_at_target: bool = False
    """Whether a trial ends where it reaches the target."""

    upward: list[str] = field(default_factory=list)
    """Losses and metrics of which more is better."""

    environment: dict[str, Any] = field(default_factory=dict)
    """Versions and machine."""

    populations: list[dict[str, Any]] = field(default_factory=list)
    """Groups of trials that could train as one model: which trials, whether they did
    (``together``), why not (``reason``), and the seconds of a step both ways."""

    rows: list[Row] = field(default_factory=list)
    """The trials that ended, in the grid's order, seed by seed."""

    path: Path | None = None
    """The study's folder; None for one kept in memory."""

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The settings of each point of the grid, the last axis varying fastest."""
        names = list(self.axes)
        return [
            dict(zip(names, values, strict=True))
            for values in itertools.product(*self.axes.values())
        ]

    @property
    def num_trials(self) -> int:
        """Trials of the whole study, those still missing included."""
        return len(self.seeds) * math.prod(len(values) for values in self.axes.values())

    @property
    def names(self) -> list[str]:
        """The losses and metrics that rows have, in the order of their history."""
        return list(dict.fromkeys(name for row in self.rows for name in row.final))

    def sort_rows(self) -> None:
        """Put the rows into the grid's order, seed by seed."""
        cells = [settings_key(cell) for cell in self.cells]
        order = [(key, seed) for seed in self.seeds for key in cells]
        places = {key: place for place, key in enumerate(order)}
        self.rows.sort(key=lambda row: places.get(row.key, len(places)))

    def table(self) -> list[Cell]:
        """Return the cells of the grid with their values over the seeds.

        Only finished trials count in the values; the others are counted by themselves.
        """
        return [summarize_cell(cell, self._rows_of(cell)) for cell in self.cells]

    def best(self, name: str) -> Cell | None:
        """Return the cell whose final value is best in the mean over seeds.

        Cells all of whose seeds finished come before those where one diverged or
        failed, whose mean is one of the lucky.

        Args:
            name: A loss or a metric of the history: ``"valid_loss"``.

        Returns:
            The cell, the first of several equal ones; None before any trial finished.

        Raises:
            ArgumentError: No trial measured it.
        """
        if not self.rows:
            return None
        self._check_name(name)
        sign = -1.0 if name in self.upward else 1.0
        found = [c for c in self.table() if name in c.values]
        return min(
            (cell for cell in found if not math.isnan(cell.values[name].mean)),
            key=lambda c: (-c.num_finished, sign * c.values[name].mean),
            default=None,
        )

    def align(self, name: str, by: str = "epoch", points: int = 200) -> Aligned:
        """Put all histories of a value over one grid, to be averaged or drawn.

        Between the records of a run values are interpolated linearly; outside of them
        they are NaN. Records that aren't finite are left out.

        Args:
            name: A loss or a metric of the history: ``"valid_loss"``.
            by: ``"epoch"`` (with fractions where a record lies within one),
                ``"step"``, ``"samples"``, or ``"seconds"`` of training alone.
            points: Positions in the grid, 2 or more, at even distances from the first
                record of any run to the last.

        Raises:
            ArgumentError: ``name`` was not measured, ``by`` is unknown, or
                ``points`` is below 2.
        """
        if by not in POSITIONS:
            raise unknown_choice("by", by, POSITIONS)
        if points < 2:
            raise ArgumentError(f"points must be 2 or more; got {points}.")
        self._check_name(name)
        return align_rows(
            self.rows, name, by, cells=self.cells, seeds=self.seeds, points=points
        )

    def arguments(self) -> dict[str, Any]:
        """Return what decides the trials, as plain values."""
        names = ("recipe", "settings", "axes", "seeds", "epochs")
        limits = ("budget", "target", "stop_at_target")
        return {name: getattr(self, name) for name in (*names, *limits)}

    def describe(self) -> dict[str, Any]:
        """Return what ``study.json`` holds."""
        return {
            "format_version": STUDY_FORMAT_VERSION,
            **self.arguments(),
            "upward": self.upward,
            "environment": self.environment,
            "populations": self.populations,
        }

    @classmethod
    def load(cls, path: str | Path) -> Study:
        """Read a study from its folder.

        Args:
            path: The folder.

        Returns:
            The study, as far as it got.

        Raises:
            RunError: The folder holds no study, was written by a newer version, or one
                of its files is damaged.
        """
        folder = Path(path)
        if not (folder / "study.json").is_file():
            raise RunError(
                f"{folder} holds no study: study.json is missing. "
                "Give the folder that `handful compare` printed at its end."
            )
        meta = _read_meta(folder / "study.json")
        check_study(meta, str(folder / "study.json"))
        study = build_from(cls, meta, file=folder / "study.json")
        study.path = folder
        study.rows = read_rows(folder / "rows.jsonl")
        study.sort_rows()
        return study

    def _rows_of(self, cell: Mapping[str, Any]) -> list[Row]:
        key = settings_key(cell)
        return [row for row in self.rows if settings_key(row.settings) == key]

    def _check_name(self, name: str) -> None:
        if name not in self.names:
            raise unknown_choice("name", name, self.names)


def _read_meta(path: Path) -> dict[str, Any]:
    meta = read_json(path)
    version = meta.get("format_version") if isinstance(meta, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise RunError(f"{path} has no format_version; the file is damaged.")
    if version > STUDY_FORMAT_VERSION:
        raise RunError(
            f"{path} has format version {version}, and this handful reads up to "
            f"{STUDY_FORMAT_VERSION}. Install a newer handful."
        )
    return dict(meta)


def read_rows(path: Path) -> list[Row]:
    """Read ``rows.jsonl``; a last line cut short by a kill is left out.

    Raises:
        RunError: A line before the last is damaged, or a value is of another kind.
    """
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        check_row(line, f"{path}, row {number}")
    return [build_from(Row, line, file=path) for line in lines]
