"""The columns of a CSV table made into arrays: what is missing or not known, and where.

Rows are those of the table, from 0 on; errors name the line of the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.data.csv_arrays import (
    are_classes,
    are_whole,
    encode_texts,
    encode_whole,
    find_gaps,
    first_where,
    join_numbers,
    join_values,
    recode,
)
from handful.data.csv_arrow import ArrowCsv
from handful.data.csv_schema import TableSchema, TargetSchema
from handful.data.csv_text import no_rows_left, shorten
from handful.errors import DataError


@dataclass(frozen=True)
class TableCells:
    """The cells of a CSV file, and where they stand in it.

    Attributes:
        reader: What read them.
        table: The ``pyarrow.Table``.
        rows: Which row of the file each row of the table is, shape ``(N,)``; None for
            the same.
    """

    reader: ArrowCsv
    table: Any
    rows: NDArray[np.int64] | None = None

    def place(self, row: int, name: str) -> str:
        """Return where a cell stands, as the beginning of a sentence."""
        return self.reader.file.place(self._row(row), name)

    def text(self, row: int, name: str) -> str:
        """Return what a cell holds, in quotes."""
        place = self.reader.names.index(name)
        text = self.reader.file.cell(self._row(row), place)
        return shorten(text) if text else "an empty cell"

    def _row(self, row: int) -> int:
        return row if self.rows is None else int(self.rows[row])


def drop_missing(cells: TableCells) -> TableCells:
    """Return the cells of the rows in which none is missing.

    Raises:
        DataError: No row is left.
    """
    keep = np.ones(cells.table.num_rows, np.bool_)
    for column in cells.table.columns:
        gaps = find_gaps(column)
        if gaps is not None:
            keep &= ~gaps
    if keep.all():
        return cells
    if not keep.any():
        raise no_rows_left(cells.reader.file.path)
    table = cells.table.filter(cells.reader.arrow.array(keep))
    return replace(cells, table=table, rows=np.flatnonzero(keep))


def number_columns(
    cells: TableCells,
    names: Sequence[str],
    missing: str,
    known_means: Mapping[str, float] | None,
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Return number columns side by side, and their means where they fill cells.

    Args:
        cells: The table.
        names: The columns, C of them, of numbers and booleans.
        missing: What is done about missing cells.
        known_means: Means to fill them with; None for those of these columns.

    Returns:
        The numbers, shape ``(N, C)``, float32, and for ``missing="mean"`` the means.

    Raises:
        DataError: A cell is infinite as float32, or missing and not to be filled.
    """
    batches = cells.table.select(list(names)).to_batches()
    matrix, are_finite = join_numbers(batches, cells.reader.arrow.cpu_count())
    if not are_finite:
        _check_finite(cells, matrix, names, fills=missing == "mean")
    if missing != "mean":
        return matrix, {}
    means = _means(cells, matrix, names) if known_means is None else dict(known_means)
    if not are_finite:
        rows, places = np.nonzero(np.isnan(matrix))
        matrix[rows, places] = np.array([means[name] for name in names])[places]
    return matrix, means


def category_column(
    cells: TableCells,
    name: str,
    missing: str,
    known: tuple[str, ...] | None,
    unknown: str,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the codes of a text column, and its categories.

    Args:
        cells: The table.
        name: The column.
        missing: What is done about missing cells.
        known: The categories of the schema; None for those of this column.
        unknown: What is done about others.

    Returns:
        The codes, shape ``(N,)``, int64, and the categories.

    Raises:
        DataError: A cell is missing, or none of the categories.
    """
    codes, texts = encode_texts(cells.table.column(name))
    if "" in texts and missing == "raise":
        raise _missing(cells, first_where(codes == texts.index("")), name)
    if known is None:
        return codes, texts
    fresh, row = recode(codes, texts, known, extra=len(known))
    if row is not None and unknown == "raise":
        raise DataError(
            f"{cells.place(row, name)} must be one of the {len(known)} categories of "
            f"the schema; got {cells.text(row, name)}. "
            'Pass unknown="extra" to give such texts a code of their own.'
        )
    return fresh, known


def target_column(
    cells: TableCells,
    name: str,
    kind: str,
    told: str | None,
    known: TargetSchema | None,
) -> tuple[NDArray[Any], TargetSchema]:
    """Return the target's codes or values, and its schema.

    Args:
        cells: The table.
        name: The column.
        kind: ``"texts"`` or ``"value"``, as it was read.
        told: ``"classes"`` or ``"values"``; None to decide by what it holds.
        known: That of the schema; None for none.

    Returns:
        Codes, int64, or values, float32, shape ``(N,)``; and what they are.

    Raises:
        DataError: A cell is missing, infinite, no class, or none of the schema's.
    """
    column = cells.table.column(name)
    if kind == "texts":
        codes, texts = encode_texts(column)
        if "" in texts:
            row = first_where(codes == texts.index(""))
            raise _missing(cells, row, name, is_target=True)
        return _as_classes(cells, name, codes, texts, known)
    values = join_values(column)
    _check_target(cells, name, values)
    if told == "values" or (told is None and not are_classes(values)):
        return values.astype(np.float32), TargetSchema(name, "values")
    if not are_whole(values):
        row = first_where(values != np.rint(values))
        raise DataError(
            f"{cells.place(row, name)} must be a whole number or a text to be a class; "
            f"got {cells.text(row, name)}. "
            f"Read it as a value: dtypes={{{name!r}: 'values'}}."
        )
    return _as_classes(cells, name, *encode_whole(values), known)


def means_of(schema: TableSchema | None) -> dict[str, float] | None:
    """Return the means of a schema's columns; None without a schema."""
    if schema is None:
        return None
    return {c.name: c.mean for c in schema.numbers if c.mean is not None}


def _as_classes(
    cells: TableCells,
    name: str,
    codes: NDArray[np.int64],
    found: tuple[Any, ...],
    known: TargetSchema | None,
) -> tuple[NDArray[np.int64], TargetSchema]:
    if known is None:
        return codes, TargetSchema(name, "classes", found)
    fresh, row = recode(codes, found, known.classes)
    if row is not None:
        listed = ", ".join(map(repr, known.classes[:10]))
        rest = ", …" if len(known.classes) > 10 else ""
        raise DataError(
            f"{cells.place(row, name)} must be one of the {len(known.classes)} classes "
            f"of the schema ({listed}{rest}); got {cells.text(row, name)}. "
            "Leave such rows out, or read the first file with them."
        )
    return fresh, known


def _check_finite(
    cells: TableCells,
    matrix: NDArray[np.float32],
    names: Sequence[str],
    *,
    fills: bool,
) -> None:
    """Refuse infinite numbers, and missing ones unless they are to be filled."""
    is_wrong = np.isinf(matrix) if fills else ~np.isfinite(matrix)
    if not is_wrong.any():
        return
    row, place = divmod(first_where(is_wrong.ravel()), len(names))
    if np.isnan(matrix[row, place]):
        raise _missing(cells, row, names[place])
    raise _infinite(cells, row, names[place])


def _check_target(cells: TableCells, name: str, values: NDArray[np.float64]) -> None:
    with np.errstate(over="ignore"):
        is_wrong = ~np.isfinite(values.astype(np.float32))
    if is_wrong.any():
        row = first_where(is_wrong)
        if math.isnan(values[row]):
            raise _missing(cells, row, name, is_target=True)
        raise _infinite(cells, row, name)


def _means(
    cells: TableCells, matrix: NDArray[np.float32], names: Sequence[str]
) -> dict[str, float]:
    counts = (~np.isnan(matrix)).sum(axis=0)
    for name, count in zip(names, counts, strict=True):
        if count == 0:
            raise DataError(
                f"{cells.reader.file.path}, column {name!r} must have a value for "
                'missing="mean"; got none. '
                f"Leave it out: dtypes={{{name!r}: 'ignore'}}."
            )
    means = np.nansum(matrix, axis=0, dtype=np.float64) / counts
    return dict(zip(names, means.tolist(), strict=True))


def _missing(
    cells: TableCells, row: int, name: str, *, is_target: bool = False
) -> DataError:
    more = "" if is_target else ' or missing="mean"'
    return DataError(
        f"{cells.place(row, name)} must have a value; got {cells.text(row, name)}. "
        f'Fill it in, or pass missing="drop"{more}.'
    )


def _infinite(cells: TableCells, row: int, name: str) -> DataError:
    return DataError(
        f"{cells.place(row, name)} must be a number that float32 holds; got "
        f"{cells.text(row, name)}. Correct the cell, or scale the column."
    )
