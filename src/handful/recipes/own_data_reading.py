"""Reading a table of own data: a CSV file, Parquet or Arrow files, NumPy's arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handful.data.csv_arrow import open_csv
from handful.data.csv_text import CsvFile
from handful.data.kept_copy import KeptCopy
from handful.data.row_group_files import (
    RowGroupFile,
    RowGroupReader,
    find_row_group_files,
    import_pyarrow,
    inspect_file,
)
from handful.errors import DataError, FormatError
from handful.recipes.own_data import OwnData
from handful.recipes.own_data_checks import ARRAYS, CSV, open_text
from handful.recipes.own_data_table import (
    RawTable,
    Table,
    from_arrow,
    make_table,
    pack_table,
    unpack_table,
)

MOST_BYTES = 2**30
"""Larger tables of Parquet or Arrow files are not read into memory."""

_KINDS = ("number", "boolean", "category")


def read_table(data: OwnData, kind: str, *, cache: bool = False) -> Table:
    """Read a table into memory.

    Args:
        data: Where it lies, and its target.
        kind: ``"csv"``, ``"arrays"`` or ``"rows"``.
        cache: Whether a copy of what was parsed of a CSV file is kept in the user's
            cache, and read in its place the next time; see `KeptCopy`.

    Raises:
        DataError: It can't be read, or not be learnt from.
        MissingExtraError: pyarrow is not installed.
    """
    if kind == CSV:
        return make_table(_read_csv(data, cache=cache))
    return make_table(_read_arrays(data) if kind == ARRAYS else _read_rows(data))


def is_large(data: OwnData) -> bool:
    """Say whether a table of Parquet or Arrow files is too large to be read whole.

    That is so where its cells, at four bytes each, are more than `MOST_BYTES`.
    """
    files = [inspect_file(path) for path in find_row_group_files(Path(data.path))]
    cells = sum(sum(file.counts) * len(file.schema.names) for file in files)
    return 4 * cells > MOST_BYTES


def _read_csv(data: OwnData, *, cache: bool) -> RawTable:
    file = open_text(data)
    asked = {"reader": "data", "target": data.target, "delimiter": file.delimiter}
    copy = KeptCopy.find(file.path, asked, cache)
    kept = None if copy is None else copy.load()
    if kept is not None:
        return unpack_table(data, *kept)
    table = _parse_csv(data, file)
    if copy is not None:
        copy.keep(*pack_table(table))
    return table


def _parse_csv(data: OwnData, file: CsvFile) -> RawTable:
    reader = open_csv(file)
    found = reader.find_kinds()
    kinds, left_out = _choose_kinds(data, found)
    read = {name: _read_as(data, name, kind) for name, kind in kinds.items()}
    return from_arrow(data, reader.read(read), kinds, left_out)


def _read_as(data: OwnData, name: str, kind: str) -> str:
    """Return what `ArrowCsv.read` is told of a column."""
    if name != data.target:
        return kind
    return "texts" if kind == "category" else "value"


def _choose_kinds(
    data: OwnData, found: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the columns that are read, and why the others are not."""
    kinds, left_out = {}, {}
    for name, kind in found.items():
        if name == data.target:
            kinds[name] = _target_kind(data, kind)
        elif kind in _KINDS:
            kinds[name] = kind
        else:
            left_out[name] = f"of the type {kind}"
    return kinds, left_out


def _target_kind(data: OwnData, found: str) -> str:
    """Return what a target is read as; dates are classes, and so are true and false."""
    if found not in _KINDS and not found.startswith(("date", "time")):
        raise DataError(
            f"target {data.target!r} of {data.path} must be numbers or texts; got "
            f"{found}. Name another column with --target."
        )
    return "number" if found == "number" else "category"


def _read_rows(data: OwnData) -> RawTable:
    files = [inspect_file(path) for path in find_row_group_files(Path(data.path))]
    found = {field.name: _kind_of(str(field.type)) for field in files[0].schema}
    kinds, left_out = _choose_kinds(data, found)
    table = _read_whole(files, list(kinds))
    return from_arrow(data, _cast(table, kinds), kinds, left_out)


def _read_whole(files: Sequence[RowGroupFile], names: Sequence[str]) -> Any:
    for file in files[1:]:
        missing = [name for name in names if name not in file.schema.names]
        if missing:
            raise DataError(
                f"{file.path} must have the columns of {files[0].path}; it lacks "
                f"{missing[0]!r}. Write it anew, or name one file."
            )
    reader = RowGroupReader(files)
    try:
        tables = [
            reader.read(number, group, names)
            for number, file in enumerate(files)
            for group in range(len(file.counts))
        ]
    finally:
        reader.close()
    return import_pyarrow().concat_tables(tables, promote_options="permissive")


def _kind_of(kind: str) -> str:
    """Return what a column of an Arrow type is read as; its type if as nothing."""
    if kind == "bool":
        return "boolean"
    if kind.startswith(("int", "uint", "float", "double", "halffloat", "decimal")):
        return "number"
    is_text = kind.startswith(("string", "large_string", "string_view"))
    if is_text or ("values=string" in kind and kind.startswith("dictionary")):
        return "category"
    return kind


def _cast(table: Any, kinds: Mapping[str, str]) -> Any:
    """Return columns of the types that a CSV file's have."""
    arrow = import_pyarrow()
    columns = {}
    for name, kind in kinds.items():
        column = table.column(name)
        if kind == "category":
            texts = column.cast(arrow.string()).fill_null("")
            columns[name] = texts.dictionary_encode()
        elif kind == "boolean":
            columns[name] = column
        else:
            columns[name] = column.cast(arrow.float64())
    return arrow.table(columns)


def _read_arrays(data: OwnData) -> RawTable:
    inputs, target = _load_arrays(data)
    if inputs.ndim != 2 or inputs.dtype.kind not in "biuf":
        raise DataError(
            f"X in {data.path} must be numbers of shape (rows, columns); got "
            f"{inputs.dtype} of shape {inputs.shape}. Write X.reshape(len(X), -1)."
        )
    is_list = target.ndim == 1 and len(target) == len(inputs)
    if not is_list or target.dtype.kind not in "biufU":
        raise DataError(
            f"y in {data.path} must be numbers or texts, one for each of the "
            f"{len(inputs)} rows of X; got {target.dtype} of shape {target.shape}."
        )
    with np.errstate(over="ignore"):
        numbers = inputs.astype(np.float32)
    return RawTable(
        data=data,
        numbers=numbers,
        names=[f"X[{place}]" for place in range(inputs.shape[1])],
        booleans=frozenset(),
        texts={},
        target=_encode(target) if target.dtype.kind == "U" else target.astype(float),
        target_name="y",
        left_out={},
    )


def _load_arrays(data: OwnData) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        with np.load(data.path, allow_pickle=False) as arrays:
            return arrays["X"], arrays["y"]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise FormatError(
            f"{data.path} must hold arrays of numbers or texts; reading failed: "
            f"{reason}. Write it again with numpy.savez."
        ) from None


def _encode(texts: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    known, codes = np.unique(texts, return_inverse=True)
    return codes.astype(np.int64), tuple(map(str, known))
