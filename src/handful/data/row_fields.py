"""Fields: what a batch of rows is made of, and which columns of a file go into each."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from handful.data.arrow import arrow_chunks, join_chunks
from handful.errors import ArgumentError, DataError, unknown_choice


@dataclass(frozen=True)
class RowField:
    """One tensor of a batch, made of one column or of several side by side.

    Attributes:
        name: Its key in a dict of fields.
        columns: Names of the columns.
        widths: Numbers that each column has in a row; the sum is the row's length.
        shape: Shape of one row: ``()``, or ``(sum of widths,)``.
        dtype: What NumPy calls the dtype of its tensor.
    """

    name: str
    columns: tuple[str, ...]
    widths: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def write(
        self, values: Mapping[str, NDArray[Any]], start: int, out: NDArray[Any]
    ) -> None:
        """Write rows of columns to their places, converted to the field's dtype.

        Args:
            values: Columns by name, shape ``(N,)`` or ``(N, width)`` each. Of the
                field's columns those that are missing are not written.
            start: The first row to write.
            out: Where to, shape ``(n, *shape)``.
        """
        target = out.reshape(len(out), sum(self.widths))
        place = 0
        for name, width in zip(self.columns, self.widths, strict=True):
            if name in values:
                rows = values[name][start : start + len(out)]
                target[:, place : place + width] = rows.reshape(len(out), width)
            place += width


def plan_fields(
    schema: Any,
    *,
    columns: Sequence[str] | None,
    target: str | None,
    dtype: torch.dtype | None,
    name: str,
) -> tuple[RowField, ...]:
    """Plan the fields of a batch.

    Args:
        schema: The files' ``pyarrow.Schema``.
        columns: Names of the columns that are read, the target aside; None for all.
        target: Name of the column that becomes the target; None for no matrix of
            inputs, but a field for each column.
        dtype: Of the inputs, and of a target of real numbers; None for the columns'
            own. Only used with a target.
        name: What the files are called, for errors.

    Returns:
        A field for each column, or one of the inputs and one of the target.

    Raises:
        ArgumentError: A name is not a column's, or is given twice.
        DataError: A column holds no numbers, or two have the same name.
    """
    chosen = _choose(list(schema.names), columns, target, name)
    kinds = {column: _look_at(schema, column, name) for column in chosen}
    if target is None:
        return tuple(_field(column, kinds[column]) for column in chosen)
    inputs = [column for column in chosen if column != target]
    wanted = None if dtype is None else _numpy_dtype(dtype)
    own = [kinds[column].dtype for column in inputs]
    widths = tuple(_width(kinds[column]) for column in inputs)
    common = functools.reduce(np.promote_types, own)
    matrix = RowField("inputs", tuple(inputs), widths, (sum(widths),), wanted or common)
    return matrix, _field(target, kinds[target], wanted)


def table_columns(table: Any, names: Sequence[str], place: str) -> dict[str, Any]:
    """Return columns of a table as NumPy arrays.

    Args:
        table: A ``pyarrow.Table`` of numbers.
        names: Names of the columns.
        place: Where the table is from, for errors.

    Raises:
        DataError: A column has nulls.
    """
    return {
        name: join_chunks(
            arrow_chunks(table.column(name), f"column {name!r} of {place}")
        ).numpy()
        for name in names
    }


def _choose(
    there: list[str], columns: Sequence[str] | None, target: str | None, name: str
) -> list[str]:
    """Return the names of the columns to read, the target last."""
    if isinstance(columns, str):
        raise ArgumentError(
            f"columns must be a list of names; got {columns!r}. "
            f"Write columns=[{columns!r}]."
        )
    chosen = list(there) if columns is None else list(columns)
    if target is not None:
        chosen = [column for column in chosen if column != target]
        if not chosen:
            raise ArgumentError(
                f"columns must be at least one beside the target {target!r}; got none."
            )
        chosen.append(target)
    for column in chosen:
        if column not in there:
            argument = "target" if column == target else "columns"
            raise unknown_choice(f"{argument} of {name}", column, there)
        if there.count(column) > 1 or chosen.count(column) > 1:
            raise DataError(
                f"columns of {name} must be named once; got {column!r} more than once."
            )
    if not chosen:
        raise DataError(f"{name} must have at least one column; it has none.")
    return chosen


def _look_at(schema: Any, column: str, name: str) -> NDArray[Any]:
    """Return an array without rows, of the dtype and shape that a column has."""
    field = schema.field(column)
    label = f"column {column!r} of {name}"
    is_list = str(field.type).startswith("fixed_size_list")
    if is_list and field.type.value_type.num_fields:
        raise DataError(
            f"{label} must not hold lists of lists; got {field.type}. Write it with "
            f"its lists joined, or leave it out with columns=[...]."
        )
    try:
        empty = schema.empty_table().column(column)
        return join_chunks(arrow_chunks(empty, label)).numpy()
    except DataError as error:
        raise DataError(f"{error} Or leave it out with columns=[...].") from None


def _width(values: NDArray[Any]) -> int:
    return values.shape[1] if values.ndim > 1 else 1


def _field(
    column: str, values: NDArray[Any], wanted: np.dtype[Any] | None = None
) -> RowField:
    """Return the field of one column, a target's of the dtype that losses take."""
    dtype = values.dtype
    if wanted is not None:
        dtype = wanted if dtype.kind == "f" else np.dtype(np.int64)
    shape = tuple(values.shape[1:])
    return RowField(column, (column,), (_width(values),), shape, dtype)


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    try:
        return torch.empty(0, dtype=dtype).numpy().dtype
    except (TypeError, AttributeError):
        raise ArgumentError(
            f"dtype must be a torch dtype that NumPy has too; got {dtype!r}. "
            "Convert the batches instead."
        ) from None
