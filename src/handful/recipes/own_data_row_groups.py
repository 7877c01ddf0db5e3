"""A Parquet table larger than memory: what its columns and its target are.

Of the target every row is read, of the inputs some rows of some row groups; what is
kept of them is a few numbers for each row group.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.data.csv_arrays import CLASS_LIMIT
from handful.data.parquet_files import ParquetFiles
from handful.data.row_group_files import find_row_group_files, inspect_file
from handful.errors import DataError
from handful.recipes.own_data import OwnData

FEWEST_GROUPS = 10
"""Fewer row groups can't be divided into parts."""

MEASURED_GROUPS = 32
"""From how many row groups of the training part means and deviations are told."""

MEASURED_CELLS = 2**25
"""From how many cells they are told; rows are taken evenly from those row groups."""


@dataclass(frozen=True)
class TargetSummary:
    """The target in one row group or in several.

    Attributes:
        count: Rows.
        mean: Their mean.
        variance: Their mean square deviation from it.
        low: The least value.
        high: The greatest.
        classes: Rows of each whole number; None where there are more than
            `CLASS_LIMIT` of them, or others.
    """

    count: int
    mean: float
    variance: float
    low: float
    high: float
    classes: Mapping[int, int] | None


@dataclass(frozen=True)
class RowGroupTable:
    """A table in row groups, and what was found of it.

    Attributes:
        files: All of its row groups.
        targets: The target in each.
        columns: Names of the inputs.
        left_out: Names of the columns that are not read.
    """

    files: ParquetFiles
    targets: tuple[TargetSummary, ...]
    columns: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def classes(self) -> tuple[int, ...]:
        """The whole numbers that are classes, sorted; none for values."""
        return tuple(sorted(join_summaries(self.targets).classes or ()))

    def summarize(self, groups: Iterable[int]) -> TargetSummary:
        """Return what the target is in some row groups."""
        return join_summaries([self.targets[group] for group in groups])

    def sample_inputs(self, groups: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return some rows of the inputs.

        Args:
            groups: The row groups to take them from.

        Returns:
            Shape ``(N, C)``, at most `MEASURED_CELLS` numbers.
        """
        places = np.linspace(0, len(groups) - 1, min(MEASURED_GROUPS, len(groups)))
        chosen = groups[places.astype(np.int64)]
        most = max(MEASURED_CELLS // (len(self.columns) * len(chosen)), 1)
        return np.concatenate([self._read(int(group), most) for group in chosen])

    def _read(self, group: int, most: int) -> NDArray[np.float32]:
        count = self.files.counts[group]
        rows = np.linspace(0, count - 1, min(count, most)).astype(np.int64)
        inputs = self.files.fields[0]
        found: NDArray[np.float32] = np.empty((len(rows), *inputs.shape), np.float32)
        reader = self.files.open_reader()
        try:
            for portion in self.files.read_group(reader, group):
                some = {n: np.asarray(v)[rows] for n, v in portion.items()}
                inputs.write(some, 0, found)
        finally:
            reader.close()
        return found


def open_row_groups(data: OwnData) -> RowGroupTable:
    """Find the columns of a table, and read its target.

    Args:
        data: Parquet or Arrow files, and the target.

    Raises:
        DataError: There are too few row groups, no numbers, or a target that does not
            vary or has gaps.
    """
    assert data.target is not None
    columns, left_out = _choose_columns(data, data.target)
    files = ParquetFiles(data.path, columns=[*columns, data.target], target=data.target)
    if len(files.counts) < FEWEST_GROUPS:
        raise DataError(
            f"{data.path} must have at least {FEWEST_GROUPS} row groups, as whole ones "
            f"are trained or tested on; got {len(files.counts)}. Write it with a "
            "smaller row_group_size."
        )
    targets = _read_targets(files)
    whole = join_summaries(targets)
    if np.isnan(whole.mean):
        raise DataError(
            f"target {data.target!r} of {data.path} must have a value in each row; it "
            "has NaN. Fill it in, or remove such rows."
        )
    if whole.low == whole.high:
        raise DataError(
            f"target {data.target!r} of {data.path} must vary; each row has "
            f"{whole.low:.6g}. Name another column with --target."
        )
    return RowGroupTable(files, targets, columns, left_out)


def join_summaries(parts: Sequence[TargetSummary]) -> TargetSummary:
    """Return the summary of all rows of some row groups (Chan et al. 1979)."""
    counts = np.array([part.count for part in parts], np.float64)
    means = np.array([part.mean for part in parts])
    mean = float(np.average(means, weights=counts))
    within = np.array([part.variance for part in parts])
    variance = np.average(within + (means - mean) ** 2, weights=counts)
    return TargetSummary(
        count=int(counts.sum()),
        mean=mean,
        variance=float(variance),
        low=min(part.low for part in parts),
        high=max(part.high for part in parts),
        classes=_join_classes([part.classes for part in parts]),
    )


def _join_classes(
    parts: Sequence[Mapping[int, int] | None],
) -> dict[int, int] | None:
    total: Counter[int] = Counter()
    for part in parts:
        if part is None:
            return None
        total.update(part)
    return dict(total) if len(total) <= CLASS_LIMIT else None


def _choose_columns(
    data: OwnData, target: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the columns of numbers beside the target, and the others."""
    schema = inspect_file(find_row_group_files(Path(data.path))[0]).schema
    kinds = {c.name: str(c.type) for c in schema if c.name != target}
    starts = ("int", "uint", "float", "double", "bool")
    numbers = tuple(name for name, kind in kinds.items() if kind.startswith(starts))
    if not numbers:
        raise DataError(
            f"{data.path} must have a column of numbers beside the target; got none. "
            "A table this large is read without its texts."
        )
    return numbers, tuple(name for name in kinds if name not in numbers)


def _read_targets(files: ParquetFiles) -> tuple[TargetSummary, ...]:
    """Return what the target is in each row group; no other column is read."""
    alone = copy.copy(files)
    (name,) = alone.columns = files.fields[-1].columns
    reader = alone.open_reader()
    found = []
    try:
        for group in range(len(files.counts)):
            (portion,) = alone.read_group(reader, group)
            found.append(_summarize(np.asarray(portion[name])))
    finally:
        reader.close()
    return tuple(found)


def _summarize(values: NDArray[Any]) -> TargetSummary:
    numbers = values.astype(np.float64)
    classes = None
    if values.dtype.kind in "biu":
        known, counts = np.unique(values, return_counts=True)
        if len(known) <= CLASS_LIMIT:
            pairs = zip(known.tolist(), counts.tolist(), strict=True)
            classes = {int(value): count for value, count in pairs}
    return TargetSummary(
        count=len(numbers),
        mean=float(numbers.mean()),
        variance=float(numbers.var()),
        low=float(numbers.min()),
        high=float(numbers.max()),
        classes=classes,
    )
