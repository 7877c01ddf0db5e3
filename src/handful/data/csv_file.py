"""Read CSV files into columns that are ready to train on."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.data.columns import Columns
from handful.data.csv_arrow import ArrowCsv, open_csv
from handful.data.csv_columns import (
    TableCells,
    category_column,
    drop_missing,
    means_of,
    number_columns,
    target_column,
)
from handful.data.csv_kinds import choose_kinds, find_target, kinds_of_schema
from handful.data.csv_schema import (
    LAYOUTS,
    MISSING_POLICIES,
    ColumnSchema,
    TableSchema,
)
from handful.data.csv_text import CsvFile, check_delimiter
from handful.data.kept_copy import Kept, KeptCopy
from handful.errors import ArgumentError, unknown_choice

__all__ = ["CsvTable", "read_csv"]

UNKNOWN_POLICIES = ("raise", "extra")
"""What can be done about a category that the schema does not have."""


@dataclass(frozen=True)
class CsvTable:
    """A CSV file as columns.

    Attributes:
        data: The columns, for a loader.
        schema: How they were read; with it another file is read the same way.
        num_dropped: How many rows were left out because a cell was missing.
    """

    data: Columns
    schema: TableSchema
    num_dropped: int = 0

    def __len__(self) -> int:
        return len(self.data)


def read_csv(
    path: str | os.PathLike[str],
    *,
    target: str | int | None = None,
    dtypes: Mapping[str, str] | None = None,
    missing: str | None = None,
    layout: str | None = None,
    schema: TableSchema | None = None,
    unknown: str = "raise",
    delimiter: str = ",",
    header: bool = True,
    cache: bool | str | os.PathLike[str] = False,
) -> CsvTable:
    """Read a CSV file, the inputs as numbers and codes of categories.

    The file is UTF-8, with or without a byte order mark, its lines end in LF, CRLF or
    CR, and a cell may stand in double quotes (RFC 4180). Empty lines are left out.

    What a column holds is told from the first MiB: numbers (float32), true and false
    (as 1 and 0), or texts, which become codes of their sorted categories (int64). A
    number column is one whose every cell there is a number or one of the usual words
    for none (``NA``, ``nan``, ``null`` and so on) or empty; a zip code is one unless
    ``dtypes`` says otherwise, and whole numbers beyond 2**24 are rounded. In a text
    column only an empty cell is missing.

    The target becomes classes (codes, int64) if it holds texts, or whole numbers of
    which at most 20 differ; otherwise values (float32). Say which with ``dtypes``.

    Args:
        path: The file.
        target: Name of the target's column, or its place, from -1 backwards as well;
            None for none.
        dtypes: For names of columns ``"number"``, ``"boolean"``, ``"category"`` or
            ``"ignore"``, and for the target's ``"classes"`` or ``"values"``.
        missing: What to do about missing cells: ``"raise"`` (the default) refuses the
            file, ``"drop"`` leaves out their rows, ``"mean"`` fills numbers with their
            column's mean and makes the empty text a category. A target that is missing
            is never filled.
        layout: ``"matrix"`` (the default) for the numbers as one array of shape
            ``(N, C)``, then the codes of categories, ``(N, K)``, then the target,
            ``(N,)``, each where there are such columns; ``"named"`` for each column by
            its name, shape ``(N,)``.
        schema: That of another table, to read this file the same way: the same columns
            by name, in whatever order, with its categories, classes and means. It takes
            the place of ``target``, ``dtypes``, ``missing`` and ``layout``.
        unknown: What to do about a text that is none of the schema's categories:
            ``"raise"``, or ``"extra"`` for the code behind the last. An unknown class
            of the target is always refused.
        delimiter: What stands between cells.
        header: Whether the first line names the columns; otherwise they are "0", "1"
            and so on.
        cache: Whether to keep a copy of the columns, from which they are mapped into
            memory when the same file is read in the same way again: True for the
            user's cache, a folder, or False. A file that has changed is read anew. See
            `handful.data.kept_copy`, whose ``clear_copies`` removes them.

    Returns:
        The columns and the schema.

    Raises:
        ArgumentError: An argument cannot be used, or names a column that is not there.
        DataError: The file cannot be used; the error names it, the line, counted from
            1 as editors do, and the column. Its kind `FormatError` is for files that
            are missing or no such table.
        MissingExtraError: pyarrow is not installed.
    """
    if schema is not None:
        _check_alone(schema, target, dtypes, missing, layout)
        missing, layout = schema.missing, schema.layout
    missing = _choose("missing", missing or "raise", MISSING_POLICIES)
    layout = _choose("layout", layout or "matrix", LAYOUTS)
    _choose("unknown", unknown, UNKNOWN_POLICIES)
    place = _check_target(target)
    file = CsvFile(Path(path), check_delimiter(delimiter), bool(header))
    asked = {
        "reader": "read_csv",
        "target": place,
        "dtypes": sorted((repr(k), repr(v)) for k, v in (dtypes or {}).items()),
        "missing": missing,
        "layout": layout,
        "schema": None if schema is None else schema.to_dict(),
        "unknown": unknown,
        "delimiter": file.delimiter,
        "header": file.has_header,
    }
    copy = KeptCopy.find(file.path, asked, cache)
    kept = None if copy is None else copy.load()
    if kept is not None:
        return _unpack(*kept)
    table = _read(open_csv(file), place, dtypes or {}, missing, layout, schema, unknown)
    if copy is not None:
        copy.keep(*_pack(table))
    return table


@dataclass(frozen=True)
class _Plan:
    """What is read, and what is done about what is missing or not known."""

    kinds: Mapping[str, str]
    target: str | None
    dtypes: Mapping[str, str]
    missing: str
    layout: str
    schema: TableSchema | None
    unknown: str


def _read(
    reader: ArrowCsv,
    target: str | int | None,
    dtypes: Mapping[str, str],
    missing: str,
    layout: str,
    schema: TableSchema | None,
    unknown: str,
) -> CsvTable:
    if schema is not None:
        name = None if schema.target is None else schema.target.name
        kinds = kinds_of_schema(reader, schema)
    else:
        name = find_target(reader, target)
        kinds = choose_kinds(reader, name, dtypes)
    plan = _Plan(kinds, name, dtypes, missing, layout, schema, unknown)
    return _carry_out(reader, plan)


def _carry_out(reader: ArrowCsv, plan: _Plan) -> CsvTable:
    cells = whole = TableCells(reader, reader.read(plan.kinds))
    if plan.missing == "drop":
        cells = drop_missing(whole)
    inputs = {n: kind for n, kind in plan.kinds.items() if n != plan.target}
    numbers = [name for name, kind in inputs.items() if kind != "category"]
    matrix, means = number_columns(cells, numbers, plan.missing, means_of(plan.schema))
    codes, columns = {}, []
    for name, kind in inputs.items():
        if kind == "category":
            known = _known_categories(plan.schema, name)
            found = category_column(cells, name, plan.missing, known, plan.unknown)
            codes[name], categories = found
            columns.append(ColumnSchema(name, kind, categories))
        else:
            columns.append(ColumnSchema(name, kind, mean=means.get(name)))
    target = known_target = None
    if plan.target is not None:
        target, known_target = _read_target(cells, plan, plan.target)
    schema = TableSchema(tuple(columns), known_target, plan.missing, plan.layout)
    data = _put_together(schema, matrix, codes, target)
    return CsvTable(data, schema, whole.table.num_rows - cells.table.num_rows)


def _read_target(cells: TableCells, plan: _Plan, name: str) -> tuple[Any, Any]:
    known = None if plan.schema is None else plan.schema.target
    told = plan.dtypes.get(name) if known is None else known.kind
    return target_column(cells, name, plan.kinds[name], told, known)


def _known_categories(schema: TableSchema | None, name: str) -> tuple[str, ...] | None:
    if schema is None:
        return None
    return next(c.categories for c in schema.categories if c.name == name)


def _put_together(
    schema: TableSchema,
    matrix: NDArray[np.float32],
    codes: Mapping[str, NDArray[np.int64]],
    target: NDArray[Any] | None,
) -> Columns:
    if schema.layout == "named":
        named: dict[str, NDArray[Any]] = dict(codes)
        for place, column in enumerate(schema.numbers):
            named[column.name] = np.ascontiguousarray(matrix[:, place])
        named = {column.name: named[column.name] for column in schema.columns}
        if schema.target is not None and target is not None:
            named[schema.target.name] = target
        return Columns(**named)
    arrays: list[NDArray[Any]] = []
    if schema.numbers:
        arrays.append(matrix)
    if codes:
        arrays.append(np.stack(list(codes.values()), axis=1))
    if target is not None:
        arrays.append(target)
    return Columns(*arrays)


def _pack(table: CsvTable) -> Kept:
    """Return a table as a copy of it is kept."""
    data = table.data
    names = data.names or tuple(str(place) for place in range(len(data.tensors)))
    said = {
        "names": data.names and list(names),
        "schema": table.schema.to_dict(),
        "num_dropped": table.num_dropped,
    }
    arrays = {n: tensor.numpy() for n, tensor in zip(names, data.tensors, strict=True)}
    return said, arrays


def _unpack(said: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> CsvTable:
    data = Columns(*arrays.values()) if said["names"] is None else Columns(**arrays)
    return CsvTable(data, TableSchema.from_dict(said["schema"]), said["num_dropped"])


def _choose(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise unknown_choice(name, value, choices)
    return value


def _check_target(target: object) -> str | int | None:
    if target is None or isinstance(target, str):
        return target
    try:
        return operator.index(target)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentError(
            f"target must be a column's name or its place; got {target!r}. "
            "Name the column as the header does."
        ) from None


def _check_alone(schema: object, *instead: object) -> None:
    if not isinstance(schema, TableSchema):
        raise ArgumentError(
            f"schema must be a TableSchema; got {type(schema).__name__}. "
            "TableSchema.from_dict makes one of a dict."
        )
    if any(value is not None for value in instead):
        raise ArgumentError(
            "target, dtypes, missing and layout must be None beside a schema, which "
            "says them; got another value. Use dataclasses.replace to change a schema."
        )
